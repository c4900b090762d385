package storagetest

import (
	"github.com/zeoraid/raidstorage"
)

func conflictRules() []rule {
	return subject("conflict", needs{},
		rule{name: "storing over a revision that is not current conflicts", run: func(e *env) {
			first := e.commit(objs(1, "a"))
			second := e.commit(objs(1, "b"))
			txn := e.begin(raidstorage.Meta{})
			e.must("Store", txn.Store(e.ctx, 1, first, []byte("c")))
			e.must("Store", txn.Store(e.ctx, 2, 0, []byte("new")))
			e.wantConflict(txn, 1, second, first)
			e.wantCurrent(1, "b")
			e.wantUntouched(second, 2)
		}},
		rule{name: "storing an object as new conflicts if it exists", run: func(e *env) {
			first := e.commit(objs(1, "a"))
			txn := e.begin(raidstorage.Meta{})
			e.must("Store", txn.Store(e.ctx, 1, 0, []byte("b")))
			e.wantConflict(txn, 1, first, 0)
		}},
		rule{name: "storing over a revision of the future conflicts", run: func(e *env) {
			first := e.commit(objs(1, "a"))
			txn := e.begin(raidstorage.Meta{})
			e.must("Store", txn.Store(e.ctx, 1, first+1, []byte("b")))
			e.wantConflict(txn, 1, first, first+1)
		}},
		rule{name: "a conflict is found when the transaction votes, not when it stores", run: func(e *env) {
			first := e.commit(objs(1, "a"))
			txn := e.begin(raidstorage.Meta{})
			e.must("Store", txn.Store(e.ctx, 1, first, []byte("mine")))
			second := e.commit(objs(1, "theirs"))
			e.wantConflict(txn, 1, second, first)
			e.wantLoad(1, raidstorage.MaxTID, "theirs", second, 0)
		}},
		rule{name: "an unknown oid is stored whatever the serial says", run: func(e *env) {
			tid := e.transact(raidstorage.Meta{}, func(txn raidstorage.Txn) error {
				return txn.Store(e.ctx, 7, testTID(3), []byte("x"))
			})
			e.wantLoad(7, raidstorage.MaxTID, "x", tid, 0)
		}},
		rule{name: "of several changes of one oid the last counts", run: func(e *env) {
			first := e.commit(objs(1, "a"))
			second := e.transact(raidstorage.Meta{}, func(txn raidstorage.Txn) error {
				e.must("Store", txn.Store(e.ctx, 1, first, []byte("b")))
				e.must("Store", txn.Store(e.ctx, 2, 0, []byte("new b")))
				e.must("Store", txn.Store(e.ctx, 2, 0, []byte("new c")))
				return txn.Store(e.ctx, 1, first, []byte("c"))
			})
			e.wantLoad(1, raidstorage.MaxTID, "c", second, 0)
			e.wantLoad(1, second, "a", first, second)
			e.wantLoad(2, raidstorage.MaxTID, "new c", second, 0)
			for _, rec := range e.logOf(2)[1].Records {
				if rec.Data != "c" && rec.Data != "new c" {
					e.Errorf("the log has the record %v, which was changed again", rec)
				}
			}
		}},
		rule{name: "a dependency on the current revision holds", run: func(e *env) {
			first := e.commit(objs(1, "a"))
			second := e.transact(raidstorage.Meta{}, func(txn raidstorage.Txn) error {
				e.must("CheckCurrent", txn.CheckCurrent(e.ctx, 1, first))
				return txn.Store(e.ctx, 2, 0, []byte("depends on 1"))
			})
			e.wantLoad(1, raidstorage.MaxTID, "a", first, 0)
			e.wantLoad(2, raidstorage.MaxTID, "depends on 1", second, 0)
		}},
		rule{name: "a dependency on an old revision is a read conflict", run: func(e *env) {
			first := e.commit(objs(1, "a"))
			txn := e.begin(raidstorage.Meta{})
			e.must("CheckCurrent", txn.CheckCurrent(e.ctx, 1, first))
			e.must("Store", txn.Store(e.ctx, 2, 0, []byte("depends on 1")))
			second := e.commit(objs(1, "b"))
			got := failedVote[*raidstorage.ReadConflictError](e, txn)
			if want := (raidstorage.ReadConflictError{OID: 1, Committed: second, Read: first}); *got != want {
				e.Errorf("got %+v, want %+v", *got, want)
			}
			e.wantUntouched(second, 2)
		}},
		rule{name: "a dependency on no object is not found", run: func(e *env) {
			txn := e.begin(raidstorage.Meta{})
			err := txn.CheckCurrent(e.ctx, 9, testTID(1))
			if got := refused[*raidstorage.NotFoundError](e, txn, err); got.OID != 9 {
				e.Errorf("the error is about %v, want 9", got.OID)
			}
		}},
		rule{name: "deleting a revision that is not current conflicts", run: func(e *env) {
			first := e.commit(objs(1, "a"))
			second := e.commit(objs(1, "b"))
			txn := e.begin(raidstorage.Meta{})
			e.must("Delete", txn.Delete(e.ctx, 1, first))
			e.wantConflict(txn, 1, second, first)
			e.wantCurrent(1, "b")
		}},
		rule{name: "deleting no object is not found", run: func(e *env) {
			txn := e.begin(raidstorage.Meta{})
			err := txn.Delete(e.ctx, 9, testTID(1))
			if got := refused[*raidstorage.NotFoundError](e, txn, err); got.OID != 9 {
				e.Errorf("the error is about %v, want 9", got.OID)
			}
			e.wantUntouched(0, 9)
		}},
		rule{name: "storing over a deletion that the caller did not see conflicts", run: func(e *env) {
			first := e.commit(objs(1, "a"))
			txn := e.begin(raidstorage.Meta{})
			e.must("Store", txn.Store(e.ctx, 1, first, []byte("b")))
			deleted := e.delete(1, first)
			e.wantConflict(txn, 1, deleted, first)
			e.wantNotFound(1, raidstorage.MaxTID)
		}},
	)
}

// wantConflict expects the vote to fail with exactly this conflict.
func (e *env) wantConflict(txn raidstorage.Txn, oid raidstorage.OID, committed, read raidstorage.TID) {
	e.Helper()
	got := failedVote[*raidstorage.ConflictError](e, txn)
	if want := (raidstorage.ConflictError{OID: oid, Committed: committed, Read: read}); *got != want {
		e.Errorf("got %+v, want %+v", *got, want)
	}
}
