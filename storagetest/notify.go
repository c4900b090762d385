package storagetest

import (
	"slices"

	"github.com/zeoraid/raidstorage"
)

func notifyRules() []rule {
	return subject("notify", needs{has: Notifier},
		rule{name: "commits through another handle are told, in order, and are visible", run: func(e *env) {
			got, _ := e.subscribe(e.s)
			second := e.second()
			want := e.foreignCommits(second)
			for _, w := range want {
				e.wantInvalidation(got, w)
				if last := e.lastTID(); last < w.TID {
					e.Errorf("transaction %v was told, but LastTID = %v", w.TID, last)
				}
			}
			e.wantCurrent(1, "a2")
			e.wantNotFound(2, raidstorage.MaxTID)
		}},
		rule{name: "own commits are not told, aborted ones neither", run: func(e *env) {
			got, _ := e.subscribe(e.s)
			second := e.second()
			e.commit(objs(5, "own"))
			txn, err := second.Begin(e.ctx, raidstorage.Meta{})
			e.must("Begin", err)
			e.must("Store", txn.Store(e.ctx, 6, 0, []byte("never")))
			_, err = txn.Vote(e.ctx)
			e.must("Vote", err)
			e.must("Abort", txn.Abort(e.ctx))
			tid := Commit(e.TB, second, objs(7, "foreign"))
			e.wantInvalidation(got, raidstorage.Invalidation{TID: tid, OIDs: []raidstorage.OID{7}})
		}},
		rule{name: "every subscriber is told", run: func(e *env) {
			one, _ := e.subscribe(e.s)
			two, _ := e.subscribe(e.s)
			second := e.second()
			back, _ := e.subscribe(second)
			foreign := Commit(e.TB, second, objs(1, "there"))
			want := raidstorage.Invalidation{TID: foreign, OIDs: []raidstorage.OID{1}}
			e.wantInvalidation(one, want)
			e.wantInvalidation(two, want)
			own := e.commit(objs(2, "here"))
			e.wantInvalidation(back, raidstorage.Invalidation{TID: own, OIDs: []raidstorage.OID{2}})
		}},
		rule{name: "nothing is told after cancel", run: func(e *env) {
			cancelled, cancel := e.subscribe(e.s)
			staying, _ := e.subscribe(e.s)
			second := e.second()
			tid := Commit(e.TB, second, objs(1, "a"))
			e.wantInvalidation(cancelled, raidstorage.Invalidation{TID: tid, OIDs: []raidstorage.OID{1}})
			e.wantInvalidation(staying, raidstorage.Invalidation{TID: tid, OIDs: []raidstorage.OID{1}})
			cancel()
			cancel()
			tid = Commit(e.TB, second, objs(2, "b"))
			e.wantInvalidation(staying, raidstorage.Invalidation{TID: tid, OIDs: []raidstorage.OID{2}})
			select {
			case inv := <-cancelled:
				e.Errorf("%v was told after cancel", inv)
			default:
			}
		}},
		rule{name: "cancel is safe after close", run: func(e *env) {
			_, cancel := e.subscribe(e.s)
			e.must("Close", e.s.Close())
			cancel()
		}},
	)
}

func (e *env) second() raidstorage.Storage {
	e.Helper()
	return e.closing(e.f.Second(e.TB, e.s))
}

// subscribe returns a channel with room for all that a case commits: notify must
// not wait.
func (e *env) subscribe(s raidstorage.Storage) (<-chan raidstorage.Invalidation, func()) {
	e.Helper()
	n, err := raidstorage.Can[raidstorage.Notifier](s)
	e.must("Can", err)
	told := make(chan raidstorage.Invalidation, 100)
	cancel := n.Subscribe(func(inv raidstorage.Invalidation) {
		select {
		case told <- inv:
		default:
			e.Errorf("too many invalidations, lost %v", inv)
		}
	})
	e.Cleanup(cancel)
	return told, cancel
}

func (e *env) wantInvalidation(told <-chan raidstorage.Invalidation, want raidstorage.Invalidation) {
	e.Helper()
	select {
	case got := <-told:
		oids := slices.Sorted(slices.Values(got.OIDs))
		if got.TID != want.TID || !slices.Equal(oids, want.OIDs) {
			e.Fatalf("told of %v %v, want %v %v", got.TID, oids, want.TID, want.OIDs)
		}
	case <-e.ctx.Done():
		e.Fatalf("transaction %v was never told", want.TID)
	}
}

// foreignCommits commits a change of each kind and returns what must be told.
func (e *env) foreignCommits(s raidstorage.Storage) []raidstorage.Invalidation {
	e.Helper()
	first := Commit(e.TB, s, map[raidstorage.OID]string{1: "a", 2: "b"})
	second := Transact(e.TB, s, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
		if err := txn.CheckCurrent(e.ctx, 2, first); err != nil {
			return err
		}
		if err := txn.Store(e.ctx, 1, first, []byte("a1")); err != nil {
			return err
		}
		return txn.Store(e.ctx, 1, first, []byte("a2"))
	})
	third := Transact(e.TB, s, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
		return txn.Delete(e.ctx, 2, first)
	})
	return []raidstorage.Invalidation{
		{TID: first, OIDs: []raidstorage.OID{1, 2}},
		{TID: second, OIDs: []raidstorage.OID{1}},
		{TID: third, OIDs: []raidstorage.OID{2}},
	}
}
