package storagetest

import (
	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
)

func truncateRules() []rule {
	return subject("truncate", needs{has: Truncater},
		rule{name: "the transactions after the tid are gone", run: func(e *env) {
			tids := e.commitFive()
			before := e.logOf(5)[:3]
			e.must("TruncateAfter", e.truncate(tids[2], tids[4]))
			if diff := cmp.Diff(before, e.log(e.s)); diff != "" {
				e.Errorf("the log differs (-want +got):\n%s", diff)
			}
			e.wantLast(tids[2])
			e.wantLoad(1, raidstorage.MaxTID, "c", tids[2], 0)
			e.wantLoad(12, raidstorage.MaxTID, "new", tids[2], 0)
			if e.wantNotFound(14, raidstorage.MaxTID).Later {
				e.Errorf("an object of a removed transaction exists later")
			}
		}},
		rule{name: "nothing is removed unless the last tid is the expected one", run: func(e *env) {
			tids := e.commitFive()
			before := e.log(e.s)
			for _, last := range []raidstorage.TID{0, tids[3], tids[4] - 1, tids[4] + 1, raidstorage.MaxTID} {
				got := wantErr[*raidstorage.TIDOrderError](e, "TruncateAfter", e.truncate(tids[2], last))
				if got.Last != tids[4] {
					e.Errorf("TIDOrderError.Last = %v, want %v", got.Last, tids[4])
				}
			}
			if diff := cmp.Diff(before, e.log(e.s)); diff != "" {
				e.Errorf("the log differs (-want +got):\n%s", diff)
			}
			e.wantLast(tids[4])
			e.wantLockFree()
		}},
		rule{name: "truncating after the last transaction removes nothing", run: func(e *env) {
			tids := e.commitFive()
			e.must("TruncateAfter", e.truncate(tids[4], tids[4]))
			if n := len(e.log(e.s)); n != 5 {
				e.Errorf("the log has %d transactions, want 5", n)
			}
		}},
		rule{name: "the tid need not be a transaction's", run: func(e *env) {
			tids := e.commitFive()
			e.must("TruncateAfter", e.truncate(tids[2]-1, tids[4]))
			e.wantLast(tids[1])
			e.wantCurrent(1, "b")
		}},
		rule{name: "truncating after 0 empties the storage", run: func(e *env) {
			tids := e.commitFive()
			e.must("TruncateAfter", e.truncate(0, tids[4]))
			e.wantLast(0)
			e.wantNotFound(1, raidstorage.MaxTID)
			if n := len(e.log(e.s)); n != 0 {
				e.Errorf("the log has %d transactions, want none", n)
			}
		}},
		rule{name: "commits go on after it, with the removed tids free again", run: func(e *env) {
			tids := e.commitFive()
			e.must("TruncateAfter", e.truncate(tids[2], tids[4]))
			e.transact(raidstorage.Meta{TID: tids[3]}, func(txn raidstorage.Txn) error {
				return txn.Store(e.ctx, 1, tids[2], []byte("another d"))
			})
			e.wantLoad(1, raidstorage.MaxTID, "another d", tids[3], 0)
			last := e.commit(objs(1, "another e"))
			e.wantLoad(1, last, "another d", tids[3], last)
		}},
		rule{name: "a transaction that began before does not slip in afterwards", run: func(e *env) {
			tids := e.commitFive()
			txn := e.begin(raidstorage.Meta{})
			e.must("Store", txn.Store(e.ctx, 1, tids[4], []byte("f")))
			e.must("TruncateAfter", e.truncate(tids[2], tids[4]))
			e.wantConflict(txn, 1, tids[2], tids[4])
		}},
		rule{name: "it is still so after a restart", needs: needs{reopen: true}, run: func(e *env) {
			tids := e.commitFive()
			e.must("TruncateAfter", e.truncate(tids[2], tids[4]))
			want := e.log(e.s)
			e.reopen()
			if diff := cmp.Diff(want, e.log(e.s)); diff != "" {
				e.Errorf("the log differs (-want +got):\n%s", diff)
			}
			e.wantLast(tids[2])
			e.commit(objs(1, "goes on"))
		}},
	)
}

// commitFive commits "a" to "e" as object 1, each with a new object 10, 11, ...
func (e *env) commitFive() []raidstorage.TID {
	e.Helper()
	var tids []raidstorage.TID
	for i, data := range []string{"a", "b", "c", "d", "e"} {
		tids = append(tids, e.commit(map[raidstorage.OID]string{1: data, raidstorage.OID(10 + i): "new"}))
	}
	return tids
}

func (e *env) truncate(tid, last raidstorage.TID) error {
	e.Helper()
	t, err := raidstorage.Can[raidstorage.Truncater](e.s)
	e.must("Can", err)
	return t.TruncateAfter(e.ctx, tid, last)
}
