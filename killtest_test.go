package raidstorage_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// TestKilledMirror kills a process that commits through a mirror of three files,
// again and again at random moments, with SIGKILL. Every acknowledged transaction
// must be there after each restart, and in the end the files must be equal.
//
// RAIDSTORAGE_KILLS is how often (default 25), RAIDSTORAGE_SEED repeats a run as
// far as processes can.
func TestKilledMirror(t *testing.T) {
	t.Parallel()
	killRounds(t).checkEnd()
}

func makeKillDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for i := range 3 {
		if err := os.Mkdir(filepath.Join(dir, name(i)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// killRounds kills children, and returns what was said.
func killRounds(t *testing.T) *killer {
	t.Helper()
	rounds, seed := 25, rand.Uint64()
	for variable, set := range map[string]func(uint64){
		"RAIDSTORAGE_KILLS": func(n uint64) { rounds = int(n) },
		"RAIDSTORAGE_SEED":  func(n uint64) { seed = n },
	} {
		if text := os.Getenv(variable); text != "" {
			n, err := strconv.ParseUint(text, 10, 64)
			if err != nil {
				t.Fatalf("%s: %v", variable, err)
			}
			set(n)
		}
	}
	t.Logf("RAIDSTORAGE_SEED=%d, %d kills", seed, rounds)
	k := &killer{t: t, dir: makeKillDir(t), rng: rand.New(rand.NewPCG(seed, 0)), ledger: newKillLedger(), moments: map[string]int{}, mayDiverge: map[string]bool{}}
	start := time.Now()
	for n := range rounds {
		k.round(n)
	}
	t.Logf("%d acknowledged transactions %v, %d in the log, %d disks lost, %d times a backend was away, %d joined again, killed %v, %v in all",
		len(k.ledger.acked), k.ledger.kinds, len(k.ledger.seen), k.losses, k.aways, k.ledger.joins, k.moments, time.Since(start).Round(time.Millisecond))
	return k
}

// killer is the parent of the processes that are killed.
type killer struct {
	t       *testing.T
	dir     string
	rng     *rand.Rand
	ledger  *killLedger
	moments map[string]int

	losses, aways int
	// hurt is a backend whose disk was lost and that may still be called in sync.
	// Until it has left the record, and come back, no other one may be hurt: else
	// fewer than two whole ones stay, and the mirror rightly refuses to start.
	hurt     string
	hurtLeft bool
	// mayDiverge are those that were in sync at a kill and away at the next start: they
	// may have a transaction, whose finish was under way, that the others go on without.
	mayDiverge map[string]bool
}

// round lets one child live and die.
func (k *killer) round(n int) {
	k.t.Helper()
	order := killOrder{Dir: k.dir, Seed: k.rng.Uint64(), Round: n, From: k.ledger.next, Sync: k.rng.IntN(4) == 0}
	k.disturb(&order)
	k.live(order, k.moment())
}

// disturb takes a disk away, or a backend for a while, if two whole ones stay.
func (k *killer) disturb(o *killOrder) {
	k.t.Helper()
	record := k.record()
	if record.Epoch == 0 {
		return // at the first start all must be there
	}
	if !slices.Contains(record.InSync, k.hurt) {
		k.hurtLeft = true
	} else if k.hurtLeft {
		k.hurt, k.hurtLeft = "", false
	}
	var victims []string
	for i := range 3 {
		if b := name(i); b == k.hurt || k.hurt == "" && (len(record.InSync) == 3 || !slices.Contains(record.InSync, b)) {
			victims = append(victims, b)
		}
	}
	victim := victims[k.rng.IntN(len(victims))]
	switch p := k.rng.IntN(100); {
	case p < 12:
		k.loseDisk(victim)
	case p < 30:
		o.Away, o.AwayOpens = victim, 1+k.rng.Int32N(20)
		k.aways++
		if slices.Contains(record.InSync, victim) {
			k.mayDiverge[victim] = true
		}
	}
}

// record reads the membership record, as the next mirror will.
func (k *killer) record() raidstorage.Membership {
	k.t.Helper()
	register, err := raidstorage.OpenFileRegister(filepath.Join(k.dir, "state"))
	if err != nil {
		k.t.Fatal(err)
	}
	record, err := register.Load(k.t.Context())
	if err := errors.Join(err, register.Close()); err != nil {
		k.t.Fatal(err)
	}
	return record
}

// loseDisk removes a backend's files; sometimes the old index stays.
func (k *killer) loseDisk(backend string) {
	k.t.Helper()
	files, err := filepath.Glob(filepath.Join(k.dir, backend, "*"))
	if err != nil {
		k.t.Fatal(err)
	}
	keepIndex := k.rng.IntN(2) == 0
	for _, f := range files {
		if keepIndex && strings.HasSuffix(f, ".index") {
			continue
		}
		if err := os.Remove(f); err != nil {
			k.t.Fatal(err)
		}
	}
	k.hurt, k.hurtLeft = backend, false
	k.losses++
}

// killMoment says when a child dies: spin after the count-th thing that counts.
type killMoment struct {
	what  string
	count func(line string) int // how far a line leads
	goal  int
	spin  time.Duration
}

// moment chooses one. Most are among commits; some hit the start, or what follows a
// change of the record.
func (k *killer) moment() killMoment {
	micros := func(limit int) time.Duration { return time.Duration(k.rng.IntN(limit)) * time.Microsecond }
	begins := func(words ...string) func(string) int {
		return func(line string) int {
			word, _, _ := strings.Cut(line, " ")
			if slices.Contains(words, word) {
				return 1
			}
			return 0
		}
	}
	switch p := k.rng.IntN(100); {
	case p < 60:
		return killMoment{"after acknowledgements", begins("ack"), 1 + k.rng.IntN(80), micros(3000)}
	case p < 70:
		return killMoment{"before a finish", begins("try"), 1 + k.rng.IntN(80), micros(500)}
	case p < 80:
		return killMoment{"after some bytes", func(line string) int { return len(line) }, 1 + k.rng.IntN(20_000), micros(1000)}
	case p < 88:
		return killMoment{"at the start", begins("start"), 1, micros(15_000)}
	case p < 94:
		return killMoment{"after events", func(line string) int {
			return 10*begins("event")(line) + begins("ack")(line) // there may be no events
		}, 10 * (1 + k.rng.IntN(10)), micros(3000)}
	}
	return killMoment{"after a recovery", func(line string) int {
		if begins("event")(line) == 1 && strings.HasSuffix(line, joined) {
			return 400
		}
		return begins("ack")(line)
	}, 400, micros(1000)}
}

// killDeadline is how long a child may take to reach its moment.
const killDeadline = time.Minute

// live starts a child, kills it at its moment, and notes all that it said.
func (k *killer) live(order killOrder, moment killMoment) {
	t := k.t
	t.Helper()
	text, err := json.Marshal(order)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), killEnv+"="+string(text))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe() // its end is the child's end
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // it may be dead already
	var late atomic.Bool
	watchdog := time.AfterFunc(killDeadline, func() {
		late.Store(true)
		kill()
	})
	killed, wrong := k.follow(stdout, moment, kill)
	watchdog.Stop()
	kill() // whatever happened: nobody is left
	err = cmd.Wait()
	what := fmt.Sprintf("round %d, %s, %+v", order.Round, moment.what, order)
	switch {
	case wrong != nil:
		t.Fatalf("%s: %v\n%s", what, wrong, &stderr)
	case late.Load():
		t.Fatalf("%s: not there after %v\n%s", what, killDeadline, &stderr)
	case !killed:
		t.Fatalf("%s: the child ended by itself: %v\n%s", what, err, &stderr)
	}
	k.moments[moment.what]++
}

// follow reads what a child says, to the end, and kills it at its moment.
func (k *killer) follow(stdout io.Reader, moment killMoment, kill func()) (killed bool, wrong error) {
	lines := bufio.NewReader(stdout)
	progress := 0
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return killed, wrong
		}
		line = strings.TrimSuffix(line, "\n")
		if wrong == nil {
			if wrong = k.ledger.note(line); wrong == nil {
				wrong = k.judge(line)
			}
			if wrong != nil {
				kill()
			}
		}
		if progress += moment.count(line); progress >= moment.goal && !killed {
			killed = true
			for start := time.Now(); time.Since(start) < moment.spin; {
			}
			kill()
		}
	}
}

// judge looks at what happened to a backend: one that has diverged may have, and one that
// was recovered holds what the others hold.
func (k *killer) judge(line string) error {
	text, _ := strings.CutPrefix(line, "event backend ")
	backend, change, _ := strings.Cut(text, ": ")
	switch {
	case strings.HasSuffix(change, joined):
		delete(k.mayDiverge, backend)
	case strings.Contains(change, "has diverged") && !k.mayDiverge[backend]:
		return fmt.Errorf("%s was in sync at no kill after which it was away: %s", backend, change)
	}
	return nil
}

// rollBack recovers those that have diverged, as an operator does (rule V2). Nobody was
// told that what is cut off is in: the ledger is judged.
func (k *killer) rollBack(ctx context.Context, m *raidstorage.Mirror) {
	t := k.t
	t.Helper()
	for _, b := range m.Status().Backends {
		if b.State != raidstorage.StateFailed || !strings.Contains(b.Reason, "has diverged") {
			continue
		}
		t.Logf("%s: %s", b.Name, b.Reason)
		if !k.mayDiverge[b.Name] {
			t.Fatalf("%s was in sync at no kill after which it was away", b.Name)
		}
		if err := m.RecoverWith(ctx, b.Name, raidstorage.RecoverOptions{Rollback: true}); err != nil {
			t.Logf("roll back %s: %v", b.Name, err) // one that goes on by itself may be in the way: again
		}
	}
}

// checkEnd opens the mirror, waits until all backends are in sync, and compares
// what it holds, and what each file holds, with what was promised.
func (k *killer) checkEnd() {
	t := k.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	m, err := raidstorage.Open(ctx, killConfig(killOrder{Dir: k.dir}))
	if err != nil {
		t.Fatal(err)
	}
	events := m.Watch(ctx)
	for m.Status().Condition != raidstorage.Optimal {
		k.rollBack(ctx, m)
		if _, ok := <-events; !ok {
			t.Errorf("the mirror did not become optimal: %+v", m.Status())
			break
		}
	}
	log, err := storagetest.Log(ctx, m)
	if err := errors.Join(err, m.Close()); err != nil {
		t.Fatal(err)
	}
	if err := k.ledger.judge(log); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		s, err := filestorage.Open(ctx, killFile(k.dir, i), filestorage.Options{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		got, err := storagetest.Log(ctx, s)
		if err := errors.Join(err, s.Close()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(got, log); diff != "" {
			t.Errorf("%s (-) is not what the mirror showed (+):\n%.10000s", name(i), diff)
		}
	}
}
