package filestorage

import (
	"context"
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

// view is a moment of the storage: all transactions that were finished then.
type view struct {
	end  int64
	cuts uint64
}

// LoadBefore implements raidstorage.Storage. No lock is held while it reads.
func (s *Storage) LoadBefore(ctx context.Context, oid raidstorage.OID, before raidstorage.TID) (raidstorage.Revision, error) {
	if err := ctx.Err(); err != nil {
		return raidstorage.Revision{}, err
	}
	for {
		pos, v, err := s.locate(oid)
		if err != nil {
			return raidstorage.Revision{}, err
		}
		rev, err := s.revisionBefore(ctx, oid, pos, before, v.end)
		again := s.cuts.Load() != v.cuts
		s.calls.Done()
		if !again {
			return rev, err
		}
	}
}

// locate begins a call, see enter, and returns where oid's current record is.
func (s *Storage) locate(oid raidstorage.OID) (int64, view, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return 0, view{}, raidstorage.ErrClosed
	}
	s.calls.Add(1)
	return s.index.get(oid), view{s.end, s.cuts.Load()}, nil
}

// revisionBefore follows the object's records back from the one at pos.
func (s *Storage) revisionBefore(ctx context.Context, oid raidstorage.OID, pos int64, before raidstorage.TID, end int64) (raidstorage.Revision, error) {
	if pos == 0 {
		return raidstorage.Revision{}, &raidstorage.NotFoundError{OID: oid}
	}
	buf := s.buffer()
	defer s.buffers.Put(buf)
	var next raidstorage.TID
	for {
		h, b, err := s.recordAt(pos, end, oid, *buf)
		if err != nil {
			return raidstorage.Revision{}, err
		}
		if h.tid < before {
			data, err := s.dataOf(ctx, h, b, *buf)
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

// buffer returns a buffer of readSize bytes, to be put back into s.buffers.
func (s *Storage) buffer() *[]byte {
	if b, ok := s.buffers.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, readSize)
	return &b
}

// recordAt reads the record of oid at pos, below end, with as much of its data as
// fits into buf; that part of buf is returned.
func (s *Storage) recordAt(pos, end int64, oid raidstorage.OID, buf []byte) (recordHeader, []byte, error) {
	if pos+recordHeaderLen > end {
		return recordHeader{}, nil, s.corrupt(&flaw{pos: pos, oid: oid, reason: "pointer to a record beyond the end"})
	}
	n, err := s.f.ReadAt(buf[:min(int64(len(buf)), end-pos)], pos)
	if n < recordHeaderLen {
		return recordHeader{}, nil, s.ioError("read", shortRead(err))
	}
	h, bad := parseRecordHeader(buf[:n], pos, end)
	if bad == nil && h.oid != oid {
		bad = &flaw{pos: pos, oid: oid, tid: h.tid, reason: fmt.Sprintf("a record of object %v is where one of this object must be", h.oid)}
	}
	if bad != nil {
		return recordHeader{}, nil, s.corrupt(bad)
	}
	return h, buf[recordHeaderLen:n], nil
}

// dataOf returns the data of the record h in new memory, nil for a deletion. b is
// the beginning of the data, as recordAt left it in buf.
func (s *Storage) dataOf(ctx context.Context, h recordHeader, b, buf []byte) ([]byte, error) {
	h, b, err := s.source(ctx, h, b, buf)
	if err != nil || h.size == 0 {
		return nil, err
	}
	if int64(len(b)) >= h.size {
		return slices.Clip(append([]byte(nil), b[:h.size]...)), nil // spares clearing it first
	}
	data := make([]byte, h.size)
	n := copy(data, b)
	if err := readFull(s.f, data[n:], h.data()+int64(n)); err != nil {
		return nil, s.ioError("read", err)
	}
	return data, nil
}

// source follows back pointers to the record that has data, or deletes: its size
// is 0 then. Every pointer points backwards, so the chain ends.
func (s *Storage) source(ctx context.Context, h recordHeader, b, buf []byte) (recordHeader, []byte, error) {
	for h.size == 0 && h.back != 0 {
		if err := ctx.Err(); err != nil {
			return h, nil, err
		}
		var err error
		if h, b, err = s.recordAt(h.back, h.pos, h.oid, buf); err != nil {
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
	for {
		pos, v, err := s.locate(oid)
		if err != nil {
			return nil, err
		}
		infos, err := s.history(ctx, oid, pos, limit, v.end)
		again := s.cuts.Load() != v.cuts
		s.calls.Done()
		if !again {
			return infos, err
		}
	}
}

func (s *Storage) history(ctx context.Context, oid raidstorage.OID, pos int64, limit int, end int64) ([]raidstorage.TxnInfo, error) {
	if pos == 0 {
		return nil, &raidstorage.NotFoundError{OID: oid}
	}
	buf := s.buffer()
	defer s.buffers.Put(buf)
	infos := make([]raidstorage.TxnInfo, 0, min(limit, 16))
	for pos != 0 && len(infos) < limit {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, b, err := s.recordAt(pos, end, oid, *buf)
		if err != nil {
			return nil, err
		}
		src, _, err := s.source(ctx, h, b, *buf)
		if err != nil {
			return nil, err
		}
		meta, err := s.metaAt(h.txn, end, *buf)
		if err != nil {
			return nil, err
		}
		infos = append(infos, raidstorage.TxnInfo{Meta: meta, Size: src.size})
		pos = h.prev
	}
	return infos, nil
}

// metaAt reads the metadata of the transaction at pos.
func (s *Storage) metaAt(pos, end int64, buf []byte) (raidstorage.Meta, error) {
	w := &window{r: s.f, end: end, buf: buf}
	h, bad, err := w.header(pos)
	if err := s.check(bad, err); err != nil {
		return raidstorage.Meta{}, err
	}
	meta, err := w.meta(h)
	if err != nil {
		return raidstorage.Meta{}, s.ioError("read", err)
	}
	return meta, nil
}

// batch is how many objects CurrentRecords looks up at a time.
const batch = 256

// CurrentRecords implements raidstorage.RecordIterator.
func (s *Storage) CurrentRecords(ctx context.Context, from raidstorage.OID) iter.Seq2[raidstorage.Record, error] {
	return func(yield func(raidstorage.Record, error) bool) {
		oids := make([]raidstorage.OID, 0, batch)
		for {
			var err error
			if oids, err = s.oidsFrom(from, oids[:0]); err != nil {
				yield(raidstorage.Record{}, err)
				return
			}
			for _, oid := range oids {
				rec, err := s.current(ctx, oid)
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

// current returns the current record of oid, with nil Data if it is deleted or
// gone.
func (s *Storage) current(ctx context.Context, oid raidstorage.OID) (raidstorage.Record, error) {
	for {
		if err := ctx.Err(); err != nil {
			return raidstorage.Record{}, err
		}
		pos, v, err := s.locate(oid)
		if err != nil {
			return raidstorage.Record{}, err
		}
		rec, err := s.export(ctx, oid, pos, v.end)
		again := s.cuts.Load() != v.cuts
		s.calls.Done()
		if !again {
			return rec, err
		}
	}
}

// export reads the record of oid at pos as callers see it.
func (s *Storage) export(ctx context.Context, oid raidstorage.OID, pos, end int64) (raidstorage.Record, error) {
	rec := raidstorage.Record{OID: oid}
	if pos == 0 {
		return rec, nil
	}
	buf := s.buffer()
	defer s.buffers.Put(buf)
	h, b, err := s.recordAt(pos, end, oid, *buf)
	if err != nil {
		return rec, err
	}
	rec.TID = h.tid
	if h.back != 0 {
		err = s.repeat(ctx, &rec, h, *buf)
		return rec, err
	}
	rec.Data, err = s.dataOf(ctx, h, b, *buf)
	return rec, err
}

// repeat fills in what h, which has a back pointer, repeats. Like ZODB's iterators
// it names the transaction that h points to, not the one at the end of a chain.
func (s *Storage) repeat(ctx context.Context, rec *raidstorage.Record, h recordHeader, buf []byte) error {
	first, b, err := s.recordAt(h.back, h.pos, h.oid, buf)
	if err != nil {
		return err
	}
	if rec.Data, err = s.dataOf(ctx, first, b, buf); rec.Data != nil {
		rec.DataTID = first.tid
	}
	return err
}
