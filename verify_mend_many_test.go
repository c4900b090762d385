package raidstorage_test

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// Each decision reads the transaction again, with the commit slot held: one of which a large
// part is damaged must not take the square of its length.
func TestRepairOfALargeDamagedTransactionEnds(t *testing.T) {
	t.Parallel()
	const records = 1000
	d := newDisks(t, 2)
	d.fill()
	tid := storagetest.Transact(t, d.m, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
		for i := range raidstorage.OID(records) {
			if err := txn.Store(t.Context(), 100+i, 0, []byte(storagetest.Pickled(fmt.Sprintf("number %04d of the many", i)))); err != nil {
				return err
			}
		}
		return nil
	})
	d.hurtBy(func() {
		b, err := os.ReadFile(d.file(1))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(d.file(1), bytes.ReplaceAll(b, []byte("of the many"), []byte("of the mXny")), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	before := d.readsOf(tid)
	report := d.repair()
	reads := d.readsOf(tid) - before
	if report.Repaired != 0 || report.Findings != 4*records || // of the log, and of the current objects
		len(report.Degraded) > 0 {
		t.Errorf("%d findings, %d repaired, degraded %v", report.Findings, report.Repaired, report.Degraded)
	}
	if reads > 300 {
		t.Errorf("the transaction was read %d times", reads)
	}
	d.wantUnchanged()
}

// readsOf counts the reads of one transaction by the first backend.
func (d *disks) readsOf(tid raidstorage.TID) (n int) {
	for _, c := range d.seen["b1"].Calls() {
		if c.Call == storagetest.CallIterate && c.TID == tid {
			n++
		}
	}
	return n
}
