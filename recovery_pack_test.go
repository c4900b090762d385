package raidstorage_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// packAside packs a backend's disk behind the mirror's back, as zeopack does.
func (w *world) packAside(i int, opts raidstorage.PackOptions) {
	w.t.Helper()
	if err := w.mem.stores[i].Another("operator").Pack(w.t.Context(), opts); err != nil {
		w.t.Fatal(err)
	}
}

// apart starts a mirror of two, with b2 disabled after the tree was committed.
func (w *world) apart() (m *raidstorage.Mirror, tids []raidstorage.TID) {
	w.t.Helper()
	m = w.start()
	tids = w.tree(m)
	if err := m.Disable(w.t.Context(), "b2", "test"); err != nil {
		w.t.Fatal(err)
	}
	return m, tids
}

// wantSameObjects checks that both disks serve the same objects.
func (w *world) wantSameObjects(oids ...raidstorage.OID) {
	w.t.Helper()
	for _, oid := range oids {
		a, errA := w.mem.stores[0].LoadBefore(w.t.Context(), oid, raidstorage.MaxTID)
		b, errB := w.mem.stores[1].LoadBefore(w.t.Context(), oid, raidstorage.MaxTID)
		if (errA == nil) != (errB == nil) || a.Serial != b.Serial || string(a.Data) != string(b.Data) {
			w.t.Errorf("object %v is %v %q, %v on b1, %v %q, %v on b2", oid, a.Serial, a.Data, errA, b.Serial, b.Data, errB)
		}
	}
}

// The source was packed later: the target is packed as it was, wherever its end is.
func TestV1SourcePackedLater(t *testing.T) {
	t.Parallel()
	for name, through := range map[string]func(tids []raidstorage.TID, later raidstorage.TID) raidstorage.TID{
		"before the target's end": func(tids []raidstorage.TID, _ raidstorage.TID) raidstorage.TID { return tids[1] },
		"at the target's end":     func(tids []raidstorage.TID, _ raidstorage.TID) raidstorage.TID { return tids[2] },
		"after the target's end":  func(_ []raidstorage.TID, later raidstorage.TID) raidstorage.TID { return later },
	} {
		for _, own := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, own collector %v", name, own), func(t *testing.T) {
				scenario(t, 2, func(t *testing.T, w *world) {
					if own {
						w.makeSelfish("b2")
					}
					m, tids := w.apart()
					later := w.mustCommit(m, 1, storagetest.Pickled("child, missed"))
					<-time.After(time.Minute) // simulated
					w.mustCommit(m, 2, storagetest.Pickled("no more garbage"))
					w.mustCommit(m, 0, storagetest.Pickled("root", 1, 2))
					mustPack(t, m, through(tids, later))
					if err := m.Recover(t.Context(), "b2"); err != nil {
						t.Fatal(err)
					}
					w.wantInSync("b1", "b2")
					if own { // it keeps its garbage until the next pack, and nobody minds
						if r := w.record(); !slices.Equal(r.Unpacked, []string{"b2"}) {
							t.Errorf("unpacked are %v", r.Unpacked)
						}
						w.unevenIsNoFault(m, tids[0])
						mustPack(t, m, through(tids, later))
					}
					w.wantSameObjects(0, 1, 2, 10, 11)
					w.wantPacked(through(tids, later))
					w.wantEqual("b1", "b2")
					w.mustCommit(m, 1, storagetest.Pickled("goes on"))
				})
			})
		}
	}
}

// The target was packed later, and lost nothing but old revisions: it is taken back,
// and what it cannot undo is not undone.
func TestV1TargetPackedLater(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m, tids := w.apart()
		w.packAside(1, raidstorage.PackOptions{Through: tids[2]})
		w.mustCommit(m, 1, storagetest.Pickled("missed"))
		if err := m.Recover(t.Context(), "b2"); err != nil {
			t.Fatal(err)
		}
		w.wantInSync("b1", "b2")
		w.wantSameObjects(0, 1, 10, 11)
		if r := w.record(); r.PackHorizon != tids[2] {
			t.Errorf("the pack horizon is %v, want %v", r.PackHorizon, tids[2])
		}
		for range 4 {
			if _, err := m.LoadBefore(t.Context(), 1, tids[1]); err != nil {
				wantErr[*raidstorage.NotFoundError](t, "LoadBefore", err)
			}
		}
		synctest.Wait()
		w.wantInSync("b1", "b2")
	})
}

// The target was packed later and lost objects: it is refused until the others are
// packed too, or it is empty.
func TestV1TargetPackedLaterWithCollection(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m, tids := w.apart()
		w.packAside(1, raidstorage.PackOptions{Through: tids[2], GC: true})
		w.mustCommit(m, 1, storagetest.Pickled("missed"))
		d := wantErr[*raidstorage.DifferenceError](t, "Recover", m.Recover(t.Context(), "b2"))
		if d.OID != 10 || d.Serial != 0 || d.Others == 0 || d.Hint == "" {
			t.Errorf("it says %v", d)
		}
		w.wantInSync("b1")
		mustPack(t, m, tids[2])
		if err := m.Recover(t.Context(), "b2"); err != nil {
			t.Fatal(err)
		}
		w.wantInSync("b1", "b2")
		w.wantSameObjects(0, 1, 10, 11)
		w.wantEqual("b1", "b2")
	})
}

// Both were packed to the same time, but objects were collected on one side only.
func TestV1CollectedOnOneSideOnly(t *testing.T) {
	t.Parallel()
	for collected, refused := range map[int]bool{0: false, 1: true} {
		t.Run(fmt.Sprintf("b%d collected", collected+1), func(t *testing.T) {
			scenario(t, 2, func(t *testing.T, w *world) {
				m, tids := w.apart()
				for i := range 2 {
					w.packAside(i, raidstorage.PackOptions{Through: tids[2], GC: i == collected})
				}
				w.mustCommit(m, 1, storagetest.Pickled("missed"))
				err := m.Recover(t.Context(), "b2")
				if refused {
					wantErr[*raidstorage.DifferenceError](t, "Recover", err)
					w.wantInSync("b1")
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				w.wantInSync("b1", "b2")
				w.wantSameObjects(0, 1, 10, 11)
			})
		})
	}
}

// A backend that missed a pack and its garbage is compared, though it lacks nothing.
func TestV1BackendThatMissedAPackDropsItsGarbage(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		m := w.start()
		tids := w.tree(m)
		w.backend("b3").Inject(storagetest.Fault{Call: storagetest.CallStagePack, Kind: storagetest.Disconnect})
		if err := m.Pack(t.Context(), raidstorage.PackOptions{Through: tids[2], GC: true}); err == nil {
			t.Error("the pack of a backend that died succeeded")
		}
		_, _ = m.LoadBefore(t.Context(), 1, raidstorage.MaxTID)
		w.mustCommit(m, 1, storagetest.Pickled("goes on"))
		w.wantInSync("b1", "b2")
		if err := m.Recover(t.Context(), "b3"); err != nil {
			t.Fatal(err)
		}
		w.wantPacked(tids[2])
		w.wantEqual("b1", "b2", "b3")
	})
}

// A transaction of the target's own is found, also where the others' pack has gone over
// its time.
func TestV1DivergenceBelowThePackHorizonIsFound(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m, _ := w.apart()
		intruder := w.mustCommit(w.mem.stores[1].Another("intruder"), 0, storagetest.Pickled("intruder", 1))
		<-time.After(time.Minute) // simulated
		later := w.mustCommit(m, 1, storagetest.Pickled("later"))
		mustPack(t, m, later)
		d := wantErr[*raidstorage.DivergedError](t, "Recover", m.Recover(t.Context(), "b2"))
		if d.First != intruder || d.Common == 0 {
			t.Errorf("it says %v, want the first difference at %v", d, intruder)
		}
	})
}

// Another database is not taken for one that a pack has shortened.
func TestV1AnotherDatabaseBelowThePackHorizonIsRefused(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.mem.stores[1] = memstorage.New("b2")
		other := w.mem.stores[1].Another("other")
		w.mustCommit(other, 0, storagetest.Pickled("other root", 50))
		w.mustCommit(other, 50, storagetest.Pickled("other child"))
		foreign := w.mem.stores[1]
		w.mem.stores[1] = memstorage.New("b2")
		<-time.After(time.Minute) // simulated
		m, tids := w.apart()
		w.mem.stores[1] = foreign
		mustPack(t, m, tids[2])
		d := wantErr[*raidstorage.DivergedError](t, "Recover", m.RecoverWith(t.Context(), "b2", raidstorage.RecoverOptions{Rollback: true}))
		if d.Common != 0 {
			t.Errorf("it says %v", d)
		}
		wantData(t, foreign, 50, storagetest.Pickled("other child"))
	})
}

// S3: at the first start backends that were packed apart are not taken for equal.
func TestFirstStartWithBackendsPackedApart(t *testing.T) {
	t.Parallel()
	for _, opts := range []raidstorage.PackOptions{{}, {GC: true}} {
		t.Run(fmt.Sprintf("%+v", opts), func(t *testing.T) {
			scenario(t, 2, func(t *testing.T, w *world) {
				m, tids := w.apart()
				if err := m.Recover(t.Context(), "b2"); err != nil {
					t.Fatal(err)
				}
				m.Close()
				opts.Through = tids[2]
				w.packAside(0, opts)
				w.reg = &faultyRegister{}
				w.cfg.Membership = w.reg
				m = w.start()
				w.wantInSync("b1")
				if err := m.Recover(t.Context(), "b2"); err != nil {
					t.Fatal(err)
				}
				w.wantInSync("b1", "b2")
				w.wantSameObjects(0, 1, 10, 11)
				w.wantEqual("b1", "b2")
			})
		})
	}
}

// An object was deleted and came back while b2 was away, and the deletion was packed: b2
// gets no record of it, and must not show what the object was before.
func TestV1TargetMissedADeletionThatWasPackedAndUndone(t *testing.T) {
	t.Parallel()
	for _, own := range []bool{false, true} {
		t.Run(fmt.Sprintf("own collector %v", own), func(t *testing.T) {
			scenario(t, 2, func(t *testing.T, w *world) {
				if own {
					w.makeSelfish("b2")
				}
				m, tids := w.apart()
				deleted := storagetest.Transact(t, m, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
					return txn.Delete(t.Context(), 1, tids[2])
				})
				back := storagetest.Transact(t, m, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
					return raidstorage.Undo(t.Context(), txn, deleted)
				})
				<-time.After(time.Minute) // simulated
				w.mustCommit(m, 2, storagetest.Pickled("later"))
				mustPack(t, m, deleted)
				if err := m.Recover(t.Context(), "b2"); own {
					d := wantErr[*raidstorage.DifferenceError](t, "Recover", err)
					if d != nil && (d.OID != 1 || d.Serial != tids[2] || d.Others != 0 || d.Hint == "") {
						t.Errorf("the difference is %+v", d)
					}
					w.wantInSync("b1")
					w.mem.stores[1] = memstorage.New("b2")
					if err := m.RecoverWith(t.Context(), "b2", raidstorage.RecoverOptions{Full: true}); err != nil {
						t.Fatal(err)
					}
				} else if err != nil {
					t.Fatal(err)
				}
				w.wantInSync("b1", "b2")
				w.wantSameObjects(0, 1, 2)
				for i, s := range w.mem.stores[:2] {
					_, err := s.LoadBefore(t.Context(), 1, back)
					wantErr[*raidstorage.NotFoundError](t, "LoadBefore while it was deleted, of "+name(i), err)
				}
			})
		})
	}
}
