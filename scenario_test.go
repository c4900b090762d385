package raidstorage_test

// The scenarios of replication-model.md, section 5, that concern one front-end, and
// the counterexamples of its section 2: each test fails when the rule that it names
// is broken.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// scenario runs f in a bubble with simulated time, over n backends.
func scenario(t *testing.T, n int, f func(t *testing.T, w *world)) {
	t.Helper()
	t.Parallel()
	scenarioIn(t, n, f)
}

// scenarioIn is scenario in a test that runs several.
func scenarioIn(t *testing.T, n int, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newWorld(t, n)) })
}

// Scenario 1, C5, C7: W=1, N=2, one backend finishes and the other hangs.
func TestNoAcknowledgementBeforeTheHangingBackendLeftTheRecord(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		w.backend("b2").Inject(storagetest.Fault{Call: storagetest.CallFinish, Kind: storagetest.HangHard})
		var inSyncAtAck []string
		done := make(chan error)
		start := time.Now()
		go func() {
			_, err := commit(m, 1, "x")
			record, _ := w.reg.inner.Load(t.Context())
			inSyncAtAck = record.InSync
			done <- err
		}()
		w.backend("b2").WaitFor(t.Context(), storagetest.CallFinish, 1)
		synctest.Wait()
		wantData(t, m, 1, "") // b1 has finished, but nobody may see it yet
		select {
		case err := <-done:
			t.Fatalf("acknowledged (%v) while b2 is pending and in sync", err)
		default:
		}
		if err := <-done; err != nil {
			t.Fatalf("commit: %v", err)
		}
		if !slices.Equal(inSyncAtAck, []string{"b1"}) {
			t.Errorf("acknowledged with in sync = %v, want [b1]", inSyncAtAck)
		}
		if took := time.Since(start); took > finishTimeout+time.Second {
			t.Errorf("the commit took %v, more than one deadline", took)
		}
		start = time.Now()
		w.mustCommit(m, 1, "y")
		if took := time.Since(start); took != 0 {
			t.Errorf("the next commit took %v because of a backend that is out already", took)
		}
		w.backend("b2").Release()
	})
}

// Scenario 2, C8: the record cannot be changed, in each way that it cannot.
func TestNoAcknowledgementWithoutTheRecord(t *testing.T) {
	t.Parallel()
	for what, fault := range map[string]registerFault{
		"refuses": registerFails, "loses the reply": registerLosesReply, "is late": registerIsLate,
	} {
		t.Run("the register "+what, func(t *testing.T) {
			scenario(t, 2, func(t *testing.T, w *world) {
				m := w.start()
				w.mustCommit(m, 1, "before")
				w.backend("b2").Inject(storagetest.Fault{Call: storagetest.CallFinish, Kind: storagetest.LoseReply})
				w.reg.on(func(raidstorage.Membership) registerFault { return fault })
				w.wantUnknown(m, 1, "doubtful")
				wantData(t, m, 1, "before")
				if _, err := commit(m, 2, "next"); err == nil {
					t.Error("the next commit went on with the outcome in doubt and the register away")
				}
				w.reg.on(nil)
				w.mustCommit(m, 2, "next") // resolve comes first, and finds the transaction on both
				wantData(t, m, 1, "doubtful")
				for _, err := range w.reg.deliver() {
					if _, ok := errors.AsType[*raidstorage.EpochError](err); !ok {
						t.Errorf("a change of the record that was late had effect: %v", err)
					}
				}
				w.mustCommit(m, 3, "after")
				m.Close()
				record, _ := w.reg.inner.Load(t.Context())
				w.wantEqual(record.InSync...)
			})
		})
	}
}

// Scenario 3, C6, S5: N=W=2, the transaction reaches one backend only.
func TestUnknownOutcomeIsRolledForwardBeforeItIsShown(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.cfg.WriteQuorum = 2
		m := w.start()
		w.mustCommit(m, 1, "before")
		told := make(chan raidstorage.Invalidation, 10)
		m.Subscribe(func(inv raidstorage.Invalidation) { told <- inv })
		w.setDown(true, "b2")
		w.backend("b2").Inject(storagetest.Fault{Call: storagetest.CallFinish, Kind: storagetest.Disconnect})
		tid := w.wantUnknown(m, 1, "doubtful")
		wantData(t, m, 1, "before")
		if _, err := commit(m, 2, "x"); !isUnavailable(err) {
			t.Errorf("commit with one backend of two and W=2: got %v, want *UnavailableError", err)
		}
		w.setDown(false, "b2")
		w.waitState(m, "b2", raidstorage.StateInSync) // without any commit
		wantData(t, m, 1, "doubtful")
		if inv := <-told; inv.TID != tid || !slices.Equal(inv.OIDs, []raidstorage.OID{1}) {
			t.Errorf("told of %v, want %v with object 1", inv, tid)
		}
		w.wantEqual("b1", "b2")
		w.mustCommit(m, 2, "x")
	})
}

func isUnavailable(err error) bool {
	_, ok := errors.AsType[*raidstorage.UnavailableError](err)
	return ok
}

// finishOnlyAt commits so that only the named backend finishes, and the mirror dies.
func (w *world) finishOnlyAt(m *raidstorage.Mirror, only string, data string) {
	w.t.Helper()
	for _, b := range w.cfg.Backends {
		if b.Name != only {
			w.backend(b.Name).Inject(storagetest.Fault{Call: storagetest.CallFinish, Kind: storagetest.Disconnect})
		}
	}
	w.reg.on(func(raidstorage.Membership) registerFault { return registerFails })
	w.wantUnknown(m, 1, data)
	w.crash(m)
}

// Scenario 4, S2, and the old start-up rule's counterexample: floor W.
func TestRestartWithHalfOfAQuorumServesNothing(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.cfg.WriteQuorum = 2
		m := w.start()
		w.mustCommit(m, 1, "before")
		w.finishOnlyAt(m, "b1", "doubtful")
		for _, away := range []string{"b1", "b2"} {
			w.setDown(true, away)
			_, err := raidstorage.Open(t.Context(), w.cfg)
			start, ok := errors.AsType[*raidstorage.StartError](err)
			if !ok {
				t.Fatalf("start without %s: got %v, want *StartError", away, err)
			}
			if !strings.Contains(start.Backends[away], errDown.Error()) {
				t.Errorf("the error says of %s: %q", away, start.Backends[away])
			}
			w.setDown(false, away)
		}
		m = w.start()
		wantData(t, m, 1, "doubtful")
		w.wantEqual("b1", "b2")
	})
}

// Scenario 5, S4: floor 1, restart with the backend that lacks the transaction; the
// other one comes back with it and must not be trusted.
func TestReturningBackendWithAnUnacknowledgedTransactionIsRolledBack(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		w.mustCommit(m, 1, "before")
		w.finishOnlyAt(m, "b1", "doubtful")
		w.setDown(true, "b1")
		m = w.start()
		w.wantInSync("b2")
		wantData(t, m, 1, "before")
		w.mustCommit(m, 1, "after")
		w.setDown(false, "b1")
		diverged, ok := errors.AsType[*raidstorage.DivergedError](m.Recover(t.Context(), "b1"))
		if !ok || diverged.Backend != "b1" || diverged.First == 0 || diverged.Common == 0 {
			t.Fatalf("recover: got %v, want *DivergedError with the facts", diverged)
		}
		if err := m.RecoverWith(t.Context(), "b1", raidstorage.RecoverOptions{Rollback: true}); err != nil {
			t.Fatalf("recover with rollback: %v", err)
		}
		w.wantInSync("b1", "b2")
		w.wantEqual("b1", "b2")
		wantData(t, m, 1, "after")
	})
}

// Scenario 8, C3, S5: a backend's log ends elsewhere when it votes, because someone
// writes to it directly: a divergence of that backend.
func TestUnequalLastTidsAtTheVoteAreResolvedFirst(t *testing.T) {
	t.Parallel()
	for what, later := range map[string]bool{"an earlier tid than the next": false, "a later tid than the next": true} {
		t.Run("with "+what, func(t *testing.T) {
			scenario(t, 3, func(t *testing.T, w *world) {
				m := w.start()
				meta := raidstorage.Meta{TID: w.mustCommit(m, 1, "before") + 1}
				if later {
					meta.TID += 1 << 32
				}
				<-time.After(time.Second)
				// Its own handle, and nobody is told: the vote has to find out.
				w.backend("b3").Inject(storagetest.Fault{Call: storagetest.CallNotify})
				storagetest.Transact(t, w.mem.stores[2].Another("intruder"), meta, func(txn raidstorage.Txn) error {
					return txn.Store(t.Context(), 7, 0, []byte("intruder"))
				})
				w.mustCommit(m, 1, "after")
				w.wantInSync("b1", "b2")
				wantData(t, m, 7, "")
				w.wantEqual("b1", "b2")
			})
		})
	}
}

// C1's counterexample itself: a transaction of unknown outcome survives on a backend
// that is away, and the mirror goes on without it; the next tid must be another
// one, though the clock stands still and no log that is left has it.
func TestTidOfALostAttemptIsNotGivenAgain(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		w.cfg.Clock = func() time.Time { return at }
		m := w.start()
		w.mustCommit(m, 1, "before")
		w.finishOnlyAt(m, "b1", "doubtful")
		lost := w.log("b1")
		w.setDown(true, "b1")
		m = w.start()
		if tid := w.mustCommit(m, 1, "after"); tid == lost[len(lost)-1].TID {
			t.Errorf("tid %v was given to two transactions", tid)
		}
		w.setDown(false, "b1")
		if err := m.Recover(t.Context(), "b1"); err == nil {
			t.Error("b1 was taken for equal, with another last transaction")
		}
	})
}

// Scenario 16, C1, R5: tids are never given twice, whatever the clock does and
// however an attempt ended, and ends with equal tids are compared by content.
func TestTidsAreNeverGivenTwice(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.cfg.AutoRecover = raidstorage.AutoRecoverOn
		at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		w.cfg.Clock = func() time.Time { return at }
		seen := make(map[raidstorage.TID]string)
		note := func(tid raidstorage.TID, what string) {
			if before, ok := seen[tid]; ok {
				t.Errorf("tid %v was given to %s and to %s", tid, before, what)
			}
			seen[tid] = what
		}
		m := w.start()
		note(w.mustCommit(m, 1, "a"), "a commit")
		w.backend("b1").Inject(storagetest.Fault{Call: storagetest.CallFinish, Kind: storagetest.Disconnect, Times: 1})
		w.backend("b2").Inject(storagetest.Fault{Call: storagetest.CallFinish, Kind: storagetest.Disconnect, Times: 1})
		note(w.wantUnknown(m, 1, "b"), "an unknown outcome")
		w.waitState(m, "b1", raidstorage.StateInSync)
		note(w.mustCommit(m, 1, "c"), "a commit after it")
		w.crash(m)
		at = at.Add(-time.Hour)
		m = w.start()
		note(w.mustCommit(m, 1, "d"), "a commit after a restart")
		for range 2 {
			w.crash(m)
			m = w.start()
			note(w.mustCommit(m, 1, "e"), "a commit after another restart")
		}
	})
}

// C1's counterexample: two logs end with the same tid and different content.
func TestEqualTidsWithDifferentContentAreNotEqual(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		tid := raidstorage.TID(1 << 40)
		storagetest.Transact(t, w.mem.stores[0].Another("x"), raidstorage.Meta{TID: tid}, func(txn raidstorage.Txn) error {
			return txn.Store(t.Context(), 1, 0, []byte("one"))
		})
		storagetest.Transact(t, w.mem.stores[1].Another("y"), raidstorage.Meta{TID: tid}, func(txn raidstorage.Txn) error {
			return txn.Store(t.Context(), 1, 0, []byte("two"))
		})
		_, err := raidstorage.Open(t.Context(), w.cfg)
		if _, ok := errors.AsType[*raidstorage.DivergedError](err); !ok {
			t.Fatalf("Open: got %v, want *DivergedError", err)
		}
		w.cfg.Force = []string{"b2"}
		m := w.start()
		w.wantInSync("b2")
		wantData(t, m, 1, "two")
		diverged, ok := errors.AsType[*raidstorage.DivergedError](m.RecoverWith(t.Context(), "b1", raidstorage.RecoverOptions{Rollback: true}))
		if !ok || diverged.First != tid || diverged.Common != 0 {
			t.Errorf("recover a backend of another database: got %v, want *DivergedError from %v on", diverged, tid)
		}
	})
}

// C4, M3: backends leave the record, but never below W, and never all.
func TestACommitNeverShrinksTheRecordBelowTheQuorum(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.cfg.AutoRecover = raidstorage.AutoRecoverOn
		m := w.start()
		w.mustCommit(m, 1, "before")
		w.setDown(true, "b2", "b3")
		w.backend("b2").CutOff()
		w.backend("b3").CutOff()
		_, err := commit(m, 1, "after")
		if !isUnavailable(err) {
			t.Fatalf("commit with one of three: got %v, want *UnavailableError", err)
		}
		record, _ := w.reg.inner.Load(t.Context())
		if len(record.InSync) < 2 {
			t.Errorf("in sync are %v, fewer than W", record.InSync)
		}
		wantData(t, m, 1, "before")
		w.setDown(false, "b2", "b3")
		w.waitState(m, "b2", raidstorage.StateInSync)
		w.mustCommit(m, 1, "after")
	})
}

// C4: a vote fails where every copy is needed.
func TestAFailedVoteThatLeavesTooFewAbortsAndChangesNothing(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.cfg.WriteQuorum = 2
		m := w.start()
		w.mustCommit(m, 1, "before")
		w.backend("b2").Inject(storagetest.Fault{Call: storagetest.CallVote, Times: 1})
		if _, err := commit(m, 1, "after"); !isUnavailable(err) {
			t.Fatalf("got %v, want *UnavailableError", err)
		}
		w.wantInSync("b1", "b2")
		wantData(t, m, 1, "before")
		w.waitState(m, "b2", raidstorage.StateInSync)
		w.mustCommit(m, 1, "after")
		w.wantEqual("b1", "b2")
	})
}

// S, W=1: after a crash the only backend that is left serves, since every backend
// in sync has every acknowledged transaction (P1), and a stale one does not.
func TestOnlyBackendsOfTheRecordServe(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		w.mustCommit(m, 1, "before")
		w.backend("b1").CutOff()
		w.mustCommit(m, 1, "after")
		w.wantInSync("b2")
		w.crash(m)
		w.setDown(true, "b2")
		_, err := raidstorage.Open(t.Context(), w.cfg)
		start, ok := errors.AsType[*raidstorage.StartError](err)
		if !ok || !strings.Contains(start.Backends["b1"], "not in sync") || !strings.Contains(start.Backends["b2"], errDown.Error()) {
			t.Fatalf("start with the stale one alone: got %v, want a *StartError that says so", err)
		}
		w.cfg.Force = []string{"b1"} // the operator gives up what only b2 holds
		m = w.start()
		wantData(t, m, 1, "before")
		record, _ := w.reg.inner.Load(t.Context())
		if !strings.Contains(record.Reason, "forced") {
			t.Errorf("the record's reason is %q, want one that says that the start was forced", record.Reason)
		}
	})
}

// Scenario 18, F3, M4: the process dies with the change under way that adds a
// recovered backend; it arrives after the restart.
func TestLateChangeOfADeadProcessHasNoEffect(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		w.backend("b2").CutOff()
		w.mustCommit(m, 1, "a")
		w.wantInSync("b1")
		w.reg.on(func(raidstorage.Membership) registerFault { return registerIsLate })
		if err := m.Recover(t.Context(), "b2"); err == nil {
			t.Fatal("recovered although the record did not say so")
		}
		w.crash(m)
		m = w.start()
		w.backend("b2").Inject(storagetest.Fault{Kind: storagetest.Fail}) // so that it gets nothing more
		for _, err := range w.reg.deliver() {
			if _, ok := errors.AsType[*raidstorage.EpochError](err); !ok {
				t.Fatalf("the late change: got %v, want *EpochError", err)
			}
		}
		w.wantInSync("b1")
		w.mustCommit(m, 1, "b")
		w.crash(m)
		w.setDown(true, "b1")
		if _, err := raidstorage.Open(t.Context(), w.cfg); err == nil {
			t.Error("a backend serves that lacks an acknowledged transaction")
		}
	})
}

// The same within one process (M4): the change that adds b2 is late, and a commit
// goes on without it.
func TestLateChangeOfALiveProcessHasNoEffect(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		w.backend("b2").CutOff()
		w.mustCommit(m, 1, "a")
		w.reg.on(func(next raidstorage.Membership) registerFault {
			if len(next.InSync) == 2 {
				return registerIsLate
			}
			return registerWorks
		})
		if err := m.Recover(t.Context(), "b2"); err == nil {
			t.Fatal("recovered although the record did not say so")
		}
		w.mustCommit(m, 1, "b")
		w.reg.on(nil)
		for _, err := range w.reg.deliver() {
			if _, ok := errors.AsType[*raidstorage.EpochError](err); !ok {
				t.Fatalf("the late change: got %v, want *EpochError", err)
			}
		}
		w.wantInSync("b1")
	})
}

// Scenario 18: the process dies at every step of a workload; all that it
// acknowledged is there after the restart.
func TestDeathAtEveryStep(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 2, 3} {
		t.Run(fmt.Sprintf("%d backends", n), func(t *testing.T) {
			t.Parallel()
			for step := 0; ; step++ {
				fired := false
				synctest.Test(t, func(t *testing.T) { fired = dieAtStep(t, n, step) })
				if !fired {
					break // the workload has no more steps
				}
			}
		})
	}
}

// dieAtStep lets the process die at call number step of the first backend, and
// tells whether the workload came that far.
func dieAtStep(t *testing.T, n, step int) bool {
	w := newWorld(t, n)
	m := w.start()
	died := make(chan struct{})
	fault := storagetest.FailCall(step)
	fault.Kind = storagetest.Disconnect
	fault.Hook = func() {
		w.mu.Lock()
		for _, f := range w.opened {
			f.CutOff()
		}
		w.mu.Unlock()
		w.reg.cut()
		close(died)
	}
	victim := w.backend(name(step % n))
	victim.Inject(fault)
	acknowledged := map[raidstorage.OID]string{}
	for i := range 4 {
		oid, data := raidstorage.OID(i%2+1), fmt.Sprint("data ", i)
		if _, err := commit(m, oid, data); err == nil {
			acknowledged[oid] = data
		}
	}
	if n > 1 {
		m.Disable(t.Context(), name(n-1), "test")
		if _, err := commit(m, 3, "while away"); err == nil {
			acknowledged[3] = "while away"
		}
		m.Recover(t.Context(), name(n-1))
	}
	fired := victim.Fired() > 0
	if fired {
		<-died
	}
	w.crash(m)
	m = w.start()
	for oid, want := range acknowledged {
		rev, err := m.LoadBefore(t.Context(), oid, raidstorage.MaxTID)
		// A later transaction of unknown outcome may have replaced it, never an earlier one.
		if err != nil || string(rev.Data) < want {
			t.Errorf("step %d: object %v is %q (%v), want %q", step, oid, rev.Data, err, want)
		}
	}
	w.mustCommit(m, 9, "goes on")
	record, _ := w.reg.inner.Load(context.Background())
	w.wantEqual(record.InSync...)
	return fired
}
