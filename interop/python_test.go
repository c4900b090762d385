//go:build interop

package interop_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// interpreter returns the Python that the environment variable names. A test without
// it would prove nothing, so it fails.
func interpreter(t testing.TB, variable string) string {
	t.Helper()
	path := os.Getenv(variable)
	if path == "" {
		t.Fatalf("%s is not set: it names a Python with the packages of .ci/requirements*.txt", variable)
	}
	return path
}

// tool returns the path of a program that is installed beside the interpreter.
func tool(t testing.TB, variable, name string) string {
	t.Helper()
	path := filepath.Join(filepath.Dir(interpreter(t, variable)), name)
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	return path
}

// command prepares a program that is killed, with all that it started, when ctx ends.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second // for pipes that a grandchild keeps open
	return cmd
}

// output runs a program to its end in dir and returns what it printed and its exit
// status.
func output(t testing.TB, dir, name string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := command(ctx, name, args...)
	var out, errs strings.Builder
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &errs
	if err := cmd.Run(); cmd.ProcessState == nil || ctx.Err() != nil {
		t.Fatalf("%s: %v\n%s", name, err, errs.String())
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// must runs a program that has to succeed and returns what it printed.
func must(t testing.TB, dir, name string, args ...string) string {
	t.Helper()
	out, errs, status := output(t, dir, name, args...)
	if status != 0 {
		t.Fatalf("%s %v: exit status %d\n%s%s", name, args, status, out, errs)
	}
	return out
}
