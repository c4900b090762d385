package filestorage_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// fill commits n objects of size bytes each, perTxn in a transaction.
func fill(tb testing.TB, s *filestorage.Storage, n, perTxn, size int) {
	tb.Helper()
	data := bytes.Repeat([]byte{'x'}, size)
	for first := 1; first <= n; first += perTxn {
		txn, err := s.Begin(tb.Context(), raidstorage.Meta{})
		if err != nil {
			tb.Fatal(err)
		}
		for oid := first; oid < first+perTxn && oid <= n; oid++ {
			if err := txn.Store(tb.Context(), raidstorage.OID(oid), 0, data); err != nil {
				tb.Fatal(err)
			}
		}
		finish(tb, txn)
	}
}

func finish(tb testing.TB, txn raidstorage.Txn) raidstorage.TID {
	tb.Helper()
	if _, err := txn.Vote(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	tid, err := txn.Finish(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	return tid
}

func openFor(tb testing.TB, path string, opts filestorage.Options) *filestorage.Storage {
	tb.Helper()
	s, err := filestorage.Open(tb.Context(), path, opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

const benchObjects = 100_000

func benchFile(b *testing.B, size int) *filestorage.Storage {
	s := openFor(b, filepath.Join(b.TempDir(), "Data.fs"), filestorage.Options{Durability: filestorage.NoSync})
	fill(b, s, benchObjects, 100, size)
	return s
}

func BenchmarkLoadBefore(b *testing.B) {
	for _, size := range []int{200, 1000, 10_000} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			s := benchFile(b, size)
			r, ctx := rand.New(rand.NewPCG(1, 2)), b.Context()
			b.ReportAllocs()
			b.ResetTimer()
			for b.Loop() {
				oid := raidstorage.OID(1 + r.IntN(benchObjects))
				if _, err := s.LoadBefore(ctx, oid, raidstorage.MaxTID); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkLoadBeforeParallel(b *testing.B) {
	s := benchFile(b, 1000)
	ctx := b.Context()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		r := rand.New(rand.NewPCG(1, 2))
		for pb.Next() {
			if _, err := s.LoadBefore(ctx, raidstorage.OID(1+r.IntN(benchObjects)), raidstorage.MaxTID); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkCommit(b *testing.B) {
	data := bytes.Repeat([]byte{'x'}, 1000)
	for name, durability := range map[string]filestorage.Durability{"sync": filestorage.Sync, "nosync": filestorage.NoSync} {
		for _, n := range []int{1, 100} {
			b.Run(fmt.Sprintf("%s/records=%d", name, n), func(b *testing.B) {
				// As a mirror's backends are: with a blob directory, and tids that it chooses.
				path := filepath.Join(b.TempDir(), "Data.fs")
				s := openFor(b, path, filestorage.Options{Durability: durability, BlobDir: path + ".blobs"})
				var serial raidstorage.TID
				b.ReportAllocs()
				b.ResetTimer()
				for b.Loop() {
					txn, err := s.Begin(b.Context(), raidstorage.Meta{TID: serial + 1})
					if err != nil {
						b.Fatal(err)
					}
					for oid := range n {
						if err := txn.Store(b.Context(), raidstorage.OID(oid), serial, data); err != nil {
							b.Fatal(err)
						}
					}
					serial = finish(b, txn)
				}
			})
		}
	}
}

func BenchmarkIterate(b *testing.B) {
	s := benchFile(b, 1000)
	b.SetBytes(benchObjects * 1000)
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		n := 0
		for t, err := range s.Iterate(b.Context(), 0, raidstorage.MaxTID) {
			if err != nil {
				b.Fatal(err)
			}
			for _, err := range t.Records {
				if err != nil {
					b.Fatal(err)
				}
				n++
			}
		}
		if n != benchObjects {
			b.Fatalf("%d records", n)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "Data.fs")
	opts := filestorage.Options{Durability: filestorage.NoSync}
	s, err := filestorage.Open(b.Context(), path, opts)
	if err != nil {
		b.Fatal(err)
	}
	fill(b, s, benchObjects, 100, 1000)
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	open := func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			s, err := filestorage.Open(b.Context(), path, filestorage.Options{ReadOnly: true})
			if err != nil {
				b.Fatal(err)
			}
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("index", open)
	if err := os.Remove(path + ".index"); err != nil {
		b.Fatal(err)
	}
	b.Run("scan", open)
}
