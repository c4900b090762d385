package storagetest

import (
	"context"

	"github.com/zeoraid/raidstorage"
)

func commitRules() []rule {
	return subject("commit", needs{},
		rule{name: "nothing is visible before finish and all of it after", run: func(e *env) {
			before := e.commit(map[raidstorage.OID]string{1: "a", 2: "b"})
			txn := e.staged(map[raidstorage.OID]string{1: "a2", 2: "b2", 3: "c"})
			unseen := func(when string) {
				e.wantLoad(1, raidstorage.MaxTID, "a", before, 0)
				e.wantLoad(2, raidstorage.MaxTID, "b", before, 0)
				e.wantNotFound(3, raidstorage.MaxTID)
				e.wantLast(before)
				if n := len(e.log(e.s)); n != 1 {
					e.Fatalf("%s the log has %d transactions, want 1", when, n)
				}
			}
			unseen("after staging")
			_, err := txn.Vote(e.ctx)
			e.must("Vote", err)
			unseen("after vote")
			after := e.finish(txn)
			e.wantLoad(1, raidstorage.MaxTID, "a2", after, 0)
			e.wantLoad(2, raidstorage.MaxTID, "b2", after, 0)
			e.wantLoad(3, raidstorage.MaxTID, "c", after, 0)
			e.wantLoad(1, after, "a", before, after)
			e.wantLast(after)
		}},
		rule{name: "aborting at any step leaves no trace", run: abortAtEveryStep},
		rule{name: "aborting after finish takes nothing back", run: func(e *env) {
			txn, _ := e.voted(objs(1, "a"))
			tid := e.finish(txn)
			e.abort(txn)
			e.abort(txn)
			e.wantLoad(1, raidstorage.MaxTID, "a", tid, 0)
			e.wantLockFree()
		}},
		rule{name: "aborting after a failed vote is safe", run: func(e *env) {
			first := e.commit(objs(1, "a"))
			txn := e.begin(raidstorage.Meta{})
			e.must("Store", txn.Store(e.ctx, 1, first+1, []byte("b")))
			failedVote[*raidstorage.ConflictError](e, txn)
			// The lock may be somebody else's by now, who must keep it.
			other, _ := e.voted(objs(2, "other"))
			e.abort(txn)
			e.abort(txn)
			e.finish(other)
			e.wantCurrent(1, "a")
			e.wantCurrent(2, "other")
		}},
		rule{name: "aborting with an ended context frees the lock all the same", run: func(e *env) {
			txn, _ := e.voted(objs(1, "a"))
			ended, cancel := context.WithCancel(e.ctx)
			cancel()
			_ = txn.Abort(ended) // callers do this in a defer, and do not look
			e.wantUntouched(0, 1)
		}},
		rule{name: "a transaction without changes commits", run: func(e *env) {
			first := e.commit(objs(1, "a"))
			txn, _ := e.voted(nil)
			if tid := e.finish(txn); tid <= first {
				e.Errorf("the empty transaction got tid %v after %v", tid, first)
			}
			e.wantCurrent(1, "a")
			e.wantLockFree()
		}},
		rule{name: "the vote changes nothing by itself", run: func(e *env) {
			_, vote := e.voted(map[raidstorage.OID]string{1: "a", 2: "b"})
			if len(vote.Changed) != 0 {
				e.Errorf("Vote.Changed = %v for plain stores, want none", vote.Changed)
			}
		}},
		rule{name: "data of length 0 is invalid", run: func(e *env) {
			for _, data := range [][]byte{nil, {}} {
				txn := e.begin(raidstorage.Meta{})
				refused[*raidstorage.InvalidError](e, txn, txn.Store(e.ctx, 1, 0, data))
			}
			e.wantUntouched(0, 1)
		}},
		rule{name: "many transactions can be open at the same time", run: func(e *env) {
			var txns []raidstorage.Txn
			for i := range 20 {
				txns = append(txns, e.staged(objs(raidstorage.OID(i+1), "x")))
			}
			for i := len(txns) - 1; i >= 0; i-- {
				_, err := txns[i].Vote(e.ctx)
				e.must("Vote", err)
				e.finish(txns[i])
			}
			if n := len(e.log(e.s)); n != 20 {
				e.Errorf("the log has %d transactions, want 20", n)
			}
		}},
	)
}

// abortAtEveryStep aborts after begin, after each staging call and after the vote,
// with a voted transaction's worth of each kind of change.
func abortAtEveryStep(e *env) {
	serial := e.commit(map[raidstorage.OID]string{1: "a", 2: "b", 3: "c"})
	steps := []func(raidstorage.Txn) error{
		func(raidstorage.Txn) error { return nil },
		func(txn raidstorage.Txn) error { return txn.Store(e.ctx, 1, serial, []byte("a2")) },
		func(txn raidstorage.Txn) error { return txn.Store(e.ctx, 9, 0, []byte("new")) },
		func(txn raidstorage.Txn) error { return txn.Delete(e.ctx, 2, serial) },
		func(txn raidstorage.Txn) error { return txn.CheckCurrent(e.ctx, 3, serial) },
		func(txn raidstorage.Txn) error { _, err := txn.Vote(e.ctx); return err },
	}
	before, err := Dump(e.s)
	e.must("Dump", err)
	for n := range steps {
		txn := e.begin(raidstorage.Meta{})
		for i, step := range steps[:n+1] {
			if err := step(txn); err != nil {
				e.Fatalf("step %d: %v", i, err)
			}
		}
		e.abort(txn)
		e.abort(txn)
		e.wantUntouched(serial, 9)
		e.wantLoad(1, raidstorage.MaxTID, "a", serial, 0)
		e.wantLoad(2, raidstorage.MaxTID, "b", serial, 0)
	}
	if after, err := Dump(e.s); err != nil || after != before {
		e.Errorf("aborts changed the log from\n%s\nto\n%s (%v)", before, after, err)
	}
}
