package raidstorage_test

import (
	"sync/atomic"
	"testing"

	"github.com/zeoraid/raidstorage/storagetest"
)

// A backend that drops out while its blob is to be repaired, and is recovered at once,
// before the repair has failed, keeps its mark: that recovery did not look at the whole of it.
func TestARecoveryUnderWayDoesNotTakeTheMarkAway(t *testing.T) {
	t.Parallel()
	d := newDisks(t, 3)
	d.cfg.WriteQuorum = 1
	d.fill()
	d.rewriteBlob(1, "what the blob hXlds")
	reached, leave, recovered := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	var begun atomic.Bool
	d.seen["b2"].Inject(storagetest.Fault{Call: storagetest.CallStageBlob, Kind: storagetest.Fail, Hook: func() {
		d.disable("b2")
		if _, err := commit(d.m, 30, storagetest.Pickled("without it")); err != nil {
			t.Error(err)
		}
		// The recovery reads what it is to copy; there it waits until the mark is written.
		d.onIterate("b1", 0, 0, func() {
			if begun.CompareAndSwap(false, true) {
				close(reached)
				<-leave
			}
		})
		go func() { recovered <- d.m.Recover(t.Context(), "b2") }()
		<-reached
	}})
	report := d.repair()
	close(leave)
	err := <-recovered
	if err == nil || report.Repaired != 0 || report.Findings != 1 {
		t.Errorf("the recovery ended with %v, the report is %+v", err, report)
	}
	d.wantDamaged("b2")
	d.wantInSync("b1", "b3")
}
