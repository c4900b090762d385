package raidstorage_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// The process that is killed while it packs: this test binary, started with
// killPackEnv, which names the folder of two files. Each of its writers counts up a
// child of the root, and gives it a new object to refer to each time; the one before
// is garbage. One goroutine packs without end. It says, a line at a time:
//
//	have CHILD COUNT   what it found at the start
//	ack CHILD COUNT    a commit was acknowledged
//	event TEXT         something happened to the mirror
//	fail TEXT          what must not be
const killPackEnv = "RAIDSTORAGE_KILLPACK"

const packWriters = 4

// TestKilledInPacks kills such processes at random moments of packs: nothing
// acknowledged is lost, no next start fails, and the files end up equal.
// RAIDSTORAGE_KILLS is how often (default 25), RAIDSTORAGE_SEED repeats the moments.
func TestKilledInPacks(t *testing.T) {
	t.Parallel()
	killPackRounds(t)
}

func killPackConfig(dir string) raidstorage.Config {
	cfg := killConfig(killOrder{Dir: dir})
	cfg.Backends = cfg.Backends[:2]
	return cfg
}

// killPackRounds kills, checks, and returns the folder.
func killPackRounds(t *testing.T) string {
	t.Helper()
	rounds, seed := uint64(25), rand.Uint64()
	if n, ok := propEnv(t, "RAIDSTORAGE_KILLS"); ok {
		rounds = n
	}
	if n, ok := propEnv(t, "RAIDSTORAGE_SEED"); ok {
		seed = n
	}
	t.Logf("RAIDSTORAGE_SEED=%d, %d kills", seed, rounds)
	k := &packKiller{t: t, dir: makeKillDir(t), rng: rand.New(rand.NewPCG(seed, 1)), phases: map[string]int{}}
	for range rounds {
		k.round()
	}
	k.check()
	t.Logf("killed after %v; counted up to %v; %d starts found an interrupted pack", k.phases, k.acked, k.interrupted)
	return k.dir
}

type packKiller struct {
	t           *testing.T
	dir         string
	rng         *rand.Rand
	acked       [packWriters + 1]int
	phases      map[string]int
	interrupted int
}

// round lets one child live until some line of its after a pack's, and then a bit.
func (k *packKiller) round() {
	t := k.t
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), killPackEnv+"="+k.dir)
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
	killed, wrong := k.follow(stdout, kill)
	watchdog.Stop()
	kill()
	err = cmd.Wait()
	switch {
	case wrong != nil:
		t.Fatalf("%v\n%s", wrong, &stderr)
	case late.Load() || !killed:
		t.Fatalf("the child was not killed at its moment, late %v: %v\n%s", late.Load(), err, &stderr)
	}
	if (&killer{t: t, dir: k.dir}).record().Lock != nil {
		k.interrupted++
	}
}

// follow reads what a child says and kills it.
func (k *packKiller) follow(stdout io.Reader, kill func()) (killed bool, wrong error) {
	goal, spin := 1+k.rng.IntN(30), time.Duration(k.rng.IntN(4000))*time.Microsecond
	lines := bufio.NewReader(stdout)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return killed, wrong
		}
		word, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		var child, count int
		switch word {
		case "have", "ack":
			if _, err := fmt.Sscan(rest, &child, &count); err != nil || child < 1 || child > packWriters || count < k.acked[child] {
				wrong = fmt.Errorf("%q after %v (%w)", line, k.acked, err)
				kill()
				continue
			}
			k.acked[child] = count
		case "fail":
			wrong = errors.New(line)
		case "event":
			_, pack, ok := strings.Cut(rest, "pack to ")
			_, phase, found := strings.Cut(pack, ": ")
			if !ok || !found || killed {
				continue
			}
			if goal--; goal == 0 {
				killed = true
				for start := time.Now(); time.Since(start) < spin; {
				}
				kill()
				phase, _, _ = strings.Cut(phase, ",")
				k.phases[phase]++
			}
		}
	}
}

// check opens the mirror, packs it, and compares the files.
func (k *packKiller) check() {
	t := k.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), killDeadline)
	defer cancel()
	m, err := raidstorage.Open(ctx, killPackConfig(k.dir))
	if err != nil {
		t.Fatal(err)
	}
	events := m.Watch(ctx)
	for m.Status().Condition != raidstorage.Optimal {
		if _, ok := <-events; !ok {
			t.Fatalf("the mirror did not become optimal: %+v", m.Status())
		}
	}
	for child := 1; child <= packWriters; child++ {
		if count, _, err := countOf(ctx, m, child); err != nil || count < k.acked[child] {
			t.Errorf("child %d is at %d, acknowledged was %d (%v)", child, count, k.acked[child], err)
		}
	}
	err = m.Pack(ctx, raidstorage.PackOptions{Through: raidstorage.MaxTID, GC: true})
	record := m.Status().Membership
	report, err2 := m.Verify(ctx, raidstorage.VerifyOptions{})
	if err := errors.Join(err, err2, m.Close()); err != nil || report.Findings > 0 {
		t.Fatal(err, report.Listed)
	}
	if record.Lock != nil || len(record.Unpacked) > 0 || len(record.InSync) != 2 {
		t.Errorf("the record is %+v", record)
	}
	var logs [2][]storagetest.LogTransaction
	for i := range logs {
		s, err := filestorage.Open(ctx, killFile(k.dir, i), filestorage.Options{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		logs[i], err = storagetest.Log(ctx, s)
		if err := errors.Join(err, s.Close()); err != nil {
			t.Fatal(err)
		}
		left, err := filepath.Glob(filepath.Join(k.dir, name(i), "Data.fs.pack*"))
		if err != nil || len(left) > 0 {
			t.Errorf("left over: %v, %v", left, err)
		}
	}
	if diff := cmp.Diff(logs[0], logs[1]); diff != "" {
		t.Errorf("b1 (-) and b2 (+) differ:\n%.10000s", diff)
	}
}

// countOf reads a child, and what it refers to.
func countOf(ctx context.Context, s raidstorage.Storage, child int) (count int, serial raidstorage.TID, err error) {
	rev, err := s.LoadBefore(ctx, raidstorage.OID(child), raidstorage.MaxTID)
	if err != nil {
		return 0, 0, err
	}
	var below raidstorage.OID
	_, text, _ := strings.Cut(string(rev.Data), "count=")
	if _, err := fmt.Sscanf(text, "%d below=%d;", &count, &below); err != nil {
		return 0, 0, fmt.Errorf("child %d is %q: %w", child, rev.Data, err)
	}
	if _, err := s.LoadBefore(ctx, below, raidstorage.MaxTID); err != nil {
		return 0, 0, fmt.Errorf("below child %d at %d: %w", child, count, err)
	}
	return count, rev.Serial, nil
}

func killPackChild(dir string) int {
	go func() { // the parent holds the other end
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(2)
	}()
	c := &packChild{}
	ctx, stop := context.WithCancelCause(context.Background())
	c.fail = func(err error) { c.say("fail %v", err); stop(err) }
	if err := c.run(ctx, dir); err != nil {
		c.say("fail %v", err)
	}
	return 1
}

type packChild struct {
	m    *raidstorage.Mirror
	fail func(error)
	mu   sync.Mutex // keeps lines whole
}

func (c *packChild) say(format string, args ...any) {
	line := strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", " ") + "\n"
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = os.Stdout.WriteString(line) // a parent that is gone ends us otherwise
}

func (c *packChild) run(ctx context.Context, dir string) (err error) {
	if c.m, err = raidstorage.Open(ctx, killPackConfig(dir)); err != nil {
		return err
	}
	defer c.m.Close()
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() {
		for e := range c.m.Watch(ctx) {
			c.say("event %v", e)
		}
	})
	if _, err := c.m.LoadBefore(ctx, 0, raidstorage.MaxTID); err != nil {
		if err := c.create(ctx); err != nil {
			return err
		}
	}
	for child := 1; child <= packWriters; child++ {
		count, _, err := countOf(ctx, c.m, child)
		if err != nil {
			return err
		}
		c.say("have %d %d", child, count)
	}
	for child := 1; child <= packWriters; child++ {
		work.Go(func() {
			for ctx.Err() == nil {
				if err := c.count(ctx, child); err != nil {
					c.fail(err)
				}
			}
		})
	}
	work.Go(func() {
		for ctx.Err() == nil {
			err := c.m.Pack(ctx, raidstorage.PackOptions{Through: raidstorage.MaxTID, GC: true})
			if err != nil {
				c.fail(err)
			}
		}
	})
	work.Wait()
	return context.Cause(ctx)
}

// create makes the root and the children.
func (c *packChild) create(ctx context.Context) error {
	oids, err := c.m.NewOIDs(ctx, 64) // those of the children are not handed out again
	if err != nil {
		return err
	}
	var children []raidstorage.OID
	objects := map[raidstorage.OID]string{}
	for child := 1; child <= packWriters; child++ {
		children = append(children, raidstorage.OID(child))
		below := oids[len(oids)-child]
		objects[raidstorage.OID(child)] = storagetest.Pickled(fmt.Sprintf("count=0 below=%d;", below), below)
		objects[below] = storagetest.Pickled("below")
	}
	objects[0] = storagetest.Pickled("root", children...)
	return c.commit(ctx, objects, 0)
}

// count counts a child up.
func (c *packChild) count(ctx context.Context, child int) error {
	count, serial, err := countOf(ctx, c.m, child)
	if err != nil {
		return err
	}
	oids, err := c.m.NewOIDs(ctx, 1)
	if err != nil {
		return err
	}
	err = c.commit(ctx, map[raidstorage.OID]string{
		raidstorage.OID(child): storagetest.Pickled(fmt.Sprintf("count=%d below=%d;", count+1, oids[0]), oids[0]),
		oids[0]:                storagetest.Pickled("below", raidstorage.OID(child)),
	}, serial)
	if err == nil {
		c.say("ack %d %d", child, count+1)
	}
	return err
}

func (c *packChild) commit(ctx context.Context, objects map[raidstorage.OID]string, serial raidstorage.TID) error {
	txn, err := c.m.Begin(ctx, raidstorage.Meta{Description: []byte("count")})
	if err != nil {
		return err
	}
	defer func() { _ = txn.Abort(ctx) }() // without effect after Finish
	for oid, data := range objects {
		read := raidstorage.TID(0)
		if oid <= packWriters {
			read = serial
		}
		if err := txn.Store(ctx, oid, read, []byte(data)); err != nil {
			return err
		}
	}
	if _, err := txn.Vote(ctx); err != nil {
		return err
	}
	_, err = txn.Finish(ctx)
	return err
}
