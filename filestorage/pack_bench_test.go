package filestorage_test

import (
	"encoding/binary"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// fillTree makes the file of n objects that the comparisons with Python pack: each
// record refers to ten others, and three objects in ten are stored again.
func fillTree(tb testing.TB, path string, n int) {
	tb.Helper()
	const perTxn = 100
	s, err := filestorage.Open(tb.Context(), path, filestorage.Options{Durability: filestorage.NoSync})
	if err != nil {
		tb.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	serials := make([]raidstorage.TID, n)
	store := func(oids []int) {
		txn, err := s.Begin(tb.Context(), raidstorage.Meta{})
		if err != nil {
			tb.Fatal(err)
		}
		for _, oid := range oids {
			if err := txn.Store(tb.Context(), raidstorage.OID(oid), serials[oid], treeRecord(random, oid, n)); err != nil {
				tb.Fatal(err)
			}
		}
		tid := finish(tb, txn)
		for _, oid := range oids {
			serials[oid] = tid
		}
	}
	oids := make([]int, perTxn)
	for first := 0; first < n; first += perTxn {
		for i := range oids {
			oids[i] = first + i
		}
		store(oids)
	}
	for range n * 3 / 10 / perTxn {
		for i := range oids {
			oids[i] = random.IntN(n/perTxn)*perTxn + i // each once
		}
		store(oids)
	}
	if err := s.Close(); err != nil {
		tb.Fatal(err)
	}
}

func treeRecord(random *rand.Rand, oid, n int) []byte {
	b := []byte("\x80\x03cpersistent.mapping\nPersistentMapping\n.\x80\x03(")
	for i := range 10 {
		b = binary.BigEndian.AppendUint64(append(b, "C\x08"...), uint64(10*oid+1+i)%uint64(n))
		b = append(b, 'Q')
	}
	b = append(b, 'C', 150)
	for range 150 {
		b = append(b, byte(random.Uint32()))
	}
	return append(b, "t."...)
}

func copyFile(tb testing.TB, from, to string) {
	tb.Helper()
	in, err := os.Open(from)
	if err != nil {
		tb.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		tb.Fatal(err)
	}
	if err := out.Close(); err != nil {
		tb.Fatal(err)
	}
}

// BenchmarkPack packs 100,000 objects of 300 bytes, with 30,000 old revisions, to
// now and with garbage collection.
func BenchmarkPack(b *testing.B) {
	dir := b.TempDir()
	original := filepath.Join(dir, "original.fs")
	fillTree(b, original, 100_000)
	info, err := os.Stat(original)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(info.Size())
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		path := filepath.Join(dir, "Data.fs")
		copyFile(b, original, path)
		copyFile(b, original+".index", path+".index")
		s, err := filestorage.Open(b.Context(), path, filestorage.Options{Durability: filestorage.NoSync, PackDropOld: true})
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if err := s.Pack(b.Context(), raidstorage.PackOptions{Through: raidstorage.MaxTID, GC: true}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
