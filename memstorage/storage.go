// Package memstorage keeps an object database in memory: for tests, examples and
// scratch mirrors. It has every optional interface of a raidstorage.Storage.
//
// The data is shared by all handles on it: New opens a new database, Another opens
// a second handle on the same one, also after the first was closed. So a test
// "restarts" a storage, or loses it and gets it back, and sees what several clients
// of one server would see.
package memstorage

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zeoraid/raidstorage"
)

// Storage is a handle on an in-memory database. The zero value is a usable, empty
// one. It must not be copied, and its fields must not be changed after the first
// call of a method.
//
// It makes use of the contract's permission to keep data slices for ever: what
// Store, StoreBlob and Restore were given is what LoadBefore and Iterate return.
type Storage struct {
	// Clock is asked for the time of each transaction; nil means time.Now.
	Clock func() time.Time
	// References returns the oids that a record refers to, for Pack with GC; nil
	// means the references of ZODB's pickles.
	References func(record []byte) ([]raidstorage.OID, error)

	name   string
	opened atomic.Pointer[handle]
}

// handle is the opened state of a Storage.
type handle struct {
	db     *database
	clock  func() time.Time
	closed atomic.Bool   // set under db.mu, so that a call under the lock sees it settled
	done   chan struct{} // closed by Close, to end waits for the commit lock
}

// database is the data that handles share. Lock order: packing, commit, mu, subsMu.
type database struct {
	// packing is held by whoever rewrites the log, to make one wait for the other
	// without holding up commits. One slot; sending takes it.
	packing chan struct{}
	// commit is the commit lock, held from Vote to Finish or Abort. Channel senders
	// queue in order, so the lock is fair. Its holder may read everything below
	// without mu, as only the holder writes.
	commit chan struct{}

	mu      sync.RWMutex // guards the fields below
	objects map[raidstorage.OID]*object
	log     []*transaction // ascending tids; a published prefix never changes, rewriting replaces it
	last    raidstorage.TID
	lastOID raidstorage.OID // the highest one stored or given out
	live    int64           // objects that are not deleted
	bytes   int64
	voted   *txn // the holder of commit, while it is voted
	// rewrites counts how often log was replaced, instead of grown.
	rewrites int

	subsMu sync.Mutex // held while subscribers are called
	subs   []*subscription
}

// object has the revisions of one oid, never none, in ascending order. A record is
// never changed once it is here.
type object struct {
	revs  []*record
	first [1]*record // saves the allocation of revs for objects that never change
}

// record is one object's part of a transaction. While it is staged, tid is the
// serial that the caller gave.
type record struct {
	oid  raidstorage.OID
	tid  raidstorage.TID
	data []byte // nil: a deletion or an undone creation
	// dataTID is the transaction that this one repeats: where data was first
	// written or, without data, the direct predecessor of an undo, 0 if none.
	dataTID raidstorage.TID
	blob    *[]byte // nil: none
	kind    kind    // meaningful until the transaction is finished
}

// transaction is an entry of the log.
type transaction struct {
	raidstorage.Meta
	records []record
	bytes   int64 // what size returned when it was put into the log
}

// New returns an empty database. The name is what Name returns.
func New(name string) *Storage { return &Storage{name: name} }

// Another returns a new open handle on the same data, with the same Clock and
// References. s may be closed. A transaction that one handle finishes is seen at
// once by the others, whose subscribers are notified.
func (s *Storage) Another(name string) *Storage {
	other := &Storage{Clock: s.Clock, References: s.References, name: name}
	other.opened.Store(newHandle(s.handle().db, s.Clock))
	return other
}

// handle returns the opened state, made at the first call.
func (s *Storage) handle() *handle {
	if h := s.opened.Load(); h != nil {
		return h
	}
	db := &database{
		packing: make(chan struct{}, 1),
		commit:  make(chan struct{}, 1),
		objects: make(map[raidstorage.OID]*object),
	}
	s.opened.CompareAndSwap(nil, newHandle(db, s.Clock))
	return s.opened.Load()
}

func newHandle(db *database, clock func() time.Time) *handle {
	if clock == nil {
		clock = time.Now
	}
	return &handle{db: db, clock: clock, done: make(chan struct{})}
}

// rlock takes mu for reading, unless the handle is closed or ctx has ended.
func (h *handle) rlock(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	h.db.mu.RLock()
	if h.closed.Load() {
		h.db.mu.RUnlock()
		return raidstorage.ErrClosed
	}
	return nil
}

// take takes a one-slot lock, waiting for its turn.
func (h *handle) take(ctx context.Context, slot chan struct{}) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if h.closed.Load() {
		return raidstorage.ErrClosed
	}
	select {
	case slot <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-h.done:
		return raidstorage.ErrClosed
	}
}

// Name returns the name that New or Another was given, "memory" for a zero Storage.
func (s *Storage) Name() string {
	if s.name == "" {
		return "memory"
	}
	return s.name
}

// LoadBefore implements raidstorage.Storage. It does not allocate.
func (s *Storage) LoadBefore(ctx context.Context, oid raidstorage.OID, before raidstorage.TID) (raidstorage.Revision, error) {
	h := s.handle()
	if err := h.rlock(ctx); err != nil {
		return raidstorage.Revision{}, err
	}
	obj := h.db.objects[oid]
	rec, next := obj.before(before)
	h.db.mu.RUnlock()
	if rec == nil || rec.data == nil {
		return raidstorage.Revision{}, &raidstorage.NotFoundError{OID: oid, Later: obj != nil && rec == nil}
	}
	return raidstorage.Revision{Data: rec.data, Serial: rec.tid, Next: next}, nil
}

// before returns the latest revision earlier than before and the tid of its
// successor, 0 if it is current.
func (o *object) before(before raidstorage.TID) (rec *record, next raidstorage.TID) {
	if o == nil {
		return nil, 0
	}
	n := len(o.revs)
	if rec = o.revs[n-1]; rec.tid < before { // what nearly every caller wants
		return rec, 0
	}
	if n = o.search(before); n == 0 {
		return nil, 0
	}
	return o.revs[n-1], o.revs[n].tid
}

// search returns how many revisions are earlier than before.
func (o *object) search(before raidstorage.TID) int {
	lo, hi := 0, len(o.revs)
	for lo < hi {
		if mid := (lo + hi) / 2; o.revs[mid].tid < before {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// LastTID implements raidstorage.Storage.
func (s *Storage) LastTID(ctx context.Context) (raidstorage.TID, error) {
	h := s.handle()
	if err := h.rlock(ctx); err != nil {
		return 0, err
	}
	defer h.db.mu.RUnlock()
	return h.db.last, nil
}

// NewOIDs implements raidstorage.Storage. The oids are new for all handles.
// *raidstorage.InvalidError if n < 1 or the oids are used up.
func (s *Storage) NewOIDs(ctx context.Context, n int) ([]raidstorage.OID, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	h := s.handle()
	first, err := h.reserve(n)
	if err != nil {
		return nil, err
	}
	oids := make([]raidstorage.OID, n)
	for i := range oids {
		oids[i] = first + raidstorage.OID(i)
	}
	return oids, nil
}

// reserve takes n oids and returns the first.
func (h *handle) reserve(n int) (raidstorage.OID, error) {
	h.db.mu.Lock()
	defer h.db.mu.Unlock()
	if h.closed.Load() {
		return 0, raidstorage.ErrClosed
	}
	if n < 1 || uint64(n) > math.MaxUint64-uint64(h.db.lastOID) {
		return 0, &raidstorage.InvalidError{Op: "new oids", Reason: fmt.Sprintf("%d oids after %v", n, h.db.lastOID)}
	}
	first := h.db.lastOID + 1
	h.db.lastOID += raidstorage.OID(n)
	return first, nil
}

// Close implements raidstorage.Storage. The data stays for other handles. It must
// not be called by a subscriber.
func (s *Storage) Close() error {
	h := s.handle()
	db := h.db
	db.mu.Lock()
	if h.closed.Swap(true) {
		db.mu.Unlock()
		return nil
	}
	close(h.done)
	if db.voted != nil && db.voted.h == h {
		db.voted = nil // its Finish sees that and refuses
		<-db.commit
	}
	db.mu.Unlock()
	db.unsubscribe(func(sub *subscription) bool { return sub.h == h })
	return nil
}
