package raidstorage_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// benchBackends are the storages that the benchmarks compare: one directly, and
// mirrors of one, two and three.
func benchBackends(b *testing.B, run func(b *testing.B, s raidstorage.Storage)) {
	makers := []struct {
		kind string
		make func(b *testing.B, i int) raidstorage.Storage
	}{
		{"memory", func(b *testing.B, i int) raidstorage.Storage { return memstorage.New(name(i)) }},
		{"file", func(b *testing.B, i int) raidstorage.Storage {
			s, err := filestorage.Open(b.Context(), fmt.Sprintf("%s/%s.fs", b.TempDir(), name(i)), filestorage.Options{})
			if err != nil {
				b.Fatal(err)
			}
			return s
		}},
	}
	for _, k := range makers {
		b.Run(k.kind+"/direct", func(b *testing.B) {
			s := k.make(b, 0)
			defer s.Close()
			run(b, s)
		})
		for n := 1; n <= 3; n++ {
			b.Run(fmt.Sprintf("%s/mirror-%d", k.kind, n), func(b *testing.B) {
				cfg := raidstorage.Config{Membership: &raidstorage.MemoryRegister{}}
				for i := range n {
					cfg.Backends = append(cfg.Backends, raidstorage.Backend{Name: name(i),
						Open: func(context.Context) (raidstorage.Storage, error) { return k.make(b, i), nil }})
				}
				m, err := raidstorage.Open(b.Context(), cfg)
				if err != nil {
					b.Fatal(err)
				}
				defer m.Close()
				run(b, m)
			})
		}
	}
}

func BenchmarkLoad(b *testing.B) {
	benchBackends(b, func(b *testing.B, s raidstorage.Storage) {
		const objects = 1000
		fillBench(b, s, objects)
		ctx := context.Background()
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, err := s.LoadBefore(ctx, raidstorage.OID(i%objects+1), raidstorage.MaxTID); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkCommit(b *testing.B) {
	for _, objects := range []int{1, 100} {
		b.Run(fmt.Sprintf("%d-objects", objects), func(b *testing.B) {
			benchBackends(b, func(b *testing.B, s raidstorage.Storage) {
				data := make([]byte, 300)
				var serial raidstorage.TID
				b.ReportAllocs()
				for b.Loop() {
					serial = benchCommit(b, s, objects, serial, data)
				}
			})
		})
	}
}

func benchCommit(b *testing.B, s raidstorage.Storage, objects int, serial raidstorage.TID, data []byte) raidstorage.TID {
	ctx := context.Background()
	txn, err := s.Begin(ctx, raidstorage.Meta{})
	if err != nil {
		b.Fatal(err)
	}
	for oid := range objects {
		if err := txn.Store(ctx, raidstorage.OID(oid+1), serial, data); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := txn.Vote(ctx); err != nil {
		b.Fatal(err)
	}
	tid, err := txn.Finish(ctx)
	if err != nil {
		b.Fatal(err)
	}
	return tid
}

// fillBench stores n objects of 300 bytes, 100 a transaction.
func fillBench(b *testing.B, s raidstorage.Storage, n int) {
	for first := 1; first <= n; first += 100 {
		storagetest.Transact(b, s, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
			for oid := first; oid < first+100; oid++ {
				if err := txn.Store(context.Background(), raidstorage.OID(oid), 0, make([]byte, 300)); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

func BenchmarkIterate(b *testing.B) {
	benchBackends(b, func(b *testing.B, s raidstorage.Storage) {
		const objects = 10_000
		fillBench(b, s, objects)
		b.ReportAllocs()
		for b.Loop() {
			n := 0
			for txn, err := range s.Iterate(context.Background(), 0, raidstorage.MaxTID) {
				if err != nil {
					b.Fatal(err)
				}
				for _, err := range txn.Records {
					if err != nil {
						b.Fatal(err)
					}
					n++
				}
			}
			if n != objects {
				b.Fatalf("%d records", n)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/objects, "ns/record")
	})
}
