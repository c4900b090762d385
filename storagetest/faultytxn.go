package storagetest

import (
	"context"
	"errors"
	"io"

	"github.com/zeoraid/raidstorage"
)

// faultyTxn is a transaction of a FaultyStorage. It must be able to abort the inner
// one when the connection is cut, from another goroutine than its owner's.
type faultyTxn struct {
	f     *FaultyStorage
	inner raidstorage.Txn
	cut   context.Context // of the connection that it was begun on
	slot  chan struct{}   // one slot, held across calls of inner, which is not safe for concurrent use
	lost  bool            // guarded by slot: aborted because of the cut
}

// These have the optional methods that the inner transaction has: raidstorage.Undo and
// StoreBlob, and mirrors, look at the type.
type (
	undoTxn          struct{ *faultyTxn }
	blobTxn          struct{ *faultyTxn }
	undoBlobTxn      struct{ undoTxn }
	startTxn         struct{ *faultyTxn }
	startUndoTxn     struct{ undoTxn }
	startBlobTxn     struct{ blobTxn }
	startUndoBlobTxn struct{ undoBlobTxn }
	sendTxn          struct{ *faultyTxn }
	sendUndoTxn      struct{ undoTxn }
	sendBlobTxn      struct{ blobTxn }
	sendUndoBlobTxn  struct{ undoBlobTxn }
)

var (
	_ raidstorage.UndoTxn = undoTxn{}
	_ raidstorage.BlobTxn = blobTxn{}
	_ raidstorage.UndoTxn = undoBlobTxn{}
	_ raidstorage.BlobTxn = undoBlobTxn{}

	_ raidstorage.FinishStarter = startTxn{}
	_ raidstorage.FinishStarter = startUndoTxn{}
	_ raidstorage.FinishStarter = startBlobTxn{}
	_ raidstorage.FinishStarter = startUndoBlobTxn{}

	_ raidstorage.FinishSender = sendTxn{}
	_ raidstorage.FinishSender = sendUndoTxn{}
	_ raidstorage.FinishSender = sendBlobTxn{}
	_ raidstorage.FinishSender = sendUndoBlobTxn{}
)

// Begin is CallBegin.
func (f *FaultyStorage) Begin(ctx context.Context, meta raidstorage.Meta) (raidstorage.Txn, error) {
	c := f.enter(CallBegin, 0, meta.TID, nil)
	inner, err := answer(ctx, c, func(ctx context.Context) (raidstorage.Txn, error) {
		inner, err := f.inner.Begin(ctx, meta)
		if err == nil && c.kind() == LoseReply {
			err = inner.Abort(context.WithoutCancel(ctx)) // nobody will ever know of it
		}
		return inner, err
	}, nil)
	c.leave(0, err)
	if err != nil {
		return nil, err
	}
	t := &faultyTxn{f: f, inner: inner, cut: c.cut, slot: make(chan struct{}, 1)}
	f.mu.Lock()
	f.open[t] = struct{}{}
	f.mu.Unlock()
	t.abortIfCut() // CutOff may not have seen it yet
	_, undo := inner.(raidstorage.UndoTxn)
	_, blob := inner.(raidstorage.BlobTxn)
	_, start := inner.(raidstorage.FinishStarter)
	_, send := inner.(raidstorage.FinishSender)
	switch {
	case start && undo && blob:
		return startUndoBlobTxn{undoBlobTxn{undoTxn{t}}}, nil
	case start && undo:
		return startUndoTxn{undoTxn{t}}, nil
	case start && blob:
		return startBlobTxn{blobTxn{t}}, nil
	case start:
		return startTxn{t}, nil
	case send && undo && blob:
		return sendUndoBlobTxn{undoBlobTxn{undoTxn{t}}}, nil
	case send && undo:
		return sendUndoTxn{undoTxn{t}}, nil
	case send && blob:
		return sendBlobTxn{blobTxn{t}}, nil
	case send:
		return sendTxn{t}, nil
	case undo && blob:
		return undoBlobTxn{undoTxn{t}}, nil
	case undo:
		return undoTxn{t}, nil
	case blob:
		return blobTxn{t}, nil
	}
	return t, nil
}

// abortIfIdle aborts the inner transaction after a cut, unless its owner is in a
// call of it: then the owner aborts it afterwards.
func (t *faultyTxn) abortIfIdle() {
	select {
	case t.slot <- struct{}{}:
	default:
		return
	}
	defer func() { <-t.slot }()
	t.abandonLocked()
}

func (t *faultyTxn) abortIfCut() {
	if t.cut.Err() != nil {
		t.abortIfIdle()
	}
}

// abandonLocked aborts the inner transaction for good. slot must be held.
func (t *faultyTxn) abandonLocked() {
	if !t.lost {
		t.lost = true
		_ = t.inner.Abort(context.Background()) // what is left to be done about an error?
	}
	t.forget()
}

func (t *faultyTxn) forget() {
	t.f.mu.Lock()
	defer t.f.mu.Unlock()
	delete(t.f.open, t)
}

// alone runs a call of the inner transaction with the slot held. The slot is never
// held for long by others: CutOff only aborts.
func (t *faultyTxn) alone(c *call, inner func() error) error {
	t.slot <- struct{}{}
	err := c.cutErr()
	if err == nil {
		err = inner()
	}
	<-t.slot
	t.abortIfCut() // CutOff passed it by if it came while the slot was held
	return err
}

// end abandons the inner transaction because a fault ended this one.
func (t *faultyTxn) end() {
	t.slot <- struct{}{}
	t.abandonLocked()
	<-t.slot
}

// stage is a call that stages a change.
func (t *faultyTxn) stage(ctx context.Context, what Call, oid raidstorage.OID, tid raidstorage.TID, inner func(context.Context) error) error {
	c := t.f.enter(what, oid, tid, t.cut)
	_, err := do(ctx, c, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, t.alone(c, func() error { return inner(ctx) })
	}, nil)
	return err
}

// Store is CallStore.
func (t *faultyTxn) Store(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID, data []byte) error {
	return t.stage(ctx, CallStore, oid, serial, func(ctx context.Context) error {
		return t.inner.Store(ctx, oid, serial, data)
	})
}

// Delete is CallDelete.
func (t *faultyTxn) Delete(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID) error {
	return t.stage(ctx, CallDelete, oid, serial, func(ctx context.Context) error {
		return t.inner.Delete(ctx, oid, serial)
	})
}

// CheckCurrent is CallCheckCurrent.
func (t *faultyTxn) CheckCurrent(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID) error {
	return t.stage(ctx, CallCheckCurrent, oid, serial, func(ctx context.Context) error {
		return t.inner.CheckCurrent(ctx, oid, serial)
	})
}

// Restore is CallRestore.
func (t *faultyTxn) Restore(ctx context.Context, rec raidstorage.Record) error {
	return t.stage(ctx, CallRestore, rec.OID, rec.TID, func(ctx context.Context) error {
		return t.inner.Restore(ctx, rec)
	})
}

// Undo is CallUndo.
func (t undoTxn) Undo(ctx context.Context, tid raidstorage.TID) error {
	return t.stage(ctx, CallUndo, 0, tid, func(ctx context.Context) error {
		return raidstorage.Undo(ctx, t.inner, tid)
	})
}

// StoreBlob is CallStoreBlob.
func (t blobTxn) StoreBlob(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID, data []byte, blob io.Reader) error {
	return t.stage(ctx, CallStoreBlob, oid, serial, func(ctx context.Context) error {
		return raidstorage.StoreBlob(ctx, t.inner, oid, serial, data, blob)
	})
}

// StoreBlob is CallStoreBlob.
func (t undoBlobTxn) StoreBlob(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID, data []byte, blob io.Reader) error {
	return blobTxn{t.faultyTxn}.StoreBlob(ctx, oid, serial, data, blob)
}

// Vote is CallVote. A fault that makes it fail ends the transaction and frees the
// lock, as the contract wants it of a failed vote, also when only the reply of a
// successful one is lost.
func (t *faultyTxn) Vote(ctx context.Context) (raidstorage.Vote, error) {
	c := t.f.enter(CallVote, 0, 0, t.cut)
	vote, err := answer(ctx, c, func(ctx context.Context) (vote raidstorage.Vote, err error) {
		err = t.alone(c, func() error { vote, err = t.inner.Vote(ctx); return err })
		return vote, err
	}, func(vote raidstorage.Vote) raidstorage.Vote {
		vote.Last++
		return vote
	})
	if err != nil && !isState(err) {
		t.end()
	}
	c.leave(0, err)
	return vote, err
}

// Finish is CallFinish. A fault that keeps it from the storage aborts the inner
// transaction: the outcome, which the caller does not know, is that nothing
// happened. With LoseReply it is that the transaction is there.
func (t *faultyTxn) Finish(ctx context.Context) (raidstorage.TID, error) {
	c := t.f.enter(CallFinish, 0, 0, t.cut)
	tid, err := answer(ctx, c, func(ctx context.Context) (tid raidstorage.TID, err error) {
		err = t.alone(c, func() error { tid, err = t.inner.Finish(ctx); return err })
		return tid, err
	}, nextTID)
	if !isState(err) {
		t.end() // without effect if the inner one is finished
	}
	c.leave(tid, err)
	return tid, err
}

// StartFinish is CallFinish, and its wait CallAwait.
func (t startTxn) StartFinish(ctx context.Context) (func(context.Context) error, error) {
	return t.startFinish(ctx)
}

// StartFinish is CallFinish, and its wait CallAwait.
func (t startUndoTxn) StartFinish(ctx context.Context) (func(context.Context) error, error) {
	return t.startFinish(ctx)
}

// StartFinish is CallFinish, and its wait CallAwait.
func (t startBlobTxn) StartFinish(ctx context.Context) (func(context.Context) error, error) {
	return t.startFinish(ctx)
}

// StartFinish is CallFinish, and its wait CallAwait.
func (t startUndoBlobTxn) StartFinish(ctx context.Context) (func(context.Context) error, error) {
	return t.startFinish(ctx)
}

// SendFinish is CallFinish, and its wait CallAwait.
func (t sendTxn) SendFinish(ctx context.Context) (func(context.Context) error, error) {
	return t.sendFinish(ctx)
}

// SendFinish is CallFinish, and its wait CallAwait.
func (t sendUndoTxn) SendFinish(ctx context.Context) (func(context.Context) error, error) {
	return t.sendFinish(ctx)
}

// SendFinish is CallFinish, and its wait CallAwait.
func (t sendBlobTxn) SendFinish(ctx context.Context) (func(context.Context) error, error) {
	return t.sendFinish(ctx)
}

// SendFinish is CallFinish, and its wait CallAwait.
func (t sendUndoBlobTxn) SendFinish(ctx context.Context) (func(context.Context) error, error) {
	return t.sendFinish(ctx)
}

func (t *faultyTxn) startFinish(ctx context.Context) (func(context.Context) error, error) {
	starter, ok := t.inner.(raidstorage.FinishStarter)
	if !ok {
		return nil, errors.ErrUnsupported // there is no such type of ours
	}
	return t.finishLater(ctx, starter.StartFinish)
}

func (t *faultyTxn) sendFinish(ctx context.Context) (func(context.Context) error, error) {
	sender, ok := t.inner.(raidstorage.FinishSender)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return t.finishLater(ctx, sender.SendFinish)
}

// finishLater is Finish in two steps. A fault that keeps the wait from the storage
// leaves the transaction as it was started: it may be committed.
func (t *faultyTxn) finishLater(ctx context.Context, begin func(context.Context) (func(context.Context) error, error)) (func(context.Context) error, error) {
	c := t.f.enter(CallFinish, 0, 0, t.cut)
	wait, err := do(ctx, c, func(ctx context.Context) (wait func(context.Context) error, err error) {
		err = t.alone(c, func() error {
			wait, err = begin(ctx)
			return err
		})
		return wait, err
	}, nil)
	if !isState(err) {
		t.end() // without effect if the inner one was started
	}
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		_, err := do(ctx, t.f.enter(CallAwait, 0, 0, t.cut), func(ctx context.Context) (struct{}, error) {
			return struct{}{}, wait(ctx)
		}, nil)
		return err
	}, nil
}

// Abort is CallAbort. It always aborts the inner transaction, after the fault's
// delay or hanging, also when the fault makes it return an error.
func (t *faultyTxn) Abort(ctx context.Context) error {
	c := t.f.enter(CallAbort, 0, 0, t.cut)
	err := c.before(ctx, false)
	t.slot <- struct{}{}
	inner := t.inner.Abort(ctx)
	<-t.slot
	t.forget()
	if err == nil {
		err = c.after(inner)
	}
	c.leave(0, err)
	return err
}

// isState tells whether err is a refusal that ends no transaction.
func isState(err error) bool {
	_, ok := errors.AsType[*raidstorage.TxnStateError](err)
	return ok
}
