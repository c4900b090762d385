package zeoclient

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// TestCutsAndCancelsAtRandom uses one storage in all ways at the same time, while calls
// are cancelled and connections cut at any moment. Nothing may hang, panic or leak,
// and in the end the storage works.
func TestCutsAndCancelsAtRandom(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	f := startFake(t)
	s := connectTo(t, f, func(o *Options) { o.CacheBytes, o.CallTimeout = 1<<20, 5*time.Second })
	defer s.Subscribe(func(raidstorage.Invalidation) {})()
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, 0))
	f.setHook(func(c *fakeConn, _ zeowire.Message) bool {
		mu.Lock()
		defer mu.Unlock()
		if random.IntN(200) == 0 {
			_ = c.nc.Close()
			return true
		}
		return false
	})
	var wg sync.WaitGroup
	for worker := range 6 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(worker)+1))
			for range 40 {
				ctx, cancel := context.WithCancel(bounded(t))
				if random.IntN(2) == 0 {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(random.IntN(3000))*time.Microsecond)
				}
				err := workload(ctx, s)
				if err != nil && raidstorage.Classify(err) != raidstorage.ClassFailure {
					t.Errorf("%v is no failure", err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	f.setHook(nil)
	until(t, "reconnection", func() bool {
		err := workload(bounded(t), s)
		if _, behind := errors.AsType[*BehindError](err); behind {
			t.Fatal(err)
		}
		return err == nil
	})
	until(t, "the release of the server's iterators", func() bool { return f.iterators() == 0 })
}
