package raidstorage_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// step is how long a slow backend takes to copy one transaction, in simulated time.
const step = 100 * time.Millisecond

// lagging starts a mirror whose last backends lack n transactions, all equally large,
// and need step for each that they copy.
func (w *world) lagging(n int, names ...string) *raidstorage.Mirror {
	w.t.Helper()
	m := w.start()
	for i := range n {
		w.mustCommit(m, raidstorage.OID(i%5+1), sized(100))
	}
	w.onOpen = func(name string, f *storagetest.FaultyStorage) {
		f.Inject(storagetest.Fault{Call: storagetest.CallFinish, Kind: storagetest.Observe, Delay: step})
	}
	for _, name := range names {
		w.replace(m, name)
	}
	return m
}

// replace gives a backend an empty disk.
func (w *world) replace(m *raidstorage.Mirror, backend string) {
	w.t.Helper()
	if err := m.Disable(w.t.Context(), backend, "new disk"); err != nil {
		w.t.Fatal(err)
	}
	for i := range w.mem.stores {
		if name(i) == backend {
			w.mem.stores[i] = memstorage.New(backend)
		}
	}
}

func sized(n int) string { return strings.Repeat("x", n) }

// writers commit until stop is called, which waits for them and returns how many
// transactions they committed: each begins one every pause, or as soon as it can.
func (w *world) writers(m *raidstorage.Mirror, n int, pause time.Duration) (stop func() int) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var mu sync.Mutex // guards commits
	commits := 0
	for i := range n {
		wg.Go(func() {
			ticks := time.NewTicker(pause)
			defer ticks.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-ticks.C:
				}
				if _, err := commit(m, raidstorage.OID(1000+i), sized(100)); err != nil {
					w.t.Errorf("writer %d: %v", i, err)
					return
				}
				mu.Lock()
				commits++
				mu.Unlock()
			}
		})
	}
	return func() int {
		cancel()
		wg.Wait()
		return commits
	}
}

// V5: a recovery ends within L/(r·(1-1/k)) and the time of the end phase, however fast
// the writers are; and slow ones do not wait at all.
func TestV5RecoveryEndsWhateverTheWritersDo(t *testing.T) {
	t.Parallel()
	for _, ratio := range []float64{1.25, 2, 4} {
		for _, speed := range []float64{0.1, 0.2, 0.5, 1, 2, 10, 50} {
			for _, writers := range []int{1, 5} {
				t.Run(fmt.Sprintf("ratio %v, %d writers, %v times as fast", ratio, writers, speed), func(t *testing.T) {
					t.Parallel()
					scenarioIn(t, 2, func(t *testing.T, w *world) { recoverAgainst(t, w, ratio, speed, writers) })
				})
			}
		}
	}
}

func recoverAgainst(t *testing.T, w *world, ratio, speed float64, writers int) {
	const lag = 60
	w.cfg.CatchUp = raidstorage.CatchUp{Ratio: ratio, MaxDelay: time.Minute}
	m := w.lagging(lag, "b2")
	began := time.Now()
	stop := w.writers(m, writers, time.Duration(float64(step)/speed*float64(writers)))
	if err := m.Recover(t.Context(), "b2"); err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	commits := stop()
	bound := time.Duration(lag / (1 - 1/ratio) * float64(step))
	if end := raidstorage.JoinLag * step; took > bound+end {
		t.Errorf("the recovery took %v, want at most %v and %v", took, bound, end)
	}
	status := m.Status().CatchUp
	switch {
	case speed <= 0.2 && status.Delayed > 0: // less than 1/ratio in all cases
		t.Errorf("%d commits waited, %v in all, though they are slow enough", status.Delayed, status.Delay)
	case speed >= 2 && status.Delayed == 0:
		t.Error("no commit waited")
	// Not more is held back than is needed: what was copied allows so many.
	case speed >= 2 && float64(commits) < 0.9*float64(lag)/(ratio-1):
		t.Errorf("%d commits only while %d transactions were copied", commits, lag+commits)
	}
	w.wantInSync("b1", "b2")
	w.wantEqual("b1", "b2")
}

// What V5 is for: without it a recovery does not end against fast writers.
func TestV5OffARecoveryMayNeverEnd(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.cfg.CatchUp.Off = true
		m := w.lagging(30, "b2")
		stop := w.writers(m, 1, step/2)
		ctx, cancel := context.WithTimeout(t.Context(), 10*2*30*step)
		defer cancel()
		if err := m.Recover(ctx, "b2"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the recovery ended with %v, in ten times the time", err)
		}
		if commits := stop(); commits < 1190 {
			t.Errorf("%d commits in the time of 1200", commits)
		}
		if got := m.Status().CatchUp; got != (raidstorage.CatchUpStatus{}) {
			t.Errorf("status %+v", got)
		}
	})
}

// With no recovery under way nothing is slowed, neither before one nor after.
func TestV5NothingWaitsWithoutARecovery(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		m := w.lagging(20, "b2")
		atOnce := func() {
			t.Helper()
			began := time.Now()
			for i := range 100 {
				w.mustCommit(m, 7, sized(10*i+1))
			}
			if took := time.Since(began); took != 0 {
				t.Errorf("100 commits took %v", took)
			}
		}
		atOnce()
		stop := w.writers(m, 1, step/10)
		if err := m.Recover(t.Context(), "b2"); err != nil {
			t.Fatal(err)
		}
		stop()
		w.backend("b2").Release() // its slowness
		w.backend("b2").Clear()
		before := m.Status().CatchUp
		if before.Delayed == 0 || before.Backend != "" || before.Waiting != 0 {
			t.Errorf("status after a recovery: %+v", before)
		}
		atOnce()
		if after := m.Status().CatchUp; after != before {
			t.Errorf("status %+v, then %+v", before, after)
		}
	})
}

// hung starts a recovery of b2 that stands still in the middle of its copying, and
// returns a channel with its end.
func (w *world) hung() (*raidstorage.Mirror, chan error) {
	w.t.Helper()
	m := w.start()
	for range 50 {
		w.mustCommit(m, 1, sized(100))
	}
	w.onOpen = func(name string, f *storagetest.FaultyStorage) {
		f.Inject(storagetest.Fault{Call: storagetest.CallFinish, Kind: storagetest.Hang, After: 10})
	}
	w.replace(m, "b2")
	done := make(chan error, 1)
	go func() { done <- m.Recover(context.Background(), "b2") }()
	synctest.Wait()
	return m, done
}

// V5: a recovery that stands still costs each commit MaxDelay, until it fails, which
// ends it. The commits that were let through unpaid are owed.
func TestV5ARecoveryThatStandsStillDelaysByMaxDelay(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		const maxDelay = 700 * time.Millisecond
		w.cfg.CatchUp.MaxDelay = maxDelay
		m, done := w.hung()
		for range 5 {
			w.mustCommit(m, 2, sized(100)) // what ten copied ones pay for
		}
		began := time.Now()
		commits := 0
		for ; time.Since(began)+maxDelay < voteTimeout; commits++ {
			before := time.Now()
			w.mustCommit(m, 2, sized(100))
			if delay := time.Since(before); delay != maxDelay {
				t.Errorf("commit %d waited %v", commits, delay)
			}
		}
		s := m.Status().CatchUp
		want := raidstorage.CatchUpStatus{Ratio: 2, MaxDelay: maxDelay, Backend: "b2", Delayed: int64(commits), Expired: int64(commits),
			Delay: time.Duration(commits) * maxDelay, Latest: maxDelay}
		if s != want {
			t.Errorf("status %+v, want %+v", s, want)
		}
		// This one waits when the recovery fails.
		before := time.Now()
		w.mustCommit(m, 2, sized(100))
		if end, delay := <-done, time.Since(before); end == nil || delay >= maxDelay || time.Since(began) != voteTimeout {
			t.Errorf("the recovery ended with %v after %v; a commit waited %v", end, time.Since(began), delay)
		}
		before = time.Now()
		w.mustCommit(m, 2, sized(100))
		if delay := time.Since(before); delay != 0 {
			t.Errorf("after the recovery has failed a commit waited %v", delay)
		}
	})
}

// Many that wait at once: none longer than MaxDelay.
func TestV5NoCommitOfManyWaitsLongerThanMaxDelay(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.cfg.CatchUp.MaxDelay = 3 * step
		m := w.lagging(100, "b2")
		done := make(chan error, 1)
		go func() { done <- m.Recover(context.Background(), "b2") }()
		synctest.Wait()
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() {
				before := time.Now()
				w.mustCommit(m, raidstorage.OID(100+i), sized(100*i+1))
				if delay := time.Since(before); delay > 3*step {
					t.Errorf("commit %d waited %v", i, delay)
				}
			})
		}
		synctest.Wait()
		if s := m.Status().CatchUp; s.Waiting != 40 || s.Backend != "b2" {
			t.Errorf("status %+v", s)
		}
		wg.Wait()
		if s := m.Status().CatchUp; s.Waiting != 0 || s.Expired < 30 || s.Delayed != 40 {
			t.Errorf("status %+v", s)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A commit that waits holds no lock and obeys its context and Close.
func TestV5ACommitThatWaitsHoldsNothing(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.cfg.CatchUp.MaxDelay = time.Hour
		w.cfg.Timeouts.Vote = 2 * time.Hour
		m, done := w.hung()
		for range 5 {
			w.mustCommit(m, 2, sized(100))
		}
		vote := func(ctx context.Context) (raidstorage.Txn, chan error) {
			txn, err := m.Begin(ctx, raidstorage.Meta{})
			if err == nil {
				err = txn.Store(ctx, 3, 0, []byte("x"))
			}
			if err != nil {
				t.Fatal(err)
			}
			voted := make(chan error, 1)
			go func() { _, err := txn.Vote(ctx); voted <- err }()
			synctest.Wait()
			return txn, voted
		}
		ctx, cancel := context.WithCancel(t.Context())
		txn, voted := vote(ctx)
		before := time.Now()
		if err := m.Disable(t.Context(), "b1", "it is the last"); err == nil { // takes the commit slot
			t.Error("the last backend was disabled")
		}
		cancel()
		if err := <-voted; !errors.Is(err, context.Canceled) || time.Since(before) > 0 {
			t.Errorf("Vote: %v after %v", err, time.Since(before))
		}
		if err := txn.Abort(t.Context()); err != nil {
			t.Error(err)
		}
		if s := m.Status().CatchUp; s.Waiting != 0 {
			t.Errorf("%d wait", s.Waiting)
		}
		txn, voted = vote(t.Context())
		go m.Close()
		if err := <-voted; !errors.Is(err, raidstorage.ErrClosed) {
			t.Errorf("Vote: %v, want ErrClosed", err)
		}
		if err := txn.Abort(t.Context()); err != nil {
			t.Error(err)
		}
		w.backend("b2").Release()
		<-done
	})
}

// What changes nothing in the end owes nothing: conflicts, aborts, given up waits.
func TestV5WhatIsNotCommittedIsPaidBack(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.cfg.CatchUp.MaxDelay = time.Second
		m, done := w.hung()
		for i := range 20 {
			txn, err := m.Begin(t.Context(), raidstorage.Meta{Description: []byte(sized(100))})
			if err != nil {
				t.Fatal(err)
			}
			serial := raidstorage.TID(1) // nobody's
			if i%2 == 0 {
				serial = w.serial(m, 1)
			}
			if err := txn.Store(t.Context(), 1, serial, []byte(sized(100))); err != nil {
				t.Fatal(err)
			}
			_, err = txn.Vote(t.Context())
			if conflict := isConflict(err); conflict != (i%2 == 1) {
				t.Errorf("Vote %d: %v", i, err)
			}
			if err := txn.Abort(t.Context()); err != nil {
				t.Error(err)
			}
		}
		for range 5 {
			w.mustCommit(m, 2, sized(100))
		}
		if s := m.Status().CatchUp; s.Delayed != 0 {
			t.Errorf("commits waited that are paid for: %+v", s)
		}
		w.mustCommit(m, 2, sized(100))
		if s := m.Status().CatchUp; s.Delayed != 1 {
			t.Errorf("the sixth did not wait: %+v", s)
		}
		<-done
	})
}

func isConflict(err error) bool {
	_, ok := errors.AsType[*raidstorage.ConflictError](err)
	return ok
}

// With several recoveries the slowest counts, and both end in time.
func TestV5TheSlowestOfSeveralRecoveriesCounts(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		const lag = 40
		w.cfg.WriteQuorum = 1
		w.cfg.CatchUp.MaxDelay = time.Minute
		m := w.lagging(lag, "b2", "b3")
		w.onOpen = func(name string, f *storagetest.FaultyStorage) {
			delay := step
			if name == "b3" {
				delay = 4 * step
			}
			f.Inject(storagetest.Fault{Call: storagetest.CallFinish, Kind: storagetest.Observe, Delay: delay})
		}
		stop := w.writers(m, 3, step/20)
		began := time.Now()
		var wg sync.WaitGroup
		for i, name := range []string{"b2", "b3"} {
			wg.Go(func() {
				if err := m.Recover(context.Background(), name); err != nil {
					t.Error(err)
				}
				// From its join on b2 takes part in commits, which it slows even more.
				each := time.Duration(1+3*i) * step
				if took, most := time.Since(began), (2*lag+raidstorage.JoinLag)*each; took > most {
					t.Errorf("%s took %v, want at most %v", name, took, most)
				}
			})
		}
		<-time.After(10 * step)
		if s := m.Status().CatchUp; s.Backend != "b3" {
			t.Errorf("commits wait for %q, not for the slowest", s.Backend)
		}
		wg.Wait()
		stop()
		w.wantInSync("b1", "b2", "b3")
		w.wantEqual("b1", "b2", "b3")
	})
}

// Watchers hear when commits begin to wait, for whom, and when that is over.
func TestV5WaitingIsAnEvent(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.lagging(20, "b2")
		events := m.Watch(t.Context())
		stop := w.writers(m, 1, step/10)
		if err := m.Recover(t.Context(), "b2"); err != nil {
			t.Fatal(err)
		}
		stop()
		m.Close()
		var heard []raidstorage.Event
		for e := range events {
			if e.Kind == raidstorage.EventCatchUp {
				heard = append(heard, e)
			}
		}
		if len(heard) != 2 {
			t.Fatalf("events %v", heard)
		}
		begin, end := heard[0], heard[1]
		if begin.Backend != "b2" || begin.CatchUp.Backend != "b2" || begin.CatchUp.Waiting != 1 || begin.Condition != raidstorage.Recovering {
			t.Errorf("it begins with %+v, %+v", begin, begin.CatchUp)
		}
		if end.CatchUp.Backend != "" || end.CatchUp.Waiting != 0 || end.CatchUp.Delayed < 10 || end.CatchUp.Delay == 0 {
			t.Errorf("it ends with %+v, %+v", end, end.CatchUp)
		}
		for _, e := range heard {
			if !strings.Contains(e.String(), "commits") {
				t.Errorf("in words: %q", e)
			}
		}
	})
}

// V5: commits do not wait for what is no copying: a target that is compared or packed.
func TestV5NothingWaitsWhileTheTargetIsCompared(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		for range 30 {
			w.mustCommit(m, 1, sized(100))
		}
		w.onOpen = func(name string, f *storagetest.FaultyStorage) {
			f.Inject(storagetest.Fault{Call: storagetest.CallLastTID, Kind: storagetest.Hang, Times: 1})
		}
		w.replace(m, "b2")
		done := make(chan error, 1)
		go func() { done <- m.Recover(context.Background(), "b2") }()
		synctest.Wait()
		before := time.Now()
		w.mustCommit(m, 1, sized(100))
		if delay := time.Since(before); delay != 0 || m.Status().Condition != raidstorage.Recovering {
			t.Errorf("a commit waited %v; the mirror is %v", delay, m.Status().Condition)
		}
		<-done
	})
}

func TestCatchUpIsValidated(t *testing.T) {
	t.Parallel()
	valid := func(c raidstorage.CatchUp) bool {
		w := newWorld(t, 1)
		w.cfg.CatchUp = c
		return w.cfg.Validate() == nil
	}
	for _, c := range []raidstorage.CatchUp{{}, {Ratio: 1.01}, {Ratio: 100, MaxDelay: 1}, {Off: true}} {
		if !valid(c) {
			t.Errorf("%+v is refused", c)
		}
	}
	for _, c := range []raidstorage.CatchUp{{Ratio: 1}, {Ratio: 0.5}, {Ratio: -2}, {Ratio: math.NaN()}, {Ratio: math.Inf(1)}, {MaxDelay: -1}} {
		if valid(c) {
			t.Errorf("%+v is accepted", c)
		}
	}
}

// V5: nor for a pack of the target, however long.
func TestV5NothingWaitsWhileTheTargetIsPacked(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m, tids := w.apart()
		w.mustCommit(m, 1, storagetest.Pickled("child, missed"))
		<-time.After(time.Minute) // simulated
		mustPack(t, m, tids[2])
		w.onOpen = func(name string, f *storagetest.FaultyStorage) {
			f.Inject(storagetest.Fault{Call: storagetest.CallPack, Kind: storagetest.Observe, Delay: time.Minute})
		}
		done := make(chan error, 1)
		go func() { done <- m.Recover(context.Background(), "b2") }()
		<-time.After(time.Second) // simulated
		before := time.Now()
		for i := range 20 {
			w.mustCommit(m, 1, storagetest.Pickled(fmt.Sprint(i)))
		}
		if p := m.Recoveries(); len(p) != 1 || p[0].Phase != raidstorage.PhaseAlign || time.Since(before) != 0 {
			t.Errorf("20 commits took %v while %+v", time.Since(before), p)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		w.wantEqual("b1", "b2")
	})
}

// Commits of an earlier recovery are not taken for ones still under way: near its end
// the next one delays nothing.
func TestV5NothingWaitsWhenOnlyAFewTransactionsAreMissing(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.lagging(20, "b2")
		stop := w.writers(m, 2, step/10)
		if err := m.Recover(t.Context(), "b2"); err != nil {
			t.Fatal(err)
		}
		stop()
		if err := m.Disable(t.Context(), "b2", "test"); err != nil {
			t.Fatal(err)
		}
		for range raidstorage.JoinLag - 2 {
			w.mustCommit(m, 1, sized(100))
		}
		delayed := m.Status().CatchUp.Delayed
		done := make(chan error, 1)
		go func() { done <- m.Recover(context.Background(), "b2") }()
		synctest.Wait()
		if p := m.Recoveries(); len(p) != 1 || p[0].Phase != raidstorage.PhaseCopy || delayed == 0 {
			t.Errorf("%d were delayed; then %+v", delayed, p)
		}
		before := time.Now()
		w.mustCommit(m, 2, sized(10000))
		if delay := time.Since(before); delay != 0 {
			t.Errorf("it waited %v", delay)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
