package raidstorage_test

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkFollowingOverALink measures how fast a ZEO server follows over a link with a
// round trip of 200 ms that loses 1 % of the segments: from the moment when the link
// comes back until it has the transactions that it missed. -benchtime 100x is enough.
func BenchmarkFollowingOverALink(b *testing.B) {
	for _, kind := range mixedKinds() {
		if kind.server == nil {
			continue
		}
		for _, size := range []int{1000, 20_000} {
			b.Run(fmt.Sprintf("%s/%d bytes", kind.name, size), func(b *testing.B) {
				w := newLinkWorld(b, kind)
				w.plain = true
				w.open()
				w.commit(size)
				w.await("following at first", caughtUp, nil)
				w.link.freeze(true)
				for range b.N {
					w.commit(size)
				}
				bytes := w.status().LagBytes
				b.SetBytes(bytes / int64(b.N))
				b.ResetTimer()
				began := time.Now()
				w.link.freeze(false)
				w.await("caught up", caughtUp, nil)
				took := time.Since(began)
				b.StopTimer()
				b.ReportMetric(float64(b.N)/took.Seconds(), "txn/s")
				if missing := w.wantBeginning(); missing != 0 {
					b.Errorf("it lacks %d transactions", missing)
				}
			})
		}
	}
}
