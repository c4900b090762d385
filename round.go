package raidstorage

import (
	"cmp"
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// A round is one call to several backends at the same time, each on its session's
// worker: the mirror's way to wait for backends that may not obey a context.

// result is one backend's answer in a round.
type result[T any] struct {
	session *session
	value   T
	err     error
}

// job is what a worker is given: its part of a round.
type job struct {
	round interface{ answerFor(index int) }
	index int
}

// Who took a pending answer first: the worker, or the end of the round.
const (
	pending int32 = iota
	answered
	abandoned
)

// slot is one backend's part of a round. The worker writes value and err, and then
// state; whoever finds the state answered may read them.
type slot[T any] struct {
	state atomic.Int32
	value T
	err   error
}

type roundOf[T any] struct {
	ctx      lazyContext
	sessions []*session
	fn       func(context.Context, int, *session) (T, error)
	late     func(T)
	slots    []slot[T]
	few      [3]slot[T] // saves an allocation for the usual mirrors
	left     atomic.Int32
	done     chan struct{} // closed when all have answered
}

// round calls fn for each session at the same time and waits for all answers, for
// the timeout, or for the end of ctx. An answer that comes too late is given to
// late, if that is not nil, on the worker.
func round[T any](ctx context.Context, m *Mirror, op string, sessions []*session, timeout time.Duration,
	fn func(context.Context, int, *session) (T, error), late func(T)) []result[T] {
	r := newRound(ctx, sessions, timeout, fn, late)
	for i, s := range sessions {
		r.send(i, s.calls)
	}
	r.wait(ctx, m, timeout)
	return r.results(op)
}

// newRound is a round of which each call is yet to be sent to a worker, or answered.
func newRound[T any](ctx context.Context, sessions []*session, timeout time.Duration,
	fn func(context.Context, int, *session) (T, error), late func(T)) *roundOf[T] {
	r := &roundOf[T]{sessions: sessions, fn: fn, late: late, done: make(chan struct{})}
	r.ctx.Context, r.ctx.timeout = ctx, timeout
	r.slots = r.few[:0]
	if len(sessions) > len(r.few) {
		r.slots = make([]slot[T], 0, len(sessions))
	}
	r.slots = r.slots[:len(sessions)]
	r.left.Store(int32(len(sessions)))
	return r
}

// send gives one backend's call to a worker of its session.
func (r *roundOf[T]) send(i int, worker chan job) {
	var none T
	select {
	case <-r.sessions[i].quit:
		r.answer(i, none, ErrClosed)
		return
	default:
	}
	select {
	case worker <- job{r, i}:
	default: // it hangs
		r.answer(i, none, fmt.Errorf("%d calls are waiting: %w", cap(worker), context.DeadlineExceeded))
	}
}

// answerFor makes one backend's call, on its worker.
func (r *roundOf[T]) answerFor(i int) {
	value, err := r.fn(&r.ctx, i, r.sessions[i])
	if !r.answer(i, value, err) && err == nil && r.late != nil {
		r.late(value)
	}
}

// answer records an answer, unless the round is over.
func (r *roundOf[T]) answer(i int, value T, err error) bool {
	s := &r.slots[i]
	// The round reads value and err only after it saw answered, and abandons only
	// what is pending, so this is the only writer.
	s.value, s.err = value, err
	if !s.state.CompareAndSwap(pending, answered) {
		return false
	}
	if r.left.Add(-1) == 0 {
		close(r.done)
	}
	return true
}

// wait ends when all have answered, or at the timeout. It has a timer of its own,
// used again and again, so that the round's context need not become real.
func (r *roundOf[T]) wait(ctx context.Context, m *Mirror, timeout time.Duration) {
	timer, ok := m.timers.Get().(*time.Timer)
	if ok {
		timer.Reset(timeout)
	} else {
		timer = time.NewTimer(timeout)
	}
	select {
	case <-r.done:
	case <-ctx.Done():
	case <-timer.C:
		r.ctx.expire()
	}
	timer.Stop()
	m.timers.Put(timer)
}

// results ends the round.
func (r *roundOf[T]) results(op string) []result[T] {
	results := make([]result[T], len(r.slots))
	for i := range r.slots {
		s := &r.slots[i]
		results[i].session = r.sessions[i]
		if s.state.CompareAndSwap(pending, abandoned) {
			results[i].err = cmp.Or(r.ctx.Context.Err(), context.DeadlineExceeded)
		} else {
			results[i].value, results[i].err = s.value, s.err
		}
		if err := results[i].err; err != nil {
			results[i].err = &BackendError{Backend: r.sessions[i].b.cfg.Name, Op: op, Err: err}
		}
	}
	r.ctx.end()
	return results
}

// lazyContext is a context with a deadline that costs nothing unless someone waits
// on it, which storages in memory and on disk never do.
type lazyContext struct {
	context.Context // the parent
	timeout         time.Duration
	real            atomic.Pointer[realContext]
}

type realContext struct {
	context.Context
	cancel context.CancelFunc
}

func (c *lazyContext) materialize() *realContext {
	if r := c.real.Load(); r != nil {
		return r
	}
	ctx, cancel := context.WithTimeout(c.Context, c.timeout)
	if r := (&realContext{ctx, cancel}); c.real.CompareAndSwap(nil, r) {
		return r
	}
	cancel()
	return c.real.Load()
}

// Deadline implements context.Context.
func (c *lazyContext) Deadline() (time.Time, bool) { return c.materialize().Deadline() }

// Done implements context.Context.
func (c *lazyContext) Done() <-chan struct{} { return c.materialize().Done() }

// Err implements context.Context.
func (c *lazyContext) Err() error {
	if r := c.real.Load(); r != nil {
		return r.Err()
	}
	return c.Context.Err()
}

// expire ends the context at its deadline, whether someone waits on it yet or not.
func (c *lazyContext) expire() {
	c.materialize().cancel()
}

// end frees what the context holds; it is over for whoever still waits on it.
func (c *lazyContext) end() {
	if r := c.real.Load(); r != nil {
		r.cancel()
	}
}
