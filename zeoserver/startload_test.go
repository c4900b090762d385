package zeoserver_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
	"github.com/zeoraid/raidstorage/zeoserver"
)

// startingStorage answers loads later, and holds them back until it is told to send them.
type startingStorage struct {
	*stallStorage
	started sync.WaitGroup
	mu      sync.Mutex // guards the fields below
	held    []func()
	sent    []int // how many loads left together
}

var _ raidstorage.LoadStarter = (*startingStorage)(nil)

// Objects whose load is never answered, not begun, and answered with an error.
const (
	never   raidstorage.OID = 1000
	refused raidstorage.OID = 1001
	broken  raidstorage.OID = 1002
)

var errBroken = errors.New("broken")

func (s *startingStorage) StartLoad(oid raidstorage.OID, before raidstorage.TID, to raidstorage.LoadAnswer) (raidstorage.LoadSender, bool) {
	switch oid {
	case refused:
		return nil, false
	case never:
		return nil, true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = append(s.held, func() {
		rev, err := s.LoadBefore(context.Background(), oid, before)
		if oid == broken {
			err = errBroken
		}
		to.Loaded(rev, err)
		to.Flush()
	})
	return s, true
}

func (s *startingStorage) SendLoads() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.held) > 0 {
		s.sent = append(s.sent, len(s.held))
	}
	for _, load := range s.held {
		s.started.Go(load)
	}
	s.held = nil
}

// TestLoadsThatComeTogetherLeaveTogether: those in one packet of a client are sent at once;
// what may wait behind them, another call, one that has to be waited for, the end of the
// slots, sends them first.
func TestLoadsThatComeTogetherLeaveTogether(t *testing.T) {
	t.Parallel()
	s := &startingStorage{stallStorage: newStall()}
	t.Cleanup(s.started.Wait)
	cfg := serving(s)
	cfg.MaxInFlight = 8
	srv := serve(t, cfg)
	c := srv.connect(t)
	c.commit(write{1, 0, "one"}, write{uint64(refused), 0, "refused"})
	last := raidstorage.OID(0) // stands for the call lastTransaction
	for name, test := range map[string]struct {
		calls []raidstorage.OID
		want  []int
	}{
		"a packet":               {[]raidstorage.OID{1, 1, 1, 1, 1, 1}, []int{6}},
		"another call":           {[]raidstorage.OID{1, 1, last, 1}, []int{2, 1}},
		"one that is waited for": {[]raidstorage.OID{1, 1, refused, 1}, []int{2, 1}},
		"more than slots":        {[]raidstorage.OID{1, 1, 1, 1, 1, 1, 1, 1, 1}, []int{8, 1}},
	} {
		s.mu.Lock()
		s.sent = nil
		s.mu.Unlock()
		for _, o := range test.calls {
			if o == last {
				c.send("lastTransaction")
			} else {
				c.send("loadBefore", oid(uint64(o)), tid(raidstorage.MaxTID))
			}
		}
		c.flush()
		for range test.calls {
			if m := c.message(); !m.IsReply() {
				t.Fatalf("%s: got %v", name, m)
			}
		}
		s.mu.Lock()
		if diff := cmp.Diff(s.sent, test.want); diff != "" {
			t.Errorf("%s: left together (-), want (+):\n%s", name, diff)
		}
		s.mu.Unlock()
	}
}

// A client that is gone leaves no load behind that is never sent: its storage would take
// the server for one that does not answer.
func TestLoadsOfAClientThatLeavesAreSent(t *testing.T) {
	t.Parallel()
	s, srv := starting(t)
	c := srv.connect(t)
	c.send("loadBefore", oid(1), tid(raidstorage.MaxTID))
	if err := c.w.Raw([]byte("no message")); err != nil { // ends the connection
		t.Fatal(err)
	}
	c.flush()
	c.closed()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.held) > 0 || len(s.sent) != 1 {
		t.Errorf("%d loads are held back, those sent: %v", len(s.held), s.sent)
	}
}

// panickingSender is a storage with a bug.
type panickingSender struct{ *startingStorage }

func (s panickingSender) StartLoad(oid raidstorage.OID, before raidstorage.TID, to raidstorage.LoadAnswer) (raidstorage.LoadSender, bool) {
	_, begun := s.startingStorage.StartLoad(oid, before, to)
	return s, begun
}

func (s panickingSender) SendLoads() { panic("bug") }

func TestSendLoadsThatPanicsEndsOneConnection(t *testing.T) {
	t.Parallel()
	srv := serve(t, serving(panickingSender{&startingStorage{stallStorage: newStall()}}))
	c, other := srv.connect(t), srv.connect(t)
	c.send("loadBefore", oid(1), tid(raidstorage.MaxTID))
	c.flush()
	c.closed()
	other.must("lastTransaction")
	other.send("loadBefore", oid(1), tid(raidstorage.MaxTID)) // sent when the connection ends, by then
	if err := other.w.Raw([]byte("no message")); err != nil {
		t.Fatal(err)
	}
	other.flush()
	other.closed()
	srv.connect(t).must("lastTransaction")
}

// eachWay runs a test with a storage that is asked and waited for, and with one that
// answers later.
func eachWay(t *testing.T, test func(t *testing.T, s *stallStorage, srv *server)) {
	t.Run("waiting", func(t *testing.T) {
		t.Parallel()
		s := newStall()
		test(t, s, serve(t, serving(s)))
	})
	t.Run("started", func(t *testing.T) {
		t.Parallel()
		s, srv := starting(t)
		test(t, s.stallStorage, srv)
	})
}

func starting(t *testing.T) (*startingStorage, *server) {
	t.Helper()
	s := &startingStorage{stallStorage: newStall()}
	t.Cleanup(s.started.Wait) // when the server has ended, and gates are open
	return s, serve(t, serving(s))
}

func TestLoadsThatAreStarted(t *testing.T) {
	t.Parallel()
	_, srv := starting(t)
	c := srv.connect(t)
	first := c.commit(write{1, 0, "one"}, write{uint64(refused), 0, "refused"})
	second := c.commit(write{1, first, "two"})
	for _, want := range []struct {
		oid         uint64
		before      raidstorage.TID
		data        string
		serial, end raidstorage.TID
	}{
		{1, second, "one", first, second}, {1, raidstorage.MaxTID, "two", second, 0}, {uint64(refused), raidstorage.MaxTID, "refused", first, 0},
	} {
		if data, serial, end := c.load(want.oid, want.before); data != want.data || serial != want.serial || end != want.end {
			t.Errorf("%d before %v is %q of %v until %v, want %+v", want.oid, want.before, data, serial, end, want)
		}
	}
	if v, e := c.call("loadBefore", oid(1), tid(first)); e != nil || !v.IsNone() {
		t.Errorf("before the first revision there is %v, %v", v, e)
	}
	if _, e := c.call("loadBefore", oid(2), tid(raidstorage.MaxTID)); e == nil || e.Class != zeowire.ClassPOSKey {
		t.Errorf("an object that is not there: %v", e)
	}
	if _, e := c.call("loadBefore", oid(uint64(broken)), tid(raidstorage.MaxTID)); e == nil {
		t.Error("a load that failed has no error")
	}
}

// TestStartedLoadsThatAreNeverAnswered hold up nothing but their slots, not even the end.
func TestStartedLoadsThatAreNeverAnswered(t *testing.T) {
	t.Parallel()
	_, srv := starting(t)
	c := srv.connect(t)
	for range 10 {
		c.begin("loadBefore", oid(uint64(never)), tid(raidstorage.MaxTID))
	}
	first := c.commit(write{1, 0, "one"})
	if data, serial, _ := c.load(1, raidstorage.MaxTID); data != "one" || serial != first {
		t.Errorf("got %q of %v", data, serial)
	}
}

// TestStartedLoadsOfAClientThatDoesNotRead stop when there is no room, and what they
// bring is neither lost nor mixed up when it reads again; others are not held up.
func TestStartedLoadsOfAClientThatDoesNotRead(t *testing.T) {
	t.Parallel()
	s := &startingStorage{stallStorage: newStall()}
	t.Cleanup(s.started.Wait)
	cfg := serving(s)
	cfg.SendBufferBytes = 1 << 20
	cfg.MaxInFlight = 4
	srv := serve(t, cfg)
	lazy, other := srv.connect(t), srv.connect(t)
	const loads, size = 400, 100_000
	serial := other.commit(write{1, 0, strings.Repeat("x", size)}, write{2, 0, "two"})
	sent := make(chan error, 1)
	go func() {
		var w zeowire.Writer
		w.Encoding = lazy.w.Encoding
		for i := range loads {
			if err := w.LoadBefore(zeowire.IntID(int64(5000+i)), raidstorage.OID(1+i%2), raidstorage.MaxTID); err != nil {
				sent <- err
				return
			}
		}
		_, err := lazy.nc.Write(w.Bytes())
		sent <- err
	}()
	for range 100 {
		if data, _, _ := other.load(2, raidstorage.MaxTID); data != "two" {
			t.Fatalf("got %q", data)
		}
	}
	got := make(map[zeowire.ID]bool)
	for len(got) < loads {
		m := lazy.message()
		if m.Name != zeowire.Reply {
			continue // an invalidation
		}
		n, _ := m.ID.Int()
		data, of, _ := revision(t, m.Args)
		if want := []string{strings.Repeat("x", size), "two"}[n%2]; data != want || of != serial || got[m.ID] {
			t.Fatalf("load %d: %d bytes of %v, again: %v", n, len(data), of, got[m.ID])
		}
		got[m.ID] = true
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// BenchmarkStartedLoads compares both ways with one request on the way.
func BenchmarkStartedLoads(b *testing.B) {
	for _, way := range []string{"waiting", "started"} {
		b.Run(way, func(b *testing.B) {
			var s raidstorage.Storage = newStall()
			if way == "started" {
				s = &startingStorage{stallStorage: newStall()}
			}
			srv := serve(b, zeoserver.Config{Storages: map[string]raidstorage.Storage{"1": s}})
			c := srv.connect(b)
			c.commit(write{1, 0, "one"})
			b.ReportAllocs()
			for b.Loop() {
				c.load(1, raidstorage.MaxTID)
			}
		})
	}
}
