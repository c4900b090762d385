package raidstorage_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// world is what outlives a mirror in a test: the disks, the register, and the means
// to hurt them.
type world struct {
	t   *testing.T
	mem *memories
	reg *faultyRegister
	cfg raidstorage.Config    // what every mirror of this world is opened with
	all []raidstorage.Backend // in tests of changes: those to choose from

	mu     sync.Mutex // guards the fields below
	opened map[string]*storagetest.FaultyStorage
	down   map[string]bool // who cannot be opened
	onOpen func(name string, f *storagetest.FaultyStorage)
}

// errDown is what opening a backend returns that is down.
var errDown = errors.New("connection refused")

// Timeouts of all scenarios, in simulated time.
const (
	voteTimeout   = 10 * time.Second
	finishTimeout = 11 * time.Second
)

func newWorld(t *testing.T, n int) *world {
	w := &world{t: t, mem: newMemories(n), reg: &faultyRegister{}, down: map[string]bool{},
		opened: map[string]*storagetest.FaultyStorage{}}
	w.cfg = raidstorage.Config{
		Membership:  w.reg,
		AutoRecover: raidstorage.AutoRecoverOff,
		Timeouts:    raidstorage.Timeouts{Vote: voteTimeout, Finish: finishTimeout, Read: 5 * time.Second},
	}
	for i := range n {
		w.cfg.Backends = append(w.cfg.Backends, raidstorage.Backend{Name: name(i), Open: w.opener(i)})
	}
	return w
}

func (w *world) opener(i int) func(context.Context) (raidstorage.Storage, error) {
	return func(context.Context) (raidstorage.Storage, error) {
		w.mu.Lock()
		down, onOpen := w.down[name(i)], w.onOpen
		f := storagetest.Faulty(w.mem.stores[i].Another(name(i)))
		if !down {
			w.opened[name(i)] = f
		}
		w.mu.Unlock()
		if down {
			return nil, errors.Join(errDown, f.Close())
		}
		if onOpen != nil {
			onOpen(name(i), f)
		}
		return f, nil
	}
}

// setDown lets backends refuse to be opened, or not.
func (w *world) setDown(down bool, names ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range names {
		w.down[n] = down
	}
}

// backend returns the present connection to a backend.
func (w *world) backend(name string) *storagetest.FaultyStorage {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.opened[name]
}

// start opens a mirror that the test closes at its end.
func (w *world) start() *raidstorage.Mirror {
	w.t.Helper()
	m, err := raidstorage.Open(w.t.Context(), w.cfg)
	if err != nil {
		w.t.Fatalf("Open: %v", err)
	}
	w.t.Cleanup(func() { m.Close() })
	return m
}

// crash ends a mirror as the death of its process does: nothing that it still does
// reaches the disks or the register.
func (w *world) crash(m *raidstorage.Mirror) {
	w.mu.Lock()
	for _, f := range w.opened {
		f.CutOff()
	}
	w.mu.Unlock()
	w.reg.cut()
	m.Close()
	for _, f := range w.opened {
		f.Release()
	}
	w.reg.renew()
}

// commit stores data in one object and returns what Finish said, or Vote.
func commit(m raidstorage.Storage, oid raidstorage.OID, data string) (raidstorage.TID, error) {
	ctx := context.Background()
	serial := raidstorage.TID(0)
	if rev, err := m.LoadBefore(ctx, oid, raidstorage.MaxTID); err == nil {
		serial = rev.Serial
	}
	txn, err := m.Begin(ctx, raidstorage.Meta{Description: []byte(data)})
	if err != nil {
		return 0, err
	}
	if err := txn.Store(ctx, oid, serial, []byte(data)); err != nil {
		return 0, err
	}
	if _, err := txn.Vote(ctx); err != nil {
		return 0, err
	}
	return txn.Finish(ctx)
}

func (w *world) mustCommit(m raidstorage.Storage, oid raidstorage.OID, data string) raidstorage.TID {
	w.t.Helper()
	tid, err := commit(m, oid, data)
	if err != nil {
		w.t.Fatalf("commit of %q: %v", data, err)
	}
	return tid
}

// wantUnknown commits and checks that the outcome is unknown.
func (w *world) wantUnknown(m raidstorage.Storage, oid raidstorage.OID, data string) raidstorage.TID {
	w.t.Helper()
	_, err := commit(m, oid, data)
	unknown, ok := errors.AsType[*raidstorage.OutcomeUnknownError](err)
	if !ok {
		w.t.Fatalf("commit of %q: got error %v, want *OutcomeUnknownError", data, err)
	}
	return unknown.TID
}

// wantInSync checks the record.
func (w *world) wantInSync(names ...string) {
	w.t.Helper()
	record, err := w.reg.inner.Load(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	got := slices.Sorted(slices.Values(record.InSync))
	if !slices.Equal(got, names) {
		w.t.Errorf("in sync are %v, want %v (epoch %d, %s)", got, names, record.Epoch, record.Reason)
	}
}

// wantData checks what a storage serves for an object, "" for nothing.
func wantData(t *testing.T, s raidstorage.Storage, oid raidstorage.OID, want string) {
	t.Helper()
	rev, err := s.LoadBefore(context.Background(), oid, raidstorage.MaxTID)
	if _, missing := errors.AsType[*raidstorage.NotFoundError](err); err != nil && !missing {
		t.Errorf("load %v: %v", oid, err)
	}
	if got := string(rev.Data); got != want {
		t.Errorf("object %v is %q, want %q", oid, got, want)
	}
}

// wantEqual checks that the disks of the named backends hold the same log, and
// returns it.
func (w *world) wantEqual(names ...string) []storagetest.LogTransaction {
	w.t.Helper()
	var first []storagetest.LogTransaction
	for i, n := range names {
		log := w.log(n)
		if i == 0 {
			first = log
		} else if diff := cmp.Diff(first, log); diff != "" {
			w.t.Errorf("%s and %s differ (-first +second):\n%s", names[0], n, diff)
		}
	}
	return first
}

// log returns the whole log of a backend's disk.
func (w *world) log(backend string) []storagetest.LogTransaction {
	w.t.Helper()
	i := 0
	for name(i) != backend {
		i++
	}
	log, err := storagetest.Log(context.Background(), w.mem.stores[i].Another("log"))
	if err != nil {
		w.t.Fatalf("log of %s: %v", backend, err)
	}
	return log
}

// state returns a backend's state and reason.
func state(m *raidstorage.Mirror, name string) (raidstorage.State, string) {
	for _, b := range m.Status().Backends {
		if b.Name == name {
			return b.State, b.Reason
		}
	}
	return -1, fmt.Sprintf("no backend %s", name)
}

// waitState waits until a backend is in a state.
func (w *world) waitState(m *raidstorage.Mirror, name string, want raidstorage.State) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour) // simulated
	defer cancel()
	events := m.Watch(ctx)
	for {
		if got, _ := state(m, name); got == want {
			return
		}
		if _, ok := <-events; !ok {
			got, reason := state(m, name)
			w.t.Fatalf("backend %s is %v (%s), want %v", name, got, reason, want)
		}
	}
}

// faultyRegister is a register that a test hurts.
type faultyRegister struct {
	inner raidstorage.MemoryRegister

	mu    sync.Mutex // guards the fields below
	fault func(next raidstorage.Membership) registerFault
	late  []raidstorage.Membership // stored by deliver
	dead  bool
}

// registerFault is what happens to one CompareAndSet.
type registerFault int

const (
	registerWorks registerFault = iota
	registerFails               // nothing is stored, the caller gets an error
	registerLosesReply
	registerIsLate // the caller gets an error, and deliver stores it later
	registerDies   // it is stored, and nothing answers from then on
)

var errRegister = errors.New("the register does not answer")

// on sets what happens to each CompareAndSet from now on; nil: nothing.
func (r *faultyRegister) on(fault func(next raidstorage.Membership) registerFault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = fault
}

func (r *faultyRegister) cut()   { r.mu.Lock(); r.dead = true; r.mu.Unlock() }
func (r *faultyRegister) renew() { r.mu.Lock(); r.dead, r.fault = false, nil; r.mu.Unlock() }

// deliver stores what was late, and returns what the register said to it.
func (r *faultyRegister) deliver() (errs []error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, next := range r.late {
		errs = append(errs, r.inner.CompareAndSet(context.Background(), next))
	}
	r.late = nil
	return errs
}

func (r *faultyRegister) isDead() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.dead }

func (r *faultyRegister) Load(ctx context.Context) (raidstorage.Membership, error) {
	if r.isDead() {
		return raidstorage.Membership{}, errRegister
	}
	return r.inner.Load(ctx)
}

func (r *faultyRegister) Reserve(ctx context.Context, floor, step raidstorage.Marks) (raidstorage.Marks, error) {
	if r.isDead() {
		return raidstorage.Marks{}, errRegister
	}
	return r.inner.Reserve(ctx, floor, step)
}

func (r *faultyRegister) CompareAndSet(ctx context.Context, next raidstorage.Membership) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	what := registerWorks
	if r.fault != nil {
		what = r.fault(next)
	}
	switch {
	case what == registerDies && !r.dead:
		r.dead = true
		return errors.Join(r.inner.CompareAndSet(ctx, next), errRegister)
	case r.dead || what == registerFails:
		return errRegister
	case what == registerIsLate:
		r.late = append(r.late, next)
		return errRegister
	case what == registerLosesReply:
		return errors.Join(r.inner.CompareAndSet(ctx, next), errRegister)
	}
	return r.inner.CompareAndSet(ctx, next)
}
