package filestorage

import (
	"context"
	"iter"

	"github.com/zeoraid/raidstorage"
)

// Iterate implements raidstorage.Storage: it reads the file from front to back
// through a buffer of its own. If TruncateAfter cuts transactions off meanwhile, it
// ends with a *TIDOrderError: what was yielded may not be in the file any more.
func (s *Storage) Iterate(ctx context.Context, from, through raidstorage.TID) iter.Seq2[*raidstorage.Transaction, error] {
	return func(yield func(*raidstorage.Transaction, error) bool) {
		r, err := s.newLogReader(ctx)
		if err != nil {
			yield(nil, err)
			return
		}
		pos, err := r.find(from)
		for err == nil && pos < r.end {
			var txn *raidstorage.Transaction
			if txn, pos, err = r.transaction(pos); err != nil || txn.TID > through {
				break
			}
			if txn.Status != statusUndone && !yield(txn, nil) {
				return
			}
		}
		if err != nil {
			yield(nil, err)
		}
	}
}

// logReader reads the transactions that were finished when it was made. It is for
// one goroutine. Close of the storage does not wait for it, but for each step.
type logReader struct {
	s   *Storage
	ctx context.Context // of the one call that it serves
	view
	last raidstorage.TID
	w    window
	tail window // read backwards
}

func (s *Storage) newLogReader(ctx context.Context) (*logReader, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, raidstorage.ErrClosed
	}
	v := view{s.end, s.cuts.Load()}
	return &logReader{
		s: s, ctx: ctx, view: v, last: s.last,
		w: window{r: s.f, end: v.end}, tail: window{r: s.f, end: v.end, back: true},
	}, nil
}

// step runs read, one short piece of work on the file, unless the storage was
// closed or truncated or the context has ended.
func (r *logReader) step(read func() (*flaw, error)) error {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	if err := r.s.enter(); err != nil {
		return err
	}
	defer r.s.calls.Done()
	bad, err := read()
	if r.s.cuts.Load() != r.cuts {
		r.s.mu.RLock()
		defer r.s.mu.RUnlock()
		return &raidstorage.TIDOrderError{TID: r.last, Last: r.s.last}
	}
	return r.s.check(bad, err)
}

// header reads the header of the transaction at pos.
func (r *logReader) header(pos int64) (h txnHeader, err error) {
	err = r.step(func() (bad *flaw, err error) {
		h, bad, err = r.w.header(pos)
		return bad, err
	})
	return h, err
}

// before reads the header of the transaction that ends at pos.
func (r *logReader) before(pos int64) (h txnHeader, err error) {
	err = r.step(func() (bad *flaw, err error) {
		h, bad, err = r.tail.before(pos)
		return bad, err
	})
	return h, err
}

// find returns the position of the first transaction with a tid ≥ from, or the
// end. It walks from both ends at the same time, so that it takes no longer than
// twice the way from the nearer one.
func (r *logReader) find(from raidstorage.TID) (int64, error) {
	if from > r.last {
		return r.end, nil
	}
	front, back := int64(magicLen), r.end
	for front < back {
		h, err := r.header(front)
		if err != nil {
			return 0, err
		}
		if h.tid >= from {
			return front, nil
		}
		front = h.next()
		if front >= back {
			break
		}
		if h, err = r.before(back); err != nil {
			return 0, err
		}
		if h.tid < from {
			return back, nil
		}
		back = h.pos
	}
	return back, nil
}

// transaction reads the one at pos and returns it with the position of the next.
func (r *logReader) transaction(pos int64) (txn *raidstorage.Transaction, next int64, err error) {
	var h txnHeader
	var meta raidstorage.Meta
	err = r.step(func() (bad *flaw, err error) {
		if h, bad, err = r.w.header(pos); bad != nil || err != nil {
			return bad, err
		}
		if h.status == statusCheckpoint {
			return &flaw{pos: pos, tid: h.tid, reason: "unfinished transaction before the end of the file"}, nil
		}
		meta, err = r.w.meta(h)
		return nil, err
	})
	if err != nil {
		return nil, 0, err
	}
	return &raidstorage.Transaction{Meta: meta, Records: r.records(h)}, h.next(), nil
}

// records yields the records of the transaction with header h, and at their end
// checks that the transaction ends there.
func (r *logReader) records(h txnHeader) iter.Seq2[raidstorage.Record, error] {
	return func(yield func(raidstorage.Record, error) bool) {
		for pos := h.records(); pos < h.end(); {
			rec, next, err := r.record(pos, h)
			if !yield(rec, err) || err != nil {
				return
			}
			pos = next
		}
		err := r.step(func() (*flaw, error) { return r.w.trailer(h) })
		if err != nil {
			yield(raidstorage.Record{}, err)
		}
	}
}

func (r *logReader) record(pos int64, h txnHeader) (out raidstorage.Record, next int64, err error) {
	err = r.step(func() (*flaw, error) {
		rec, bad, err := r.w.record(pos, h)
		if bad != nil || err != nil {
			return bad, err
		}
		out, next = raidstorage.Record{OID: rec.oid, TID: rec.tid}, rec.next()
		switch {
		case rec.size > 0:
			out.Data = make([]byte, rec.size)
			return nil, r.w.read(out.Data, rec.data())
		case rec.back != 0:
			buf := r.s.buffer()
			defer r.s.buffers.Put(buf)
			return nil, r.s.repeat(r.ctx, &out, rec, *buf)
		}
		return nil, nil
	})
	return out, next, err
}
