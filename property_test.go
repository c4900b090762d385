package raidstorage_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Random histories of a mirror - commits, conflicts, undo, reads of all kinds, faults
// of backends and of the register, crashes and restarts, operators - are compared,
// answer by answer, with a simple model. The environment says how many:
//
//	RAIDSTORAGE_HISTORIES=10000 go test -run TestPropertyHistories .
//	RAIDSTORAGE_SEED=N          go test -run TestPropertyHistories .   that one again
//
// Each history runs in a bubble with a clock of its own, so that deadlines cost
// nothing. What a step does follows from its seed and from where the history is; the
// goroutines of a mirror are still scheduled as they are, so that now and then a
// failure needs several runs of its seed to come again.

// propDefault is how many histories a plain run plays, from seed 1 on.
const propDefault = 500

// propPatience is how long a history, of some milliseconds, may take.
const propPatience = 30 * time.Second

// propHead is the beginning of a trace that may be very long.
func propHead(trace []string) []string { return trace[:min(len(trace), 300)] }

func propEnv(t *testing.T, name string) (uint64, bool) {
	s := os.Getenv(name)
	if s == "" {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n, true
}

// propPlan returns the steps of the history of a seed.
func propPlan(seed uint64) []propStep {
	rng := rand.New(rand.NewPCG(seed, 0x57e95))
	steps := make([]propStep, 8+rng.IntN(40))
	for i := range steps {
		steps[i] = propStep{seed: rng.Uint64(), n: i}
	}
	return steps
}

// propPlay plays a history and returns what was wrong, with its trace.
func propPlay(t *testing.T, seed uint64, steps []propStep, lies propLies) (trace []string, err error) {
	r := newPropRun(seed, lies)
	defer func() {
		if p := recover(); p != nil { // the bubble found goroutines that wait for ever
			trace, err = r.soFar(), fmt.Errorf("%v", p)
			if lies.alone {
				trace = append(trace, propStacks())
			}
		}
	}()
	// Fake time stands still in a history that loops or waits for a mutex.
	dog := time.AfterFunc(propPatience, func() {
		panic(fmt.Sprintf("RAIDSTORAGE_SEED=%d hangs after\n%s", seed, strings.Join(propHead(r.soFar()), "\n")))
	})
	defer dog.Stop()
	synctest.Test(t, func(*testing.T) { r.play(steps) })
	return r.soFar(), r.err
}

// propStacks returns the stacks of the youngest bubble.
func propStacks() string {
	buf := make([]byte, 1<<22)
	all := strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")
	bubble := regexp.MustCompile(`synctest bubble (\d+)`)
	youngest, kept := 0, []string(nil)
	for _, stack := range all {
		found := bubble.FindStringSubmatch(stack)
		if found == nil || !strings.Contains(stack, "(durable)") {
			continue
		}
		n, err := strconv.Atoi(found[1])
		if err != nil || n < youngest {
			continue
		}
		if n > youngest {
			youngest, kept = n, nil
		}
		kept = append(kept, stack)
	}
	return strings.Join(kept, "\n\n")
}

// propShrink leaves out steps of a failing history as long as it still fails.
func propShrink(steps []propStep, tries int, fails func([]propStep) bool) []propStep {
	for size := len(steps) / 2; size > 0; size /= 2 {
		for from := 0; from+size <= len(steps) && tries > 0; tries-- {
			fewer := append(append([]propStep(nil), steps[:from]...), steps[from+size:]...)
			if fails(fewer) {
				steps = fewer
			} else {
				from += size
			}
		}
	}
	return steps
}

// propReport fails the test with a history as short as possible.
func propReport(t *testing.T, seed uint64, trace []string, err error) {
	t.Helper()
	steps := propShrink(propPlan(seed), 400, func(fewer []propStep) bool {
		_, err := propPlay(t, seed, fewer, propLies{})
		return err != nil
	})
	for range 20 {
		if shorter, e := propPlay(t, seed, steps, propLies{logs: true}); e != nil {
			trace, err = shorter, e
			break
		}
	}
	t.Errorf("RAIDSTORAGE_SEED=%d: %v\nthe history, without what is not needed:\n%s", seed, err, strings.Join(trace, "\n"))
}

// TestPropertyHistories plays random histories.
func TestPropertyHistories(t *testing.T) {
	t.Parallel()
	if seed, ok := propEnv(t, "RAIDSTORAGE_SEED"); ok {
		trace, err := propPlay(t, seed, propPlan(seed), propLies{logs: true, alone: true})
		if err != nil {
			propReport(t, seed, trace, err)
		}
		t.Logf("the whole history:\n%s", strings.Join(trace, "\n"))
		return
	}
	count, first := uint64(propDefault), uint64(1)
	if n, ok := propEnv(t, "RAIDSTORAGE_HISTORIES"); ok {
		// Other ones each time: that is what such a run is for.
		count, first = n, uint64(time.Now().UnixNano())/1e6*1e6
	}
	t.Logf("%d histories from RAIDSTORAGE_SEED=%d on", count, first)
	var next atomic.Uint64
	for worker := range runtime.GOMAXPROCS(0) {
		t.Run(fmt.Sprintf("worker %d", worker), func(t *testing.T) {
			t.Parallel()
			for !t.Failed() {
				n := next.Add(1) - 1
				if n >= count {
					return
				}
				seed := first + n
				trace, err := propPlay(t, seed, propPlan(seed), propLies{})
				if err != nil {
					propReport(t, seed, trace, err)
				}
			}
		})
	}
}
