package storagetest

import (
	"errors"
	"slices"

	"github.com/zeoraid/raidstorage"
)

func undoRules() []rule {
	return subject("undo", needs{has: Undoer},
		rule{name: "undoing brings the state before back, as a new revision", run: func(e *env) {
			first := e.commit(map[raidstorage.OID]string{1: "a", 2: "b"})
			second := e.commit(map[raidstorage.OID]string{1: "a2", 2: "b2", 3: "c"})
			undone, vote := e.undo(second)
			if want := []raidstorage.OID{1, 2, 3}; !slices.Equal(vote.Changed, want) {
				e.Errorf("Vote.Changed = %v, want %v", vote.Changed, want)
			}
			e.wantLoad(1, raidstorage.MaxTID, "a", undone, 0)
			e.wantLoad(2, raidstorage.MaxTID, "b", undone, 0)
			e.wantLoad(1, undone, "a2", second, undone)
			e.wantLoad(1, second, "a", first, second)
			e.wantNotFound(3, raidstorage.MaxTID)
			e.wantLoad(3, undone, "c", second, undone)
		}},
		rule{name: "the log shows whose data an undo repeats", run: func(e *env) {
			first := e.commit(objs(1, "a"))
			undone, _ := e.undo(e.commit(objs(1, "b")))
			got := e.logOf(3)[2].Records
			if len(got) != 1 || got[0] != (LogRecord{OID: 1, TID: undone, Data: "a", DataTID: first}) {
				e.Errorf("the records are %v, want one of 1 with the data of %v", got, first)
			}
		}},
		rule{name: "an undo can be undone", run: func(e *env) {
			e.commit(objs(1, "a"))
			second := e.commit(map[raidstorage.OID]string{1: "b", 2: "new"})
			undone, _ := e.undo(second)
			redone, _ := e.undo(undone)
			e.wantLoad(1, raidstorage.MaxTID, "b", redone, 0)
			e.wantLoad(2, raidstorage.MaxTID, "new", redone, 0)
			e.undo(redone)
			e.wantCurrent(1, "a")
			e.wantNotFound(2, raidstorage.MaxTID)
		}},
		rule{name: "undoing a creation removes the object", run: func(e *env) {
			created := e.commit(objs(1, "a"))
			undone, _ := e.undo(created)
			e.wantNotFound(1, raidstorage.MaxTID)
			e.wantLoad(1, undone, "a", created, undone)
			if got := e.logOf(2)[1].Records; len(got) != 1 || !got[0].Deleted {
				e.Errorf("the records are %v, want one without data", got)
			}
		}},
		rule{name: "undoing a deletion brings the object back", run: func(e *env) {
			first := e.commit(objs(1, "a"))
			undone, _ := e.undo(e.delete(1, first))
			e.wantLoad(1, raidstorage.MaxTID, "a", undone, 0)
		}},
		rule{name: "several transactions can be undone at once", run: func(e *env) {
			e.commit(map[raidstorage.OID]string{1: "a", 2: "b"})
			second := e.commit(objs(1, "a2"))
			third := e.commit(objs(2, "b2"))
			undone, vote := e.undo(second, third)
			if want := []raidstorage.OID{1, 2}; !slices.Equal(vote.Changed, want) {
				e.Errorf("Vote.Changed = %v, want %v", vote.Changed, want)
			}
			e.wantLoad(1, raidstorage.MaxTID, "a", undone, 0)
			e.wantLoad(2, raidstorage.MaxTID, "b", undone, 0)
		}},
		rule{name: "changes of one object can be undone at once, newest first", run: func(e *env) {
			e.commit(objs(1, "a"))
			second := e.commit(objs(1, "b"))
			third := e.commit(objs(1, "c"))
			undone, vote := e.undo(third, second)
			if want := []raidstorage.OID{1}; !slices.Equal(vote.Changed, want) {
				e.Errorf("Vote.Changed = %v, want %v", vote.Changed, want)
			}
			e.wantLoad(1, raidstorage.MaxTID, "a", undone, 0)
		}},
		rule{name: "what was changed since cannot be undone", run: func(e *env) {
			e.commit(objs(1, "a"))
			second := e.commit(map[raidstorage.OID]string{1: "b", 2: "x"})
			third := e.commit(objs(1, "c"))
			got := e.refusedUndo(second)
			if got.TID != second || got.OID != 1 {
				e.Errorf("the error is about transaction %v, object %v; want %v, 1", got.TID, got.OID, second)
			}
			e.wantLoad(1, raidstorage.MaxTID, "c", third, 0)
			e.wantCurrent(2, "x")
			e.wantLast(third)
		}},
		rule{name: "what was deleted since cannot be undone", run: func(e *env) {
			e.commit(objs(1, "a"))
			second := e.commit(objs(1, "b"))
			e.delete(1, second)
			e.refusedUndo(second)
			e.wantNotFound(1, raidstorage.MaxTID)
		}},
		rule{name: "what was changed since, but back to the same data, can be undone", run: func(e *env) {
			e.commit(objs(1, "a"))
			second := e.commit(objs(1, "b"))
			e.commit(objs(1, "c"))
			e.commit(objs(1, "b"))
			undone, _ := e.undo(second)
			e.wantLoad(1, raidstorage.MaxTID, "a", undone, 0)
		}},
		rule{name: "what was undone can be undone again after a redo", run: func(e *env) {
			e.commit(objs(1, "a"))
			second := e.commit(objs(1, "b"))
			undone, _ := e.undo(second)
			e.undo(undone) // "b" again, as a copy of second's data
			again, _ := e.undo(second)
			e.wantLoad(1, raidstorage.MaxTID, "a", again, 0)
		}},
		rule{name: "no transaction, nothing to undo", run: func(e *env) {
			tid := e.commit(objs(1, "a"))
			for _, tid := range []raidstorage.TID{tid - 1, tid + 1, testTID(1)} {
				if got := e.refusedUndo(tid); got.TID != tid {
					e.Errorf("the error is about %v, want %v", got.TID, tid)
				}
			}
		}},
		rule{name: "undo and store go together", run: func(e *env) {
			first := e.commit(objs(1, "a"))
			second := e.commit(objs(1, "b"))
			tid := e.transact(raidstorage.Meta{}, func(txn raidstorage.Txn) error {
				return errors.Join(txn.Store(e.ctx, 2, 0, []byte("x")), raidstorage.Undo(e.ctx, txn, second))
			})
			e.wantLoad(1, raidstorage.MaxTID, "a", tid, 0)
			e.wantLoad(2, raidstorage.MaxTID, "x", tid, 0)
			e.wantLoad(1, second, "a", first, second)
		}},
		rule{name: "an aborted undo leaves no trace", run: func(e *env) {
			e.commit(objs(1, "a"))
			second := e.commit(objs(1, "b"))
			txn := e.begin(raidstorage.Meta{})
			e.must("Undo", raidstorage.Undo(e.ctx, txn, second))
			_, err := txn.Vote(e.ctx)
			e.must("Vote", err)
			e.abort(txn)
			e.wantLoad(1, raidstorage.MaxTID, "b", second, 0)
			e.wantUntouched(second, 9)
		}},
		rule{name: "packed transactions cannot be undone", run: func(e *env) {
			packed := testTID(1)
			e.transact(raidstorage.Meta{TID: packed, Status: raidstorage.StatusPacked}, func(txn raidstorage.Txn) error {
				return txn.Store(e.ctx, 1, 0, []byte("a"))
			})
			e.refusedUndo(packed)
			e.wantCurrent(1, "a")
		}},
	)
}

// undo commits the undoing of the transactions, in the order given.
func (e *env) undo(tids ...raidstorage.TID) (raidstorage.TID, raidstorage.Vote) {
	e.Helper()
	txn := e.begin(raidstorage.Meta{Description: []byte("undo")})
	for _, tid := range tids {
		e.must("Undo", raidstorage.Undo(e.ctx, txn, tid))
	}
	vote, err := txn.Vote(e.ctx)
	e.must("Vote", err)
	return e.finish(txn), vote
}

func (e *env) refusedUndo(tid raidstorage.TID) *raidstorage.UndoError {
	e.Helper()
	txn := e.begin(raidstorage.Meta{})
	return refused[*raidstorage.UndoError](e, txn, raidstorage.Undo(e.ctx, txn, tid))
}
