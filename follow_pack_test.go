package raidstorage_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// K1 for one that follows: whatever it was given when the others were packed, and
// whatever is linked again after the cut, it ends with the same objects.
func TestAFollowerIsPackedAtTheCut(t *testing.T) {
	t.Parallel()
	const (
		inTime  = "it has everything"
		behind  = "it is behind the pack time"
		away    = "it cannot be reached"
		dies    = "the process dies before it is packed"
		twice   = "two packs while it is away"
		changed = "garbage is linked again after the cut"
	)
	for _, own := range []bool{false, true} {
		for _, what := range []string{inTime, behind, away, dies, twice, changed} {
			t.Run(map[bool]string{false: "by the same set, ", true: "by its own decision, "}[own]+what, func(t *testing.T) {
				following(t, 2, func(t *testing.T, w *world, async string) {
					if own {
						w.makeSelfish(async)
					}
					m := w.start()
					w.mustCommit(m, 0, storagetest.Pickled("root", 1))
					w.mustCommit(m, 40, storagetest.Pickled("what all have in common")) // and no pack takes
					synctest.Wait()
					away := func(is bool) {
						w.setDown(is, async)
						if is {
							w.backend(async).CutOff()
							time.Sleep(20 * time.Second) // it is noticed
						}
					}
					if what == behind {
						w.backend(async).Inject(storagetest.Fault{Call: storagetest.CallVote, Kind: storagetest.Hang})
					}
					if what != inTime && what != changed && what != behind {
						away(true)
					}
					w.tree(m)
					w.mustCommit(m, 20, storagetest.Pickled("garbage, too"))
					through := w.mustCommit(m, 0, storagetest.Pickled("root", 1, 40))
					time.Sleep(time.Second)
					w.mustCommit(m, 30, storagetest.Pickled("later"))
					if what == changed { // after the cut, and before any is packed
						w.observe("b1", storagetest.CallPack, func() { w.mustCommit(m, 0, storagetest.Pickled("root", 1, 40, 10)) })
					}
					mustPack(t, m, through)
					if what == twice {
						w.mustCommit(m, 1, storagetest.Pickled("child again"))
						through = w.mustCommit(m, 0, storagetest.Pickled("root", 40))
						time.Sleep(time.Second)
						w.mustCommit(m, 31, storagetest.Pickled("later still"))
						mustPack(t, m, through)
					}
					w.mustCommit(m, 32, storagetest.Pickled("after the pack"))
					switch what {
					case dies:
						w.crash(m)
						w.setDown(false, async)
						m = w.start()
					case behind:
						w.backend(async).Clear()
						w.backend(async).Release()
					default:
						away(false)
					}
					time.Sleep(time.Minute)
					if n := status(t, m, async).LagTransactions; n != 0 {
						t.Fatalf("it is %d transactions behind: %s", n, status(t, m, async).Reason)
					}
					if own && what != inTime && what != changed { // it may hold more, never less, and visibly
						if r := w.record(); !slices.Equal(r.Unpacked, []string{async}) {
							t.Errorf("unpacked are %v", r.Unpacked)
						}
						mustPack(t, m, through)
						time.Sleep(time.Minute)
					}
					w.wantPacked(w.record().PackHorizon)
					w.wantObjectsAlike("b1", "b2", async)
				})
			})
		}
	}
}

// wantObjectsAlike checks that the disks hold the same current records.
func (w *world) wantObjectsAlike(names ...string) {
	w.t.Helper()
	var first map[raidstorage.OID]raidstorage.TID
	for i := range w.mem.stores {
		if !slices.Contains(names, name(i)) {
			continue
		}
		serials := make(map[raidstorage.OID]raidstorage.TID)
		for rec, err := range w.mem.stores[i].Another("objects").CurrentRecords(context.Background(), 0) {
			if err != nil {
				w.t.Fatal(err)
			}
			serials[rec.OID] = rec.TID
		}
		if first == nil {
			first = serials
			continue
		}
		for oid, serial := range serials {
			if first[oid] != serial {
				w.t.Errorf("%s has object %v of %v, %s has %v", name(i), oid, serial, names[0], first[oid])
			}
		}
		if len(first) != len(serials) {
			w.t.Errorf("%s has %d objects, %s has %d", name(i), len(serials), names[0], len(first))
		}
	}
}

// Nothing after the cut is written to it before it is packed: what is linked again later
// would be no garbage to its own collection.
func TestAFollowerIsHeldAtTheCut(t *testing.T) {
	following(t, 2, func(t *testing.T, w *world, async string) {
		w.makeSelfish(async)
		m := w.start()
		through := w.tree(m)[2]
		time.Sleep(time.Second)
		w.backend(async).Inject(storagetest.Fault{Call: storagetest.CallVote, Kind: storagetest.Hang, Times: 1},
			storagetest.Fault{Call: storagetest.CallPack, Kind: storagetest.Hang, Times: 1})
		w.mustCommit(m, 30, storagetest.Pickled("later"))
		mustPack(t, m, through)
		w.mustCommit(m, 0, storagetest.Pickled("root", 1, 10)) // dangles on all alike
		synctest.Wait()
		w.backend(async).Release() // the vote: it comes to the cut, and has more to do
		synctest.Wait()
		cut := w.log(async)
		if last := cut[len(cut)-1]; len(last.Records) != 1 || last.Records[0].OID != 30 {
			t.Errorf("before it was packed it had transaction %v", last.TID)
		}
		w.backend(async).Release()
		synctest.Wait()
		w.wantObjectsAlike("b1", "b2", async)
		w.wantPacked(w.record().PackHorizon)
	})
}

// A pack that fails is told, and made up for: by comparing, or by the next pack.
func TestAFollowerWhosePackFails(t *testing.T) {
	following(t, 2, func(t *testing.T, w *world, async string) {
		m := w.start()
		through := w.tree(m)[2]
		w.mustCommit(m, 30, storagetest.Pickled("later"))
		synctest.Wait()
		w.backend(async).Inject(storagetest.Fault{Call: storagetest.CallPack, Times: 1})
		mustPack(t, m, through)
		synctest.Wait()
		w.wantObjectsAlike("b1", "b2", async)
		w.wantPacked(through)
	})
}

// An object that the others have is not to be had by comparing: such a backend is
// refused, and what it lacks is told.
func TestAFollowerThatLacksAnObjectIsRefused(t *testing.T) {
	following(t, 2, func(t *testing.T, w *world, async string) {
		m := w.start()
		through := w.tree(m)[2]
		w.mustCommit(m, 30, storagetest.Pickled("later"))
		synctest.Wait()
		w.setDown(true, async)
		w.backend(async).CutOff()
		time.Sleep(20 * time.Second)
		w.packAside(2, raidstorage.PackOptions{Through: through, Decided: true, Garbage: []raidstorage.OID{1}})
		mustPack(t, m, through)
		m.Close()
		w.setDown(false, async)
		m = w.start()
		time.Sleep(time.Minute)
		b := status(t, m, async)
		if b.State != raidstorage.StateFailed {
			t.Errorf("it is %v: %s", b.State, b.Reason)
		}
		wantErr[*raidstorage.DifferenceError](t, "Promote", m.Promote(t.Context(), async))
		w.wantInSync("b1", "b2")
	})
}

// One that is promoted before it was packed is packed by that.
func TestAPromotionPacks(t *testing.T) {
	following(t, 2, func(t *testing.T, w *world, async string) {
		m := w.start()
		through := w.tree(m)[2]
		w.mustCommit(m, 30, storagetest.Pickled("later"))
		synctest.Wait()
		w.backend(async).Inject(storagetest.Fault{Call: storagetest.CallPack, Kind: storagetest.Hang, Times: 1})
		mustPack(t, m, through)
		synctest.Wait()
		if err := m.Promote(t.Context(), async); err != nil {
			t.Fatal(err)
		}
		w.wantInSync("b1", "b2", "b3")
		w.wantObjectsAlike("b1", "b2", async)
		w.wantPacked(through)
	})
}
