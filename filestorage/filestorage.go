// Package filestorage keeps a database in one file, in the format of ZODB's
// FileStorage: Python and Go can open the same Data.fs, one after the other.
//
// Beside Data.fs are Data.fs.lock, the lock that Python takes too, and
// Data.fs.index, which spares reading the whole file at open and is rebuilt if it
// is lost. What an open or a TruncateAfter cuts off is kept as Data.fs.torn0,
// Data.fs.tr0 and so on.
//
// # How a commit survives a crash
//
// The format has no checksums, so only the order of writes makes a commit atomic:
//
//  1. Vote writes the transaction behind the last one with status 'c'.
//  2. Finish waits for a sync, overwrites the status, one byte, and waits for another
//     sync. Then, and only then, the transaction becomes visible and Finish returns.
//     Transactions that are finished at the same time share these syncs.
//
// A crash before the status is on the disk leaves an incomplete transaction or one
// with status 'c': the next open cuts it off. Python's FileStorage syncs once, after
// both writes, and so trusts that the disk does not write the status before the
// data.
//
// When the disk is full, the transaction that does not fit fails, and others may
// follow. When a sync fails, or a write for another reason, the storage becomes
// read-only until it is opened again: what the system holds in memory and what is on
// the disk may differ then.
package filestorage

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zeoraid/raidstorage"
)

// What a Storage is, besides a raidstorage.Storage.
var (
	_ raidstorage.Storage        = (*Storage)(nil)
	_ raidstorage.Undoer         = (*Storage)(nil)
	_ raidstorage.Historian      = (*Storage)(nil)
	_ raidstorage.RecordIterator = (*Storage)(nil)
	_ raidstorage.Truncater      = (*Storage)(nil)
	_ raidstorage.Sizer          = (*Storage)(nil)
	_ raidstorage.Packer         = (*Storage)(nil)
	_ raidstorage.Flusher        = (*Storage)(nil)
	_ raidstorage.Notifier       = (*Storage)(nil) // if it is read-only
)

// Durability says what Finish waits for.
type Durability int

const (
	// Sync makes Finish return when the transaction is on the disk.
	Sync Durability = iota
	// NoSync makes Finish return when the system has the transaction: it survives
	// the end of the process, but a crash of the machine may lose the last ones, or
	// leave a file that must be repaired by hand. For tests and conversions.
	NoSync
)

// Options of Open. The zero value is a writable, durable storage that is created
// when it is missing.
type Options struct {
	// ReadOnly opens the file as it is now, takes no lock and changes nothing.
	// Transactions that another process commits later are seen after Follow.
	ReadOnly bool
	// MustExist makes Open fail with fs.ErrNotExist when the file is missing,
	// instead of creating it. A ReadOnly storage must always exist.
	MustExist bool
	// Durability is Sync by default.
	Durability Durability
	// SyncEarly begins to sync a transaction when it has voted, so that its Finish
	// waits for one sync instead of two, if it comes a round trip later: it is for
	// storages behind a server. A transaction that aborts has then been synced in vain.
	SyncEarly bool
	// BlobDir is the directory of the blobs, Python's blob_dir. It is made when it is
	// missing, unless ReadOnly. Empty means that the storage has no blobs. No two
	// storages may share one. What a pack removes of it is kept in BlobDir.old.
	BlobDir string
	// PackDropOld makes Pack remove the file as it was before; by default it is kept
	// as Data.fs.old, over the one of the pack before, as Python does.
	PackDropOld bool
	// SaveIndexAfter is after how many bytes of transactions the index file is saved
	// while the storage is used, so that Open after a crash needs to read no more than
	// about that many. 0 means 64 MiB, or 10,000 transactions, but not before as much
	// was committed as the index file itself takes, 8 bytes for an object. Less than 0
	// means that it is saved by Close only.
	SaveIndexAfter int64
	// Clock is the time that new tids come from; nil means time.Now.
	Clock func() time.Time
	// Logger gets a warning for each repair; nil means none.
	Logger *slog.Logger
}

// Storage is an open Data.fs.
//
// Locks are taken in the order commit, syncing, naming, mu.
type Storage struct {
	path     string
	readOnly bool
	sync     bool
	early    bool // Options.SyncEarly
	clock    func() time.Time
	log      *slog.Logger
	f        *source  // replaced only with commit and mu held
	lock     *os.File // nil if read-only
	blobs    *blobDir // nil if the storage has none
	repaired *Repair

	// commit is held from a transaction's vote to its end: one slot.
	commit  chan struct{}
	writer  *vector       // of the transaction that holds commit, reused
	placed  *blobSurvey   // what removeOrphan goes by; of who holds commit, too
	packing chan struct{} // held by Pack: one slot
	staged  *stagedPack   // guarded by packing, and by Close when no call is under way any more
	dir     dirOps        // what Pack does with names
	dropOld bool
	closing chan struct{} // closed by Close, for those who wait for commit
	syncing chan struct{} // held by the one who works the queue off: one slot
	held    bool          // whether the last round held statuses back; guarded by syncing

	settleAfter int // the constant, but for tests

	// What the index is saved with, see indexsave.go.
	saveAfter int64
	saver     sync.WaitGroup
	saveDue   chan struct{} // tells the saver that there is something to do: one slot
	naming    chan struct{} // held while the index file becomes another one: one slot

	following   chan struct{} // held by Follow: one slot
	subscribers subscribers

	scratches sync.Pool // of *scratch
	nextShard atomic.Uint32
	calls     sync.WaitGroup // calls under way that no source counts; Add only with mu held and closed false, or within a call
	// cuts counts the truncations. A reader that sees it change may have read bytes
	// that are not part of the file any more, and reads again.
	cuts atomic.Uint64
	// mended counts the blobs that were put in place for earlier transactions.
	mended atomic.Uint64

	mu       sync.RWMutex // guards the fields below; never held across I/O
	index    *index       // of the finished transactions
	end      int64        // of the last finished transaction; more bytes are of the queue and a voted one
	last     raidstorage.TID
	oids     raidstorage.OID      // the highest oid given out or stored
	saved    int64                // where the index file ends, 0 if there is none
	saves    bool                 // whether the index is saved by more than Close
	saving   bool                 // whether the saver was started
	tried    int64                // up to where it was to be saved the last time
	unsaved  int                  // how many transactions were shown since then
	voted    *txn                 // the transaction that holds commit
	replaced map[*source]struct{} // files that iterators still read
	// What Finish has taken but the disk may not have, see group.go.
	queue     []*pending
	settling  bool                      // whether somebody works it off in the background
	synced    int                       // how many at its beginning are synced, but for their status
	queuedAt  map[raidstorage.OID]int64 // records that are in it and not shown
	unsettled []unsettled               // those of it that are shown
	tail      int64                     // where it ends: end if it is empty
	tailTID   raidstorage.TID           // of its last transaction: last if it is empty

	spills   map[*spill]struct{}
	broken   string // why nothing can be written any more
	closed   bool
	closeErr error
	done     chan struct{} // closed when Close is through
}

// Name returns the path that Open was given.
func (s *Storage) Name() string { return s.path }

// Repaired tells what Open cut off the end of the file, nil if nothing.
func (s *Storage) Repaired() *Repair { return s.repaired }

// LastTID implements raidstorage.Storage. While a voted transaction holds the commit
// lock it waits for those before it, so that it returns that one's Vote.Last; see rule
// G5 of group.go.
func (s *Storage) LastTID(ctx context.Context) (raidstorage.TID, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	last, before, err := s.lastTID()
	if err != nil || before == nil {
		return last, err
	}
	select {
	case <-before.done:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	last, _, err = s.lastTID()
	return last, err
}

// lastTID returns the last tid and the transaction that LastTID waits for.
func (s *Storage) lastTID() (last raidstorage.TID, before *pending, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return 0, nil, raidstorage.ErrClosed
	}
	if s.voted != nil && s.last != s.tailTID {
		before = s.queue[len(s.queue)-1]
	}
	return s.last, before, nil
}

// NewOIDs implements raidstorage.Storage.
func (s *Storage) NewOIDs(ctx context.Context, n int) ([]raidstorage.OID, error) {
	const maxOIDs = 1 << 20 // bounds the answer
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if n < 1 || n > maxOIDs {
		return nil, &raidstorage.InvalidError{Op: "new oids", Reason: "the number is not between 1 and 1048576"}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.writableLocked(); err != nil {
		return nil, err
	}
	if s.oids+raidstorage.OID(n) < s.oids {
		return nil, &raidstorage.InvalidError{Op: "new oids", Reason: "there are no more"}
	}
	oids := make([]raidstorage.OID, n)
	for i := range oids {
		s.oids++
		oids[i] = s.oids
	}
	return oids, nil
}

// Size implements raidstorage.Sizer. Objects are counted as ZODB's __len__ does:
// deleted ones stay until a pack.
func (s *Storage) Size(ctx context.Context) (objects, bytes int64, err error) {
	if err := ctx.Err(); err != nil {
		return 0, 0, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return 0, 0, raidstorage.ErrClosed
	}
	return int64(s.index.count), s.end, nil
}

// Close implements raidstorage.Storage. It saves the index.
func (s *Storage) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		<-s.done
		return s.closeErr
	}
	s.closed = true
	s.mu.Unlock()
	close(s.closing)
	s.calls.Wait()
	if s.staged != nil {
		s.staged.release()
	}
	s.saver.Wait() // nobody starts one any more
	s.f.wait()
	for src := range s.replaced {
		src.wait()
	}
	// From here on nobody else uses the storage: all calls are refused.
	defer close(s.done)
	s.closeErr = s.release()
	return s.closeErr
}

// release gives everything back, whatever fails on the way.
func (s *Storage) release() error {
	var errs []error
	for sp := range s.spills {
		errs = append(errs, sp.close())
	}
	sound := !s.readOnly && s.broken == ""
	if sound && s.voted != nil {
		errs = append(errs, s.f.Truncate(s.tail))
		s.voted.pending.removeInstalled()
	}
	// Deferred ones, and those that were started and are not waited for yet: whatever
	// else has failed since, somebody may wait for them to the end.
	for len(s.queue) > 0 {
		s.round()
	}
	if sound {
		if s.broken != "" {
			errs = append(errs, &raidstorage.ReadOnlyError{Storage: s.path, Reason: s.broken})
		}
		// A durable index of data that is not would be found out at open, but
		// then the whole file would be read.
		errs = append(errs, s.f.Sync())
		if s.saved != s.end && errors.Join(errs...) == nil {
			errs = append(errs, s.saveIndex())
		}
	}
	if !s.readOnly && s.blobs != nil {
		errs = append(errs, s.blobs.removeTemps()) // those of open transactions
	}
	for src := range s.replaced {
		errs = append(errs, src.close())
	}
	errs = append(errs, s.f.close())
	if s.lock != nil {
		errs = append(errs, unlockFile(s.lock))
	}
	return errors.Join(errs...)
}

// writableLocked returns why nothing can be written, nil if it can.
func (s *Storage) writableLocked() error {
	switch {
	case s.closed:
		return raidstorage.ErrClosed
	case s.readOnly:
		return &raidstorage.ReadOnlyError{Storage: s.path}
	case s.broken != "":
		return &raidstorage.ReadOnlyError{Storage: s.path, Reason: s.broken}
	}
	return nil
}

// enter begins a call that Close must wait for; s.calls.Done ends it.
func (s *Storage) enter() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return raidstorage.ErrClosed
	}
	s.calls.Add(1)
	return nil
}

// fail makes the storage read-only. The first reason stays.
func (s *Storage) fail(reason string, err error) {
	s.mu.Lock()
	first := s.broken == ""
	if first {
		s.broken = reason + ": " + err.Error() + "; open it again when the cause is gone"
	}
	s.mu.Unlock()
	if first {
		s.log.Error("storage became read-only", "backend", s.path, "reason", reason, "err", err)
	}
}

// corrupt makes a flaw the error that callers see.
func (s *Storage) corrupt(f *flaw) error {
	return &raidstorage.CorruptError{Storage: s.path, Offset: f.pos, OID: f.oid, TID: f.tid, Reason: f.reason}
}

// check joins the two ways in which reading can fail.
func (s *Storage) check(f *flaw, err error) error {
	switch {
	case err != nil:
		return s.ioError("read", err)
	case f != nil:
		return s.corrupt(f)
	}
	return nil
}
