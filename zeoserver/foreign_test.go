package zeoserver_test

import (
	"context"
	"iter"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/zeoserver"
)

// Storages behind a network tell of foreign transactions a little later than those
// can be seen: after a commit that came later.
func TestACommitWaitsForTheNotificationOfAnEarlierOne(t *testing.T) {
	t.Parallel()
	s := &lateNotifier{Storage: memstorage.New("mem")}
	theirs := s.Another("other")
	defer theirs.Close()
	srv := serve(t, serving(s))
	c, reader := srv.connect(t), srv.connect(t)
	first := c.commit(write{8, 0, "eight"})
	foreign := fill(t, theirs, 1, 10)
	c.stage(1, write{9, 0, "nine"})
	c.must("vote", number(1))
	id := c.begin("tpc_finish", number(1))
	srv.until(t, "two commits", func(st zeoserver.Status) bool { return st.Commits == 2 })
	reader.must("ping") // time for what must not come
	s.notify(raidstorage.Invalidation{TID: foreign, OIDs: []raidstorage.OID{1}})
	if _, e := c.wait(id); e != nil {
		t.Fatal(e)
	}
	var got []raidstorage.TID
	for range 3 {
		tid, _ := reader.invalidated()
		got = append(got, tid)
	}
	if got[0] != first || got[1] != foreign || got[2] <= foreign {
		t.Errorf("invalidated %v", got)
	}
	s.notify(raidstorage.Invalidation{TID: got[2], OIDs: []raidstorage.OID{9}}) // once more: no harm
	reader.must("ping")
}

// A client whose cache is as new as the storage has nothing to verify when it comes
// back, so it is told what it missed.
func TestALateNotificationIsToldBeforeTheConnectionEnds(t *testing.T) {
	t.Parallel()
	for _, queueSize := range []int{1, 100} {
		s := &lateNotifier{Storage: memstorage.New("mem")}
		cfg := serving(s)
		cfg.InvalidationQueueSize = queueSize
		srv := serve(t, cfg)
		c, reader := srv.connect(t), srv.connect(t)
		first := c.commit(write{1, 0, "x"})
		c.commit(write{2, 0, "x"})
		last := c.commit(write{3, 0, "x"})
		s.notify(raidstorage.Invalidation{TID: first + 1, OIDs: []raidstorage.OID{9}})
		reader.closed()
		var got [][]uint64
		var tids []raidstorage.TID
		for range 4 {
			if len(reader.async) == 0 {
				t.Fatalf("queue of %d: nothing was told, but %v", queueSize, got)
			}
			tid, oids := invalidationOf(t, reader.async[0])
			reader.async = reader.async[1:]
			got, tids = append(got, oids), append(tids, tid)
		}
		if diff := cmp.Diff(got, [][]uint64{{1}, {2}, {3}, {9}}); diff != "" || tids[3] != last {
			t.Errorf("queue of %d: %s %v", queueSize, diff, tids)
		}
	}
}

// busyNotifier tells of transactions while the server looks where the log ends.
type busyNotifier struct {
	*memstorage.Storage
	notify func(raidstorage.Invalidation)
	group  sync.WaitGroup
}

func (b *busyNotifier) Subscribe(notify func(raidstorage.Invalidation)) (cancel func()) {
	b.notify = notify
	return b.group.Wait
}

func (b *busyNotifier) tell(n int) {
	b.group.Go(func() {
		for i := range n {
			b.notify(raidstorage.Invalidation{TID: raidstorage.TID(i + 1), OIDs: []raidstorage.OID{1}})
		}
	})
}

func (b *busyNotifier) LastTID(ctx context.Context) (raidstorage.TID, error) {
	b.tell(50)
	return b.Storage.LastTID(ctx)
}

func (b *busyNotifier) Iterate(ctx context.Context, from, through raidstorage.TID) iter.Seq2[*raidstorage.Transaction, error] {
	b.tell(50)
	return b.Storage.Iterate(ctx, from, through)
}

func TestNotificationsWhileTheServerStarts(t *testing.T) {
	t.Parallel()
	s := &busyNotifier{Storage: memstorage.New("mem")}
	fill(t, s.Storage, 3, 10)
	srv := serve(t, serving(s))
	s.group.Wait()
	last, err := s.Storage.LastTID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := srv.dial(t, zeowire.Msgpack)
	if got, _ := c.must("register", text("1"), zeowire.Bool(false)).TID(); got != last {
		t.Errorf("the last tid is %v, not %v", got, last)
	}
	if v := c.must("getInvalidations", tid(last)); v.IsNone() {
		t.Error("the queue was not filled")
	}
}

// hangingSizer is a storage whose size is known at once, but for a time.
type hangingSizer struct {
	*memstorage.Storage
	hangs atomic.Bool
}

func (h *hangingSizer) Size(ctx context.Context) (objects, bytes int64, err error) {
	if h.hangs.Load() {
		<-ctx.Done()
		return 0, 0, ctx.Err()
	}
	return 1, 1, nil
}

func TestInvalidationsDoNotWaitForASize(t *testing.T) {
	t.Parallel()
	s := &hangingSizer{Storage: memstorage.New("mem")}
	srv := serve(t, serving(s))
	c, reader := srv.connect(t), srv.connect(t)
	c.commit(write{1, 0, "x"})
	reader.invalidated()
	s.hangs.Store(true)
	start := time.Now()
	c.commit(write{2, 0, "x"})
	reader.invalidated()
	if took := time.Since(start); took >= 5*time.Second { // what a question may take
		t.Errorf("a commit took %v", took)
	}
}
