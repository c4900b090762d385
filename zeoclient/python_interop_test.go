//go:build interop

package zeoclient_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/zeoraid/raidstorage/zeoclient"
)

// runzeo is a real server of ZEO's, with many file storages, named from 1 on.
type runzeo struct {
	address string
	dir     string
	cmd     *exec.Cmd
	used    atomic.Int64
	count   int64
	log     strings.Builder
	ended   chan struct{} // closed when log is complete
}

// python returns the interpreter of an environment with ZEO.
func python(t testing.TB) string {
	t.Helper()
	python := os.Getenv("RAIDSTORAGE_PYTHON")
	if python == "" {
		t.Fatal("RAIDSTORAGE_PYTHON names no Python with ZEO")
	}
	return python
}

// startRunzeo starts a server in dir, on what is there already, and stops it at the
// test's end.
func startRunzeo(t testing.TB, dir string, storages int, options string) *runzeo {
	t.Helper()
	return startRunzeoAs(t, dir, storages, options, "-m", "ZEO.runzeo")
}

// startRunzeoAs starts one with other arguments for Python than those of ZEO's script.
func startRunzeoAs(t testing.TB, dir string, storages int, options string, script ...string) *runzeo {
	t.Helper()
	socket := filepath.Join(dir, "zeo.sock") // short enough: the directory's name is ours
	var conf strings.Builder
	fmt.Fprintf(&conf, "<zeo>\naddress %s\n%s\n</zeo>\n", socket, options)
	for n := range storages {
		fmt.Fprintf(&conf, "<filestorage %d>\npath %s/%d.fs\nblob-dir %s/blobs%d\n</filestorage>\n", n+1, dir, n+1, dir, n+1)
	}
	conf.WriteString("<eventlog>\nlevel info\n<logfile>\npath STDOUT\n</logfile>\n</eventlog>\n")
	path := filepath.Join(dir, "zeo.conf")
	if err := os.WriteFile(path, []byte(conf.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &runzeo{address: socket, dir: dir, count: int64(storages), ended: make(chan struct{})}
	r.cmd = exec.Command(python(t), append(script, "-C", path)...)
	r.cmd.Stderr = os.Stderr
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	listens := make(chan struct{})
	go func() { // ends with the process
		defer close(r.ended)
		once := sync.OnceFunc(func() { close(listens) })
		for lines := bufio.NewScanner(out); lines.Scan(); {
			r.log.WriteString(lines.Text() + "\n")
			if strings.Contains(lines.Text(), "listening on") {
				once()
			}
			if os.Getenv("RAIDSTORAGE_VERBOSE") != "" {
				fmt.Fprintln(os.Stderr, lines.Text())
			}
		}
	}()
	t.Cleanup(r.kill)
	select {
	case <-listens:
	case <-r.ended:
		t.Fatalf("runzeo did not start:\n%s", r.log.String())
	}
	return r
}

// kill ends the server at once. It may be called again.
func (r *runzeo) kill() {
	_ = r.cmd.Process.Kill()
	<-r.ended
	_ = r.cmd.Wait()
}

// wantQuiet ends the server, whose log must have no errors.
func (r *runzeo) wantQuiet(t testing.TB) {
	t.Helper()
	r.kill()
	log := r.log.String()
	for _, word := range []string{" ERROR ", " CRITICAL ", "Traceback"} {
		if n := strings.Count(log, word); n > 0 {
			at := strings.Index(log, word)
			t.Errorf("the server's log has %d times %q, first:\n%.3000s", n, word, log[max(0, at-100):])
			return
		}
	}
}

// options returns those for a storage that was not used before.
func (r *runzeo) options(t testing.TB) zeoclient.Options {
	t.Helper()
	n := r.used.Add(1)
	if n > r.count {
		t.Fatalf("the server has no more than %d storages", r.count)
	}
	return zeoclient.Options{Addresses: []string{r.address}, Storage: fmt.Sprint(n), TempDir: t.TempDir()}
}
