package filestorage

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/zeoraid/raidstorage"
)

// The walker reads a file that may be damaged anywhere. The scanner that opens files
// stops at the first flaw; the walker tells what is wrong and goes on. What it relies
// on is said twice or more in the format:
//
//   - A transaction's length stands at its beginning and at its end. If they differ,
//     the records decide which is right: each holds the position of its transaction.
//   - If no end can be found that way, the bytes up to the next whole transaction are
//     lost: one whose lengths agree and whose first record points to it.
//   - A tid stands in the header and in every record. Of tids that do not rise, those
//     of the following transactions decide which is out of place.
//
// Each step takes time in proportion to the bytes that it goes over, and none goes
// over the same bytes more than a few times, whatever the file holds.

// walker reads pieces of a file, and records of pieces. It is for one goroutine.
type walker struct {
	w     window
	end   int64           // of the file when it was opened
	last  raidstorage.TID // of the last transaction in order
	live  bool            // see InspectOptions.Live
	found func(Finding)
	small [maxRecordHeaderLen]byte // for what is not in the window
}

// piece is a part of the file: a transaction, or bytes that are none.
type piece struct {
	txnHeader
	next    int64 // where the next piece begins
	whole   bool  // it is a transaction, else lost bytes
	inOrder bool  // its tid is later than all before and fits those after
	// tail is true for lost bytes, and for an unfinished transaction, that no whole
	// transaction follows: most likely a write that never ended.
	tail    bool
	damaged bool // there was a finding in the header or trailer
	badMeta bool // the lengths of user, description and extension are wrong
}

// next reads the piece at pos, which is before the end.
func (w *walker) next(ctx context.Context, pos int64) (piece, error) {
	p := piece{txnHeader: txnHeader{pos: pos}}
	if err := ctx.Err(); err != nil {
		return p, err
	}
	if w.end-pos < minTxnLen {
		w.lose(&p, w.end, true)
		return p, nil
	}
	b, err := w.glance(pos, txnHeaderLen)
	if err != nil {
		return p, err
	}
	var length uint64
	p.txnHeader, length = lenientHeader(b, pos)
	known, err := w.extent(ctx, &p, length)
	if err != nil {
		return p, err
	}
	if !known {
		next, err := w.resync(ctx, pos+1)
		if err == nil {
			w.lose(&p, max(next, 0), next < 0)
		}
		return p, err
	}
	p.whole, p.next = true, p.txnHeader.next()
	return p, w.judge(ctx, &p)
}

// lose makes p lost bytes up to next, or, as tail, up to the end.
func (w *walker) lose(p *piece, next int64, tail bool) {
	p.next, p.tail, p.damaged = next, tail, true
	f := Finding{Kind: kindLength, Offset: p.pos, TID: p.tid, Text: "no whole transaction up to the next one"}
	if tail {
		p.next = w.end
		f.Kind, f.Text = kindTruncated, "the file ends in bytes that are no whole transaction"
	}
	f.Length = p.next - p.pos
	if !tail || !w.live {
		w.found(f)
	}
}

// lenientHeader reads a header without judging it.
func lenientHeader(b []byte, pos int64) (h txnHeader, length uint64) {
	return txnHeader{
		pos:     pos,
		tid:     raidstorage.TID(binary.BigEndian.Uint64(b)),
		status:  raidstorage.TxnStatus(b[statusOffset]),
		userLen: int(binary.BigEndian.Uint16(b[17:])),
		descLen: int(binary.BigEndian.Uint16(b[19:])),
		extLen:  int(binary.BigEndian.Uint16(b[21:])),
	}, binary.BigEndian.Uint64(b[8:])
}

// extent finds out where the transaction ends, whose header says length, and tells
// whether it could.
func (w *walker) extent(ctx context.Context, p *piece, length uint64) (bool, error) {
	fits := length >= uint64(minTxnLen-trailerLen) && length <= uint64(w.end-p.pos-trailerLen)
	if fits {
		p.length = int64(length)
		same, err := w.trailerIs(p.pos+p.length, length)
		if same || err != nil {
			// A header that claims more metadata than fits has wrong lengths of that.
			return same, err
		}
	}
	wrong := func(text string) {
		p.damaged = true
		w.found(Finding{Kind: kindLength, Offset: p.pos, TID: p.tid, Text: text})
	}
	q, err := w.chain(ctx, p.txnHeader)
	if err != nil {
		return false, err
	}
	if q > p.records() {
		if fits && q == p.pos+p.length {
			wrong("the length at the end of the transaction is wrong")
			return true, nil
		}
		same, err := w.trailerIs(q, uint64(q-p.pos))
		if err != nil {
			return false, err
		}
		if same {
			p.length = q - p.pos
			wrong("the length in the transaction's header is wrong")
			return true, nil
		}
	}
	if fits && p.headerLen() <= p.length && p.txnHeader.next() < w.end {
		follows, err := w.verify(p.txnHeader.next())
		if follows {
			wrong("the length at the end of the transaction is wrong")
		}
		return follows, err
	}
	return false, nil
}

// trailerIs tells whether the 8 bytes at off are length.
func (w *walker) trailerIs(off int64, length uint64) (bool, error) {
	if off+trailerLen > w.end {
		return false, nil
	}
	b, err := w.glance(off, trailerLen)
	return err == nil && binary.BigEndian.Uint64(b) == length, err
}

// chain follows the records of the transaction and returns where the last one ends.
func (w *walker) chain(ctx context.Context, h txnHeader) (int64, error) {
	for q, n := h.records(), 0; ; n++ {
		if n%1024 == 1023 && ctx.Err() != nil {
			return 0, ctx.Err()
		}
		rec, ok, err := w.recordOf(q, w.end-trailerLen, h.pos)
		if !ok || err != nil {
			return q, err
		}
		q = rec.next()
	}
}

// recordOf reads the record at pos, which must end at or before end, and tells
// whether it is a flawless one of the transaction at txn.
func (w *walker) recordOf(pos, end, txn int64) (recordHeader, bool, error) {
	if end-pos < maxRecordHeaderLen-pointerLen+1 {
		return recordHeader{}, false, nil
	}
	b, err := w.glance(pos, int(min(maxRecordHeaderLen, end-pos)))
	if err != nil {
		return recordHeader{}, false, err
	}
	rec, bad := parseRecordHeader(b, pos, end)
	return rec, bad == nil && rec.txn == txn, nil
}

// glance returns n ≤ maxRecordHeaderLen bytes at off, valid until the next call. It
// moves the window only onwards.
func (w *walker) glance(off int64, n int) ([]byte, error) {
	if off >= w.w.off {
		return w.w.at(off, n)
	}
	b := w.small[:n]
	return b, readFull(w.w.r, b, off)
}

// judge looks at status and tid of a transaction whose extent is known.
func (w *walker) judge(ctx context.Context, p *piece) error {
	flaw := func(kind, text string) {
		p.damaged = true
		w.found(Finding{Kind: kind, Offset: p.pos, Length: p.next - p.pos, TID: p.tid, Text: text})
	}
	switch p.status {
	case raidstorage.StatusNormal, raidstorage.StatusPacked, statusUndone:
	case statusCheckpoint:
		next, err := w.resync(ctx, p.next)
		if err != nil {
			return err
		}
		if next < 0 {
			p.tail, p.next = true, w.end
			if p.damaged = true; !w.live {
				flaw(kindUnfinished, "the transaction was voted but not finished; the next open for writing removes it")
			}
			return nil
		}
		flaw(kindStatus, "the transaction was not finished, and others follow")
	default:
		flaw(kindStatus, fmt.Sprintf("transaction status is %q", byte(p.status)))
	}
	switch {
	case p.tid == 0 || p.tid > raidstorage.MaxTID:
		flaw(kindTID, "transaction id is not one")
		return nil
	case p.tid <= w.last:
		flaw(kindTID, fmt.Sprintf("transaction id is not later than %v before", w.last))
		return nil
	}
	outlier, err := w.outlier(p.txnHeader)
	if err != nil {
		return err
	}
	if outlier {
		flaw(kindTID, "transaction id is later than those that follow")
		return nil
	}
	p.inOrder, w.last = true, p.tid
	return nil
}

// lookahead is how many following transactions decide on a tid.
const lookahead = 8

// outlier tells whether more of the following tids are between the last one and h's
// than after h's.
func (w *walker) outlier(h txnHeader) (bool, error) {
	between, after := 0, 0
	for pos, i := h.next(), 0; i < lookahead && w.end-pos >= minTxnLen; i++ {
		var b [txnHeaderLen]byte
		part, err := w.aside(b[:], pos)
		if err != nil {
			return false, err
		}
		next, bad := parseTxnHeader(part, pos, w.end)
		if bad != nil {
			break
		}
		if next.tid <= h.tid {
			if next.tid > w.last {
				between++
			}
		} else if after++; i == 0 {
			return false, nil // the usual case
		}
		pos = next.next()
	}
	return between > after, nil
}

// aside fills b from off without moving the window.
func (w *walker) aside(b []byte, off int64) ([]byte, error) {
	if off >= w.w.off && off+int64(len(b)) <= w.w.off+int64(w.w.n) {
		return w.w.at(off, len(b))
	}
	return b, readFull(w.w.r, b, off)
}
