//go:build interop

package interop_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// family is some clients, processes of testdata/failover.py, that commit through one
// server all the time, each with a persistent cache. Only the test's goroutine uses it.
type family struct {
	dir, address string
	events       chan familyEvent
	clients      []*familyClient
	commits      int           // of all
	last         time.Time     // of the last one
	longest      time.Duration // between two
	random       *rand.Rand
	think        time.Duration // between two transactions of a client
}

// familyClient is one of them. The even ones ask the server at the begin of each
// transaction (server_sync), the odd ones are as clients are by default.
type familyClient struct {
	*process
	name     string
	index    int
	commits  int
	voted    bool // it has voted and waits
	compared int  // objects found in its cache, -1 before it compared
	account  *familyAccount
}

// familyEvent is a line that a client printed; one without anything says that the
// process has ended.
type familyEvent struct {
	client   *familyClient
	process  *process
	Commit   int
	Voted    bool
	Compared *int
	Account  *familyAccount
}

// familyAccount is what a client says in the end.
type familyAccount struct {
	Name       string         `json:"name"`
	Acked      int            `json:"acked"` // commits that it knows of
	Keys       []int          `json:"keys"`
	Conflicts  int            `json:"conflicts"`
	Found      int            `json:"found"`    // commits that were there although they had failed
	Failures   map[string]int `json:"failures"` // other errors, with their numbers
	Wrong      []string       `json:"wrong"`    // what was read wrongly
	Bad        []string       `json:"bad"`      // lines of its log that must not be there
	Verified   []string       `json:"verified"` // how its cache was verified at its start
	Dropped    int            `json:"dropped"`  // how often it dropped its cache
	Standstill float64        `json:"standstill"`
}

// familySeed is RAIDSTORAGE_SEED, or a new one.
func familySeed(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64() >> 12
	if text := os.Getenv("RAIDSTORAGE_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("RAIDSTORAGE_SEED=%d", seed)
	return seed
}

// newFamily makes the clients' objects at the server, and n clients that do not run.
func newFamily(ctx context.Context, t *testing.T, address string, n int) *family {
	t.Helper()
	return newSeededFamily(ctx, t, address, n, familySeed(t))
}

func newSeededFamily(ctx context.Context, t *testing.T, address string, n int, seed uint64) *family {
	t.Helper()
	f := &family{dir: t.TempDir(), address: address, events: make(chan familyEvent, 10000), random: rand.New(rand.NewPCG(seed, 0))}
	var names []string
	for i := range n {
		f.clients = append(f.clients, &familyClient{name: "client" + strconv.Itoa(i), index: i})
		names = append(names, f.clients[i].name)
	}
	if err := os.WriteFile(f.acks(), make([]byte, 8*n), 0o666); err != nil {
		t.Fatal(err)
	}
	pythonOutput(ctx, t, "failover.py", "setup", address, strings.Join(names, ","))
	return f
}

func (f *family) acks() string { return filepath.Join(f.dir, "acks") }

// start starts a client that does not run.
func (f *family) start(ctx context.Context, t *testing.T, c *familyClient) {
	t.Helper()
	c.compared, c.account, c.voted = -1, nil, false
	c.process = startPython(ctx, t, filepath.Join("testdata", "failover.py"), "client", f.address, c.name, f.dir, f.acks(),
		strconv.Itoa(f.random.IntN(1<<30)), strconv.Itoa(1-c.index%2),
		strconv.FormatFloat(f.think.Seconds(), 'f', -1, 64))
	go func(out *process) {
		lines := bufio.NewScanner(out.stdout)
		lines.Buffer(nil, 64<<20)
		for lines.Scan() {
			e := familyEvent{client: c, process: out}
			if json.Unmarshal(lines.Bytes(), &e) != nil {
				continue
			}
			select {
			case f.events <- e:
			case <-ctx.Done():
				return
			}
		}
		select {
		case f.events <- familyEvent{client: c, process: out}:
		case <-ctx.Done():
		}
	}(c.process)
}

func (f *family) startAll(ctx context.Context, t *testing.T) {
	t.Helper()
	for _, c := range f.clients {
		f.start(ctx, t, c)
	}
	f.allCommit(ctx, t, 3)
}

// await takes in what the clients say until the condition holds.
func (f *family) await(ctx context.Context, t *testing.T, what string, condition func() bool) {
	t.Helper()
	for !condition() {
		select {
		case e := <-f.events:
			f.take(t, e)
		case <-ctx.Done():
			for _, c := range f.clients {
				t.Logf("%s: %d commits", c.name, c.commits)
			}
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func (f *family) take(t *testing.T, e familyEvent) {
	t.Helper()
	switch c := e.client; {
	case e.Commit > 0:
		c.commits++
		f.commits++
		now := time.Now()
		f.longest, f.last = max(f.longest, now.Sub(f.last)), now
	case e.Voted:
		c.voted = true
	case e.Compared != nil:
		c.compared = *e.Compared
	case e.Account != nil:
		c.account = e.Account
	default:
		if c.process == e.process && c.account == nil {
			t.Fatalf("%s ended by itself: %s", c.name, c.output())
		}
	}
}

// moreCommits waits for n commits of any clients.
func (f *family) moreCommits(ctx context.Context, t *testing.T, n int) {
	t.Helper()
	goal := f.commits + n
	f.await(ctx, t, fmt.Sprintf("%d commits more are made", n), func() bool { return f.commits >= goal })
}

// allCommit waits for n commits of each client.
func (f *family) allCommit(ctx context.Context, t *testing.T, n int) {
	t.Helper()
	goals := make(map[*familyClient]int)
	for _, c := range f.clients {
		goals[c] = c.commits + n
	}
	f.await(ctx, t, fmt.Sprintf("each client makes %d commits more", n), func() bool {
		for _, c := range f.clients {
			if c.process != nil && c.commits < goals[c] {
				return false
			}
		}
		return true
	})
}

// moment waits for a random moment of load.
func (f *family) moment(ctx context.Context, t *testing.T, commits int) {
	t.Helper()
	f.moreCommits(ctx, t, 1+f.random.IntN(commits))
	timer := time.NewTimer(time.Duration(f.random.IntN(8000)) * time.Microsecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (c *familyClient) order(t *testing.T, text string) {
	t.Helper()
	if _, err := c.stdin.Write([]byte(text + "\n")); err != nil {
		t.Fatalf("%s: %v: %s", c.name, err, c.output())
	}
}

// stop has a client stop committing and waits for its account. The process stays.
func (f *family) stop(ctx context.Context, t *testing.T, clients ...*familyClient) {
	t.Helper()
	for _, c := range clients {
		c.order(t, "stop")
	}
	f.await(ctx, t, "the clients stop", func() bool {
		return !slices.ContainsFunc(clients, func(c *familyClient) bool { return c.account == nil })
	})
}

// end ends the process of a client that was told to stop. Its cache stays.
func (f *family) end(ctx context.Context, t *testing.T, c *familyClient) {
	t.Helper()
	c.order(t, "end")
	c.wait(ctx, t)
	c.process = nil
}

// compare compares what clients have cached with what the server says, and looks for
// what must not be in their accounts. The clients must have stopped.
func (f *family) compare(ctx context.Context, t *testing.T, clients ...*familyClient) {
	t.Helper()
	all := filepath.Join(f.dir, "objects.json")
	pythonOutput(ctx, t, "failover.py", "dump", f.address, all)
	for _, c := range clients {
		c.compared, c.account = -1, nil
		c.order(t, "compare "+all)
	}
	f.await(ctx, t, "the clients have compared", func() bool {
		return !slices.ContainsFunc(clients, func(c *familyClient) bool { return c.account == nil })
	})
	for _, c := range clients {
		a := c.account
		t.Logf("%s: %d commits, %d of them found after a failure, %d conflicts, longest standstill %.1f s, %d objects cached, failures %v",
			a.Name, a.Acked, a.Found, a.Conflicts, a.Standstill, c.compared, a.Failures)
		if len(a.Wrong)+len(a.Bad) > 0 {
			t.Errorf("%s read wrongly: %q; log: %q", a.Name, a.Wrong, a.Bad)
		}
		if c.compared < 5 {
			t.Errorf("%s has only %d objects cached: nothing was compared", a.Name, c.compared)
		}
	}
}

// noFailures says that the clients saw conflicts and nothing else.
func (f *family) noFailures(t *testing.T) {
	t.Helper()
	for _, c := range f.clients {
		if len(c.account.Failures) > 0 {
			t.Errorf("%s saw failures: %v", c.name, c.account.Failures)
		}
	}
}

// files ends the clients and compares the members' files, which nobody may have open,
// with each other and with the accounts.
func (f *family) files(ctx context.Context, t *testing.T, directories ...string) {
	t.Helper()
	var accounts []*familyAccount
	for _, c := range f.clients {
		accounts = append(accounts, c.account)
		if c.process != nil {
			f.end(ctx, t, c)
		}
	}
	text, err := json.Marshal(accounts)
	path := filepath.Join(f.dir, "accounts.json")
	if err == nil {
		err = os.WriteFile(path, text, 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Log(strings.TrimSpace(pythonOutput(ctx, t, "failover.py", append([]string{"files", path}, directories...)...)))
}

// status waits until `zeoraid status` ends with this code: 0 optimal, 2 degraded. The
// clients go on meanwhile.
func (f *family) status(ctx context.Context, t *testing.T, r *raid, want int) {
	t.Helper()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	begun, before := time.Now(), f.commits
	for {
		code, out := r.run(ctx, t, "status")
		if code == want {
			t.Logf("status is %d after %v and %d commits", want, time.Since(begun).Round(time.Millisecond), f.commits-before)
			return
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			t.Fatalf("status does not become %d: %s\nserver: %s", want, out, r.output())
		}
		for len(f.events) > 0 {
			f.take(t, <-f.events)
		}
	}
}
