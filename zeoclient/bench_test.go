package zeoclient_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
	"github.com/zeoraid/raidstorage/zeoclient"
)

// BenchmarkLoadBefore loads over one connection, with some loads in flight.
func BenchmarkLoadBefore(b *testing.B) {
	benchmarkLoads(b, startZeoserver(b, true))
}

func BenchmarkCommit(b *testing.B) {
	benchmarkCommits(b, startZeoserver(b, true))
}

func benchmarkLoads(b *testing.B, opts zeoclient.Options) {
	b.Helper()
	const objects = 1000
	for _, cache := range []int64{0, 64 << 20} {
		for _, inFlight := range []int{1, 8, 16} {
			b.Run(fmt.Sprintf("cache=%d/inflight=%d", cache>>20, inFlight), func(b *testing.B) {
				opts.CacheBytes = cache
				s := open(b, opts)
				defer s.Close()
				data := make(map[raidstorage.OID]string, objects)
				for oid := range raidstorage.OID(objects) {
					data[oid] = string(make([]byte, 1000))
				}
				storagetest.Commit(b, s, data)
				b.ReportAllocs()
				b.ResetTimer()
				var wg sync.WaitGroup
				for worker := range inFlight {
					wg.Go(func() {
						for n := worker; n < b.N; n += inFlight {
							if _, err := s.LoadBefore(b.Context(), raidstorage.OID(n%objects), raidstorage.MaxTID); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "loads/s")
			})
		}
	}
}

func benchmarkCommits(b *testing.B, opts zeoclient.Options) {
	b.Helper()
	s := open(b, opts)
	defer s.Close()
	data := make([]byte, 1000)
	serials := map[raidstorage.OID]raidstorage.TID{}
	for oid := range raidstorage.OID(5) {
		if rev, err := s.LoadBefore(b.Context(), oid, raidstorage.MaxTID); err == nil {
			serials[oid] = rev.Serial
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		tid := storagetest.Transact(b, s, raidstorage.Meta{User: []byte("u")}, func(txn raidstorage.Txn) error {
			for oid := range raidstorage.OID(5) {
				if err := txn.Store(b.Context(), oid, serials[oid], data); err != nil {
					return err
				}
			}
			return nil
		})
		for oid := range raidstorage.OID(5) {
			serials[oid] = tid
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
}
