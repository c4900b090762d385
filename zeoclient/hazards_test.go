package zeoclient

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// TestSendersDoNotOutliveTheConnection loses a connection while a transaction waits
// for room in front of a server that does not read.
func TestSendersDoNotOutliveTheConnection(t *testing.T) {
	t.Parallel()
	f := startFake(t)
	s := connectTo(t, f, nil)
	reads := make(chan struct{})
	defer close(reads)
	f.setHook(func(_ *fakeConn, m zeowire.Message) bool {
		if m.Name == zeowire.StoreA {
			<-reads
		}
		return false
	})
	txn, err := s.Begin(bounded(t), raidstorage.Meta{})
	if err != nil {
		t.Fatal(err)
	}
	for oid := range raidstorage.OID(20) {
		if err := txn.Store(bounded(t), oid, 0, make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	voted := make(chan error, 1)
	go func() {
		_, err := txn.Vote(bounded(t))
		voted <- err
	}()
	c := s.current()
	until(t, "a full queue", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.out.Len() > maxWaiting
	})
	f.cut()
	wantError[*DisconnectedError](t, "Vote", <-voted)
}

// TestInvalidationBeforeTheAnswerToRegister: a server may tell of a transaction
// already then. What was missed before it must not be forgotten for that.
func TestInvalidationBeforeTheAnswerToRegister(t *testing.T) {
	t.Parallel()
	f, s := cached(t)
	f.commit(10, fakeRecord{1, []byte("old")}, fakeRecord{2, []byte("other")})
	until(t, "transaction 10", func() bool { return s.notes.settled() == 10 })
	wantData(t, s, 1, raidstorage.MaxTID, "old", 0)
	told := make(chan raidstorage.Invalidation, 10)
	defer s.Subscribe(func(inv raidstorage.Invalidation) { told <- inv })()
	f.stop()
	f.mu.Lock()
	f.log = append(f.log, fakeTxn{20, []fakeRecord{{1, []byte("new")}}}, fakeTxn{30, []fakeRecord{{2, []byte("newer")}}})
	f.mu.Unlock()
	f.setHook(func(c *fakeConn, m zeowire.Message) bool {
		if m.Name == zeowire.Register {
			c.invalidate(30, []fakeRecord{{2, []byte("newer")}})
		}
		return false
	})
	f.listen(t)
	until(t, "reconnection", func() bool { _, err := s.LastTID(bounded(t)); return err == nil })
	wantData(t, s, 1, raidstorage.MaxTID, "new", 0)
	var got []raidstorage.Invalidation
	for range 2 {
		select {
		case inv := <-told:
			got = append(got, inv)
		case <-bounded(t).Done():
			t.Fatalf("only %v is told", got)
		}
	}
	want := []raidstorage.Invalidation{{TID: 20, OIDs: []raidstorage.OID{1}}, {TID: 30, OIDs: []raidstorage.OID{2}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("other transactions are told (-want +got):\n%s", diff)
	}
}

// TestWhatRepliesShowIsNotTakenBack: a reply may show a transaction before the server
// tells of it, and then the connection is lost.
func TestWhatRepliesShowIsNotTakenBack(t *testing.T) {
	t.Parallel()
	for name, look := range map[string]func(context.Context, *Storage) error{
		"LastTID":    func(ctx context.Context, s *Storage) error { _, err := s.LastTID(ctx); return err },
		"LoadBefore": func(ctx context.Context, s *Storage) error { _, err := s.LoadBefore(ctx, 1, 90); return err },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, s := cached(t)
			f.commit(10, fakeRecord{1, []byte("old")})
			until(t, "transaction 10", func() bool { return s.notes.settled() == 10 })
			f.mu.Lock()
			f.log = append(f.log, fakeTxn{20, []fakeRecord{{1, []byte("new")}}})
			f.mu.Unlock()
			if err := look(bounded(t), s); err != nil {
				t.Fatal(err)
			}
			f.stop()
			f.mu.Lock()
			f.log = f.log[:1]
			f.mu.Unlock()
			f.listen(t)
			until(t, "the refusal", func() bool {
				_, err := s.LastTID(bounded(t))
				if err == nil {
					t.Fatal("a server is used that lost what was seen")
				}
				behind, ok := errors.AsType[*BehindError](err)
				return ok && behind.Last == 10 && behind.Seen == 20
			})
		})
	}
}

func TestOwnTransactionsDoNotPileUpBehindASlowSubscriber(t *testing.T) {
	t.Parallel()
	var n notifier
	n.init()
	for tid := range raidstorage.TID(1000) {
		n.push(note{tid: tid + 1, own: true})
	}
	if len(n.queue) != 1 || n.queue[0].tid != 1000 || !n.queue[0].own {
		t.Errorf("%d notes wait", len(n.queue))
	}
}

// TestAbortThatIsNotAnsweredEndsTheConnection: the server's lock is not free, however
// much the server says otherwise.
func TestAbortThatIsNotAnsweredEndsTheConnection(t *testing.T) {
	t.Parallel()
	f := startFake(t)
	s := connectTo(t, f, func(o *Options) { o.CallTimeout = 2 * time.Second })
	f.setHook(func(_ *fakeConn, m zeowire.Message) bool { return m.Name == zeowire.TPCAbort })
	txn, err := s.Begin(bounded(t), raidstorage.Meta{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := txn.Vote(bounded(t)); err != nil {
		t.Fatal(err)
	}
	if err := txn.Abort(bounded(t)); err != nil {
		t.Fatal(err)
	}
	until(t, "another connection", func() bool {
		_, _ = s.LastTID(bounded(t))
		return f.count(zeowire.Register) > 1
	})
}

// TestFallbackEndsWithoutFailures: what is asked of the read-only server is answered
// by it, also when a writable one has been found meanwhile.
func TestFallbackEndsWithoutFailures(t *testing.T) {
	t.Parallel()
	readOnly, writable := startFake(t), startFake(t)
	readOnly.readOnly = true
	readOnly.log = []fakeTxn{{10, []fakeRecord{{1, []byte("data")}}}}
	writable.log = readOnly.log
	writable.stop()
	s := connectTo(t, readOnly, func(o *Options) {
		o.Addresses = append(o.Addresses, writable.address)
		o.ReadOnlyFallback, o.writableAgain = true, 5*time.Millisecond
	})
	asked, answer := make(chan struct{}), make(chan struct{})
	readOnly.setHook(func(_ *fakeConn, m zeowire.Message) bool {
		if m.Name == zeowire.LoadBefore {
			close(asked)
			<-answer
		}
		return false
	})
	loaded := make(chan error, 1)
	go func() {
		_, err := s.LoadBefore(bounded(t), 1, raidstorage.MaxTID)
		loaded <- err
	}()
	<-asked
	writable.listen(t)
	until(t, "the change to the writable server", func() bool { return !s.ReadOnly() })
	close(answer)
	if err := <-loaded; err != nil {
		t.Error(err)
	}
	until(t, "the end of the old connection", func() bool {
		readOnly.mu.Lock()
		defer readOnly.mu.Unlock()
		return len(readOnly.conns) == 0
	})
}
