package raidstorage_test

import (
	"context"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// loads returns how many reads each backend has served.
func loads(m *raidstorage.Mirror) map[string]int64 {
	n := map[string]int64{}
	for _, b := range m.Status().Backends {
		n[b.Name] = b.Counters.Loads
	}
	return n
}

func TestReadPolicies(t *testing.T) {
	t.Parallel()
	const reads = 300
	for what, c := range map[string]struct {
		policy raidstorage.ReadPolicy
		want   func(n map[string]int64) bool
	}{
		"round robin takes all alike":   {raidstorage.RoundRobin, func(n map[string]int64) bool { return n["b1"] == reads/3 && n["b2"] == reads/3 }},
		"primary first takes the first": {raidstorage.PrimaryFirst, func(n map[string]int64) bool { return n["b1"] == reads }},
		"least latency takes the fastest, and now and then another": {raidstorage.LeastLatency, func(n map[string]int64) bool {
			return n["b2"] > reads*9/10 && n["b1"] > 0 && n["b3"] > 0
		}},
	} {
		t.Run(what, func(t *testing.T) {
			scenario(t, 3, func(t *testing.T, w *world) {
				w.cfg.ReadPolicy = c.policy
				m := w.start()
				w.mustCommit(m, 1, "x")
				delay := storagetest.Fault{Call: storagetest.CallLoad, Kind: storagetest.Observe}
				for name, d := range map[string]time.Duration{"b1": 30, "b2": 1, "b3": 20} {
					delay.Delay = d * time.Millisecond
					w.backend(name).Inject(delay)
				}
				before := loads(m)
				for range reads {
					wantData(t, m, 1, "x")
				}
				n := loads(m)
				for name := range n {
					n[name] -= before[name]
				}
				if !c.want(n) {
					t.Errorf("%d reads were spread like this: %v", reads, n)
				}
			})
		})
	}
}

// R1: a snapshot from before a commit stays what it was, on every backend.
func TestOldSnapshotsStay(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		m := w.start()
		first := w.mustCommit(m, 1, "one")
		second := w.mustCommit(m, 1, "two")
		for range 6 { // each backend twice
			rev, err := m.LoadBefore(context.Background(), 1, second)
			if err != nil || string(rev.Data) != "one" || rev.Serial != first || rev.Next != second {
				t.Errorf("before %v: got %+v, %v", second, rev, err)
			}
			rev, err = m.LoadBefore(context.Background(), 1, raidstorage.MaxTID)
			if err != nil || string(rev.Data) != "two" || rev.Next != 0 {
				t.Errorf("current: got %+v, %v", rev, err)
			}
		}
	})
}

// A backend that fails while the others recover it, or that is cut off at any of
// the reads of a workload, costs no reader anything.
func TestEveryReadOfAWorkloadMayFail(t *testing.T) {
	t.Parallel()
	for step := 0; ; step++ {
		fired := false
		scenarioIn(t, 2, func(t *testing.T, w *world) {
			m := w.start()
			w.fill(m, 20)
			plan := storagetest.FailCall(step)
			w.backend("b1").Inject(plan)
			ctx := context.Background()
			want, err := storagetest.Log(ctx, w.mem.stores[1].Another("want"))
			if err != nil {
				t.Fatal(err)
			}
			got, err := storagetest.Log(ctx, m)
			if err != nil || len(got) != len(want) {
				t.Errorf("step %d: iterate: %d of %d transactions, %v", step, len(got), len(want), err)
			}
			if _, err := m.History(ctx, 1, 5); err != nil {
				t.Errorf("step %d: history: %v", step, err)
			}
			if _, err := m.UndoLog(ctx, 0, 5, nil); err != nil {
				t.Errorf("step %d: undo log: %v", step, err)
			}
			if _, _, err := m.Size(ctx); err != nil {
				t.Errorf("step %d: size: %v", step, err)
			}
			for range 3 {
				wantData(t, m, 1, string(mustLoad(t, m, 1)))
			}
			records := 0
			for _, err := range m.CurrentRecords(ctx, 0) {
				if records++; err != nil {
					t.Errorf("step %d: current records: %v", step, err)
				}
			}
			fired = w.backend("b1").Fired() > 0
		})
		if !fired {
			return // the workload has no more steps
		}
	}
}
