package zeoclient

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
)

// TestCurrentRecordsWithGaps compares with what is there, for oids with gaps of all
// sizes and deleted objects.
func TestCurrentRecordsWithGaps(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 1))
			f := startFake(t)
			txn := fakeTxn{tid: 10}
			var want []string
			oid := raidstorage.OID(random.IntN(3))
			for range random.IntN(200) {
				data := fmt.Appendf(nil, "object %d", oid)
				if random.IntN(10) == 0 {
					data = nil
				} else {
					want = append(want, string(data))
				}
				txn.records = append(txn.records, fakeRecord{oid, data})
				oid++
				if random.IntN(4) == 0 {
					oid += raidstorage.OID(random.IntN(1 << random.IntN(10)))
				}
			}
			f.log = []fakeTxn{txn}
			s := connectTo(t, f, nil)
			var got []string
			for r, err := range s.CurrentRecords(bounded(t), 0) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, string(r.Data))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("other records (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCurrentRecordsReadAhead(t *testing.T) {
	t.Parallel()
	f := startFake(t)
	logOf(f, 1, 1000, 100)
	s := connectTo(t, f, nil)
	n := 0
	for r, err := range s.CurrentRecords(bounded(t), 0) {
		if err != nil || r.OID != raidstorage.OID(n) {
			t.Fatalf("object %v comes, %v; want %d", r.OID, err, n)
		}
		n++
	}
	f.mu.Lock()
	turns := f.turns
	f.mu.Unlock()
	if n != 1000 || turns > 900 {
		t.Errorf("%d records took %d turns", n, turns)
	}
	t.Logf("%d turns", turns)
}
