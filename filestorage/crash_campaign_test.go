//go:build linux

package filestorage_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

const (
	envStates = "RAIDSTORAGE_CRASH_STATES" // how many crash states of each workload
	envReplay = "RAIDSTORAGE_CRASH_REPLAY" // a record that a failure kept; with the workload and the seed
	// statesPerRecord is after how many states another run of the workload is recorded.
	statesPerRecord = 500
	maxPasses       = 60
)

// crashTrial is a record of a workload, and what follows from it.
type crashTrial struct {
	workload string
	seed     uint64
	ops      []fsOp
	logs     [][]loggedTxn
	dir      string // in memory, for the states
	seen     map[[sha256.Size]byte][]loggedTxn
	states   int
}

// memoryDir returns a directory in memory where the system has one.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "crash")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func envNumber(t testing.TB, name string, otherwise uint64) uint64 {
	t.Helper()
	env := os.Getenv(name)
	if env == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(env, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// record runs a workload and returns what it did.
func record(t testing.TB, workload string, seed uint64) *crashTrial {
	t.Helper()
	base := memoryDir(t)
	dir, file := filepath.Join(base, "work"), filepath.Join(base, "record")
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCrashProcess$", "-test.v")
	cmd.Env = append(os.Environ(), envRole+"=trace", envWorkload+"="+workload, envDir+"="+dir, envRecord+"="+file,
		envSeed+"="+strconv.FormatUint(seed, 10))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("workload %s, seed %d: %v\n%s", workload, seed, err, out)
	}
	ops, err := loadRecord(file)
	if err != nil {
		t.Fatal(err)
	}
	tr := newTrial(t, workload, seed, ops, filepath.Join(base, "state"))
	p := newPowerFS(ops)
	for i := range ops {
		p.apply(i)
	}
	left, err := imageOf(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := p.whole().differs(left); diff != "" {
		t.Fatalf("workload %s, seed %d: the record misses something: %s", workload, seed, diff)
	}
	return tr
}

// newTrial finds out what the log became.
func newTrial(t testing.TB, workload string, seed uint64, ops []fsOp, dir string) *crashTrial {
	t.Helper()
	tr := &crashTrial{workload: workload, seed: seed, ops: ops, dir: dir, seen: make(map[[sha256.Size]byte][]loggedTxn)}
	p := newPowerFS(ops)
	for i, op := range ops {
		if tr.switches(op) {
			tr.addLog(t, p)
		}
		p.apply(i)
	}
	tr.addLog(t, p)
	return tr
}

// switches tells whether the operation is the one by which a pack takes effect.
func (tr *crashTrial) switches(op fsOp) bool { return op.Kind == "rename" && op.To == crashData }

func (tr *crashTrial) addLog(t testing.TB, p *powerFS) {
	t.Helper()
	if err := p.whole().place(tr.dir); err != nil {
		t.Fatal(err)
	}
	log, err := tr.store().open()
	if err != nil {
		t.Fatalf("workload %s, seed %d: %v", tr.workload, tr.seed, err)
	}
	tr.logs = append(tr.logs, log)
}

func (tr *crashTrial) store() crashStore {
	return crashStore{tr.dir, crashWorkloads()[tr.workload].options(tr.dir, tr.seed)}
}

// play generates crash states, until there are as many different ones as wanted, and
// returns the first errors. A pass has one state for each beginning of the record.
func (tr *crashTrial) play(states int) error {
	for pass := range maxPasses {
		p, told := newPowerFS(tr.ops), &promises{logs: tr.logs, finishing: make(map[string]bool)}
		for i, op := range tr.ops {
			p.apply(i)
			if tr.switches(op) {
				told.epoch++
			}
			if word, name, _ := strings.Cut(string(op.Data), " "); op.Kind == "mark" && word == "ack" {
				told.acked = append(told.acked, name)
			} else if op.Kind == "mark" {
				told.finishing[name] = true
			}
			r := rand.New(rand.NewPCG(tr.seed, uint64(pass)<<32|uint64(i)))
			if err := tr.examine(p.sample(r), told, r.IntN(4) == 0); err != nil {
				return fmt.Errorf("pass %d, after operation %d: %w", pass, i, tr.explain(i, err))
			}
		}
		if tr.states >= states {
			return nil
		}
	}
	return nil
}

// examine checks one crash state.
func (tr *crashTrial) examine(im image, told *promises, more bool) error {
	sum := im.sum()
	log, known := tr.seen[sum]
	if !known {
		if err := im.place(tr.dir); err != nil {
			return err
		}
		var err error
		if log, err = tr.store().open(); err != nil {
			return err
		}
		if more {
			if err := tr.store().goesOn(); err != nil {
				return err
			}
		}
		tr.seen[sum] = log
		tr.states++
	}
	return told.kept(log)
}

// explain adds the operations before the crash.
func (tr *crashTrial) explain(i int, err error) error {
	const shown = 60
	var b strings.Builder
	for n := max(0, i-shown); n <= i; n++ {
		fmt.Fprintf(&b, "  %d %v\n", n, tr.ops[n])
	}
	return fmt.Errorf("%w\nthe operations before:\n%s", err, b.String())
}

// TestCrashCampaign generates crash states of each workload: whatever the disk holds
// when the power fails, the database opens, holds what was acknowledged, and is whole.
func TestCrashCampaign(t *testing.T) {
	t.Parallel()
	if kept := os.Getenv(envReplay); kept != "" {
		replay(t, kept)
		return
	}
	states, seed := int(envNumber(t, envStates, 1000)), envNumber(t, envSeed, uint64(os.Getpid()))
	for name, load := range crashWorkloads() {
		if load.own {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var total, records atomic.Int64
			t.Cleanup(func() { t.Logf("%d different states of %d runs, seeds from %d on", total.Load(), records.Load(), seed) })
			const parts = 2 // half of the states from even seeds, half from odd ones: they do different things
			for part := range parts {
				t.Run(fmt.Sprint(part), func(t *testing.T) {
					t.Parallel()
					own := 0
					for n := seed + uint64(part); own*parts < states && !t.Failed(); n += parts {
						tr := record(t, name, n)
						if err := tr.play(statesPerRecord); err != nil {
							tr.fail(t, err)
						}
						own += tr.states
						total.Add(int64(tr.states))
						records.Add(1)
						_ = os.RemoveAll(filepath.Dir(tr.dir)) // not only in the end: it is memory
					}
				})
			}
		})
	}
}

// fail keeps the record of a run that failed, whose order cannot be had again.
func (tr *crashTrial) fail(t *testing.T, err error) {
	t.Helper()
	kept := filepath.Join(os.TempDir(), fmt.Sprintf("crash-%s-%d.record", tr.workload, tr.seed))
	if saveErr := saveRecord(kept, tr.ops); saveErr != nil {
		err = errors.Join(err, saveErr)
	}
	t.Errorf("workload %s, seed %d: %v\nagain: %s=%s %s=%s %s=%d go test -run '^TestCrashCampaign$' ./filestorage",
		tr.workload, tr.seed, err, envReplay, kept, envWorkload, tr.workload, envSeed, tr.seed)
}

// replay plays a record that was kept.
func replay(t *testing.T, kept string) {
	ops, err := loadRecord(kept)
	if err != nil {
		t.Fatal(err)
	}
	tr := newTrial(t, os.Getenv(envWorkload), envNumber(t, envSeed, 0), ops, filepath.Join(memoryDir(t), "state"))
	if err := tr.play(statesPerRecord); err != nil {
		t.Error(err)
	}
}

// without returns the record as it would be without the operations that bug tells.
func (tr *crashTrial) without(bug func(i int, op fsOp) bool) []fsOp {
	ops := slices.Clone(tr.ops)
	for i, op := range ops {
		if bug(i, op) {
			ops[i] = fsOp{Kind: "missing"}
		}
	}
	return ops
}
