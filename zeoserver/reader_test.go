package zeoserver_test

import (
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// holdLoads holds up all loads of an object until the test releases them, and tells of
// each.
func (s *stallStorage) holdLoads(t *testing.T, o raidstorage.OID) (arrived chan struct{}, release func()) {
	g := newGate(t)
	arrived = make(chan struct{}, 100)
	hold := func(oid raidstorage.OID) {
		if oid == o {
			arrived <- struct{}{}
			<-g.open
		}
	}
	s.loaded.Store(&hold)
	return arrived, g.release
}

func TestLoadsThatHangHoldUpNothingBehindThem(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, s *stallStorage, srv *server) {
		c := srv.connect(t)
		first := c.commit(write{1, 0, "one"}, write{2, 0, "two"})
		arrived, release := s.holdLoads(t, 2)
		var hanging []zeowire.ID
		for i := range 5 {
			hanging = append(hanging, c.begin("loadBefore", oid(2), tid(first+1)))
			<-arrived
			c.must("ping")
			if got, _, _ := c.load(1, raidstorage.MaxTID); got != "one" {
				t.Errorf("got %q of another object", got)
			}
			c.commit(write{uint64(10 + i), 0, "new"})
		}
		release()
		answered := make(map[zeowire.ID]bool)
		for range hanging {
			m := c.message()
			if got, _, _ := revision(t, m.Args); got != "two" {
				t.Errorf("got %q of an object whose load took its time", got)
			}
			answered[m.ID] = true
		}
		for _, id := range hanging {
			if !answered[id] {
				t.Errorf("load %v was not answered", id)
			}
		}
	})
}

func TestLoadsOfASlowStorageAreUnderWayTogether(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, s *stallStorage, srv *server) {
		c := srv.connect(t)
		first := c.commit(write{1, 0, "one"})
		arrived, release := s.holdLoads(t, 1)
		const loads = 20
		for range loads { // all in one write
			c.lastID++
			if err := c.w.LoadBefore(zeowire.IntID(c.lastID), 1, first+1); err != nil {
				t.Fatal(err)
			}
		}
		c.flush()
		for range loads {
			<-arrived
		}
		release()
		for range loads {
			if m := c.message(); m.Flag != zeowire.Sync {
				t.Errorf("a load failed: %v", m.Args)
			}
		}
	})
}

func TestAReplyDoesNotWaitForALoadBehindIt(t *testing.T) {
	t.Parallel()
	s := newStall()
	srv := serve(t, serving(s))
	c := srv.connect(t)
	c.commit(write{1, 0, "one"}, write{2, 0, "two"})
	arrived, release := s.holdLoads(t, 2)
	for _, o := range []raidstorage.OID{1, 2} { // both in one write
		c.lastID++
		if err := c.w.LoadBefore(zeowire.IntID(c.lastID), o, raidstorage.MaxTID); err != nil {
			t.Fatal(err)
		}
	}
	c.flush()
	if v, e := c.wait(zeowire.IntID(c.lastID - 1)); e != nil {
		t.Fatal(e)
	} else if got, _, _ := revision(t, v); got != "one" {
		t.Errorf("got %q", got)
	}
	<-arrived
	release()
	if _, e := c.wait(zeowire.IntID(c.lastID)); e != nil {
		t.Fatal(e)
	}
}

func TestAClientThatGoesAwayDuringALoadGivesBackItsLock(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, s *stallStorage, srv *server) {
		leaving, other := srv.connect(t), srv.connect(t)
		first := other.commit(write{1, 0, "one"})
		leaving.stage(1, write{2, 0, "two"})
		leaving.must("vote", number(1))
		arrived, release := s.holdLoads(t, 1)
		leaving.begin("loadBefore", oid(1), tid(first+1))
		<-arrived
		leaving.nc.Close()
		other.commit(write{3, 0, "three"}) // waits for the lock
		release()
	})
}

func TestShutdownWhileALoadHangs(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, s *stallStorage, srv *server) {
		c := srv.connect(t)
		first := c.commit(write{1, 0, "one"})
		arrived, release := s.holdLoads(t, 1)
		c.begin("loadBefore", oid(1), tid(first+1))
		<-arrived
		ended := make(chan error, 1)
		go func() { ended <- srv.Close() }()
		c.closed()
		release()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
