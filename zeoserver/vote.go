package zeoserver

import (
	"context"
	"errors"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// The vote of a transaction and its end. Votes and finishes wait, so each runs in a
// goroutine of its own; the reader goes on. What may come when is decided by the
// transaction's state:
//
//	vote        staging, resolving -> voting -> voted | resolving | ended
//	tpc_finish  waits for a vote under way; voted -> finishing -> ended
//	tpc_abort   cancels a vote under way and waits for its end; -> ended
//	disconnect  as tpc_abort, but for a transaction that is finishing
//
// A vote that fails ends the transaction. One that finds conflicts, with
// ClientConflictResolution, keeps its turn: so the client that resolves them is not
// overtaken again and again. Its next vote replays the log from the start.

func (c *conn) vote(k call, args *arguments) error {
	t, err := c.check(args.at(0))
	if err != nil {
		return err
	}
	if c.srv.isStopping() && c.committing.Load() == 0 {
		c.closeAfterFlush(errServerClosed)
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch t.state {
	case ended: // the vote before, sent without waiting for its answer, failed a moment ago
		return zeowire.StorageTransactionError(zeowire.None(), args.at(0).Clone())
	case voting:
		return zeowire.NewException(zeowire.ClassStorageTxn, zeowire.Text("Already voting (waiting)"))
	case voted:
		return zeowire.NewException(zeowire.ClassStorageTxn, zeowire.Text("Already voting (locked)"))
	}
	t.stopTimerLocked()
	var place *turnWaiter // nil if it has the turn already
	if t.state == staging {
		c.committing.Add(1)
		place = c.store.turn.join(t)
	}
	ctx, cancel := context.WithCancel(c.dead)
	t.state, t.cancel, t.done, t.awaited = voting, cancel, make(chan struct{}), false
	c.spawn(k.method, func() {
		defer cancel()
		defer close(t.done)
		t.runVote(ctx, k, place)
	})
	return nil
}

// runVote votes and answers. The state is set before the answer goes out, since the
// client acts upon it.
func (t *txn) runVote(ctx context.Context, k call, place *turnWaiter) {
	conflicts, err := t.tryVote(ctx, place)
	if err != nil {
		t.release()
		k.fail(err)
		t.settle()
		return
	}
	t.mu.Lock()
	answer := oidList(t.vote.Changed)
	t.state = voted
	if conflicts == nil {
		t.before = t.ticket.before
	} else {
		t.state = resolving
		answer = zeowire.List(conflicts...)
	}
	if limit := t.c.srv.cfg.TransactionTimeout; limit > 0 {
		of := t.timers
		t.timer = time.AfterFunc(limit, func() { t.timeout(of) })
	}
	t.mu.Unlock()
	k.replyNow(answer)
}

// timeout drops a client that holds the lock for too long, unless its timer was stopped.
func (t *txn) timeout(of int) {
	t.mu.Lock()
	late := t.timers == of && (t.state == voted || t.state == resolving)
	t.mu.Unlock()
	if late {
		t.c.close(errTimeout)
	}
}

func (t *txn) stopTimerLocked() {
	t.timers++
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
}

// tryVote returns the conflicts that the client is to resolve, or nil and the vote,
// in t.
func (t *txn) tryVote(ctx context.Context, place *turnWaiter) (conflicts []zeowire.Value, err error) {
	st := t.c.store
	if place != nil {
		if err := st.turn.wait(ctx, place); err != nil {
			return nil, zeowire.NewException(zeowire.ClassStorageTxn, zeowire.Text("the transaction was aborted"))
		}
	}
	t.votes++
	tx, err := st.storage.Begin(ctx, t.meta)
	if err != nil {
		return nil, err
	}
	if t.changed, err = t.log.replay(ctx, tx, t.votes > 1); err == nil {
		t.vote, err = tx.Vote(ctx)
	}
	if err == nil {
		t.tx = tx
		t.ticket = st.order.voted(t.c, t.vote.Last)
		return nil, nil
	}
	if abortErr := abort(tx); abortErr != nil && expected(err) {
		t.c.logger().Warn("a refused transaction could not be aborted", "storage", st.name, "err", abortErr)
	}
	return t.refused(ctx, err)
}

// refused counts conflicts, and says what the client gets of a vote that failed: the
// conflicts that it may resolve, or an error.
func (t *txn) refused(ctx context.Context, err error) ([]zeowire.Value, error) {
	if raidstorage.Classify(err) != raidstorage.ClassAnswer {
		return nil, err
	}
	if _, ok := errors.AsType[*raidstorage.ReadConflictError](err); ok {
		t.c.store.stats.conflicts.Add(1)
	}
	if undo, ok := errors.AsType[*raidstorage.UndoError](err); ok {
		return nil, t.c.store.undoError(ctx, undo)
	}
	conflict, ok := errors.AsType[*raidstorage.ConflictError](err)
	if !ok {
		return nil, err
	}
	t.c.store.stats.conflicts.Add(1)
	data, dataErr := t.log.stored(conflict.OID)
	if dataErr != nil {
		return nil, dataErr
	}
	if data != nil && t.c.srv.cfg.ClientConflictResolution { // else it is a deletion
		return t.conflicts(ctx, conflict)
	}
	return nil, conflictOf(conflict, data)
}

// conflicts returns all conflicts of the transaction, first being the one that the
// storage named: the client resolves them at one go. Nobody else votes meanwhile, so
// what is current stays so, unless the storage has other users. When they exceed the
// send buffer, the rest comes with the next vote.
func (t *txn) conflicts(ctx context.Context, first *raidstorage.ConflictError) ([]zeowire.Value, error) {
	final, err := t.log.final()
	if err != nil {
		return nil, err
	}
	var found []zeowire.Value
	size := 0
	err = t.log.each(func(i int, o *op) error {
		if last, ok := final[o.oid]; !ok || last.index != i {
			return nil
		}
		if size > t.c.srv.cfg.SendBufferBytes/2 {
			return nil
		}
		committed := first.Committed
		if o.oid != first.OID {
			rev, err := t.c.store.storage.LoadBefore(ctx, o.oid, raidstorage.MaxTID)
			if _, missing := errors.AsType[*raidstorage.NotFoundError](err); missing {
				return nil
			}
			if err != nil {
				return err
			}
			if committed = rev.Serial; committed == o.serial {
				return nil
			}
		}
		size += len(o.data)
		found = append(found, zeowire.Dict(
			zeowire.Entry("oid", zeowire.OID(o.oid)),
			zeowire.Entry("serials", zeowire.Tuple(zeowire.TID(committed), zeowire.TID(o.serial))),
			zeowire.Entry("data", zeowire.Bytes(o.data)),
		))
		return nil
	})
	return found, err
}
