package zeoclient

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

func TestCallsFailFastWhileDisconnected(t *testing.T) {
	t.Parallel()
	f := startFake(t)
	s := connectTo(t, f, nil)
	txn, err := s.Begin(bounded(t), raidstorage.Meta{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := txn.Vote(bounded(t)); err != nil {
		t.Fatal(err)
	}
	f.stop()
	until(t, "the loss of the connection", func() bool {
		_, err := s.LastTID(bounded(t))
		if err == nil {
			return false
		}
		wantError[*DisconnectedError](t, "LastTID", err)
		return true
	})
	// Nothing of the transaction is left, and its lock is free.
	if _, err := txn.Finish(bounded(t)); raidstorage.Classify(err) != raidstorage.ClassFailure {
		t.Errorf("Finish returned %v", err)
	}
	other, err := s.Begin(bounded(t), raidstorage.Meta{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = other.Vote(bounded(t))
	wantError[*DisconnectedError](t, "Vote", err)
	f.listen(t)
	until(t, "reconnection", func() bool { return workload(bounded(t), s) == nil })
}

func TestServerThatComesBackBehindIsRefused(t *testing.T) {
	t.Parallel()
	f := startFake(t)
	f.log = []fakeTxn{{tid: 10}, {tid: 20}}
	s := connectTo(t, f, nil)
	f.stop()
	f.mu.Lock()
	f.log = f.log[:1]
	f.mu.Unlock()
	f.listen(t)
	until(t, "the refusal", func() bool {
		_, err := s.LastTID(bounded(t))
		behind, ok := errors.AsType[*BehindError](err)
		if ok && (behind.Last != 10 || behind.Seen != 20) {
			t.Errorf("got %v", behind)
		}
		return ok
	})
	f.mu.Lock()
	f.log = append(f.log, fakeTxn{tid: 20})
	f.mu.Unlock()
	until(t, "reconnection", func() bool {
		last, err := s.LastTID(bounded(t))
		return err == nil && last == 20
	})
}

func TestReadOnlyFallback(t *testing.T) {
	t.Parallel()
	readOnly, writable := startFake(t), startFake(t)
	readOnly.readOnly = true
	writable.stop()
	_, err := Open(bounded(t), Options{Addresses: []string{readOnly.address}})
	wantError[*raidstorage.ReadOnlyError](t, "Open", err)
	s := connectTo(t, readOnly, func(o *Options) {
		o.Addresses = append(o.Addresses, writable.address)
		o.ReadOnlyFallback, o.writableAgain = true, 5*time.Millisecond
	})
	if !s.ReadOnly() {
		t.Error("the storage is not read-only")
	}
	_, err = s.Begin(bounded(t), raidstorage.Meta{})
	wantError[*raidstorage.ReadOnlyError](t, "Begin", err)
	_, err = s.NewOIDs(bounded(t), 1)
	wantError[*raidstorage.ReadOnlyError](t, "NewOIDs", err)
	writable.listen(t)
	until(t, "the change to the writable server", func() bool { return !s.ReadOnly() })
	until(t, "a commit", func() bool { return workload(bounded(t), s) == nil })
}

func TestNotificationsAcrossConnections(t *testing.T) {
	t.Parallel()
	f := startFake(t)
	s := connectTo(t, f, nil)
	told := make(chan raidstorage.Invalidation, 100)
	cancel := s.Subscribe(func(inv raidstorage.Invalidation) { told <- inv })
	defer cancel()
	data := []byte("x")
	f.commit(10, fakeRecord{1, data}, fakeRecord{2, data}, fakeRecord{1, data})
	f.commit(20, fakeRecord{3, nil}) // the server does not name what was deleted
	f.stop()
	f.mu.Lock()
	f.log = append(f.log, fakeTxn{30, []fakeRecord{{4, data}, {5, nil}}}, fakeTxn{40, []fakeRecord{{6, data}}})
	f.mu.Unlock()
	f.listen(t)
	until(t, "reconnection", func() bool { last, err := s.LastTID(bounded(t)); return err == nil && last == 40 })
	f.commit(50, fakeRecord{7, data})
	want := []raidstorage.Invalidation{
		{TID: 10, OIDs: []raidstorage.OID{1, 2}}, {TID: 20, OIDs: []raidstorage.OID{3}}, {TID: 30, OIDs: []raidstorage.OID{4, 5}},
		{TID: 40, OIDs: []raidstorage.OID{6}}, {TID: 50, OIDs: []raidstorage.OID{7}},
	}
	var got []raidstorage.Invalidation
	for range want {
		select {
		case inv := <-told:
			got = append(got, inv)
		case <-bounded(t).Done():
			t.Fatalf("told only of %v", got)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("told of others (-want +got):\n%s", diff)
	}
}

func TestNewOIDsAfterARestart(t *testing.T) {
	t.Parallel()
	f := startFake(t)
	s := connectTo(t, f, nil)
	first, err := s.NewOIDs(bounded(t), 250)
	if err != nil {
		t.Fatal(err)
	}
	if n := f.count(zeowire.NewOIDs); n != 3 {
		t.Errorf("asked %d times for 250 oids", n)
	}
	f.stop()
	f.mu.Lock()
	f.nextOID = 0 // none of them was stored
	f.mu.Unlock()
	f.listen(t)
	var second []raidstorage.OID
	until(t, "reconnection", func() bool {
		second, err = s.NewOIDs(bounded(t), 100)
		return err == nil
	})
	if all := append(first, second...); !slices.IsSorted(all) || len(slices.Compact(all)) != 350 {
		t.Errorf("oids came twice: %v", all)
	}
}

func TestCancelledVoteFreesTheLock(t *testing.T) {
	t.Parallel()
	f := startFake(t)
	s := connectTo(t, f, nil)
	aborted := make(chan int64, 1)
	voting := make(chan struct{}, 1)
	var waiting int64
	f.setHook(func(c *fakeConn, m zeowire.Message) bool {
		args, _ := m.Args.Items()
		switch m.Name {
		case zeowire.Vote: // the lock is somebody else's
			waiting, _ = args[0].Int()
			voting <- struct{}{}
			return true
		case zeowire.TPCAbort:
			id, _ := args[0].Int()
			aborted <- id
		}
		return false
	})
	txn, err := s.Begin(bounded(t), raidstorage.Meta{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(bounded(t))
	go func() { <-voting; cancel() }()
	if _, err := txn.Vote(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("Vote returned %v", err)
	}
	if id := <-aborted; id != waiting {
		t.Errorf("transaction %d was aborted, want %d", id, waiting)
	}
	f.setHook(nil)
	if err := workload(bounded(t), s); err != nil {
		t.Error(err)
	}
}

func TestPackWaitsAsLongAsPingsAreAnswered(t *testing.T) {
	t.Parallel()
	f := startFake(t)
	s := connectTo(t, f, func(o *Options) { o.CallTimeout = 2 * time.Second })
	pings := 0
	var pack zeowire.Message
	f.setHook(func(c *fakeConn, m zeowire.Message) bool {
		switch m.Name {
		case zeowire.Pack:
			pack = m
			return true
		case zeowire.Ping:
			if pings++; pings == 3 {
				c.reply(pack, zeowire.None())
			}
		}
		return false
	})
	if err := s.Pack(bounded(t), raidstorage.PackOptions{Through: 1, GC: true}); err != nil {
		t.Errorf("Pack: %v", err)
	}
	f.setHook(func(_ *fakeConn, m zeowire.Message) bool { return m.Name == zeowire.Pack || m.Name == zeowire.Ping })
	err := s.Pack(bounded(t), raidstorage.PackOptions{Through: 1, GC: true})
	if got := wantError[*TimeoutError](t, "Pack", err); got.Call != zeowire.Ping {
		t.Errorf("the error is %v", got)
	}
	for _, opts := range []raidstorage.PackOptions{{}, {GC: true, Decided: true}} {
		if err := s.Pack(bounded(t), opts); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("Pack with %+v returned %v", opts, err)
		}
	}
}

func TestPackTimeIsNotBeforeTheTID(t *testing.T) {
	t.Parallel()
	for n := range 1000 {
		through := raidstorage.TIDFromTime(time.Date(1995, 1, 31, 23, 59, 59, 999_000_000, time.UTC).Add(time.Duration(n)*9_876_543_210_987)) + raidstorage.TID(n)
		if got := stamp(packTime(through)); got < through || got > through+64 {
			t.Errorf("the pack time of %v comes to %v", through, got)
		}
	}
}
