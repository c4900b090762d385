package filestorage

import (
	"context"
	"errors"
	"math"
	"os"

	"github.com/zeoraid/raidstorage"
)

// TruncateAfter implements raidstorage.Truncater. What is cut off is kept as a
// FileStorage of its own, Data.fs.tr0 or the next free number, which can be opened,
// iterated and restored from. Records in it that repeat data of transactions that
// stay have the data itself. Their blobs are moved to a blob directory beside it,
// Data.fs.tr0.blobs.
func (s *Storage) TruncateAfter(ctx context.Context, tid, last raidstorage.TID) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.calls.Done()
	if err := s.lockCommit(ctx); err != nil {
		return err
	}
	defer func() { <-s.commit }()
	s.mu.RLock()
	err, now := s.writableLocked(), s.last
	s.mu.RUnlock()
	switch {
	case err != nil:
		return err
	case now != last:
		return &raidstorage.TIDOrderError{TID: last, Last: now}
	case tid >= last:
		return nil
	}
	r, err := s.newLogReader(ctx)
	if err != nil {
		return err
	}
	defer r.close()
	pos, err := r.find(tid + 1)
	if err != nil {
		return err
	}
	kept, blobs, err := s.keepTransactions(ctx, tid+1)
	if err != nil {
		return err
	}
	s.log.Warn("transactions are cut off", "backend", s.path, "tid", tid, "last", last, "kept", kept)
	if err := s.cut(r, pos); err != nil {
		return err
	}
	s.dropBlobs(blobs)
	return nil
}

// cut ends the file at pos, where a transaction begins. The caller holds the commit
// lock and has kept what follows.
func (s *Storage) cut(r *logReader, pos int64) error {
	var last raidstorage.TID
	if pos > magicLen {
		h, err := r.before(pos)
		if err != nil {
			return err
		}
		last = h.tid
	}
	change, err := s.indexWithout(r, pos)
	if err != nil {
		return err
	}
	// The index file must go first: transactions that come later could make it
	// look right again, although objects have moved.
	release := s.holdNames()
	if err := s.removeIndex(); err != nil {
		release()
		return s.ioError("truncate", err)
	}
	s.mu.Lock()
	change()
	s.end, s.last, s.saved, s.tried = pos, last, 0, 0
	s.tail, s.tailTID = pos, last
	s.cuts.Add(1)
	s.f.marks.cut(pos)
	s.mu.Unlock()
	release()
	if err := s.f.Truncate(pos); err != nil {
		err = s.ioError("truncate", err)
		s.fail("cutting transactions off failed", err)
		return err
	}
	if err := s.f.Sync(); err != nil {
		err = s.ioError("truncate: sync", err)
		s.fail("cutting transactions off failed", err)
		return err
	}
	return nil
}

// indexWithout returns a function that makes the index what it was when the file
// ended at pos. It is to be called with mu held.
func (s *Storage) indexWithout(r *logReader, pos int64) (func(), error) {
	before := make(map[raidstorage.OID]int64) // where the objects were at pos
	for at := pos; at < r.end; {
		h, err := r.header(at)
		if err != nil {
			return nil, err
		}
		records, err := r.lastRecords(at)
		if err != nil {
			return nil, err
		}
		for _, rec := range records {
			if _, later := before[rec.oid]; later || h.status == statusUndone {
				continue
			}
			if rec.prev >= pos || rec.prev == 0 && h.status == raidstorage.StatusPacked {
				// Packing does not keep these pointers; the records before tell.
				return s.indexFromScratch(r.ctx, pos)
			}
			before[rec.oid] = rec.prev
		}
		at = h.next()
	}
	return func() {
		for oid, at := range before {
			if at == 0 {
				s.index.remove(oid)
			} else {
				s.index.set(oid, at)
			}
		}
	}, nil
}

func (s *Storage) indexFromScratch(ctx context.Context, pos int64) (func(), error) {
	sc := &scanner{s: s, index: newIndex(), w: window{r: s.f.file, end: pos}}
	_, tear, err := sc.scan(ctx, magicLen)
	if err == nil && tear != nil {
		err = s.corrupt(tear)
	}
	return func() { s.index = sc.index }, err
}

func (s *Storage) removeIndex() error {
	if err := removeIfThere(s.dir, s.path+indexSuffix); err != nil {
		return err
	}
	return s.dir.SyncDir(s.path) // even if it was not there: that may not be on the disk

}

// keptBlobsSuffix is that of the blob directory of transactions that were cut off.
const keptBlobsSuffix = ".blobs"

// keepTransactions copies the transactions from tid on into a new FileStorage, and
// their blobs into its blob directory, durably, and returns its path and the blobs.
func (s *Storage) keepTransactions(ctx context.Context, from raidstorage.TID) (string, []blobName, error) {
	f, err := newSibling(s.path, "tr")
	if err != nil {
		return "", nil, s.ioError("keep transactions", err)
	}
	out := newStorage(f.Name(), Options{Durability: NoSync, Clock: s.clock})
	out.attach(osFile{f})
	err = out.begin(0)
	var blobs []blobName
	if err == nil {
		blobs, err = s.copyTo(ctx, out, from)
	}
	if err == nil && len(blobs) > 0 {
		err = s.blobs.keepBlobs(ctx, f.Name()+keptBlobsSuffix, blobs)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = syncDir(s.path)
	}
	if err != nil {
		return "", nil, s.ioError("keep transactions", errors.Join(err, os.Remove(f.Name())))
	}
	return f.Name(), blobs, nil
}

// copyTo restores the transactions from tid on in out, and returns which of their
// records have blobs.
func (s *Storage) copyTo(ctx context.Context, out *Storage, from raidstorage.TID) (blobs []blobName, err error) {
	for t, err := range s.Iterate(ctx, from, math.MaxUint64) {
		if err != nil {
			return nil, err
		}
		if err := copyTransaction(ctx, out, t, &blobs); err != nil {
			return nil, err
		}
	}
	return blobs, nil
}

func copyTransaction(ctx context.Context, out *Storage, t *raidstorage.Transaction, blobs *[]blobName) (err error) {
	txn, err := out.Begin(ctx, t.Meta)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, txn.Abort(ctx)) }()
	for rec, err := range t.Records {
		if err != nil {
			return err
		}
		if rec.OpenBlob != nil {
			*blobs = append(*blobs, blobName{rec.OID, rec.TID})
			rec.OpenBlob = nil
		}
		if err := txn.Restore(ctx, rec); err != nil {
			return err
		}
	}
	if _, err := txn.Vote(ctx); err != nil {
		return err
	}
	_, err = txn.Finish(ctx)
	return err
}
