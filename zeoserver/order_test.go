package zeoserver_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/zeoserver"
)

func serving(s raidstorage.Storage) zeoserver.Config {
	return zeoserver.Config{Storages: map[string]raidstorage.Storage{"1": s}}
}

func TestALoadThatACommitOvertookIsNotCalledCurrent(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, s *stallStorage, srv *server) {
		writer, reader := srv.connect(t), srv.connect(t)
		first := writer.commit(write{1, 0, "one"})
		reader.invalidated()

		g := newGate(t)
		hold := func(raidstorage.OID) { g.pass() }
		s.loaded.Store(&hold)
		id := reader.begin("loadBefore", oid(1), tid(first+1))
		<-g.arrived
		second := writer.commit(write{1, first, "two"})
		if got, _ := reader.invalidated(); got != second {
			t.Fatalf("invalidated %v, not %v", got, second)
		}
		g.release()
		v, e := reader.wait(id)
		if e != nil {
			t.Fatal(e)
		}
		got, serial, end := revision(t, v)
		if got != "one" || serial != first || end != second {
			t.Errorf("got %q of %v until %v, want one of %v until %v", got, serial, end, first, second)
		}
	})
}

func TestALoadOfTheCurrentRevisionIsDoneAgainAfterACommit(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, s *stallStorage, srv *server) {
		writer, reader := srv.connect(t), srv.connect(t)
		first := writer.commit(write{1, 0, "one"})

		g := newGate(t)
		hold := func(raidstorage.OID) { g.pass() }
		s.loaded.Store(&hold)
		id := reader.begin("loadBefore", oid(1), tid(raidstorage.MaxTID))
		<-g.arrived
		missing := reader.begin("loadBefore", oid(2), tid(raidstorage.MaxTID))
		if _, e := reader.wait(missing); e == nil || e.Class != zeowire.ClassPOSKey {
			t.Fatalf("another load was held up: %v", e)
		}
		second := writer.commit(write{1, first, "two"})
		for got := first; got < second; {
			got, _ = reader.invalidated()
		}
		g.release()
		v, e := reader.wait(id)
		if e != nil {
			t.Fatal(e)
		}
		if got, serial, end := revision(t, v); got != "two" || serial != second || end != 0 {
			t.Errorf("got %q of %v until %v, want two of %v", got, serial, end, second)
		}
	})
}

func TestALoadOfTheCommittersOwnIsOrderedByItsFinish(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, s *stallStorage, srv *server) {
		c := srv.connect(t)
		first := c.commit(write{1, 0, "one"})
		g := newGate(t)
		hold := func(raidstorage.OID) { g.pass() }
		s.loaded.Store(&hold)
		id := c.begin("loadBefore", oid(1), tid(first+1))
		<-g.arrived
		second := c.commit(write{1, first, "two"})
		g.release()
		v, e := c.wait(id)
		if e != nil {
			t.Fatal(e)
		}
		if _, serial, end := revision(t, v); serial != first || end != second {
			t.Errorf("got %v until %v, want %v until %v", serial, end, first, second)
		}
	})
}

func TestAnObjectCreatedWhileItIsLoadedIsFound(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, s *stallStorage, srv *server) {
		writer, reader := srv.connect(t), srv.connect(t)
		g := newGate(t)
		hold := func(raidstorage.OID) { g.pass() }
		s.loaded.Store(&hold)
		id := reader.begin("loadBefore", oid(1), tid(raidstorage.MaxTID))
		<-g.arrived
		writer.commit(write{1, 0, "one"})
		reader.invalidated()
		g.release()
		v, e := reader.wait(id)
		if e != nil {
			t.Fatal(e)
		}
		if got, _, _ := revision(t, v); got != "one" {
			t.Errorf("got %q", got)
		}
	})
}

// Who asks for the last tid while it has the lock is told of a transaction whose finish
// is under way: not before it is published, nor is an older one the last.
func TestTheLastTransactionUnderTheLockCountsFinishesUnderWay(t *testing.T) {
	t.Parallel()
	s := newStall()
	srv := serve(t, serving(s))
	one, two, other := srv.connect(t), srv.connect(t), srv.connect(t)
	g := newGate(t)
	defer g.release()
	hold := func(raidstorage.TID) { g.pass() }
	s.finished.Store(&hold)
	one.stage(1, write{1, 0, "one"})
	one.must("vote", number(1))
	finish := one.begin("tpc_finish", number(1))
	<-g.arrived
	two.stage(1, write{2, 0, "two"})
	two.must("vote", number(1))
	asked := two.begin("lastTransaction")
	if got := other.must("lastTransaction"); !got.Equal(zeowire.TID(0)) {
		t.Errorf("others hear of %v, which is not published", got)
	}
	g.release()
	v, _ := one.wait(finish)
	want, _ := v.TID()
	v, _ = two.wait(asked)
	if got, _ := v.TID(); got != want {
		t.Errorf("the last tid under the lock is %v, want %v", got, want)
	}
}

func TestOverlappingFinishesArePublishedInOrder(t *testing.T) {
	t.Parallel()
	s := newStall()
	srv := serve(t, serving(s))
	one, two, other := srv.connect(t), srv.connect(t), srv.connect(t)
	g := newGate(t)
	firstTID := make(chan raidstorage.TID, 2)
	hold := func(tid raidstorage.TID) {
		firstTID <- tid
		g.pass()
	}
	s.finished.Store(&hold)
	one.stage(1, write{1, 0, "one"})
	one.must("vote", number(1))
	id := one.begin("tpc_finish", number(1))
	<-g.arrived
	// The first one is in the storage, and its finish has not returned. The second
	// one may commit, but neither the others nor its client hear of it yet.
	two.stage(1, write{2, 0, "two"})
	two.must("vote", number(1))
	id2 := two.begin("tpc_finish", number(1))
	srv.until(t, "two commits", func(st zeoserver.Status) bool { return st.Commits == 1 && st.ActiveTxns == 1 })
	if got := other.must("lastTransaction"); !got.Equal(zeowire.TID(0)) {
		t.Errorf("lastTransaction tells %v of what is not published", got)
	}
	g.release()
	v1, _ := one.wait(id)
	v2, _ := two.wait(id2)
	tid1, _ := v1.TID()
	tid2, _ := v2.TID()
	if want := <-firstTID; tid1 != want || tid2 <= tid1 {
		t.Errorf("tids %v and %v, the storage's first %v", tid1, tid2, want)
	}
	a, oidsA := other.invalidated()
	b, oidsB := other.invalidated()
	if a != tid1 || b != tid2 || !slices.Equal(oidsA, []uint64{1}) || !slices.Equal(oidsB, []uint64{2}) {
		t.Errorf("invalidations %v %v, %v %v", a, oidsA, b, oidsB)
	}
	if got, _ := two.invalidated(); got != tid1 {
		t.Errorf("the second committer was told %v first", got)
	}
}

func TestForeignTransactionsAreInvalidatedInOrder(t *testing.T) {
	t.Parallel()
	mine := memstorage.New("mem")
	theirs := mine.Another("other")
	defer theirs.Close()
	srv := serve(t, serving(mine))
	c, reader := srv.connect(t), srv.connect(t)
	first := c.commit(write{8, 0, "eight"})
	second := fill(t, theirs, 3, 10)
	third := c.commit(write{9, 0, "nine"})
	var tids []raidstorage.TID
	var oids [][]uint64
	for range 3 {
		tid, o := reader.invalidated()
		tids, oids = append(tids, tid), append(oids, o)
	}
	if diff := cmp.Diff(tids, []raidstorage.TID{first, second, third}); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(oids, [][]uint64{{8}, {1, 2, 3}, {9}}); diff != "" {
		t.Error(diff)
	}
	if got, _ := c.invalidated(); got != second {
		t.Errorf("the committer was told %v", got)
	}
}

// TestRandomOrder has writers and readers work at random, and checks what each
// connection receives: tids that rise, and no revision called current after the
// invalidation that ends it.
func TestRandomOrder(t *testing.T) {
	t.Parallel()
	const seed, objects, writers, commits = 20261125, 5, 3, 60
	t.Logf("seed %d", seed)
	eachWay(t, func(t *testing.T, s *stallStorage, srv *server) {
		setup := srv.connect(t)
		var all []write
		for o := range uint64(objects) {
			all = append(all, write{o + 1, 0, "start"})
		}
		start := setup.commit(all...)
		var group sync.WaitGroup
		done := make(chan struct{})
		for n := range 3 {
			c := srv.connect(t)
			group.Go(func() { c.watch(n, objects, start, done) })
		}
		var work sync.WaitGroup
		for n := range writers {
			c := srv.connect(t)
			work.Go(func() {
				random := rand.New(rand.NewPCG(seed, uint64(n)))
				for i := range commits {
					c.changeOne(random, objects, fmt.Sprint(n, i))
				}
			})
		}
		work.Wait()
		close(done)
		group.Wait()
	})
}

// changeOne commits a change of one object, or fails with a conflict.
func (c *client) changeOne(random *rand.Rand, objects int, text string) {
	o := uint64(random.IntN(objects) + 1)
	_, serial, _ := c.load(o, raidstorage.MaxTID)
	c.lastID++
	txn := 1000 + c.lastID
	c.stage(txn, write{o, serial, text})
	if _, e := c.call("vote", number(txn)); e != nil {
		if e.Class != zeowire.ClassConflict {
			c.t.Errorf("vote: %v", e)
		}
		return
	}
	c.must("tpc_finish", number(txn))
}

// watch loads all the time and checks what it is told.
func (c *client) watch(n, objects int, last raidstorage.TID, done chan struct{}) {
	random := rand.New(rand.NewPCG(7, uint64(n)))
	ended := make(map[uint64]raidstorage.TID)
	asked := make(map[zeowire.ID]uint64)
	for range 16 {
		o := uint64(random.IntN(objects) + 1)
		asked[c.begin("loadBefore", oid(o), tid(raidstorage.MaxTID))] = o
	}
	for len(asked) > 0 {
		m := c.message()
		if m.Name == "invalidateTransaction" {
			got, oids := invalidationOf(c.t, m)
			if got <= last {
				c.t.Errorf("tid %v after %v", got, last)
			}
			last = got
			for _, o := range oids {
				ended[o] = got
			}
			continue
		}
		o := asked[m.ID]
		delete(asked, m.ID)
		if _, serial, end := revision(c.t, m.Args); end == 0 && serial < ended[o] {
			c.t.Errorf("object %d of %v is called current after %v ended it", o, serial, ended[o])
		}
		select {
		case <-done:
		default:
			o := uint64(random.IntN(objects) + 1)
			asked[c.begin("loadBefore", oid(o), tid(raidstorage.MaxTID))] = o
		}
	}
}

func TestReconnectingClientsLearnWhatChanged(t *testing.T) {
	t.Parallel()
	s := memstorage.New("mem")
	var tids []raidstorage.TID
	for i := range 10 {
		ctx := context.Background()
		tx, err := s.Begin(ctx, raidstorage.Meta{})
		if err != nil {
			t.Fatal(err)
		}
		tx.Store(ctx, raidstorage.OID(i+1), 0, []byte("x"))
		if _, err := tx.Vote(ctx); err != nil {
			t.Fatal(err)
		}
		tid, err := tx.Finish(ctx)
		if err != nil {
			t.Fatal(err)
		}
		tids = append(tids, tid)
	}
	cfg := serving(s)
	cfg.InvalidationQueueSize = 4
	srv := serve(t, cfg)
	c := srv.connect(t)
	ask := func(since raidstorage.TID) (raidstorage.TID, []uint64, bool) {
		v := c.must("getInvalidations", tid(since))
		items, ok := v.Items()
		if !ok {
			return 0, nil, false
		}
		got, _ := items[0].TID()
		oids := oidsOf(t, items[1])
		slices.Sort(oids)
		return got, oids, true
	}
	if got, oids, ok := ask(tids[7]); !ok || got != tids[9] || !slices.Equal(oids, []uint64{9, 10}) {
		t.Errorf("from the queue that was filled at the start: %v %v %v", got, oids, ok)
	}
	if got, oids, ok := ask(tids[9]); !ok || got != tids[9] || len(oids) != 0 {
		t.Errorf("of the last one: %v %v %v", got, oids, ok)
	}
	if _, _, ok := ask(tids[1]); ok {
		t.Error("the queue says it knows what it cannot")
	}
	last := c.commit(write{1, tids[0], "y"}, write{20, 0, "z"})
	if got, oids, ok := ask(tids[8]); !ok || got != last || !slices.Equal(oids, []uint64{1, 10, 20}) {
		t.Errorf("after a commit: %v %v %v", got, oids, ok)
	}
}

func TestInvalidationAgeLooksIntoTheLog(t *testing.T) {
	t.Parallel()
	s := memstorage.New("mem")
	cfg := serving(s)
	cfg.InvalidationQueueSize, cfg.InvalidationAge = 1, 1e12
	srv := serve(t, cfg)
	c := srv.connect(t)
	first := c.commit(write{1, 0, "a"})
	c.commit(write{2, 0, "b"})
	third := c.commit(write{3, 0, "c"})
	c.commit(write{4, 0, "d"})
	last := c.commit(write{1, first, "e"})
	v := c.must("getInvalidations", tid(third))
	items, ok := v.Items()
	if !ok {
		t.Fatalf("got %v", v)
	}
	if got, _ := items[0].TID(); got != last || !slices.Equal(oidsOf(t, items[1]), []uint64{4, 1}) {
		t.Errorf("got %v", v)
	}
}
