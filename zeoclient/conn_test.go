package zeoclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// bounded ends when what must happen did not.
func bounded(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// connectTo opens a client, which the test's end closes.
func connectTo(t testing.TB, f *fake, change func(*Options)) *Storage {
	t.Helper()
	opts := Options{Addresses: []string{f.address}, TempDir: t.TempDir()}
	if change != nil {
		change(&opts)
	}
	s, err := Open(bounded(t), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// until tries again until ok; every try may wait for an attempt to connect.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ctx := bounded(t)
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s did not happen", what)
		case <-ticker.C:
		}
	}
}

func wantError[E error](t testing.TB, what string, err error) E {
	t.Helper()
	got, ok := errors.AsType[E](err)
	if !ok {
		t.Fatalf("%s: got error %v (%T)", what, err, err)
	}
	return got
}

// workload uses a storage in every way, until an error.
func workload(ctx context.Context, s *Storage) error {
	oids, err := s.NewOIDs(ctx, 2)
	if err != nil {
		return fmt.Errorf("new oids: %w", err)
	}
	txn, err := s.Begin(ctx, raidstorage.Meta{})
	if err != nil {
		return err
	}
	defer func() { _ = txn.Abort(ctx) }()
	if err := txn.Store(ctx, oids[0], 0, []byte("data")); err != nil {
		return err
	}
	const blobRecord = "\x80\x03cZODB.blob\nBlob\n.\x80\x03N."
	content := strings.Repeat("blob", 40000)
	if err := raidstorage.StoreBlob(ctx, txn, oids[1], 0, []byte(blobRecord), strings.NewReader(content)); err != nil {
		return err
	}
	if _, err := txn.Vote(ctx); err != nil {
		return fmt.Errorf("vote: %w", err)
	}
	tid, err := txn.Finish(ctx)
	if err != nil {
		return fmt.Errorf("finish: %w", err)
	}
	r, err := s.LoadBefore(ctx, oids[0], raidstorage.MaxTID)
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	if string(r.Data) != "data" || r.Serial != tid {
		return fmt.Errorf("loaded %q of %v", r.Data, r.Serial)
	}
	for txn, err := range s.Iterate(ctx, tid, tid) {
		if err != nil {
			return fmt.Errorf("iterate: %w", err)
		}
		for rec, err := range txn.Records {
			if err != nil {
				return fmt.Errorf("records: %w", err)
			}
			if rec.OpenBlob == nil {
				continue
			}
			blob, err := rec.OpenBlob(ctx)
			if err != nil {
				return fmt.Errorf("open blob: %w", err)
			}
			got, err := io.ReadAll(blob)
			if err = errors.Join(err, blob.Close()); err != nil || string(got) != content {
				return fmt.Errorf("the blob has %d bytes, %w", len(got), err)
			}
		}
	}
	if _, err := s.UndoLog(ctx, 0, 5, nil); err != nil {
		return fmt.Errorf("undo log: %w", err)
	}
	if _, err := s.LastTID(ctx); err != nil {
		return fmt.Errorf("last tid: %w", err)
	}
	return nil
}

func TestWorkload(t *testing.T) {
	t.Parallel()
	for _, encoding := range []zeowire.Encoding{zeowire.Pickle, zeowire.Msgpack} {
		f := startFake(t)
		f.speak(encoding)
		if err := workload(bounded(t), connectTo(t, f, nil)); err != nil {
			t.Errorf("%v: %v", encoding, err)
		}
	}
}

// TestConnectionLostAtEveryMessage cuts the connection instead of serving message n,
// for each n: all that is under way fails as a failure, nothing hangs, and the storage
// works again afterwards.
func TestConnectionLostAtEveryMessage(t *testing.T) {
	t.Parallel()
	for _, kill := range []struct {
		name string
		do   func(*fakeConn)
	}{
		{"cut", func(c *fakeConn) { _ = c.nc.Close() }},
		{"garbage", func(c *fakeConn) { c.raw("\x00\x00\x00\x03abc") }},
		{"huge frame", func(c *fakeConn) { c.raw("\x7f\xff\xff\xff....") }},
		{"half a frame", func(c *fakeConn) { c.raw("\x00\x00\x00\x09abc"); _ = c.nc.Close() }},
	} {
		t.Run(kill.name, func(t *testing.T) {
			t.Parallel()
			f := startFake(t)
			s := connectTo(t, f, nil)
			for n := 0; ; n++ {
				var seen, fired atomic.Int64
				f.setHook(func(c *fakeConn, _ zeowire.Message) bool {
					if seen.Add(1) != int64(n)+1 {
						return false
					}
					fired.Store(1)
					kill.do(c)
					return true
				})
				err := workload(bounded(t), s)
				f.setHook(nil)
				if fired.Load() == 0 {
					if err != nil {
						t.Errorf("nothing went wrong, and yet: %v", err)
					}
					break
				}
				if err != nil && raidstorage.Classify(err) != raidstorage.ClassFailure {
					t.Errorf("message %d: %v is no failure", n, err)
				}
				until(t, "reconnection", func() bool { return workload(bounded(t), s) == nil })
			}
		})
	}
}

func TestHostileReplies(t *testing.T) {
	t.Parallel()
	deep := zeowire.None()
	for range 60 {
		deep = zeowire.Tuple(deep)
	}
	values := []zeowire.Value{
		zeowire.None(), zeowire.Int(-1), zeowire.Text("text"), zeowire.Bytes([]byte("seven..")), zeowire.Tuple(), zeowire.Dict(),
		zeowire.List(zeowire.Int(1)), zeowire.List(zeowire.Dict(zeowire.Entry("oid", zeowire.Int(3)))), deep,
		zeowire.Tuple(zeowire.Bytes(nil), zeowire.Bytes(nil), zeowire.Bytes(nil)),
		zeowire.Tuple(zeowire.None(), zeowire.None(), zeowire.None(), zeowire.None(), zeowire.None()),
	}
	for _, name := range []string{
		zeowire.NewOIDs, zeowire.Vote, zeowire.TPCFinish, zeowire.LoadBefore, zeowire.IteratorStart, zeowire.IteratorNext,
		zeowire.IteratorRecordStart, zeowire.IteratorRecordNext, zeowire.SendBlob, zeowire.UndoLog, zeowire.LastTransaction,
		zeowire.GetInfo, zeowire.Register,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := startFake(t)
			f.hostile = true
			s := connectTo(t, f, nil)
			for _, v := range values {
				f.setHook(func(c *fakeConn, m zeowire.Message) bool {
					if m.Name != name {
						return false
					}
					c.reply(m, v)
					return true
				})
				if name == zeowire.Register || name == zeowire.GetInfo {
					f.cut()
				}
				// What is right for some call is no error; nothing may hang or panic.
				err := workload(bounded(t), s)
				if _, answer := errors.AsType[*raidstorage.NotFoundError](err); err != nil && !answer &&
					raidstorage.Classify(err) != raidstorage.ClassFailure && raidstorage.Classify(err) != raidstorage.ClassRefusal {
					t.Errorf("%v: %v", v, err)
				}
				f.setHook(nil)
				f.cut() // an empty dict is a right answer to get_info, of a server that can do nothing
				until(t, "a good connection", func() bool { return workload(bounded(t), s) == nil })
			}
		})
	}
}

func TestHostileMessages(t *testing.T) {
	t.Parallel()
	oid, tid := zeowire.OID(1), zeowire.TID(1000)
	for name, hostile := range map[string]func(*fakeConn, zeowire.Message){
		"a reply to nobody":         func(c *fakeConn, _ zeowire.Message) { c.send(zeowire.ValueReply(zeowire.IntID(1<<40), oid)) },
		"a reply with a load's id":  func(c *fakeConn, _ zeowire.Message) { c.send(zeowire.ValueReply(zeowire.LoadID(1, 2), oid)) },
		"a call that wants a reply": func(c *fakeConn, _ zeowire.Message) { c.send(zeowire.Call(zeowire.IntID(1), zeowire.Ping)) },
		"an unknown method":         func(c *fakeConn, _ zeowire.Message) { c.async("evil", oid) },
		"an error that is none": func(c *fakeConn, m zeowire.Message) {
			c.send(zeowire.Message{ID: m.ID, Flag: zeowire.Error, Name: zeowire.Reply, Args: oid})
		},
		"an invalidation of nothing": func(c *fakeConn, _ zeowire.Message) { c.async(zeowire.InvalidateTransaction) },
		"an invalidation of texts": func(c *fakeConn, _ zeowire.Message) {
			c.async(zeowire.InvalidateTransaction, tid, zeowire.List(zeowire.Text("x")))
		},
		"an invalidation of the past": func(c *fakeConn, _ zeowire.Message) {
			c.async(zeowire.InvalidateTransaction, zeowire.TID(1), zeowire.List())
		},
		"a blob that nobody asked for":  func(c *fakeConn, _ zeowire.Message) { c.async(zeowire.ReceiveBlobStart, oid, tid) },
		"a blob's part without a start": func(c *fakeConn, _ zeowire.Message) { c.async(zeowire.ReceiveBlobChunk, oid, tid, zeowire.Bytes(nil)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := startFake(t)
			f.log = []fakeTxn{{tid: 10, records: []fakeRecord{{1, []byte("x")}}}}
			s := connectTo(t, f, nil)
			f.setHook(func(c *fakeConn, m zeowire.Message) bool {
				if m.Name == zeowire.LoadBefore {
					hostile(c, m)
					return true
				}
				return false
			})
			_, err := s.LoadBefore(bounded(t), 1, raidstorage.MaxTID)
			wantError[*ProtocolError](t, "LoadBefore", err)
			f.setHook(nil)
			until(t, "a good connection", func() bool { return workload(bounded(t), s) == nil })
		})
	}
}

func TestHandshakesThatFail(t *testing.T) {
	t.Parallel()
	f := startFake(t)
	f.setHook(func(c *fakeConn, m zeowire.Message) bool {
		if m.Name == zeowire.Register {
			c.raise(m, zeowire.ValueError("unknown storage: 2"))
			return true
		}
		return false
	})
	_, err := Open(bounded(t), Options{Addresses: []string{f.address}, Storage: "2"})
	wantError[*raidstorage.InvalidError](t, "Open of an unknown storage", err)
	f.setHook(func(*fakeConn, zeowire.Message) bool { return true })
	_, err = Open(bounded(t), Options{Addresses: []string{f.address}, DialTimeout: 50 * time.Millisecond})
	if err == nil || raidstorage.Classify(err) != raidstorage.ClassFailure {
		t.Errorf("Open at a silent server returned %v", err)
	}
	f.stop()
	_, err = Open(bounded(t), Options{Addresses: []string{f.address}})
	if err == nil || raidstorage.Classify(err) != raidstorage.ClassFailure {
		t.Errorf("Open without a server returned %v", err)
	}
	f.speak('X')
	f.listen(t)
	_, err = Open(bounded(t), Options{Addresses: []string{f.address}})
	wantError[*ProtocolError](t, "Open of something else", err)
	_, err = Open(bounded(t), Options{CacheBytes: -1, ReadOnly: true, ReadOnlyFallback: true})
	wantError[*raidstorage.InvalidError](t, "Open with wrong options", err)
}

func TestTimeouts(t *testing.T) {
	t.Parallel()
	f := startFake(t)
	s := connectTo(t, f, func(o *Options) { o.CallTimeout = 2 * time.Second })
	if err := workload(bounded(t), s); err != nil {
		t.Fatal(err)
	}
	f.setHook(func(*fakeConn, zeowire.Message) bool { return true })
	_, err := s.LastTID(bounded(t))
	if got := wantError[*TimeoutError](t, "LastTID", err); got.Call != zeowire.LastTransaction {
		t.Errorf("the error is about %s", got.Call)
	}
	f.setHook(nil)
	// A server that said nothing at all meanwhile was given up.
	until(t, "reconnection", func() bool { return workload(bounded(t), s) == nil })
	if n := f.count(zeowire.Register); n < 2 {
		t.Errorf("registered %d times, want a second connection", n)
	}
}

func TestLateRepliesAreDropped(t *testing.T) {
	t.Parallel()
	f := startFake(t)
	f.log = []fakeTxn{{tid: 10, records: []fakeRecord{{1, []byte("x")}}}}
	s := connectTo(t, f, nil)
	came := make(chan zeowire.Message, 1)
	var held *fakeConn
	f.setHook(func(c *fakeConn, m zeowire.Message) bool {
		if m.Name != zeowire.LoadBefore {
			return false
		}
		held = c
		came <- m
		return true
	})
	ctx, cancel := context.WithCancel(bounded(t))
	failed := make(chan error, 1)
	go func() {
		_, err := s.LoadBefore(ctx, 1, raidstorage.MaxTID)
		failed <- err
	}()
	late := <-came
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("LoadBefore returned %v", err)
	}
	held.reply(late, zeowire.Text("not even a revision"))
	f.setHook(nil)
	if r, err := s.LoadBefore(bounded(t), 1, raidstorage.MaxTID); err != nil || string(r.Data) != "x" {
		t.Errorf("LoadBefore = %q, %v", r.Data, err)
	}
	if n := f.count(zeowire.Register); n != 1 {
		t.Errorf("registered %d times, want once", n)
	}
}

func TestWholeTransactionIsOneWrite(t *testing.T) {
	t.Parallel()
	f := startFake(t)
	s := connectTo(t, f, nil)
	if _, err := s.LastTID(bounded(t)); err != nil {
		t.Fatal(err)
	}
	txn, err := s.Begin(bounded(t), raidstorage.Meta{})
	if err != nil {
		t.Fatal(err)
	}
	for oid := range raidstorage.OID(100) {
		if err := txn.Store(bounded(t), oid, 0, []byte("data")); err != nil {
			t.Fatal(err)
		}
	}
	f.mu.Lock()
	before := f.turns
	f.mu.Unlock()
	if _, err := txn.Vote(bounded(t)); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	turns := f.turns - before
	f.mu.Unlock()
	if turns > 2 {
		t.Errorf("the server read %d times", turns)
	}
	if _, err := txn.Finish(bounded(t)); err != nil {
		t.Fatal(err)
	}
}
