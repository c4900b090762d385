//go:build interop

package interop_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage/zeoclient"
)

// The soak test: 8 writers and 8 readers in this process, and two applications of
// Python's, through `zeoraid serve` over two native files and a server of Python's, while
// faults (soak_faults_test.go, soak_server_test.go) come at random, never more than we
// promise to survive. Meanwhile and in the end it is checked:
//
//	writers    every acknowledged transaction is in the log that is served, as a whole and
//	           as it was written; what was refused is not; what ended in an unknown outcome
//	           is there as a whole or not at all (soak_ledger_test.go)
//	readers    a snapshot shows whole transactions, all that were acknowledged before it,
//	           and nothing is taken back (soak_reader_test.go)
//	Python     as in failover.py; no cache is ever ahead of the server
//	files      all of that in each member's file, read by us and by Python, and the same
//	           transactions in all of them (soak_files_test.go)
//
// and no fault stops commits for longer than its deadlines allow.

const (
	soakWriters = 8
	soakReaders = 8
	soakPythons = 2

	// soakDeadline is the mirror's for votes, finishes and reads.
	soakDeadline = 2 * time.Second
	// soakPatience is the longest that anything is waited for.
	soakPatience = 90 * time.Second
	// soakGlance is how long faults come if nothing else is said: too short for all kinds.
	soakGlance = 12 * time.Second
	// soakAll is how long they must come at least for each kind to be asked for.
	soakAll = time.Minute
)

// soak is one run. What is not said to be shared belongs to the test's goroutine.
type soak struct {
	t      *testing.T
	ctx    context.Context // of the whole run
	length time.Duration
	random *rand.Rand

	dir, program string
	settings     soakSettings
	runzeo       *runzeo
	proxy        *proxy
	serve        *process // `zeoraid serve`; one that has ended if none runs
	family       *family
	watchdog     *watchdog
	operator     *zeoclient.Storage
	faults       map[string]int // how many there were of each kind

	ledger  *soakLedger // shared
	record  *soakRecord // shared
	stalls  stalls      // shared
	broken  atomic.Bool // shared: something was found
	workers sync.WaitGroup
	rest    atomic.Bool // shared: writers and readers end
}

// TestSoak runs for RAIDSTORAGE_SOAK, a duration such as 8h, with the seed
// RAIDSTORAGE_SEED, in the new directory RAIDSTORAGE_SOAK_DIR, where everything is left.
func TestSoak(t *testing.T) {
	t.Parallel()
	length := soakGlance
	if text := os.Getenv("RAIDSTORAGE_SOAK"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), length+10*time.Minute)
	defer cancel()
	s := newSoak(ctx, t, length)
	s.begin()
	s.play()
	s.settle()
	s.rest.Store(true)
	s.workers.Wait()
	s.end()
	report := s.report()
	t.Log(report)
	if err := os.WriteFile(filepath.Join(s.dir, "report"), []byte(report+"\n"), 0o666); err != nil {
		t.Fatal(err)
	}
}

func newSoak(ctx context.Context, t *testing.T, length time.Duration) *soak {
	t.Helper()
	dir := os.Getenv("RAIDSTORAGE_SOAK_DIR")
	if dir == "" {
		dir = t.TempDir()
	} else if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	seed := familySeed(t)
	s := &soak{
		t: t, ctx: ctx, length: length, dir: dir, program: build(ctx, t),
		random: rand.New(rand.NewPCG(seed, 1)), faults: make(map[string]int), record: newSoakRecord(),
		watchdog: startWatchdog(ctx, t), proxy: newProxy(t),
	}
	s.ledger = newSoakLedger(s.fault)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s\n%s\nthe server's log ends:\n%s", s.report(), s.record.journal(), s.logEnd(8000))
		}
	})
	s.runzeo = newRunzeo(t, filepath.Join(dir, "zeo"))
	s.proxy.target = s.runzeo.address
	s.settings = soakSettings{zeo: freeAddress(t), admin: freeAddress(t), readPolicy: "round-robin", quorum: 1}
	for _, name := range natives {
		if err := os.MkdirAll(s.member(name), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	s.startRunzeo()
	s.mustServe()
	s.family = newSeededFamily(ctx, t, s.settings.zeo, soakPythons, seed)
	s.family.think = 150 * time.Millisecond
	return s
}

// begin makes the objects and starts everybody.
func (s *soak) begin() {
	oids := soakOIDs(s.t, pythonOutput(s.ctx, s.t, "soak.py", "setup", s.settings.zeo, fmt.Sprint(soakWriters*soakFixed+soakCounters)))
	counters := oids[:soakCounters]
	var writers []*soakWriter
	for i := range soakWriters {
		writers = append(writers, s.newWriter(i, oids[soakCounters+i*soakFixed:][:soakFixed], counters))
	}
	s.watchdog.list(s)
	for _, w := range writers {
		s.workers.Go(w.run)
	}
	for i := range soakReaders {
		s.workers.Go(s.newReader(i, writers).run)
	}
	s.operator = s.client("operator", 0)
	s.workers.Go(s.followLog)
	s.workers.Go(func() {
		if err := s.stalls.watch(s.dir, s.rest.Load); err != nil {
			s.fault("the watch of the machine's stalls: %v", err)
		}
	})
	s.t.Cleanup(func() { // also if the test's goroutine has given up
		s.rest.Store(true)
		s.workers.Wait()
	})
	s.family.startAll(s.ctx, s.t)
	s.watchdog.list(s)
	s.record.begin()
}

// client connects to the server, until the test ends.
func (s *soak) client(label string, cache int64) *zeoclient.Storage {
	s.t.Helper()
	c, err := zeoclient.Open(s.ctx, zeoclient.Options{
		Addresses: []string{s.settings.zeo}, Label: label, CacheBytes: cache,
		DialTimeout: 5 * time.Second, CallTimeout: 30 * time.Second,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

// fault notes that a promise was broken. It may be called from any goroutine.
func (s *soak) fault(format string, args ...any) {
	s.broken.Store(true)
	text := fmt.Sprintf(format, args...)
	s.record.note("BROKEN", "%s", text)
	s.t.Error(text)
}

// play lets faults come until the time is up and, if it is long enough, each kind was
// there.
func (s *soak) play() {
	end := time.Now().Add(s.length)
	var deck []soakAction
	for first := true; ; first = false {
		deck = append(deck[:0], soakActions()...)
		s.random.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		for _, a := range deck {
			if time.Now().After(end) && (!first || s.length < soakAll) {
				return
			}
			if !first || s.faults[a.kind] == 0 {
				s.act(a)
			}
		}
	}
}

// act has one kind of fault come, and go.
func (s *soak) act(a soakAction) {
	s.check()
	needs := a.needs
	if s.faults[a.kind] == 0 && len(needs) > 0 {
		needs = members // else it may come to nothing
	}
	s.awaitInSync(needs...)
	s.faults[a.kind]++
	window := s.record.open(a.kind)
	a.do(s)
	s.awaitCommits(3)
	window.close()
	s.tidy()
}

// check ends the test if something was found: what comes after it would only blur it.
func (s *soak) check() {
	if s.broken.Load() {
		s.t.FailNow()
	}
	if s.ctx.Err() != nil {
		s.t.Fatal("the run takes too long")
	}
}

// hold lets a fault last for a random time, while Python's clients are listened to. Now
// and then one of the other kinds comes meanwhile.
func (s *soak) hold(from, through time.Duration, others ...soakAction) {
	d := from + time.Duration(s.random.Int64N(int64(through-from)+1))
	if len(others) > 0 && s.random.IntN(2) == 0 {
		s.pause(d / 2)
		a := others[s.random.IntN(len(others))]
		s.faults[a.kind]++
		window := s.record.open(a.kind)
		a.do(s)
		s.pause(d / 2)
		window.close()
		return
	}
	s.pause(d)
}

// settle waits until everything is well again, with nothing but time.
func (s *soak) settle() {
	window := s.record.open("settle")
	s.awaitInSync(members...)
	s.awaitCommits(20)
	window.close()
	s.check()
}
