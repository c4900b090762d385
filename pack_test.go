package raidstorage_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// tree commits a root with one child, three revisions of the child, and garbage.
func (w *world) tree(m raidstorage.Storage) (tids []raidstorage.TID) {
	w.t.Helper()
	w.mustCommit(m, 10, storagetest.Pickled("garbage", 11))
	w.mustCommit(m, 11, storagetest.Pickled("below garbage"))
	w.mustCommit(m, 0, storagetest.Pickled("root", 1))
	for i := range 3 {
		tids = append(tids, w.mustCommit(m, 1, storagetest.Pickled(fmt.Sprint("child ", i))))
	}
	return tids
}

// wantPacked checks that a pack has left nothing to do: nobody holds its lock and
// nobody is marked as unpacked.
func (w *world) wantPacked(horizon raidstorage.TID) {
	w.t.Helper()
	r := w.record()
	if r.Lock != nil || len(r.Unpacked) > 0 || r.PackHorizon != horizon {
		w.t.Errorf("after the pack the record has lock %v, unpacked %v, horizon %v; want none, none, %v", r.Lock, r.Unpacked, r.PackHorizon, horizon)
	}
}

func mustPack(t *testing.T, m *raidstorage.Mirror, through raidstorage.TID) {
	t.Helper()
	if err := m.Pack(t.Context(), raidstorage.PackOptions{Through: through, GC: true}); err != nil {
		t.Fatalf("Pack: %v", err)
	}
}

func wantErr[E error](t *testing.T, what string, err error) E {
	t.Helper()
	got, ok := errors.AsType[E](err)
	if !ok {
		t.Fatalf("%s: got error %v (%T), want %v", what, err, err, reflect.TypeFor[E]())
	}
	return got
}

// selfish is a backend with a garbage collection of its own only, by the rule of Python's
// FileStorage, as ZEO servers are.
type selfish struct{ *storagetest.FaultyStorage }

func (s selfish) Supports(capability reflect.Type) bool {
	return !hides[raidstorage.GarbageFinder](capability) && s.FaultyStorage.Supports(capability)
}

// hides tells whether a backend that is no C cannot have a capability.
func hides[C any](capability reflect.Type) bool {
	return capability == reflect.TypeFor[C]() || capability.Implements(reflect.TypeFor[C]())
}

// Pack refuses what ZEO's protocol cannot ask for. It drops what only later transactions
// keep, too.
func (s selfish) Pack(ctx context.Context, opts raidstorage.PackOptions) error {
	if !opts.GC || opts.Decided {
		return &raidstorage.UnsupportedError{Storage: s.Name(), Capability: "Packer without garbage collection"}
	}
	garbage, kept, err := s.FindKept(ctx, opts.Through, func(context.Context) error { return nil })
	if err != nil {
		return err
	}
	garbage = slices.Sorted(slices.Values(append(garbage, kept...)))
	return s.FaultyStorage.Pack(ctx, raidstorage.PackOptions{Through: opts.Through, Decided: true, Garbage: garbage})
}

// makeSelfish makes backends selfish.
func (w *world) makeSelfish(names ...string) {
	for i := range w.cfg.Backends {
		if b := &w.cfg.Backends[i]; slices.Contains(names, b.Name) {
			open := b.Open
			b.Open = func(ctx context.Context) (raidstorage.Storage, error) {
				s, err := open(ctx)
				if err != nil {
					return nil, err
				}
				return selfish{s.(*storagetest.FaultyStorage)}, nil
			}
		}
	}
}

// oneStep is a native backend that packs in one step.
type oneStep struct{ *storagetest.FaultyStorage }

func (s oneStep) Supports(capability reflect.Type) bool {
	return capability != reflect.TypeFor[raidstorage.StagedPacker]() && s.FaultyStorage.Supports(capability)
}

// packsInOneStep lets no backend prepare its pack.
func (w *world) packsInOneStep() {
	for i := range w.cfg.Backends {
		open := w.cfg.Backends[i].Open
		w.cfg.Backends[i].Open = func(ctx context.Context) (raidstorage.Storage, error) {
			s, err := open(ctx)
			if err != nil {
				return nil, err
			}
			return oneStep{s.(*storagetest.FaultyStorage)}, nil
		}
	}
}

// observe runs hook once, when a backend gets a call.
func (w *world) observe(name string, call storagetest.Call, hook func()) {
	w.backend(name).Inject(storagetest.Fault{Call: call, Kind: storagetest.Observe, Times: 1, Hook: hook})
}

// K1: what is linked again after the decision is gone on all alike, even on one that
// packs later, where they cannot switch together.
func TestK1GarbageLinkedAgainAfterTheCutIsGoneEverywhere(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.packsInOneStep()
		m := w.start()
		through := w.tree(m)[2]
		w.observe("b2", storagetest.CallPack, func() { w.mustCommit(m, 0, storagetest.Pickled("root", 1, 10)) })
		mustPack(t, m, through)
		for _, oid := range []raidstorage.OID{10, 11} {
			for _, s := range w.mem.stores {
				wantData(t, s, oid, "")
			}
		}
		w.wantEqual("b1", "b2", "b3")
		w.wantInSync("b1", "b2", "b3")
		w.wantPacked(through)
	})
}

// K1: what is linked again before it is decided stays on all, whoever is asked.
func TestK1GarbageLinkedAgainBeforeTheCutStaysEverywhere(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		through := w.tree(m)[2]
		for _, b := range []string{"b1", "b2"} {
			w.observe(b, storagetest.CallFindGarbage, func() { w.mustCommit(m, 0, storagetest.Pickled("root", 1, 10)) })
		}
		mustPack(t, m, through)
		for _, s := range w.mem.stores {
			wantData(t, s, 11, storagetest.Pickled("below garbage"))
		}
		w.wantEqual("b1", "b2")
	})
}

// K2: one backend decides, the others drop the same set.
func TestK2NativeBackendsAreGivenTheSameSet(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		m := w.start()
		tids := w.tree(m)
		mustPack(t, m, tids[1])
		asked := 0
		for _, b := range []string{"b1", "b2", "b3"} {
			asked += count(w.backend(b), storagetest.CallFindGarbage)
		}
		if asked != 1 {
			t.Errorf("%d backends decided, want 1", asked)
		}
		log := w.wantEqual("b1", "b2", "b3")
		if len(log) != 3 || log[0].Status != "p" || log[2].Status != " " {
			t.Errorf("the packed log is %v", log)
		}
		w.wantPacked(tids[1])
		w.mustCommit(m, 1, storagetest.Pickled("goes on"))
		w.wantEqual("b1", "b2", "b3")
	})
}

// The last transaction may lose all its records, but LastTID does not go back.
func TestPackDoesNotTakeLastTIDBack(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		w.tree(m)
		last := w.mustCommit(m, 20, storagetest.Pickled("garbage at the end"))
		mustPack(t, m, raidstorage.MaxTID)
		w.wantPacked(last)
		wantData(t, m, 20, "")
		m.Close()
		m = w.start()
		if got, err := m.LastTID(t.Context()); got != last || err != nil {
			t.Errorf("after the pack and a restart LastTID is %v, %v, want %v", got, err, last)
		}
		w.wantInSync("b1", "b2")
		w.mustCommit(m, 1, storagetest.Pickled("goes on"))
	})
}

// K3: backends that decide for themselves start with the commit lock held, which is
// held until they must have begun.
func TestK3OwnCollectorsStartUnderTheCommitLock(t *testing.T) {
	for _, names := range [][]string{{"b1", "b2"}, {"b2"}} {
		t.Run(fmt.Sprint(names), func(t *testing.T) {
			scenario(t, 2, func(t *testing.T, w *world) {
				w.makeSelfish(names...)
				m := w.start()
				w.tree(m)
				<-time.After(time.Second) // simulated
				last := w.mustCommit(m, 20, storagetest.Pickled("garbage at the end"))
				committed := make(chan time.Time, 1)
				begun := time.Now()
				w.observe("b2", storagetest.CallPack, func() {
					begun = time.Now()
					go func() {
						w.mustCommit(m, 0, storagetest.Pickled("root", 1, 10))
						committed <- time.Now()
					}()
				})
				mustPack(t, m, raidstorage.MaxTID)
				if waited := (<-committed).Sub(begun); waited < time.Second {
					t.Errorf("a commit went through %v after the packs were started", waited)
				}
				for _, s := range w.mem.stores {
					wantData(t, s, 11, "")
					wantData(t, s, 20, storagetest.Pickled("garbage at the end"))
				}
				w.wantInSync("b1", "b2")
				if r := w.record(); r.PackHorizon >= last || len(r.Unpacked) > 0 {
					t.Errorf("horizon %v, unpacked %v; the last transaction %v must not be packed", r.PackHorizon, r.Unpacked, last)
				}
			})
		})
	}
}

// K4: who lacks an object that others have is degraded, and is not taken back.
func TestK4BackendThatLacksAnObjectIsDegraded(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.cfg.AutoRecover = raidstorage.AutoRecoverOn
		m := w.start()
		tids := w.tree(m)
		err := w.mem.stores[1].Another("operator").Pack(t.Context(), raidstorage.PackOptions{Through: tids[0], Decided: true, Garbage: []raidstorage.OID{0}})
		if err != nil {
			t.Fatal(err)
		}
		err = m.Pack(t.Context(), raidstorage.PackOptions{Through: tids[2], GC: true})
		if d := wantErr[*raidstorage.DifferenceError](t, "Pack", err); d.Backend != "b2" || d.OID != 0 || d.Serial != 0 || d.Others == 0 {
			t.Errorf("the difference is %v", d)
		}
		w.waitState(m, "b2", raidstorage.StateFailed)
		w.wantInSync("b1", "b3")
		wantData(t, m, 0, storagetest.Pickled("root", 1))
		<-time.After(time.Hour) // simulated: recoveries are tried
		w.wantInSync("b1", "b3")
		w.mustCommit(m, 1, storagetest.Pickled("goes on"))
		wantErr[*raidstorage.DifferenceError](t, "Recover", m.Recover(t.Context(), "b2"))
		w.mem.stores[1] = memstorage.New("b2")
		if err := m.Recover(t.Context(), "b2"); err != nil {
			t.Fatal(err)
		}
		w.wantEqual("b1", "b2", "b3")
	})
}

// K5: from the cut on no undo at or before the pack time, whatever the backends would
// do, also after a restart.
func TestK5UndoBeforeThePackTimeIsRefused(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		tids := w.tree(m)
		for _, b := range []string{"b1", "b2"} {
			w.backend(b).Inject(storagetest.Fault{Call: storagetest.CallSwitch})
		}
		if err := m.Pack(t.Context(), raidstorage.PackOptions{Through: tids[1], GC: true}); !errors.Is(err, storagetest.ErrInjected) {
			t.Errorf("Pack: got %v, want the backends' error", err)
		}
		undo := func(tid raidstorage.TID) error {
			txn, err := m.Begin(t.Context(), raidstorage.Meta{})
			if err != nil {
				t.Fatal(err)
			}
			defer txn.Abort(t.Context())
			if err := raidstorage.Undo(t.Context(), txn, tid); err != nil {
				t.Fatal(err)
			}
			_, err = txn.Vote(t.Context())
			return err
		}
		check := func() {
			t.Helper()
			if got := wantErr[*raidstorage.UndoError](t, "undo", undo(tids[1])); got.TID != tids[1] {
				t.Errorf("the error is about %v", got.TID)
			}
			infos, err := m.UndoLog(t.Context(), 0, 10, nil)
			if err != nil || len(infos) != 1 || infos[0].TID != tids[2] {
				t.Errorf("the undo log is %v, %v, want %v only", infos, err, tids[2])
			}
		}
		check()
		m.Close()
		m = w.start()
		check()
		w.wantInSync("b1", "b2")
		wantErr[*raidstorage.UndoError](t, "undo while the pack has not succeeded", undo(tids[2]))
		mustPack(t, m, tids[1])
		asked := count(w.backend("b1"), storagetest.CallUndo)
		check()
		if got := count(w.backend("b1"), storagetest.CallUndo); got != asked {
			t.Error("the backends were asked to undo what the mirror refuses")
		}
		if err := undo(tids[2]); err != nil {
			t.Errorf("undo of what is later than the pack: %v", err)
		}
	})
}

// A backend whose pack fails is reported and stays in sync; the next pack makes up
// for it.
func TestFailedPackIsReportedAndTheBackendStaysInSync(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		m := w.start()
		tids := w.tree(m)
		w.backend("b2").Inject(storagetest.Fault{Call: storagetest.CallSwitch, Times: 1})
		err := m.Pack(t.Context(), raidstorage.PackOptions{Through: tids[2], GC: true})
		if b := wantErr[*raidstorage.BackendError](t, "Pack", err); b.Backend != "b2" || b.Op != "pack" {
			t.Errorf("the error is %v", err)
		}
		w.wantInSync("b1", "b2", "b3")
		if r := w.record(); !slices.Equal(r.Unpacked, []string{"b2"}) || r.Lock != nil {
			t.Errorf("unpacked are %v, lock %v", r.Unpacked, r.Lock)
		}
		w.unevenIsNoFault(m, tids[0])
		mustPack(t, m, tids[2])
		w.wantPacked(tids[2])
		w.wantEqual("b1", "b2", "b3")
	})
}

// unevenIsNoFault asks for what some backends have dropped, in all ways that could
// make them look wrong.
func (w *world) unevenIsNoFault(m *raidstorage.Mirror, old raidstorage.TID) {
	w.t.Helper()
	for range 4 { // each backend is asked first once
		for oid, before := range map[raidstorage.OID]raidstorage.TID{10: raidstorage.MaxTID, 1: old + 1} {
			if _, err := m.LoadBefore(w.t.Context(), oid, before); err != nil {
				wantErr[*raidstorage.NotFoundError](w.t, "LoadBefore", err)
			}
		}
	}
	for what, stage := range map[string]func(txn raidstorage.Txn) error{
		"delete": func(txn raidstorage.Txn) error { return txn.Delete(w.t.Context(), 10, old) },
		"check":  func(txn raidstorage.Txn) error { return txn.CheckCurrent(w.t.Context(), 10, old) },
		"store":  func(txn raidstorage.Txn) error { return txn.Store(w.t.Context(), 10, old, []byte("x")) },
	} {
		txn, err := m.Begin(w.t.Context(), raidstorage.Meta{})
		if err == nil {
			err = stage(txn)
		}
		if err != nil {
			w.t.Fatal(err)
		}
		if _, err = txn.Vote(w.t.Context()); err == nil || raidstorage.Classify(err) != raidstorage.ClassAnswer {
			w.t.Errorf("%s of garbage that is gone on some backends: %v, want an answer", what, err)
		}
		txn.Abort(w.t.Context())
	}
	synctest.Wait()
	if got := m.Status().Condition; got != raidstorage.Optimal {
		w.t.Errorf("the mirror is %v: %s", got, m.Status().Reason)
	}
}

// Reads and commits find their backends while one is packed and another is not.
func TestReadsAndCommitsGoOnWhileBackendsAreUneven(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.packsInOneStep()
		m := w.start()
		tids := w.tree(m)
		w.backend("b2").Inject(storagetest.Fault{Call: storagetest.CallPack, Kind: storagetest.Hang, Times: 1})
		done := make(chan error)
		go func() { done <- m.Pack(t.Context(), raidstorage.PackOptions{Through: tids[2], GC: true}) }()
		w.backend("b2").WaitFor(t.Context(), storagetest.CallPack, 1)
		wantData(t, w.mem.stores[0], 10, "") // b1 is packed
		w.unevenIsNoFault(m, tids[0])
		w.mustCommit(m, 1, storagetest.Pickled("meanwhile"))
		if p := m.Status().Pack; p == nil || p.Phase != raidstorage.PackPacking || !slices.Equal(p.Packed, []string{"b1"}) || p.Garbage != 2 {
			t.Errorf("the progress is %v", p)
		}
		w.backend("b2").Release()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		w.wantEqual("b1", "b2")
		if p := m.Status().Pack; p != nil {
			t.Errorf("after the pack the progress is %v", p)
		}
	})
}

// V6: while a pack runs recoveries are refused or wait, by choice.
func TestV6RecoveryWaitsForThePack(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		m := w.start()
		tids := w.tree(m)
		if err := m.Disable(t.Context(), "b3", "test"); err != nil {
			t.Fatal(err)
		}
		w.backend("b1").Inject(storagetest.Fault{Call: storagetest.CallStagePack, Kind: storagetest.Hang, Times: 1})
		packed, recovered := make(chan error, 1), make(chan error, 1)
		go func() { packed <- m.Pack(t.Context(), raidstorage.PackOptions{Through: tids[2], GC: true}) }()
		w.backend("b1").WaitFor(t.Context(), storagetest.CallStagePack, 1)
		busy := wantErr[*raidstorage.BusyError](t, "Recover", m.RecoverWith(t.Context(), "b3", raidstorage.RecoverOptions{NoWait: true}))
		if busy.Holder != "pack" || raidstorage.Classify(busy) != raidstorage.ClassRefusal {
			t.Errorf("it says %v", busy)
		}
		wantErr[*raidstorage.BusyError](t, "Pack", m.Pack(t.Context(), raidstorage.PackOptions{Through: tids[2], NoWait: true}))
		go func() { recovered <- m.Recover(t.Context(), "b3") }()
		synctest.Wait()
		select {
		case err := <-recovered:
			t.Fatalf("the recovery did not wait: %v", err)
		default:
		}
		w.backend("b1").Release()
		if err := errors.Join(<-packed, <-recovered); err != nil {
			t.Fatal(err)
		}
		w.wantInSync("b1", "b2", "b3")
		w.wantPacked(tids[2])
		w.wantEqual("b1", "b2", "b3")
	})
}

// V6: a pack waits for the recovery that runs, and gets its turn.
func TestV6PackWaitsForTheRecovery(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		tids := w.tree(m)
		if err := m.Disable(t.Context(), "b2", "test"); err != nil {
			t.Fatal(err)
		}
		w.mustCommit(m, 1, storagetest.Pickled("missed"))
		w.onOpen = func(_ string, f *storagetest.FaultyStorage) {
			f.Inject(storagetest.Fault{Call: storagetest.CallRestore, Kind: storagetest.Hang, Times: 1})
		}
		packed, recovered := make(chan error, 1), make(chan error, 1)
		go func() { recovered <- m.Recover(t.Context(), "b2") }()
		synctest.Wait()
		busy := wantErr[*raidstorage.BusyError](t, "Pack", m.Pack(t.Context(), raidstorage.PackOptions{Through: tids[2], NoWait: true}))
		if busy.Holder != "recovery of b2" {
			t.Errorf("it says %v", busy)
		}
		go func() { packed <- m.Pack(t.Context(), raidstorage.PackOptions{Through: tids[2], GC: true}) }()
		synctest.Wait()
		if p := m.Status().Pack; p == nil || p.Phase != raidstorage.PackWaiting || p.Reason == "" {
			t.Errorf("the waiting is not visible: %v", p)
		}
		w.backend("b2").Release()
		if err := errors.Join(<-packed, <-recovered); err != nil {
			t.Fatal(err)
		}
		w.wantPacked(tids[2])
		w.wantEqual("b1", "b2")
	})
}

// Death at each step: the next start opens, says so, and a further pack makes all
// equal.
func TestPackSurvivesDeathAtEachStep(t *testing.T) {
	t.Parallel()
	type step struct {
		backend string
		call    storagetest.Call
	}
	steps := []step{
		{"b1", storagetest.CallFindGarbage}, {"b1", storagetest.CallPack}, {"b2", storagetest.CallPack},
		{"b3", storagetest.CallPack}, {"b3", storagetest.CallCurrentRecords}, {"b1", storagetest.CallRelinked},
	}
	for _, call := range []storagetest.Call{storagetest.CallStagePack, storagetest.CallCatchUp, storagetest.CallSwitch, storagetest.CallEndPack} {
		steps = append(steps, step{"b1", call}, step{"b2", call}, step{"b3", call})
	}
	for _, at := range steps {
		for _, kind := range []storagetest.Kind{storagetest.Observe, storagetest.LoseReply} {
			t.Run(fmt.Sprintf("%s %s %v", at.backend, at.call, kind), func(t *testing.T) {
				scenario(t, 3, func(t *testing.T, w *world) {
					if at.call == storagetest.CallPack {
						w.packsInOneStep()
					}
					m := w.start()
					w.tree(m)
					through := w.mustCommit(m, 20, storagetest.Pickled("garbage at the end"))
					w.backend(at.backend).Inject(storagetest.Fault{Call: at.call, Kind: kind, Times: 1, Hook: func() {
						w.reg.cut()
						for _, b := range []string{"b1", "b2", "b3"} {
							w.backend(b).CutOff()
						}
					}})
					if err := m.Pack(t.Context(), raidstorage.PackOptions{Through: through, GC: true}); err == nil {
						t.Error("the pack of a dead process succeeded")
					}
					w.crash(m)
					m = w.start()
					if r := w.record(); r.Lock != nil {
						t.Errorf("the lock is still there: %v", r.Lock)
					}
					w.unevenOrNot(m)
					w.mustCommit(m, 1, storagetest.Pickled("goes on"))
					mustPack(t, m, through)
					w.wantPacked(through)
					w.wantInSync("b1", "b2", "b3")
					w.wantEqual("b1", "b2", "b3")
				})
			})
		}
	}
}

// unevenOrNot reads garbage, which may be gone on some backends.
func (w *world) unevenOrNot(m *raidstorage.Mirror) {
	w.t.Helper()
	for range 4 {
		if _, err := m.LoadBefore(w.t.Context(), 10, raidstorage.MaxTID); err != nil {
			wantErr[*raidstorage.NotFoundError](w.t, "LoadBefore", err)
		}
	}
	synctest.Wait()
	w.wantInSync("b1", "b2", "b3")
}

// The register fails when the cut, or the end, is to be written.
func TestPackWithAFailingRegister(t *testing.T) {
	t.Parallel()
	for nth := range 2 {
		for _, fault := range []registerFault{registerFails, registerLosesReply} {
			t.Run(fmt.Sprintf("change %d, %d", nth, fault), func(t *testing.T) {
				scenario(t, 2, func(t *testing.T, w *world) {
					m := w.start()
					tids := w.tree(m)
					n := 0
					w.reg.on(func(raidstorage.Membership) registerFault {
						if n++; n == nth+1 {
							return fault
						}
						return registerWorks
					})
					err := m.Pack(t.Context(), raidstorage.PackOptions{Through: tids[2], GC: true})
					if !errors.Is(err, errRegister) {
						t.Errorf("Pack: got %v, want the register's error", err)
					}
					w.mustCommit(m, 1, storagetest.Pickled("goes on"))
					if r := w.record(); r.Lock != nil || r.Unfinished != nil {
						t.Errorf("a pack that did not begin, or has ended, has left its lock: %v, %v", r.Lock, r.Unfinished)
					}
					mustPack(t, m, tids[2])
					w.wantPacked(tids[2])
					w.wantInSync("b1", "b2")
					w.wantEqual("b1", "b2")
				})
			})
		}
	}
}

// A record whose references cannot be read stops the pack before the cut.
func TestUnreadableRecordStopsThePackBeforeTheCut(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		through := w.tree(m)[2]
		last := w.mustCommit(m, 0, "no pickle")
		epoch := w.record().Epoch
		err := m.Pack(t.Context(), raidstorage.PackOptions{Through: last, GC: true})
		if c := wantErr[*raidstorage.CorruptError](t, "Pack", err); c.OID != 0 || c.TID != last {
			t.Errorf("it names %v at %v", c.OID, c.TID)
		}
		if r := w.record(); r.Epoch != epoch {
			t.Errorf("the record was changed: %s", r.Reason)
		}
		w.wantInSync("b1", "b2")
		if err := m.Pack(t.Context(), raidstorage.PackOptions{Through: through}); err != nil {
			t.Errorf("without garbage collection: %v", err)
		}
	})
}
