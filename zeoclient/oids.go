package zeoclient

import (
	"context"
	"sync"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

const (
	// oidsPerCall is how many a server gives at once.
	oidsPerCall = 100
	// maxOIDs bounds NewOIDs.
	maxOIDs = 1 << 20
	// maxUselessBatches is how often in a row a server may give oids that it gave
	// before: after a restart it knows only of those that were stored.
	maxUselessBatches = 1000
)

// allocator has the oids that the server gave and that were not given on.
type allocator struct {
	slot chan struct{} // one slot: held by the one who asks the server

	mu     sync.Mutex // guards the fields below
	unused []raidstorage.OID
	last   raidstorage.OID // all later ones must be greater
}

// stored notes oids that are in use: new ones must be greater.
func (a *allocator) stored(oids []raidstorage.OID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, oid := range oids {
		a.last = max(a.last, oid)
	}
}

// take moves up to n oids to got.
func (a *allocator) take(got []raidstorage.OID, n int) []raidstorage.OID {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(got) < n && len(a.unused) > 0 {
		oid := a.unused[0]
		a.unused = a.unused[1:]
		if oid > a.last {
			a.last = oid
			got = append(got, oid)
		}
	}
	return got
}

func (a *allocator) put(oids []raidstorage.OID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.unused = append(a.unused, oids...)
}

// NewOIDs implements raidstorage.Storage. The server is asked for 100 at a time;
// those that are left are kept for the next call. n may be up to 1<<20.
func (s *Storage) NewOIDs(ctx context.Context, n int) ([]raidstorage.OID, error) {
	if n < 1 || n > maxOIDs {
		return nil, &raidstorage.InvalidError{Op: "new oids", Reason: "their number must be from 1 to 1<<20"}
	}
	leave, c, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if s.opts.ReadOnly || c.readOnly {
		return nil, &raidstorage.ReadOnlyError{Storage: s.opts.Name}
	}
	select {
	case s.fresh.slot <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-s.fresh.slot }()
	got := s.fresh.take(make([]raidstorage.OID, 0, n), n)
	for useless := 0; len(got) < n; {
		before := len(got)
		if err := s.askOIDs(ctx, c, (n-len(got)+oidsPerCall-1)/oidsPerCall); err != nil {
			return nil, err // those that were taken are lost, which does no harm
		}
		if got = s.fresh.take(got, n); len(got) > before {
			useless = 0
		} else if useless++; useless == maxUselessBatches {
			return nil, &ProtocolError{Server: c.server, Reason: "new oids are ever the same"}
		}
	}
	return got, nil
}

// askOIDs asks for a number of batches, in one write.
func (s *Storage) askOIDs(ctx context.Context, c *conn, batches int) error {
	calls := make([]*call, batches)
	replies := make([][]raidstorage.OID, batches)
	for i := range calls {
		calls[i] = c.newCall(zeowire.NewOIDs, func(v zeowire.Value) (err error) {
			replies[i], err = takeOIDs(v)
			return err
		})
	}
	err := c.send(ctx, func(w *zeowire.Writer) error {
		for _, k := range calls {
			if err := w.Message(zeowire.Call(zeowire.IntID(k.id), k.name, zeowire.Int(oidsPerCall))); err != nil {
				return err
			}
		}
		return nil
	}, calls...)
	if err != nil {
		return err
	}
	for i, k := range calls {
		if err := c.wait(ctx, k); err != nil {
			for _, left := range calls[i:] {
				c.forget(left)
			}
			return c.mapped(k.name, err)
		}
		s.fresh.put(replies[i])
	}
	return nil
}

func takeOIDs(v zeowire.Value) ([]raidstorage.OID, error) {
	items, ok := v.Items()
	if !ok || len(items) == 0 {
		return nil, violation("no list of oids")
	}
	oids := make([]raidstorage.OID, len(items))
	for i, item := range items {
		if oids[i], ok = item.OID(); !ok {
			return nil, violation("no oid")
		}
	}
	return oids, nil
}
