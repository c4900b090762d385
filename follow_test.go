package raidstorage_test

import (
	"context"
	"errors"
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

// following runs f in a bubble, over full backends b1 ... and a last one that follows.
func following(t *testing.T, full int, f func(t *testing.T, w *world, async string)) {
	t.Helper()
	scenario(t, full+1, func(t *testing.T, w *world) {
		w.cfg.Backends[full].Role = raidstorage.RoleAsync
		w.cfg.RetryMin, w.cfg.RetryMax = time.Second, 10*time.Second
		f(t, w, name(full))
	})
}

// status returns what the mirror tells of a backend.
func status(t *testing.T, m *raidstorage.Mirror, name string) raidstorage.BackendStatus {
	t.Helper()
	all := m.Status().Backends
	i := slices.IndexFunc(all, func(b raidstorage.BackendStatus) bool { return b.Name == name })
	if i < 0 {
		t.Fatalf("no backend %s", name)
	}
	return all[i]
}

// setOnOpen has a hook called with each storage that is opened.
func (w *world) setOnOpen(hook func(name string, f *storagetest.FaultyStorage)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.onOpen = hook
}

// wantBeginning checks that one log is a beginning of the other one, and returns how
// many transactions the other one has more.
func (w *world) wantBeginning(short, long string) int {
	w.t.Helper()
	a, b := w.log(short), w.log(long)
	for i := range a {
		if i >= len(b) || a[i].TID != b[i].TID || fmt.Sprint(a[i]) != fmt.Sprint(b[i]) {
			w.t.Fatalf("the log of %s is no beginning of that of %s, from %v on", short, long, a[i].TID)
		}
	}
	return len(b) - len(a)
}

func TestAnAsyncBackendFollowsAndCountsForNothing(t *testing.T) {
	following(t, 2, func(t *testing.T, w *world, async string) {
		m := w.start()
		if q := m.Settings().WriteQuorum; q != 1 {
			t.Errorf("the default quorum of two full backends and an asynchronous one is %d", q)
		}
		w.fill(m, 30)
		synctest.Wait()
		w.wantEqual("b1", "b2", async)
		w.wantInSync("b1", "b2")
		b := status(t, m, async)
		last, _ := m.LastTID(t.Context())
		if b.State != raidstorage.StateFollowing || b.LagTransactions != 0 || b.LagBytes != 0 || b.Lag != 0 || b.LastTID != last || b.Role != raidstorage.RoleAsync {
			t.Errorf("the status is %+v", b)
		}
		if c := m.Status().Condition; c != raidstorage.Optimal {
			t.Errorf("the mirror is %v", c)
		}
		if b.Counters.Loads != 0 {
			t.Errorf("%d reads went to it", b.Counters.Loads)
		}
		w.setDown(true, "b1", "b2", async)
		for _, name := range []string{"b1", "b2"} {
			w.backend(name).CutOff()
		}
		if _, err := commit(m, 1, "on the asynchronous one alone"); err == nil {
			t.Error("a commit was acknowledged without a full backend")
		}
		w.wantBeginning(async, "b1")
	})
}

// A commit does not wait for one that hangs, in whatever call, and neither do Verify,
// Pack, Change and Close.
func TestNobodyWaitsForAnAsyncBackendThatHangs(t *testing.T) {
	t.Parallel()
	for _, call := range []storagetest.Call{
		storagetest.CallBegin, storagetest.CallRestore, storagetest.CallVote, storagetest.CallFinish,
		storagetest.CallLastTID, storagetest.CallIterate, storagetest.CallPack, storagetest.CallClose,
	} {
		t.Run(string(call), func(t *testing.T) {
			following(t, 2, func(t *testing.T, w *world, async string) {
				w.cfg.Timeouts.Open = 20 * time.Second
				m := w.start()
				through := w.tree(m)[2]
				synctest.Wait()
				hang := storagetest.Fault{Call: call, Kind: storagetest.HangHard}
				if call == storagetest.CallLastTID || call == storagetest.CallIterate {
					w.setOnOpen(func(name string, f *storagetest.FaultyStorage) { f.Inject(hang) })
					w.backend(async).CutOff() // it is opened anew, and compared
				} else {
					w.backend(async).Inject(hang)
				}
				defer func() {
					w.mu.Lock()
					defer w.mu.Unlock()
					for _, f := range w.opened {
						f.Clear()
						f.Release()
					}
				}()
				began := time.Now()
				for i := range 5 {
					w.mustCommit(m, 20, storagetest.Pickled(fmt.Sprint(i)))
				}
				synctest.Wait()
				mustPack(t, m, through)
				report, err := m.Verify(t.Context(), raidstorage.VerifyOptions{})
				if err != nil || !slices.Equal(report.LeftOut, []string{async}) || !slices.Equal(report.Backends, []string{"b1", "b2"}) {
					t.Errorf("Verify: %v, %v compared, without %v", err, report.Backends, report.LeftOut)
				}
				if err := m.SetQuorum(t.Context(), 2, 1); err != nil {
					t.Errorf("SetQuorum: %v", err)
				}
				if took := time.Since(began); took != 0 {
					t.Errorf("commits, a pack, a verification and a change took %v", took)
				}
				if err := m.Remove(t.Context(), async); err != nil {
					t.Errorf("Remove: %v", err)
				}
				if took := time.Since(began); took > 3*w.cfg.Timeouts.Open {
					t.Errorf("taking it out took %v", took)
				}
				members(t, m, "b1", "b2")
				began = time.Now()
				err = m.Close()
				if took := time.Since(began); took > 3*w.cfg.Timeouts.Open {
					t.Errorf("Close took %v (%v)", took, err)
				}
			})
		})
	}
}

func TestAMirrorStartsWithoutItsAsyncBackend(t *testing.T) {
	following(t, 2, func(t *testing.T, w *world, async string) {
		w.setDown(true, async)
		var opens atomic.Int64
		open := w.cfg.Backends[2].Open
		w.cfg.Backends[2].Open = func(ctx context.Context) (raidstorage.Storage, error) {
			opens.Add(1)
			return open(ctx)
		}
		began := time.Now()
		m := w.start() // the first start, too
		if took := time.Since(began); took != 0 {
			t.Errorf("the start waited %v", took)
		}
		w.fill(m, 10)
		synctest.Wait()
		b := status(t, m, async)
		if n := opens.Load(); n > 2 {
			t.Errorf("it was opened %d times in no time: at each commit", n)
		}
		if b.State != raidstorage.StateFailed || !strings.Contains(b.Reason, "connection refused") {
			t.Errorf("it is %v: %s", b.State, b.Reason)
		}
		if s := m.Status(); s.Condition != raidstorage.Optimal || s.Reason != "" {
			t.Errorf("the mirror is %v: %s", s.Condition, s.Reason)
		}
		w.setDown(false, async)
		w.waitState(m, async, raidstorage.StateFollowing)
		synctest.Wait()
		w.wantEqual("b1", async)
		if n := len(w.backend(async).Calls()); n == 0 {
			t.Error("nothing was asked of it")
		}
	})
}

// It goes on from where it was: after a long cut, and over a restart, without one
// transaction that it has already being sent again.
func TestFollowingIsResumed(t *testing.T) {
	following(t, 2, func(t *testing.T, w *world, async string) {
		m := w.start()
		w.fill(m, 20)
		synctest.Wait()
		w.setDown(true, async)
		w.backend(async).CutOff()
		w.fill(m, 200)
		b := status(t, m, async)
		if b.LagTransactions != 200 || b.LagBytes < 200*40 || b.Lag <= 0 {
			t.Errorf("200 transactions behind it tells %d transactions, %d bytes, %v", b.LagTransactions, b.LagBytes, b.Lag)
		}
		w.setDown(false, async)
		w.setOnOpen(func(name string, f *storagetest.FaultyStorage) {
			if name == async { // for a while only, and the whole process dies
				f.Inject(storagetest.Fault{Call: storagetest.CallFinish, After: 50, Kind: storagetest.Disconnect,
					Hook: func() { w.setDown(true, async) }})
			}
		})
		time.Sleep(time.Minute)
		if left := w.wantBeginning(async, "b1"); left == 0 || left >= 200 {
			t.Errorf("%d transactions behind after a short connection", left)
		}
		w.crash(m)
		w.setOnOpen(nil)
		w.setDown(false, async)
		before := len(w.log(async))
		m = w.start()
		w.waitState(m, async, raidstorage.StateFollowing)
		synctest.Wait()
		w.wantEqual("b1", async)
		sent := 0
		for _, c := range w.backend(async).Calls() {
			if c.Call == storagetest.CallFinish {
				sent++
			}
		}
		if want := len(w.log("b1")) - before; sent != want {
			t.Errorf("%d transactions were sent after the restart, %d were missing", sent, want)
		}
	})
}

// What resolve drops must never have reached it: only what is visible is sent.
func TestAnAsyncBackendIsNeverSentWhatMayBeDropped(t *testing.T) {
	following(t, 2, func(t *testing.T, w *world, async string) {
		w.cfg.WriteQuorum, w.cfg.StartQuorum = 2, 1
		m := w.start()
		w.mustCommit(m, 1, "seen")
		synctest.Wait()
		w.backend("b2").Inject(storagetest.Fault{Call: storagetest.CallFinish, Times: 1})
		w.setDown(true, "b2")
		w.reg.on(func(raidstorage.Membership) registerFault { return registerFails }) // nobody can be dropped yet
		w.wantUnknown(m, 1, "in doubt")
		time.Sleep(time.Minute) // attempts to settle it, and to follow
		if got := w.log("b1"); len(got) != 2 {
			t.Fatalf("b1 has %d transactions, want the one in doubt, too", len(got))
		}
		if got := w.log(async); len(got) != 1 {
			t.Errorf("%s has %d transactions, and one is in doubt", async, len(got))
		}
		w.crash(m)
		w.cfg.WriteQuorum = 1
		w.setDown(true, "b1") // only the one without it comes back
		w.setDown(false, "b2")
		m = w.start()
		w.mustCommit(m, 1, "instead")
		w.waitState(m, async, raidstorage.StateFollowing)
		synctest.Wait()
		w.wantEqual("b2", async)
	})
}

// A backend that holds what the mirror does not is refused, and told of; cut off, it
// follows again.
func TestAnAsyncBackendThatDivergedIsRefused(t *testing.T) {
	following(t, 2, func(t *testing.T, w *world, async string) {
		m := w.start()
		w.fill(m, 5)
		synctest.Wait()
		w.setDown(true, async)
		w.backend(async).CutOff()
		stray := w.mustCommit(w.mem.stores[2].Another("stranger"), 50, "by somebody else")
		w.mustCommit(m, 1, "meanwhile")
		w.setDown(false, async)
		time.Sleep(time.Minute)
		b := status(t, m, async)
		if b.State != raidstorage.StateFailed || !strings.Contains(b.Reason, stray.String()) || !strings.Contains(b.Reason, "diverged") {
			t.Errorf("it is %v: %s", b.State, b.Reason)
		}
		before := len(w.backend(async).Calls())
		time.Sleep(time.Hour)
		if after := len(w.backend(async).Calls()); after != before {
			t.Errorf("it was asked %d times more, though only an operator can help", after-before)
		}
		wantErr[*raidstorage.DivergedError](t, "Recover", m.Recover(t.Context(), async))
		if err := m.RecoverWith(t.Context(), async, raidstorage.RecoverOptions{Rollback: true}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w.wantEqual("b1", async)
		w.wantInSync("b1", "b2")
	})
}

// A source that fails while it is read is dropped like on any read, and another one
// takes over; a full temporary directory says nothing against anybody.
func TestAFollowerIsReadFromAnotherSource(t *testing.T) {
	following(t, 2, func(t *testing.T, w *world, async string) {
		m := w.start()
		w.fill(m, 5)
		synctest.Wait()
		w.setDown(true, async)
		w.backend(async).CutOff()
		w.fill(m, 20)
		w.setDown(false, async)
		w.setDown(true, "b2")
		w.backend("b2").Inject(storagetest.Fault{Call: storagetest.CallNext, After: 15})
		w.waitState(m, async, raidstorage.StateFollowing)
		time.Sleep(time.Minute)
		w.wantEqual("b1", async)
		w.wantInSync("b1")
	})
}

func TestASpoolThatFailsIsNoFaultOfASource(t *testing.T) {
	following(t, 2, func(t *testing.T, w *world, async string) {
		w.cfg.TempDir, w.cfg.SpoolBytes = t.TempDir()+"/missing", 10
		m := w.start()
		storagetest.Transact(t, m, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
			return txn.Store(t.Context(), 1, 0, []byte("small"))
		})
		time.Sleep(time.Minute)
		w.wantEqual("b1", "b2", async)
		w.cfg.TempDir = t.TempDir()
		large := strings.Repeat("x", 100)
		big := w.cfg
		m.Close()
		m = w.start()
		w.mustCommit(m, 1, large)
		synctest.Wait()
		w.wantEqual("b1", async) // through the temporary file
		m.Close()
		w.setDown(true, async)
		w.cfg = big
		m = w.start()
		w.mustCommit(m, 1, large)
		m.Close()
		w.setDown(false, async)
		w.cfg.TempDir += "/missing"
		m = w.start()
		time.Sleep(time.Minute)
		b := status(t, m, async)
		if b.State != raidstorage.StateFollowing || !strings.Contains(b.Reason, "spool") || b.LagTransactions != 1 {
			t.Errorf("it is %v, %d behind: %s", b.State, b.LagTransactions, b.Reason)
		}
		w.wantInSync("b1", "b2")
	})
}

// The bandwidth holds over many transactions, and within one.
func TestBandwidth(t *testing.T) {
	following(t, 2, func(t *testing.T, w *world, async string) {
		w.cfg.Backends[2].Bandwidth = 10_000
		m := w.start()
		synctest.Wait()
		began := time.Now()
		for i := range 20 {
			w.mustCommit(m, raidstorage.OID(i+1), strings.Repeat("x", 10_000))
		}
		for status(t, m, async).LagTransactions > 0 {
			time.Sleep(time.Second / 10)
		}
		if took := time.Since(began).Seconds(); took < 18 || took > 22 {
			t.Errorf("200 kB at 10 kB/s took %v s", took)
		}
		w.wantEqual("b1", async)
		c := m.Settings()
		c.Backends[2].Bandwidth = 100_000
		if err := m.Change(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		began = time.Now()
		storagetest.Transact(t, m, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
			for i := range 100 {
				if err := txn.Store(t.Context(), raidstorage.OID(100+i), 0, []byte(strings.Repeat("y", 100_000))); err != nil {
					return err
				}
			}
			return nil
		})
		for status(t, m, async).LagTransactions > 0 {
			time.Sleep(time.Second / 10)
		}
		// 10 MB in one transaction: longer than the deadline of a vote, and no fault.
		if took := time.Since(began).Seconds(); took < 95 || took > 110 {
			t.Errorf("10 MB at 100 kB/s took %v s", took)
		}
		if b := status(t, m, async); b.Counters.Faults != 0 {
			t.Errorf("%d faults: %s", b.Counters.Faults, b.Reason)
		}
	})
}

func TestStaleReads(t *testing.T) {
	following(t, 2, func(t *testing.T, w *world, async string) {
		m := w.start()
		first := w.mustCommit(m, 1, "first")
		synctest.Wait()
		stale, err := m.Stale(async)
		if err != nil {
			t.Fatal(err)
		}
		w.backend(async).Inject(storagetest.Fault{Call: storagetest.CallVote, Kind: storagetest.Hang})
		w.mustCommit(m, 1, "second")
		synctest.Wait()
		wantData(t, stale, 1, "first")
		wantData(t, m, 1, "second")
		if last, err := stale.LastTID(t.Context()); last != first || err != nil {
			t.Errorf("LastTID is %v, %v, want %v", last, err, first)
		}
		if _, err := stale.Begin(t.Context(), raidstorage.Meta{}); Classify(err) != "read-only" {
			t.Errorf("Begin: %v", err)
		}
		w.backend(async).Clear()
		w.backend(async).Release()
		synctest.Wait()
		wantData(t, stale, 1, "second")
		w.setDown(true, async)
		w.backend(async).CutOff()
		w.mustCommit(m, 1, "third")
		synctest.Wait()
		_, err = stale.LoadBefore(t.Context(), 1, raidstorage.MaxTID)
		wantErr[*raidstorage.UnavailableError](t, "a read while it is cut off", err)
		w.setDown(false, async)
		w.waitState(m, async, raidstorage.StateFollowing)
		if err := m.Promote(t.Context(), async); err != nil {
			t.Fatal(err)
		}
		_, err = stale.LastTID(t.Context())
		wantErr[*raidstorage.UnavailableError](t, "a read when it is full", err)
		_, err = m.Stale("nobody")
		wantErr[*raidstorage.InvalidError](t, "Stale", err)
	})
}

// Classify tells the one kind of refusal that the test above asks for.
func Classify(err error) string {
	if _, ok := errors.AsType[*raidstorage.ReadOnlyError](err); ok {
		return "read-only"
	}
	return "other"
}

// A disabled one is left alone, over a restart too, until it is asked to follow again.
func TestADisabledAsyncBackendDoesNotFollow(t *testing.T) {
	following(t, 2, func(t *testing.T, w *world, async string) {
		m := w.start()
		w.fill(m, 5)
		synctest.Wait()
		if err := m.Disable(t.Context(), async, "moved"); err != nil {
			t.Fatal(err)
		}
		w.mustCommit(m, 1, "without it")
		m.Close()
		m = w.start()
		time.Sleep(time.Hour)
		if left := w.wantBeginning(async, "b1"); left != 1 {
			t.Errorf("it lacks %d transactions, want 1", left)
		}
		if s, _ := state(m, async); s != raidstorage.StateDisabled {
			t.Errorf("it is %v", s)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := m.Recover(ctx, async); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w.wantEqual("b1", async)
		if r := w.record(); len(r.Disabled) > 0 || slices.Contains(r.InSync, async) {
			t.Errorf("the record is %+v", r)
		}
	})
}
