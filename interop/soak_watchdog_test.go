//go:build interop

package interop_test

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// watchdog is a shell that kills the servers when the test's process has ended in
// whatever way: when a test is interrupted, or takes too long, nothing of it is run.
type watchdog struct{ in io.Writer }

func startWatchdog(ctx context.Context, t *testing.T) *watchdog {
	t.Helper()
	// Each line is the list of those that run now.
	cmd := exec.Command("sh", "-c", `while read -r all; do now=$all; done; for p in $now; do kill -9 "-$p"; done 2>/dev/null; :`)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt is not for it
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("watchdog: %v", err)
		}
	})
	return &watchdog{in: in}
}

// list tells it which processes run.
func (w *watchdog) list(s *soak) {
	var pids []string
	add := func(p *process) {
		if p == nil {
			return
		}
		select {
		case <-p.ended:
		default:
			pids = append(pids, fmt.Sprint(p.cmd.Process.Pid))
		}
	}
	add(s.serve)
	add(s.runzeo.process)
	if s.family != nil {
		for _, c := range s.family.clients {
			add(c.process)
		}
	}
	if _, err := io.WriteString(w.in, strings.Join(pids, " ")+"\n"); err != nil {
		s.t.Fatal(err)
	}
}
