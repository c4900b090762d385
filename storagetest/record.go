package storagetest

import (
	"fmt"
	"slices"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
)

func recordRules() []rule {
	return slices.Concat(
		subject("current records", needs{has: RecordIterator},
			rule{name: "each object comes once, in oid order, without the deleted", run: currentRecords},
			rule{name: "an empty storage has none", run: func(e *env) {
				if got := e.currentRecords(0); len(got) != 0 {
					e.Errorf("CurrentRecords yields %v", got)
				}
			}},
			rule{name: "breaking off and committing meanwhile are fine", run: func(e *env) {
				for i := range 5 {
					e.commit(objs(raidstorage.OID(i), "x"))
				}
				for rec, err := range e.recordIterator().CurrentRecords(e.ctx, 0) {
					e.must("CurrentRecords", err)
					e.commit(objs(rec.OID, "changed"))
					if rec.OID == 2 {
						break
					}
				}
				e.wantCurrent(2, "changed")
				e.wantCurrent(3, "x")
			}},
		),
		subject("size", needs{has: Sizer},
			rule{name: "objects are counted once, bytes grow", run: func(e *env) {
				objects, empty := e.size()
				if objects != 0 {
					e.Errorf("an empty storage has %d objects", objects)
				}
				e.commit(map[raidstorage.OID]string{1: "a", 2: "b", 3: "c"})
				objects, small := e.size()
				if objects != 3 || small <= empty {
					e.Errorf("after storing 3 objects, Size = %d, %d; it was 0, %d", objects, small, empty)
				}
				e.commit(objs(1, string(make([]byte, 10000))))
				if objects, large := e.size(); objects != 3 || large < small+10000 {
					e.Errorf("after storing 10000 bytes, Size = %d, %d; it was 3, %d", objects, large, small)
				}
			}},
			rule{name: "an aborted transaction does not count", run: func(e *env) {
				txn, _ := e.voted(objs(1, "a"))
				e.abort(txn)
				if objects, _ := e.size(); objects != 0 {
					e.Errorf("the storage has %d objects, want 0", objects)
				}
			}},
		))
}

func (e *env) size() (objects, bytes int64) {
	e.Helper()
	s, err := raidstorage.Can[raidstorage.Sizer](e.s)
	e.must("Can", err)
	objects, bytes, err = s.Size(e.ctx)
	e.must("Size", err)
	return objects, bytes
}

func (e *env) recordIterator() raidstorage.RecordIterator {
	e.Helper()
	it, err := raidstorage.Can[raidstorage.RecordIterator](e.s)
	e.must("Can", err)
	return it
}

func (e *env) currentRecords(from raidstorage.OID) []LogRecord {
	e.Helper()
	var records []LogRecord
	for rec, err := range e.recordIterator().CurrentRecords(e.ctx, from) {
		e.must("CurrentRecords", err)
		records = append(records, LogRecord{OID: rec.OID, TID: rec.TID, Data: string(rec.Data), Deleted: rec.Data == nil})
	}
	return records
}

func currentRecords(e *env) {
	// Oids on both sides of 2^16, 2^32 and so on: an index may be split there.
	oids := []raidstorage.OID{0, 1, 2, 65535, 65536, 1 << 24, 1<<32 - 1, 1 << 32, 1<<32 + 1, 1 << 50}
	var all []LogRecord
	for i, oid := range slices.Backward(oids) {
		e.commit(objs(oid, "old"))
		data := fmt.Sprint("object ", i)
		all = append(all, LogRecord{OID: oid, TID: e.commit(objs(oid, data)), Data: data})
	}
	slices.Reverse(all)
	for from := range len(all) {
		if diff := cmp.Diff(all[from:], e.currentRecords(oids[from])); diff != "" {
			e.Fatalf("CurrentRecords from %v differs (-want +got):\n%s", oids[from], diff)
		}
	}
	if got := e.currentRecords(1<<50 + 1); len(got) != 0 {
		e.Errorf("after the last object come %v", got)
	}
	e.delete(65536, all[4].TID)
	if diff := cmp.Diff(slices.Concat(all[:4], all[5:]), e.currentRecords(0)); diff != "" {
		e.Errorf("CurrentRecords after a deletion differs (-want +got):\n%s", diff)
	}
}
