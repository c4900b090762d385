package filestorage

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"slices"

	"github.com/zeoraid/raidstorage"
)

// Iterate implements raidstorage.Storage: it reads the file from front to back. If TruncateAfter cuts transactions off meanwhile, it
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
	tail      window               // read backwards
	batch     []raidstorage.Record // memory for readBatch
	slab      []byte               // for the data of the next small records
	blobs     *blobSurvey
	unmapped  bool // whether the mapping is not to be trusted
	marks     int  // for landmarks.note
	noted     [2]int64
}

// pass notes the transaction with header h as a landmark, if it is far from the last one
// that was noted in that direction: 0 for forwards, 1 for backwards.
func (r *logReader) pass(h txnHeader, direction int) {
	if d := h.pos - r.noted[direction]; d < landmarksApart && d > -landmarksApart {
		return
	}
	r.noted[direction] = h.pos
	r.src.marks.note(h.tid, h.pos, r.marks)
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
	return &logReader{
		s: s, ctx: ctx, view: v, last: s.last, unsettled: s.unsettled,
		w: window{r: src.file, end: v.end}, tail: window{r: src.file, end: v.end, back: true},
		blobs: newBlobSurvey(s.blobs), marks: src.marks.reader(),
	}, nil
}

func (r *logReader) close() { r.s.unpin(r.src) }

// step runs read, one short piece of work on the file, unless the storage was
// closed or truncated or the context has ended. It may run it twice.
func (r *logReader) step(read func() (*flaw, error)) error {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	if err := r.s.enter(); err != nil {
		return err
	}
	defer r.s.calls.Done()
	bad, err := r.mapped(read)
	if r.s.cuts.Load() != r.cuts {
		r.s.mu.RLock()
		defer r.s.mu.RUnlock()
		return &raidstorage.TIDOrderError{TID: r.last, Last: r.s.last}
	}
	return r.s.check(bad, err)
}

// mapped runs read on the mapping of the file, if there is one: that spares a copy, a
// fifth of the time. If it finds anything wrong, it runs it again with system calls,
// which know what is.
func (r *logReader) mapped(read func() (*flaw, error)) (*flaw, error) {
	if m := r.src.mapped.Load(); m != nil && !r.unmapped {
		r.w.m = (*m)[:min(int64(len(*m)), r.end)]
		r.tail.m = r.w.m
		bad, ok, err := guarded(read)
		if r.w.m, r.tail.m = nil, nil; ok && bad == nil && err == nil {
			return nil, nil
		}
		r.unmapped = true
	}
	return read()
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
// end. It walks from both ends at the same time, or from the landmarks around it, so
// that it takes no longer than twice the way from the nearer one.
func (r *logReader) find(from raidstorage.TID) (int64, error) {
	if from > r.last {
		return r.end, nil
	}
	front, back := r.src.marks.around(from, magicLen, r.end)
	for front < back {
		h, err := r.header(front)
		if err != nil {
			return 0, err
		}
		r.pass(h, 0)
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
		r.pass(h, 1)
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
		if meta, err = r.w.meta(h); err != nil {
			return nil, err
		}
		meta.Status = h.status
		return r.uncut(h)
	})
	if err != nil {
		return nil, 0, err
	}
	r.pass(h, 0)
	return &raidstorage.Transaction{Meta: meta, Records: r.records(h)}, h.next(), nil
}

// records yields the records of the transaction with header h, and at their end
// checks that the transaction ends there. It reads some of them at a time, in memory
// that they share: single allocations and steps would take a third of the time.
func (r *logReader) records(h txnHeader) iter.Seq2[raidstorage.Record, error] {
	return func(yield func(raidstorage.Record, error) bool) {
		batch := r.batch
		r.batch = nil // a range within this one takes memory of its own
		defer func() { r.batch = batch }()
		for pos := h.records(); pos < h.end(); {
			var err error
			batch, pos, err = r.readBatch(batch[:0], pos, h)
			for i := range batch {
				if err := r.s.attachBlob(&batch[i], r.blobs); err != nil {
					yield(raidstorage.Record{}, err)
					return
				}
				if !yield(batch[i], nil) {
					return
				}
			}
			if err != nil {
				yield(raidstorage.Record{}, err)
				return
			}
		}
		err := r.step(func() (*flaw, error) { return r.w.trailer(h) })
		if err != nil {
			yield(raidstorage.Record{}, err)
		}
	}
}

// How much readBatch reads at most, and what records share. Whoever keeps the data of
// one record keeps slabSize bytes at most.
const (
	batchRecords = 64
	batchBytes   = 64 << 10
	slabSize     = 4 << 10
)

// readBatch appends the records from pos on to batch, some of them, and returns where
// the next one is. With an error, they are those before it.
func (r *logReader) readBatch(batch []raidstorage.Record, pos int64, h txnHeader) ([]raidstorage.Record, int64, error) {
	have, from := len(batch), pos
	err := r.step(func() (*flaw, error) {
		batch, pos = batch[:have], from
		for start := pos; pos < h.end() && pos-start < batchBytes && len(batch) < batchRecords; {
			rec, bad, err := r.w.record(pos, h)
			if bad != nil || err != nil {
				return bad, err
			}
			out := raidstorage.Record{OID: rec.oid, TID: rec.tid}
			if err := r.fill(&out, rec); err != nil {
				return nil, err
			}
			batch, pos = append(batch, out), rec.next()
		}
		return r.uncut(h)
	})
	if _, cut := errors.AsType[*raidstorage.TIDOrderError](err); cut {
		batch = batch[:0] // they may be others than those that were there
	}
	return batch, pos, err
}

// uncut returns a flaw if what was read from the mapping, of the transaction with
// header h, may be wrong: where somebody cuts the file, the rest of the last page reads
// as 0. It is right if, after that, the transaction still has its end.
func (r *logReader) uncut(h txnHeader) (*flaw, error) {
	if r.w.m == nil {
		return nil, nil
	}
	return r.w.trailer(h)
}

// fill reads the data of rec into out.
func (r *logReader) fill(out *raidstorage.Record, rec recordHeader) error {
	switch {
	case rec.size > slabSize/4 && rec.next() <= int64(len(r.w.m)):
		out.Data = slices.Clip(append([]byte(nil), r.w.m[rec.data():rec.next()]...)) // spares clearing it first
		return nil
	case rec.size > slabSize/4:
		out.Data = make([]byte, rec.size)
		return r.w.read(out.Data, rec.data())
	case rec.size > 0:
		n := int(rec.size)
		if len(r.slab) < n {
			r.slab = make([]byte, slabSize)
		}
		out.Data, r.slab = r.slab[:n:n], r.slab[n:]
		return r.w.read(out.Data, rec.data())
	case rec.back != 0:
		sc := r.s.scratch()
		defer r.s.scratches.Put(sc)
		return r.repeat(r.ctx, out, rec, r.bufferOf(sc))
	}
	return nil
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
