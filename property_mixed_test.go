package raidstorage_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// Random histories of mirrors over backends of all kinds, with real files, sockets and
// clocks: in memory, files with blobs, ZEO servers of ours behind a proxy that is bad at
// passing bytes on - and ZEO servers of Python's, with the interop tag. Beside what the
// other histories do, backends are packed, recovered, changed, changed behind the
// mirror's back, verified, promoted and demoted (property_mixed_roles_test.go), and die
// between vote and finish, while commits go on and a scrub runs. The
// environment says how many:
//
//	RAIDSTORAGE_HISTORIES=1000 go test -run TestPropertyMixed .
//	RAIDSTORAGE_SEED=N         go test -run TestPropertyMixed .   that one again
//
// What a step does follows from its seed and from where the history is, but the time that
// everything takes does not: a failure may need several runs of its seed to come again.

// mixedDefault is how many histories a plain run plays, from seed 1 on; mixedWorkers at a
// time, as most of their time they wait.
const (
	mixedDefault = 6
	mixedWorkers = 6
)

// mixedTimeout is that of all calls to backends.
const mixedTimeout = 2 * time.Second

// mixedPatience is how long a history, of some seconds, may take.
const mixedPatience = 3 * time.Minute

func TestPropertyMixed(t *testing.T) {
	t.Parallel()
	if seed, ok := propEnv(t, "RAIDSTORAGE_SEED"); ok {
		trace, err := mixedPlay(t, seed, propPlan(seed), true)
		if err != nil {
			mixedReport(t, seed, trace, err)
		}
		t.Logf("the whole history:\n%s", strings.Join(trace, "\n"))
		return
	}
	count, first := uint64(mixedDefault), uint64(1)
	if n, ok := propEnv(t, "RAIDSTORAGE_HISTORIES"); ok {
		count, first = n, uint64(time.Now().UnixNano())/1e6*1e6
	}
	t.Logf("%d histories from RAIDSTORAGE_SEED=%d on", count, first)
	var next atomic.Uint64
	for worker := range mixedWorkers {
		t.Run(fmt.Sprintf("worker %d", worker), func(t *testing.T) {
			t.Parallel()
			for !t.Failed() {
				n := next.Add(1) - 1
				if n >= count {
					return
				}
				seed := first + n
				if trace, err := mixedPlay(t, seed, propPlan(seed), true); err != nil {
					t.Errorf("RAIDSTORAGE_SEED=%d: %v\n%s", seed, err, strings.Join(trace, "\n"))
				}
			}
		})
	}
}

// mixedPlay plays a history and returns what was wrong, with its trace.
func mixedPlay(t *testing.T, seed uint64, steps []propStep, logs bool) (trace []string, err error) {
	r := newMixedRun(t, seed, logs)
	dog := time.AfterFunc(mixedPatience, func() {
		panic(fmt.Sprintf("RAIDSTORAGE_SEED=%d hangs after\n%s", seed, strings.Join(r.soFar(), "\n")))
	})
	defer dog.Stop()
	r.play(steps)
	return r.soFar(), r.err
}

// mixedReport fails the test with a history as short as possible.
func mixedReport(t *testing.T, seed uint64, trace []string, err error) {
	t.Helper()
	steps := propShrink(propPlan(seed), 60, func(fewer []propStep) bool {
		shorter, e := mixedPlay(t, seed, fewer, true)
		if e != nil {
			trace, err = shorter, e
		}
		return e != nil
	})
	t.Errorf("RAIDSTORAGE_SEED=%d: %v\nthe history, with %d steps:\n%s", seed, err, len(steps), strings.Join(trace, "\n"))
}

// mixedSteps are the kinds of steps with their weights.
var mixedSteps = []struct {
	weight int
	do     func(*mixedRun, *rand.Rand)
}{
	{40, (*mixedRun).commit},
	{14, (*mixedRun).read},
	{8, (*mixedRun).lists},
	{10, (*mixedRun).pack},
	{6, (*mixedRun).recover},
	{4, (*mixedRun).disable},
	{4, (*mixedRun).diverge},
	{5, (*mixedRun).change},
	{4, (*mixedRun).verify},
	{4, (*mixedRun).restart},
	{5, (*mixedRun).die},
	{10, (*mixedRun).revive},
	{6, (*mixedRun).badLine},
	{6, (*mixedRun).fault},
	{5, (*mixedRun).quiet},
	{6, (*mixedRun).promote},
	{6, (*mixedRun).demote},
	{9, (*mixedRun).replaceBySpare},
	{8, (*mixedRun).readStale},
}

// play carries out the steps and the end.
func (r *mixedRun) play(steps []propStep) {
	defer r.endAll()
	total := 0
	for _, s := range mixedSteps {
		total += s.weight
	}
	r.start()
	for _, step := range steps {
		if r.failed() {
			return
		}
		rng := rand.New(rand.NewPCG(step.seed, uint64(step.n)))
		if r.m == nil {
			r.start()
		}
		pick := rng.IntN(total)
		for _, s := range mixedSteps {
			if pick -= s.weight; pick < 0 {
				r.note("%d:", step.n)
				s.do(r, rng)
				break
			}
		}
		if r.m != nil && r.gen.killed() {
			r.note("      the mirror died")
			r.crash()
		}
		r.look()
	}
	if !r.failed() {
		r.finale()
	}
}

// look checks that what was shown is not taken back.
func (r *mixedRun) look() {
	if r.m == nil || r.failed() {
		return
	}
	last, err := r.m.LastTID(context.Background())
	switch {
	case err != nil:
		r.failf("LastTID: %w", err)
	case last < r.shown:
		r.failf("the visible tid went down from %v to %v", r.shown, last)
	case last < r.model.last():
		r.failf("the visible tid is %v, and %v was acknowledged", last, r.model.last())
	}
	r.shown = max(r.shown, last)
	r.lookAtRoles()
}

// bounded is a context for one call.
func (r *mixedRun) bounded() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 30*time.Second)
}
