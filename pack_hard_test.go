package raidstorage_test

import (
	"context"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// An object that was garbage at the pack time and was written again before the cut
// stays: who has lost that too is wrong, and not those who have it.
func TestK4GarbageWrittenAgainIsNoGarbage(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		m := w.start()
		through := w.tree(m)[2]
		again := w.mustCommit(m, 10, storagetest.Pickled("written again"))
		w.packAside(2, raidstorage.PackOptions{Through: again, Decided: true, Garbage: []raidstorage.OID{10}})
		err := m.Pack(t.Context(), raidstorage.PackOptions{Through: through, GC: true})
		if d := wantErr[*raidstorage.DifferenceError](t, "Pack", err); d.Backend != "b3" || d.OID != 10 || d.Serial != 0 || d.Others != again {
			t.Errorf("the difference is %v", d)
		}
		w.waitState(m, "b3", raidstorage.StateFailed)
		wantData(t, m, 10, storagetest.Pickled("written again"))
	})
}

// stuckFinder hangs after it has been told to decide.
type stuckFinder struct{ *storagetest.FaultyStorage }

func (s stuckFinder) FindGarbage(ctx context.Context, _ raidstorage.TID, decide func(context.Context) error) ([]raidstorage.OID, error) {
	if err := decide(ctx); err != nil {
		return nil, err
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

// lateCommit does something when it has been decided and the rest is not read yet.
type lateCommit struct {
	*storagetest.FaultyStorage
	meanwhile func()
}

func (s lateCommit) Supports(capability reflect.Type) bool {
	return oneStep{s.FaultyStorage}.Supports(capability)
}

func (s lateCommit) FindGarbage(ctx context.Context, through raidstorage.TID, decide func(context.Context) error) ([]raidstorage.OID, error) {
	return s.FaultyStorage.FindGarbage(ctx, through, func(ctx context.Context) error {
		defer s.meanwhile()
		return decide(ctx)
	})
}

// K2: from the decision to the record of the cut no commit gets in between.
func TestK2NoCommitWhileTheCutIsMade(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		var m *raidstorage.Mirror
		committed := make(chan raidstorage.TID, 1)
		for i := range w.cfg.Backends {
			open := w.cfg.Backends[i].Open
			w.cfg.Backends[i].Open = func(ctx context.Context) (raidstorage.Storage, error) {
				s, err := open(ctx)
				if err != nil {
					return nil, err
				}
				return lateCommit{s.(*storagetest.FaultyStorage), func() {
					go func() { committed <- w.mustCommit(m, 0, storagetest.Pickled("root", 1)) }()
					synctest.Wait()
				}}, nil
			}
		}
		m = w.start()
		through := w.tree(m)[2]
		var cut raidstorage.TID
		w.observe("b1", storagetest.CallPack, func() { cut = m.Status().Pack.Cut })
		mustPack(t, m, through)
		if tid := <-committed; tid <= cut {
			t.Errorf("commit %v is not later than the cut %v, and was not read", tid, cut)
		}
	})
}

// Commits do not wait for ever for a backend that hangs while it decides; another one
// is asked.
func TestPackHoldsCommitsUpForADeadlineOnly(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		open := w.cfg.Backends[0].Open
		w.cfg.Backends[0].Open = func(ctx context.Context) (raidstorage.Storage, error) {
			s, err := open(ctx)
			if err != nil {
				return nil, err
			}
			return stuckFinder{s.(*storagetest.FaultyStorage)}, nil
		}
		m := w.start()
		through := w.tree(m)[2]
		begun := time.Now()
		mustPack(t, m, through)
		if took := time.Since(begun); took > 2*voteTimeout {
			t.Errorf("the pack took %v", took)
		}
		w.wantPacked(through)
		w.wantInSync("b1", "b2")
		w.mustCommit(m, 1, storagetest.Pickled("goes on"))
		w.wantEqual("b1", "b2")
	})
}

// After an interrupted pack nobody knows who holds what is alive: a backend that is
// recovered drops nothing that only some of the others have dropped.
func TestV1RecoveryAfterAnInterruptedPackDropsNothing(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.packsInOneStep()
		m := w.start()
		through := w.tree(m)[2]
		if err := m.Disable(t.Context(), "b3", "test"); err != nil {
			t.Fatal(err)
		}
		w.backend("b2").Inject(storagetest.Fault{Call: storagetest.CallPack, Times: 1, Hook: func() {
			w.reg.cut()
			for _, b := range []string{"b1", "b2"} {
				w.backend(b).CutOff()
			}
		}})
		if err := m.Pack(t.Context(), raidstorage.PackOptions{Through: through, GC: true}); err == nil {
			t.Fatal("the pack of a dead process succeeded")
		}
		w.crash(m)
		wantData(t, w.mem.stores[0], 10, "") // b1 was packed
		m = w.start()
		w.mustCommit(m, 0, storagetest.Pickled("root", 1, 10)) // b2 still serves it
		if err := m.Recover(t.Context(), "b3"); err != nil {
			t.Fatal(err)
		}
		for _, s := range w.mem.stores[1:] {
			wantData(t, s, 10, storagetest.Pickled("garbage", 11))
			wantData(t, s, 11, storagetest.Pickled("below garbage"))
		}
		for range 4 {
			wantData(t, m, 10, storagetest.Pickled("garbage", 11))
		}
		w.wantInSync("b1", "b2", "b3")
		// K4: now it is known that it is alive, and who lacks it.
		err := m.Pack(t.Context(), raidstorage.PackOptions{Through: through, GC: true})
		if d := wantErr[*raidstorage.DifferenceError](t, "Pack", err); d.Backend != "b1" || d.OID != 10 || d.Serial != 0 {
			t.Errorf("the next pack says %v", err)
		}
		w.waitState(m, "b1", raidstorage.StateFailed)
		wantData(t, m, 10, storagetest.Pickled("garbage", 11))
	})
}

// K4: what a backend whose pack failed has kept is nothing that the others lack, also
// if only they know what they dropped.
func TestK4FailedPackOfOwnCollectorsDegradesNobody(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.makeSelfish("b1", "b2")
		m := w.start()
		through := w.tree(m)[2]
		<-time.After(time.Second) // simulated
		w.mustCommit(m, 1, storagetest.Pickled("the last one"))
		w.backend("b1").Inject(storagetest.Fault{Call: storagetest.CallPack, Times: 1})
		err := m.Pack(t.Context(), raidstorage.PackOptions{Through: through, GC: true})
		if b := wantErr[*raidstorage.BackendError](t, "Pack", err); b.Backend != "b1" || b.Op != "pack" {
			t.Errorf("the error is %v", err)
		}
		wantData(t, w.mem.stores[1], 10, "")
		synctest.Wait()
		w.wantInSync("b1", "b2")
		mustPack(t, m, through)
		w.wantEqual("b1", "b2")
	})
}

// K4: what is compared is what the backends held at the cut, whatever is committed
// while that is read.
func TestK4ComparesAsOfTheCut(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.cfg.ReadPolicy = raidstorage.PrimaryFirst
		m := w.start()
		through := w.tree(m)[2]
		w.observe("b2", storagetest.CallCurrentRecords, func() {
			w.mustCommit(m, 0, storagetest.Pickled("root, changed while it is compared", 1))
			w.observe("b2", storagetest.CallLoad, func() { w.mustCommit(m, 0, storagetest.Pickled("and again", 1)) })
		})
		mustPack(t, m, through)
		if got := count(w.backend("b2"), storagetest.CallLoad); got == 0 {
			t.Error("nothing was different while it was compared")
		}
		synctest.Wait()
		w.wantInSync("b1", "b2")
		w.wantPacked(through)
	})
}

// The tail that is packed proves nothing against a backend that lacks the transaction
// after it.
func TestRollForwardAfterAPackedTail(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.cfg.WriteQuorum = 2
		m := w.start()
		w.tree(m)
		w.mustCommit(m, 20, storagetest.Pickled("garbage at the end"))
		mustPack(t, m, raidstorage.MaxTID)
		w.backend("b2").Inject(storagetest.Fault{Call: storagetest.CallFinish, Times: 1})
		_, err := commit(m, 1, storagetest.Pickled("on b1 only"))
		wantErr[*raidstorage.OutcomeUnknownError](t, "commit", err)
		<-time.After(time.Minute) // simulated
		w.wantInSync("b1", "b2")
		w.mustCommit(m, 1, storagetest.Pickled("goes on"))
		w.wantEqual("b1", "b2")
	})
}

// A change of the record that is not confirmed while a pack runs leaves its lock there.
func TestLockStaysWhileThePackRuns(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.packsInOneStep()
		m := w.start()
		through := w.tree(m)[2]
		w.observe("b2", storagetest.CallPack, func() {
			n := 0
			w.reg.on(func(raidstorage.Membership) registerFault {
				if n++; n == 1 {
					return registerLosesReply
				}
				return registerWorks
			})
			if err := m.Disable(t.Context(), "b3", "test"); err == nil {
				t.Error("the reply was not lost")
			}
			epoch := w.record().Epoch
			w.mustCommit(m, 1, storagetest.Pickled("moves the epoch"))
			if r := w.record(); r.Epoch == epoch || r.Lock == nil {
				t.Errorf("at epoch %d the lock is %v", r.Epoch, r.Lock)
			}
		})
		err := m.Pack(t.Context(), raidstorage.PackOptions{Through: through, GC: true})
		t.Logf("the pack without b3: %v", err)
		if r := w.record(); r.Lock != nil {
			t.Errorf("after the pack the lock is %v", r.Lock)
		}
		w.wantInSync("b1", "b2")
	})
}

// A pack to an earlier time does not make up for a failed one.
func TestEarlierPackDoesNotMakeUpForAFailedOne(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		tids := w.tree(m)
		w.backend("b2").Inject(storagetest.Fault{Call: storagetest.CallSwitch, Times: 1})
		if err := m.Pack(t.Context(), raidstorage.PackOptions{Through: tids[2]}); err == nil {
			t.Error("the pack of b2 did not fail")
		}
		if err := m.Pack(t.Context(), raidstorage.PackOptions{Through: tids[0]}); err != nil {
			t.Fatal(err)
		}
		if r := w.record(); !slices.Equal(r.Unpacked, []string{"b2"}) {
			t.Errorf("unpacked are %v", r.Unpacked)
		}
		mustPack(t, m, tids[2])
		w.wantPacked(tids[2])
	})
}

// A backend with a collector of its own that comes back after the pack time was chosen
// could drop the last transaction: the pack is refused.
func TestOwnCollectorComesBackWhileGarbageIsFound(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.cfg.StartQuorum, w.cfg.WriteQuorum = 2, 2
		w.cfg.RetryMin, w.cfg.RetryMax = time.Second, time.Second
		w.makeSelfish("b2")
		m := w.start()
		w.tree(m)
		w.setDown(true, "b2")
		w.backend("b2").CutOff()
		if _, err := commit(m, 1, storagetest.Pickled("fails")); err == nil {
			t.Fatal("a commit without b2")
		}
		w.observe("b1", storagetest.CallFindGarbage, func() {
			w.setDown(false, "b2")
			w.waitState(m, "b2", raidstorage.StateInSync)
		})
		err := m.Pack(t.Context(), raidstorage.PackOptions{Through: raidstorage.MaxTID, GC: true})
		wantErr[*raidstorage.UnavailableError](t, "Pack", err)
		if r := w.record(); r.Lock != nil || r.PackHorizon != 0 {
			t.Errorf("the record is %+v", r)
		}
		mustPack(t, m, raidstorage.MaxTID)
	})
}

// A pack without garbage collection leaves what a failed one should have dropped: who
// has dropped it lacks nothing.
func TestPackWithoutCollectionLeavesWhatAFailedOneLeft(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		tids := w.tree(m)
		w.backend("b2").Inject(storagetest.Fault{Call: storagetest.CallSwitch, Times: 1})
		if err := m.Pack(t.Context(), raidstorage.PackOptions{Through: tids[1], GC: true}); err == nil {
			t.Error("the pack of b2 did not fail")
		}
		if err := m.Pack(t.Context(), raidstorage.PackOptions{Through: tids[2]}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w.wantInSync("b1", "b2")
		if r := w.record(); !slices.Equal(r.Unpacked, []string{"b2"}) {
			t.Errorf("unpacked are %v", r.Unpacked)
		}
		mustPack(t, m, tids[2])
		w.wantPacked(tids[2])
		w.wantEqual("b1", "b2")
	})
}
