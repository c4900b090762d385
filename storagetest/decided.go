package storagetest

import (
	"context"
	"errors"
	"slices"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
)

// decidedRules are about packs whose garbage was found before, perhaps by another
// storage: all storages with the same log must find the same, and drop exactly what
// they are told to.
func decidedRules() []rule {
	return subject("decided garbage", needs{has: GarbageFinder},
		rule{name: "it is found without being dropped, and dropped as told", run: func(e *env) {
			through := e.commit(map[raidstorage.OID]string{
				0: Pickled("root", 1), 1: Pickled("child"), 10: Pickled("garbage", 1), 20: Pickled("cycle", 21), 21: Pickled("cycle", 20),
			})
			e.commit(objs(30, Pickled("written later")))
			want := e.log(e.s)
			garbage := e.findGarbage(through, nil)
			if diff := cmp.Diff([]raidstorage.OID{10, 20, 21}, garbage); diff != "" {
				e.Fatalf("the garbage differs (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(want, e.log(e.s)); diff != "" {
				e.Errorf("finding garbage changed the log (-want +got):\n%s", diff)
			}
			e.packDecided(through, garbage...)
			e.wantPresent(true, 0, 1, 30)
			e.wantPresent(false, 10, 20, 21)
			e.wantRecordsOf(0, 1, 30)
		}},
		rule{name: "references from later records keep objects, up to the decision", run: func(e *env) {
			through := e.commit(map[raidstorage.OID]string{
				0: Pickled("root"), 1: Pickled("linked later"), 2: Pickled("linked just before", 3), 3: Pickled("below it"), 4: Pickled("garbage"),
			})
			e.commit(objs(0, Pickled("root", 1)))
			garbage := e.findGarbage(through, func() { e.commit(objs(0, Pickled("root", 1, 2))) })
			if diff := cmp.Diff([]raidstorage.OID{4}, garbage); diff != "" {
				e.Errorf("the garbage differs (-want +got):\n%s", diff)
			}
		}},
		rule{name: "an object written again later is garbage, with what its old revision refers to", run: func(e *env) {
			through := e.commit(map[raidstorage.OID]string{
				0: Pickled("root"), 1: Pickled("unlinked", 2), 2: Pickled("below it"), 3: Pickled("not below it"),
			})
			again := e.commit(objs(1, Pickled("written again", 3)))
			garbage := e.findGarbage(through, nil)
			if diff := cmp.Diff([]raidstorage.OID{1, 2}, garbage); diff != "" {
				e.Fatalf("the garbage differs (-want +got):\n%s", diff)
			}
			e.packDecided(through, garbage...)
			e.wantPresent(false, 2)
			e.wantLoad(1, raidstorage.MaxTID, Pickled("written again", 3), again, 0)
			e.wantNotFound(1, again)
			e.wantPresent(true, 0, 3)
		}},
		rule{name: "an ordinary pack drops the same", run: func(e *env) {
			through := e.commit(map[raidstorage.OID]string{
				0: Pickled("root"), 1: Pickled("unlinked", 2), 2: Pickled("below it"), 3: Pickled("not below it"),
			})
			again := e.commit(objs(1, Pickled("written again", 3)))
			e.pack(through, true)
			e.wantPresent(false, 2)
			e.wantPresent(true, 0, 1, 3)
			e.wantNotFound(1, again)
		}},
		rule{name: "exactly the given objects are dropped, whatever refers to them", run: func(e *env) {
			through := e.commit(map[raidstorage.OID]string{
				0: Pickled("root", 1, 2), 1: Pickled("told to go"), 2: Pickled("child"), 3: Pickled("garbage that was not told"),
			})
			later := e.commit(objs(0, Pickled("root again", 1, 2)))
			e.packDecided(through, 1, 99)
			e.wantPresent(true, 0, 2, 3)
			e.wantPresent(false, 1)
			e.wantRecordsOf(0, 2, 3)
			e.wantLast(later)
		}},
		rule{name: "the last transaction stays, though all its records go", needs: needs{reopen: true}, run: func(e *env) {
			e.commit(objs(0, Pickled("root")))
			last := e.commit(objs(1, Pickled("garbage")))
			e.packDecided(last, 1)
			e.wantPresent(false, 1)
			e.wantLast(last)
			log := e.log(e.s)
			if n := len(log); n != 2 || log[n-1].TID != last || len(log[n-1].Records) != 0 {
				e.Errorf("the log is %v, want it to end with an empty %v", log, last)
			}
			e.reopen()
			e.wantLast(last)
			if diff := cmp.Diff(log, e.log(e.s)); diff != "" {
				e.Errorf("after a restart the log differs (-want +got):\n%s", diff)
			}
			e.commit(objs(1, Pickled("the oid is free")))
		}},
		rule{name: "what is packed already can lose more", run: func(e *env) {
			through := e.commit(map[raidstorage.OID]string{0: Pickled("root"), 1: Pickled("garbage"), 2: Pickled("garbage")})
			e.commit(objs(0, Pickled("root again")))
			e.packDecided(through, 1)
			e.wantPresent(true, 2)
			e.packDecided(through, 2)
			e.wantPresent(false, 1, 2)
			e.wantPresent(true, 0)
		}},
		rule{name: "who has been packed to a later time has none", run: func(e *env) {
			tids := e.packedOver()
			want := e.log(e.s)
			for _, through := range tids {
				if garbage := e.findGarbage(through, nil); len(garbage) != 0 {
					e.Errorf("the garbage at %v is %v", through, garbage)
				}
				e.pack(through, true)
				if diff := cmp.Diff(want, e.log(e.s)); diff != "" {
					e.Errorf("after a pack to %v the log differs (-want +got):\n%s", through, diff)
				}
			}
		}},
		rule{name: "an empty storage has none", run: func(e *env) {
			if garbage := e.findGarbage(raidstorage.MaxTID, nil); len(garbage) != 0 {
				e.Errorf("the garbage is %v", garbage)
			}
			e.packDecided(raidstorage.MaxTID)
		}},
		rule{name: "an error of decide ends it", run: func(e *env) {
			through := e.commit(objs(0, Pickled("root")))
			finder, err := raidstorage.Can[raidstorage.GarbageFinder](e.s)
			e.must("Can", err)
			stop := errors.New("stop")
			if _, err := finder.FindGarbage(e.ctx, through, func(context.Context) error { return stop }); !errors.Is(err, stop) {
				e.Errorf("FindGarbage: got error %v, want %v", err, stop)
			}
			e.pack(through, true) // nothing is locked
		}},
	)
}

// packedOver packs to a time when the objects that led to another one at the times which it
// returns had been written again.
func (e *env) packedOver() (earlier []raidstorage.TID) {
	e.Helper()
	earlier = []raidstorage.TID{
		e.commit(map[raidstorage.OID]string{0: Pickled("root", 1), 1: Pickled("child", 2), 2: Pickled("below it"), 3: Pickled("garbage")}),
		e.commit(objs(1, Pickled("child again", 2))),
	}
	e.pack(e.commit(objs(0, Pickled("root again", 1))), true)
	e.commit(objs(0, Pickled("root, once more", 1)))
	return earlier
}

// findGarbage finds garbage; meanwhile is called when it is decided.
func (e *env) findGarbage(through raidstorage.TID, meanwhile func()) []raidstorage.OID {
	e.Helper()
	finder, err := raidstorage.Can[raidstorage.GarbageFinder](e.s)
	e.must("Can", err)
	decided := 0
	garbage, err := finder.FindGarbage(e.ctx, through, func(context.Context) error {
		if decided++; meanwhile != nil {
			meanwhile()
		}
		return nil
	})
	e.must("FindGarbage", err)
	if decided != 1 {
		e.Errorf("FindGarbage called decide %d times", decided)
	}
	if !slices.IsSorted(garbage) {
		e.Errorf("the garbage %v is not in ascending order", garbage)
	}
	return garbage
}

func (e *env) packDecided(through raidstorage.TID, garbage ...raidstorage.OID) {
	e.Helper()
	finder, err := raidstorage.Can[raidstorage.GarbageFinder](e.s)
	e.must("Can", err)
	e.must("Pack", finder.Pack(e.ctx, raidstorage.PackOptions{Through: through, Decided: true, Garbage: garbage}))
	e.wantLockFree()
}
