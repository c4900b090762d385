//go:build interop

package interop_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// process is a child process that ends with the test.
type process struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout io.Reader
	errors lockedBuffer // its standard error
	ended  chan struct{}
	err    error // of Wait; valid once ended is closed
}

// lockedBuffer collects what a process says: the last of it, if it is much.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

const maxSaid = 1 << 20

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.buf.Len() > maxSaid {
		b.buf.Next(maxSaid / 2)
	}
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// start starts a process. What it writes to standard output must be read from stdout.
func start(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{cmd: cmd, ended: make(chan struct{})}
	cmd.Stderr = &p.errors
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var err error
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, in := io.Pipe()
	cmd.Stdout, p.stdout = in, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = cmd.Wait()
		in.Close()
		close(p.ended)
	}()
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		go io.Copy(io.Discard, out) // whoever read it may have given up
		<-p.ended
		if t.Failed() {
			text := p.errors.String()
			t.Logf("%s: %s", filepath.Base(cmd.Args[0]), text[max(0, len(text)-5000):])
		}
	})
	return p
}

func (p *process) output() string { return p.errors.String() }

// wait waits for a good end.
func (p *process) wait(ctx context.Context, t *testing.T) {
	t.Helper()
	select {
	case <-p.ended:
		if p.err != nil {
			t.Fatalf("%s: %v: %s", filepath.Base(p.cmd.Args[0]), p.err, p.output())
		}
	case <-ctx.Done():
		t.Fatalf("%s does not end: %s", filepath.Base(p.cmd.Args[0]), p.output())
	}
}

// python returns the interpreter with ZEO 6.
func python(t *testing.T) string {
	t.Helper()
	path := os.Getenv("RAIDSTORAGE_PYTHON")
	if path == "" {
		path = filepath.Join("..", ".cache", "venv", "bin", "python")
	}
	return path
}

func startPython(ctx context.Context, t *testing.T, args ...string) *process {
	t.Helper()
	return start(t, exec.CommandContext(ctx, python(t), args...))
}

// pythonOutput runs a script of testdata and returns what it prints.
func pythonOutput(ctx context.Context, t *testing.T, script string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(ctx, python(t), append([]string{filepath.Join("testdata", script)}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// runzeo is a ZEO server of Python's, with a file storage and blobs.
type runzeo struct {
	dir     string // of the database
	conf    string
	address string
	process *process
}

func newRunzeo(t *testing.T, dir string) *runzeo {
	t.Helper()
	s := &runzeo{dir: filepath.Join(dir, "db"), conf: filepath.Join(dir, "zeo.conf"), address: freeAddress(t)}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	s.clear(t)
	conf := fmt.Sprintf("<zeo>\n address %s\n</zeo>\n<filestorage 1>\n path %s/Data.fs\n blob-dir %s/blobs\n</filestorage>\n", s.address, s.dir, s.dir)
	if err := os.WriteFile(s.conf, []byte(conf), 0o666); err != nil {
		t.Fatal(err)
	}
	return s
}

// Ports of servers. Those that the system gives to whoever asks for any are elsewhere, as are
// those that ZEO's tests choose.
const (
	firstPort = 10000
	ports     = 10000
)

// portsGiven counts, so that no two servers of this process get the same one: it stays free
// while its server is away.
var portsGiven atomic.Int64

// freeAddressOf returns an address of a host that nobody listens on, and that no other
// server of the tests has.
func freeAddressOf(host string) (string, error) {
	var failed error
	for range 100 {
		port := firstPort + (37*int64(os.Getpid())+portsGiven.Add(1))%ports
		l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", host, port))
		if err == nil {
			return l.Addr().String(), l.Close()
		}
		failed = err
	}
	return "", fmt.Errorf("no free port: %w", failed)
}

func freeAddress(t *testing.T) string {
	t.Helper()
	address, err := freeAddressOf("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// clear makes an empty database of it.
func (s *runzeo) clear(t *testing.T) {
	t.Helper()
	if err := errors.Join(os.RemoveAll(s.dir), os.MkdirAll(s.dir, 0o777)); err != nil {
		t.Fatal(err)
	}
}

func (s *runzeo) start(ctx context.Context, t *testing.T) {
	t.Helper()
	s.process = startPython(ctx, t, "-m", "ZEO.runzeo", "-C", s.conf)
	go io.Copy(io.Discard, s.process.stdout)
	awaitListener(ctx, t, s.process, s.address)
}

// awaitListener waits until somebody listens on address.
func awaitListener(ctx context.Context, t *testing.T, p *process, address string) {
	t.Helper()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
			return
		}
		select {
		case <-p.ended:
			t.Fatalf("the server ended: %v: %s", p.err, p.output())
		case <-ctx.Done():
			t.Fatalf("the server does not listen: %v", err)
		case <-again.C:
		}
	}
}

// stop kills it: a power failure is not announced.
func (s *runzeo) stop(ctx context.Context, t *testing.T) {
	t.Helper()
	s.process.kill(ctx, t)
}

// kill ends a process as kill -9 does, and waits for its end.
func (p *process) kill(ctx context.Context, t *testing.T) {
	t.Helper()
	select {
	case <-p.ended:
		t.Fatalf("%s has ended: %v: %s", filepath.Base(p.cmd.Args[0]), p.err, p.output())
	default:
	}
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.ended:
	case <-ctx.Done():
		t.Fatalf("%s does not end", filepath.Base(p.cmd.Args[0]))
	}
}

// raid is `zeoraid serve`, a process of its own.
type raid struct {
	*process
	program    string
	zeo, admin string // addresses
}

// build builds cmd/zeoraid.
func build(ctx context.Context, t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "zeoraid")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", program, "../cmd/zeoraid").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

// run runs a verb and returns its exit code and output.
func (r *raid) run(ctx context.Context, t *testing.T, verb string, args ...string) (int, string) {
	t.Helper()
	cmd := exec.CommandContext(ctx, r.program, append([]string{verb, "-admin", "http://" + r.admin}, args...)...)
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Exited() {
		err = nil
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s", verb, err, out)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// expect runs a verb that must end with this code and say this.
func (r *raid) expect(ctx context.Context, t *testing.T, code int, text, verb string, args ...string) string {
	t.Helper()
	got, out := r.run(ctx, t, verb, args...)
	if got != code || !strings.Contains(strings.ToLower(out), text) {
		t.Fatalf("%s %q: code %d, want %d with %q:\n%s\nserver: %s", verb, args, got, code, text, out, r.output())
	}
	return out
}

func (r *raid) stop(ctx context.Context, t *testing.T) {
	t.Helper()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	r.wait(ctx, t)
}

// startRaid serves what a configuration says and waits until it is ready.
func startRaid(ctx context.Context, t *testing.T, conf string) *raid {
	t.Helper()
	path := filepath.Join(t.TempDir(), "zeoraid.conf")
	if err := os.WriteFile(path, []byte(conf), 0o666); err != nil {
		t.Fatal(err)
	}
	return serve(ctx, t, "-config", path)
}

// serve runs `zeoraid serve` with these flags and waits until it is ready.
func serve(ctx context.Context, t *testing.T, flags ...string) *raid {
	t.Helper()
	return serveProgram(ctx, t, build(ctx, t), flags...)
}

// serveProgram is serve with a program that is built already.
func serveProgram(ctx context.Context, t *testing.T, program string, flags ...string) *raid {
	t.Helper()
	r := &raid{program: program}
	r.process = start(t, exec.CommandContext(ctx, r.program, append([]string{"serve"}, flags...)...))
	ready := make(chan string, 1)
	go func() {
		lines := bufio.NewScanner(r.stdout)
		if lines.Scan() {
			ready <- lines.Text()
		}
		close(ready)
		io.Copy(io.Discard, r.stdout)
	}()
	select {
	case line := <-ready:
		if n, err := fmt.Sscanf(line, "zeoraid: ready: zeo %s control http://%s storages", &r.zeo, &r.admin); n != 2 {
			t.Fatalf("not ready: %q, %v: %s", line, err, r.output())
		}
		r.zeo, r.admin = strings.TrimSuffix(r.zeo, ","), strings.TrimSuffix(r.admin, ",")
	case <-ctx.Done():
		t.Fatalf("not ready: %s", r.output())
	}
	return r
}
