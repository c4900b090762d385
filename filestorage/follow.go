package filestorage

import (
	"context"
	"errors"
	"os"
	"reflect"
	"sync"

	"github.com/zeoraid/raidstorage"
)

// Follow makes a read-only storage show what another process, ours or Python's, has
// committed since Open or the last Follow, and calls the subscribers for it. It takes
// time for the new transactions only. If the file was replaced, by a pack, or cut, the
// storage is read anew, as Open does; readers and iterators that are at the old file
// finish there. A transaction that is not complete, or has not finished, is left for
// the next call.
//
// *raidstorage.InvalidError if the storage is not read-only. A *raidstorage.CorruptError
// leaves the storage as it was.
func (s *Storage) Follow(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !s.readOnly {
		return &raidstorage.InvalidError{Op: "follow", Reason: "the storage is not read-only: nobody else can commit to it"}
	}
	if err := s.enter(); err != nil {
		return err
	}
	defer s.calls.Done()
	select {
	case s.following <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closing:
		return raidstorage.ErrClosed
	}
	defer func() { <-s.following }()
	before := s.last // only Follow changes it
	err := s.catchUp(ctx)
	// The writer goes on meanwhile: what looks damaged may be a transaction of which
	// one part was read before, and another after it was finished.
	for n := 0; n < followAttempts && isCorrupt(err); n++ {
		err = s.catchUp(ctx)
	}
	if err != nil {
		return err
	}
	return s.tell(ctx, before)
}

const followAttempts = 3

func isCorrupt(err error) bool {
	_, ok := errors.AsType[*raidstorage.CorruptError](err)
	return ok
}

// catchUp reads what was appended. The caller holds following.
func (s *Storage) catchUp(ctx context.Context) error {
	f, ok := s.f.file.(osFile)
	if !ok {
		return nil
	}
	here, err := f.Stat()
	if err != nil {
		return s.ioError("follow", err)
	}
	there, err := os.Stat(s.path)
	if err != nil {
		return s.ioError("follow", err)
	}
	size := here.Size()
	if !os.SameFile(here, there) {
		return s.reload(ctx, false)
	}
	same, err := s.endsAsBefore(size)
	switch {
	case err != nil:
		return err
	case !same:
		return s.reload(ctx, true)
	case size <= s.end:
		return nil
	}
	sc := &scanner{s: s, index: newIndex(), last: s.last, w: window{r: f, end: size}}
	end, _, err := sc.scan(ctx, s.end)
	if err != nil {
		return err
	}
	s.f.extend(end)
	sc.index.sort()
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := range sc.index.from(0) {
		s.index.set(e.oid, e.pos)
	}
	s.end, s.last, s.oids = end, sc.last, s.index.highest
	return nil
}

// endsAsBefore tells whether the last transaction that was read is where it was.
func (s *Storage) endsAsBefore(size int64) (bool, error) {
	if s.end == magicLen || size < s.end {
		return s.end == magicLen, nil
	}
	w := &window{r: s.f.file, end: s.end, back: true}
	h, bad, err := w.before(s.end)
	if err != nil {
		return false, s.ioError("follow", err)
	}
	return bad == nil && h.tid == s.last, nil
}

// reload opens the file at the path anew. cut tells that it is the same file: readers
// may have read what is not there any more.
func (s *Storage) reload(ctx context.Context, cut bool) error {
	next := newStorage(s.path, Options{ReadOnly: true, Clock: s.clock, Logger: s.log})
	if err := next.openFile(ctx, Options{ReadOnly: true}, func(f file) file { return f }); err != nil {
		if next.f != nil {
			err = errors.Join(err, next.f.close())
		}
		return err
	}
	s.log.Info("the file was replaced or cut, and is read anew", "backend", s.path, "tid", next.last)
	s.replace(next.f, func() {
		s.index, s.end, s.last, s.oids = next.index, next.end, next.last, next.index.highest
		if cut {
			s.cuts.Add(1)
		}
	})
	return nil
}

// tell calls the subscribers for the transactions after tid. The caller holds
// following, so that they come in order.
func (s *Storage) tell(ctx context.Context, after raidstorage.TID) error {
	if s.last <= after || s.subscribers.none() {
		return nil
	}
	r, err := s.newLogReader(ctx)
	if err != nil {
		return err
	}
	defer r.close()
	pos, err := r.find(after + 1)
	for err == nil && pos < r.end {
		var h txnHeader
		if h, err = r.header(pos); err != nil {
			break
		}
		var records []recordHeader
		if records, err = r.lastRecords(pos); err != nil {
			break
		}
		if pos = h.next(); h.status == statusUndone {
			continue
		}
		inv := raidstorage.Invalidation{TID: h.tid, OIDs: make([]raidstorage.OID, len(records))}
		for i := range records {
			inv.OIDs[i] = records[i].oid
		}
		s.subscribers.call(inv)
	}
	return err
}

// Subscribe implements raidstorage.Notifier for a read-only storage: Follow calls
// notify. Others change no storage that is open for writing.
func (s *Storage) Subscribe(notify func(raidstorage.Invalidation)) (cancel func()) {
	return s.subscribers.add(notify)
}

// Supports implements raidstorage.Wrapper: only a read-only storage is a Notifier, and
// only one with a BlobDir a BlobLoader.
func (s *Storage) Supports(capability reflect.Type) bool {
	switch capability {
	case reflect.TypeFor[raidstorage.Notifier]():
		return s.readOnly
	case reflect.TypeFor[raidstorage.BlobLoader]():
		return s.blobs != nil
	}
	return true
}

// subscribers are those whom Follow tells.
type subscribers struct {
	mu   sync.Mutex // held during the calls, so that cancel can wait for them
	next int
	all  map[int]func(raidstorage.Invalidation)
}

func (b *subscribers) add(notify func(raidstorage.Invalidation)) (cancel func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.all == nil {
		b.all = make(map[int]func(raidstorage.Invalidation))
	}
	id := b.next
	b.next++
	b.all[id] = notify
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.all, id)
	}
}

func (b *subscribers) none() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.all) == 0
}

func (b *subscribers) call(inv raidstorage.Invalidation) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, notify := range b.all {
		notify(inv)
	}
}
