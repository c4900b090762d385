package zeoclient

import (
	"context"
	"errors"
	"fmt"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// Finish implements raidstorage.Txn. When ctx ends after the call was sent, the server
// goes on; the commit slot stays taken until it has answered.
func (t *txn) Finish(ctx context.Context) (raidstorage.TID, error) {
	switch t.state {
	case stateOpen:
		return 0, &raidstorage.TxnStateError{Op: "finish", State: "not voted"}
	case stateEnded:
		return 0, &raidstorage.TxnStateError{Op: "finish", State: "ended"}
	}
	if err := t.s.begin(ctx); err != nil {
		t.rollback()
		return 0, err
	}
	defer t.s.calls.Done()
	var tid raidstorage.TID
	k := t.finishCall(&tid)
	err := t.c.start(ctx, k, zeowire.Int(t.id))
	if err == nil {
		err = t.c.wait(ctx, k)
	}
	t.end()
	if err != nil {
		t.s.unlockAfter(t.c, k, err)
		return 0, t.c.mapped(k.name, err)
	}
	<-t.s.commit
	return tid, nil
}

// finishCall makes the call of a finish; tid is set before it is done.
func (t *txn) finishCall(tid *raidstorage.TID) *call {
	visible, given, c := t.visible(), t.meta.TID, t.c
	k := c.newCall(zeowire.TPCFinish, func(v zeowire.Value) error {
		var ok bool
		if *tid, ok = v.TID(); !ok {
			return violation("no tid: the transaction was not finished")
		}
		if given != 0 && *tid != given {
			return violation(fmt.Sprintf("tid %v instead of %v", *tid, given))
		}
		visible(*tid)
		return nil
	})
	k.then = func(error) { c.infos.Store(0) }
	c.infos.Store(1)
	k.kept = true // whenever the answer comes, it makes the transaction visible
	return k
}

// SendFinish implements raidstorage.FinishSender. The server takes the calls of a connection
// in their order, so what the next transaction sends comes behind the finish. An abort
// goes with it: it has no effect on what has finished, but where the finish failed it
// ends the transaction, which is in the way of the next one: Python's server would close
// the connection at the next tpc_begin, and keep the commit lock for ever.
func (t *txn) SendFinish(ctx context.Context) (func(context.Context) error, error) {
	switch t.state {
	case stateOpen:
		return nil, &raidstorage.TxnStateError{Op: "finish", State: "not voted"}
	case stateEnded:
		return nil, &raidstorage.TxnStateError{Op: "finish", State: "ended"}
	}
	if err := t.s.begin(ctx); err != nil {
		t.rollback()
		return nil, err
	}
	defer t.s.calls.Done()
	c, id, tid := t.c, t.id, new(raidstorage.TID)
	k := t.finishCall(tid)
	abort := c.newCall(zeowire.TPCAbort, nil)
	err := c.send(ctx, func(w *zeowire.Writer) error {
		if err := w.Message(zeowire.Call(zeowire.IntID(k.id), k.name, zeowire.Int(id))); err != nil {
			return err
		}
		return w.Message(zeowire.Call(zeowire.IntID(abort.id), abort.name, zeowire.Int(id)))
	}, k, abort)
	t.end()
	if err != nil {
		c.fail(err) // only that frees the server's lock
		<-t.s.commit
		return nil, c.mapped(k.name, err)
	}
	t.s.behind = &sentFinish{c, k}
	<-t.s.commit
	return func(ctx context.Context) error { return c.finished(ctx, k) }, nil
}

// sentFinish is a finish that nobody waited for before the next vote.
type sentFinish struct {
	c *conn
	k *call
}

// confirmed waits for the finish before this vote, which fails if that did. Until a vote
// has waited for it the next one depends on it. The caller holds the commit slot.
func (s *Storage) confirmed(ctx context.Context) error {
	b := s.behind
	s.behind = nil
	return b.c.finished(ctx, b.k)
}

// failed tells whether it is known to have failed: a vote that fails then has told of it.
func (b *sentFinish) failed() bool {
	b.c.mu.Lock() // a connection that ends has ended all its calls then
	defer b.c.mu.Unlock()
	select {
	case <-b.k.done:
		return b.k.err != nil
	default:
		return false
	}
}

// finished waits for a finish that was sent. If it fails the connection is given up.
func (c *conn) finished(ctx context.Context, k *call) error {
	err := c.wait(ctx, k)
	if err != nil {
		c.fail(err)
		return c.mapped(k.name, err)
	}
	return nil
}

// visible returns what must happen in the reader when the transaction has got its
// tid. It must not look at t any more, which may have ended.
func (t *txn) visible() func(raidstorage.TID) {
	s, c := t.s, t.c
	data := make(map[raidstorage.OID][]byte, len(t.changes))
	oids := make([]raidstorage.OID, 0, len(t.changes))
	for oid, i := range t.changes {
		data[oid] = nil
		if !t.undid { // else who knows which of them is the last
			data[oid] = t.ops[i].data
		}
		oids = append(oids, oid)
	}
	for _, oid := range t.also {
		data[oid] = nil
	}
	return func(tid raidstorage.TID) {
		c.see(tid)
		s.saw(tid)
		s.cache.committed(tid, data)
		s.fresh.stored(oids)
		s.notes.push(note{tid: tid, own: true})
	}
}

// unlockAfter gives the commit slot back when the server has answered to a Finish of
// which the caller knows no more than err. Where it refused, or does not answer, only
// the end of the connection makes sure that the server's lock is free.
func (s *Storage) unlockAfter(c *conn, k *call, err error) {
	waits := (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) && c.spawn(func() {
		defer func() { <-s.commit }()
		if err := c.wait(context.Background(), k); err != nil {
			c.fail(err)
		}
	})
	if !waits {
		c.fail(err)
		<-s.commit
	}
}

// Abort implements raidstorage.Txn. It does not wait for the server, so that ctx does
// not matter.
func (t *txn) Abort(context.Context) error {
	switch t.state {
	case stateOpen:
		t.end()
	case stateVoted:
		t.rollback()
	}
	return nil
}
