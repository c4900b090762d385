package filestorage

import (
	"cmp"
	"context"
	"iter"
	"slices"

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
		defer r.close()
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
	last      raidstorage.TID
	unsettled []unsettled
	w         window
	tail      window // read backwards
}

// newLogReader pins the file that is read: close ends that.
func (s *Storage) newLogReader(ctx context.Context) (*logReader, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, raidstorage.ErrClosed
	}
	src := s.pinLocked()
	v := s.viewLocked()
	// Not through the mapping: the system reads ahead for system calls.
	return &logReader{
		s: s, ctx: ctx, view: v, last: s.last, unsettled: s.unsettled,
		w: window{r: src.file, end: v.end}, tail: window{r: src.file, end: v.end, back: true},
	}, nil
}

func (r *logReader) close() { r.s.unpin(r.src) }

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
		r.final(&h)
		return bad, err
	})
	return h, err
}

// before reads the header of the transaction that ends at pos.
func (r *logReader) before(pos int64) (h txnHeader, err error) {
	err = r.step(func() (bad *flaw, err error) {
		h, bad, err = r.tail.before(pos)
		r.final(&h)
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
		if r.final(&h); h.status == statusCheckpoint {
			return &flaw{pos: pos, tid: h.tid, reason: "unfinished transaction before the end of the file"}, nil
		}
		if meta, err = r.w.meta(h); err == nil {
			meta.Status = h.status
		}
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
			sc := r.s.scratch()
			defer r.s.scratches.Put(sc)
			return nil, r.repeat(r.ctx, &out, rec, r.bufferOf(sc))
		}
		return nil, nil
	})
	return out, next, err
}

// final gives h the status that it has for readers: in the file it may be 'c' still.
func (r *logReader) final(h *txnHeader) {
	if h.status == statusCheckpoint {
		h.status = finalStatus(r.unsettled, h.pos)
	}
}

// finalStatus returns the status that the transaction at pos will have in the file,
// 'c' if it is not one of those that are finished.
func finalStatus(all []unsettled, pos int64) raidstorage.TxnStatus {
	i, found := slices.BinarySearchFunc(all, pos, func(u unsettled, pos int64) int { return cmp.Compare(u.pos, pos) })
	if !found {
		return statusCheckpoint
	}
	return all[i].status
}
