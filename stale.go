package raidstorage

import (
	"context"
	"fmt"
	"io"
	"iter"
	"reflect"
)

// Stale returns a read-only Storage over one asynchronous backend, for who can do with an
// old state: reports, or a site whose line to the others is cut. It shows what that
// backend holds, which is the mirror as it was at one of its transactions; LastTID tells
// which, and never goes down, but when an operator has it rolled back. Calls return
// *UnavailableError while the backend is not open or is asynchronous no more; a failure
// is the caller's only. Closing it does nothing. *InvalidError for an unknown name.
func (m *Mirror) Stale(name string) (Storage, error) {
	b := m.backendNamed(name)
	if b == nil {
		return nil, &InvalidError{Op: "stale reads", Reason: fmt.Sprintf("there is no backend %q", name)}
	}
	return &staleStorage{m: m, b: b}, nil
}

// staleStorage is immutable.
type staleStorage struct {
	m *Mirror
	b *backend
}

var (
	_ Storage    = (*staleStorage)(nil)
	_ BlobLoader = (*staleStorage)(nil)
	_ Wrapper    = (*staleStorage)(nil)
)

// at returns what to read from, and up to where.
func (s *staleStorage) at(ctx context.Context) (*session, TID, error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	switch b := s.b; {
	case s.m.closed:
		return nil, 0, ErrClosed
	case b.role.Actual != RoleAsync:
		return nil, 0, &UnavailableError{Err: fmt.Errorf("backend %s is %v, not async", b.cfg.Name, b.role.Actual)}
	case b.session == nil || b.session.dead.Load() || b.state != StateFollowing:
		return nil, 0, &UnavailableError{Err: fmt.Errorf("backend %s is %v: %s", b.cfg.Name, b.state, b.reason)}
	}
	return s.b.session, s.b.lastTID, nil
}

// failed names the backend in a failure.
func (s *staleStorage) failed(op string, err error) error {
	if err == nil || Classify(err) != ClassFailure {
		return err
	}
	s.b.loadErrors.Add(1)
	return &BackendError{Backend: s.b.cfg.Name, Op: op, Err: err}
}

// Name implements Storage.
func (s *staleStorage) Name() string { return s.m.cfg.Name + ", as of " + s.b.cfg.Name }

// LastTID implements Storage.
func (s *staleStorage) LastTID(ctx context.Context) (TID, error) {
	_, last, err := s.at(ctx)
	return last, err
}

// LoadBefore implements Storage.
func (s *staleStorage) LoadBefore(ctx context.Context, oid OID, before TID) (Revision, error) {
	from, last, err := s.at(ctx)
	if err != nil {
		return Revision{}, err
	}
	s.b.loads.Add(1)
	rev, err := from.timely.LoadBefore(ctx, oid, min(before, last+1))
	if rev.Next > last {
		rev.Next = 0 // it came meanwhile
	}
	return rev, s.failed("stale load", err)
}

// Iterate implements Storage.
func (s *staleStorage) Iterate(ctx context.Context, from, through TID) iter.Seq2[*Transaction, error] {
	return func(yield func(*Transaction, error) bool) {
		source, last, err := s.at(ctx)
		if err != nil {
			yield(nil, err)
			return
		}
		for txn, err := range source.timely.Iterate(ctx, from, min(through, last)) {
			if !yield(txn, s.failed("stale iterate", err)) {
				return
			}
		}
	}
}

// OpenBlob implements BlobLoader.
func (s *staleStorage) OpenBlob(ctx context.Context, oid OID, serial TID) (io.ReadCloser, error) {
	from, last, err := s.at(ctx)
	if err != nil {
		return nil, err
	}
	blobs, err := Can[BlobLoader](from.storage)
	if err != nil {
		return nil, err
	}
	if serial > last {
		return nil, &NotFoundError{OID: oid, Serial: serial}
	}
	s.b.loads.Add(1)
	blob, err := blobs.OpenBlob(ctx, oid, serial)
	return blob, s.failed("stale open blob", err)
}

// NewOIDs implements Storage.
func (s *staleStorage) NewOIDs(context.Context, int) ([]OID, error) { return nil, s.readOnly() }

// Begin implements Storage.
func (s *staleStorage) Begin(context.Context, Meta) (Txn, error) { return nil, s.readOnly() }

func (s *staleStorage) readOnly() error {
	return &ReadOnlyError{Storage: s.Name(), Reason: "it is an old state"}
}

// Supports implements Wrapper.
func (s *staleStorage) Supports(capability reflect.Type) bool {
	if capability == reflect.TypeFor[BlobLoader]() {
		from, _, err := s.at(context.Background())
		return err == nil && Supports(from.storage, capability)
	}
	return reflect.TypeOf(s).Implements(capability)
}

// Close implements Storage.
func (s *staleStorage) Close() error { return nil }
