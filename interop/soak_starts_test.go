//go:build interop

package interop_test

import (
	"strings"
)

// lastCopy starts the server with only one of the members that are in sync. It has all
// that was acknowledged, whichever it is and whenever that was.
func (s *soak) lastCopy() {
	survivor := members[s.random.IntN(len(members))]
	slow := s.random.IntN(2) == 0 && survivor == "z"
	if slow { // it has not got the last ones, so that they are not acknowledged
		s.proxy.set(true, false)
		s.pause(soakDeadline / 4)
	}
	s.killServe()
	s.proxy.set(false, true)
	away := func(hidden bool) {
		for _, name := range natives {
			if name != survivor {
				s.hide(name, hidden)
			}
		}
	}
	away(true)
	if survivor == "z" {
		s.proxy.set(false, false)
	}
	start := s.serveInTime
	if slow { // it may be refused, as z exceeded a deadline before
		start = func() error { return s.tryServe(soakPatience) }
	}
	err := start()
	if err != nil && (!slow || !strings.Contains(err.Error(), "cannot start")) {
		s.t.Fatalf("with only %s: %v", survivor, err)
	}
	if err == nil {
		s.awaitCommits(10)
	}
	away(false)
	s.proxy.set(false, false)
	if err != nil { // it was dropped before the kill
		s.mustServe()
	}
	s.bringBack(survivor)
}

// bringBack recovers the members that were away. They may have a transaction that was
// not acknowledged, and that the one that survived had not got: then an operator must
// give it up.
func (s *soak) bringBack(survivor string) {
	for _, name := range members {
		if name == survivor {
			continue
		}
		diverged := false
		s.await("a recovery of "+name+" ends", func() bool { // one step may exceed its deadline on a busy machine
			code, out := s.verb([]int{0, 2}, "recover", name, "-wait", "-quiet")
			diverged = strings.Contains(out, "diverged")
			return code == 0 || diverged
		})
		if !diverged {
			continue
		}
		s.record.count("diverged members")
		if name == "z" {
			s.runzeo.stop(s.ctx, s.t)
			s.runzeo.clear(s.t)
			s.startRunzeo()
			s.verb([]int{0}, "recover", name, "-wait", "-quiet")
		} else {
			s.verb([]int{0}, "recover", name, "-rollback", "-wait", "-quiet")
		}
	}
}

// staleCopy starts the server with nothing but a member that lacks what was acknowledged
// since it was dropped: it must not serve.
func (s *soak) staleCopy() {
	s.proxy.set(false, true)
	s.await("z is dropped", func() bool { return !s.inSync()["z"] })
	s.awaitCommits(5)
	s.killServe()
	for _, name := range natives {
		s.hide(name, true)
	}
	s.proxy.set(false, false)
	if err := s.tryServe(2 * soakDeadline); err == nil {
		s.fault("the server serves a member that lacks acknowledged transactions")
	} else {
		s.record.note("stale copy", "%v", err)
	}
	select {
	case <-s.serve.ended:
	default:
		s.killServe()
	}
	for _, name := range natives {
		s.hide(name, false)
	}
	s.mustServe()
}
