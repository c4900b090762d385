//go:build interop

package interop_test

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/admin"
)

// pause listens to Python's clients for a while.
func (s *soak) pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	var events chan familyEvent
	if s.family != nil {
		events = s.family.events
	}
	for {
		select {
		case e := <-events:
			s.family.take(s.t, e)
		case <-timer.C:
			s.check()
			return
		case <-s.ctx.Done():
			s.check()
		}
	}
}

// await pauses until a condition holds.
func (s *soak) await(what string, condition func() bool) {
	s.t.Helper()
	begun := time.Now()
	for !condition() {
		if time.Since(begun) > soakPatience {
			st, err := s.status()
			s.t.Fatalf("waited %v in vain until %s; status: %s %v", soakPatience, what, statusText(st), err)
		}
		s.pause(50 * time.Millisecond)
	}
}

// awaitCommits waits until our writers have committed n times more.
func (s *soak) awaitCommits(n int64) {
	s.t.Helper()
	goal := s.record.acks.Load() + n
	s.await(fmt.Sprintf("%d commits more are made", n), func() bool { return s.record.acks.Load() >= goal })
}

// status asks the server for its mirror's status.
func (s *soak) status() (*admin.Mirror, error) {
	st, err := admin.Client{URL: "http://" + s.settings.admin, Patience: 10 * time.Second}.Status(s.ctx)
	if err != nil {
		return nil, err
	}
	return &st.Mirrors[0], nil
}

func statusText(m *admin.Mirror) string {
	if m == nil {
		return "none"
	}
	lines := []string{m.Condition + " " + m.Reason}
	for _, b := range m.Backends {
		lines = append(lines, fmt.Sprintf("%s %s (%s)", b.Name, b.State, b.Reason))
	}
	return strings.Join(lines, "; ")
}

// inSync tells which members are in sync; none if the server does not answer.
func (s *soak) inSync() map[string]bool {
	in := make(map[string]bool)
	if m, err := s.status(); err == nil {
		for _, b := range m.Backends {
			in[b.Name] = b.State == raidstorage.StateInSync.String()
		}
	}
	return in
}

// awaitInSync waits until these members are in sync, by themselves.
func (s *soak) awaitInSync(names ...string) {
	s.t.Helper()
	if len(names) == 0 {
		return
	}
	s.await(fmt.Sprintf("the members %q are in sync", names), func() bool {
		m, err := s.status()
		if err != nil {
			return false
		}
		for _, b := range m.Backends {
			if slices.Contains(names, b.Name) && b.State != raidstorage.StateInSync.String() {
				s.operate(b.Reason)
				return false
			}
		}
		return true
	})
}
