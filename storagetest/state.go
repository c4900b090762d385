package storagetest

import (
	"strings"

	"github.com/zeoraid/raidstorage"
)

func stateRules() []rule {
	return subject("transaction state", needs{},
		rule{name: "finishing without a vote is refused and commits nothing", run: func(e *env) {
			txn := e.staged(objs(1, "a"))
			_, err := txn.Finish(e.ctx)
			wantErr[*raidstorage.TxnStateError](e, "Finish", err)
			e.abort(txn)
			e.wantUntouched(0, 1)
		}},
		rule{name: "a second vote is refused", run: func(e *env) {
			txn, _ := e.voted(objs(1, "a"))
			_, err := txn.Vote(e.ctx)
			wantErr[*raidstorage.TxnStateError](e, "Vote", err)
			e.abort(txn)
			e.wantUntouched(0, 1)
		}},
		rule{name: "nothing can be staged after the vote", run: func(e *env) {
			serial := e.commit(objs(1, "a"))
			for name, call := range stagingCalls(e, serial) {
				txn, _ := e.voted(objs(2, "b"))
				wantErr[*raidstorage.TxnStateError](e, name, call(txn))
				e.abort(txn)
				e.wantUntouched(serial, 2)
			}
		}},
		rule{name: "an aborted transaction refuses everything", run: func(e *env) {
			e.wantEnded(func() raidstorage.Txn {
				txn := e.staged(objs(2, "b"))
				e.abort(txn)
				return txn
			})
			e.wantNotFound(2, raidstorage.MaxTID)
		}},
		rule{name: "a transaction aborted after its vote refuses everything", run: func(e *env) {
			e.wantEnded(func() raidstorage.Txn {
				txn, _ := e.voted(objs(2, "b"))
				e.abort(txn)
				return txn
			})
			e.wantNotFound(2, raidstorage.MaxTID)
		}},
		rule{name: "a finished transaction refuses everything", run: func(e *env) {
			e.wantEnded(func() raidstorage.Txn {
				txn, _ := e.voted(objs(2, "b"))
				e.finish(txn)
				return txn
			})
		}},
		rule{name: "a transaction whose vote failed refuses everything", run: func(e *env) {
			serial := e.commit(objs(2, "b"))
			e.wantEnded(func() raidstorage.Txn {
				txn := e.begin(raidstorage.Meta{})
				e.must("Store", txn.Store(e.ctx, 2, serial+1, []byte("c")))
				failedVote[*raidstorage.ConflictError](e, txn)
				return txn
			})
			e.wantCurrent(2, "b")
		}},
	)
}

// stagingCalls returns every staging method that the storage offers, by name.
func stagingCalls(e *env, serial raidstorage.TID) map[string]func(raidstorage.Txn) error {
	calls := map[string]func(raidstorage.Txn) error{
		"Store":        func(txn raidstorage.Txn) error { return txn.Store(e.ctx, 1, serial, []byte("late")) },
		"Delete":       func(txn raidstorage.Txn) error { return txn.Delete(e.ctx, 1, serial) },
		"CheckCurrent": func(txn raidstorage.Txn) error { return txn.CheckCurrent(e.ctx, 1, serial) },
		"Restore": func(txn raidstorage.Txn) error {
			return txn.Restore(e.ctx, raidstorage.Record{OID: 1, Data: []byte("late")})
		},
	}
	if e.f.Capabilities.Has(Undoer) {
		calls["Undo"] = func(txn raidstorage.Txn) error { return raidstorage.Undo(e.ctx, txn, serial) }
	}
	if e.f.Capabilities.Has(BlobLoader) {
		calls["StoreBlob"] = func(txn raidstorage.Txn) error {
			return raidstorage.StoreBlob(e.ctx, txn, 1, serial, []byte("late"), strings.NewReader("blob"))
		}
	}
	return calls
}

// wantEnded checks each method on a new transaction that make has brought to its
// end.
func (e *env) wantEnded(make func() raidstorage.Txn) {
	e.Helper()
	calls := stagingCalls(e, 0)
	calls["Vote"] = func(txn raidstorage.Txn) error { _, err := txn.Vote(e.ctx); return err }
	calls["Finish"] = func(txn raidstorage.Txn) error { _, err := txn.Finish(e.ctx); return err }
	for name, call := range calls {
		txn := make()
		wantErr[*raidstorage.TxnStateError](e, name+" after the end", call(txn))
		e.must("Abort after the end", txn.Abort(e.ctx))
		e.wantLockFree()
	}
}
