package zeoclient

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// logOf fills a server with transactions of some records each.
func logOf(f *fake, transactions, records, size int) {
	for n := range transactions {
		txn := fakeTxn{tid: raidstorage.TID(10 * (n + 1))}
		for i := range records {
			data := append(fmt.Appendf(nil, "%d/%d ", n, i), bytes.Repeat([]byte("x"), size)...)
			txn.records = append(txn.records, fakeRecord{raidstorage.OID(i), data})
		}
		f.log = append(f.log, txn)
	}
}

// iterateAll counts records and checks their order.
func iterateAll(t testing.TB, s *Storage) (transactions, records int) {
	t.Helper()
	for txn, err := range s.Iterate(bounded(t), 0, raidstorage.MaxTID) {
		if err != nil {
			t.Fatal(err)
		}
		if want := raidstorage.TID(10 * (transactions + 1)); txn.TID != want {
			t.Fatalf("transaction %v comes, want %v", txn.TID, want)
		}
		n := 0
		for r, err := range txn.Records {
			if err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprintf("%d/%d ", transactions, n); !bytes.HasPrefix(r.Data, []byte(want)) || r.OID != raidstorage.OID(n) {
				t.Fatalf("record %v %.20q comes, want %q", r.OID, r.Data, want)
			}
			n++
		}
		records += n
		transactions++
	}
	return transactions, records
}

func TestIterationReadsAhead(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ transactions, records, size, mostTurns int }{
		{300, 3, 10, 1000},  // 2100 calls and more
		{20, 100, 10, 1000}, // 2000
		{2, 1000, 10, 0},
		{40, 10, 50000, 0}, // 20 MB
		{3, 300, 50000, 0}, // 15 MB in each: more than is kept
		{1000, 0, 0, 0},
		{0, 0, 0, 20},
	} {
		t.Run(fmt.Sprint(c.transactions, "x", c.records), func(t *testing.T) {
			t.Parallel()
			f := startFake(t)
			logOf(f, c.transactions, c.records, c.size)
			s := connectTo(t, f, nil)
			if got, n := iterateAll(t, s); got != c.transactions || n != c.transactions*c.records {
				t.Errorf("%d transactions with %d records come", got, n)
			}
			f.mu.Lock()
			turns := f.turns
			f.mu.Unlock()
			if c.mostTurns > 0 && turns > c.mostTurns {
				t.Errorf("it took %d turns, want at most %d", turns, c.mostTurns)
			}
			until(t, "the release of the server's iterators", func() bool { return f.iterators() == 0 })
		})
	}
}

func TestIterationThatStopsEarlyReleasesTheServersIterators(t *testing.T) {
	t.Parallel()
	f := startFake(t)
	logOf(f, 100, 20, 10)
	s := connectTo(t, f, nil)
	for stop := range 60 {
		n := 0
	iteration:
		for txn, err := range s.Iterate(bounded(t), 0, raidstorage.MaxTID) {
			if err != nil {
				t.Fatal(err)
			}
			for _, err := range txn.Records {
				if err != nil {
					t.Fatal(err)
				}
				if n++; n > stop {
					break iteration
				}
			}
		}
		until(t, "the release of the server's iterators", func() bool { return f.iterators() == 0 })
	}
	if n := f.count(zeowire.Register); n != 1 {
		t.Errorf("registered %d times", n)
	}
}

func TestLargeTransactionCanBeRangedOverAgain(t *testing.T) {
	t.Parallel()
	f := startFake(t)
	logOf(f, 2, 300, 50000)
	s := connectTo(t, f, nil)
	for txn, err := range s.Iterate(bounded(t), 0, raidstorage.MaxTID) {
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			n := 0
			for r, err := range txn.Records {
				if err != nil || r.OID != raidstorage.OID(n) {
					t.Fatalf("record %d: %v, %v", n, r.OID, err)
				}
				n++
			}
			if n != 300 {
				t.Errorf("%d records come", n)
			}
		}
	}
	until(t, "the release of the server's iterators", func() bool { return f.iterators() == 0 })
}
