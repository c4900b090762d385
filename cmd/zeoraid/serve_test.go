package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/zeoclient"
)

// server is `zeoraid serve` that is ready, in this process or in one of its own.
type server struct {
	zeo, control string
	log          *bytes.Buffer // read when it has ended
	exit         chan int
}

// await waits until the server whose standard output is out says that it is ready.
func (s *server) await(t *testing.T, out io.Reader) {
	t.Helper()
	lines := bufio.NewReader(out)
	line, _ := lines.ReadString('\n') // what was wrong is in the log
	ready := regexp.MustCompile(`^zeoraid: ready: zeo (\S+), control (\S+), storages (\S+)\n$`).FindStringSubmatch(line)
	if ready == nil {
		t.Fatalf("%q, exit status %d:\n%s", line, s.ended(t), s.log)
	}
	s.zeo, s.control = ready[1], ready[2]
	go io.Copy(io.Discard, lines)
}

func (s *server) ended(t *testing.T) int {
	t.Helper()
	select {
	case status := <-s.exit:
		return status
	case <-time.After(time.Minute):
		t.Fatal("it does not end")
		return 0
	}
}

// flagsOn returns serve's flags for a server on dir, at addresses that are free.
func flagsOn(dir string) []string {
	return []string{"serve", "-data", dir, "-listen", "127.0.0.1:0", "-admin", "127.0.0.1:0"}
}

// serveHere runs it in this process; end tells it to end.
func serveHere(t *testing.T, args ...string) (s *server, end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s = &server{log: new(bytes.Buffer), exit: make(chan int, 1)}
	r, w := io.Pipe()
	over := make(chan struct{})
	go func() {
		defer close(over)
		s.exit <- run(ctx, args, w, s.log)
		w.Close()
	}()
	t.Cleanup(func() {
		cancel()
		<-over // before its files are removed
	})
	s.await(t, r)
	return s, cancel
}

// commitOne commits a transaction with a blob, and returns its tid.
func commitOne(t *testing.T, address string, oid raidstorage.OID) raidstorage.TID {
	t.Helper()
	c := client(t, address)
	txn, err := c.Begin(t.Context(), raidstorage.Meta{})
	if err == nil {
		err = raidstorage.StoreBlob(t.Context(), txn, oid, 0, []byte("cZODB.blob\nBlob\n.N."), strings.NewReader("content"))
	}
	if err == nil {
		_, err = txn.Vote(t.Context())
	}
	var tid raidstorage.TID
	if err == nil {
		tid, err = txn.Finish(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	return tid
}

func client(t *testing.T, address string) *zeoclient.Storage {
	t.Helper()
	c, err := zeoclient.Open(t.Context(), zeoclient.Options{Addresses: []string{address}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// wantOne checks that the server has what commitOne committed.
func wantOne(t *testing.T, address string, oid raidstorage.OID, tid raidstorage.TID) {
	t.Helper()
	blob, err := client(t, address).OpenBlob(t.Context(), oid, tid)
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	if got, err := io.ReadAll(blob); err != nil || string(got) != "content" {
		t.Errorf("the blob is %q (%v)", got, err)
	}
}

// wantSound checks the files of a server that has ended.
func wantSound(t *testing.T, dir string) {
	t.Helper()
	for _, member := range []string{"1", "2"} {
		path := filepath.Join(dir, member, "Data.fs")
		report, err := filestorage.Check(t.Context(), path, filestorage.InspectOptions{
			BlobDir: filepath.Join(dir, member, "blobs"),
			Found:   func(f filestorage.Finding) { t.Errorf("%s: %v", path, f) },
		})
		if err != nil || report.Transactions == 0 {
			t.Errorf("%s: %+v (%v)", path, report, err)
		}
	}
}

func TestServeMakesADatabaseAndFindsItAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, end := serveHere(t, flagsOn(dir)...)
	tid := commitOne(t, first.zeo, 1)
	if status, out, _ := controlVerbs(t.Context(), "status", "-admin", first.control); status != exitClean || !strings.HasPrefix(out, "optimal") && !strings.HasPrefix(out, "OPTIMAL") {
		t.Errorf("status %d: %q", status, out)
	}
	end()
	if status := first.ended(t); status != exitClean {
		t.Fatalf("exit status %d:\n%s", status, first.log)
	}
	wantSound(t, dir)
	for _, member := range []string{"1", "2"} {
		if _, err := os.Stat(filepath.Join(dir, member, "Data.fs.index")); err != nil {
			t.Errorf("no index was saved: %v", err)
		}
	}
	second, _ := serveHere(t, flagsOn(dir)...)
	wantOne(t, second.zeo, 1, tid)
}

// A server of its own process is killed, starts again, and is told to end. It is not
// parallel to others: between fork and exec a child holds the file locks of this process,
// and keeps others from opening again what they have closed.
func TestServeSurvivesKillsAndEndsWhenTold(t *testing.T) {
	program, dir := filepath.Join(t.TempDir(), "zeoraid"), t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	tids := make(map[raidstorage.OID]raidstorage.TID)
	for oid, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGKILL, syscall.SIGTERM, syscall.SIGINT} {
		cmd := exec.CommandContext(t.Context(), program, flagsOn(dir)...)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		s := &server{log: new(bytes.Buffer), exit: make(chan int, 1)}
		cmd.Stderr = s.log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		s.await(t, out)
		for oid, tid := range tids {
			wantOne(t, s.zeo, oid, tid)
		}
		tids[raidstorage.OID(oid+1)] = commitOne(t, s.zeo, raidstorage.OID(oid+1))
		if err := cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		err = cmd.Wait()
		if exit, failed := errors.AsType[*exec.ExitError](err); signal == syscall.SIGKILL && !(failed && !exit.Exited()) {
			t.Errorf("%v: %v", signal, err)
		} else if signal != syscall.SIGKILL && err != nil {
			t.Errorf("%v: %v\n%s", signal, err, s.log)
		}
	}
	wantSound(t, dir)
}

func TestServeServesWhatAFileSays(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pid := filepath.Join(dir, "zeo.pid")
	path := filepath.Join(dir, "zeo.conf")
	conf := "<zeo>\naddress 127.0.0.1:0\npid-filename " + pid + "\n</zeo>\n<raidstorage main>\n" +
		"<mappingstorage a/>\n<mappingstorage b/>\n</raidstorage>\n<eventlog>\n<logfile>\npath " + dir + "/log\nformat json\n</logfile>\n</eventlog>\n"
	if err := os.WriteFile(path, []byte(conf), 0o666); err != nil {
		t.Fatal(err)
	}
	s, end := serveHere(t, "serve", "-config", path, "-admin", "127.0.0.1:0")
	if status, out, _ := controlVerbs(t.Context(), "details", "-admin", s.control); status != exitClean || !strings.Contains(out, "main") {
		t.Errorf("status %d: %q", status, out)
	}
	if text, err := os.ReadFile(pid); err != nil || !regexp.MustCompile(`^\d+\n$`).Match(text) {
		t.Errorf("the pid file has %q (%v)", text, err)
	}
	end()
	if status := s.ended(t); status != exitClean {
		t.Errorf("exit status %d:\n%s", status, s.log)
	}
	if _, err := os.Stat(pid); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pid file stays: %v", err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "log")); err != nil || !bytes.Contains(text, []byte(`"msg":"ready"`)) {
		t.Errorf("the log has %q (%v)", text, err)
	}
}

func TestServeSaysWhyItDoesNotStart(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() }) // the parallel subtests run later
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.conf")
	if err := os.WriteFile(bad, []byte("<zeo>\naddress 8100\nread-onli true\n</zeo>\n<mappingstorage 1/>\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		args   []string
		status int
		says   string
	}{
		"ZEO's address is taken":      {[]string{"-data", filepath.Join(dir, "a"), "-listen", taken.Addr().String(), "-admin", "none"}, exitFindings, "address already in use"},
		"the control's is taken":      {[]string{"-data", filepath.Join(dir, "b"), "-listen", "127.0.0.1:0", "-admin", taken.Addr().String()}, exitFindings, "control: "},
		"an unknown key":              {[]string{"-config", bad}, exitUnknown, "bad.conf:3: "},
		"its nearest known name":      {[]string{"-config", bad}, exitUnknown, "read-only"},
		"no such file":                {[]string{"-config", filepath.Join(dir, "none")}, exitUnknown, "no such file"},
		"-data beside -config":        {[]string{"-config", bad, "-data", dir}, exitUnknown, "-data has no meaning with -config"},
		"an address that is none":     {[]string{"-listen", "127.0.0.1:x"}, exitUnknown, "not an integer"},
		"-force of nobody":            {[]string{"-data", filepath.Join(dir, "c"), "-force", "9"}, exitUnknown, `no mirror has a backend "9"`},
		"an argument that is no flag": {[]string{"now"}, exitUnknown, "usage"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status, _, stderr := controlVerbs(t.Context(), append([]string{"serve"}, test.args...)...)
			if status != test.status || !strings.Contains(stderr, test.says) {
				t.Errorf("exit status %d, want %d with %q:\n%s", status, test.status, test.says, stderr)
			}
		})
	}
}

// A backend whose database is away and which may be the only one that is whole: the
// server does not start without it, says so, and starts when it is told to.
func TestServeRefusesToStartOnAStaleCopy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, end := serveHere(t, flagsOn(dir)...)
	if status, _, errs := controlVerbs(t.Context(), "disable", "2", "-admin", s.control); status != exitClean {
		t.Fatalf("disable: %d: %s", status, errs)
	}
	tid := commitOne(t, s.zeo, 1) // 1 alone has it
	end()
	if status := s.ended(t); status != exitClean {
		t.Fatalf("exit status %d:\n%s", status, s.log)
	}
	whole, away := filepath.Join(dir, "1", "Data.fs"), filepath.Join(dir, "away")
	if err := os.Rename(whole, away); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(whole, 0o777); err != nil { // so that nobody makes a new one
		t.Fatal(err)
	}
	status, _, errs := controlVerbs(t.Context(), flagsOn(dir)...)
	if status != exitFindings || !strings.Contains(errs, "1") {
		t.Fatalf("exit status %d:\n%s", status, errs)
	}
	forced, end := serveHere(t, append(flagsOn(dir), "-force", "2")...)
	if _, err := client(t, forced.zeo).OpenBlob(t.Context(), 1, tid); err == nil {
		t.Error("the stale copy has what it cannot have")
	}
	end()
	if status := forced.ended(t); status != exitClean {
		t.Fatalf("exit status %d:\n%s", status, forced.log)
	}
}
