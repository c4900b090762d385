package filestorage

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"

	"github.com/zeoraid/raidstorage"
)

// readSize is what one read of a record asks for: most records of a ZODB are
// smaller, so header and data come with one system call.
const readSize = 2 << 10

// view is a moment of the storage: all transactions that were finished then, and the
// file that they are in. Reads on one that enter or locate returned are counted, and
// leave ends them.
type view struct {
	s    *Storage
	src  *source
	end  int64
	cuts uint64
}

// LoadBefore implements raidstorage.Storage. No lock is held while it reads.
func (s *Storage) LoadBefore(ctx context.Context, oid raidstorage.OID, before raidstorage.TID) (raidstorage.Revision, error) {
	if err := ctx.Err(); err != nil {
		return raidstorage.Revision{}, err
	}
	sc := s.scratch()
	defer s.scratches.Put(sc)
	for {
		pos, v, err := s.locate(oid, sc)
		if err != nil {
			return raidstorage.Revision{}, err
		}
		rev, err := v.revisionBefore(ctx, oid, pos, before, sc)
		if !v.leave(sc) {
			return rev, err
		}
	}
}

// locate begins a read and returns where oid's current record is.
func (s *Storage) locate(oid raidstorage.OID, sc *scratch) (int64, view, error) {
	s.mu.RLock()
	if s.closed {
		s.mu.RUnlock()
		return 0, view{}, raidstorage.ErrClosed
	}
	v := s.viewLocked()
	v.src.calls[sc.shard].Add(1)
	pos := s.index.get(oid)
	s.mu.RUnlock()
	return pos, v, nil
}

func (s *Storage) viewLocked() view { return view{s, s.f, s.end, s.cuts.Load()} }

// leave ends what locate began. It returns true if transactions were cut off
// meanwhile: then what was read may be wrong.
func (v *view) leave(sc *scratch) (again bool) {
	again = v.s.cuts.Load() != v.cuts
	v.src.calls[sc.shard].Done()
	return again
}

// revisionBefore follows the object's records back from the one at pos.
func (v *view) revisionBefore(ctx context.Context, oid raidstorage.OID, pos int64, before raidstorage.TID, sc *scratch) (raidstorage.Revision, error) {
	if pos == 0 {
		return raidstorage.Revision{}, &raidstorage.NotFoundError{OID: oid}
	}
	buf := v.bufferOf(sc)
	var next raidstorage.TID
	for {
		h, b, err := v.recordAt(pos, v.end, oid, buf)
		if err != nil {
			return raidstorage.Revision{}, err
		}
		if h.tid < before {
			data, err := v.dataOf(ctx, h, b, buf)
			if err == nil && data == nil {
				err = &raidstorage.NotFoundError{OID: oid}
			}
			if err != nil {
				return raidstorage.Revision{}, err
			}
			return raidstorage.Revision{Data: data, Serial: h.tid, Next: next}, nil
		}
		if h.prev == 0 {
			return raidstorage.Revision{}, &raidstorage.NotFoundError{OID: oid, Later: true}
		}
		if err := ctx.Err(); err != nil {
			return raidstorage.Revision{}, err
		}
		pos, next = h.prev, h.tid
	}
}

// bufferOf returns the part of sc.buf that a read of a record is to fill: less where
// the rest of a long one can be copied from a mapping.
func (v *view) bufferOf(sc *scratch) []byte {
	if v.src.mapped.Load() != nil {
		return sc.buf[:maxRecordHeaderLen]
	}
	return sc.buf
}

// recordAt reads the record of oid at pos, below end, with as much of its data as
// fits into buf; that part of buf is returned.
func (v *view) recordAt(pos, end int64, oid raidstorage.OID, buf []byte) (recordHeader, []byte, error) {
	if pos+recordHeaderLen > end {
		return recordHeader{}, nil, v.s.corrupt(&flaw{pos: pos, oid: oid, reason: "pointer to a record beyond the end"})
	}
	b := buf[:min(int64(len(buf)), end-pos)]
	n, certain, err := v.src.peek(b, pos)
	if err == nil && !certain && getSize(b) == 0 {
		// Seldom: it has no data, or the file was cut before the size.
		n, err = v.src.ReadAt(b, pos)
	}
	if n < recordHeaderLen {
		return recordHeader{}, nil, v.s.ioError("read", shortRead(err))
	}
	h, bad := parseRecordHeader(b[:n], pos, end)
	if bad == nil && h.oid != oid {
		bad = &flaw{pos: pos, oid: oid, tid: h.tid, reason: fmt.Sprintf("a record of object %v is where one of this object must be", h.oid)}
	}
	if bad != nil {
		return recordHeader{}, nil, v.s.corrupt(bad)
	}
	return h, b[recordHeaderLen:n], nil
}

func getSize(header []byte) uint64 { return binary.BigEndian.Uint64(header[recordHeaderLen-8:]) }

// dataOf returns the data of the record h in new memory, nil for a deletion. b is
// the beginning of the data, as recordAt left it in buf.
func (v *view) dataOf(ctx context.Context, h recordHeader, b, buf []byte) ([]byte, error) {
	h, b, err := v.source(ctx, h, b, buf)
	if err != nil || h.size == 0 {
		return nil, err
	}
	var data []byte
	if int64(len(b)) >= h.size {
		data = slices.Clip(append([]byte(nil), b[:h.size]...)) // spares clearing it first
	} else {
		data = make([]byte, h.size)
		n := copy(data, b)
		if m, _, err := v.src.peek(data[n:], h.data()+int64(n)); n+m < len(data) {
			return nil, v.s.ioError("read", shortRead(err))
		}
	}
	// No pickle ends with 0, but a mapping does where the file was cut.
	if data[len(data)-1] == 0 {
		if err := readFull(v.src, data, h.data()); err != nil {
			return nil, v.s.ioError("read", err)
		}
	}
	return data, nil
}

// bytesAt returns the data of the record h, nil for a deletion.
func (v *view) bytesAt(h recordHeader) ([]byte, error) {
	if h.size == 0 {
		return nil, nil
	}
	data := make([]byte, h.size)
	if err := readFull(v.src, data, h.data()); err != nil {
		return nil, v.s.ioError("read", err)
	}
	return data, nil
}

// source follows back pointers to the record that has data, or deletes: its size
// is 0 then. Every pointer points backwards, so the chain ends.
func (v *view) source(ctx context.Context, h recordHeader, b, buf []byte) (recordHeader, []byte, error) {
	for h.size == 0 && h.back != 0 {
		if err := ctx.Err(); err != nil {
			return h, nil, err
		}
		var err error
		if h, b, err = v.recordAt(h.back, h.pos, h.oid, buf); err != nil {
			return h, nil, err
		}
	}
	return h, b, nil
}

func shortRead(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// ioError says which storage an operation failed on.
func (s *Storage) ioError(op string, err error) error {
	return fmt.Errorf("storage %s: %s: %w", s.path, op, err)
}

// History implements raidstorage.Historian.
func (s *Storage) History(ctx context.Context, oid raidstorage.OID, limit int) ([]raidstorage.TxnInfo, error) {
	if limit < 0 {
		return nil, &raidstorage.InvalidError{Op: "history", Reason: "limit is negative"}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	sc := s.scratch()
	defer s.scratches.Put(sc)
	for {
		pos, v, err := s.locate(oid, sc)
		if err != nil {
			return nil, err
		}
		infos, err := v.history(ctx, oid, pos, limit, sc)
		if !v.leave(sc) {
			return infos, err
		}
	}
}

func (v *view) history(ctx context.Context, oid raidstorage.OID, pos int64, limit int, sc *scratch) ([]raidstorage.TxnInfo, error) {
	if pos == 0 {
		return nil, &raidstorage.NotFoundError{OID: oid}
	}
	buf := v.bufferOf(sc)
	infos := make([]raidstorage.TxnInfo, 0, min(limit, 16))
	for pos != 0 && len(infos) < limit {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, b, err := v.recordAt(pos, v.end, oid, buf)
		if err != nil {
			return nil, err
		}
		src, _, err := v.source(ctx, h, b, buf)
		if err != nil {
			return nil, err
		}
		meta, err := v.metaAt(h.txn)
		if err != nil {
			return nil, err
		}
		infos = append(infos, raidstorage.TxnInfo{Meta: meta, Size: src.size})
		pos = h.prev
	}
	return infos, nil
}

// metaAt reads the metadata of the transaction at pos.
func (v *view) metaAt(pos int64) (raidstorage.Meta, error) {
	meta, err := v.metaNow(pos)
	if err != nil || meta.Status != statusCheckpoint {
		return meta, err
	}
	v.s.mu.RLock()
	meta.Status = finalStatus(v.s.unsettled, pos)
	v.s.mu.RUnlock()
	if meta.Status == statusCheckpoint { // it got its status after it was read
		return v.metaNow(pos)
	}
	return meta, nil
}

func (v *view) metaNow(pos int64) (raidstorage.Meta, error) {
	w := &window{r: v.src, end: v.end, buf: make([]byte, metaWindow)}
	h, bad, err := w.header(pos)
	if err := v.s.check(bad, err); err != nil {
		return raidstorage.Meta{}, err
	}
	meta, err := w.meta(h)
	if err != nil {
		return raidstorage.Meta{}, v.s.ioError("read", err)
	}
	return meta, nil
}

// metaWindow is what reading a transaction's metadata asks for: most are shorter.
const metaWindow = 512

// batch is how many objects CurrentRecords looks up at a time.
const batch = 256

// CurrentRecords implements raidstorage.RecordIterator.
func (s *Storage) CurrentRecords(ctx context.Context, from raidstorage.OID) iter.Seq2[raidstorage.Record, error] {
	return func(yield func(raidstorage.Record, error) bool) {
		oids := make([]raidstorage.OID, 0, batch)
		known := s.surveyForRecords()
		for {
			var err error
			if oids, err = s.oidsFrom(from, oids[:0]); err != nil {
				yield(raidstorage.Record{}, err)
				return
			}
			for _, oid := range oids {
				rec, err := s.current(ctx, oid)
				if err == nil {
					err = s.attachBlob(&rec, known.of(&rec))
				}
				if err != nil {
					yield(raidstorage.Record{}, err)
					return
				}
				if rec.Data != nil && !yield(rec, nil) {
					return
				}
			}
			if len(oids) < batch || oids[batch-1] == maxOID {
				return
			}
			from = oids[batch-1] + 1
		}
	}
}

const maxOID = ^raidstorage.OID(0)

// oidsFrom appends up to batch oids ≥ from, in order.
func (s *Storage) oidsFrom(from raidstorage.OID, oids []raidstorage.OID) ([]raidstorage.OID, error) {
	s.mu.RLock()
	for !s.index.ordered { // seldom: new oids mostly come in order
		s.mu.RUnlock()
		s.mu.Lock()
		s.index.sort()
		s.mu.Unlock()
		s.mu.RLock()
	}
	defer s.mu.RUnlock()
	if s.closed {
		return nil, raidstorage.ErrClosed
	}
	for e := range s.index.from(from) {
		if oids = append(oids, e.oid); len(oids) == batch {
			break
		}
	}
	return oids, nil
}

// recordSurvey is a survey for records that may be later than it.
type recordSurvey struct {
	s      *Storage
	survey *blobSurvey
	last   raidstorage.TID // when it was made
	cuts   uint64
	mended uint64
	few    int // records before it is worth a look at the directory
}

func (s *Storage) surveyForRecords() recordSurvey {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return recordSurvey{s, newBlobSurvey(s.blobs), s.last, s.cuts.Load(), s.mended.Load(), surveyAfter}
}

// surveyAfter is for callers that want a few records only.
const surveyAfter = 8

// of returns what is known of a record's blob, nil if it is later, or may be.
func (r *recordSurvey) of(rec *raidstorage.Record) *blobSurvey {
	r.few--
	if r.few >= 0 || rec.TID > r.last || r.s.cuts.Load() != r.cuts || r.s.mended.Load() != r.mended {
		return nil
	}
	return r.survey
}

// current returns the current record of oid, without its blob, and with nil Data if it is
// deleted or gone.
func (s *Storage) current(ctx context.Context, oid raidstorage.OID) (raidstorage.Record, error) {
	sc := s.scratch()
	defer s.scratches.Put(sc)
	for {
		if err := ctx.Err(); err != nil {
			return raidstorage.Record{}, err
		}
		pos, v, err := s.locate(oid, sc)
		if err != nil {
			return raidstorage.Record{}, err
		}
		rec, err := v.export(ctx, oid, pos, sc)
		if !v.leave(sc) {
			return rec, err
		}
	}
}

// export reads the record of oid at pos as callers see it.
func (v *view) export(ctx context.Context, oid raidstorage.OID, pos int64, sc *scratch) (raidstorage.Record, error) {
	rec := raidstorage.Record{OID: oid}
	if pos == 0 {
		return rec, nil
	}
	buf := v.bufferOf(sc)
	h, b, err := v.recordAt(pos, v.end, oid, buf)
	if err != nil {
		return rec, err
	}
	rec.TID = h.tid
	if h.back != 0 {
		err = v.repeat(ctx, &rec, h, buf)
		return rec, err
	}
	rec.Data, err = v.dataOf(ctx, h, b, buf)
	return rec, err
}

// repeat fills in what h, which has a back pointer, repeats. Like ZODB's iterators
// it names the transaction that h points to, not the one at the end of a chain.
func (v *view) repeat(ctx context.Context, rec *raidstorage.Record, h recordHeader, buf []byte) error {
	first, b, err := v.recordAt(h.back, h.pos, h.oid, buf)
	if err != nil {
		return err
	}
	if rec.Data, err = v.dataOf(ctx, first, b, buf); rec.Data != nil {
		rec.DataTID = first.tid
	}
	return err
}
