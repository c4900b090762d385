package raidstorage_test

import (
	"context"
	"errors"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// unevenSources starts a mirror of three, where b1 was packed and b2 was not, and b3 is
// disabled and empty. Of four chunks that a recovery reads in turn, objects 5 and 6 were
// made in the first and in the second, and deleted in the last and the one before it,
// all before the pack time.
func (w *world) unevenSources() *raidstorage.Mirror {
	w.t.Helper()
	m := w.start()
	last := raidstorage.OID(100)
	fill := func() {
		for range 256 {
			last++
			w.mustCommit(m, last, storagetest.Pickled("filler"))
		}
	}
	remove := func(oid raidstorage.OID, serial raidstorage.TID) raidstorage.TID {
		return storagetest.Transact(w.t, m, raidstorage.Meta{}, func(txn raidstorage.Txn) error { return txn.Delete(w.t.Context(), oid, serial) })
	}
	w.mustCommit(m, 0, storagetest.Pickled("root"))
	five := w.mustCommit(m, 5, storagetest.Pickled("five"))
	fill()
	six := w.mustCommit(m, 6, storagetest.Pickled("six"))
	fill()
	remove(6, six)
	fill()
	through := remove(5, five)
	fill()
	w.backend("b2").Inject(storagetest.Fault{Call: storagetest.CallSwitch, Times: 1})
	wantErr[*raidstorage.BackendError](w.t, "Pack", m.Pack(w.t.Context(), raidstorage.PackOptions{Through: through}))
	if err := m.Disable(w.t.Context(), "b3", "new disk"); err != nil {
		w.t.Fatal(err)
	}
	w.mem.stores[2] = memstorage.New("b3")
	return m
}

// wantNotFound checks that a backend does not have the object.
func (w *world) wantNotFound(i int, oid raidstorage.OID) {
	w.t.Helper()
	if rev, err := w.mem.stores[i].LoadBefore(w.t.Context(), oid, raidstorage.MaxTID); err == nil {
		w.t.Errorf("%s has object %v again: %v %q", name(i), oid, rev.Serial, rev.Data)
	}
}

// A recovery does not take one part of the log from a packed backend and another part
// from one that is not: what it would miss is the deletion of an object that it has.
func TestARecoveryDoesNotMixSourcesThatWerePackedApart(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		m := w.unevenSources()
		if err := m.Recover(t.Context(), "b3"); err != nil {
			t.Fatal(err)
		}
		w.wantInSync("b1", "b2", "b3")
		w.wantNotFound(2, 5)
		w.wantNotFound(2, 6)
		w.wantEqual("b1", "b3")
	})
}

// A source fails on the way, and the one that takes over was packed apart from it: the
// target is compared anew.
func TestARecoveryThatLosesItsSourceComparesAnewWithOneThatWasPackedApart(t *testing.T) {
	t.Parallel()
	t.Run("the packed one fails", func(t *testing.T) {
		scenario(t, 3, func(t *testing.T, w *world) {
			w.cfg.WriteQuorum = 1
			w.losesSource(w.unevenSources(), func() { w.failNext("b1") })
		})
	})
	t.Run("the other one fails, as the packed one is back", func(t *testing.T) {
		scenario(t, 3, func(t *testing.T, w *world) {
			w.cfg.WriteQuorum = 1
			m := w.unevenSources()
			if err := m.Disable(t.Context(), "b1", "for a while"); err != nil {
				t.Fatal(err)
			}
			w.losesSource(m, func() {
				if err := m.Recover(context.Background(), "b1"); err != nil {
					t.Error(err)
				}
				w.failNext("b2")
			})
		})
	})
}

func (w *world) failNext(name string) {
	w.backend(name).Inject(storagetest.Fault{Call: storagetest.CallNext})
}

// losesSource recovers b3 and runs hook on the way.
func (w *world) losesSource(m *raidstorage.Mirror, hook func()) {
	w.t.Helper()
	w.onOpen = func(name string, f *storagetest.FaultyStorage) {
		if name == "b3" {
			f.Inject(storagetest.Fault{Call: storagetest.CallFinish, Kind: storagetest.Observe, After: 400, Times: 1, Hook: hook})
		}
	}
	if err := m.Recover(w.t.Context(), "b3"); err != nil {
		w.t.Fatal(err)
	}
	w.backend("b1").Clear()
	w.backend("b2").Clear()
	w.wantNotFound(2, 5)
	w.wantNotFound(2, 6)
	for _, oid := range []raidstorage.OID{0, 101, 500, 1000, 1124} {
		want, err := w.mem.stores[1].LoadBefore(w.t.Context(), oid, raidstorage.MaxTID)
		got, errGot := w.mem.stores[2].LoadBefore(w.t.Context(), oid, raidstorage.MaxTID)
		if errors.Join(err, errGot) != nil || got.Serial != want.Serial {
			w.t.Errorf("object %v is %v on b3, %v, and %v on b2, %v", oid, got.Serial, errGot, want.Serial, err)
		}
	}
}
