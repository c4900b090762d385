package raidstorage_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// mixed runs f with a native backend, b1, and one with a collection of its own, b2, once
// with packs in two steps and once with packs in one. None of the two can be degraded.
func mixed(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	for _, one := range []bool{false, true} {
		t.Run(map[bool]string{false: "two steps", true: "one step"}[one], func(t *testing.T) {
			scenario(t, 2, func(t *testing.T, w *world) {
				if one {
					w.packsInOneStep()
					w.makeOneStepSelfish("b2")
				} else {
					w.makeSelfish("b2")
				}
				w.cfg.WriteQuorum, w.cfg.StartQuorum = 2, 2
				f(t, w)
			})
		})
	}
}

// makeOneStepSelfish is makeSelfish for backends that pack in one step.
func (w *world) makeOneStepSelfish(names ...string) {
	for i := range w.cfg.Backends {
		for _, n := range names {
			if b := &w.cfg.Backends[i]; b.Name == n {
				open := b.Open
				b.Open = func(ctx context.Context) (raidstorage.Storage, error) {
					s, err := open(ctx)
					if err != nil {
						return nil, err
					}
					return selfish{s.(oneStep).FaultyStorage}, nil
				}
			}
		}
	}
}

// wantRefused checks that a pack was refused for the sake of an object, and that nothing
// has happened.
func (w *world) wantRefused(m *raidstorage.Mirror, err error, oid raidstorage.OID, epoch uint64) {
	w.t.Helper()
	if invalid := wantErr[*raidstorage.InvalidError](w.t, "Pack", err); !strings.Contains(invalid.Reason, "object "+oid.String()) {
		w.t.Errorf("the refusal does not name %v: %v", oid, err)
	}
	synctest.Wait()
	if r := w.record(); r.Epoch != epoch || r.Lock != nil || r.Unfinished != nil {
		w.t.Errorf("the record is %+v, the epoch was %d", r, epoch)
	}
	if s := m.Status(); s.Condition != raidstorage.Optimal {
		w.t.Errorf("the mirror is %v: %s", s.Condition, s.Reason)
	}
	w.wantEqual("b1", "b2")
}

// wait lets time go by and commits, so that the pack time of a mirror with ZEO servers is
// later than all before.
func (w *world) wait(m *raidstorage.Mirror) raidstorage.TID {
	w.t.Helper()
	<-time.After(time.Second) // simulated
	return w.mustCommit(m, 30, storagetest.Pickled(fmt.Sprint("at ", time.Now())))
}

// What could not be reached at the pack time and is linked later a ZEO server would drop,
// and the others would not: the pack is refused, and one to another time is not.
func TestAPackThatOthersDecideOtherwiseIsRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what  string
		later func(w *world, m *raidstorage.Mirror)
		oid   raidstorage.OID // the first that is named
		count int
	}{
		{"linked again", func(w *world, m *raidstorage.Mirror) {
			w.mustCommit(m, 0, storagetest.Pickled("root", 1, 10))
		}, 10, 2},
		{"linked by what is garbage itself", func(w *world, m *raidstorage.Mirror) {
			w.mustCommit(m, 12, storagetest.Pickled("written again", 11))
		}, 11, 1},
		// Undoing the last change brings back what is there in one and not in the other.
		{"linked again and written again", func(w *world, m *raidstorage.Mirror) {
			w.mustCommit(m, 0, storagetest.Pickled("root", 1, 11))
			w.mustCommit(m, 11, storagetest.Pickled("written again"))
		}, 11, 1},
	} {
		t.Run(c.what, func(t *testing.T) {
			mixed(t, func(t *testing.T, w *world) {
				m := w.start()
				w.mustCommit(m, 0, storagetest.Pickled("root", 10))
				linked := w.mustCommit(m, 12, storagetest.Pickled("garbage"))
				<-time.After(time.Second) // simulated
				through := w.tree(m)[2]
				w.wait(m)
				c.later(w, m)
				w.wait(m)
				epoch := w.record().Epoch
				err := m.Pack(t.Context(), raidstorage.PackOptions{Through: through, GC: true})
				w.wantRefused(m, err, c.oid, epoch)
				if more := fmt.Sprintf("and %d more", c.count-1); strings.Contains(err.Error(), more) != (c.count > 1) {
					t.Errorf("it should name %d objects: %v", c.count, err)
				}
				mustPack(t, m, linked) // nothing is as old and was dropped
				mustPack(t, m, raidstorage.MaxTID)
				w.wantEqual("b1", "b2")
				w.wantInSync("b1", "b2")
				w.wantPacked(w.record().PackHorizon)
			})
		})
	}
}

// An undo that links an object again ZEO servers follow: that is no reason to refuse.
func TestAPackFollowsUndosAsOthersDo(t *testing.T) {
	t.Parallel()
	mixed(t, func(t *testing.T, w *world) {
		m := w.start()
		w.mustCommit(m, 21, storagetest.Pickled("grandchild"))
		w.mustCommit(m, 20, storagetest.Pickled("child", 21))
		w.mustCommit(m, 0, storagetest.Pickled("root", 20))
		unlink := w.mustCommit(m, 0, storagetest.Pickled("root without a child"))
		w.wait(m)
		undoTransaction(t, m, unlink)
		w.wait(m)
		mustPack(t, m, unlink)
		for i, s := range w.mem.stores {
			wantData(t, s, 21, storagetest.Pickled("grandchild"))
			if t.Failed() {
				t.Errorf("that was b%d", i+1)
			}
		}
		w.wantObjectsAlike("b1", "b2")
		w.wantPacked(unlink)
	})
}

// undoTransaction undoes a transaction.
func undoTransaction(t *testing.T, m raidstorage.Storage, tid raidstorage.TID) {
	t.Helper()
	storagetest.Transact(t, m, raidstorage.Meta{}, func(txn raidstorage.Txn) error { return raidstorage.Undo(t.Context(), txn, tid) })
}

// What is linked again while the pack goes on: one to "now" is made to a later time, one
// to a fixed time is refused.
func TestGarbageLinkedAgainWhileBothKindsArePacked(t *testing.T) {
	t.Parallel()
	for _, call := range []storagetest.Call{storagetest.CallFindGarbage, storagetest.CallStagePack, storagetest.CallCatchUp, storagetest.CallRelinked} {
		for _, now := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, to now: %v", call, now), func(t *testing.T) {
				scenario(t, 2, func(t *testing.T, w *world) {
					w.makeSelfish("b2")
					w.cfg.WriteQuorum, w.cfg.StartQuorum = 2, 2
					m := w.start()
					through := w.tree(m)[2]
					w.mustCommit(m, 40, storagetest.Pickled("garbage for good"))
					w.wait(m)
					w.observe("b1", call, func() {
						w.mustCommit(m, 0, storagetest.Pickled("root", 1, 10))
						w.wait(m)
					})
					epoch := w.record().Epoch
					if !now {
						w.wantRefused(m, m.Pack(t.Context(), raidstorage.PackOptions{Through: through, GC: true}), 10, epoch)
					} else {
						mustPack(t, m, raidstorage.MaxTID)
						w.wantPacked(w.record().PackHorizon)
						w.wantObjectsAlike("b1", "b2")
						wantData(t, w.mem.stores[1], 40, "")
					}
					for _, s := range w.mem.stores {
						wantData(t, s, 10, storagetest.Pickled("garbage", 11))
						wantData(t, s, 11, storagetest.Pickled("below garbage"))
					}
				})
			})
		}
	}
}

// Garbage that is linked again at every attempt ends the pack, with nothing changed.
func TestAPackOfBothKindsEndsWhenGarbageIsLinkedAgainAndAgain(t *testing.T) {
	t.Parallel()
	mixed(t, func(t *testing.T, w *world) {
		m := w.start()
		w.tree(m)
		for oid := raidstorage.OID(50); oid < 60; oid++ {
			w.mustCommit(m, oid, storagetest.Pickled("garbage"))
		}
		w.wait(m)
		attempts := 0
		w.backend("b1").Inject(storagetest.Fault{Call: storagetest.CallFindGarbage, Kind: storagetest.Observe, Hook: func() {
			w.mustCommit(m, 0, storagetest.Pickled("root", 1, raidstorage.OID(50+attempts)))
			w.wait(m)
			attempts++
		}})
		epoch := w.record().Epoch
		err := m.Pack(t.Context(), raidstorage.PackOptions{Through: raidstorage.MaxTID, GC: true})
		w.wantRefused(m, err, raidstorage.OID(50+attempts-1), epoch)
		if attempts != 4 {
			t.Errorf("there were %d attempts", attempts)
		}
		w.backend("b1").Clear()
		mustPack(t, m, raidstorage.MaxTID)
		w.wantObjectsAlike("b1", "b2")
	})
}

// An undo while the backends prepare may stop a ZEO server from following what it would
// have followed before: the garbage is found anew.
func TestAnUndoWhileBothKindsArePrepared(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.makeSelfish("b2")
		w.cfg.WriteQuorum, w.cfg.StartQuorum = 2, 2
		m := w.start()
		w.mustCommit(m, 21, storagetest.Pickled("grandchild"))
		w.mustCommit(m, 20, storagetest.Pickled("child", 21))
		w.mustCommit(m, 0, storagetest.Pickled("root", 20))
		unlink := w.mustCommit(m, 0, storagetest.Pickled("root without a child"))
		w.wait(m)
		undoTransaction(t, m, unlink)
		again := w.mustCommit(m, 20, storagetest.Pickled("child again", 21))
		w.wait(m)
		w.observe("b1", storagetest.CallStagePack, func() { undoTransaction(t, m, again) })
		epoch := w.record().Epoch
		err := m.Pack(t.Context(), raidstorage.PackOptions{Through: unlink, GC: true})
		w.wantRefused(m, err, 21, epoch)
		if n := count(w.backend("b1"), storagetest.CallFindGarbage); n != 2 {
			t.Errorf("the garbage was found %d times", n)
		}
		w.wait(m)
		mustPack(t, m, raidstorage.MaxTID)
		w.wantObjectsAlike("b1", "b2")
		wantData(t, m, 21, storagetest.Pickled("grandchild"))
	})
}

// Undos in each attempt do not make a pack fail: the last attempt refuses them.
func TestUndosInEachAttemptOfAPackOfBothKinds(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.makeSelfish("b2")
		w.cfg.WriteQuorum, w.cfg.StartQuorum = 2, 2
		m := w.start()
		w.tree(m)
		last := w.wait(m)
		var answers []error
		undo := func() error {
			txn, err := m.Begin(t.Context(), raidstorage.Meta{})
			if err != nil {
				return err
			}
			defer txn.Abort(t.Context())
			if err := raidstorage.Undo(t.Context(), txn, last); err != nil {
				return err
			}
			if _, err := txn.Vote(t.Context()); err != nil {
				return err
			}
			last, err = txn.Finish(t.Context())
			return err
		}
		w.backend("b1").Inject(storagetest.Fault{Call: storagetest.CallStagePack, Kind: storagetest.Observe, Hook: func() {
			answers = append(answers, undo())
		}})
		through := last - 1
		mustPack(t, m, through)
		if len(answers) != 4 || answers[0] != nil || answers[1] != nil || answers[2] != nil {
			t.Fatalf("the undos: %v", answers)
		}
		wantErr[*raidstorage.UndoError](t, "an undo in the last attempt", answers[3])
		if horizon := w.record().PackHorizon; horizon > through {
			t.Errorf("the pack was to %v, and not to later than %v", horizon, through)
		}
		w.wantPacked(w.record().PackHorizon)
		w.wantEqual("b1", "b2")
		if err := undo(); err != nil {
			t.Errorf("an undo after the pack: %v", err)
		}
	})
}

// An undo that is given up after its vote has changed nothing, and is in no pack's way.
func TestAnUndoThatWasGivenUpIsInNoPacksWay(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.makeSelfish("b2")
		w.cfg.WriteQuorum, w.cfg.StartQuorum = 2, 2
		m := w.start()
		w.tree(m)
		last := w.wait(m)
		txn, err := m.Begin(t.Context(), raidstorage.Meta{})
		if err == nil {
			err = raidstorage.Undo(t.Context(), txn, last)
		}
		if err == nil {
			_, err = txn.Vote(t.Context())
		}
		if err = errors.Join(err, txn.Abort(t.Context())); err != nil {
			t.Fatal(err)
		}
		mustPack(t, m, last-1)
		w.wantPacked(w.record().PackHorizon)
	})
}

// withoutKept is a native backend that does not know what others would drop.
type withoutKept struct{ *storagetest.FaultyStorage }

func (s withoutKept) Supports(capability reflect.Type) bool {
	return capability != reflect.TypeFor[raidstorage.KeptFinder]() && s.FaultyStorage.Supports(capability)
}

// If no native backend can tell what the others would drop nothing is packed.
func TestAPackOfBothKindsNeedsOneThatCanTell(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.makeSelfish("b3")
		open := w.cfg.Backends[1].Open
		for i := range w.cfg.Backends[:2] {
			open := w.cfg.Backends[i].Open
			w.cfg.Backends[i].Open = func(ctx context.Context) (raidstorage.Storage, error) {
				s, err := open(ctx)
				if err != nil {
					return nil, err
				}
				return withoutKept{s.(*storagetest.FaultyStorage)}, nil
			}
		}
		m := w.start()
		through := w.tree(m)[2]
		w.wait(m)
		epoch := w.record().Epoch
		err := m.Pack(t.Context(), raidstorage.PackOptions{Through: through, GC: true})
		if u := wantErr[*raidstorage.UnsupportedError](t, "Pack", err); u.Capability != "KeptFinder" || w.record().Epoch != epoch {
			t.Errorf("Pack: %v, at epoch %d, which was %d", err, w.record().Epoch, epoch)
		}
		m.Close()
		w.cfg.Backends[1].Open = open
		m = w.start()
		mustPack(t, m, through)
		w.wantEqual("b1", "b2", "b3")
	})
}

// One that follows and decides itself is not packed when it would drop what the others
// keep; the next pack makes up for it.
func TestAFollowerThatWouldDropMoreIsNotPacked(t *testing.T) {
	t.Parallel()
	for _, call := range []storagetest.Call{"", storagetest.CallStagePack} {
		t.Run(string(call), func(t *testing.T) {
			following(t, 2, func(t *testing.T, w *world, async string) {
				w.makeSelfish(async)
				m := w.start()
				through := w.tree(m)[2]
				w.mustCommit(m, 40, storagetest.Pickled("garbage, too"))
				w.wait(m)
				link := func() { w.mustCommit(m, 0, storagetest.Pickled("root", 1, 10)) }
				if call == "" {
					link()
				} else {
					w.observe("b1", call, link)
				}
				<-time.After(time.Second) // simulated
				mustPack(t, m, through)
				<-time.After(time.Minute)
				wantData(t, w.mem.stores[2], 10, storagetest.Pickled("garbage", 11))
				wantData(t, w.mem.stores[2], 11, storagetest.Pickled("below garbage"))
				if r := w.record(); len(r.Unpacked) != 1 || r.Unpacked[0] != async {
					t.Errorf("unpacked are %v", r.Unpacked)
				}
				w.wait(m)
				<-time.After(time.Second) // it has got that, too
				mustPack(t, m, raidstorage.MaxTID)
				<-time.After(time.Minute)
				w.wantPacked(w.record().PackHorizon)
				w.wantObjectsAlike("b1", "b2", async)
			})
		})
	}
}

// An interrupted pack that has become one which others decide otherwise is not tried for
// ever: an operator's pack to a later time ends it.
func TestAnInterruptedPackThatIsRefusedIsLeftToTheOperator(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.makeSelfish("b2")
		w.cfg.WriteQuorum, w.cfg.StartQuorum = 2, 2
		m := w.start()
		through := w.tree(m)[2]
		w.wait(m)
		w.backend("b2").Inject(storagetest.Fault{Call: storagetest.CallPack, Times: 1})
		w.backend("b1").Inject(storagetest.Fault{Call: storagetest.CallSwitch, Times: 1, Hook: func() {
			w.reg.cut()
			for _, b := range []string{"b1", "b2"} {
				w.backend(b).CutOff()
			}
		}})
		if err := m.Pack(t.Context(), raidstorage.PackOptions{Through: through, GC: true}); err == nil {
			t.Fatal("the pack of a dead process succeeded")
		}
		w.crash(m)
		m = w.start()
		w.mustCommit(m, 0, storagetest.Pickled("root", 1, 10)) // neither was packed
		<-time.After(time.Minute)                              // the tids of a new process begin later than the clock
		w.wait(m)
		m.Close()
		w.cfg.AutoRecover = raidstorage.AutoRecoverOn
		m = w.start()
		<-time.After(10 * time.Hour) // simulated
		if n := count(w.backend("b1"), storagetest.CallFindGarbage); n != 1 {
			t.Errorf("the pack was tried %d times", n)
		}
		if r := w.record(); r.Unfinished == nil || len(r.Unpacked) != 2 || r.Lock != nil {
			t.Errorf("the record is %+v", r)
		}
		mustPack(t, m, raidstorage.MaxTID)
		w.wantEqual("b1", "b2")
		w.wantPacked(w.record().PackHorizon)
		if r := w.record(); r.Unfinished != nil {
			t.Errorf("unfinished is still %+v", r.Unfinished)
		}
		wantData(t, m, 11, storagetest.Pickled("below garbage"))
	})
}

// slowToTell takes its time, after it was asked to decide, to find what others would drop.
type slowToTell struct{ *storagetest.FaultyStorage }

func (s slowToTell) FindKept(ctx context.Context, through raidstorage.TID, decide func(context.Context) error) (garbage, kept []raidstorage.OID, err error) {
	garbage, kept, err = s.FaultyStorage.FindKept(ctx, through, decide)
	select {
	case <-time.After(time.Hour): // simulated
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	return garbage, kept, err
}

// What a ZEO server would drop may take long to find, as much was linked again by an undo:
// while the garbage is found nobody waits for it.
func TestAPackOfBothKindsWaitsForOneThatIsSlowToTell(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.makeSelfish("b2")
		open := w.cfg.Backends[0].Open
		w.cfg.Backends[0].Open = func(ctx context.Context) (raidstorage.Storage, error) {
			s, err := open(ctx)
			if err != nil {
				return nil, err
			}
			return slowToTell{s.(*storagetest.FaultyStorage)}, nil
		}
		m := w.start()
		through := w.tree(m)[2]
		w.wait(m)
		mustPack(t, m, through)
		w.wantEqual("b1", "b2")
		w.wantPacked(through)
	})
}

// After a pack that was interrupted one may have packed and the others not: if what it has
// dropped is linked again then it is not in sync any more, and the pack is made again
// without it.
func TestAnInterruptedPackThatOneHasMadeAndIsRefused(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.makeSelfish("b3")
		w.cfg.WriteQuorum, w.cfg.StartQuorum = 2, 2
		m := w.start()
		through := w.tree(m)[2]
		w.wait(m)
		for _, b := range []string{"b1", "b2"} {
			w.backend(b).Inject(storagetest.Fault{Call: storagetest.CallSwitch, Times: 1, Hook: func() {
				<-time.After(time.Millisecond) // simulated; b3 has packed
				w.reg.cut()
				for _, b := range []string{"b1", "b2", "b3"} {
					w.backend(b).CutOff()
				}
			}})
		}
		if err := m.Pack(t.Context(), raidstorage.PackOptions{Through: through, GC: true}); err == nil {
			t.Fatal("the pack of a dead process succeeded")
		}
		w.crash(m)
		wantData(t, w.mem.stores[0], 11, storagetest.Pickled("below garbage"))
		wantData(t, w.mem.stores[2], 11, "")
		m = w.start()
		w.mustCommit(m, 0, storagetest.Pickled("root", 1, 10))
		<-time.After(time.Minute) // the tids of a new process begin later than the clock
		w.wait(m)
		m.Close()
		w.cfg.AutoRecover = raidstorage.AutoRecoverOn
		m = w.start()
		<-time.After(time.Hour) // simulated
		if s := status(t, m, "b3"); s.State == raidstorage.StateInSync {
			t.Error("b3 is in sync and lacks what can be reached")
		}
		w.wantInSync("b1", "b2")
		if r := w.record(); r.Unfinished != nil || len(r.Unpacked) != 1 || r.Lock != nil {
			t.Errorf("the record is %+v", r)
		}
		wantData(t, m, 11, storagetest.Pickled("below garbage"))
		w.wantEqual("b1", "b2")
	})
}
