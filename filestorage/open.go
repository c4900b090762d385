package filestorage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/zeoraid/raidstorage"
)

// Open opens the FileStorage at path, or creates it. It repairs the end of a file
// whose last write never ended, see Storage.Repaired. *LockedError if another
// process has it open for writing, *raidstorage.CorruptError if something is wrong
// with it that a torn write does not explain.
//
// Without a usable index file the whole file is read, which ctx may end.
func Open(ctx context.Context, path string, opts Options) (*Storage, error) {
	return openWith(ctx, path, opts, func(f file) file { return f })
}

// openWith is Open with a file that tests can wrap.
func openWith(ctx context.Context, path string, opts Options, wrap func(file) file) (*Storage, error) {
	if opts.Durability != Sync && opts.Durability != NoSync {
		return nil, &raidstorage.InvalidError{Op: "open", Reason: fmt.Sprintf("unknown durability %d", opts.Durability)}
	}
	if opts.MustExist || opts.ReadOnly {
		// Before the lock, so that nothing is left beside a mistyped path.
		if _, err := os.Stat(path); err != nil {
			return nil, err
		}
	}
	s := newStorage(path, opts)
	if !opts.ReadOnly {
		var err error
		if s.lock, err = lockFile(path + ".lock"); err != nil {
			return nil, err
		}
	}
	err := s.openFile(ctx, opts, wrap)
	if err == nil && !opts.ReadOnly {
		err = s.clearPack()
	}
	if err == nil {
		s.finishMending()
	}
	if err == nil && opts.BlobDir != "" {
		s.blobs, err = openBlobDir(opts.BlobDir, s.readOnly, s.sync)
		s.placed = newBlobSurvey(s.blobs)
	}
	if err == nil {
		if !s.readOnly {
			s.startSaving()
		}
		return s, nil
	}
	errs := []error{err}
	if s.f != nil {
		errs = append(errs, s.f.close())
	}
	if s.lock != nil {
		errs = append(errs, unlockFile(s.lock))
	}
	return nil, errors.Join(errs...)
}

// newStorage returns a storage without its file.
func newStorage(path string, opts Options) *Storage {
	s := &Storage{
		path: path, readOnly: opts.ReadOnly, sync: opts.Durability == Sync, early: opts.SyncEarly, clock: opts.Clock, log: opts.Logger,
		commit: make(chan struct{}, 1), syncing: make(chan struct{}, 1), following: make(chan struct{}, 1),
		packing: make(chan struct{}, 1), closing: make(chan struct{}), done: make(chan struct{}),
		dir: osDir{}, dropOld: opts.PackDropOld, settleAfter: settleAfter,
		saveAfter: opts.SaveIndexAfter, saveDue: make(chan struct{}, 1), naming: make(chan struct{}, 1),
		spills: make(map[*spill]struct{}), replaced: make(map[*source]struct{}), queuedAt: make(map[raidstorage.OID]int64),
		index: newIndex(), end: magicLen, tail: magicLen,
	}
	if s.clock == nil {
		s.clock = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s
}

func (s *Storage) openFile(ctx context.Context, opts Options, wrap func(file) file) error {
	flags := os.O_RDWR
	if !opts.MustExist {
		flags |= os.O_CREATE
	}
	if s.readOnly {
		flags = os.O_RDONLY
	}
	f, err := os.OpenFile(s.path, flags, 0o666)
	if err != nil {
		return err
	}
	s.attach(wrap(osFile{f}))
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if size := info.Size(); size > magicLen {
		return s.load(ctx, size)
	}
	return s.begin(info.Size())
}

func (s *Storage) attach(f file) {
	s.f = newSource(f)
	s.writer = newVector(f)
}

// begin makes a file of at most magicLen bytes an empty storage. Such a file is
// empty, or new, and then some of its bytes may never have reached the disk.
func (s *Storage) begin(size int64) error {
	b := make([]byte, size)
	if err := readFull(s.f, b, 0); err != nil {
		return s.ioError("open", err)
	}
	if string(b) == magic || string(b) == magicPython2 {
		return nil
	}
	for i, c := range b {
		if c != 0 && c != magic[i] {
			return s.corrupt(&flaw{reason: "it is not a FileStorage"})
		}
	}
	if s.readOnly {
		return nil
	}
	if _, err := s.f.WriteAt([]byte(magic), 0); err != nil {
		return s.ioError("create", err)
	}
	return s.syncCreated()
}

// syncCreated makes a new file and its name durable.
func (s *Storage) syncCreated() error {
	if !s.sync {
		return nil
	}
	if err := s.f.Sync(); err != nil {
		return s.ioError("create", err)
	}
	if err := syncDir(s.path); err != nil {
		return s.ioError("create", err)
	}
	return nil
}

// load reads a file of size bytes: the index file, if it is one of this file, and
// what it does not cover.
func (s *Storage) load(ctx context.Context, size int64) error {
	var m [magicLen]byte
	if err := readFull(s.f, m[:], 0); err != nil {
		return s.ioError("open", err)
	}
	if string(m[:]) != magic && string(m[:]) != magicPython2 {
		return s.corrupt(&flaw{reason: "it is not a FileStorage"})
	}
	s.loadIndex(size)
	indexed := s.saved != 0
	sc := &scanner{s: s, index: s.index, last: s.last, w: window{r: s.f.file, end: size}}
	end, tear, err := sc.scan(ctx, s.end)
	if err != nil {
		return err
	}
	s.end, s.last, s.oids = end, sc.last, s.index.highest
	if tear != nil {
		if err := s.repair(tear, size); err != nil {
			return err
		}
	}
	if err := s.settleEnd(sc.finished); err != nil {
		return err
	}
	s.tail, s.tailTID = s.end, s.last
	s.f.extend(s.end)
	if now := raidstorage.TIDFromTime(s.clock()); s.last > now {
		s.log.Warn("the last transaction is in the future", "backend", s.path, "tid", s.last)
	}
	if !indexed && !s.readOnly && s.end > magicLen {
		if err := s.saveIndex(); err != nil {
			// It would only make the next open slow.
			s.log.Warn("the index was not saved", "backend", s.path, "err", err)
		}
	}
	return nil
}

const (
	// settleIndexed is how many transactions settleEnd makes durable although they are in
	// the index file, which is written when they are: the disk may have been another one.
	settleIndexed = 64
	settleWindow  = 4 << 10
)

// settleEnd makes the last transactions durable. If the sync of their Finish failed,
// their statuses may be on their way to the disk still, or, on systems that forget what
// they could not write, only in memory; another commit must not build on that. All
// other bytes were synced before the statuses were written (rule G1 of group.go). It
// also writes the statuses of those that the scan has finished.
func (s *Storage) settleEnd(finished []txnHeader) error {
	if s.readOnly || s.end == magicLen || !s.sync && len(finished) == 0 {
		return nil
	}
	w := &window{r: s.f.file, end: s.end, back: true, buf: make([]byte, settleWindow)}
	var last []txnHeader
	for pos := s.end; pos > magicLen && len(last) < maxBatch && (pos > s.saved || len(last) < settleIndexed); {
		h, bad, err := w.before(pos)
		if err != nil {
			return s.ioError("open", err)
		}
		if bad != nil {
			break // damage that the index hides from the scan
		}
		if h.status != statusCheckpoint {
			last = append(last, h)
		}
		pos = h.pos
	}
	slices.Reverse(last)
	for _, h := range append(finished, last...) {
		if _, err := s.f.WriteAt([]byte{byte(h.status)}, h.pos+statusOffset); err != nil {
			return s.ioError("open", err)
		}
	}
	if err := s.f.Sync(); err != nil {
		return s.ioError("open: sync", err)
	}
	return nil
}

// loadIndex takes over the index file, if there is one that fits the file of size
// bytes: it sets index, end, last and saved.
func (s *Storage) loadIndex(size int64) {
	f, err := os.Open(s.path + indexSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		err = s.useIndex(f, size)
		_ = f.Close() // it was only read
	}
	if err != nil {
		s.log.Warn("the index is ignored and the whole file read", "backend", s.path, "reason", err)
	}
}

func (s *Storage) useIndex(f *os.File, size int64) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	x, end, err := readIndex(f, info.Size())
	if err != nil {
		return err
	}
	if end > size {
		return fmt.Errorf("%w: it ends at %d, the file at %d", errIndex, end, size)
	}
	last, err := s.sane(x, end)
	if err != nil {
		return err
	}
	s.index, s.end, s.last, s.saved = x, end, last, end
	return nil
}

// How much of the file is compared with an index that was read.
const (
	saneTransactions = 1000
	saneRecords      = 1000 // of one transaction
	saneEnough       = 256  // records after which no other transaction is compared
	saneObjects      = 256
)

// sane tells whether x can be the index of the file up to end: the last transactions
// before it are there as the index says, one that has records at least, as in ZODB's
// _check_sanity, and a sample of the objects is. It returns the last tid.
func (s *Storage) sane(x *index, end int64) (raidstorage.TID, error) {
	var last raidstorage.TID
	w := &window{r: s.f.file, end: end, back: true}
	seen := make(map[raidstorage.OID]struct{})
	for pos, n := end, 0; pos > magicLen && len(seen) < saneEnough; n++ {
		h, bad, err := w.before(pos)
		if err != nil {
			return 0, err
		}
		if bad != nil || n == saneTransactions || h.status == statusCheckpoint {
			if len(seen) > 0 {
				break // the index has nothing to do with it
			}
			return 0, fmt.Errorf("%w: no transaction ends at %d: %v", errIndex, pos, bad)
		}
		last, pos = max(last, h.tid), h.pos
		if h.status == statusUndone {
			continue // has nothing to compare
		}
		if err := s.saneTransaction(x, h, seen); err != nil {
			return 0, err
		}
	}
	if len(seen) == 0 && x.count > 0 {
		return 0, fmt.Errorf("%w: it has objects, the file has not", errIndex)
	}
	return last, s.saneSample(x, end)
}

// saneTransaction compares the index with the transaction h, but for the objects seen
// in later ones, and adds those of this one.
func (s *Storage) saneTransaction(x *index, h txnHeader, seen map[raidstorage.OID]struct{}) error {
	w := &window{r: s.f.file, end: h.next()}
	var here []raidstorage.OID
	for pos, n := h.records(), 0; pos < h.end() && n < saneRecords; n++ {
		rec, bad, err := w.record(pos, h)
		if err != nil {
			return err
		}
		if bad != nil {
			return fmt.Errorf("%w: %v", errIndex, bad)
		}
		// A later position is that of a second record of the object.
		at := x.get(rec.oid)
		if _, later := seen[rec.oid]; !later && (at < pos || at >= h.end()) {
			return fmt.Errorf("%w: object %v is at %d, not at %d", errIndex, rec.oid, pos, at)
		}
		here = append(here, rec.oid)
		pos = rec.next()
	}
	for _, oid := range here {
		seen[oid] = struct{}{}
	}
	return nil
}

// saneSample looks whether objects are where the index says: all of them in a small
// one, some of pages evenly spread in a large one.
func (s *Storage) saneSample(x *index, end int64) error {
	v, buf := s.committerView(end), make([]byte, maxRecordHeaderLen)
	for e := range x.sample(saneObjects) {
		if _, _, err := v.recordAt(e.pos, end, e.oid, buf); err != nil {
			return fmt.Errorf("%w: %w", errIndex, err)
		}
	}
	return nil
}

// Suffixes of the files beside the data.
const (
	indexSuffix = ".index"
	indexTemp   = ".index.index_tmp" // the name that Python uses
)
