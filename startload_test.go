package raidstorage_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// laterStorage answers loads later, and holds them back until it is told to send them.
type laterStorage struct {
	*storagetest.FaultyStorage
	ctx    context.Context // ends with the storage
	cancel context.CancelFunc
	loads  sync.WaitGroup
	mu     sync.Mutex
	held   []func() // guarded by mu
}

func (s *laterStorage) StartLoad(oid raidstorage.OID, before raidstorage.TID, to raidstorage.LoadAnswer) (raidstorage.LoadSender, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = append(s.held, func() {
		rev, err := s.LoadBefore(s.ctx, oid, before)
		to.Loaded(rev, err)
		to.Flush()
	})
	return s, true
}

func (s *laterStorage) SendLoads() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, load := range s.held {
		s.loads.Go(load)
	}
	s.held = nil
}

func (s *laterStorage) Close() error {
	s.cancel()
	err := s.FaultyStorage.Close()
	s.loads.Wait()
	return err
}

// answersLater makes the named backends LoadStarters.
func (w *world) answersLater(names ...string) {
	for i := range w.cfg.Backends {
		b := &w.cfg.Backends[i]
		for _, name := range names {
			if b.Name != name {
				continue
			}
			open := b.Open
			b.Open = func(ctx context.Context) (raidstorage.Storage, error) {
				s, err := open(ctx)
				if err != nil {
					return nil, err
				}
				later := &laterStorage{FaultyStorage: s.(*storagetest.FaultyStorage)}
				later.ctx, later.cancel = context.WithCancel(context.Background())
				return later, nil
			}
		}
	}
}

// pendingLoad is a load of a test.
type pendingLoad struct {
	t       *testing.T
	rev     raidstorage.Revision
	err     error
	loaded  int
	flushed chan struct{}
}

func (l *pendingLoad) Loaded(rev raidstorage.Revision, err error) {
	if l.loaded++; l.loaded > 1 {
		l.t.Errorf("answered again: %+v, %v", rev, err)
	}
	l.rev, l.err = rev, err
}

func (l *pendingLoad) Flush() {
	if l.flushed != nil {
		close(l.flushed)
		l.flushed = nil
	}
}

// start begins a load; false as StartLoad.
func start(t *testing.T, m *raidstorage.Mirror, oid raidstorage.OID, before raidstorage.TID) (*pendingLoad, chan struct{}, bool) {
	l := &pendingLoad{t: t, flushed: make(chan struct{})}
	flushed := l.flushed
	held, begun := m.StartLoad(oid, before, l)
	if held != nil {
		held.SendLoads()
	}
	return l, flushed, begun
}

// laterLoad loads as a server does.
func laterLoad(t *testing.T, m *raidstorage.Mirror, oid raidstorage.OID, before raidstorage.TID) (raidstorage.Revision, error) {
	t.Helper()
	l, flushed, ok := start(t, m, oid, before)
	if !ok {
		t.Fatal("the load was not begun")
	}
	<-flushed
	return l.rev, l.err
}

func wantLater(t *testing.T, m *raidstorage.Mirror, oid raidstorage.OID, want string) {
	t.Helper()
	rev, err := laterLoad(t, m, oid, raidstorage.MaxTID)
	if err != nil || string(rev.Data) != want || rev.Next != 0 {
		t.Errorf("%v is %+v, %v, want %q", oid, rev, err, want)
	}
}

// R1: what is finished on one backend and not acknowledged is not shown, nor that a
// revision ends with it.
func TestStartedLoadsShowWhatIsAcknowledged(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.answersLater("b1", "b2")
		m := w.start()
		first := w.mustCommit(m, 1, "one")
		w.backend("b2").Inject(storagetest.Fault{Call: storagetest.CallFinish, Kind: storagetest.Observe, Delay: 5 * time.Second, Times: 1})
		done := make(chan error, 1)
		go func() {
			_, err := commit(m, 1, "two")
			done <- err
		}()
		synctest.Wait() // b1 has finished
		for range 4 {
			wantLater(t, m, 1, "one")
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		for range 4 {
			wantLater(t, m, 1, "two")
			if rev, err := laterLoad(t, m, 1, first+1); err != nil || string(rev.Data) != "one" || rev.Next == 0 {
				t.Errorf("the old revision is %+v, %v", rev, err)
			}
		}
	})
}

func TestStartedLoadsThatFailAreAnsweredByAnother(t *testing.T) {
	for what, fault := range map[string]storagetest.Fault{
		"failing": {Call: storagetest.CallLoad}, "hanging": {Call: storagetest.CallLoad, Kind: storagetest.Hang},
	} {
		t.Run(what, func(t *testing.T) {
			scenario(t, 2, func(t *testing.T, w *world) {
				w.answersLater("b1", "b2")
				w.cfg.ReadPolicy = raidstorage.PrimaryFirst
				m := w.start()
				w.mustCommit(m, 1, "x")
				w.backend("b1").Inject(fault)
				var waits []chan struct{}
				var loads []*pendingLoad
				for range 3 {
					l, flushed, ok := start(t, m, 1, raidstorage.MaxTID)
					if !ok {
						t.Fatal("not begun")
					}
					loads, waits = append(loads, l), append(waits, flushed)
				}
				for i, l := range loads {
					if <-waits[i]; l.err != nil || string(l.rev.Data) != "x" {
						t.Errorf("%+v, %v", l.rev, l.err)
					}
				}
				w.waitState(m, "b1", raidstorage.StateFailed)
				wantLater(t, m, 1, "x")
				// The last one is not given up for one bad read: it is the caller's error.
				w.backend("b2").Inject(storagetest.Fault{Call: storagetest.CallLoad, Times: 1})
				_, err := laterLoad(t, m, 1, raidstorage.MaxTID)
				if _, ok := errors.AsType[*raidstorage.BackendError](err); !ok || !errors.Is(err, storagetest.ErrInjected) {
					t.Errorf("got %v, want the backend's error", err)
				}
				wantLater(t, m, 1, "x")
			})
		})
	}
}

// R2: an object that one backend lacks is asked for at the others.
func TestStartedLoadsFindOutABackendThatLostAnObject(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.answersLater("b1", "b2")
		w.cfg.ReadPolicy = raidstorage.PrimaryFirst
		m := w.start()
		w.mustCommit(m, 1, "x")
		if _, err := laterLoad(t, m, 7, raidstorage.MaxTID); raidstorage.Classify(err) != raidstorage.ClassAnswer {
			t.Errorf("an object that is nowhere: %v", err)
		}
		w.wantInSync("b1", "b2")
		w.backend("b1").Inject(storagetest.Fault{Call: storagetest.CallLoad, Err: &raidstorage.NotFoundError{OID: 1}})
		wantLater(t, m, 1, "x")
		w.waitState(m, "b1", raidstorage.StateFailed)
	})
}

// Where a backend cannot begin loads, LoadBefore asks the one whose turn it was.
func TestLoadsAreSpreadOverBothKindsOfBackends(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.answersLater("b2")
		m := w.start()
		w.mustCommit(m, 1, "x")
		before := loads(m)
		for range 100 {
			if l, flushed, ok := start(t, m, 1, raidstorage.MaxTID); !ok {
				wantData(t, m, 1, "x")
			} else if <-flushed; l.err != nil {
				t.Error(l.err)
			}
		}
		after := loads(m)
		if a, b := after["b1"]-before["b1"], after["b2"]-before["b2"]; a != 50 || b != 50 {
			t.Errorf("%d and %d loads", a, b)
		}
	})
}

func TestCloseAnswersStartedLoads(t *testing.T) {
	scenario(t, 1, func(t *testing.T, w *world) {
		w.answersLater("b1")
		m := w.start()
		w.mustCommit(m, 1, "x")
		w.backend("b1").Inject(storagetest.Fault{Call: storagetest.CallLoad, Kind: storagetest.Hang})
		l, flushed, ok := start(t, m, 1, raidstorage.MaxTID)
		if !ok {
			t.Fatal("not begun")
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if <-flushed; !errors.Is(l.err, raidstorage.ErrClosed) {
			t.Errorf("got %v", l.err)
		}
		if _, _, ok := start(t, m, 1, raidstorage.MaxTID); ok {
			t.Error("a load was begun after Close")
		}
	})
}
