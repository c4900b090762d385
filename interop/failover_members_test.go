//go:build interop

package interop_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// zeoMirror is `zeoraid serve` over two servers of Python's.
type zeoMirror struct {
	dir, program, conf string
	address            string
	members            []*runzeo
	raid               *raid
}

// newZEOMirror starts the servers and the mirror. keys go into its section.
func newZEOMirror(ctx context.Context, t *testing.T, keys string) *zeoMirror {
	t.Helper()
	m := &zeoMirror{dir: t.TempDir(), program: build(ctx, t), address: freeAddress(t)}
	for _, name := range []string{"one", "two"} {
		s := newRunzeo(t, filepath.Join(m.dir, name))
		s.start(ctx, t)
		m.members = append(m.members, s)
	}
	m.conf = filepath.Join(m.dir, "zeoraid.conf")
	conf := fmt.Sprintf(`
		<zeo>
		  address %s
		</zeo>
		<admin>
		  address 127.0.0.1:0
		</admin>
		<raidstorage 1>
		  state-dir %s
		  %s
		  <zeoclient 1>
		    server %s
		  </zeoclient>
		  <zeoclient 2>
		    server %s
		  </zeoclient>
		</raidstorage>
	`, m.address, filepath.Join(m.dir, "state"), keys, m.members[0].address, m.members[1].address)
	if err := os.WriteFile(m.conf, []byte(conf), 0o666); err != nil {
		t.Fatal(err)
	}
	m.start(ctx, t)
	return m
}

func (m *zeoMirror) start(ctx context.Context, t *testing.T) {
	t.Helper()
	m.raid = serveProgram(ctx, t, m.program, "-config", m.conf)
}

// end stops the clients and all servers, and compares everything.
func (m *zeoMirror) end(ctx context.Context, t *testing.T, f *family) {
	t.Helper()
	f.allCommit(ctx, t, 3)
	f.stop(ctx, t, f.clients...)
	f.status(ctx, t, m.raid, 0)
	f.compare(ctx, t, f.clients...)
	m.raid.stop(ctx, t)
	for _, s := range m.members {
		s.stop(ctx, t)
	}
	f.files(ctx, t, m.members[0].dir, m.members[1].dir)
}

// betweenCommits leaves a recovery some time: one that has to copy while two cores do
// nothing but commit takes long.
const betweenCommits = 40 * time.Millisecond

// TestClientsDoNotSeeMembersDie kills the members' servers in turn, at random moments of
// load, and starts them again. Clients see conflicts and nothing else; the members come
// back by themselves and are the same in the end.
func TestClientsDoNotSeeMembersDie(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	m := newZEOMirror(ctx, t, "")
	f := newFamily(ctx, t, m.address, 3)
	f.think = betweenCommits
	f.startAll(ctx, t)
	for kill := range 5 {
		s := m.members[f.random.IntN(2)]
		if kill%2 == 1 {
			f.killBetweenVoteAndFinish(ctx, t, s.process)
		} else {
			f.moment(ctx, t, 25)
			s.stop(ctx, t)
		}
		f.moment(ctx, t, 25)
		s.start(ctx, t)
		f.status(ctx, t, m.raid, 0)
	}
	m.end(ctx, t, f)
	f.noFailures(t)
}

// TestClientsSurviveServerAndMember kills the server while a member is away, and a
// member while the server is away: single failures, one after the other.
func TestClientsSurviveServerAndMember(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	m := newZEOMirror(ctx, t, "")
	f := newFamily(ctx, t, m.address, 3)
	f.think = betweenCommits
	f.startAll(ctx, t)
	for i, s := range m.members {
		// The member goes first: what is committed then it does not have.
		s.stop(ctx, t)
		f.status(ctx, t, m.raid, 2)
		f.moment(ctx, t, 10)
		m.raid.kill(ctx, t)
		m.start(ctx, t)
		f.moreCommits(ctx, t, 1)
		s.start(ctx, t)
		f.status(ctx, t, m.raid, 0)

		// The server goes first: both have all, and one is enough to start with.
		f.moment(ctx, t, 10)
		m.raid.kill(ctx, t)
		s = m.members[1-i]
		s.stop(ctx, t)
		m.start(ctx, t)
		f.moreCommits(ctx, t, 1)
		f.status(ctx, t, m.raid, 2)
		s.start(ctx, t)
		m.maybeDiverged(ctx, t, f, s)
		f.status(ctx, t, m.raid, 0)
	}
	m.end(ctx, t, f)
}

// maybeDiverged waits until a member that has come back is in sync, or found to have a
// transaction that the server was about to finish as it was killed, and that the member that
// it went on with had not got: then it is made anew, as an operator does.
func (m *zeoMirror) maybeDiverged(ctx context.Context, t *testing.T, f *family, s *runzeo) {
	t.Helper()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		code, out := m.raid.run(ctx, t, "details")
		if code == 0 {
			return
		}
		if strings.Contains(out, "diverged") {
			t.Logf("it is made anew: %s", out)
			break
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			t.Fatalf("the member does not come back: %s", out)
		}
		for len(f.events) > 0 {
			f.take(t, <-f.events)
		}
	}
	s.stop(ctx, t)
	s.clear(t)
	s.start(ctx, t)
	m.raid.expect(ctx, t, 0, "in sync", "recover", fmt.Sprint(slices.Index(m.members, s)+1), "-wait")
}

// TestStoppedMemberCostsOneDeadline stops a member's server, which then answers nothing
// but keeps its connections. Commits go on after at most one deadline, once.
func TestStoppedMemberCostsOneDeadline(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	const deadline = 3 * time.Second
	seconds := int(deadline / time.Second)
	m := newZEOMirror(ctx, t, fmt.Sprintf("vote-timeout %ds\nfinish-timeout %ds\nread-timeout %ds\nopen-timeout %ds", seconds, seconds, seconds, seconds))
	f := newFamily(ctx, t, m.address, 3)
	f.startAll(ctx, t)
	for _, s := range m.members {
		f.moment(ctx, t, 10)
		longest := f.standstill(ctx, t, func() {
			signalProcess(t, s.process, syscall.SIGSTOP)
			f.moreCommits(ctx, t, 100) // many more than fit in between
		})
		// The client's own share, on a machine that does other things too, is far less than
		// another deadline.
		t.Logf("the longest standstill with a member that hangs was %v, the deadline %v", longest, deadline)
		if longest < deadline/2 || longest > 2*deadline {
			t.Errorf("commits stood still for %v, the deadline is %v", longest, deadline)
		}
		f.status(ctx, t, m.raid, 2)
		signalProcess(t, s.process, syscall.SIGCONT)
		f.status(ctx, t, m.raid, 0)
	}
	m.end(ctx, t, f)
	f.noFailures(t)
}

// standstill returns the longest time without any commit while something is done. The
// commits must be waited for meanwhile.
func (f *family) standstill(ctx context.Context, t *testing.T, do func()) time.Duration {
	t.Helper()
	f.longest, f.last = 0, time.Now()
	do()
	return f.longest
}

func signalProcess(t *testing.T, p *process, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}
