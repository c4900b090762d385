package storagetest

import (
	"fmt"
	"slices"

	"github.com/zeoraid/raidstorage"
)

func undoLogRules() []rule {
	return subject("undo log", needs{has: Undoer},
		rule{name: "it is empty when the storage is", run: func(e *env) {
			e.wantUndoLog(0, 10, nil)
		}},
		rule{name: "newest come first, skip and limit cut a piece out", run: func(e *env) {
			tids := e.commitUsers(5)
			slices.Reverse(tids)
			e.wantUndoLog(0, 10, nil, tids...)
			e.wantUndoLog(0, 5, nil, tids...)
			e.wantUndoLog(0, 2, nil, tids[:2]...)
			e.wantUndoLog(2, 2, nil, tids[2:4]...)
			e.wantUndoLog(4, 2, nil, tids[4:]...)
			e.wantUndoLog(5, 2, nil)
			e.wantUndoLog(99, 2, nil)
			e.wantUndoLog(0, 0, nil)
		}},
		rule{name: "skip and limit count only what matches", run: func(e *env) {
			tids := e.commitUsers(6)
			odd := func(info raidstorage.TxnInfo) bool { return string(info.User) == "odd" }
			e.wantUndoLog(0, 10, odd, tids[5], tids[3], tids[1])
			e.wantUndoLog(1, 1, odd, tids[3])
			e.wantUndoLog(2, 9, odd, tids[1])
			e.wantUndoLog(0, 9, func(raidstorage.TxnInfo) bool { return false })
		}},
		rule{name: "it tells the metadata of each transaction", run: func(e *env) {
			for i, meta := range sampleMetas()[:4] {
				e.transact(meta, func(txn raidstorage.Txn) error {
					return txn.Store(e.ctx, raidstorage.OID(i+1), 0, []byte("x"))
				})
			}
			infos, err := e.undoer().UndoLog(e.ctx, 0, 10, nil)
			e.must("UndoLog", err)
			if len(infos) != 4 {
				e.Fatalf("the undo log has %d entries, want 4", len(infos))
			}
			for i, want := range slices.Backward(sampleMetas()[:4]) {
				got := infos[3-i]
				if string(got.User) != string(want.User) || string(got.Description) != string(want.Description) ||
					string(got.Extension) != string(want.Extension) {
					e.Errorf("entry %d is %q %q %q, want %q %q %q", i, got.User, got.Description, got.Extension,
						want.User, want.Description, want.Extension)
				}
			}
		}},
		rule{name: "packed transactions are left out", run: func(e *env) {
			var want []raidstorage.TID
			for n, status := range []raidstorage.TxnStatus{raidstorage.StatusPacked, raidstorage.StatusPacked, ' ', ' '} {
				tid := e.transact(raidstorage.Meta{TID: testTID(n), Status: status}, func(txn raidstorage.Txn) error {
					return txn.Store(e.ctx, raidstorage.OID(n+1), 0, []byte("x"))
				})
				if status == ' ' {
					want = append([]raidstorage.TID{tid}, want...)
				}
			}
			e.wantUndoLog(0, 10, nil, want...)
		}},
		rule{name: "whatever it lists can be undone", run: func(e *env) {
			e.commitUsers(4)
			infos, err := e.undoer().UndoLog(e.ctx, 0, 10, nil)
			e.must("UndoLog", err)
			for _, info := range infos {
				e.undo(info.TID)
			}
			for i := range 4 {
				e.wantNotFound(raidstorage.OID(i+1), raidstorage.MaxTID)
			}
		}},
	)
}

func (e *env) undoer() raidstorage.Undoer {
	e.Helper()
	u, err := raidstorage.Can[raidstorage.Undoer](e.s)
	e.must("Can", err)
	return u
}

// commitUsers commits n new objects as users "even" and "odd" in turn.
func (e *env) commitUsers(n int) []raidstorage.TID {
	e.Helper()
	var tids []raidstorage.TID
	for i := range n {
		meta := raidstorage.Meta{User: []byte([]string{"even", "odd"}[i%2])}
		tids = append(tids, e.transact(meta, func(txn raidstorage.Txn) error {
			return txn.Store(e.ctx, raidstorage.OID(i+1), 0, []byte("x"))
		}))
	}
	return tids
}

func (e *env) wantUndoLog(skip, limit int, match func(raidstorage.TxnInfo) bool, want ...raidstorage.TID) {
	e.Helper()
	infos, err := e.undoer().UndoLog(e.ctx, skip, limit, match)
	e.must("UndoLog", err)
	var got []raidstorage.TID
	for _, info := range infos {
		got = append(got, info.TID)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		e.Errorf("UndoLog(skip %d, limit %d) = %v, want %v", skip, limit, got, want)
	}
}

func historyRules() []rule {
	return subject("history", needs{has: Historian},
		rule{name: "newest come first, limit counts, sizes are the data's", run: func(e *env) {
			var tids []raidstorage.TID
			for i := range 4 {
				tids = append(tids, e.transact(raidstorage.Meta{User: fmt.Append(nil, "user ", i)}, func(txn raidstorage.Txn) error {
					return stage(e.ctx, e.s, txn, map[raidstorage.OID]string{1: "12345"[:i+1]})
				}))
				e.commit(objs(2, "another object"))
			}
			for _, limit := range []int{1, 2, 4, 10} {
				infos := e.history(1, limit)
				if want := min(limit, 4); len(infos) != want {
					e.Fatalf("History with limit %d has %d entries, want %d", limit, len(infos), want)
				}
				for i, info := range infos {
					n := 3 - i
					if info.TID != tids[n] || info.Size != int64(n+1) || string(info.User) != fmt.Sprint("user ", n) {
						e.Errorf("entry %d is %v by %q of %d bytes, want %v by user %d of %d bytes",
							i, info.TID, info.User, info.Size, tids[n], n, n+1)
					}
				}
			}
		}},
		rule{name: "an unknown object has none", run: func(e *env) {
			e.commit(objs(1, "a"))
			h, err := raidstorage.Can[raidstorage.Historian](e.s)
			e.must("Can", err)
			_, err = h.History(e.ctx, 2, 10)
			if got := wantErr[*raidstorage.NotFoundError](e, "History", err); got.OID != 2 {
				e.Errorf("the error is about %v, want 2", got.OID)
			}
		}},
	)
}

func (e *env) history(oid raidstorage.OID, limit int) []raidstorage.TxnInfo {
	e.Helper()
	h, err := raidstorage.Can[raidstorage.Historian](e.s)
	e.must("Can", err)
	infos, err := h.History(e.ctx, oid, limit)
	e.must("History", err)
	return infos
}
