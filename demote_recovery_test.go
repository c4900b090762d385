package raidstorage_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// A backend that is demoted when its recovery is about to begin follows: the recovery must
// not bring it into the record as one of those in sync, which it would count for.
func TestADemotionBeatsARecoveryThatBegins(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.cfg.AutoRecover = raidstorage.AutoRecoverOn
		w.cfg.RetryMin, w.cfg.RetryMax = time.Second, 10*time.Second
		m := w.start()
		w.fill(m, 5)
		w.lose(m, "b3")
		var once sync.Once
		w.setOnOpen(func(name string, _ *storagetest.FaultyStorage) {
			once.Do(func() {
				if err := m.Demote(t.Context(), name); err != nil {
					t.Errorf("Demote: %v", err)
				}
			})
		})
		w.setDown(false, "b3")
		w.waitState(m, "b3", raidstorage.StateFollowing)
		w.wantInSync("b1", "b2")
		w.wantRole(m, "b3", full, raidstorage.RoleAsync)
		w.mustCommit(m, 1, "it follows")
		synctest.Wait()
		w.wantInSync("b1", "b2")
		w.wantEqual("b1", "b2", "b3")
	})
}
