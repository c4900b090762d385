//go:build interop

package filestorage_test

import (
	"reflect"
	"slices"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/pickleref"
)

// checkPacked checks a packed log against the one before by the words of the
// contract, without knowing how Pack works.
func checkPacked(t *testing.T, name string, before, after []logTxn, opts raidstorage.PackOptions) {
	t.Helper()
	if reflect.DeepEqual(stripPointers(before), stripPointers(after)) {
		return // nothing to free, or redundant
	}
	early := func(log []logTxn) int {
		return len(log) - len(slices.Collect(func(yield func(logTxn) bool) {
			for _, txn := range log {
				if txn.Meta.TID > opts.Through && !yield(txn) {
					return
				}
			}
		}))
	}
	nb, na := early(before), early(after)
	if !reflect.DeepEqual(stripPointers(before[nb:]), stripPointers(after[na:])) {
		t.Errorf("%s: the transactions after the pack time changed", name)
	}
	must, may := packModel(before[:nb], before[nb:], opts.GC)
	for _, txn := range after[:na] {
		if txn.Meta.Status != raidstorage.StatusPacked || len(txn.Records) == 0 {
			t.Errorf("%s: transaction %v has status %q and %d records", name, txn.Meta.TID, txn.Meta.Status, len(txn.Records))
		}
		for _, rec := range txn.Records {
			at := revisionID{rec.OID, rec.TID}
			data, needed := must[at]
			if !needed {
				data, needed = may[at]
			}
			if !needed || data != string(rec.Data) {
				t.Errorf("%s: the log has %v at %v, which is not needed or not so", name, rec.OID, rec.TID)
			}
			delete(must, at)
		}
	}
	for at := range must {
		t.Errorf("%s: object %v at %v is gone", name, at.oid, at.tid)
	}
}

type revisionID struct {
	oid raidstorage.OID
	tid raidstorage.TID
}

// packModel returns the revisions that must stay, and those that may, for the sake
// of later records that repeat them.
func packModel(early, later []logTxn, gc bool) (must, may map[revisionID]string) {
	current := map[raidstorage.OID]raidstorage.Record{}
	all := map[revisionID]raidstorage.Record{}
	for _, txn := range early {
		for _, rec := range txn.Records {
			current[rec.OID] = rec
			all[revisionID{rec.OID, rec.TID}] = rec
		}
	}
	must, may = map[revisionID]string{}, map[revisionID]string{}
	reached := map[raidstorage.OID]bool{}
	todo := []raidstorage.OID{0}
	if !gc {
		for oid := range current {
			todo = append(todo, oid)
		}
	}
	for _, txn := range later {
		for _, rec := range txn.Records {
			refs, _ := pickleref.References(nil, rec.Data)
			todo = append(todo, refs...)
			if gc {
				// Whatever revision it points to; Python's undo records point to any.
				for at, old := range all {
					if at.oid == rec.OID {
						may[at] = string(old.Data)
					}
				}
			}
		}
	}
	for len(todo) > 0 {
		oid := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		rec := current[oid]
		if reached[oid] {
			continue
		}
		reached[oid] = true
		if rec.Data == nil {
			if rec.TID != 0 {
				may[revisionID{oid, rec.TID}] = "" // an undone creation
			}
			continue
		}
		must[revisionID{oid, rec.TID}] = string(rec.Data)
		if refs, err := pickleref.References(nil, rec.Data); gc && err == nil {
			todo = append(todo, refs...)
		}
	}
	return must, may
}

// stripPointers returns the log without what tells where data was repeated.
func stripPointers(log []logTxn) []logTxn {
	var out []logTxn
	for _, txn := range log {
		txn.Records = slices.Clone(txn.Records)
		for i := range txn.Records {
			txn.Records[i].DataTID = 0
		}
		out = append(out, txn)
	}
	return out
}
