package filestorage

import (
	"bytes"
	"context"
	"encoding/binary"

	"github.com/zeoraid/raidstorage"
)

// resync returns the position of the first whole transaction at or after from, -1 if
// there is none.
func (w *walker) resync(ctx context.Context, from int64) (int64, error) {
	const step = windowSize - txnHeaderLen
	look := window{r: w.w.r, end: w.end}
	for ; w.end-from >= minTxnLen; from += step {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		b, err := look.at(from, int(min(windowSize, w.end-from)))
		if err != nil {
			return 0, err
		}
		for i := 0; i+txnHeaderLen <= len(b) && i < step; i++ {
			if !mayBegin(b[i:]) {
				continue
			}
			h, bad := parseTxnHeader(b[i:], from+int64(i), w.end)
			if bad != nil {
				continue
			}
			whole, err := w.wholeAt(h, &look)
			if whole || err != nil {
				return h.pos, err
			}
		}
	}
	return -1, nil
}

// maxEmpty bounds the transactions without records that are passed over to find one
// that has some.
const maxEmpty = 32

// wholeAt tells whether h is the header of a transaction: both lengths are the same,
// and its first record points to it. One without records proves too little: such are
// counted only if one with records, or the end of the file, comes next.
func (w *walker) wholeAt(h txnHeader, look *window) (bool, error) {
	var buf [maxRecordHeaderLen]byte
	for last, i := w.last, 0; i < maxEmpty; i++ {
		if err := readNear(look, buf[:trailerLen], h.end()); err != nil {
			return false, err
		}
		if binary.BigEndian.Uint64(buf[:]) != uint64(h.length) {
			return false, nil
		}
		if h.records() < h.end() {
			part := buf[:min(maxRecordHeaderLen, h.end()-h.records())]
			if err := readNear(look, part, h.records()); err != nil {
				return false, err
			}
			rec, bad := parseRecordHeader(part, h.records(), h.end())
			return bad == nil && rec.txn == h.pos && rec.tid == h.tid, nil
		}
		if h.tid <= last {
			return false, nil
		}
		if h.next() == w.end {
			return true, nil
		}
		if w.end-h.next() < minTxnLen {
			return false, nil
		}
		if err := readNear(look, buf[:txnHeaderLen], h.next()); err != nil {
			return false, err
		}
		next, bad := parseTxnHeader(buf[:], h.next(), w.end)
		if bad != nil {
			return false, nil
		}
		last, h = h.tid, next
	}
	return false, nil
}

// verify tells whether a whole transaction begins at pos.
func (w *walker) verify(pos int64) (bool, error) {
	if w.end-pos < minTxnLen {
		return false, nil
	}
	var buf [txnHeaderLen]byte
	if err := readFull(w.w.r, buf[:], pos); err != nil {
		return false, err
	}
	h, bad := parseTxnHeader(buf[:], pos, w.end)
	if bad != nil {
		return false, nil
	}
	return w.wholeAt(h, &window{r: w.w.r, end: w.end})
}

// readNear fills b from off, from the window if it is there, without moving it.
func readNear(look *window, b []byte, off int64) error {
	if off >= look.off && off+int64(len(b)) <= look.off+int64(look.n) {
		copy(b, look.buf[off-look.off:])
		return nil
	}
	return readFull(look.r, b, off)
}

// nextRecord returns the position of the first flawless record of the transaction p
// at or after from, -1 if there is none. Records hold the position of their
// transaction, which is what it looks for.
func (w *walker) nextRecord(ctx context.Context, from int64, p *piece) (int64, error) {
	const txnOffset = 24 // of that position in a record
	var want [8]byte
	binary.BigEndian.PutUint64(want[:], uint64(p.pos))
	look := window{r: w.w.r, end: p.end()}
	for p.end()-from > recordHeaderLen {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		n := int(min(windowSize, p.end()-from))
		b, err := look.at(from, n)
		if err != nil {
			return 0, err
		}
		for i := txnOffset; ; i++ {
			hit := bytes.Index(b[i:], want[:])
			if hit < 0 {
				break
			}
			i += hit
			pos := from + int64(i-txnOffset)
			var head [maxRecordHeaderLen]byte
			part := head[:min(maxRecordHeaderLen, p.end()-pos)]
			if err := readNear(&look, part, pos); err != nil {
				return 0, err
			}
			if rec, bad := parseRecordHeader(part, pos, p.end()); bad == nil && rec.txn == p.pos {
				return pos, nil
			}
		}
		if n < windowSize {
			break
		}
		from += windowSize - txnOffset - int64(len(want)) + 1
	}
	return -1, nil
}

// strays yields records in lost bytes, from pos to end, until yield returns false.
// They must point to a place among the lost bytes before them, where their
// transaction began.
func (w *walker) strays(ctx context.Context, pos, end int64, yield func(recordHeader) (bool, error)) error {
	look := window{r: w.w.r, end: w.end}
	start := pos
	for n := 0; end-pos > recordHeaderLen; n++ {
		if n%windowSize == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		b, err := look.at(pos, int(min(maxRecordHeaderLen, end-pos)))
		if err != nil {
			return err
		}
		txn := binary.BigEndian.Uint64(b[24:])
		if txn < uint64(start) || txn >= uint64(pos) {
			pos++
			continue
		}
		rec, bad := parseRecordHeader(b, pos, end)
		if bad != nil || rec.tid == 0 || rec.tid > raidstorage.MaxTID {
			pos++
			continue
		}
		if more, err := yield(rec); !more || err != nil {
			return err
		}
		pos = rec.next()
	}
	return nil
}
