package storagetest

import (
	"time"

	"github.com/zeoraid/raidstorage"
)

// testTID returns the nth tid of a fixed past: they ascend, and each is earlier
// than any tid that a storage chooses by its clock.
func testTID(n int) raidstorage.TID {
	start := time.Date(2007, time.March, 14, 9, 26, 53, 0, time.UTC)
	return raidstorage.TIDFromTime(start.Add(time.Duration(n) * time.Hour))
}

func tidRules() []rule {
	return subject("tids", needs{},
		rule{name: "a tid that was given is used as it is", run: func(e *env) {
			for n := range 3 {
				want := testTID(n) + raidstorage.TID(n) // any low bits
				got := e.transact(raidstorage.Meta{TID: want}, func(txn raidstorage.Txn) error {
					return txn.Store(e.ctx, raidstorage.OID(n+1), 0, []byte("x"))
				})
				if got != want {
					e.Fatalf("Finish returned %v, want %v", got, want)
				}
				e.wantLast(want)
				e.wantLoad(raidstorage.OID(n+1), want+1, "x", want, 0)
			}
		}},
		rule{name: "a given tid must be later than the last", run: func(e *env) {
			last := e.transact(raidstorage.Meta{TID: testTID(5)}, func(txn raidstorage.Txn) error {
				return txn.Store(e.ctx, 1, 0, []byte("x"))
			})
			for _, tid := range []raidstorage.TID{last, last - 1, testTID(1), 1} {
				txn := e.begin(raidstorage.Meta{TID: tid})
				e.must("Store", txn.Store(e.ctx, 2, 0, []byte("y")))
				got := failedVote[*raidstorage.TIDOrderError](e, txn)
				if want := (raidstorage.TIDOrderError{TID: tid, Last: last}); *got != want {
					e.Errorf("got %+v, want %+v", *got, want)
				}
			}
			e.wantUntouched(last, 2)
		}},
		rule{name: "a given tid is compared when it votes, not when it begins", run: func(e *env) {
			early := e.begin(raidstorage.Meta{TID: testTID(5)})
			e.must("Store", early.Store(e.ctx, 2, 0, []byte("y")))
			last := e.commit(objs(1, "x"))
			failedVote[*raidstorage.TIDOrderError](e, early)
			e.wantUntouched(last, 2)
		}},
		rule{name: "tids rise strictly, however fast the commits", run: func(e *env) {
			var last raidstorage.TID
			for range 50 {
				tid := e.transact(raidstorage.Meta{}, func(raidstorage.Txn) error { return nil })
				if tid <= last {
					e.Fatalf("tid %v follows %v", tid, last)
				}
				last = tid
			}
		}},
		rule{name: "tids rise strictly after one from the future", run: func(e *env) {
			future := raidstorage.TIDFromTime(time.Now().Add(5 * time.Minute))
			e.transact(raidstorage.Meta{TID: future}, func(txn raidstorage.Txn) error {
				return txn.Store(e.ctx, 1, 0, []byte("x"))
			})
			last, next := future, raidstorage.TID(0)
			for range 3 {
				tid := e.commit(objs(1, "y"))
				if tid <= last {
					e.Fatalf("tid %v follows %v", tid, last)
				}
				if last == future {
					next = tid
				}
				last = tid
			}
			e.wantLoad(1, future+1, "x", future, next)
		}},
		rule{name: "a chosen tid is about the time of the commit", run: func(e *env) {
			before := time.Now().Add(-time.Minute)
			at := e.commit(objs(1, "x")).Time()
			if after := time.Now().Add(time.Minute); at.Before(before) || at.After(after) {
				e.Errorf("the tid's time is %v, the commit was between %v and %v", at, before, after)
			}
		}},
		rule{name: "an aborted transaction uses up no tid", run: func(e *env) {
			tid := testTID(2)
			for range 2 {
				txn := e.begin(raidstorage.Meta{TID: tid})
				e.must("Store", txn.Store(e.ctx, 1, 0, []byte("never")))
				_, err := txn.Vote(e.ctx)
				e.must("Vote", err)
				e.abort(txn)
			}
			e.transact(raidstorage.Meta{TID: tid}, func(txn raidstorage.Txn) error {
				return txn.Store(e.ctx, 1, 0, []byte("x"))
			})
			e.wantLoad(1, raidstorage.MaxTID, "x", tid, 0)
		}},
	)
}
