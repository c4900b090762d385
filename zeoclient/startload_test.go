package zeoclient

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// taken takes the answer of a load.
type taken struct {
	t       testing.TB
	rev     raidstorage.Revision
	err     error
	answers atomic.Int32
	flushed chan struct{} // closed by the first Flush
}

func (a *taken) Loaded(rev raidstorage.Revision, err error) {
	a.rev, a.err = rev, err
	if a.answers.Add(1) > 1 {
		a.t.Error("answered twice")
	}
}

func (a *taken) Flush() {
	if a.answers.Load() == 0 {
		a.t.Error("flushed before it was answered")
	}
	select {
	case <-a.flushed:
	default:
		close(a.flushed)
	}
}

// startLoad begins a load, which is possible.
func startLoad(t testing.TB, s *Storage, oid raidstorage.OID, before raidstorage.TID) *taken {
	t.Helper()
	a, held := holdLoad(t, s, oid, before)
	held.SendLoads()
	return a
}

// holdLoad begins a load, and does not send it.
func holdLoad(t testing.TB, s *Storage, oid raidstorage.OID, before raidstorage.TID) (*taken, raidstorage.LoadSender) {
	t.Helper()
	a := &taken{t: t, flushed: make(chan struct{})}
	held, begun := s.StartLoad(oid, before, a)
	if !begun {
		t.Fatal("the load was not begun")
	}
	return a, held
}

// wait waits until the answer is to be passed on.
func (a *taken) wait() (raidstorage.Revision, error) {
	a.t.Helper()
	select {
	case <-a.flushed:
	case <-bounded(a.t).Done():
		a.t.Fatal("no answer")
	}
	return a.rev, a.err
}

// someLoads is a server with revisions of object 1, and a storage over it.
func someLoads(t testing.TB, change func(*Options)) (*fake, *Storage) {
	f := startFake(t)
	f.log = []fakeTxn{{10, []fakeRecord{{1, []byte("one")}}}, {20, []fakeRecord{{1, []byte("two")}}}}
	return f, connectTo(t, f, change)
}

func TestStartedLoadsAnswerAsOthersDo(t *testing.T) {
	t.Parallel()
	_, s := someLoads(t, nil)
	for _, oid := range []raidstorage.OID{1, 2} {
		for _, before := range []raidstorage.TID{1, 10, 11, 20, 21, raidstorage.MaxTID, raidstorage.MaxTID + 5} {
			got, gotErr := startLoad(t, s, oid, before).wait()
			want, wantErr := s.LoadBefore(bounded(t), oid, before)
			if diff := cmp.Diff(got, want); diff != "" || (gotErr == nil) != (wantErr == nil) || gotErr != nil && gotErr.Error() != wantErr.Error() {
				t.Errorf("%v before %v: %v, %v: %s", oid, before, gotErr, wantErr, diff)
			}
		}
	}
}

// TestHeldLoads: loads that begin together leave together, with what is sent after them, or
// when they are many.
func TestHeldLoads(t *testing.T) {
	t.Parallel()
	f, s := someLoads(t, nil)
	queued := func() int {
		c := s.current()
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.out.Len()
	}
	answered := func(all ...*taken) {
		t.Helper()
		for _, a := range all {
			if rev, err := a.wait(); err != nil || string(rev.Data) != "one" {
				t.Errorf("%q, %v", rev.Data, err)
			}
		}
	}
	one, held := holdLoad(t, s, 1, 15)
	two, again := holdLoad(t, s, 1, 15)
	if held != again {
		t.Error("the same connection has two senders")
	}
	if queued() == 0 {
		t.Error("the loads are not held back")
	}
	held.SendLoads()
	if n := queued(); n > 0 {
		t.Errorf("%d bytes are held back still", n)
	}
	answered(one, two)

	one, _ = holdLoad(t, s, 1, 15)
	if _, err := s.LoadBefore(bounded(t), 1, 15); err != nil {
		t.Fatal(err)
	}
	answered(one)

	var many []*taken
	for queued() < maxHeld/2 {
		a, _ := holdLoad(t, s, 1, 15)
		many = append(many, a)
	}
	for queued() >= maxHeld/2 {
		a, _ := holdLoad(t, s, 1, 15)
		many = append(many, a)
	}
	held.SendLoads()
	answered(many...)

	one, held = holdLoad(t, s, 1, 15)
	f.cut()
	if _, err := one.wait(); raidstorage.Classify(err) != raidstorage.ClassFailure {
		t.Errorf("cut: %v", err)
	}
	held.SendLoads() // of a connection that has ended: nothing to do
}

func TestLoadsThatAreNotStarted(t *testing.T) {
	t.Parallel()
	f, s := someLoads(t, func(o *Options) { o.CacheBytes = 1 << 20 })
	if rev, err := startLoad(t, s, 1, raidstorage.MaxTID).wait(); err != nil || string(rev.Data) != "two" {
		t.Fatalf("%q, %v", rev.Data, err)
	}
	a := &taken{t: t}
	if _, begun := s.StartLoad(1, raidstorage.MaxTID, a); begun {
		t.Error("a load of what is in the cache was begun")
	}
	f.stop()
	until(t, "the end of the connection", func() bool { c := s.current(); return c == nil || c.failure() != nil })
	if _, begun := s.StartLoad(1, 15, a); begun {
		t.Error("a load was begun without a connection")
	}
	f.listen(t)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, begun := s.StartLoad(1, 15, a); begun || a.answers.Load() > 0 {
		t.Error("a load was begun after Close, or answered")
	}
}

func TestStartedLoadsEndWithTheConnection(t *testing.T) {
	t.Parallel()
	f, s := someLoads(t, nil)
	asked := make(chan struct{}, 10)
	f.setHook(func(_ *fakeConn, m zeowire.Message) bool {
		if m.Name == zeowire.LoadBefore {
			asked <- struct{}{}
			return true
		}
		return false
	})
	cut := []*taken{startLoad(t, s, 1, 15), startLoad(t, s, 1, 25)}
	<-asked
	<-asked
	f.cut()
	for _, l := range cut {
		if _, err := l.wait(); raidstorage.Classify(err) != raidstorage.ClassFailure {
			t.Errorf("cut: %v", err)
		}
	}
	until(t, "reconnection", func() bool { _, err := s.LastTID(bounded(t)); return err == nil })
	a := startLoad(t, s, 1, 15)
	<-asked
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if a.answers.Load() != 1 || !errors.Is(a.err, raidstorage.ErrClosed) {
		t.Errorf("after Close there are %d answers: %v", a.answers.Load(), a.err)
	}
}

// TestStartedLoadsThatTakeTooLong: others are answered meanwhile, so the connection stays,
// and the answer that comes too late is dropped. Then the server falls silent.
func TestStartedLoadsThatTakeTooLong(t *testing.T) {
	t.Parallel()
	f, s := someLoads(t, func(o *Options) { o.CallTimeout = 2 * time.Second })
	held := make(chan zeowire.Message, 10)
	var conn atomic.Pointer[fakeConn]
	f.setHook(func(c *fakeConn, m zeowire.Message) bool {
		if m.Name != zeowire.LoadBefore {
			return false
		}
		conn.Store(c)
		held <- m
		return true
	})
	a := startLoad(t, s, 1, 15)
	m := <-held
	if _, err := s.LastTID(bounded(t)); err != nil {
		t.Fatal(err)
	}
	_, err := a.wait()
	if got := wantError[*TimeoutError](t, "the load", err); got.Call != zeowire.LoadBefore {
		t.Errorf("the error is about %s", got.Call)
	}
	conn.Load().reply(m, zeowire.Text("too late"))
	if _, err := s.LastTID(bounded(t)); err != nil || f.count(zeowire.Register) != 1 {
		t.Errorf("%v, and %d registrations", err, f.count(zeowire.Register))
	}
	b := startLoad(t, s, 1, 15)
	<-held
	_, err = b.wait()
	wantError[*TimeoutError](t, "the load", err)
	until(t, "another connection", func() bool { _, err := s.LastTID(bounded(t)); return err == nil })
	if n := f.count(zeowire.Register); n < 2 {
		t.Errorf("registered %d times: a silent connection was kept", n)
	}
}

// TestAnswersAreFlushedTogether: of many answers that come at once, each is flushed, and
// a reply that is none ends the connection with all of them.
func TestAnswersAreFlushedTogether(t *testing.T) {
	t.Parallel()
	f, s := someLoads(t, nil)
	const loads = 300
	var all []*taken
	ready := make(chan struct{})
	f.setHook(func(c *fakeConn, m zeowire.Message) bool {
		if m.Name == zeowire.LoadBefore {
			<-ready
		}
		return false
	})
	for range loads {
		all = append(all, startLoad(t, s, 1, 15))
	}
	close(ready)
	for _, a := range all {
		if rev, err := a.wait(); err != nil || string(rev.Data) != "one" {
			t.Errorf("%q, %v", rev.Data, err)
		}
	}
	f.setHook(func(c *fakeConn, m zeowire.Message) bool {
		if m.Name == zeowire.LoadBefore {
			c.reply(m, zeowire.Text("no revision"))
			return true
		}
		return false
	})
	a := startLoad(t, s, 1, 15)
	_, err := a.wait()
	wantError[*ProtocolError](t, "a reply that is no revision", err)
}
