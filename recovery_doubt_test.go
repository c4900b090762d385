package raidstorage_test

import (
	"context"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
)

// TestRecoveryFindsOutThatItsSourceFails: with one backend in sync, which does not answer,
// and a quorum of two, nobody else calls it: commits are refused before, and nothing is
// read. A recovery must not fail for ever.
func TestRecoveryFindsOutThatItsSourceFails(t *testing.T) {
	t.Parallel()
	scenarioIn(t, 2, func(t *testing.T, w *world) {
		w.cfg.WriteQuorum, w.cfg.StartQuorum = 2, 1
		w.cfg.AutoRecover = raidstorage.AutoRecoverOn
		m := w.start()
		w.mustCommit(m, 1, "one")
		w.setDown(true, "b2")
		w.backend("b2").CutOff()
		w.waitDropped(m, "b2")
		w.backend("b1").CutOff()
		w.setDown(false, "b2")
		<-time.After(10 * time.Minute) // simulated
		w.wantInSync("b1", "b2")
		if err := m.Recover(context.Background(), "b2"); err != nil {
			t.Errorf("recover: %v", err)
		}
		w.mustCommit(m, 1, "two")
	})
}

// waitDropped reads until a backend that fails is dropped.
func (w *world) waitDropped(m *raidstorage.Mirror, name string) {
	w.t.Helper()
	for range 2 {
		wantData(w.t, m, 1, "one")
	}
	w.waitState(m, name, raidstorage.StateFailed)
}
