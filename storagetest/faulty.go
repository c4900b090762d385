package storagetest

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/zeoraid/raidstorage"
)

// maxCalls bounds what Calls remembers: the older half is forgotten beyond it.
const maxCalls = 1 << 16

// FaultyStorage is a storage that does to another one's calls what a test tells it
// to: see Fault. Without faults it behaves like the other one and has the same
// optional interfaces. All methods may be called from any goroutine. It waits in
// channels and on timers only, so that it works in a testing/synctest bubble.
type FaultyStorage struct {
	inner raidstorage.Storage

	mu       sync.Mutex // guards the fields below; never held across a call of inner, a hook or a wait
	faults   []*injected
	fired    int
	numbered int // calls so far but notifications: the next CallRecord.N
	calls    []*CallRecord
	entered  map[Call]int
	changed  chan struct{}   // closed and replaced when a call is entered, or returns
	release  chan struct{}   // closed and replaced by Release
	cut      context.Context // ends when the connection is cut
	cutOff   context.CancelCauseFunc
	open     map[*faultyTxn]struct{}
}

var _ raidstorage.Wrapper = (*FaultyStorage)(nil)

// Faulty returns a FaultyStorage over s, with no faults yet. Closing it closes s.
func Faulty(s raidstorage.Storage) *FaultyStorage {
	f := &FaultyStorage{
		inner:   s,
		entered: map[Call]int{},
		changed: make(chan struct{}),
		release: make(chan struct{}),
		open:    map[*faultyTxn]struct{}{},
	}
	f.cut, f.cutOff = context.WithCancelCause(context.Background())
	return f
}

// Inject adds faults. A call is hit by the first one that admits it.
func (f *FaultyStorage) Inject(faults ...Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, fault := range faults {
		f.faults = append(f.faults, &injected{Fault: fault})
	}
}

// Clear removes all faults. Calls that hang go on hanging until Release.
func (f *FaultyStorage) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = nil
}

// Fired returns how many calls were hit by faults so far.
func (f *FaultyStorage) Fired() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fired
}

// Calls returns the calls that were seen so far, in the order in which they came.
// When there are very many the oldest are forgotten.
func (f *FaultyStorage) Calls() []CallRecord {
	f.mu.Lock()
	defer f.mu.Unlock()
	calls := make([]CallRecord, len(f.calls))
	for i, c := range f.calls {
		calls[i] = *c
	}
	return calls
}

// Release lets all calls go on that hang now.
func (f *FaultyStorage) Release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.release)
	f.release = make(chan struct{})
}

// WaitFor waits until n calls of a kind (CallAny: of all kinds) have been entered
// since Faulty. A call that is entered can be released. It returns ctx's error if
// ctx ends first.
func (f *FaultyStorage) WaitFor(ctx context.Context, call Call, n int) error {
	for {
		f.mu.Lock()
		entered, changed := f.entered[call], f.changed
		f.mu.Unlock()
		if entered >= n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d calls of %q: %w", entered, n, call, ctx.Err())
		}
	}
}

// WaitIdle waits until no call of a kind is under way. It returns ctx's error if ctx ends
// first.
func (f *FaultyStorage) WaitIdle(ctx context.Context, call Call) error {
	for {
		f.mu.Lock()
		busy := slices.ContainsFunc(f.calls, func(r *CallRecord) bool { return r.Call == call && !r.Done })
		changed := f.changed
		f.mu.Unlock()
		if !busy {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("a call of %q is under way: %w", call, ctx.Err())
		}
	}
}

// CutOff does what the loss of the connection to a server does: every call from
// now on fails with an error that matches ErrInjected, calls under way are
// interrupted, and open transactions, voted ones too, are aborted in the storage.
// Invalidations are lost. Only Close still works.
func (f *FaultyStorage) CutOff() {
	f.mu.Lock()
	f.cutOff(fmt.Errorf("%w: the connection is cut", ErrInjected))
	var open []*faultyTxn
	for t := range f.open {
		open = append(open, t)
	}
	f.mu.Unlock()
	for _, t := range open {
		t.abortIfIdle()
	}
}

// Reconnect ends what CutOff began, for new calls and new transactions.
func (f *FaultyStorage) Reconnect() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cut.Err() == nil {
		return
	}
	f.cut, f.cutOff = context.WithCancelCause(context.Background())
}

// Supports tells whether the wrapped storage has the optional interface.
func (f *FaultyStorage) Supports(capability reflect.Type) bool {
	return raidstorage.Supports(f.inner, capability)
}

// call is one call under way.
type call struct {
	f       *FaultyStorage
	record  *CallRecord // guarded by f.mu
	fault   *Fault      // nil if none hit
	err     error       // the fault's
	release chan struct{}
	cut     context.Context
}

// enter counts a call and chooses its fault. cut is the connection of the call's
// transaction, nil for the storage's present one.
func (f *FaultyStorage) enter(what Call, oid raidstorage.OID, tid raidstorage.TID, cut context.Context) *call {
	f.mu.Lock()
	defer f.mu.Unlock()
	if cut == nil {
		cut = f.cut
	}
	c := &call{f: f, record: &CallRecord{N: f.numbered, Call: what, OID: oid, TID: tid}, release: f.release, cut: cut}
	f.entered[what]++
	if what != CallNotify {
		f.numbered++
		f.entered[CallAny]++
	}
	for _, i := range f.faults {
		if i.hit(what) && c.fault == nil {
			i.fired++
			f.fired++
			fault := i.Fault
			c.fault, c.err = &fault, fault.err(*c.record)
			c.record.Fault = fault.String()
		}
	}
	if len(f.calls) >= maxCalls {
		f.calls = append([]*CallRecord(nil), f.calls[maxCalls/2:]...)
	}
	f.calls = append(f.calls, c.record)
	f.changes()
	return c
}

// changes wakes those who wait for calls. The caller holds mu.
func (f *FaultyStorage) changes() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// leave records the end of the call.
func (c *call) leave(tid raidstorage.TID, err error) {
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	if tid != 0 {
		c.record.TID = tid
	}
	c.record.Done, c.record.Err = true, err
	c.f.changes()
}

// kind returns what the fault does, Observe when there is none.
func (c *call) kind() Kind {
	if c.fault == nil {
		return Observe
	}
	return c.fault.Kind
}

// before does what the fault does before the call reaches the storage, and returns
// an error if it must not reach it. canCorrupt tells whether Corrupt has a
// meaning for this call.
func (c *call) before(ctx context.Context, canCorrupt bool) error {
	if c.fault != nil {
		if err := c.wait(ctx); err != nil {
			return err
		}
		if c.fault.Hook != nil && c.fault.Kind != LoseReply {
			c.fault.Hook()
		}
	}
	switch k := c.kind(); {
	case k == Fail, k == Corrupt && !canCorrupt:
		return c.err
	case k == Disconnect:
		c.f.CutOff()
		return c.err
	}
	return c.cutErr()
}

// wait waits for the fault's delay, and its release if it hangs.
func (c *call) wait(ctx context.Context) error {
	if c.fault.Delay > 0 {
		timer := time.NewTimer(c.fault.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-c.cut.Done():
			return c.cutErr()
		}
	}
	switch c.fault.Kind {
	case Hang:
		select {
		case <-c.release:
		case <-ctx.Done():
			return ctx.Err()
		case <-c.cut.Done():
			return c.cutErr()
		}
	case HangHard:
		<-c.release
	}
	return nil
}

// cutErr returns the error of a cut connection, nil if it is not cut.
func (c *call) cutErr() error {
	if c.cut.Err() != nil {
		return context.Cause(c.cut)
	}
	return nil
}

// after does what the fault does once the storage has answered with err.
func (c *call) after(err error) error {
	if c.kind() == LoseReply {
		if c.fault.Hook != nil {
			c.fault.Hook()
		}
		return c.err
	}
	if err != nil && c.cut.Err() != nil {
		return c.cutErr() // the call was interrupted
	}
	return err
}

// bounded returns a context that also ends when the connection is cut.
func (c *call) bounded(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(c.cut, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// do is a whole call of the wrapped storage with a result. corrupt, if not nil,
// makes the lie that Corrupt tells.
func do[T any](ctx context.Context, c *call, inner func(context.Context) (T, error), corrupt func(T) T) (T, error) {
	result, err := answer(ctx, c, inner, corrupt)
	c.leave(0, err)
	return result, err
}

func answer[T any](ctx context.Context, c *call, inner func(context.Context) (T, error), corrupt func(T) T) (T, error) {
	var none T
	if err := c.before(ctx, corrupt != nil); err != nil {
		return none, err
	}
	inside, end := c.bounded(ctx)
	defer end()
	result, err := inner(inside)
	if err = c.after(err); err != nil {
		return none, err
	}
	if c.kind() == Corrupt {
		result = corrupt(result)
	}
	return result, nil
}
