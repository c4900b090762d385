package filestorage

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"

	"github.com/zeoraid/raidstorage"
)

// A write that never ended leaves a transaction at the end of the file that is
// incomplete, or has status 'c', or has places that were never written. Cutting it
// off loses nothing that was ever finished. Changed bytes are another thing: whole
// transactions may come after them. ZODB's read_index cuts the file at the first
// transaction that seems to extend beyond its end, or has status 'c', and so may
// lose all that follows. Here the file is cut only if no whole transaction
// follows, and what is cut is kept.

// Repair tells what Open cut off the end of the file, or, if the storage is
// read-only, what it passes over.
type Repair struct {
	Offset int64  // where the file was cut: the end of the last whole transaction
	Bytes  int64  // how many were cut off
	Kept   string // path of the file with the bytes, empty if the storage is read-only
	Reason string // what was wrong with them
}

// scanner reads transactions and puts their records into an index.
type scanner struct {
	s       *Storage
	index   *index
	last    raidstorage.TID
	w       window
	entries []entry // of the transaction being read
	// Before finishing, transactions with status 'c' are finished ones, whose status is
	// to be as; finished lists those that were met.
	finishing int64
	as        raidstorage.TxnStatus
	finished  []txnHeader
}

// scan reads from pos, where a transaction begins, to the end. It returns where the
// last whole transaction ends, and what is torn there, nil if nothing is.
func (sc *scanner) scan(ctx context.Context, pos int64) (int64, *flaw, error) {
	for pos < sc.w.end {
		if err := ctx.Err(); err != nil {
			return 0, nil, err
		}
		h, bad, err := sc.transaction(pos)
		if err != nil {
			return 0, nil, sc.s.ioError("read", err)
		}
		if bad == nil {
			pos = h.next()
			continue
		}
		if !bad.tear {
			return 0, nil, sc.s.corrupt(bad)
		}
		if h.status == statusCheckpoint && pos >= sc.finishing {
			found, err := sc.finishes(ctx, pos)
			switch {
			case err != nil:
				return 0, nil, err
			case found && sc.s.readOnly:
				return pos, bad, nil // for the writer to finish
			case found:
				continue
			}
		}
		follows, err := sc.wholeAfter(ctx, pos)
		if err != nil {
			return 0, nil, err
		}
		if follows {
			bad.reason += ", and whole transactions follow"
			return 0, nil, sc.s.corrupt(bad)
		}
		return pos, bad, nil
	}
	return pos, nil, nil
}

// transaction reads the one at pos and enters its records, if all of it is right.
func (sc *scanner) transaction(pos int64) (txnHeader, *flaw, error) {
	h, bad, err := sc.w.header(pos)
	if bad != nil && (h.status == statusCheckpoint || h.status == 0) {
		// Never finished, or a part of the header was never written: it may lie in two
		// sectors.
		bad.tear = true
	}
	if err != nil || bad != nil && bad.tear {
		return h, bad, err
	}
	// The trailer comes first: if it is missing, what else is wrong was torn too.
	torn, err := sc.w.trailer(h)
	switch {
	case err != nil || torn != nil:
		return h, torn, err
	case bad != nil:
		return h, bad, nil
	case h.status == statusCheckpoint && pos >= sc.finishing:
		return h, &flaw{pos: pos, tid: h.tid, tear: true, reason: "transaction was not finished"}, nil
	case h.tid <= sc.last:
		return h, &flaw{pos: pos, tid: h.tid, reason: "transaction id is not later than the one before"}, nil
	}
	if h.status == statusCheckpoint {
		h.status = sc.as
		sc.finished = append(sc.finished, h)
	}
	sc.entries = sc.entries[:0]
	for pos := h.records(); pos < h.end(); {
		rec, bad, err := sc.w.record(pos, h)
		if bad != nil || err != nil {
			return h, bad, err
		}
		sc.entries = append(sc.entries, entry{rec.oid, pos})
		pos = rec.next()
	}
	sc.last = h.tid
	if h.status != statusUndone {
		for _, e := range sc.entries {
			sc.index.set(e.oid, e.pos)
		}
	}
	return h, nil, nil
}

// finishes tells whether the transactions with status 'c' from pos on were part of a
// round of statuses that the power failure cut short: whether a finished transaction
// follows them directly, see rules G1 to G3 of group.go. A round has at most maxBatch
// statuses, so where more transactions follow, a byte of a finished one has changed.
func (sc *scanner) finishes(ctx context.Context, pos int64) (bool, error) {
	w := window{r: sc.w.r, end: sc.w.end}
	through, last := pos, sc.last
	var as raidstorage.TxnStatus
	for n := 0; pos < w.end; n++ {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		h, bad, err := w.complete(pos)
		if err != nil {
			return false, sc.s.ioError("read", err)
		}
		if bad != nil || h.tid <= last {
			break
		}
		if h.status != statusCheckpoint {
			if n >= maxBatch {
				return false, nil
			}
			through, as = h.pos, h.status
		}
		pos, last = h.next(), h.tid
	}
	if as == 0 {
		return false, nil
	}
	sc.finishing, sc.as = through, as
	return true, nil
}

// wholeAfter tells whether a whole transaction begins anywhere after pos. A record
// holds the position of its transaction, so data that only looks like one, such as
// a FileStorage inside an object, is not taken for it.
func (sc *scanner) wholeAfter(ctx context.Context, pos int64) (bool, error) {
	const step = windowSize - txnHeaderLen
	w := window{r: sc.w.r, end: sc.w.end}
	for from := pos + 1; from+minTxnLen <= w.end; from += step {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		b, err := w.at(from, int(min(windowSize, w.end-from)))
		if err != nil {
			return false, sc.s.ioError("read", err)
		}
		for i := 0; i+txnHeaderLen <= len(b) && i < step; i++ {
			if !mayBegin(b[i:]) {
				continue
			}
			whole, err := sc.whole(b[i:], from+int64(i))
			if whole || err != nil {
				return whole, err
			}
		}
	}
	return false, nil
}

// mayBegin is a quick look at whether a transaction header can begin at b[0].
func mayBegin(b []byte) bool {
	switch raidstorage.TxnStatus(b[statusOffset]) {
	case raidstorage.StatusNormal, raidstorage.StatusPacked, statusUndone:
		return b[8] == 0 && b[9] == 0 // lengths have at most 48 bits
	}
	return false
}

// whole tells whether the transaction with header b at pos is complete, at least
// as far as its lengths and its first record show.
func (sc *scanner) whole(b []byte, pos int64) (bool, error) {
	h, bad := parseTxnHeader(b, pos, sc.w.end)
	if bad != nil || h.tid <= sc.last || h.records() == h.end() {
		return false, nil
	}
	var buf [maxRecordHeaderLen]byte
	if err := readFull(sc.w.r, buf[:trailerLen], h.end()); err != nil {
		return false, sc.s.ioError("read", err)
	}
	if binary.BigEndian.Uint64(buf[:]) != uint64(h.length) {
		return false, nil
	}
	n := min(maxRecordHeaderLen, h.end()-h.records())
	if err := readFull(sc.w.r, buf[:n], h.records()); err != nil {
		return false, sc.s.ioError("read", err)
	}
	rec, bad := parseRecordHeader(buf[:n], h.records(), h.end())
	return bad == nil && rec.txn == pos && rec.tid == h.tid, nil
}

// repair cuts off what is torn at s.end, in a file of size bytes, and keeps it in a
// file beside. A read-only storage only notes it.
func (s *Storage) repair(tear *flaw, size int64) error {
	r := &Repair{Offset: s.end, Bytes: size - s.end, Reason: tear.reason}
	if !s.readOnly {
		var err error
		if r.Kept, err = s.keepBytes(s.end, size); err != nil {
			return s.ioError("keep the torn end", err)
		}
		if err := s.f.Truncate(s.end); err != nil {
			return s.ioError("cut the torn end", err)
		}
		if err := s.f.Sync(); err != nil {
			return s.ioError("cut the torn end", err)
		}
	}
	s.repaired = r
	s.log.Warn("the file ends with an unfinished transaction", "backend", s.path, "offset", r.Offset,
		"bytes", r.Bytes, "kept", r.Kept, "reason", r.Reason)
	return nil
}

// keepBytes copies the bytes from off to end into a new file, durably, and returns
// its path.
func (s *Storage) keepBytes(off, end int64) (string, error) {
	f, err := newSibling(s.path, "torn")
	if err != nil {
		return "", err
	}
	_, err = io.Copy(f, io.NewSectionReader(s.f, off, end-off))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = syncDir(s.path)
	}
	if err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}
