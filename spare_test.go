package raidstorage_test

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// spareAfter is how long the tests of spares wait before one comes in.
const spareAfter = time.Hour

// withSpares runs f in a bubble, over full backends b1 ... and spares after them.
func withSpares(t *testing.T, full, spares int, f func(t *testing.T, w *world, m *raidstorage.Mirror)) {
	t.Helper()
	scenario(t, full+spares, func(t *testing.T, w *world) {
		for i := range spares {
			w.cfg.Backends[full+i].Role = spare
		}
		w.cfg.AutoRecover, w.cfg.SpareAfter = raidstorage.AutoRecoverOn, spareAfter
		w.cfg.RetryMin, w.cfg.RetryMax = time.Second, time.Minute
		m := w.start()
		w.fill(m, 30)
		f(t, w, m)
	})
}

// lose cuts a backend off for good, and lets that be noticed.
func (w *world) lose(m *raidstorage.Mirror, name string) {
	w.t.Helper()
	w.setDown(true, name)
	w.backend(name).CutOff()
	w.mustCommit(m, 1, "without "+name)
	w.waitState(m, name, raidstorage.StateFailed)
}

// untouched checks that a spare was never opened.
func (w *world) untouched(names ...string) {
	w.t.Helper()
	for _, name := range names {
		if w.backend(name) != nil {
			w.t.Errorf("%s was opened", name)
		}
	}
}

func TestASpareTakesThePlaceOfABackendThatStaysOut(t *testing.T) {
	withSpares(t, 2, 1, func(t *testing.T, w *world, m *raidstorage.Mirror) {
		w.lose(m, "b1")
		time.Sleep(spareAfter - time.Minute)
		w.untouched("b3")
		w.wantInSync("b2")
		w.reg.on(func(next raidstorage.Membership) registerFault { // one change of the record
			if b1, b3 := next.Roles["b1"].Actual, next.Roles["b3"].Actual; (b1 == spare) != (b3 == full) || (b3 == full) != slices.Contains(next.InSync, "b3") {
				t.Errorf("a record in between: %v, in sync %v", next.Roles, next.InSync)
			}
			return registerWorks
		})
		time.Sleep(2 * time.Minute)
		w.wantInSync("b2", "b3")
		w.wantRole(m, "b1", full, spare)
		w.wantRole(m, "b3", spare, full)
		w.mustCommit(m, 1, "on b2 and b3")
		w.wantEqual("b2", "b3")
		s := m.Status()
		if s.Condition != raidstorage.Optimal {
			t.Errorf("the mirror is %v", s.Condition)
		}
		if b := status(t, m, "b1"); b.State != raidstorage.StateStandby || !strings.Contains(b.Reason, "b3 has taken its place") || !strings.Contains(b.Reason, "connection refused") {
			t.Errorf("b1 is %v: %s", b.State, b.Reason)
		}
		// It comes back, and is a spare; the roles stay over a restart.
		w.setDown(false, "b1")
		time.Sleep(3 * spareAfter)
		w.wantInSync("b2", "b3")
		w.crash(m)
		m = w.start()
		time.Sleep(3 * spareAfter)
		w.wantInSync("b2", "b3")
		w.wantRole(m, "b1", full, spare)
		// The operator exchanges them again.
		if err := m.Promote(t.Context(), "b1"); err != nil {
			t.Fatal(err)
		}
		if err := m.Demote(t.Context(), "b3"); err != nil {
			t.Fatal(err)
		}
		w.wantRole(m, "b1", full, full)
		w.wantRole(m, "b3", spare, spare)
		if s, _ := state(m, "b3"); s != raidstorage.StateStandby {
			t.Errorf("b3 is %v", s)
		}
		w.mustCommit(m, 1, "on b1 and b2")
		w.wantEqual("b1", "b2")
		if n := w.wantBeginning("b3", "b1"); n != 1 {
			t.Errorf("the spare lacks %d transactions, want 1", n)
		}
	})
}

// A member that is back when the spare is ready stays what it is: whether it came back
// while the spare was given the log, or at the last moment.
func TestABackendThatIsBackIsNotReplaced(t *testing.T) {
	t.Parallel()
	for _, last := range []bool{false, true} {
		t.Run(fmt.Sprintf("at the last moment %v", last), func(t *testing.T) {
			withSpares(t, 2, 1, func(t *testing.T, w *world, m *raidstorage.Mirror) {
				w.fill(m, 2000) // several parts
				after := 5
				if last {
					after = len(w.log("b1")) // the last one that is copied, and nothing is left but to join
				}
				w.setOnOpen(func(name string, f *storagetest.FaultyStorage) {
					if name == "b3" {
						f.Inject(storagetest.Fault{Call: storagetest.CallFinish, After: after, Times: 1, Kind: storagetest.Hang})
					}
				})
				w.lose(m, "b1")
				time.Sleep(spareAfter - time.Second)
				w.setDown(false, "b1") // too late to be noticed in time: its next attempt comes when the spare is at work
				w.cfg.RetryMax = time.Hour
				for w.backend("b3") == nil {
					time.Sleep(time.Second / 10)
				}
				if err := w.backend("b3").WaitFor(t.Context(), storagetest.CallFinish, after+1); err != nil {
					t.Fatal(err)
				}
				if err := m.Recover(t.Context(), "b1"); err != nil {
					t.Fatal(err)
				}
				w.wantInSync("b1", "b2")
				w.backend("b3").Release()
				time.Sleep(time.Minute)
				w.wantInSync("b1", "b2")
				w.wantRole(m, "b1", full, full)
				w.wantRole(m, "b3", spare, spare)
				if s, reason := state(m, "b3"); s != raidstorage.StateStandby {
					t.Errorf("b3 is %v: %s", s, reason)
				}
				if n := len(w.log("b3")); !last && n > 1000 {
					t.Errorf("the spare was given %d transactions though nobody needs it", n)
				}
				w.mustCommit(m, 1, "on two")
				time.Sleep(3 * spareAfter)
				w.wantEqual("b1", "b2")
				w.wantInSync("b1", "b2")
			})
		})
	}
}

// Two spares never take one place, and two members never one spare.
func TestNoSpareAndNoPlaceIsTakenTwice(t *testing.T) {
	withSparesIn(t, 3, 2, "one is out, and there are two spares", func(t *testing.T, w *world, m *raidstorage.Mirror) {
		w.lose(m, "b1")
		time.Sleep(3 * spareAfter)
		in, rest := "b4", "b5"
		if slices.Contains(w.record().InSync, "b5") {
			in, rest = rest, in
		}
		w.wantInSync(slices.Sorted(slices.Values([]string{"b2", "b3", in}))...)
		w.untouched(rest) // nothing was copied to it
		w.wantRole(m, rest, spare, spare)
	})
	withSparesIn(t, 3, 1, "two are out, and there is one spare", func(t *testing.T, w *world, m *raidstorage.Mirror) {
		if err := m.SetQuorum(t.Context(), 1, 1); err != nil {
			t.Fatal(err)
		}
		w.lose(m, "b1")
		time.Sleep(time.Minute)
		w.lose(m, "b2")
		time.Sleep(3 * spareAfter)
		w.wantInSync("b3", "b4")
		w.wantRole(m, "b1", full, spare) // out for longest
		w.wantRole(m, "b2", full, full)
		w.wantRole(m, "b4", spare, full)
		if s := m.Status().Condition; s != raidstorage.Degraded {
			t.Errorf("the mirror is %v", s)
		}
		// Where b1 was is a new disk: it is a spare now, and takes the place of b2.
		w.setDown(false, "b1")
		time.Sleep(2 * time.Minute)
		w.wantInSync("b1", "b3", "b4")
		w.wantRole(m, "b1", full, full)
		w.wantRole(m, "b2", full, spare)
		w.mustCommit(m, 1, "on three")
		w.wantEqual("b1", "b3", "b4")
	})
	withSparesIn(t, 3, 2, "two are out at the same time, and there are two spares", func(t *testing.T, w *world, m *raidstorage.Mirror) {
		if err := m.SetQuorum(t.Context(), 1, 1); err != nil {
			t.Fatal(err)
		}
		w.lose(m, "b1")
		w.lose(m, "b2")
		time.Sleep(spareAfter + time.Minute)
		w.wantInSync("b3", "b4", "b5")
		w.wantRole(m, "b1", full, spare)
		w.wantRole(m, "b2", full, spare)
		w.mustCommit(m, 1, "on three")
		w.wantEqual("b3", "b4", "b5")
	})
}

// withSparesIn is withSpares as a part of a test.
func withSparesIn(t *testing.T, full, spares int, what string, f func(t *testing.T, w *world, m *raidstorage.Mirror)) {
	t.Helper()
	t.Run(what, func(t *testing.T) { withSpares(t, full, spares, f) })
}

// A spare that cannot be had is tried again, and another one is taken meanwhile.
func TestASpareThatFails(t *testing.T) {
	withSpares(t, 2, 2, func(t *testing.T, w *world, m *raidstorage.Mirror) {
		w.setDown(true, "b3")
		w.setOnOpen(func(name string, f *storagetest.FaultyStorage) {
			if name == "b4" {
				f.Inject(storagetest.Fault{Call: storagetest.CallVote, After: 3, Times: 1})
			}
		})
		w.lose(m, "b1")
		time.Sleep(spareAfter + 10*time.Minute)
		w.wantInSync("b2", "b4")
		w.wantRole(m, "b3", spare, spare)
		w.wantEqual("b2", "b4")
	})
}

// A spare with another database is refused, and does nothing any more.
func TestASpareWithAnotherDatabaseIsRefused(t *testing.T) {
	withSpares(t, 2, 1, func(t *testing.T, w *world, m *raidstorage.Mirror) {
		stray := w.mustCommit(w.mem.stores[2].Another("stranger"), 50, "of another database")
		w.lose(m, "b1")
		time.Sleep(3 * spareAfter)
		w.wantInSync("b2")
		b := status(t, m, "b3")
		if b.State != raidstorage.StateFailed || !strings.Contains(b.Reason, "diverged") {
			t.Errorf("b3 is %v: %s", b.State, b.Reason)
		}
		if log := w.log("b3"); len(log) != 1 || log[0].TID != stray {
			t.Errorf("b3 has %d transactions", len(log))
		}
		w.mustCommit(m, 1, "on b2")
	})
}

// The process dies while the spare is given the log: the next one begins its time anew,
// and goes on from there.
func TestARestartWhileASpareIsRecovered(t *testing.T) {
	withSpares(t, 2, 1, func(t *testing.T, w *world, m *raidstorage.Mirror) {
		w.setOnOpen(func(name string, f *storagetest.FaultyStorage) {
			if name == "b3" {
				f.Inject(storagetest.Fault{Call: storagetest.CallFinish, After: 10, Kind: storagetest.Hang})
			}
		})
		w.lose(m, "b1")
		time.Sleep(spareAfter + time.Second)
		if err := w.backend("b3").WaitFor(t.Context(), storagetest.CallFinish, 11); err != nil {
			t.Fatal(err)
		}
		w.crash(m)
		w.setOnOpen(nil)
		if n := len(w.log("b3")); n < 10 {
			t.Fatalf("the spare has %d transactions", n)
		}
		m = w.start()
		w.wantRole(m, "b1", full, full)
		time.Sleep(spareAfter - time.Minute)
		w.wantInSync("b2")
		time.Sleep(2 * time.Minute)
		w.wantInSync("b2", "b3")
		w.mustCommit(m, 1, "on b2 and b3")
		w.wantEqual("b2", "b3")
	})
}

// A swap that is not confirmed leaves the roles as they were, and is made later.
func TestASwapThatIsNotConfirmed(t *testing.T) {
	t.Parallel()
	for _, fault := range []registerFault{registerFails, registerLosesReply, registerIsLate} {
		t.Run(fmt.Sprint(fault), func(t *testing.T) {
			withSpares(t, 2, 1, func(t *testing.T, w *world, m *raidstorage.Mirror) {
				w.lose(m, "b1")
				var hits atomic.Int32
				w.reg.on(func(next raidstorage.Membership) registerFault {
					if next.Roles["b3"].Actual == full {
						if hits.Add(1) == 1 {
							return fault
						}
					}
					return registerWorks
				})
				time.Sleep(spareAfter + time.Second/2)
				if hits.Load() != 1 {
					t.Fatalf("%d attempts", hits.Load())
				}
				w.reg.deliver()
				w.wantRole(m, "b1", full, full)
				w.wantRole(m, "b3", spare, spare)
				w.wantInSync("b2")
				w.mustCommit(m, 1, "on b2")
				time.Sleep(time.Minute)
				w.wantInSync("b2", "b3")
				w.wantRole(m, "b1", full, spare)
				w.mustCommit(m, 1, "on b2 and b3")
				w.wantEqual("b2", "b3")
			})
		})
	}
}

// What an operator has disabled is not replaced, nor anything without AutoRecover.
func TestNoSpareWhereAnOperatorDecides(t *testing.T) {
	withSpares(t, 2, 1, func(t *testing.T, w *world, m *raidstorage.Mirror) {
		if err := m.Disable(t.Context(), "b1", "new disk"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * spareAfter)
		w.untouched("b3")
		w.wantInSync("b2")
		m.Close()
		w.cfg.AutoRecover = raidstorage.AutoRecoverOff
		w.setDown(true, "b1")
		m = w.start()
		if err := m.Recover(t.Context(), "b1"); err == nil {
			t.Error("b1 is there")
		}
		time.Sleep(3 * spareAfter)
		w.untouched("b3")
		w.wantInSync("b2")
		if err := m.Promote(t.Context(), "b3"); err != nil {
			t.Fatal(err)
		}
		w.wantInSync("b2", "b3")
		w.wantRole(m, "b3", spare, full)
	})
}

// Changes of the configuration: a stand-in is taken out, the one that it stands in for,
// and a spare at work.
func TestChangesAroundASpare(t *testing.T) {
	withSpares(t, 2, 2, func(t *testing.T, w *world, m *raidstorage.Mirror) {
		w.lose(m, "b1")
		time.Sleep(spareAfter + time.Minute)
		in, rest := "b3", "b4"
		if slices.Contains(w.record().InSync, "b4") {
			in, rest = rest, in
		}
		w.wantRole(m, in, spare, full)
		wantErr[*raidstorage.UnavailableError](t, "a quorum of two without the stand-in",
			m.Change(t.Context(), func() raidstorage.Change {
				c := m.Settings()
				c.Backends = slices.DeleteFunc(c.Backends, func(b raidstorage.Backend) bool { return b.Name == in })
				c.WriteQuorum = 2
				return c
			}()))
		if err := m.Remove(t.Context(), in); err != nil {
			t.Fatal(err)
		}
		w.wantInSync("b2")
		w.mustCommit(m, 1, "on b2")
		if err := m.Promote(t.Context(), rest); err != nil {
			t.Fatal(err)
		}
		w.wantInSync("b2", rest)
		if err := m.Remove(t.Context(), "b1"); err != nil { // the broken one
			t.Fatal(err)
		}
		w.mustCommit(m, 1, "on two")
		w.wantEqual("b2", rest)
		if r := w.record(); r.Roles["b1"] != (raidstorage.MemberRole{}) || slices.Contains(r.Members, "b1") {
			t.Errorf("the record still has b1: %+v", r)
		}
	})
}

// The one that a spare is about to replace is taken out of the configuration: the spare
// is not needed.
func TestTheReplacedOneIsTakenOut(t *testing.T) {
	withSpares(t, 3, 1, func(t *testing.T, w *world, m *raidstorage.Mirror) {
		w.setOnOpen(func(name string, f *storagetest.FaultyStorage) {
			if name == "b4" {
				f.Inject(storagetest.Fault{Call: storagetest.CallFinish, After: 10, Times: 1, Kind: storagetest.Hang})
			}
		})
		w.lose(m, "b1")
		time.Sleep(spareAfter + time.Second)
		done := make(chan error, 1)
		go func() { done <- m.Remove(t.Context(), "b1") }()
		synctest.Wait()
		if err := m.Disable(t.Context(), "b1", "it is to go"); err != nil {
			t.Fatal(err)
		}
		w.backend("b4").Release()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * spareAfter)
		w.wantInSync("b2", "b3")
		w.wantRole(m, "b4", spare, spare)
		w.mustCommit(m, 1, "on b2 and b3")
	})
}
