package raidstorage_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// What was begun and comes to its end late, when a backend has left, has another role, or
// others have failed.

// setRole is a Change of one backend's configured role.
func (w *world) setRole(m *raidstorage.Mirror, name string, role raidstorage.Role) {
	w.t.Helper()
	c := m.Settings()
	for i := range c.Backends {
		if c.Backends[i].Name == name {
			c.Backends[i].Role = role
		}
	}
	if err := m.Change(context.Background(), c); err != nil {
		w.t.Errorf("Change of %s to %v: %v", name, role, err)
	}
}

// A spare that is made a copy far away, while it is being opened to take the place of
// another one, does not take it.
func TestASpareThatGetsAnotherRoleIsNotPutInPlace(t *testing.T) {
	withSpares(t, 2, 1, func(t *testing.T, w *world, m *raidstorage.Mirror) {
		var once sync.Once
		w.setOnOpen(func(name string, _ *storagetest.FaultyStorage) {
			if name == "b3" {
				once.Do(func() { w.setRole(m, "b3", raidstorage.RoleAsync) })
			}
		})
		w.lose(m, "b1")
		time.Sleep(spareAfter + time.Minute)
		w.waitState(m, "b3", raidstorage.StateFollowing)
		w.wantInSync("b2")
		w.wantRole(m, "b3", raidstorage.RoleAsync, raidstorage.RoleAsync)
		w.wantRole(m, "b1", full, full)
	})
}

// One that is made full while it is compared as a follower is recovered: it does not go
// on following, which nobody would ever end.
func TestAComparisonEndsAfterTheRoleHasChanged(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.cfg.AutoRecover = raidstorage.AutoRecoverOn
		w.cfg.RetryMin, w.cfg.RetryMax = time.Second, 10*time.Second
		w.cfg.Backends[2].Role = raidstorage.RoleAsync
		m := w.start()
		w.fill(m, 5)
		w.waitState(m, "b3", raidstorage.StateFollowing)
		var once sync.Once
		w.backend("b3").Inject(storagetest.Fault{Call: storagetest.CallNext, Kind: storagetest.Observe, Hook: func() {
			once.Do(func() { w.setRole(m, "b3", full) })
		}})
		if err := m.RecoverWith(t.Context(), "b3", raidstorage.RecoverOptions{Full: true}); err == nil {
			t.Error("it follows, and is full")
		}
		w.waitState(m, "b3", raidstorage.StateInSync)
		w.wantInSync("b1", "b2", "b3")
		w.mustCommit(m, 1, "on three")
		w.wantEqual("b1", "b2", "b3")
	})
}

// What a follower remembers ends with its role, although its storage stays open: demoted
// again it begins with a comparison.
func TestAFollowerForgetsWhatOthersHaveOvertaken(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.cfg.AutoRecover = raidstorage.AutoRecoverOn
		w.cfg.RetryMin, w.cfg.RetryMax = time.Second, 10*time.Second
		w.cfg.Backends[2].Role = raidstorage.RoleAsync
		m := w.start()
		w.fill(m, 5)
		w.waitState(m, "b3", raidstorage.StateFollowing)
		w.setRole(m, "b3", full)
		w.waitState(m, "b3", raidstorage.StateInSync)
		w.fill(m, 5)
		if err := m.Demote(t.Context(), "b3"); err != nil {
			t.Fatal(err)
		}
		w.mustCommit(m, 1, "it follows")
		synctest.Wait()
		w.wantEqual("b1", "b2", "b3")
		for _, b := range m.Status().Backends {
			if b.Counters.Faults != 0 {
				t.Errorf("%s has %d faults: %s", b.Name, b.Counters.Faults, b.Reason)
			}
		}
	})
}

// Who asks for a backend to be disabled that is just being taken out learns that it is
// gone; the record does not name it.
func TestDisableOfABackendThatIsBeingTakenOut(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		m := w.start()
		w.fill(m, 5)
		disabled := make(chan error, 1)
		var once sync.Once
		w.reg.on(func(raidstorage.Membership) registerFault {
			once.Do(func() { // the slot is held
				go func() { disabled <- m.Disable(context.Background(), "b3", "late") }()
				synctest.Wait() // it waits for the slot
			})
			return registerWorks
		})
		if err := m.Remove(t.Context(), "b3"); err != nil {
			t.Fatal(err)
		}
		wantErr[*raidstorage.InvalidError](t, "Disable", <-disabled)
		if r := w.record(); slices.Contains(r.Disabled, "b3") {
			t.Errorf("the record says that b3 is disabled: %+v", r)
		}
	})
}

// That the last backend fails once is the reader's to hear, also of one who began to read
// when there were two: the mirror goes on.
func TestAnOldIterationDoesNotTakeTheLastBackendOut(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.cfg.ReadPolicy = raidstorage.PrimaryFirst
		w.cfg.WriteQuorum, w.cfg.StartQuorum = 1, 1
		m := w.start()
		w.fill(m, 5)
		var last error
		first := true
		for _, err := range m.Iterate(t.Context(), 1, raidstorage.MaxTID) {
			if last = err; err != nil || !first {
				break
			}
			first = false
			w.lose(m, "b2")
			w.backend("b1").Inject(storagetest.Fault{Call: storagetest.CallNext, Times: 1})
		}
		if last == nil {
			t.Error("the error is not told")
		}
		w.wantInSync("b1")
		if s := m.Status().Backends[0]; s.State != raidstorage.StateInSync {
			t.Errorf("b1 is %v: %s", s.State, s.Reason)
		}
		w.mustCommit(m, 1, "goes on")
	})
}

// A call of a staged pack that was given up, as a disk hangs, has ended before the pack
// is ended.
func TestAStagedPackMakesOneCallAtATime(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		through := w.tree(m)[2]
		var mu sync.Mutex
		running := false
		b1 := w.backend("b1")
		ctx, cancel := context.WithCancel(t.Context())
		b1.Inject(storagetest.Fault{Call: storagetest.CallCatchUp, Kind: storagetest.Observe, Times: 1, Hook: func() {
			mu.Lock()
			running = true
			mu.Unlock()
			cancel()
			time.Sleep(time.Hour) // it looks at no context
			mu.Lock()
			running = false
			mu.Unlock()
		}})
		b1.Inject(storagetest.Fault{Call: storagetest.CallEndPack, Kind: storagetest.Observe, Hook: func() {
			mu.Lock()
			defer mu.Unlock()
			if running {
				t.Error("the pack is ended while another call of it runs")
			}
		}})
		began := time.Now()
		if err := m.Pack(ctx, raidstorage.PackOptions{Through: through, GC: true}); err == nil {
			t.Error("a pack that was given up has succeeded")
		}
		if took := time.Since(began); took > time.Minute {
			t.Errorf("it took %v to give it up", took)
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		w.mustCommit(m, 1, storagetest.Pickled("goes on"))
	})
}
