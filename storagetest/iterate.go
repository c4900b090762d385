package storagetest

import (
	"fmt"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
)

func iterateRules() []rule {
	return subject("iterate", needs{},
		rule{name: "an empty storage yields nothing", run: func(e *env) {
			if log := e.log(e.s); len(log) != 0 {
				e.Errorf("the log of an empty storage is %v", log)
			}
		}},
		rule{name: "both bounds are inclusive", run: iterateBounds},
		rule{name: "each record is yielded with its data, deletions without", run: func(e *env) {
			first := e.commit(map[raidstorage.OID]string{3: "c", 1: "a", 2: "b"})
			second := e.delete(2, first)
			third := e.commit(map[raidstorage.OID]string{1: "a3", 4: "d"})
			want := []LogTransaction{
				{TID: first, Status: " ", Records: []LogRecord{
					{OID: 1, TID: first, Data: "a"}, {OID: 2, TID: first, Data: "b"}, {OID: 3, TID: first, Data: "c"}}},
				{TID: second, Status: " ", Records: []LogRecord{{OID: 2, TID: second, Deleted: true}}},
				{TID: third, Status: " ", Records: []LogRecord{
					{OID: 1, TID: third, Data: "a3"}, {OID: 4, TID: third, Data: "d"}}},
			}
			if diff := cmp.Diff(want, sortedRecords(e.log(e.s))); diff != "" {
				e.Errorf("the log differs (-want +got):\n%s", diff)
			}
		}},
		rule{name: "records can be ranged over again, and in part", run: func(e *env) {
			e.commit(map[raidstorage.OID]string{1: "a", 2: "b", 3: "c"})
			for txn, err := range e.s.Iterate(e.ctx, 0, raidstorage.MaxTID) {
				e.must("Iterate", err)
				for range txn.Records {
					break
				}
				for range 2 {
					lt, err := logTransaction(e.ctx, txn)
					e.must("Records", err)
					if len(lt.Records) != 3 {
						e.Errorf("Records yields %d records, want 3", len(lt.Records))
					}
				}
			}
		}},
		rule{name: "data may be kept after the iteration", run: func(e *env) {
			for i := range 10 {
				e.commit(objs(1, fmt.Sprint("revision ", i)))
			}
			var kept [][]byte
			for txn, err := range e.s.Iterate(e.ctx, 0, raidstorage.MaxTID) {
				e.must("Iterate", err)
				for rec, err := range txn.Records {
					e.must("Records", err)
					kept = append(kept, rec.Data)
				}
			}
			e.commit(objs(1, "another"))
			for i, data := range kept {
				if want := fmt.Sprint("revision ", i); string(data) != want {
					e.Errorf("kept data %q became %q", want, data)
				}
			}
		}},
		rule{name: "breaking off leaves the storage usable", run: func(e *env) {
			for i := range 5 {
				e.commit(objs(1, fmt.Sprint(i)))
			}
			for range 3 {
				for txn, err := range e.s.Iterate(e.ctx, 0, raidstorage.MaxTID) {
					e.must("Iterate", err)
					for range txn.Records {
						break
					}
					break
				}
				e.commit(objs(1, "goes on"))
				e.wantCurrent(1, "goes on")
			}
		}},
		rule{name: "commits and reads go on while one iterates", run: iterateAndCommit},
	)
}

// log returns the whole log of s.
func (e *env) log(s raidstorage.Storage) []LogTransaction {
	e.Helper()
	log, err := Log(e.ctx, s)
	e.must("Log", err)
	return log
}

// logOf returns the whole log of e.s, which must have n transactions.
func (e *env) logOf(n int) []LogTransaction {
	e.Helper()
	log := e.log(e.s)
	if len(log) != n {
		e.Fatalf("the log has %d transactions, want %d: %v", len(log), n, log)
	}
	return log
}

func iterateBounds(e *env) {
	var tids []raidstorage.TID
	for i := range 5 {
		tids = append(tids, e.commit(objs(raidstorage.OID(i+1), "x")))
	}
	for _, c := range []struct {
		from, through raidstorage.TID
		first, end    int // tids[first:end]
	}{
		{0, raidstorage.MaxTID, 0, 5},
		{tids[0], tids[4], 0, 5},
		{tids[1], tids[3], 1, 4},
		{tids[2], tids[2], 2, 3},
		{tids[1] + 1, tids[3] - 1, 2, 3},
		{tids[0] + 1, raidstorage.MaxTID, 1, 5},
		{tids[4], raidstorage.MaxTID, 4, 5},
		{0, tids[0], 0, 1},
		{0, tids[0] - 1, 0, 0},
		{tids[4] + 1, raidstorage.MaxTID, 5, 5},
		{tids[3], tids[1], 0, 0},
		{0, 0, 0, 0},
	} {
		log, err := LogRange(e.ctx, e.s, c.from, c.through)
		e.must("Iterate", err)
		var got []raidstorage.TID
		for _, txn := range log {
			got = append(got, txn.TID)
		}
		want := tids[c.first:c.end]
		if fmt.Sprint(got) != fmt.Sprint(want) {
			e.Errorf("Iterate(%v, %v) yields %v, want %v", c.from, c.through, got, want)
		}
	}
}

func iterateAndCommit(e *env) {
	const present = 10
	for i := range present {
		e.commit(objs(1, fmt.Sprint(i)))
	}
	var last raidstorage.TID
	n := 0
	for txn, err := range e.s.Iterate(e.ctx, 0, raidstorage.MaxTID) {
		e.must("Iterate", err)
		if txn.TID <= last {
			e.Fatalf("transaction %v is yielded after %v", txn.TID, last)
		}
		last = txn.TID
		if n < present {
			e.commit(objs(2, fmt.Sprint("meanwhile ", n)))
			e.wantCurrent(2, fmt.Sprint("meanwhile ", n))
			lt, err := logTransaction(e.ctx, txn)
			e.must("Records", err)
			if want := fmt.Sprint(n); len(lt.Records) != 1 || lt.Records[0].Data != want {
				e.Errorf("transaction %d has records %v, want one of %q", n, lt.Records, want)
			}
		}
		n++
	}
	if n < present {
		e.Errorf("%d of %d transactions were yielded", n, present)
	}
	if got := len(e.log(e.s)); got != 2*present {
		e.Errorf("the log has %d transactions, want %d", got, 2*present)
	}
}
