//go:build interop

package interop_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/zeoraid/raidstorage"
)

// soakAction is one kind of fault, or of an operator's work.
type soakAction struct {
	kind string
	// needs are the members that must be in sync before. What do does leaves one of
	// those that are whole where it can be reached.
	needs []string
	do    func(s *soak)
}

// soakActions are all kinds.
func soakActions() []soakAction {
	return append(soakEvents(),
		soakAction{"runzeo killed", natives, (*soak).memberKilled},
		soakAction{"runzeo stopped", natives, (*soak).memberStopped},
		soakAction{"network cut", natives, (*soak).memberCut},
		soakAction{"network half-open", natives, (*soak).memberHalfOpen},
		soakAction{"runzeo's disk full", natives, (*soak).memberFull},
		soakAction{"native disk full", members, (*soak).nativeFull},
		soakAction{"native emptied", members, (*soak).nativeEmptied},
		soakAction{"runzeo emptied", members, (*soak).memberEmptied},
		soakAction{"serve killed in pack", members, func(s *soak) { s.pack(s.serveKilled) }},
		soakAction{"runzeo killed in pack", members, func(s *soak) { s.pack(s.memberRestarted) }},
		soakAction{"disabled", members, (*soak).disabled},
		soakAction{"last copy", members, (*soak).lastCopy},
		soakAction{"stale copy", members, (*soak).staleCopy},
	)
}

// soakEvents are those that may also come while a member is away.
func soakEvents() []soakAction {
	return []soakAction{
		{"serve killed", nil, (*soak).serveKilled},
		{"serve terminated", nil, (*soak).serveTerminated},
		{"serve stopped", nil, (*soak).serveStopped},
		{"pack", nil, (*soak).packed},
		{"verify", nil, (*soak).verified},
		{"reload", nil, (*soak).reloaded},
	}
}

func (s *soak) memberKilled() {
	s.runzeo.stop(s.ctx, s.t)
	s.hold(200*time.Millisecond, 3*time.Second, soakEvents()...)
	s.startRunzeo()
	s.help("z")
}

func (s *soak) memberRestarted() {
	s.runzeo.stop(s.ctx, s.t)
	s.startRunzeo()
}

// help has an operator bring a member back, now and then: else that may take until the
// mirror tries again.
func (s *soak) help(name string) {
	if s.random.IntN(2) == 0 {
		s.verb([]int{0, 2}, "recover", name)
	}
}

// memberStopped stops it for longer than commits may stand still for that, the first
// time, and then for about a deadline.
func (s *soak) memberStopped() {
	signalProcess(s.t, s.runzeo.process, syscall.SIGSTOP)
	if s.faults["runzeo stopped"] == 1 && s.length >= soakAll {
		s.hold(soakStandstill+2*time.Second, soakStandstill+2*time.Second)
	} else {
		s.hold(100*time.Millisecond, 2*soakDeadline, soakEvents()...)
	}
	signalProcess(s.t, s.runzeo.process, syscall.SIGCONT)
	s.help("z")
}

func (s *soak) memberCut() {
	s.proxy.set(false, true)
	s.hold(50*time.Millisecond, 3*time.Second, soakEvents()...)
	s.proxy.set(false, false)
	s.help("z")
}

// memberHalfOpen has the network swallow everything, without a word, and then goes on
// with all that was sent, or with new connections.
func (s *soak) memberHalfOpen() {
	s.proxy.set(true, false)
	s.hold(100*time.Millisecond, 2*soakDeadline, soakEvents()...)
	if s.random.IntN(2) == 0 {
		s.proxy.set(false, true)
	}
	s.proxy.set(false, false)
	s.help("z")
}

// soakRoom is what is left of a disk that is about to be full: a few transactions.
const soakRoom = 5000

func (s *soak) memberFull() {
	s.limitFiles(s.runzeo.process, sizeOf(filepath.Join(s.runzeo.dir, "Data.fs"))+soakRoom)
	s.hold(time.Second, 4*time.Second, soakEvents()...)
	s.limitFiles(s.runzeo.process, -1)
	s.help("z")
}

// nativeFull fills the disk of one native member while the other one is out of service,
// or the disk that both are on: then Python's server goes on alone.
func (s *soak) nativeFull() {
	out := ""
	if s.random.IntN(2) == 0 {
		out = natives[s.random.IntN(2)]
		s.verb([]int{0}, "disable", out)
		s.awaitCommits(20) // its file is the smaller one from now on
	}
	full := sizeOf(filepath.Join(s.member("1"), "Data.fs"))
	full = max(full, sizeOf(filepath.Join(s.member("2"), "Data.fs")))
	s.limitFiles(s.serve, full+soakRoom)
	s.await("the disk is full", func() bool { in := s.inSync(); return !in["1"] && !in["2"] })
	s.hold(500*time.Millisecond, 3*time.Second)
	s.limitFiles(s.serve, -1)
	s.help("1")
	s.help("2")
	if out != "" {
		s.verb([]int{0}, "recover", out)
	}
}

// nativeEmptied gives a native member a new disk.
func (s *soak) nativeEmptied() {
	name := natives[s.random.IntN(2)]
	s.verb([]int{0}, "disable", name)
	s.wipe(name)
	s.hold(0, time.Second, soakEvents()...)
	s.verb([]int{0}, "recover", name, "-wait")
}

// memberEmptied gives Python's server a new disk, with our mirror told before or not.
func (s *soak) memberEmptied() {
	told := s.random.IntN(2) == 0
	if told {
		s.verb([]int{0}, "disable", "z")
	}
	s.runzeo.stop(s.ctx, s.t)
	s.runzeo.clear(s.t)
	s.hold(0, time.Second, soakEvents()...)
	s.startRunzeo()
	s.verb([]int{0}, "recover", "z", "-wait")
}

func (s *soak) disabled() {
	name := members[s.random.IntN(len(members))]
	s.verb([]int{0}, "disable", name)
	s.hold(0, 2*time.Second, soakEvents()...)
	s.verb([]int{0}, "recover", name)
}

func (s *soak) serveKilled() {
	s.killServe()
	s.mustServe()
}

func (s *soak) serveTerminated() {
	s.terminateServe()
	s.mustServe()
}

func (s *soak) serveStopped() {
	signalProcess(s.t, s.serve, syscall.SIGSTOP)
	s.hold(50*time.Millisecond, 3*time.Second)
	signalProcess(s.t, s.serve, syscall.SIGCONT)
}

// packed packs. If a member is away, or dies, the pack may fail.
func (s *soak) packed() { s.pack(nil) }

// pack packs while something else happens.
func (s *soak) pack(disturb func()) {
	s.ledger.packBegins()
	cmd := exec.CommandContext(s.ctx, s.program, "pack", "-admin", "http://"+s.settings.admin, "-quiet")
	done := make(chan string, 1)
	go func() { // ends with the command
		out, err := cmd.CombinedOutput()
		done <- fmt.Sprintf("%v %s", err, strings.Join(strings.Fields(string(out)), " "))
	}()
	if disturb != nil {
		s.hold(0, 1500*time.Millisecond)
		disturb()
	}
	s.await("the pack ends", func() bool {
		select {
		case text := <-done:
			s.record.note("zeoraid pack", "%s", text)
			return true
		default:
			return false
		}
	})
	var last raidstorage.TID
	s.await("the last tid is known", func() bool {
		var err error
		last, err = s.operator.LastTID(s.ctx)
		return err == nil
	})
	s.ledger.packEnds(last) // also if a start makes it again
}

func (s *soak) verified() {
	args := []string{"-quiet"}
	if s.random.IntN(2) == 0 {
		args = append(args, "-blobs")
	}
	if code, out := s.verb([]int{0, 2}, "verify", args...); code == 2 && strings.Contains(out, "differ") {
		s.fault("verify: %s", out)
	}
}

// reloaded changes the read policy, and asks for two copies for a while.
func (s *soak) reloaded() {
	policies := []string{"round-robin", "least-latency", "primary-first"}
	s.settings.readPolicy = policies[s.random.IntN(len(policies))]
	s.settings.quorum = 2
	s.configure()
	s.verb([]int{0, 2}, "reload") // refused if there is only one copy
	s.hold(0, time.Second)
	s.settings.quorum = 1
	s.configure()
	s.verb([]int{0}, "reload")
}

// soakStandstill is the longest time that commits may stand still for faults of
// members: a vote's deadline and a read's, or a finish's, and the machine's own share.
const soakStandstill = 3*soakDeadline + time.Second

// checkStandstills compares the standstills with those that are allowed, by kind. In what
// the machine itself stood still nothing can be committed.
func (s *soak) checkStandstills() {
	for _, g := range s.record.gaps() {
		bound := 30 * time.Second // servers start
		switch g.kind {
		case "runzeo killed", "runzeo stopped", "network cut", "network half-open", "runzeo's disk full", "disabled":
			bound = soakStandstill
		}
		machine := s.stalls.within(g.from, g.to)
		if length := g.to.Sub(g.from); length > bound+machine {
			s.fault("commits stood still for %v, in %q: more than %v, and %v of the machine", length.Round(time.Millisecond), g.kind, bound, machine)
		}
	}
}
