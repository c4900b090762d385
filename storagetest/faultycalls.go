package storagetest

import (
	"context"
	"errors"
	"io"
	"iter"
	"slices"

	"github.com/zeoraid/raidstorage"
)

// Name returns the wrapped storage's name.
func (f *FaultyStorage) Name() string { return f.inner.Name() }

// LoadBefore is CallLoad.
func (f *FaultyStorage) LoadBefore(ctx context.Context, oid raidstorage.OID, before raidstorage.TID) (raidstorage.Revision, error) {
	return do(ctx, f.enter(CallLoad, oid, before, nil), func(ctx context.Context) (raidstorage.Revision, error) {
		return f.inner.LoadBefore(ctx, oid, before)
	}, func(rev raidstorage.Revision) raidstorage.Revision {
		rev.Data = flip(rev.Data)
		return rev
	})
}

// LastTID is CallLastTID.
func (f *FaultyStorage) LastTID(ctx context.Context) (raidstorage.TID, error) {
	return do(ctx, f.enter(CallLastTID, 0, 0, nil), f.inner.LastTID, nextTID)
}

// NewOIDs is CallNewOIDs.
func (f *FaultyStorage) NewOIDs(ctx context.Context, n int) ([]raidstorage.OID, error) {
	return do(ctx, f.enter(CallNewOIDs, 0, 0, nil), func(ctx context.Context) ([]raidstorage.OID, error) {
		return f.inner.NewOIDs(ctx, n)
	}, nil)
}

// Iterate is CallIterate, and CallNext before each transaction. A fault of
// CallNext ends the iteration, unless it only corrupts or delays.
func (f *FaultyStorage) Iterate(ctx context.Context, from, through raidstorage.TID) iter.Seq2[*raidstorage.Transaction, error] {
	return func(yield func(*raidstorage.Transaction, error) bool) {
		c := f.enter(CallIterate, 0, from, nil)
		sequence(ctx, c, func(ctx context.Context) iter.Seq2[*raidstorage.Transaction, error] {
			return f.inner.Iterate(ctx, from, through)
		}, step[*raidstorage.Transaction]{
			id:      func(t *raidstorage.Transaction) (raidstorage.OID, raidstorage.TID) { return 0, t.TID },
			corrupt: corruptTransaction,
		}, yield)
	}
}

// CurrentRecords is CallCurrentRecords, and CallNext before each record.
func (f *FaultyStorage) CurrentRecords(ctx context.Context, from raidstorage.OID) iter.Seq2[raidstorage.Record, error] {
	return func(yield func(raidstorage.Record, error) bool) {
		c := f.enter(CallCurrentRecords, from, 0, nil)
		sequence(ctx, c, func(ctx context.Context) iter.Seq2[raidstorage.Record, error] {
			inner, err := raidstorage.Can[raidstorage.RecordIterator](f.inner)
			if err != nil {
				return func(yield func(raidstorage.Record, error) bool) { yield(raidstorage.Record{}, err) }
			}
			return inner.CurrentRecords(ctx, from)
		}, step[raidstorage.Record]{
			id:      func(r raidstorage.Record) (raidstorage.OID, raidstorage.TID) { return r.OID, r.TID },
			corrupt: corruptRecord,
		}, yield)
	}
}

// step is what sequence must know about what it yields.
type step[T any] struct {
	id      func(T) (raidstorage.OID, raidstorage.TID)
	corrupt func(T) T
}

// sequence passes on an iteration of the wrapped storage, with faults.
func sequence[T any](ctx context.Context, c *call, inner func(context.Context) iter.Seq2[T, error], s step[T], yield func(T, error) bool) {
	var none T
	if err := c.before(ctx, true); err != nil {
		c.leave(0, err)
		yield(none, err)
		return
	}
	inside, end := c.bounded(ctx)
	defer end()
	for item, err := range inner(inside) {
		if err != nil {
			err = c.after(err)
			c.leave(0, err)
			yield(none, err)
			return
		}
		oid, tid := s.id(item)
		next := c.f.enter(CallNext, oid, tid, c.cut)
		item, err = answer(ctx, next, func(context.Context) (T, error) { return item, nil }, s.corrupt)
		next.leave(0, err)
		if err == nil && c.kind() == Corrupt {
			item = s.corrupt(item)
		}
		if err != nil {
			c.leave(0, err)
			yield(none, err)
			return
		}
		if !yield(item, nil) {
			c.leave(0, nil)
			return
		}
	}
	err := c.after(nil) // the reply that LoseReply loses is the last one: the end
	c.leave(0, err)
	if err != nil {
		yield(none, err)
	}
}

// Close is CallClose. It always closes the wrapped storage, also when a fault
// makes it return an error.
func (f *FaultyStorage) Close() error {
	c := f.enter(CallClose, 0, 0, context.Background())
	err := c.before(context.Background(), false)
	inner := f.inner.Close()
	if err == nil {
		err = c.after(inner)
	}
	c.leave(0, err)
	return err
}

// UndoLog is CallUndoLog.
func (f *FaultyStorage) UndoLog(ctx context.Context, skip, limit int, match func(raidstorage.TxnInfo) bool) ([]raidstorage.TxnInfo, error) {
	return capable(ctx, f, f.enter(CallUndoLog, 0, 0, nil), func(ctx context.Context, u raidstorage.Undoer) ([]raidstorage.TxnInfo, error) {
		return u.UndoLog(ctx, skip, limit, match)
	})
}

// History is CallHistory.
func (f *FaultyStorage) History(ctx context.Context, oid raidstorage.OID, limit int) ([]raidstorage.TxnInfo, error) {
	return capable(ctx, f, f.enter(CallHistory, oid, 0, nil), func(ctx context.Context, h raidstorage.Historian) ([]raidstorage.TxnInfo, error) {
		return h.History(ctx, oid, limit)
	})
}

// Pack is CallPack.
func (f *FaultyStorage) Pack(ctx context.Context, opts raidstorage.PackOptions) error {
	_, err := capable(ctx, f, f.enter(CallPack, 0, opts.Through, nil), func(ctx context.Context, p raidstorage.Packer) (struct{}, error) {
		return struct{}{}, p.Pack(ctx, opts)
	})
	return err
}

// FindGarbage is CallFindGarbage.
func (f *FaultyStorage) FindGarbage(ctx context.Context, through raidstorage.TID, decide func(context.Context) error) ([]raidstorage.OID, error) {
	return capable(ctx, f, f.enter(CallFindGarbage, 0, through, nil), func(ctx context.Context, g raidstorage.GarbageFinder) ([]raidstorage.OID, error) {
		return g.FindGarbage(ctx, through, decide)
	})
}

// FindKept is CallFindGarbage.
func (f *FaultyStorage) FindKept(ctx context.Context, through raidstorage.TID, decide func(context.Context) error) (garbage, kept []raidstorage.OID, err error) {
	found, err := capable(ctx, f, f.enter(CallFindGarbage, 0, through, nil), func(ctx context.Context, k raidstorage.KeptFinder) (found [2][]raidstorage.OID, err error) {
		found[0], found[1], err = k.FindKept(ctx, through, decide)
		return found, err
	})
	return found[0], found[1], err
}

// EstimatePack is CallEstimatePack.
func (f *FaultyStorage) EstimatePack(ctx context.Context, opts raidstorage.PackOptions) (raidstorage.PackEstimate, error) {
	return capable(ctx, f, f.enter(CallEstimatePack, 0, opts.Through, nil), func(ctx context.Context, p raidstorage.PackEstimator) (raidstorage.PackEstimate, error) {
		return p.EstimatePack(ctx, opts)
	})
}

// TruncateAfter is CallTruncate.
func (f *FaultyStorage) TruncateAfter(ctx context.Context, tid, last raidstorage.TID) error {
	_, err := capable(ctx, f, f.enter(CallTruncate, 0, tid, nil), func(ctx context.Context, t raidstorage.Truncater) (struct{}, error) {
		return struct{}{}, t.TruncateAfter(ctx, tid, last)
	})
	return err
}

// Size is CallSize.
func (f *FaultyStorage) Size(ctx context.Context) (objects, bytes int64, err error) {
	size, err := capable(ctx, f, f.enter(CallSize, 0, 0, nil), func(ctx context.Context, s raidstorage.Sizer) ([2]int64, error) {
		objects, bytes, err := s.Size(ctx)
		return [2]int64{objects, bytes}, err
	})
	return size[0], size[1], err
}

// CheckRecord asks the wrapped storage. One that is no Mender says that it cannot tell.
func (f *FaultyStorage) CheckRecord(data []byte) (bool, error) {
	m, err := raidstorage.Can[raidstorage.Mender](f.inner)
	if err != nil {
		return false, nil
	}
	return m.CheckRecord(data)
}

// MendRecord is CallMend.
func (f *FaultyStorage) MendRecord(ctx context.Context, oid raidstorage.OID, tid raidstorage.TID, damaged, good []byte) (string, error) {
	return capable(ctx, f, f.enter(CallMend, oid, tid, nil), func(ctx context.Context, m raidstorage.Mender) (string, error) {
		return m.MendRecord(ctx, oid, tid, damaged, good)
	})
}

// BlobStamp asks the wrapped storage.
func (f *FaultyStorage) BlobStamp(ctx context.Context, oid raidstorage.OID, tid raidstorage.TID) (string, error) {
	m, err := raidstorage.Can[raidstorage.Mender](f.inner)
	if err != nil {
		return "", err
	}
	return m.BlobStamp(ctx, oid, tid)
}

// StageBlob is CallStageBlob.
func (f *FaultyStorage) StageBlob(ctx context.Context, oid raidstorage.OID, tid raidstorage.TID, good raidstorage.BlobSum, blob io.Reader) (raidstorage.BlobMend, error) {
	staged, err := capable(ctx, f, f.enter(CallStageBlob, oid, tid, nil), func(ctx context.Context, m raidstorage.Mender) (raidstorage.BlobMend, error) {
		return m.StageBlob(ctx, oid, tid, good, blob)
	})
	if err != nil {
		return nil, err
	}
	return faultyMend{staged, f, oid, tid}, nil
}

// faultyMend makes Place a CallMend.
type faultyMend struct {
	raidstorage.BlobMend
	f   *FaultyStorage
	oid raidstorage.OID
	tid raidstorage.TID
}

// Place implements raidstorage.BlobMend.
func (m faultyMend) Place(ctx context.Context, damaged string) (string, error) {
	return do(ctx, m.f.enter(CallMend, m.oid, m.tid, nil), func(ctx context.Context) (string, error) {
		return m.BlobMend.Place(ctx, damaged)
	}, nil)
}

// capable is a call of an optional interface of the wrapped storage.
func capable[C, T any](ctx context.Context, f *FaultyStorage, c *call, inner func(context.Context, C) (T, error)) (T, error) {
	return do(ctx, c, func(ctx context.Context) (T, error) {
		capability, err := raidstorage.Can[C](f.inner)
		if err != nil {
			var none T
			return none, err
		}
		return inner(ctx, capability)
	}, nil)
}

// OpenBlob is CallOpenBlob. A corrupted blob is one whose first byte is flipped.
func (f *FaultyStorage) OpenBlob(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID) (io.ReadCloser, error) {
	c := f.enter(CallOpenBlob, oid, serial, nil)
	// Not do: the blob is read under the context after the call has returned.
	blob, err := func() (io.ReadCloser, error) {
		if err := c.before(ctx, true); err != nil {
			return nil, err
		}
		loader, err := raidstorage.Can[raidstorage.BlobLoader](f.inner)
		if err != nil {
			return nil, err
		}
		inside, end := c.bounded(ctx)
		inner, err := loader.OpenBlob(inside, oid, serial)
		if lost := c.after(err); lost != nil {
			if err == nil {
				lost = errors.Join(lost, inner.Close())
			}
			end()
			return nil, lost
		}
		return &faultyBlob{ReadCloser: inner, end: end, flip: c.kind() == Corrupt}, nil
	}()
	c.leave(0, err)
	return blob, err
}

// faultyBlob frees a call's context when the blob is closed.
type faultyBlob struct {
	io.ReadCloser
	end  func()
	flip bool // the next byte
}

// Read reads the blob.
func (b *faultyBlob) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 && b.flip {
		p[0] ^= 0x10
		b.flip = false
	}
	return n, err
}

// Close closes the blob.
func (b *faultyBlob) Close() error {
	defer b.end()
	return b.ReadCloser.Close()
}

// Subscribe passes on invalidations, each a CallNotify, while the connection is
// not cut. Where the wrapped storage has none, notify is never called.
func (f *FaultyStorage) Subscribe(notify func(raidstorage.Invalidation)) (cancel func()) {
	inner, err := raidstorage.Can[raidstorage.Notifier](f.inner)
	if err != nil {
		return func() {}
	}
	return inner.Subscribe(func(inv raidstorage.Invalidation) {
		c := f.enter(CallNotify, 0, inv.TID, nil)
		if c.fault != nil && c.fault.Hook != nil {
			c.fault.Hook()
		}
		err := c.cutErr()
		if err == nil && c.kind() == Fail {
			err = c.err
		}
		c.leave(0, err)
		if err == nil {
			notify(inv)
		}
	})
}

// flip returns data with one bit flipped, in a copy.
func flip(data []byte) []byte {
	if len(data) == 0 {
		return data
	}
	data = slices.Clone(data)
	data[len(data)/2] ^= 0x10
	return data
}

func nextTID(tid raidstorage.TID) raidstorage.TID { return tid + 1 }

func corruptRecord(rec raidstorage.Record) raidstorage.Record {
	rec.Data = flip(rec.Data)
	return rec
}

// corruptTransaction returns a transaction with a bit flipped in each record.
func corruptTransaction(t *raidstorage.Transaction) *raidstorage.Transaction {
	lie := *t
	lie.Records = func(yield func(raidstorage.Record, error) bool) {
		for rec, err := range t.Records {
			if !yield(corruptRecord(rec), err) {
				return
			}
		}
	}
	return &lie
}
