package raidstorage_test

import (
	"os"
	"testing"
)

// One that comes in sync between the comparison and the repair was not compared, and may
// have copied the damage: it must not make that the one that most hold.
func TestRepairDoesNotCountWhoWasNotCompared(t *testing.T) {
	t.Parallel()
	d := newDisks(t, 3)
	d.cfg.WriteQuorum = 1
	d.fill()
	d.disable("b3")
	d.hurtBy(func() {
		d.rot(0, "another object", 3, "#")
		d.rot(2, "another object", 3, "#")
	})
	joined := false
	d.onIterate("b2", d.tids[3], 1, func() {
		joined = true
		if err := d.m.Recover(t.Context(), "b3"); err != nil {
			t.Error(err)
		}
	})
	if report := d.repair(); report.Repaired != 0 || report.Findings == 0 || len(report.Degraded) > 0 {
		t.Errorf("the report is %+v", report)
	}
	if !joined {
		t.Error("b3 did not come back")
	}
	d.wantUnchanged()
	d.wantInSync("b1", "b2", "b3")
}

// Two whose blobs are one file, as a copy made of links leaves them, are one witness.
func TestRepairCountsALinkedBlobOnce(t *testing.T) {
	t.Parallel()
	d := newDisks(t, 3)
	d.fill()
	d.hurtBy(func() {
		d.rewriteBlob(0, "what the blob hXlds")
		path := d.blob(1)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := os.Link(d.blob(0), path); err != nil {
			t.Fatal(err)
		}
	})
	if report := d.repair(); report.Repaired != 0 || report.Findings == 0 {
		t.Errorf("the report is %+v", report)
	}
	d.wantUnchanged()
}
