package raidstorage_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// A pack to a time before the last one does nothing, as by Python, also if what led to an
// object at that time is gone.
func TestPackOfBothKindsToBeforeTheLastOne(t *testing.T) {
	t.Parallel()
	mixed(t, func(t *testing.T, w *world) {
		m := w.start()
		tids := w.tree(m)
		w.mustCommit(m, 0, storagetest.Pickled("root again", 1))
		w.wait(m)
		mustPack(t, m, raidstorage.MaxTID)
		horizon, epoch := w.record().PackHorizon, w.record().Epoch
		for _, through := range tids {
			mustPack(t, m, through)
			w.wantPacked(horizon)
			w.wantEqual("b1", "b2")
		}
		if r := w.record(); r.Epoch != epoch {
			t.Errorf("the record was written: %+v", r)
		}
	})
}

// wantUntold checks that a pack was refused, as nobody can tell what b2 would drop, and
// that nothing has happened.
func (w *world) wantUntold(err error, before raidstorage.Membership) {
	w.t.Helper()
	if invalid := wantErr[*raidstorage.InvalidError](w.t, "Pack", err); !strings.Contains(invalid.Reason, "what backend b2 would drop") {
		w.t.Errorf("the refusal does not tell of b2: %v", err)
	}
	synctest.Wait()
	if r := w.record(); r.Epoch != before.Epoch || r.Lock != nil || r.Unfinished != nil {
		w.t.Errorf("the record is %+v, it was %+v", r, before)
	}
}

// Who was packed does not know any more what could be reached before that. A backend that
// finds the garbage itself, and was not, is not packed to such a time.
func TestPackToBeforeTheLastOneThatHasFailedElsewhere(t *testing.T) {
	t.Parallel()
	mixed(t, func(t *testing.T, w *world) {
		m := w.start()
		tids := w.tree(m)
		w.mustCommit(m, 0, storagetest.Pickled("root again", 1))
		w.wait(m)
		w.backend("b2").Inject(storagetest.Fault{Call: storagetest.CallPack, Times: 1})
		if err := m.Pack(t.Context(), raidstorage.PackOptions{Through: raidstorage.MaxTID, GC: true}); err == nil {
			t.Fatal("the pack of b2 did not fail")
		}
		synctest.Wait()
		before := w.record()
		w.wantUntold(m.Pack(t.Context(), raidstorage.PackOptions{Through: tids[0], GC: true}), before)
		mustPack(t, m, before.PackHorizon)
		w.wantPacked(before.PackHorizon)
		w.wantEqual("b1", "b2")
	})
}

// It does not matter who has packed: what was linked again before a pack of b1 alone stays
// at b2.
func TestPackToBeforeOneBehindTheMirror(t *testing.T) {
	t.Parallel()
	mixed(t, func(t *testing.T, w *world) {
		m := w.start()
		through := w.tree(m)[2] // with 10 and 11 as garbage
		w.wait(m)
		w.mustCommit(m, 0, storagetest.Pickled("root", 1, 10))
		linked := w.wait(m)
		w.packAside(0, raidstorage.PackOptions{Through: linked})
		last := w.wait(m)
		w.wantUntold(m.Pack(t.Context(), raidstorage.PackOptions{Through: through, GC: true}), w.record())
		for _, oid := range []raidstorage.OID{10, 11} {
			if _, err := w.backend("b2").LoadBefore(t.Context(), oid, raidstorage.MaxTID); err != nil {
				t.Errorf("object %v at b2: %v", oid, err)
			}
		}
		mustPack(t, m, last)
		w.wantEqual("b1", "b2")
	})
}

// A pack to now of an idle mirror whose files were packed to the last transaction is to be
// asked for again: the pack time of ZEO servers is a little before that.
func TestPackToNowOfWhoWasPackedToTheLastTransaction(t *testing.T) {
	t.Parallel()
	mixed(t, func(t *testing.T, w *world) {
		m := w.start()
		w.tree(m)
		last := w.wait(m)
		w.packAside(0, raidstorage.PackOptions{Through: last})
		epoch := w.record().Epoch
		err := m.Pack(t.Context(), raidstorage.PackOptions{Through: raidstorage.MaxTID, GC: true})
		wantErr[*raidstorage.UnavailableError](t, "Pack", err)
		if r := w.record(); r.Epoch != epoch || r.Lock != nil {
			t.Errorf("the record is %+v", r)
		}
		w.wait(m)
		mustPack(t, m, raidstorage.MaxTID)
		w.wantPacked(w.record().PackHorizon)
		w.wantEqual("b1", "b2")
	})
}

// Of two native backends the one that was not packed tells what is garbage.
func TestPackOfWhomOneWasPackedLater(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		tids := w.tree(m)
		w.mustCommit(m, 0, storagetest.Pickled("root again", 1))
		w.packAside(0, raidstorage.PackOptions{Through: w.wait(m)})
		w.wait(m)
		estimate, err := m.EstimatePack(t.Context(), raidstorage.PackOptions{Through: tids[0], GC: true})
		if err != nil || estimate.Objects != 2 {
			t.Errorf("a dry run tells %+v, %v", estimate, err)
		}
		mustPack(t, m, tids[0])
		for _, name := range []string{"b1", "b2"} {
			if _, err := w.backend(name).LoadBefore(t.Context(), 11, raidstorage.MaxTID); raidstorage.Classify(err) != raidstorage.ClassAnswer {
				t.Errorf("%s still has garbage: %v", name, err)
			}
		}
	})
}

// Two that a pack has left out hold different revisions of what it has dropped: that is no
// damage, whoever of the others can be asked.
func TestVerifyOfGarbageThatAPackHasLeftBehind(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		before func(w *world, m *raidstorage.Mirror)
		known  bool
	}{
		"all answer": {func(*world, *raidstorage.Mirror) {}, true},
		"who was packed is not in sync": {func(w *world, m *raidstorage.Mirror) {
			if err := m.Disable(w.t.Context(), "b1", "test"); err != nil {
				w.t.Fatal(err)
			}
		}, false},
		"who was packed cannot be read": {func(w *world, m *raidstorage.Mirror) {
			w.backend("b1").Inject(storagetest.Fault{Call: storagetest.CallLoad, Kind: storagetest.Fail, Times: 1000})
		}, false},
		"all were left out by the last one": {func(w *world, m *raidstorage.Mirror) {
			w.wait(m)
			w.backend("b1").Inject(storagetest.Fault{Call: storagetest.CallSwitch, Times: 1})
			for _, name := range []string{"b2", "b3", "b4"} {
				w.backend(name).Inject(storagetest.Fault{Call: storagetest.CallPack, Times: 1})
			}
			if err := m.Pack(w.t.Context(), raidstorage.PackOptions{Through: raidstorage.MaxTID, GC: true}); err == nil {
				w.t.Fatal("the pack has not failed")
			}
		}, false},
	} {
		t.Run(what, func(t *testing.T) {
			scenario(t, 4, func(t *testing.T, w *world) {
				m := w.leftBehind()
				c.before(w, m)
				report := verify(t, m, raidstorage.VerifyOptions{})
				if len(report.Wrong) > 0 || len(report.Degraded) > 0 || c.known != (report.Findings == 0) {
					t.Errorf("the report is %+v", report)
				}
				if r := w.record(); !slices.Contains(r.InSync, "b2") || !slices.Contains(r.InSync, "b3") {
					t.Errorf("in sync are %v", r.InSync)
				}
			})
		})
	}
}

// leftBehind makes a mirror of four of which b1 has dropped an object, and b3 holds another
// revision of it than b2 and b4.
func (w *world) leftBehind() *raidstorage.Mirror {
	w.t.Helper()
	w.makeSelfish("b2", "b3", "b4")
	w.cfg.WriteQuorum, w.cfg.StartQuorum = 1, 1
	w.cfg.AutoRecover = raidstorage.AutoRecoverOff
	m := w.start()
	w.mustCommit(m, 0, storagetest.Pickled("root"))
	w.mustCommit(m, 66, storagetest.Pickled("garbage"))
	w.wait(m)
	disable := func(name string) {
		if err := m.Disable(w.t.Context(), name, "test"); err != nil {
			w.t.Fatal(err)
		}
	}
	disable("b3")
	w.mustCommit(m, 66, storagetest.Pickled("garbage again"))
	disable("b2")
	disable("b4")
	mustPack(w.t, m, raidstorage.MaxTID)
	for _, name := range []string{"b2", "b3", "b4"} {
		if err := m.Recover(w.t.Context(), name); err != nil {
			w.t.Fatal(err)
		}
	}
	if r := w.record(); !slices.Equal(slices.Sorted(slices.Values(r.Unpacked)), []string{"b2", "b3", "b4"}) {
		w.t.Fatalf("unpacked are %v", r.Unpacked)
	}
	return m
}

// The next pack makes them alike.
func TestThePackAfterOneThatHasLeftSomeBehind(t *testing.T) {
	scenario(t, 4, func(t *testing.T, w *world) {
		m := w.leftBehind()
		w.wait(m)
		mustPack(t, m, raidstorage.MaxTID)
		w.wantPacked(w.record().PackHorizon)
		w.wantEqual("b1", "b2", "b3", "b4")
	})
}

// What the others still hold is damage, left out or not.
func TestVerifyFindsWhatOneThatWasLeftOutHasLost(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		m := w.start()
		tids := w.tree(m)
		w.backend("b2").Inject(storagetest.Fault{Call: storagetest.CallSwitch, Times: 1})
		if err := m.Pack(t.Context(), raidstorage.PackOptions{Through: tids[2]}); err == nil {
			t.Fatal("the pack of b2 did not fail")
		}
		m.Close()
		w.forge(1, 5, func(txn *storagetest.LogTransaction) { txn.Records = nil })
		m = w.start()
		report := verify(t, m, raidstorage.VerifyOptions{})
		missing := slices.ContainsFunc(report.Listed, func(f raidstorage.Finding) bool { return f.Kind == raidstorage.FindingMissing && f.Wrong })
		if !slices.Equal(report.Degraded, []string{"b2"}) || !missing {
			t.Errorf("the report is %+v", report)
		}
	})
}

// Who found the garbage alone knows what links it again. If it fails the garbage is found
// anew: one that was packed before has lost some, and would let the others drop what is in
// use.
func TestWhoFoundTheGarbageFailsToPrepare(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.cfg.WriteQuorum = 1
		m := w.start()
		through := w.tree(m)[2] // 10 and 11 are garbage
		last := w.wait(m)
		w.packAside(0, raidstorage.PackOptions{Through: last, GC: true})
		w.wait(m)
		w.backend("b2").Inject(storagetest.Fault{Call: storagetest.CallStagePack, Times: 1})
		w.observe("b3", storagetest.CallStagePack, func() {
			w.mustCommit(m, 0, storagetest.Pickled("root", 1, 10))
		})
		if err := m.Pack(t.Context(), raidstorage.PackOptions{Through: through, GC: true}); err == nil {
			t.Error("the pack of b2 did not fail")
		}
		if r := w.record(); r.PackHorizon != through || !slices.Equal(r.Unpacked, []string{"b1", "b2"}) {
			t.Errorf("the record is %+v", r)
		}
		for _, name := range []string{"b2", "b3"} {
			if _, err := w.backend(name).LoadBefore(t.Context(), 10, raidstorage.MaxTID); err != nil {
				t.Errorf("%s has dropped what was linked again: %v", name, err)
			}
		}
	})
}

// Files that were packed later by somebody else make up for a pack that has failed: they are
// compared, though there is nothing to drop.
func TestWhoWasPackedLaterIsComparedAfterAFailedPack(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		through := w.tree(m)[1]
		w.backend("b2").Inject(storagetest.Fault{Call: storagetest.CallSwitch, Times: 1})
		if err := m.Pack(t.Context(), raidstorage.PackOptions{Through: through, GC: true}); err == nil {
			t.Fatal("the pack of b2 did not fail")
		}
		last := w.wait(m)
		for i := range 2 {
			w.packAside(i, raidstorage.PackOptions{Through: last, GC: true})
		}
		w.wait(m)
		mustPack(t, m, through)
		w.wantPacked(through)
	})
}
