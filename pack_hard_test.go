package raidstorage_test

import (
	"context"
	"errors"
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
		err := m.Pack(t.Context(), raidstorage.PackOptions{Through: through, GC: true})
		if !errors.As(err, new(*raidstorage.DifferenceError)) {
			t.Errorf("the next pack says %v", err)
		}
		wantData(t, m, 10, storagetest.Pickled("garbage", 11))
	})
}
