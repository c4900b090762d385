package raidstorage

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// A pack makes calls that take as long as a backend needs, and not all of them obey
// their context: one that does not is left to itself. It goes on, or hangs, in a
// goroutine of its own, and what it returns in the end is nobody's any more.

// leftError says that a call was left to itself.
type leftError struct{ after time.Duration }

func (e *leftError) Error() string {
	return fmt.Sprintf("no answer for %v, nor when that was over: the call is left to itself", e.after)
}

// Unwrap makes it a context.DeadlineExceeded.
func (e *leftError) Unwrap() error { return context.DeadlineExceeded }

// leave makes a call with a deadline. One that has not ended Timeouts.Read after its
// context has is left to itself.
func leave[T any](ctx context.Context, m *Mirror, timeout time.Duration, call func(context.Context) (T, error)) (T, error) {
	return leaveAsking(ctx, m, timeout, nil, func(ctx context.Context, _ func(context.Context) error) (T, error) { return call(ctx) })
}

// leaveAsking is leave for a call that asks its caller to do something meanwhile: serve
// runs in the caller's goroutine, and never for a call that was left.
func leaveAsking[T any](ctx context.Context, m *Mirror, timeout time.Duration, serve func() error,
	call func(ctx context.Context, ask func(context.Context) error) (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	var none T
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	done, asks := make(chan answer, 1), make(chan chan<- error)
	ask := func(ctx context.Context) error {
		served := make(chan error, 1)
		select {
		case asks <- served:
			return <-served // serve has bounds
		case <-ctx.Done():
			return ctx.Err()
		case <-bounded.Done():
			return bounded.Err()
		}
	}
	if !m.run(func() {
		value, err := call(bounded, ask)
		done <- answer{value, err}
	}) {
		return none, ErrClosed
	}
	over := bounded.Done()
	var grace <-chan time.Time
	for {
		select {
		case a := <-done:
			if a.err != nil && bounded.Err() != nil && ctx.Err() == nil {
				a.err = fmt.Errorf("not done in %v: %w", timeout, a.err)
			}
			return a.value, a.err
		case served := <-asks:
			served <- serve()
		case <-over:
			over = nil
			timer := time.NewTimer(m.tuned().Timeouts.Read)
			defer timer.Stop()
			grace = timer.C
		case <-grace:
			if err := ctx.Err(); err != nil {
				return none, err
			}
			return none, &leftError{timeout}
		}
	}
}

// stepGuard watches a goroutine that walks over backends: a step of one that does not
// end makes the walk be left to itself, and it touches nothing any more.
type stepGuard struct {
	mu    sync.Mutex // guards the fields below
	side  int        // whose step is under way, -1: none
	since time.Time
	left  bool
}

// enter begins a step of a side, leave ends it; false if the walk was left.
func (g *stepGuard) enter(side int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.side, g.since = side, time.Now()
	return !g.left
}

func (g *stepGuard) leave() bool { return g.enter(-1) }

// await waits for the walk, or for a step that takes longer than the limit, and tells
// whose that is; -1 for nobody's.
func (g *stepGuard) await(done <-chan struct{}, limit time.Duration) int {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		select {
		case <-done:
			return -1
		case <-timer.C:
		}
		g.mu.Lock()
		rest := limit
		if g.side >= 0 {
			if rest = limit - time.Since(g.since); rest <= 0 {
				g.left = true
				side := g.side
				g.mu.Unlock()
				return side
			}
		}
		g.mu.Unlock()
		timer.Reset(rest)
	}
}
