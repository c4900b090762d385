//go:build interop

package interop_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// The members: two native files, and Python's server behind the proxy.
var (
	natives = []string{"1", "2"}
	members = []string{"1", "2", "z"}
)

// soakSettings are the configuration of the server.
type soakSettings struct {
	zeo, admin string // addresses
	msgpack    bool   // both change at a start only
	resolution bool
	readPolicy string // these by a reload, too
	quorum     int
}

func (s *soak) member(name string) string { return filepath.Join(s.dir, name) }

func (s *soak) conf() string { return filepath.Join(s.dir, "zeoraid.conf") }

// configure writes the configuration file.
func (s *soak) configure() {
	s.t.Helper()
	seconds := int(soakDeadline / time.Second)
	conf := fmt.Sprintf(`
		<zeo>
		  address %s
		  msgpack %t
		  client-conflict-resolution %t
		  transaction-timeout 60
		</zeo>
		<admin>
		  address %s
		</admin>
		<eventlog>
		  level INFO
		  <logfile>
		    path %[5]s/zeoraid.log
		    max-size 20MB
		    old-files 2
		  </logfile>
		</eventlog>
		<raidstorage 1>
		  state-dir %[5]s/state
		  read-policy %[6]s
		  write-quorum %[7]d
		  vote-timeout %[8]ds
		  finish-timeout %[8]ds
		  read-timeout %[8]ds
		  open-timeout %[8]ds
		  <filestorage 1>
		    path %[5]s/1/Data.fs
		    blob-dir %[5]s/1/blobs
		  </filestorage>
		  <filestorage 2>
		    path %[5]s/2/Data.fs
		    blob-dir %[5]s/2/blobs
		  </filestorage>
		  <zeoclient z>
		    server %[9]s
		  </zeoclient>
		</raidstorage>
	`, s.settings.zeo, s.settings.msgpack, s.settings.resolution, s.settings.admin, s.dir,
		s.settings.readPolicy, s.settings.quorum, seconds, s.proxy.address)
	if err := os.WriteFile(s.conf(), []byte(conf), 0o666); err != nil {
		s.t.Fatal(err)
	}
}

// tryServe starts the server; it is an error if it ends, or is not ready in time.
func (s *soak) tryServe(patience time.Duration) error {
	s.t.Helper()
	s.settings.msgpack, s.settings.resolution = s.random.IntN(2) == 0, s.random.IntN(2) == 0
	s.configure()
	s.serve = start(s.t, exec.CommandContext(s.ctx, s.program, "serve", "-config", s.conf()))
	s.watchdog.list(s)
	ready := make(chan string, 1)
	go func(p *process) {
		lines := bufio.NewScanner(p.stdout)
		if lines.Scan() {
			ready <- lines.Text()
		}
		io.Copy(io.Discard, p.stdout)
	}(s.serve)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case line := <-ready:
		s.record.note("serve", "%s", line)
		return nil
	case <-s.serve.ended:
		return fmt.Errorf("zeoraid serve ended: %v: %s", s.serve.err, s.serve.output())
	case <-timer.C:
		return fmt.Errorf("zeoraid serve is not ready after %v", patience)
	}
}

// serveInTime is tryServe, again if a member was not opened in its two seconds.
func (s *soak) serveInTime() error {
	s.t.Helper()
	for begun := time.Now(); ; {
		err := s.tryServe(soakPatience)
		if err == nil || !strings.Contains(err.Error(), context.DeadlineExceeded.Error()) || time.Since(begun) > soakPatience {
			return err
		}
		s.record.note("serve", "again, as %v", err)
	}
}

// mustServe starts the server.
func (s *soak) mustServe() {
	s.t.Helper()
	if err := s.serveInTime(); err != nil {
		s.t.Fatal(err)
	}
}

// killServe is kill -9.
func (s *soak) killServe() {
	s.t.Helper()
	s.serve.kill(s.ctx, s.t)
}

// terminateServe is SIGTERM, after which the server must end well: or say that a member was
// not closed in its two seconds, which a busy disk may take to sync it.
func (s *soak) terminateServe() {
	s.t.Helper()
	signalProcess(s.t, s.serve, syscall.SIGTERM)
	select {
	case <-s.serve.ended:
	case <-s.ctx.Done():
		s.t.Fatal("zeoraid serve does not end")
	}
	lines := strings.Split(strings.TrimSpace(s.serve.output()), "\n")
	last := lines[len(lines)-1]
	var exit *exec.ExitError
	if errors.As(s.serve.err, &exit) && exit.ExitCode() == 2 && strings.Contains(last, context.DeadlineExceeded.Error()) {
		s.record.count("ends with a member not closed in time")
		s.record.note("serve", "ended: %s", last)
		return
	}
	s.serve.wait(s.ctx, s.t)
}

// verb runs a verb of zeoraid, again if the server was away, until it ends with one of
// these codes.
func (s *soak) verb(codes []int, verb string, args ...string) (int, string) {
	s.t.Helper()
	var code int
	var out string
	r := &raid{program: s.program, admin: s.settings.admin}
	s.await(fmt.Sprintf("zeoraid %s %q ends with a code of %v", verb, args, codes), func() bool {
		code, out = r.run(s.ctx, s.t, verb, args...)
		s.record.note("zeoraid "+verb, "%q: code %d: %s", args, code, strings.Join(strings.Fields(out), " "))
		return !s.operate(out) && slices.Contains(codes, code)
	})
	return code, out
}

// operate does what an operator must, and tells whether there was anything:
//
//   - pack again, where a member cannot be recovered from one that an earlier pack has
//     left out, as that was away
//   - start Python's server again, whose file storage closes itself when a finish fails,
//     as on a full disk
func (s *soak) operate(reason string) bool {
	switch {
	case strings.Contains(reason, "pack again"):
		s.record.count("packs made again")
		s.record.note("pack again", "%s", reason)
		s.pack(nil)
	case strings.Contains(reason, "closed file"):
		s.record.count("runzeo started again")
		s.record.note("runzeo started again", "%s", reason)
		s.memberRestarted()
		s.verb([]int{0, 2}, "recover", "z")
	default:
		return false
	}
	return true
}

// startRunzeo starts Python's server, also if it takes a while until it can listen.
func (s *soak) startRunzeo() {
	s.t.Helper()
	s.runzeo.start(s.ctx, s.t)
	s.watchdog.list(s)
}

// logEnd returns the end of the server's log.
func (s *soak) logEnd(n int) string {
	b, err := os.ReadFile(filepath.Join(s.dir, "zeoraid.log"))
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-n):])
}

// limitFiles has a process fail to write any file beyond so many bytes, as on a full
// disk; less than 0 for no limit. Python does it, as it is there.
func (s *soak) limitFiles(p *process, bytes int64) {
	s.t.Helper()
	const script = "import resource, sys; resource.prlimit(int(sys.argv[1]), resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))"
	cmd := exec.CommandContext(s.ctx, python(s.t), "-I", "-S", "-c", script, fmt.Sprint(p.cmd.Process.Pid), fmt.Sprint(bytes))
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("prlimit: %v\n%s", err, out)
	}
}

// wipe empties the disk of a native member.
func (s *soak) wipe(name string) {
	s.t.Helper()
	entries, err := os.ReadDir(s.member(name))
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(s.member(name), e.Name())))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.t.Fatal(err)
	}
}

// hide takes the disk of a native member away, or brings it back.
func (s *soak) hide(name string, away bool) {
	s.t.Helper()
	from, to := s.member(name), s.member(name)+"-away"
	if !away {
		from, to = to, from
	}
	if err := os.Rename(from, to); err != nil {
		s.t.Fatal(err)
	}
}

// soakFile is the size of a Data.fs from which on it is packed: the disk must do for
// hours, and a recovery from nothing must end.
const soakFile = 4 << 20

// tidy packs, and removes what servers leave for operators.
func (s *soak) tidy() {
	if sizeOf(filepath.Join(s.member("1"), "Data.fs")) > soakFile || sizeOf(filepath.Join(s.member("2"), "Data.fs")) > soakFile {
		s.faults["pack"]++
		window := s.record.open("pack")
		s.packed()
		window.close()
	}
	for _, name := range natives {
		for _, pattern := range []string{"Data.fs.tr*", "Data.fs.torn*"} {
			found, err := filepath.Glob(filepath.Join(s.member(name), pattern))
			for _, path := range found {
				err = errors.Join(err, os.RemoveAll(path))
			}
			if err != nil {
				s.t.Fatal(err)
			}
		}
	}
}

// sizeOf returns the size of a file that may be missing.
func sizeOf(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}
