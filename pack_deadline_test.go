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

// ownCollector makes a world with b2 as a backend that collects its garbage itself, and
// a mirror with something to pack.
func (w *world) ownCollector() (m *raidstorage.Mirror, through raidstorage.TID) {
	w.makeSelfish("b2")
	w.cfg.Timeouts.Pack = time.Minute
	m = w.start()
	through = w.tree(m)[2]
	<-time.After(time.Second) // simulated: b2 must not drop the last transaction
	w.mustCommit(m, 1, storagetest.Pickled("the last one"))
	return m, through
}

// A backend that does not answer, whatever its context says, holds up neither the pack
// nor the next one, and its answer to the first one counts for no other.
func TestPackLeavesABackendThatIgnoresItsContext(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m, through := w.ownCollector()
		w.backend("b2").Inject(storagetest.Fault{Call: storagetest.CallPack, Kind: storagetest.HangHard, Times: 1})
		begun := time.Now()
		err := m.Pack(t.Context(), raidstorage.PackOptions{Through: through, GC: true})
		if b := wantErr[*raidstorage.BackendError](t, "Pack", err); b.Backend != "b2" || b.Op != "pack" || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the error is %v", err)
		}
		if took := time.Since(begun); took < time.Minute || took > 2*time.Minute {
			t.Errorf("it took %v, the deadline is 1m", took)
		}
		w.mustCommit(m, 1, storagetest.Pickled("goes on"))
		w.wantInSync("b1", "b2")
		if r := w.record(); !slices.Equal(r.Unpacked, []string{"b2"}) || r.Lock != nil {
			t.Errorf("unpacked are %v, lock %v", r.Unpacked, r.Lock)
		}
		err = m.Pack(t.Context(), raidstorage.PackOptions{Through: through, GC: true})
		if b := wantErr[*raidstorage.BackendError](t, "the next pack", err); b.Backend != "b2" || !strings.Contains(b.Error(), "an earlier pack") {
			t.Errorf("while the call hangs the next pack says %v", err)
		}
		if got := count(w.backend("b2"), storagetest.CallPack); got != 1 {
			t.Errorf("b2 was told to pack %d times", got)
		}
		w.backend("b2").Release()
		synctest.Wait()
		if r := w.record(); !slices.Equal(r.Unpacked, []string{"b2"}) {
			t.Errorf("the late answer has made unpacked %v", r.Unpacked)
		}
		mustPack(t, m, through)
		w.wantPacked(through)
		w.wantInSync("b1", "b2")
	})
}

// A pack that a backend obeys to end at its deadline ends there.
func TestPackEndsAtItsDeadline(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m, through := w.ownCollector()
		w.backend("b2").Inject(storagetest.Fault{Call: storagetest.CallPack, Kind: storagetest.Hang, Times: 1})
		begun := time.Now()
		err := m.Pack(t.Context(), raidstorage.PackOptions{Through: through, GC: true})
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "not done in 1m") {
			t.Errorf("Pack: got %v", err)
		}
		if took := time.Since(begun); took != time.Minute {
			t.Errorf("it took %v", took)
		}
		mustPack(t, m, through)
		w.wantPacked(through)
	})
}

// Close does not wait for ever either.
func TestCloseLeavesAPackThatHangs(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m, through := w.ownCollector()
		w.backend("b2").Inject(storagetest.Fault{Call: storagetest.CallPack, Kind: storagetest.HangHard, Times: 1})
		packed := make(chan error, 1)
		go func() { packed <- m.Pack(t.Context(), raidstorage.PackOptions{Through: through, GC: true}) }()
		w.backend("b2").WaitFor(t.Context(), storagetest.CallPack, 1)
		begun := time.Now()
		err := m.Close()
		if took := time.Since(begun); took > 2*time.Minute || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close returned %v after %v, and was to report the call that hangs", err, took)
		}
		if err := <-packed; !errors.Is(err, raidstorage.ErrClosed) {
			t.Errorf("Pack: %v", err)
		}
		w.backend("b2").Release()
	})
}

// lateFinder hangs before it asks to decide, whatever its context says.
type lateFinder struct {
	*storagetest.FaultyStorage
	release chan struct{}
	said    chan error
}

func (s lateFinder) FindGarbage(ctx context.Context, _ raidstorage.TID, decide func(context.Context) error) ([]raidstorage.OID, error) {
	<-s.release
	err := decide(context.WithoutCancel(ctx))
	s.said <- err
	return []raidstorage.OID{0, 1}, err
}

// Who hangs while it looks for garbage is left, and another one asked. When it goes on
// it decides nothing any more, and gets no hold of the commits.
func TestFinderThatIgnoresItsContextDecidesNothingLater(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.cfg.Timeouts.Pack = time.Minute
		late := lateFinder{release: make(chan struct{}), said: make(chan error, 1)}
		open := w.cfg.Backends[0].Open
		w.cfg.Backends[0].Open = func(ctx context.Context) (raidstorage.Storage, error) {
			s, err := open(ctx)
			if err != nil {
				return nil, err
			}
			late.FaultyStorage = s.(*storagetest.FaultyStorage)
			return late, nil
		}
		m := w.start()
		through := w.tree(m)[2]
		mustPack(t, m, through)
		w.wantPacked(through)
		close(late.release)
		if err := <-late.said; err == nil {
			t.Error("it was told to decide")
		}
		w.mustCommit(m, 1, storagetest.Pickled("goes on"))
		w.wantInSync("b1", "b2")
		w.wantEqual("b1", "b2")
	})
}

// A backend that hangs while it is compared is left, and the others are compared.
func TestComparisonLeavesABackendThatIgnoresItsContext(t *testing.T) {
	for _, call := range []storagetest.Call{storagetest.CallCurrentRecords, storagetest.CallNext} {
		t.Run(string(call), func(t *testing.T) {
			scenario(t, 3, func(t *testing.T, w *world) {
				m := w.start()
				through := w.tree(m)[2]
				w.packAside(2, raidstorage.PackOptions{Through: through, Decided: true, Garbage: []raidstorage.OID{0}})
				b2 := w.backend("b2") // another connection than the one after it was left
				var comparing atomic.Bool
				w.observe("b1", storagetest.CallCurrentRecords, func() { comparing.Store(true) })
				b2.Inject(storagetest.Fault{Call: call, Kind: storagetest.HangHard, Times: 1})
				begun := time.Now()
				err := m.Pack(t.Context(), raidstorage.PackOptions{Through: through, GC: true})
				if took := time.Since(begun); took > time.Minute {
					t.Errorf("it took %v", took)
				}
				if b := wantErr[*raidstorage.BackendError](t, "Pack", err); b.Backend != "b2" {
					t.Errorf("the error is %v", err)
				}
				if d := wantErr[*raidstorage.DifferenceError](t, "Pack", err); d.Backend != "b3" || d.OID != 0 {
					t.Errorf("the others were not compared: %v", err)
				}
				b2.Release()
				if !comparing.Load() {
					t.Error("nothing was compared")
				}
			})
		})
	}
}

// The comparison keeps to its rate.
func TestComparisonKeepsToItsRate(t *testing.T) {
	for _, rate := range []int64{0, 100 << 10} {
		for _, own := range []bool{true, false} {
			t.Run(fmt.Sprint(rate, own), func(t *testing.T) {
				scenario(t, 2, func(t *testing.T, w *world) {
					opts := raidstorage.PackOptions{GC: true, Through: raidstorage.MaxTID}
					if own {
						opts.CompareBytesPerSecond = rate
					} else {
						w.cfg.CompareBytesPerSecond = rate
					}
					m := w.start()
					var refs []raidstorage.OID
					for oid := raidstorage.OID(1); oid <= 100; oid++ {
						w.mustCommit(m, oid, storagetest.Pickled(strings.Repeat("x", 10<<10)))
						refs = append(refs, oid)
					}
					w.mustCommit(m, 0, storagetest.Pickled("root", refs...))
					begun := time.Now()
					if err := m.Pack(t.Context(), opts); err != nil {
						t.Fatal(err)
					}
					took, want := time.Since(begun), time.Duration(0)
					if rate > 0 {
						want = 10 * time.Second // 1000 KiB
					}
					if took < want-want/10 || took > want+want/10 {
						t.Errorf("it took %v, want about %v", took, want)
					}
				})
			})
		}
	}
}

// A pack whose process died before the backends were compared is made again by the next
// start, which then finds the difference.
func TestPackIsComparedAfterTheProcessDied(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.cfg.AutoRecover = raidstorage.AutoRecoverOn
		m := w.start()
		through := w.tree(m)[2]
		w.packAside(2, raidstorage.PackOptions{Through: through, Decided: true, Garbage: []raidstorage.OID{0}})
		w.observe("b1", storagetest.CallCurrentRecords, func() {
			w.reg.cut()
			for _, b := range []string{"b1", "b2", "b3"} {
				w.backend(b).CutOff()
			}
		})
		if err := m.Pack(t.Context(), raidstorage.PackOptions{Through: through, GC: true}); err == nil {
			t.Fatal("the pack of a dead process succeeded")
		}
		w.crash(m)
		if u := w.record().Unfinished; u == nil || u.Through != through || !u.GC {
			t.Fatalf("the record says of the pack: %+v", u)
		}
		m = w.start()
		w.waitState(m, "b3", raidstorage.StateFailed)
		w.waitRecord(m, func(r raidstorage.Membership) bool { return r.Unfinished == nil && r.Lock == nil })
		w.wantInSync("b1", "b2")
		if r := w.record(); slices.Contains(r.Unpacked, "b1") || slices.Contains(r.Unpacked, "b2") {
			t.Errorf("unpacked are %v", r.Unpacked)
		}
		wantData(t, m, 0, storagetest.Pickled("root", 1))
	})
}

// P6: a backend that has packed on its own when the process died, and missed something
// since, comes back without an operator.
func TestBackendThatPackedWhenTheProcessDiedComesBack(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.cfg.AutoRecover = raidstorage.AutoRecoverOn
		w.makeSelfish("b3")
		m := w.start()
		w.tree(m)
		<-time.After(time.Second) // simulated
		w.mustCommit(m, 1, storagetest.Pickled("the last one"))
		w.backend("b3").Inject(storagetest.Fault{Call: storagetest.CallPack, Kind: storagetest.LoseReply, Times: 1, Hook: func() {
			w.reg.cut()
			for _, b := range []string{"b1", "b2", "b3"} {
				w.backend(b).CutOff()
			}
		}})
		if err := m.Pack(t.Context(), raidstorage.PackOptions{Through: raidstorage.MaxTID, GC: true}); err == nil {
			t.Fatal("the pack of a dead process succeeded")
		}
		w.crash(m)
		wantData(t, w.mem.stores[2], 10, "") // b3 has packed
		w.setDown(true, "b3")
		m = w.start()
		w.mustCommit(m, 1, storagetest.Pickled("missed by b3"))
		w.setDown(false, "b3")
		w.waitState(m, "b3", raidstorage.StateInSync)
		w.waitRecord(m, func(r raidstorage.Membership) bool { return r.Unfinished == nil && r.Lock == nil })
		w.wantInSync("b1", "b2", "b3")
		for i, s := range w.mem.stores {
			if i < 2 {
				wantData(t, s, 10, "")
			}
		}
	})
}

// waitRecord waits until the record is as wanted.
func (w *world) waitRecord(m *raidstorage.Mirror, want func(raidstorage.Membership) bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 24*time.Hour) // simulated
	defer cancel()
	events := m.Watch(ctx)
	for !want(w.record()) {
		if _, ok := <-events; !ok {
			w.t.Fatalf("the record stays %+v", w.record())
		}
	}
}

// A backend that was refused, as it had packed and the others had not, comes back when
// they have.
func TestBackendThatAloneHadPackedComesBackAfterTheNextPack(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.cfg.AutoRecover = raidstorage.AutoRecoverOn
		w.makeSelfish("b3")
		m := w.start()
		w.tree(m)
		<-time.After(time.Second) // simulated
		w.mustCommit(m, 1, storagetest.Pickled("the last one"))
		for _, b := range []string{"b1", "b2"} {
			w.backend(b).Inject(storagetest.Fault{Call: storagetest.CallSwitch, Times: 1})
		}
		pack := func() error {
			return m.Pack(t.Context(), raidstorage.PackOptions{Through: raidstorage.MaxTID, GC: true})
		}
		if err := pack(); !errors.Is(err, storagetest.ErrInjected) {
			t.Fatal(err)
		}
		w.backend("b3").CutOff()
		w.mustCommit(m, 1, storagetest.Pickled("missed by b3"))
		w.waitReason(m, "b3", "pack again, then recover")
		<-time.After(time.Hour) // simulated
		w.wantInSync("b1", "b2")
		if err := pack(); err != nil {
			t.Fatal(err)
		}
		w.waitState(m, "b3", raidstorage.StateInSync)
		w.wantSameObjects(10, 11)
	})
}

// waitReason waits until a backend has failed for a reason.
func (w *world) waitReason(m *raidstorage.Mirror, name, want string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 24*time.Hour) // simulated
	defer cancel()
	events := m.Watch(ctx)
	for {
		got, reason := state(m, name)
		if got == raidstorage.StateFailed && strings.Contains(reason, want) {
			return
		}
		if _, ok := <-events; !ok {
			w.t.Fatalf("backend %s is %v (%s)", name, got, reason)
		}
	}
}
