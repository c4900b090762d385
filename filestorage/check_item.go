package filestorage

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/zeoraid/raidstorage"
)

// item is a part of a transaction: a record, or bytes that are none.
type item struct {
	recordHeader
	next    int64 // where the next item begins
	garbage bool  // the bytes up to next are no record
	resized bool  // the length of the data was wrong, size is what is there
	badPrev bool  // prev is 0 because it did not point backwards
	badBack bool  // likewise back
}

// firstItem returns where the records of p begin.
func (w *walker) firstItem(ctx context.Context, p *piece) (int64, error) {
	if p.records() <= p.end() {
		ok, err := w.plausible(p.records(), p)
		if ok || err != nil {
			return p.records(), err
		}
	}
	// The metadata may have another length than the header says.
	pos, err := w.nextRecord(ctx, p.pos+txnHeaderLen, p)
	if err != nil || p.records() <= p.end() && (pos < 0 || pos == p.records()) {
		return p.records(), err
	}
	p.damaged, p.badMeta = true, true
	w.found(Finding{Kind: kindLength, Offset: p.pos, TID: p.tid, Text: "the lengths of user, description and extension are wrong"})
	if pos < 0 {
		return p.end(), nil
	}
	return pos, nil
}

// plausible tells whether a record of p begins at pos, or p ends there.
func (w *walker) plausible(pos int64, p *piece) (bool, error) {
	if pos == p.end() {
		return true, nil
	}
	if p.end()-pos < recordHeaderLen+1 {
		return false, nil
	}
	b, err := w.glance(pos, recordHeaderLen)
	if err != nil {
		return false, err
	}
	// One of the two may be damaged.
	return p.tid != 0 && binary.BigEndian.Uint64(b[8:]) == uint64(p.tid) || binary.BigEndian.Uint64(b[24:]) == uint64(p.pos), nil
}

// item reads what is at pos, which is before the end of p.
func (w *walker) item(ctx context.Context, pos int64, p *piece) (item, error) {
	it := item{recordHeader: recordHeader{pos: pos}}
	if err := ctx.Err(); err != nil {
		return it, err
	}
	ok, err := w.plausible(pos, p)
	if err != nil {
		return it, err
	}
	if !ok {
		it.garbage = true
		it.next, err = w.nextOrEnd(ctx, pos+1, p)
		w.itemFinding(&it, p, kindRecord, "bytes that are no record of their transaction")
		return it, err
	}
	n := int(min(maxRecordHeaderLen, p.end()-pos))
	b, err := w.glance(pos, n)
	if err != nil {
		return it, err
	}
	back, wrong := w.fields(&it, b)
	size := binary.BigEndian.Uint64(b[34:])
	if err := w.extentOf(ctx, &it, p, size, back); err != nil {
		return it, err
	}
	for _, f := range wrong {
		w.itemFinding(&it, p, f.Kind, f.Text)
	}
	switch {
	case it.txn != p.pos:
		w.itemFinding(&it, p, kindRecord, fmt.Sprintf("record points to a transaction at %d, and is in the one at %d", it.txn, p.pos))
	case it.tid != p.tid:
		w.itemFinding(&it, p, kindTID, fmt.Sprintf("record has tid %v, its transaction %v", it.tid, p.tid))
	}
	if it.size == 0 {
		if pointsBack(back, pos) {
			it.back = int64(back)
		} else {
			it.badBack = true
			w.itemFinding(&it, p, kindBack, "back pointer does not point to an earlier record")
		}
	}
	return it, nil
}

// fields reads those fields that do not matter for the record's extent.
func (w *walker) fields(it *item, b []byte) (back uint64, wrong []Finding) {
	it.oid = raidstorage.OID(binary.BigEndian.Uint64(b))
	it.tid = raidstorage.TID(binary.BigEndian.Uint64(b[8:]))
	it.txn = int64(binary.BigEndian.Uint64(b[24:]))
	if prev := binary.BigEndian.Uint64(b[16:]); pointsBack(prev, it.pos) {
		it.prev = int64(prev)
	} else {
		it.badPrev = true
		wrong = append(wrong, Finding{Kind: kindPrevious, Text: "pointer to the previous record does not point to an earlier record"})
	}
	if binary.BigEndian.Uint16(b[32:]) != 0 {
		wrong = append(wrong, Finding{Kind: kindRecord, Text: "record belongs to a version, which ZODB has not had since 3.9"})
	}
	if len(b) == maxRecordHeaderLen {
		back = binary.BigEndian.Uint64(b[recordHeaderLen:])
	}
	return back, wrong
}

// extentOf finds out where the record ends whose header says size, with the 8 bytes
// back after it.
func (w *walker) extentOf(ctx context.Context, it *item, p *piece, size, back uint64) error {
	left := p.end() - it.data()
	fits := size <= uint64(left) && (size > 0 || left >= pointerLen)
	if fits {
		it.size = int64(size)
		it.next = it.recordHeader.next()
		if ok, err := w.plausible(it.next, p); ok || err != nil {
			return err
		}
	}
	next, err := w.nextOrEnd(ctx, it.data()+1, p)
	if err != nil {
		return err
	}
	if fits && next > it.next {
		// Either size is wrong, or what follows is no record.
		keep := pointsBack(back, it.pos)
		if size > 0 {
			if keep, err = w.endsPickle(it.next, next); err != nil {
				return err
			}
		}
		if keep {
			return nil
		}
	}
	it.resized, it.next, it.size = true, next, next-it.data()
	w.itemFinding(it, p, kindLength, "the length of the record's data is wrong")
	return nil
}

// endsPickle tells which of two places is more likely the end of data: the first
// one, unless only the second one follows the end of a pickle.
func (w *walker) endsPickle(first, second int64) (bool, error) {
	var b [2]byte
	for i, end := range []int64{first, second} {
		if err := readFull(w.w.r, b[i:i+1], end-1); err != nil {
			return false, err
		}
	}
	return b[0] == opStop || b[1] != opStop, nil
}

// nextOrEnd is nextRecord, or the end of p.
func (w *walker) nextOrEnd(ctx context.Context, from int64, p *piece) (int64, error) {
	next, err := w.nextRecord(ctx, from, p)
	if next < 0 {
		next = p.end()
	}
	return next, err
}

func (w *walker) itemFinding(it *item, p *piece, kind, text string) {
	f := Finding{Kind: kind, Offset: it.pos, Length: it.next - it.pos, TID: p.tid, Text: text}
	if !it.garbage {
		f.OID, f.Object = it.oid, true
	}
	w.found(f)
}

// headerAt reads the record at pos, of which nothing is known but that a record of
// oid, not later than tid, points to it. The text says what is wrong with it.
func (w *walker) headerAt(pos int64, oid raidstorage.OID, tid raidstorage.TID) (recordHeader, string, error) {
	var buf [maxRecordHeaderLen]byte
	b := buf[:min(maxRecordHeaderLen, max(0, w.end-pos))]
	if err := readFull(w.w.r, b, pos); err != nil {
		return recordHeader{}, "", err
	}
	rec, bad := parseRecordHeader(b, pos, w.end-trailerLen)
	switch {
	case bad != nil:
		return rec, "there is no record: " + bad.reason, nil
	case rec.oid != oid:
		return rec, fmt.Sprintf("the record there is of object %v", rec.oid), nil
	case rec.tid > tid:
		return rec, "the record there is later", nil
	}
	var head [txnHeaderLen]byte
	if err := readFull(w.w.r, head[:], rec.txn); err != nil {
		return rec, "", err
	}
	// One of the two may be damaged in that transaction.
	if h, length := lenientHeader(head[:], rec.txn); h.tid != rec.tid && uint64(rec.next()-rec.txn) > length {
		return rec, "the record there is not in the transaction that it points to", nil
	}
	return rec, "", nil
}

// dataOf follows the back pointers from rec to the record with the data, the one
// with size 0 and back 0 for a deletion. The text says what is wrong on the way.
func (w *walker) dataOf(ctx context.Context, rec recordHeader) (recordHeader, string, error) {
	for n := 0; rec.size == 0 && rec.back != 0; n++ {
		if n%1024 == 1023 && ctx.Err() != nil {
			return rec, "", ctx.Err()
		}
		to, bad, err := w.headerAt(rec.back, rec.oid, rec.tid)
		if bad != "" || err != nil {
			return rec, bad, err
		}
		rec = to
	}
	return rec, "", nil
}
