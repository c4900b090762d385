package zeoclient

import (
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// cached opens a client with a cache over a server with one object.
func cached(t testing.TB) (*fake, *Storage) {
	t.Helper()
	f := startFake(t)
	f.log = []fakeTxn{{10, []fakeRecord{{1, []byte("one")}, {2, []byte("two")}}}}
	return f, connectTo(t, f, func(o *Options) { o.CacheBytes = 1 << 20 })
}

func wantData(t testing.TB, s *Storage, oid raidstorage.OID, before raidstorage.TID, data string, next raidstorage.TID) {
	t.Helper()
	r, err := s.LoadBefore(bounded(t), oid, before)
	if err != nil || string(r.Data) != data || r.Next != next {
		t.Fatalf("LoadBefore(%v, %v) = %q, next %v, %v; want %q, next %v", oid, before, r.Data, r.Next, err, data, next)
	}
}

func TestCacheSparesTheServer(t *testing.T) {
	t.Parallel()
	f, s := cached(t)
	for range 5 {
		wantData(t, s, 1, raidstorage.MaxTID, "one", 0)
		wantData(t, s, 1, 11, "one", 0)
	}
	if n := f.count(zeowire.LoadBefore); n != 1 {
		t.Errorf("the server was asked %d times", n)
	}
	told := make(chan raidstorage.Invalidation, 10)
	defer s.Subscribe(func(inv raidstorage.Invalidation) { told <- inv })()
	f.commit(20, fakeRecord{1, []byte("new")})
	<-told
	wantData(t, s, 1, 20, "one", 20)
	wantData(t, s, 1, 15, "one", 20)
	if n := f.count(zeowire.LoadBefore); n != 1 {
		t.Errorf("the server was asked %d times", n)
	}
	wantData(t, s, 1, raidstorage.MaxTID, "new", 0)
	wantData(t, s, 1, 21, "new", 0)
	if n := f.count(zeowire.LoadBefore); n != 2 {
		t.Errorf("the server was asked %d times", n)
	}
	f.commit(30, fakeRecord{2, nil}) // names no oid: any may have changed
	<-told
	wantData(t, s, 1, raidstorage.MaxTID, "new", 0)
	if n := f.count(zeowire.LoadBefore); n != 3 {
		t.Errorf("the server was asked %d times", n)
	}
}

func TestCacheKnowsOwnCommits(t *testing.T) {
	t.Parallel()
	f, s := cached(t)
	wantData(t, s, 1, raidstorage.MaxTID, "one", 0)
	txn, err := s.Begin(bounded(t), raidstorage.Meta{})
	if err != nil {
		t.Fatal(err)
	}
	if err := txn.Store(bounded(t), 1, 10, []byte("mine")); err != nil {
		t.Fatal(err)
	}
	if _, err := txn.Vote(bounded(t)); err != nil {
		t.Fatal(err)
	}
	wantData(t, s, 1, raidstorage.MaxTID, "one", 0)
	tid, err := txn.Finish(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	wantData(t, s, 1, raidstorage.MaxTID, "mine", 0)
	wantData(t, s, 1, tid, "one", tid)
	if n := f.count(zeowire.LoadBefore); n != 1 {
		t.Errorf("the server was asked %d times", n)
	}
}

// TestInvalidationDuringALoad lets an invalidation overtake the reply of a load: what
// the reply calls current must not be kept.
func TestInvalidationDuringALoad(t *testing.T) {
	t.Parallel()
	f, s := cached(t)
	f.setHook(func(c *fakeConn, m zeowire.Message) bool {
		if m.Name != zeowire.LoadBefore {
			return false
		}
		c.invalidate(20, []fakeRecord{{1, []byte("x")}})
		c.f.mu.Lock()
		c.f.log = append(c.f.log, fakeTxn{20, []fakeRecord{{1, []byte("new")}}})
		c.f.hook = nil
		c.f.mu.Unlock()
		c.mu.Lock()
		defer c.mu.Unlock()
		_ = c.w.LoadReply(m.ID, []byte("one"), 10, 0) // a server that is late
		c.flushLocked()
		return true
	})
	wantData(t, s, 1, raidstorage.MaxTID, "one", 0)
	wantData(t, s, 1, raidstorage.MaxTID, "new", 0)
}

// TestReplyThatKnowsMore: Python's server may show a transaction in a reply before it
// tells of it. Until then the cache must not answer for what is current.
func TestReplyThatKnowsMore(t *testing.T) {
	t.Parallel()
	f, s := cached(t)
	wantData(t, s, 1, raidstorage.MaxTID, "one", 0)
	f.mu.Lock()
	f.log = append(f.log, fakeTxn{20, []fakeRecord{{1, []byte("new")}}}) // not told
	f.mu.Unlock()
	if last, err := s.LastTID(bounded(t)); err != nil || last != 20 {
		t.Fatalf("LastTID = %v, %v", last, err)
	}
	wantData(t, s, 1, 21, "new", 0)
	wantData(t, s, 1, raidstorage.MaxTID, "new", 0)
	wantData(t, s, 1, 11, "one", 0) // it was so at 10
}

func TestCacheIsDroppedWhenTransactionsWereMissed(t *testing.T) {
	t.Parallel()
	f, s := cached(t)
	wantData(t, s, 1, raidstorage.MaxTID, "one", 0)
	reconnected := func() {
		t.Helper()
		before := f.count(zeowire.GetInfo)
		f.cut()
		until(t, "reconnection", func() bool { _, err := s.LastTID(bounded(t)); return err == nil && f.count(zeowire.GetInfo) > before })
	}
	reconnected()
	wantData(t, s, 1, raidstorage.MaxTID, "one", 0)
	if n := f.count(zeowire.LoadBefore); n != 1 {
		t.Errorf("the server was asked %d times, though nothing had happened", n)
	}
	f.mu.Lock()
	f.log = append(f.log, fakeTxn{20, []fakeRecord{{1, []byte("new")}}})
	f.mu.Unlock()
	reconnected()
	wantData(t, s, 1, raidstorage.MaxTID, "new", 0)
}

func TestCacheIsDroppedByPacks(t *testing.T) {
	t.Parallel()
	f, s := cached(t)
	loads := 0
	wantLoads := func(more int) {
		t.Helper()
		wantData(t, s, 1, raidstorage.MaxTID, "one", 0)
		if loads += more; f.count(zeowire.LoadBefore) != loads {
			t.Errorf("the server was asked %d times, want %d", f.count(zeowire.LoadBefore), loads)
		}
	}
	wantLoads(1)
	if err := s.Pack(bounded(t), raidstorage.PackOptions{Through: 10, GC: true}); err != nil {
		t.Fatal(err)
	}
	wantLoads(1)
	wantLoads(0)
	// Another client's pack is told by a message with the new sizes, our own finish
	// by one too.
	f.setHook(func(c *fakeConn, m zeowire.Message) bool {
		if m.Name == zeowire.TPCFinish || m.Name == zeowire.LastTransaction {
			c.async(zeowire.Info, zeowire.Dict())
		}
		return false
	})
	if _, err := s.LastTID(bounded(t)); err != nil {
		t.Fatal(err)
	}
	wantLoads(1)
	f.setHook(func(c *fakeConn, m zeowire.Message) bool {
		if m.Name == zeowire.TPCFinish {
			c.async(zeowire.Info, zeowire.Dict())
		}
		return false
	})
	txn, err := s.Begin(bounded(t), raidstorage.Meta{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := txn.Vote(bounded(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := txn.Finish(bounded(t)); err != nil {
		t.Fatal(err)
	}
	wantLoads(0)
}

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	const limit = 10_000
	k := newCache(limit)
	k.adopt(1000, true)
	for oid := range raidstorage.OID(100) {
		k.begin(oid)
		k.loaded(1, oid, raidstorage.Revision{Data: make([]byte, 100*oid), Serial: raidstorage.TID(oid) + 1})
		k.end(oid)
		if k.bytes > limit {
			t.Fatalf("%d bytes are kept", k.bytes)
		}
		if _, ok := k.get(oid, raidstorage.MaxTID); ok != (100*int64(oid)+revisionOverhead <= limit) {
			t.Errorf("object %v is kept: %v", oid, ok)
		}
	}
	if _, ok := k.get(1, raidstorage.MaxTID); ok {
		t.Error("the first object is kept")
	}
	for e := range k.objects {
		k.mu.Lock()
		for _, r := range k.objects[e] {
			k.removeLocked(r)
		}
		k.mu.Unlock()
	}
	if k.bytes != 0 || k.used.Len() != 0 {
		t.Errorf("%d bytes and %d revisions are left", k.bytes, k.used.Len())
	}
}
