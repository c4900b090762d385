package storagetest

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zeoraid/raidstorage"
)

func lockRules() []rule {
	return subject("commit lock", needs{},
		rule{name: "the next vote waits for finish and then sees what was committed", run: func(e *env) {
			first, _ := e.voted(objs(1, "a"))
			second := e.staged(objs(2, "b"))
			votes := e.voteLater(func() context.Context { return e.ctx }, second)
			for range 20 {
				e.wantLast(0)
			}
			select {
			case <-votes:
				e.Fatalf("two transactions hold the commit lock")
			default:
			}
			tid := e.finish(first)
			got := <-votes
			e.must("Vote after the lock was freed", got.err)
			if got.vote.Last != tid {
				e.Errorf("Vote.Last = %v, want %v", got.vote.Last, tid)
			}
			if next := e.finish(second); next <= tid {
				e.Errorf("tid %v follows %v", next, tid)
			}
		}},
		rule{name: "an abort hands the lock over", run: func(e *env) {
			first, _ := e.voted(objs(1, "a"))
			second := e.staged(objs(2, "b"))
			votes := e.voteLater(func() context.Context { return e.ctx }, second)
			e.abort(first)
			got := <-votes
			e.must("Vote after the lock was freed", got.err)
			if got.vote.Last != 0 {
				e.Errorf("Vote.Last = %v, want 0", got.vote.Last)
			}
			e.finish(second)
			e.wantNotFound(1, raidstorage.MaxTID)
			e.wantCurrent(2, "b")
		}},
		rule{name: "a failed vote hands the lock over", run: func(e *env) {
			serial := e.commit(objs(1, "a"))
			holder, _ := e.voted(objs(3, "c"))
			failing := e.begin(raidstorage.Meta{})
			e.must("Store", failing.Store(e.ctx, 1, serial+1, []byte("b")))
			waiting := e.staged(objs(2, "b"))
			fails, votes := e.voteLater(func() context.Context { return e.ctx }, failing), e.voteLater(func() context.Context { return e.ctx }, waiting)
			last := e.finish(holder)
			for range 2 { // nobody knows which of them came first
				select {
				case got := <-fails:
					wantErr[*raidstorage.ConflictError](e, "Vote", got.err)
				case got := <-votes:
					e.must("Vote after the lock was freed", got.err)
					if got.vote.Last != last {
						e.Errorf("Vote.Last = %v, want %v", got.vote.Last, last)
					}
					e.finish(waiting)
				}
			}
			e.wantLockFree()
		}},
		rule{name: "a waiting vote ends when its context is cancelled", run: func(e *env) {
			e.waitInVain(context.Canceled, func() (context.Context, func()) {
				ctx, cancel := context.WithCancel(e.ctx)
				return ctx, cancel
			})
		}},
		rule{name: "a waiting vote ends at its deadline", run: func(e *env) {
			e.waitInVain(context.DeadlineExceeded, func() (context.Context, func()) {
				ctx, cancel := context.WithTimeout(e.ctx, 100*time.Millisecond)
				return ctx, func() { <-ctx.Done(); cancel() }
			})
		}},
		rule{name: "reads and new oids do not wait for the lock", run: func(e *env) {
			serial := e.commit(objs(1, "a"))
			txn, vote := e.voted(objs(1, "b"))
			if vote.Last != serial {
				e.Errorf("Vote.Last = %v, want %v", vote.Last, serial)
			}
			e.wantLoad(1, raidstorage.MaxTID, "a", serial, 0)
			e.newOIDs(3)
			e.staged(objs(2, "b"))
			if n := len(e.log(e.s)); n != 1 {
				e.Errorf("the log has %d transactions, want 1", n)
			}
			e.finish(txn)
		}},
		rule{name: "nobody starves while others commit without a pause", run: starvation},
		rule{name: "the last tid does not change while a vote holds the lock", run: lastTIDStable},
	)
}

type voteResult struct {
	vote raidstorage.Vote
	err  error
}

// voteLater votes in a goroutine of its own, which ends when the context does that
// begin returns there. At the end
// the storage is closed, so that it ends in a storage that waits for ever too.
func (e *env) voteLater(begin func() context.Context, txn raidstorage.Txn) <-chan voteResult {
	result := make(chan voteResult, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		vote, err := txn.Vote(begin())
		result <- voteResult{vote, err}
	}()
	s := e.s
	e.Cleanup(func() {
		_ = s.Close() // its error is reported elsewhere
		timeout := time.NewTimer(e.timeout)
		defer timeout.Stop()
		select {
		case <-done:
		case <-timeout.C:
			e.Errorf("Vote has not returned, although the storage is closed")
		}
	})
	return result
}

// waitInVain lets a vote wait for a lock that nobody frees until its context ends.
// limited makes the context, and a function that returns when it has ended.
func (e *env) waitInVain(want error, limited func() (context.Context, func())) {
	e.Helper()
	holder, _ := e.voted(objs(1, "a"))
	waiting := e.staged(objs(2, "b"))
	// The context begins right before the vote: a goroutine that is late must not find
	// it ended already.
	begun := make(chan func(), 1)
	votes := e.voteLater(func() context.Context {
		ctx, end := limited()
		begun <- end
		return ctx
	}, waiting)
	end := <-begun
	end()
	select {
	case got := <-votes:
		if !errors.Is(got.err, want) {
			e.Errorf("Vote returned %v, want %v", got.err, want)
		}
	case <-e.ctx.Done():
		e.abort(holder) // so that the vote can return
		e.Fatalf("Vote still waits for the lock after its context has ended")
	}
	tid := e.finish(holder)
	e.wantUntouched(tid, 2)
	_, err := waiting.Finish(e.ctx)
	wantErr[*raidstorage.TxnStateError](e, "Finish of the transaction that gave up", err)
}

// starvation wants no vote to wait while others vote again and again. One that is late to
// queue, as its thread gets no time, looks the same: twice it is not.
func starvation(e *env) {
	if n := overtaken(e); n > 0 && overtaken(e) > 0 {
		e.Errorf("a vote had to wait for %d others that came after it", n)
	}
}

// overtaken lets two goroutines vote in a loop while a third commits a few times. A
// lock that is not first come, first served lets the first two go on for ever while
// the third waits in Vote. Only that wait counts: what a commit does besides, such
// as making it durable, may take any number of others' turns. It returns how many turns
// others had during one wait, 0 if not too many.
func overtaken(e *env) (n int64) {
	const limit = 4000
	others, cancel := context.WithCancel(e.ctx)
	var hogs sync.WaitGroup
	defer hogs.Wait()
	defer cancel()
	var turns, since atomic.Int64
	var waiting atomic.Bool
	passed := func() bool { return waiting.Load() && turns.Load()-since.Load() >= limit }
	for range 2 {
		hogs.Go(func() {
			for others.Err() == nil && !passed() && voteAndAbort(others, e.s) {
				turns.Add(1)
			}
		})
	}
	for range 5 {
		txn := e.staged(objs(1, "patient"))
		since.Store(turns.Load())
		waiting.Store(true)
		_, err := txn.Vote(e.ctx)
		if passed() {
			n = turns.Load() - since.Load()
		}
		waiting.Store(false)
		e.must("Vote", err)
		_, err = txn.Finish(e.ctx)
		e.must("Finish", err)
	}
	return n
}

func voteAndAbort(ctx context.Context, s raidstorage.Storage) bool {
	txn, err := s.Begin(ctx, raidstorage.Meta{})
	if err != nil {
		return false
	}
	defer func() { _ = txn.Abort(context.WithoutCancel(ctx)) }()
	_, err = txn.Vote(ctx)
	return err == nil
}

func lastTIDStable(e *env) {
	e.must("committing from several goroutines", together(4, func(i int) error {
		for range 5 {
			txn, err := e.s.Begin(e.ctx, raidstorage.Meta{})
			if err != nil {
				return err
			}
			vote, err := txn.Vote(e.ctx)
			if err != nil {
				return err
			}
			for range 10 {
				last, err := e.s.LastTID(e.ctx)
				if err != nil {
					return err
				}
				if last != vote.Last {
					e.Errorf("LastTID = %v while a transaction that voted at %v holds the lock", last, vote.Last)
				}
			}
			if tid, err := txn.Finish(e.ctx); err != nil {
				return err
			} else if tid <= vote.Last {
				e.Errorf("Finish returned %v, Vote.Last was %v", tid, vote.Last)
			}
		}
		return nil
	}))
}
