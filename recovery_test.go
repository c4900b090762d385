package raidstorage_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// fill commits transactions with all that a log can hold: metadata, undo,
// deletions, blobs.
func (w *world) fill(m *raidstorage.Mirror, n int) {
	w.t.Helper()
	for i := range n {
		oid := raidstorage.OID(i%7 + 1)
		switch {
		case i%10 == 9:
			last, _ := m.LastTID(w.t.Context())
			storagetest.Transact(w.t, m, raidstorage.Meta{User: []byte("undoer")}, func(txn raidstorage.Txn) error {
				return raidstorage.Undo(w.t.Context(), txn, last)
			})
		case i%10 == 5:
			rev, err := m.LoadBefore(w.t.Context(), oid, raidstorage.MaxTID)
			if err != nil {
				rev.Serial = 0
			}
			storagetest.Transact(w.t, m, raidstorage.Meta{Extension: []byte("}q\x00.")}, func(txn raidstorage.Txn) error {
				return raidstorage.StoreBlob(w.t.Context(), txn, oid+100, w.serial(m, oid+100), []byte("blob record"), strings.NewReader(fmt.Sprint("blob ", i)))
			})
		default:
			w.mustCommit(m, oid, fmt.Sprint("data ", i))
		}
	}
}

func (w *world) serial(m raidstorage.Storage, oid raidstorage.OID) raidstorage.TID {
	rev, err := m.LoadBefore(w.t.Context(), oid, raidstorage.MaxTID)
	if err != nil {
		return 0
	}
	return rev.Serial
}

func TestEmptyBackendGetsEverything(t *testing.T) {
	t.Parallel()
	for _, full := range []bool{false, true} {
		t.Run(fmt.Sprint("full ", full), func(t *testing.T) {
			scenario(t, 3, func(t *testing.T, w *world) {
				m := w.start()
				w.fill(m, 100)
				if err := m.Disable(t.Context(), "b2", "new disk"); err != nil {
					t.Fatal(err)
				}
				w.mem.stores[1] = memstorage.New("b2")
				if err := m.RecoverWith(t.Context(), "b2", raidstorage.RecoverOptions{Full: full}); err != nil {
					t.Fatal(err)
				}
				w.fill(m, 10)
				w.wantInSync("b1", "b2", "b3")
				w.wantEqual("b1", "b2", "b3")
			})
		})
	}
}

// Only what is missing is copied, with the tail compared and not the history.
func TestRecoveryIsIncremental(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		w.fill(m, 300)
		if err := m.Disable(t.Context(), "b2", "test"); err != nil {
			t.Fatal(err)
		}
		<-time.After(24 * time.Hour) // simulated: the history is a day old
		w.fill(m, 20)
		source := w.backend("b1")
		before := count(source, storagetest.CallNext)
		if err := m.Recover(t.Context(), "b2"); err != nil {
			t.Fatal(err)
		}
		restored := map[raidstorage.TID]bool{}
		for _, c := range w.backend("b2").Calls() {
			if c.Call == storagetest.CallFinish {
				restored[c.TID] = true
			}
		}
		if len(restored) != 20 {
			t.Errorf("%d transactions were copied, 20 were missing", len(restored))
		}
		if read := count(source, storagetest.CallNext) - before; read > 100 {
			t.Errorf("%d transactions were read from the source to copy 20", read)
		}
		w.wantEqual("b1", "b2")
	})
}

func count(f *storagetest.FaultyStorage, call storagetest.Call) (n int) {
	for _, c := range f.Calls() {
		if c.Call == call {
			n++
		}
	}
	return n
}

// The target fails at each copied transaction in turn; none is copied twice.
func TestInterruptedRecoveryResumes(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		w.fill(m, 20)
		if err := m.Disable(t.Context(), "b2", "new disk"); err != nil {
			t.Fatal(err)
		}
		w.mem.stores[1] = memstorage.New("b2")
		inner, failures := w.mem.stores[1], 0
		w.onOpen = func(name string, f *storagetest.FaultyStorage) {
			f.Inject(storagetest.Fault{Call: storagetest.CallFinish, After: 2, Times: 1})
		}
		for before := 0; ; failures++ {
			err := m.Recover(t.Context(), "b2")
			if err == nil {
				break
			}
			log, logErr := storagetest.Log(t.Context(), inner.Another("log"))
			if logErr != nil || len(log) <= before && failures > 0 {
				t.Fatalf("no progress: %d transactions, then %d (%v, %v)", before, len(log), err, logErr)
			}
			before = len(log)
		}
		if failures < 5 {
			t.Errorf("the recovery was interrupted %d times only", failures)
		}
		w.wantEqual("b1", "b2")
	})
}

func TestSeveralBackendsRecoverAtOnceFromSeveralSources(t *testing.T) {
	scenario(t, 4, func(t *testing.T, w *world) {
		w.cfg.WriteQuorum = 2
		m := w.start()
		w.fill(m, 600)
		for i, n := range []string{"b3", "b4"} {
			if err := m.Disable(t.Context(), n, "new disk"); err != nil {
				t.Fatal(err)
			}
			w.mem.stores[2+i] = memstorage.New(n)
		}
		before := map[string]int{"b1": count(w.backend("b1"), storagetest.CallNext), "b2": count(w.backend("b2"), storagetest.CallNext)}
		// Neither can end before both have begun.
		gate := make(chan struct{})
		var opened atomic.Int32
		w.onOpen = func(string, *storagetest.FaultyStorage) {
			if opened.Add(1) == 2 {
				close(gate)
			}
			<-gate
		}
		done := make(chan error, 2)
		for _, n := range []string{"b3", "b4"} {
			go func() { done <- m.Recover(t.Context(), n) }()
		}
		for range 2 {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		w.wantInSync("b1", "b2", "b3", "b4")
		w.wantEqual("b1", "b2", "b3", "b4")
		for n, b := range before {
			if read := count(w.backend(n), storagetest.CallNext) - b; read < 200 {
				t.Errorf("%d transactions were read from %s: the reads are not spread", read, n)
			}
		}
	})
}

func TestDivergedBackendIsNamedWithTheFirstDifference(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.cfg.AutoRecover = raidstorage.AutoRecoverOn
		m := w.start()
		w.fill(m, 30)
		if err := m.Disable(t.Context(), "b2", "test"); err != nil {
			t.Fatal(err)
		}
		common := m.Status().LastTID
		intruder := w.mustCommit(w.mem.stores[1].Another("intruder"), 1, "intruder")
		w.mustCommit(w.mem.stores[1].Another("intruder"), 1, "intruder again")
		<-time.After(time.Minute)
		w.fill(m, 5)
		err := m.Recover(t.Context(), "b2")
		diverged, ok := errors.AsType[*raidstorage.DivergedError](err)
		if !ok || diverged.Backend != "b2" || diverged.Common != common || diverged.First != intruder {
			t.Fatalf("got %v, want a *DivergedError of b2, common %v, first %v", err, common, intruder)
		}
		<-time.After(24 * time.Hour) // simulated: nothing is done about it by itself
		if got, reason := state(m, "b2"); got != raidstorage.StateFailed || !strings.Contains(reason, intruder.String()) {
			t.Errorf("b2 is %v (%s)", got, reason)
		}
		if err := m.RecoverWith(t.Context(), "b2", raidstorage.RecoverOptions{Rollback: true}); err != nil {
			t.Fatal(err)
		}
		w.wantEqual("b1", "b2")
		wantData(t, m, 1, string(mustLoad(t, m, 1)))
	})
}

func mustLoad(t *testing.T, s raidstorage.Storage, oid raidstorage.OID) []byte {
	t.Helper()
	rev, err := s.LoadBefore(context.Background(), oid, raidstorage.MaxTID)
	if err != nil {
		t.Fatal(err)
	}
	return rev.Data
}

// A transaction of the history that differs is found only when asked for.
func TestFullComparisonFindsAnOldDifference(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		w.fill(m, 30)
		if err := m.Disable(t.Context(), "b2", "test"); err != nil {
			t.Fatal(err)
		}
		log := w.log("b2")
		changed := memstorage.New("b2")
		for i, txn := range log {
			meta := raidstorage.Meta{TID: txn.TID, User: []byte(txn.User), Description: []byte(txn.Description), Extension: []byte(txn.Extension)}
			if i == 10 {
				meta.Description = []byte("forged")
			}
			storagetest.Transact(t, changed, meta, func(to raidstorage.Txn) error { return restoreAll(t.Context(), to, w, i) })
		}
		w.mem.stores[1] = changed
		<-time.After(24 * time.Hour)
		w.fill(m, 3)
		err := m.RecoverWith(t.Context(), "b2", raidstorage.RecoverOptions{Full: true})
		diverged, ok := errors.AsType[*raidstorage.DivergedError](err)
		if !ok || diverged.First != log[10].TID || diverged.Common != log[9].TID {
			t.Errorf("got %v, want a *DivergedError at %v", err, log[10].TID)
		}
	})
}

// restoreAll restores the records of transaction i of b1.
func restoreAll(ctx context.Context, to raidstorage.Txn, w *world, i int) error {
	n := 0
	for txn, err := range w.mem.stores[0].Another("source").Iterate(ctx, 0, raidstorage.MaxTID) {
		if err != nil {
			return err
		}
		if n++; n-1 != i {
			continue
		}
		for r, err := range txn.Records {
			if err == nil {
				err = to.Restore(ctx, r)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// Automatic recovery tries again and again, with pauses that grow.
func TestAutomaticRecoveryBacksOff(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.cfg.AutoRecover = raidstorage.AutoRecoverOn
		w.cfg.RetryMin, w.cfg.RetryMax = time.Second, time.Minute
		var mu sync.Mutex // guards tries
		var tries []time.Time
		inner := w.cfg.Backends[1].Open
		w.cfg.Backends[1].Open = func(ctx context.Context) (raidstorage.Storage, error) {
			mu.Lock()
			tries = append(tries, time.Now())
			mu.Unlock()
			return inner(ctx)
		}
		m := w.start()
		w.mustCommit(m, 1, "x")
		w.setDown(true, "b2")
		w.backend("b2").CutOff()
		w.mustCommit(m, 1, "y")
		<-time.After(time.Hour)
		mu.Lock()
		defer mu.Unlock()
		if n := len(tries); n < 60 || n > 80 {
			t.Errorf("%d attempts in an hour with pauses from 1 s to 1 min", n)
		}
		for i := 3; i < len(tries); i++ {
			pause, before := tries[i].Sub(tries[i-1]), tries[i-1].Sub(tries[i-2])
			if pause < before || pause > time.Minute {
				t.Errorf("pause %d was %v after one of %v", i, pause, before)
			}
		}
	})
}

func TestRecoveryCopiesWhileCommitsGoOn(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		w.fill(m, 300)
		if err := m.Disable(t.Context(), "b2", "new disk"); err != nil {
			t.Fatal(err)
		}
		w.mem.stores[1] = memstorage.New("b2")
		done := make(chan error, 1)
		go func() { done <- m.Recover(t.Context(), "b2") }()
		n := 0
		for recovered := false; !recovered; n++ {
			w.mustCommit(m, 1, fmt.Sprint("meanwhile ", n))
			select {
			case err := <-done:
				if err != nil {
					t.Fatal(err)
				}
				recovered = true
			default:
			}
		}
		w.wantInSync("b1", "b2")
		w.wantEqual("b1", "b2")
		if diff := cmp.Diff(fmt.Sprint("meanwhile ", n-1), string(mustLoad(t, m, 1))); diff != "" {
			t.Error(diff)
		}
	})
}

// S3: what a first start accepts.
func TestFirstStart(t *testing.T) {
	t.Parallel()
	seed := func(t *testing.T, s raidstorage.Storage, from, n int) {
		for i := from; i < n; i++ {
			storagetest.Transact(t, s, raidstorage.Meta{TID: raidstorage.TID(i+1) << 32}, func(txn raidstorage.Txn) error {
				return txn.Store(context.Background(), raidstorage.OID(i%3), raidstorage.TID(max(0, i-2))<<32, []byte(fmt.Sprint(i)))
			})
		}
	}
	t.Run("an empty one and one behind are recovered from the newest", func(t *testing.T) {
		scenario(t, 3, func(t *testing.T, w *world) {
			w.cfg.AutoRecover = raidstorage.AutoRecoverOn
			w.cfg.WriteQuorum = 1
			seed(t, w.mem.stores[1], 0, 20)
			seed(t, w.mem.stores[2], 0, 7)
			m := w.start()
			w.waitState(m, "b1", raidstorage.StateInSync)
			w.waitState(m, "b3", raidstorage.StateInSync)
			if log := w.wantEqual("b1", "b2", "b3"); len(log) != 20 {
				t.Errorf("%d transactions, want 20", len(log))
			}
		})
	})
	t.Run("an unreachable one is refused", func(t *testing.T) {
		scenario(t, 2, func(t *testing.T, w *world) {
			w.setDown(true, "b2")
			_, err := raidstorage.Open(t.Context(), w.cfg)
			start, ok := errors.AsType[*raidstorage.StartError](err)
			if !ok || !strings.Contains(start.Backends["b2"], errDown.Error()) {
				t.Errorf("got %v, want a *StartError about b2", err)
			}
			w.cfg.Force = []string{"b1"}
			w.start()
			w.wantInSync("b1")
		})
	})
	t.Run("equal ones are all in sync", func(t *testing.T) {
		scenario(t, 2, func(t *testing.T, w *world) {
			seed(t, w.mem.stores[0], 0, 5)
			seed(t, w.mem.stores[1], 0, 5)
			w.start()
			w.wantInSync("b1", "b2")
		})
	})
}
