package memstorage

import (
	"context"
	"fmt"
	"testing"

	"github.com/zeoraid/raidstorage"
)

func filled(b *testing.B, n int) *Storage {
	s := New("bench")
	for i := range n {
		put(b, s, raidstorage.OID(i), 0, "some data of a common length, more or less")
	}
	return s
}

func BenchmarkLoadBefore(b *testing.B) {
	s := filled(b, 1000)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		ctx := context.Background()
		for oid := raidstorage.OID(0); pb.Next(); oid = (oid + 1) % 1000 {
			if _, err := s.LoadBefore(ctx, oid, raidstorage.MaxTID); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkCommit(b *testing.B) {
	for _, n := range []int{1, 100} {
		b.Run(fmt.Sprintf("objects=%d", n), func(b *testing.B) {
			s, data, serial := New("bench"), []byte("data"), raidstorage.TID(0)
			ctx := context.Background()
			b.ReportAllocs()
			for b.Loop() {
				txn, err := s.Begin(ctx, raidstorage.Meta{})
				if err != nil {
					b.Fatal(err)
				}
				for oid := range raidstorage.OID(n) {
					if err := txn.Store(ctx, oid, serial, data); err != nil {
						b.Fatal(err)
					}
				}
				if _, err := txn.Vote(ctx); err != nil {
					b.Fatal(err)
				}
				if serial, err = txn.Finish(ctx); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkIterate(b *testing.B) {
	s := filled(b, 1000)
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for txn, err := range s.Iterate(ctx, 0, raidstorage.MaxTID) {
			if err != nil {
				b.Fatal(err)
			}
			for range txn.Records {
				n++
			}
		}
		if n != 1000 {
			b.Fatalf("%d records", n)
		}
	}
}
