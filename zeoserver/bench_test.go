package zeoserver_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
	"github.com/zeoraid/raidstorage/zeoserver"
)

const benchObjects = 1000

// BenchmarkLoad loads records of 400 bytes from a file, by some connections with some
// requests in flight each.
func BenchmarkLoad(b *testing.B) {
	for _, enc := range []zeowire.Encoding{zeowire.Pickle, zeowire.Msgpack} {
		for _, shape := range [][2]int{{1, 1}, {8, 1}, {8, 16}} {
			b.Run(fmt.Sprintf("%v/connections=%d/inflight=%d", enc, shape[0], shape[1]), func(b *testing.B) {
				s, err := filestorage.Open(context.Background(), filepath.Join(b.TempDir(), "Data.fs"), filestorage.Options{})
				if err != nil {
					b.Fatal(err)
				}
				fill(b, s, benchObjects, 400)
				srv := serve(b, zeoserver.Config{Storages: map[string]raidstorage.Storage{"1": s}})
				var clients []*client
				for range shape[0] {
					c := srv.dial(b, enc)
					c.must("register", text("1"), zeowire.Bool(false))
					c.nc.SetDeadline(noDeadline)
					clients = append(clients, c)
				}
				b.ReportAllocs()
				b.ResetTimer()
				var group sync.WaitGroup
				for i, c := range clients {
					group.Go(func() { c.loadMany(i, b.N/len(clients)+1, shape[1]) })
				}
				group.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "loads/s")
			})
		}
	}
}

// loadMany loads n objects, with so many requests in flight.
func (c *client) loadMany(seed, n, inflight int) {
	sent, got := 0, 0
	ask := func() {
		o := raidstorage.OID((seed*7919+sent*31)%benchObjects + 1)
		c.w.LoadBefore(zeowire.IntID(int64(sent)), o, raidstorage.MaxTID)
		sent++
	}
	for range min(inflight, n) {
		ask()
	}
	c.flush()
	for got < n {
		body, err := c.frames.Next()
		if err != nil {
			c.t.Error(err)
			return
		}
		if len(body) < 400 {
			c.t.Errorf("a short reply: %q", body)
			return
		}
		got++
		if sent < n {
			ask()
		}
		if sent-got >= inflight || sent == n || c.w.Len() > 2000 {
			c.flush()
		}
	}
}

// BenchmarkCommit commits one record of 400 bytes at a time to a file, each durable.
func BenchmarkCommit(b *testing.B) {
	for _, n := range []int{1, 8} {
		b.Run(fmt.Sprintf("connections=%d", n), func(b *testing.B) {
			s, err := filestorage.Open(context.Background(), filepath.Join(b.TempDir(), "Data.fs"), filestorage.Options{})
			if err != nil {
				b.Fatal(err)
			}
			srv := serve(b, zeoserver.Config{Storages: map[string]raidstorage.Storage{"1": s}})
			record := string(make([]byte, 400))
			var clients []*client
			for range n {
				c := srv.connect(b)
				c.nc.SetDeadline(noDeadline)
				clients = append(clients, c)
			}
			b.ResetTimer()
			var group sync.WaitGroup
			for i, c := range clients {
				group.Go(func() {
					serial := raidstorage.TID(0)
					for range b.N/n + 1 {
						serial = c.commit(write{uint64(i + 1), serial, record})
						c.async = nil
					}
				})
			}
			group.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
		})
	}
}
