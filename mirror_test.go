package raidstorage_test

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

func TestHangingBackendCostsOneDeadlineOnce(t *testing.T) {
	t.Parallel()
	for _, kind := range []storagetest.Kind{storagetest.Hang, storagetest.HangHard} {
		for _, call := range []storagetest.Call{storagetest.CallBegin, storagetest.CallStore, storagetest.CallVote, storagetest.CallFinish} {
			t.Run(fmt.Sprint(kind, " ", call), func(t *testing.T) {
				scenario(t, 3, func(t *testing.T, w *world) {
					m := w.start()
					w.backend("b2").Inject(storagetest.Fault{Call: call, Kind: kind})
					start := time.Now()
					w.mustCommit(m, 1, "x")
					if took, limit := time.Since(start), max(voteTimeout, finishTimeout); took > limit {
						t.Errorf("the commit took %v, more than %v", took, limit)
					}
					start = time.Now()
					for i := range 10 {
						w.mustCommit(m, raidstorage.OID(i), "y")
						wantData(t, m, raidstorage.OID(i), "y")
					}
					if took := time.Since(start); took != 0 {
						t.Errorf("afterwards ten commits took %v", took)
					}
					got, reason := state(m, "b2")
					if got != raidstorage.StateFailed || !strings.Contains(reason, "b2") {
						t.Errorf("b2 is %v (%s)", got, reason)
					}
					w.backend("b2").Release()
				})
			})
		}
	}
}

func TestHangingReadIsAnsweredByAnother(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		w.mustCommit(m, 1, "x")
		w.backend("b1").Inject(storagetest.Fault{Call: storagetest.CallLoad, Kind: storagetest.Hang})
		for range 4 {
			wantData(t, m, 1, "x")
		}
		w.waitState(m, "b1", raidstorage.StateFailed)
	})
}

// A caller that gives up is let go at once, wherever it waits, and what it leaves
// behind is in order.
func TestCancelledCallsReturnAtOnce(t *testing.T) {
	t.Parallel()
	hang := func(call storagetest.Call) storagetest.Fault {
		return storagetest.Fault{Call: call, Kind: storagetest.HangHard, Times: 1}
	}
	begin := func(ctx context.Context, m *raidstorage.Mirror) raidstorage.Txn {
		txn, err := m.Begin(ctx, raidstorage.Meta{})
		if err == nil {
			err = txn.Store(ctx, 1, 0, []byte("x"))
		}
		if err != nil {
			panic(err)
		}
		return txn
	}
	cases := map[string]struct {
		fault storagetest.Fault
		call  func(ctx context.Context, w *world, m *raidstorage.Mirror) error
	}{
		"a vote that waits for another transaction": {storagetest.Fault{Kind: storagetest.Observe}, func(ctx context.Context, w *world, m *raidstorage.Mirror) error {
			other := begin(context.Background(), m)
			if _, err := other.Vote(context.Background()); err != nil {
				return err
			}
			defer other.Abort(context.Background())
			_, err := begin(ctx, m).Vote(ctx)
			return err
		}},
		"a vote that a backend does not answer": {hang(storagetest.CallVote), func(ctx context.Context, w *world, m *raidstorage.Mirror) error {
			_, err := begin(ctx, m).Vote(ctx)
			return err
		}},
		"a finish that a backend does not answer": {hang(storagetest.CallFinish), func(ctx context.Context, w *world, m *raidstorage.Mirror) error {
			txn := begin(ctx, m)
			if _, err := txn.Vote(ctx); err != nil {
				return err
			}
			_, err := txn.Finish(ctx)
			return err
		}},
		"a recovery": {storagetest.Fault{Kind: storagetest.Observe}, func(ctx context.Context, w *world, m *raidstorage.Mirror) error {
			if err := m.Disable(context.Background(), "b2", "test"); err != nil {
				return err
			}
			w.backend("b1").Inject(storagetest.Fault{Call: storagetest.CallIterate, Kind: storagetest.Hang, Times: 1})
			return m.Recover(ctx, "b2")
		}},
	}
	for what, c := range cases {
		t.Run(what, func(t *testing.T) {
			scenario(t, 2, func(t *testing.T, w *world) {
				m := w.start()
				w.backend("b2").Inject(c.fault)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				start := time.Now()
				err := c.call(ctx, w, m)
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v, want the context's error", err)
				}
				if took := time.Since(start) - time.Second; took > 100*time.Millisecond {
					t.Errorf("returned %v after its context ended", took)
				}
				w.backend("b2").Release()
				w.mustCommit(m, 5, "the next commit works")
			})
		})
	}
}

func TestUnknownOutcomeOfACancelledFinishIsSettled(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		w.backend("b2").Inject(storagetest.Fault{Call: storagetest.CallFinish, Delay: time.Second, Kind: storagetest.Observe})
		ctx, cancel := context.WithCancel(t.Context())
		txn, err := m.Begin(ctx, raidstorage.Meta{})
		if err != nil {
			t.Fatal(err)
		}
		if err := txn.Store(ctx, 1, 0, []byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := txn.Vote(ctx); err != nil {
			t.Fatal(err)
		}
		go func() {
			w.backend("b2").WaitFor(t.Context(), storagetest.CallFinish, 1)
			cancel()
		}()
		_, err = txn.Finish(ctx)
		if raidstorage.Classify(err) != raidstorage.ClassUnknown {
			t.Fatalf("Finish: got %v, want *OutcomeUnknownError", err)
		}
		w.mustCommit(m, 2, "y") // waits for the first
		wantData(t, m, 1, "x")
		w.wantInSync("b1", "b2")
	})
}

func TestContradictingMinorityIsDropped(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		m := w.start()
		w.mustCommit(m, 1, "x")
		conflict := &raidstorage.ConflictError{OID: 1, Committed: 99}
		w.backend("b3").Inject(storagetest.Fault{Call: storagetest.CallVote, Err: conflict, Times: 1})
		w.mustCommit(m, 1, "y")
		w.wantInSync("b1", "b2")
		if _, reason := state(m, "b3"); !strings.Contains(reason, "contradict") {
			t.Errorf("b3 was dropped because of %q", reason)
		}
		// The other way round: one accepts what two refuse.
		w.backend("b1").Inject(storagetest.Fault{Call: storagetest.CallVote, Err: conflict, Times: 1})
		if err := m.Recover(t.Context(), "b3"); err != nil {
			t.Fatal(err)
		}
	})
}

func TestAgreedRefusalsArePassedOnAndHurtNobody(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		m := w.start()
		first := w.mustCommit(m, 1, "x")
		second := w.mustCommit(m, 1, "y")
		txn, _ := m.Begin(t.Context(), raidstorage.Meta{})
		txn.Store(t.Context(), 1, first, []byte("z"))
		_, err := txn.Vote(t.Context())
		conflict, ok := errors.AsType[*raidstorage.ConflictError](err)
		if !ok || *conflict != (raidstorage.ConflictError{OID: 1, Committed: second, Read: first}) {
			t.Errorf("got %v, want a *ConflictError with the facts", err)
		}
		w.wantInSync("b1", "b2", "b3")
		w.mustCommit(m, 2, "goes on")
	})
}

// One against one: the log tells who is wrong (C4).
func TestContradictionOfTwoIsDecidedByTheLog(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		w.mustCommit(m, 1, "x")
		// b2's index has lost the object: it refuses what b1 accepts, and its own log
		// has the record.
		lost := &raidstorage.NotFoundError{OID: 1}
		w.backend("b2").Inject(
			storagetest.Fault{Call: storagetest.CallVote, Err: lost, Times: 1},
			storagetest.Fault{Call: storagetest.CallLoad, Err: lost})
		txn, _ := m.Begin(t.Context(), raidstorage.Meta{})
		last, _ := m.LastTID(t.Context())
		txn.CheckCurrent(t.Context(), 1, last)
		txn.Store(t.Context(), 2, 0, []byte("y"))
		if _, err := txn.Vote(t.Context()); err != nil {
			t.Fatalf("vote: %v", err)
		}
		if _, err := txn.Finish(t.Context()); err != nil {
			t.Fatalf("finish: %v", err)
		}
		w.wantInSync("b1")
		wantData(t, m, 2, "y")
	})
}

func TestUndecidableContradictionStopsCommitsUntilTheOperatorDecides(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		w.mustCommit(m, 1, "x")
		w.backend("b2").Inject(storagetest.Fault{Call: storagetest.CallVote, Err: &raidstorage.ConflictError{OID: 1, Committed: 99}})
		for range 2 {
			_, err := commit(m, 1, "y")
			contradiction, ok := errors.AsType[*raidstorage.ContradictionError](err)
			if !ok || len(contradiction.Answers) != 2 {
				t.Fatalf("got %v, want a *ContradictionError with both answers", err)
			}
		}
		if s := m.Status(); s.Condition != raidstorage.Failed || !strings.Contains(s.Reason, "contradict") {
			t.Errorf("status is %v (%s)", s.Condition, s.Reason)
		}
		wantData(t, m, 1, "x") // reads go on
		if err := m.Disable(t.Context(), "b2", "it lies"); err != nil {
			t.Fatal(err)
		}
		w.mustCommit(m, 1, "y")
		w.wantInSync("b1")
	})
}

// R2: failures and losses of reads.
func TestFailedReadIsAnsweredByAnotherAndDegrades(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		w.mustCommit(m, 1, "x")
		w.backend("b1").Inject(storagetest.Fault{Call: storagetest.CallLoad, Times: 1})
		for range 2 {
			wantData(t, m, 1, "x")
		}
		w.waitState(m, "b1", raidstorage.StateFailed)
		w.wantInSync("b2")
		// The last one is not given up for one bad read: it is the caller's error.
		w.backend("b2").Inject(storagetest.Fault{Call: storagetest.CallLoad, Times: 1})
		_, err := m.LoadBefore(t.Context(), 1, raidstorage.MaxTID)
		if !errors.Is(err, storagetest.ErrInjected) {
			t.Errorf("got %v, want the backend's error", err)
		}
		if _, ok := errors.AsType[*raidstorage.BackendError](err); !ok {
			t.Errorf("the error %v does not name the backend", err)
		}
		wantData(t, m, 1, "x")
	})
}

func TestBackendThatLostAnObjectIsFoundOut(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.cfg.ReadPolicy = raidstorage.PrimaryFirst
		m := w.start()
		w.mustCommit(m, 1, "x")
		wantData(t, m, 7, "") // missing everywhere: an answer
		w.wantInSync("b1", "b2")
		w.backend("b1").Inject(storagetest.Fault{Call: storagetest.CallLoad, Err: &raidstorage.NotFoundError{OID: 1}})
		wantData(t, m, 1, "x")
		w.waitState(m, "b1", raidstorage.StateFailed)
	})
}

func TestIterationGoesOnAtAnotherBackend(t *testing.T) {
	t.Parallel()
	for _, after := range []int{0, 1, 3, 5, 8} {
		t.Run(fmt.Sprint("a failure after ", after, " steps"), func(t *testing.T) {
			scenario(t, 2, func(t *testing.T, w *world) {
				w.cfg.ReadPolicy = raidstorage.PrimaryFirst
				m := w.start()
				for i := range 10 {
					w.mustCommit(m, raidstorage.OID(i), "x")
				}
				want := w.log("b2")
				w.backend("b1").Inject(storagetest.Fault{Call: storagetest.CallNext, After: after, Times: 1})
				got, err := storagetest.Log(t.Context(), m)
				if err != nil || len(got) != len(want) {
					t.Errorf("%d transactions of %d, error %v", len(got), len(want), err)
				}
				if w.backend("b1").Fired() != 1 {
					t.Error("the fault did not fire")
				}
				w.waitState(m, "b1", raidstorage.StateFailed)
			})
		})
	}
}

// C8: no oid twice, whichever backends come and go.
func TestOIDsAreNeverHandedOutTwice(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		seen := map[raidstorage.OID]bool{}
		take := func(m raidstorage.Storage) {
			oids, err := m.NewOIDs(t.Context(), 50)
			if err != nil {
				t.Fatal(err)
			}
			for _, oid := range oids {
				if seen[oid] || oid == 0 {
					t.Errorf("oid %v was handed out twice", oid)
				}
				seen[oid] = true
			}
		}
		m := w.start()
		take(m)
		w.mustCommit(m, 100_000, "a client's own oid")
		take(m)
		w.backend("b1").CutOff()
		w.mustCommit(m, 1, "x")
		take(m)
		w.crash(m)
		m = w.start()
		take(m)
		if err := m.Recover(t.Context(), "b1"); err != nil {
			t.Fatal(err)
		}
		take(m)
		for oid := range seen {
			if oid > 60 && oid <= 100_000 {
				t.Errorf("oid %v was handed out after 100000 was stored", oid)
				break
			}
		}
	})
}

func TestDisableOutlivesARestart(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.cfg.AutoRecover = raidstorage.AutoRecoverOn
		m := w.start()
		if err := m.Disable(t.Context(), "b1", "maintenance"); err != nil {
			t.Fatal(err)
		}
		if err := m.Disable(t.Context(), "b2", "too much"); !isUnavailable(err) {
			t.Errorf("disabling the last one: got %v, want *UnavailableError", err)
		}
		if _, ok := errors.AsType[*raidstorage.InvalidError](m.Disable(t.Context(), "b9", "")); !ok {
			t.Error("disabling an unknown backend is not refused")
		}
		w.mustCommit(m, 1, "x")
		w.crash(m)
		m = w.start()
		<-time.After(time.Hour) // simulated: nothing brings it back by itself
		if got, reason := state(m, "b1"); got != raidstorage.StateDisabled {
			t.Errorf("after a restart b1 is %v (%s)", got, reason)
		}
		if err := m.Recover(t.Context(), "b1"); err != nil {
			t.Fatal(err)
		}
		w.wantInSync("b1", "b2")
		w.wantEqual("b1", "b2")
	})
}

// An operator who wants a disabled backend back is not forgotten when the process dies
// before it is in sync. One that could not be reached stays disabled.
func TestRecoveryOfADisabledBackendOutlivesARestart(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.cfg.AutoRecover = raidstorage.AutoRecoverOn
		m := w.start()
		if err := m.Disable(t.Context(), "b1", "maintenance"); err != nil {
			t.Fatal(err)
		}
		w.mustCommit(m, 1, "x")
		w.setDown(true, "b1")
		if err := m.Recover(t.Context(), "b1"); err == nil {
			t.Error("a backend that is away was recovered")
		}
		if got, reason := state(m, "b1"); got != raidstorage.StateDisabled {
			t.Errorf("after a recovery that could not reach it b1 is %v (%s)", got, reason)
		}
		w.setDown(false, "b1")
		w.onNextOpen(func(_ string, f *storagetest.FaultyStorage) {
			f.Inject(storagetest.Fault{Call: storagetest.CallRestore, Kind: storagetest.Hang})
		})
		recovered := make(chan error, 1)
		go func() { recovered <- m.Recover(t.Context(), "b1") }()
		w.waitState(m, "b1", raidstorage.StateRecovering)
		w.backend("b1").WaitFor(t.Context(), storagetest.CallRestore, 1)
		w.onNextOpen(nil)
		w.crash(m)
		<-recovered
		m = w.start()
		w.waitState(m, "b1", raidstorage.StateInSync)
		w.wantEqual("b1", "b2")
	})
}

// A backend that is disabled while a recovery that was asked for before waits to begin
// stays disabled.
func TestWhoDisablesLastIsObeyed(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		if err := m.Disable(t.Context(), "b1", "maintenance"); err != nil {
			t.Fatal(err)
		}
		opening, opened := make(chan struct{}), make(chan struct{})
		w.onNextOpen(func(string, *storagetest.FaultyStorage) {
			close(opening)
			<-opened
		})
		recovered := make(chan error, 1)
		go func() { recovered <- m.Recover(t.Context(), "b1") }()
		<-opening
		if err := m.Disable(t.Context(), "b1", "no, not yet"); err != nil {
			t.Fatal(err)
		}
		w.onNextOpen(nil)
		close(opened)
		wantErr[*raidstorage.InvalidError](t, "Recover", <-recovered)
		w.waitState(m, "b1", raidstorage.StateDisabled)
		if r := w.record(); !slices.Contains(r.Disabled, "b1") || slices.Contains(r.InSync, "b1") {
			t.Errorf("the record is %+v", r)
		}
		if err := m.Recover(t.Context(), "b1"); err != nil {
			t.Fatal(err)
		}
		w.wantInSync("b1", "b2")
	})
}

// The same for each role, where both wait for a commit.
func TestWhoDisablesLastIsObeyedInEachRole(t *testing.T) {
	t.Parallel()
	for _, role := range []raidstorage.Role{raidstorage.RoleFull, raidstorage.RoleAsync, raidstorage.RoleSpare} {
		t.Run(role.String(), func(t *testing.T) {
			scenario(t, 3, func(t *testing.T, w *world) {
				w.cfg.Backends[2].Role = role
				m := w.start()
				if err := m.Disable(t.Context(), "b3", "maintenance"); err != nil {
					t.Fatal(err)
				}
				txn, err := m.Begin(t.Context(), raidstorage.Meta{})
				if err == nil {
					_, err = txn.Vote(t.Context())
				}
				if err != nil {
					t.Fatal(err)
				}
				disabled, recovered := make(chan error, 1), make(chan error, 1)
				go func() { disabled <- m.Disable(t.Context(), "b3", "no, not yet") }()
				synctest.Wait()
				go func() { recovered <- m.Recover(t.Context(), "b3") }()
				synctest.Wait()
				if err := errors.Join(txn.Abort(t.Context()), <-disabled); err != nil {
					t.Fatal(err)
				}
				wantErr[*raidstorage.InvalidError](t, "Recover", <-recovered)
				w.waitState(m, "b3", raidstorage.StateDisabled)
				if r := w.record(); !slices.Contains(r.Disabled, "b3") {
					t.Errorf("the record is %+v", r)
				}
				if err := m.Recover(t.Context(), "b3"); err != nil {
					t.Fatal(err)
				}
				if got, reason := state(m, "b3"); got == raidstorage.StateDisabled || slices.Contains(w.record().Disabled, "b3") {
					t.Errorf("b3 is %v (%s)", got, reason)
				}
			})
		})
	}
}

func TestStatusAndWatchTellTheSame(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.cfg.AutoRecover = raidstorage.AutoRecoverOn
		m := w.start()
		if s := m.Status(); s.Condition != raidstorage.Optimal || s.Reason != "" {
			t.Errorf("at first the mirror is %v (%s)", s.Condition, s.Reason)
		}
		synctest.Wait() // the events of the start are told
		events := m.Watch(t.Context())
		w.mustCommit(m, 1, "x")
		w.setDown(true, "b2")
		w.backend("b2").CutOff()
		w.mustCommit(m, 1, "y")
		tid := w.mustCommit(m, 1, "z")
		synctest.Wait()
		s := m.Status()
		b2 := s.Backends[1]
		if s.Condition != raidstorage.Degraded || !strings.Contains(s.Reason, "b2") || s.LastTID != tid {
			t.Errorf("the mirror is %v (%s), last %v", s.Condition, s.Reason, s.LastTID)
		}
		if b2.State != raidstorage.StateFailed || b2.LagTransactions != 2 || b2.Counters.Faults == 0 || b2.LastTID == 0 {
			t.Errorf("b2: %+v", b2)
		}
		w.setDown(false, "b2")
		w.waitState(m, "b2", raidstorage.StateInSync)
		var states []string
		var recovery, record int
		for m.Status().Condition != raidstorage.Optimal || len(states) < 4 {
			switch e := <-events; {
			case e.Kind == raidstorage.EventState && e.Backend == "b2":
				states = append(states, e.To.String())
			case e.Kind == raidstorage.EventRecovery:
				recovery++
			case e.Kind == raidstorage.EventMembership:
				record++
			}
		}
		if want := []string{"suspect", "failed", "recovering", "in sync"}; !slices.Equal(states[:2], want[:2]) || !slices.Equal(states[len(states)-2:], want[2:]) {
			t.Errorf("b2 went through %v, want %v", states, want)
		}
		if recovery == 0 || record == 0 {
			t.Errorf("%d events of recoveries, %d of the record", recovery, record)
		}
		history := m.Status().Backends[1].History
		if got := history[len(history)-1].To; got != raidstorage.StateInSync {
			t.Errorf("the history ends with %v", got)
		}
	})
}

func TestOneBackendAloneIsOpenedAgainAfterAFault(t *testing.T) {
	scenario(t, 1, func(t *testing.T, w *world) {
		m := w.start()
		w.mustCommit(m, 1, "x")
		w.setDown(true, "b1")
		w.backend("b1").CutOff()
		if _, err := commit(m, 1, "y"); err == nil {
			t.Error("committed without a backend")
		}
		w.setDown(false, "b1")
		w.waitState(m, "b1", raidstorage.StateInSync)
		wantData(t, m, 1, "x")
		w.mustCommit(m, 1, "y")
	})
}

func TestLargeTransactionWaitsInAFile(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.cfg.SpoolBytes = 1000
		w.cfg.TempDir = t.TempDir()
		m := w.start()
		txn, err := m.Begin(t.Context(), raidstorage.Meta{})
		if err != nil {
			t.Fatal(err)
		}
		for oid := range raidstorage.OID(50) {
			if err := txn.Store(t.Context(), oid, 0, []byte(strings.Repeat(fmt.Sprint(oid), 50))); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := txn.Vote(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := txn.Finish(t.Context()); err != nil {
			t.Fatal(err)
		}
		for oid := range raidstorage.OID(50) {
			wantData(t, m, oid, strings.Repeat(fmt.Sprint(oid), 50))
		}
		w.wantEqual("b1", "b2")
	})
}

func TestConfigurationFaultsAreAllNamed(t *testing.T) {
	t.Parallel()
	err := raidstorage.Config{
		Backends:    []raidstorage.Backend{{Name: "a"}, {Name: "a"}, {}},
		WriteQuorum: 4, StartQuorum: -1, ReadPolicy: 9, Force: []string{"z"}, RetryMin: -1,
	}.Validate()
	invalid, ok := errors.AsType[*raidstorage.InvalidError](err)
	if !ok {
		t.Fatalf("got %v, want *InvalidError", err)
	}
	for _, part := range []string{"has no name", "two backends", "no Open", "WriteQuorum 4", "StartQuorum -1", "ReadPolicy",
		"StateDir", `"z"`, "negative"} {
		if !strings.Contains(invalid.Reason, part) {
			t.Errorf("%q does not mention %q", invalid.Reason, part)
		}
	}
	if _, err := raidstorage.Open(t.Context(), raidstorage.Config{}); err == nil {
		t.Error("Open accepts an empty configuration")
	}
}
