package raidstorage_test

import (
	"fmt"
	"testing"

	"github.com/zeoraid/raidstorage/storagetest"
)

// K1, K2: what is garbage is decided by a backend that has all that was committed. One
// that is demoted while it is asked does not, and what links garbage again may come
// meanwhile.
func TestK2WhoIsDemotedMeanwhileDoesNotDecideWhatIsGarbage(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		call    storagetest.Call
		oneStep bool
	}{{storagetest.CallStagePack, false}, {storagetest.CallRelinked, false}, {storagetest.CallFindGarbage, false}, {storagetest.CallFindGarbage, true}} {
		t.Run(fmt.Sprint(test.call, " in one step: ", test.oneStep), func(t *testing.T) {
			scenario(t, 3, func(t *testing.T, w *world) {
				if test.oneStep {
					w.packsInOneStep()
				}
				m := w.start()
				through := w.tree(m)[2]
				done := false
				w.observe("b1", test.call, func() {
					if done {
						return
					}
					done = true
					if err := m.Demote(t.Context(), "b1"); err != nil {
						t.Error(err)
					}
					w.backend("b1").Inject(hang(storagetest.CallVote)) // it follows slowly
					w.mustCommit(m, 0, storagetest.Pickled("root", 1, 10))
				})
				mustPack(t, m, through)
				if !done {
					t.Fatal("it was not demoted")
				}
				for _, s := range w.mem.stores[1:] {
					wantData(t, s, 10, storagetest.Pickled("garbage", 11))
					wantData(t, s, 11, storagetest.Pickled("below garbage"))
				}
				w.wantInSync("b2", "b3")
				w.wantEqual("b2", "b3")
				w.backend("b1").Clear()
				w.backend("b1").Release()
			})
		})
	}
}
