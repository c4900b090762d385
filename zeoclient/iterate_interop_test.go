//go:build interop

package zeoclient_test

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
	"github.com/zeoraid/raidstorage/zeoclient"
)

// iteratePython runs testdata/iterate.py and returns what it prints.
func iteratePython(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), python(t), append([]string{"testdata/iterate.py"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("iterate.py %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// countRecords iterates over everything.
func countRecords(t testing.TB, s *zeoclient.Storage) (transactions, records int) {
	t.Helper()
	for txn, err := range s.Iterate(t.Context(), 0, raidstorage.MaxTID) {
		if err != nil {
			t.Fatal(err)
		}
		transactions++
		for _, err := range txn.Records {
			if err != nil {
				t.Fatal(err)
			}
			records++
		}
	}
	return transactions, records
}

// TestPythonsLogHasNoErrors reads in all ways, completely and not, up to the end and
// beyond: nothing of it is an error for the server.
func TestPythonsLogHasNoErrors(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	iteratePython(t, "make", filepath.Join(dir, "1.fs"), "300", "5")
	server := startRunzeo(t, dir, 1, "msgpack true")
	s := open(t, server.options(t))
	defer s.Close()
	ctx := t.Context()
	last, err := s.LastTID(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var tids []raidstorage.TID
	for txn, err := range s.Iterate(ctx, 0, raidstorage.MaxTID) {
		if err != nil {
			t.Fatal(err)
		}
		tids = append(tids, txn.TID)
	}
	for _, bounds := range [][2]raidstorage.TID{
		{0, last}, {0, last + 1}, {last, last}, {last, raidstorage.MaxTID}, {last + 1, raidstorage.MaxTID}, {0, tids[0] - 1},
		{tids[3], tids[3]}, {tids[3] + 1, tids[3] + 1}, {tids[1], tids[200]}, {tids[200] + 1, tids[250] - 1},
	} {
		readSome(t, s, bounds[0], bounds[1], 1<<30)
	}
	for stop := range 40 {
		readSome(t, s, 0, raidstorage.MaxTID, stop*stop)
		readSome(t, s, tids[298], raidstorage.MaxTID, stop)
	}
	current := func(from raidstorage.OID, stop, want int) {
		t.Helper()
		n := 0
		for _, err := range s.CurrentRecords(ctx, from) {
			if err != nil {
				t.Fatal(err)
			}
			if n++; n == stop {
				break
			}
		}
		if n != want {
			t.Errorf("%d records come from %v on, want %d", n, from, want)
		}
	}
	current(0, 0, 500)
	current(499, 0, 1)
	current(0, 77, 77)
	deleteObjects(t, s, 10, 11, 12, 60, 497, 498, 499)
	current(0, 0, 493)
	storagetest.Commit(t, s, map[raidstorage.OID]string{2000: "far", 2003: "away", 2004: "from others"})
	current(0, 0, 496)
	deleteObjects(t, s, 2003, 2004)
	current(0, 0, 494)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	server.wantQuiet(t)
}

// readSome stops an iteration after a number of records.
func readSome(t testing.TB, s *zeoclient.Storage, from, through raidstorage.TID, stop int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for txn, err := range s.Iterate(ctx, from, through) {
		if err != nil {
			t.Fatal(err)
		}
		if stop%7 == 6 {
			continue // the records are not looked at
		}
		for _, err := range txn.Records {
			if err != nil {
				t.Fatal(err)
			}
			if stop--; stop <= 0 {
				return
			}
		}
	}
}

func deleteObjects(t testing.TB, s *zeoclient.Storage, oids ...raidstorage.OID) {
	t.Helper()
	storagetest.Transact(t, s, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
		for _, oid := range oids {
			rev, err := s.LoadBefore(t.Context(), oid, raidstorage.MaxTID)
			if err != nil {
				return err
			}
			if err := txn.Delete(t.Context(), oid, rev.Serial); err != nil {
				return err
			}
		}
		return nil
	})
}

// BenchmarkPythonIterate iterates over 10,000 transactions with 5 records each, and
// compares with ZEO's own client.
func BenchmarkPythonIterate(b *testing.B) {
	const transactions, records = 10000, 5
	dir := shortDir(b)
	iteratePython(b, "make", filepath.Join(dir, "1.fs"), fmt.Sprint(transactions), fmt.Sprint(records))
	server := startRunzeo(b, dir, 1, "msgpack true")
	s := open(b, server.options(b))
	defer s.Close()
	var ours time.Duration
	for b.Loop() {
		began := time.Now()
		if got, n := countRecords(b, s); got != transactions || n != transactions*records {
			b.Fatalf("%d transactions with %d records come", got, n)
		}
		ours += time.Since(began)
	}
	var got, n int
	var seconds float64
	if _, err := fmt.Sscan(iteratePython(b, "walk", server.address), &got, &n, &seconds); err != nil || got != transactions || n != transactions*records {
		b.Fatalf("ZEO's client sees %d transactions with %d records, %v", got, n, err)
	}
	b.ReportMetric(seconds*float64(b.N)/ours.Seconds(), "x-python")
}
