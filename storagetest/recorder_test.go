package storagetest_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/zeoraid/raidstorage/storagetest"
)

// recorder is a testing.TB that keeps failures to itself, so that a test can see a
// case fail.
type recorder struct {
	testing.TB // the test that looks on
	ctx        context.Context

	mu       sync.Mutex // guards the fields below
	failures []string
	cleanups []func()
}

// runCase runs a case to its end, cleanups included, and returns its failures.
func runCase(t testing.TB, c storagetest.Case) []string {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r := &recorder{TB: t, ctx: ctx}
	r.run(func() { c.Run(r) })
	cancel() // as testing.T does before its cleanups
	r.mu.Lock()
	cleanups := slices.Clone(r.cleanups)
	r.mu.Unlock()
	for _, cleanup := range slices.Backward(cleanups) {
		r.run(cleanup)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.failures)
}

// run runs f in a goroutine that FailNow may end.
func (r *recorder) run(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	<-done
}

func (r *recorder) Context() context.Context { return r.ctx }

func (r *recorder) Cleanup(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleanups = append(r.cleanups, f)
}

func (r *recorder) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.failures) > 0
}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

func (r *recorder) Fatal(args ...any) {
	r.Errorf("%s", fmt.Sprintln(args...))
	runtime.Goexit()
}
