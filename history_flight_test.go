package raidstorage_test

import (
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// R1: a history is not shorter because one of the backends shows what is in flight.
func TestAHistoryIsWholeWhileOthersAreInFlight(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.cfg.ReadPolicy = raidstorage.PrimaryFirst
		m := w.start()
		first := w.mustCommit(m, 1, "a")
		second := w.mustCommit(m, 1, "b")
		w.backend("b2").Inject(once(hang(storagetest.CallAwait)))
		t1 := finishing(voteFor(t, m, 1, second, "c"))
		var later []*flying
		for range 3 {
			last := w.log("b1")
			later = append(later, finishing(voteFor(t, m, 1, last[len(last)-1].TID, "later")))
		}
		for limit, want := range map[int][]raidstorage.TID{1: {second}, 2: {second, first}, 3: {second, first}} {
			infos, err := m.History(t.Context(), 1, limit)
			if err != nil || len(infos) != len(want) {
				t.Errorf("limit %d: %v, %v; want %v", limit, infos, err, want)
				continue
			}
			for i, tid := range want {
				if infos[i].TID != tid {
					t.Errorf("limit %d: entry %d is %v, want %v", limit, i, infos[i].TID, tid)
				}
			}
		}
		w.backend("b2").Release()
		<-t1.done
		for _, f := range later {
			if <-f.done; f.err != nil {
				t.Error(f.err)
			}
		}
	})
}
