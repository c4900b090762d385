package zeoserver_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/memstorage"
)

// stallStorage is a storage in memory whose calls a test can hold up. Functions are
// set before the server starts, but for those that are atomic.
type stallStorage struct {
	*memstorage.Storage
	// loaded runs after a load has its result and before it returns.
	loaded atomic.Pointer[func(oid raidstorage.OID)]
	// finished runs after a finish is done, before it returns, with the tid.
	finished atomic.Pointer[func(tid raidstorage.TID)]
	// finishErr replaces the result of a finish that has been done.
	finishErr atomic.Pointer[error]
}

func newStall() *stallStorage { return &stallStorage{Storage: memstorage.New("stall")} }

func (s *stallStorage) LoadBefore(ctx context.Context, oid raidstorage.OID, before raidstorage.TID) (raidstorage.Revision, error) {
	rev, err := s.Storage.LoadBefore(ctx, oid, before)
	if f := s.loaded.Load(); f != nil {
		(*f)(oid)
	}
	return rev, err
}

func (s *stallStorage) Begin(ctx context.Context, meta raidstorage.Meta) (raidstorage.Txn, error) {
	tx, err := s.Storage.Begin(ctx, meta)
	if err != nil {
		return nil, err
	}
	return &stallTxn{tx, s}, nil
}

type stallTxn struct {
	raidstorage.Txn
	s *stallStorage
}

func (t *stallTxn) Finish(ctx context.Context) (raidstorage.TID, error) {
	tid, err := t.Txn.Finish(ctx)
	if f := t.s.finished.Load(); f != nil {
		(*f)(tid)
	}
	if e := t.s.finishErr.Load(); e != nil {
		return 0, *e
	}
	return tid, err
}

// gate holds up the first one who comes to it, and tells that they are there.
type gate struct {
	taken   atomic.Bool
	arrived chan struct{}
	open    chan struct{}
	once    sync.Once
}

// newGate returns a gate that is open at the latest when the test ends.
func newGate(t testing.TB) *gate {
	g := &gate{arrived: make(chan struct{}), open: make(chan struct{})}
	t.Cleanup(g.release)
	return g
}

func (g *gate) pass() {
	if g.taken.CompareAndSwap(false, true) {
		close(g.arrived)
		<-g.open
	}
}

func (g *gate) release() { g.once.Do(func() { close(g.open) }) }
