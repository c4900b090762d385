package zeoserver

import (
	"context"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// The end of a transaction, see vote.go.

// tpcFinish finishes what has voted. Of an unknown transaction, and of one that has
// failed, it answers None.
func (c *conn) tpcFinish(k call, args *arguments) error {
	if c.readOnly {
		return zeowire.ReadOnlyError()
	}
	t := c.current()
	if t == nil || !t.id.Equal(args.at(0)) {
		k.reply(zeowire.None())
		return nil
	}
	switch t.is() {
	case staging, resolving:
		return assertionError("finished called wo lock")
	}
	if err := c.ending(); err != nil {
		return err
	}
	c.txn = nil // the next one may begin
	c.spawn(k.method, func() {
		defer func() { <-c.ends }()
		defer t.settle() // both without effect but after a panic
		defer t.release()
		<-t.done
		t.mu.Lock()
		t.stopTimerLocked()
		state := t.state
		if state == voted {
			t.state = finishing
		}
		t.mu.Unlock()
		switch state {
		case voted:
			t.finish(k)
		case resolving:
			t.release()
			k.fail(assertionError("finished called wo lock"))
			t.settle()
		default:
			k.reply(zeowire.None())
		}
	})
	return nil
}

// ending waits until one more transaction may be ending. A client that sends one after
// the other and waits for no answer would fill the memory else, while somebody else
// holds the commit lock.
func (c *conn) ending() error {
	select {
	case c.ends <- struct{}{}:
		return nil
	case <-c.dead.Done():
		return context.Cause(c.dead)
	}
}

// finish commits. From here on neither a disconnect nor a shutdown stops it.
func (t *txn) finish(k call) {
	c, st := t.c, t.c.store
	st.turn.give(t)
	ctx := context.WithoutCancel(c.dead)
	tid, err := t.tx.Finish(ctx)
	if err != nil {
		c.logger().Error("the outcome of a finish is unknown", "storage", st.name, "err", err)
		t.lostFinish(ctx)
		// The client takes the loss of its connection for what it is: an outcome that
		// it does not know.
		c.close(err)
		t.release()
		t.settle()
		return
	}
	st.stats.commits.Add(1)
	objects, bytes, stale := st.recentSize(ctx)
	info := sizeInfo(objects, bytes)
	oids := append(t.changed, t.vote.Changed...)
	ticket := t.ticket
	t.ticket = nil
	t.release()
	st.order.finished(ticket, tid, oids, func(w *zeowire.Writer) error {
		if err := w.Message(info); err != nil || k.async {
			return err
		}
		return w.Message(zeowire.ValueReply(k.id, zeowire.TID(tid)))
	})
	<-ticket.published // soon: those before it are finishing, too
	c.flushDirect()
	t.settle()
	if stale {
		st.size(c.dead)
	}
}

// lostFinish looks whether a transaction whose finish failed is there, so that the
// other clients are told. Notifiers tell of it themselves.
func (t *txn) lostFinish(ctx context.Context) {
	st := t.c.store
	if _, err := raidstorage.Can[raidstorage.Notifier](st.storage); err == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, abortTime)
	defer cancel()
	last, err := st.storage.LastTID(ctx)
	if err != nil || last <= t.vote.Last {
		return
	}
	ticket := t.ticket
	t.ticket = nil
	st.order.finished(ticket, last, append(t.changed, t.vote.Changed...), nil)
}

// tpcAbort aborts, of an unknown transaction it answers None.
func (c *conn) tpcAbort(k call, args *arguments) error {
	if c.readOnly {
		return zeowire.ReadOnlyError()
	}
	t := c.current()
	if t == nil || !t.id.Equal(args.at(0)) {
		k.reply(zeowire.None())
		return nil
	}
	if t.is() == staging {
		c.store.stats.aborts.Add(1)
		c.txn = nil
		t.release()
		k.reply(zeowire.None())
		return nil
	}
	if err := c.ending(); err != nil {
		return err
	}
	c.store.stats.aborts.Add(1)
	c.txn = nil
	c.spawn(k.method, func() {
		defer func() { <-c.ends }()
		t.abort()
		k.reply(zeowire.None())
		t.settle()
	})
	return nil
}

// abort ends a transaction that has voted, or is voting.
func (t *txn) abort() {
	t.mu.Lock()
	t.stopTimerLocked()
	cancel, done := t.cancel, t.done
	t.mu.Unlock()
	if done != nil {
		cancel()
		<-done
	}
	t.release()
}

// release gives back all that the transaction has, and ends it.
func (t *txn) release() {
	t.mu.Lock()
	state := t.state
	t.stopTimerLocked()
	t.mu.Unlock()
	if state == ended {
		return
	}
	c, st := t.c, t.c.store
	if t.tx != nil && state != finishing {
		if err := abort(t.tx); err != nil {
			c.logger().Warn("a transaction could not be aborted", "storage", st.name, "err", err)
		}
	}
	if t.ticket != nil {
		st.order.dropped(t.ticket)
	}
	st.turn.give(t)
	t.log.close()
	st.stats.active.Add(-1)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.state = ended
}

// settle follows the answer that ends a transaction which has begun to vote: it is
// what Shutdown waits for. It counts once.
func (t *txn) settle() {
	t.mu.Lock()
	settled := t.settled || t.done == nil
	t.settled = true
	t.mu.Unlock()
	if !settled && t.c.committing.Add(-1) == 0 && t.c.srv.isStopping() {
		t.c.out.end()
	}
}

// endTransaction is for the end of the connection: a transaction that is not
// finishing is aborted.
func (c *conn) endTransaction() {
	t := c.txn
	if t == nil {
		return
	}
	c.txn = nil
	if t.is() != ended {
		c.store.stats.aborts.Add(1)
		t.abort()
	}
	t.settle()
}
