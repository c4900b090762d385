package filestorage

import (
	"context"
	"encoding/binary"
	"io"
	"slices"
	"sort"

	"github.com/zeoraid/raidstorage"
)

// write appends b to the new file; the bufio.Writer keeps its error for Flush.
func (s *salvager) write(b []byte) {
	_, _ = s.b.Write(b)
	s.at += int64(len(b))
}

// begin writes the header of a transaction that was old in the old file.
func (s *salvager) begin(old txnHeader, meta *raidstorage.Meta) {
	switch old.status {
	case raidstorage.StatusNormal, raidstorage.StatusPacked:
		meta.Status = old.status
	default:
		meta.Status = raidstorage.StatusNormal
	}
	s.lostBefore = s.report.LostBytes
	s.txn = txnHeader{pos: s.at, tid: meta.TID, status: meta.Status, length: old.length}
	s.oldPos = old.pos
	s.undo, s.undoMove, s.kept, s.dropped = s.undo[:0], slices.Clone(s.moved[max(0, len(s.moved)-1):]), 0, 0
	s.undoLen = len(s.moved)
	if s.blobs != nil {
		s.blobs.pending = s.blobs.pending[:0]
	}
	s.write(appendTxnHeader(nil, meta.Status, old.length, meta))
}

// finish ends the transaction, or takes it back if nothing is left of it.
func (s *salvager) finish() error {
	if s.dropped > 0 && (s.kept == 0 || s.opts.WholeOnly) {
		return s.takeBack()
	}
	length := s.at - s.txn.pos
	s.write(appendLength(nil, length))
	s.wrote = s.txn.tid
	s.report.Transactions++
	s.report.Records += int64(s.kept)
	if err := s.takeBlobs(); err != nil {
		return err
	}
	if length == s.txn.length {
		return nil
	}
	if err := s.b.Flush(); err != nil {
		return err
	}
	_, err := s.out.WriteAt(binary.BigEndian.AppendUint64(nil, uint64(length)), s.txn.pos+8)
	return err
}

// takeBack undoes begin and all since.
func (s *salvager) takeBack() error {
	if err := s.b.Flush(); err != nil {
		return err
	}
	if s.txn.length > 0 {
		s.report.LostBytes = s.lostBefore // what is in it was counted by itself
		s.lose(Finding{Offset: s.oldPos, Length: s.txn.length + trailerLen, TID: s.txn.tid, Text: "a damaged transaction"})
	}
	for _, e := range slices.Backward(s.undo) {
		s.loseObject(recordHeader{pos: s.oldPos, oid: e.oid, tid: s.txn.tid}, "a change of the object, in a damaged transaction")
		if e.pos == 0 {
			s.index.remove(e.oid)
		} else {
			s.index.set(e.oid, e.pos)
		}
	}
	s.moved = append(s.moved[:s.undoLen-len(s.undoMove)], s.undoMove...)
	s.gap = true
	s.at = s.txn.pos
	if err := s.out.Truncate(s.at); err != nil {
		return err
	}
	_, err := s.out.Seek(s.at, io.SeekStart)
	return err
}

// record copies a record of the old file, if its data can be read.
func (s *salvager) record(ctx context.Context, it *item) error {
	rec := recordHeader{pos: s.at, oid: it.oid, tid: s.txn.tid, prev: s.index.get(it.oid), txn: s.txn.pos, size: it.size}
	if it.prev == 0 && s.txn.status == raidstorage.StatusPacked {
		rec.prev = 0 // as packing leaves it
	}
	if to := s.movedTo(it.prev); to != 0 && to != rec.prev && rec.prev < s.txn.pos {
		s.found(Finding{Kind: kindPrevious, Offset: it.pos, Length: it.length(), TID: it.tid, OID: it.oid, Object: true,
			Text: "pointer to the previous record is wrong; or the record is that of another object"})
	}
	source := it.recordHeader
	switch {
	case it.size > 0:
		ok, err := s.readable(source)
		if err != nil {
			return err
		}
		if !ok {
			s.dropped++
			s.report.LostBytes += it.length()
			s.loseObject(it.recordHeader, "a revision of the object: its data are no pickles")
			return nil
		}
	case it.back != 0 || it.badBack:
		var err error
		if rec.back, source, err = s.pointer(ctx, it); err != nil {
			return err
		}
		if rec.size = source.size; rec.back == 0 && rec.size == 0 && source.pos == 0 {
			s.loseObject(it.recordHeader, "the data of the object, which the record repeats: it does not exist any more")
		}
	}
	s.write(appendRecordHeader(nil, &rec))
	if rec.size > 0 {
		if err := s.copyData(source); err != nil {
			return err
		}
	}
	if s.blobs != nil && (rec.size > 0 || rec.back != 0) {
		if err := s.blobOf(ctx, it); err != nil {
			return err
		}
	}
	s.kept++
	s.undo = append(s.undo, entry{rec.oid, s.index.get(rec.oid)})
	s.index.set(rec.oid, rec.pos)
	s.note(it.pos, it.next, rec.pos)
	return nil
}

// pointer returns what becomes of a record's back pointer: a pointer into the new
// file, or, if what it pointed to was not copied, the record with the data in the old
// one, with size 0 if there are none. Its pos is 0 if they are lost.
func (s *salvager) pointer(ctx context.Context, it *item) (back int64, source recordHeader, err error) {
	if it.badBack {
		return 0, recordHeader{}, nil
	}
	_, bad, err := s.headerAt(it.back, it.oid, it.tid)
	if err != nil {
		return 0, recordHeader{}, err
	}
	if bad != "" {
		s.found(Finding{Kind: kindBack, Offset: it.pos, TID: it.tid, OID: it.oid, Object: true, Text: bad})
		return 0, recordHeader{}, nil
	}
	if to := s.movedTo(it.back); to != 0 {
		return to, recordHeader{}, nil
	}
	source, bad, err = s.dataOf(ctx, it.recordHeader)
	if bad != "" || err != nil {
		return 0, recordHeader{}, err
	}
	if source.size > 0 {
		ok, err := s.readable(source)
		if !ok || err != nil {
			return 0, recordHeader{}, err
		}
	}
	return 0, source, nil
}

// readable tells whether the data of rec are pickles, and leaves them in s.data. Data
// too long to look at are believed.
func (s *salvager) readable(rec recordHeader) (bool, error) {
	s.data = s.data[:0]
	if rec.size > maxData {
		return true, nil
	}
	if int(rec.size) > cap(s.data) {
		s.data = make([]byte, rec.size)
	}
	s.data = s.data[:rec.size]
	if err := s.w.read(s.data, rec.data()); err != nil || s.opts.Opaque {
		return err == nil, err
	}
	var err error
	s.refs, err = s.pickles.References(s.refs[:0], s.data)
	return err == nil, nil
}

// copyData writes the data of rec, which readable has left in s.data if they are not
// too long.
func (s *salvager) copyData(rec recordHeader) error {
	if len(s.data) > 0 {
		s.write(s.data)
		return nil
	}
	n, err := io.Copy(s.b, io.NewSectionReader(s.f, rec.data(), rec.size))
	s.at += n
	if err == nil && n != rec.size {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// note remembers that the record at from, which ends at to, went to pos.
func (s *salvager) note(from, to, pos int64) {
	if n := len(s.moved); n > 0 && !s.gap && s.moved[n-1].delta == pos-from && s.moved[n-1].to <= from {
		s.moved[n-1].to = to
		return
	}
	s.moved = append(s.moved, moved{from, to, pos - from})
	s.gap = false
}

// movedTo returns where the record at pos of the old file is in the new one, 0 if it
// was not copied.
func (s *salvager) movedTo(pos int64) int64 {
	i := sort.Search(len(s.moved), func(i int) bool { return s.moved[i].to > pos })
	if i == len(s.moved) || pos < s.moved[i].from {
		return 0
	}
	return pos + s.moved[i].delta
}
