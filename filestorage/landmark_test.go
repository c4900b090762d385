package filestorage_test

import (
	"bytes"
	"math/rand/v2"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// countedReads is a file that counts the bytes that are read from it.
type countedReads struct {
	filestorage.File
	n atomic.Int64
}

func (f *countedReads) ReadAt(b []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(b, off)
	f.n.Add(int64(n))
	return n, err
}

const markedBase = raidstorage.TID(1) << 62

// restoreSized appends a transaction with one object of a size.
func restoreSized(t testing.TB, s raidstorage.Storage, tid raidstorage.TID, size int) {
	t.Helper()
	commit(t, s, raidstorage.Meta{TID: tid}, func(txn raidstorage.Txn) error {
		return txn.Restore(t.Context(), raidstorage.Record{OID: raidstorage.OID(tid), TID: tid, Data: bytes.Repeat([]byte{'x'}, size)})
	})
}

// firstFrom returns the first transaction from a tid on, 0 if there is none.
func firstFrom(t testing.TB, s raidstorage.Storage, from raidstorage.TID) raidstorage.TID {
	t.Helper()
	for txn, err := range s.Iterate(t.Context(), from, raidstorage.MaxTID) {
		if err != nil {
			t.Fatal(err)
		}
		return txn.TID
	}
	return 0
}

// Who reads a log in parts does not walk over all of it for each of them.
func TestATransactionIsFoundFromOneThatWasPassedNearby(t *testing.T) {
	t.Parallel()
	f := &countedReads{}
	opts := filestorage.Options{Durability: filestorage.NoSync, SaveIndexAfter: -1}
	s, err := filestorage.OpenWith(t.Context(), filepath.Join(t.TempDir(), "Data.fs"), opts, func(file filestorage.File) filestorage.File {
		f.File = file
		return f
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const transactions = 600
	for n := range raidstorage.TID(transactions) {
		restoreSized(t, s, markedBase+n, 10_000)
	}
	if last := firstFrom(t, s, markedBase+transactions-1); last != markedBase+transactions-1 {
		t.Fatalf("the last is %v", last)
	}
	for from := range raidstorage.TID(transactions) { // in parts
		before := f.n.Load()
		if got := firstFrom(t, s, markedBase+from); got != markedBase+from {
			t.Fatalf("found %v, not %v", got, markedBase+from)
		}
		if n := f.n.Load() - before; n > 1<<20 {
			t.Fatalf("%d bytes were read to find transaction %d of %d, in a file of 6 MB", n, from, transactions)
		}
	}
}

// Where a file was cut and has grown again, other transactions are in other places.
func TestTransactionsAreFoundInAFileThatWasCut(t *testing.T) {
	t.Parallel()
	s := openFor(t, filepath.Join(t.TempDir(), "Data.fs"), filestorage.Options{Durability: filestorage.NoSync})
	random := rand.New(rand.NewPCG(1, 2))
	next, tids := markedBase, []raidstorage.TID(nil)
	for range 6 {
		for range 60 {
			next += 1 + raidstorage.TID(random.IntN(3))
			restoreSized(t, s, next, 1+random.IntN(30_000))
			tids = append(tids, next)
		}
		for range 50 { // places are noted meanwhile
			n := random.IntN(len(tids))
			if got := firstFrom(t, s, tids[n]); got != tids[n] {
				t.Fatalf("found %v, not %v", got, tids[n])
			}
			if n > 0 {
				if got := firstFrom(t, s, tids[n-1]+1); got != tids[n] {
					t.Fatalf("after %v found %v, not %v", tids[n-1], got, tids[n])
				}
			}
		}
		if got := firstFrom(t, s, next+1); got != 0 {
			t.Fatalf("found %v after the last", got)
		}
		keep := 1 + random.IntN(len(tids)-1)
		if err := s.TruncateAfter(t.Context(), tids[keep-1], next); err != nil {
			t.Fatal(err)
		}
		tids = tids[:keep]
		next = tids[keep-1]
	}
}

// Landmarks are bounded, and never wrong.
func TestLandmarksAreBounded(t *testing.T) {
	t.Parallel()
	var l filestorage.Landmarks
	const apart, n = filestorage.LandmarksApart, 5 * filestorage.MaxLandmarks
	random := rand.New(rand.NewPCG(3, 4))
	order := random.Perm(n) // transaction i begins at i·apart
	for _, i := range order {
		l.Note(raidstorage.TID(2*i+2), int64(i)*apart, 0)
	}
	if l.Len() >= filestorage.MaxLandmarks || l.Len() < filestorage.MaxLandmarks/8 {
		t.Errorf("there are %d", l.Len())
	}
	check := func(from raidstorage.TID, count int) {
		t.Helper()
		want := int64(min((int(from)-1)/2, count)) * apart // the first with a tid ≥ from begins here
		front, back := l.Around(from, 0, int64(count)*apart)
		if front > want || back < want || back-front > 64*apart {
			t.Fatalf("transaction %v begins at %d, and is looked for from %d to %d", from, want, front, back)
		}
	}
	for range 10_000 {
		check(raidstorage.TID(1+random.IntN(2*n)), n)
	}
	before := l.Reader()
	l.Cut(n / 2 * apart)
	l.Note(raidstorage.TID(2*n+2), int64(n)*apart, before) // by one who has read what is gone
	if _, back := l.Around(2*n, 0, 1<<50); back != 1<<50 {
		t.Errorf("there is a landmark at %d, in a file that was cut", back)
	}
	for range 1000 {
		check(raidstorage.TID(1+random.IntN(2*n)), n/2)
	}
}
