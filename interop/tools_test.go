//go:build interop

package interop_test

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// served is a server over a mirror of two files with blobs.
type served struct {
	*server
	files []string
}

// serveMirror serves a new mirror as storage 1 until the test ends.
func serveMirror(t *testing.T) served {
	t.Helper()
	path := filepath.Join(t.TempDir(), "Data.fs")
	spec := storageSpec{Type: "file", Path: path, BlobDir: path + "-blobs", GC: true}
	c := &control{kind: inMirror}
	s, err := startServer(t.Context(), serverSpec{
		Address: "127.0.0.1:0", Storages: map[string]storageSpec{"1": spec}, TransactionTimeout: 30,
	}, c.open)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	return served{s, []string{path, path + "-b"}}
}

// client runs a command of testdata/client.py and returns what it printed.
func client(t *testing.T, command, where, count string) string {
	t.Helper()
	script, err := filepath.Abs(filepath.Join("testdata", "client.py"))
	if err != nil {
		t.Fatal(err)
	}
	return must(t, t.TempDir(), interpreter(t, "RAIDSTORAGE_PYTHON"), script, command, where, count)
}

// fstest runs ZODB's checker of files.
func fstest(t *testing.T, path string) {
	t.Helper()
	out := must(t, filepath.Dir(path), interpreter(t, "RAIDSTORAGE_PYTHON"), "-m", "ZODB.scripts.fstest", "-v", path)
	if !strings.HasSuffix(strings.TrimSpace(out), "no errors detected") {
		t.Errorf("fstest %s: %s", path, out)
	}
}

// TestZEONagios runs the monitoring plugin of ZEO against our server: it prints what it
// prints of ZEO's own one, but for the numbers.
func TestZEONagios(t *testing.T) {
	t.Parallel()
	nagios := tool(t, "RAIDSTORAGE_PYTHON", "zeo-nagios")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	reference := newRunzeo(t, t.TempDir())
	reference.start(ctx, t)
	ours := serveMirror(t).address
	numbers := regexp.MustCompile(`=[-+0-9.e]+`)
	run := func(address, dir string, args ...string) []string {
		out, errs, status := output(t, dir, nagios, append(args, address)...)
		if errs != "" || (status != 0) != strings.Contains(out, "Empty storage") {
			t.Errorf("%v at %s: exit status %d\n%s%s", args, address, status, out, errs)
		}
		return strings.Split(numbers.ReplaceAllString(out, "="), "\n")
	}
	compare := func(what string, args ...string) {
		dir, other := t.TempDir(), t.TempDir()
		for _, call := range []string{"first", "second"} { // the second finds the first's status file
			got, want := run(ours, dir, args...), run(reference.address, other, args...)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s, %s call (-runzeo +ours):\n%s", what, call, diff)
			}
		}
	}
	compare("empty storage")
	compare("empty storage, metrics", "-m")
	client(t, "fill", ours, "3")
	client(t, "fill", reference.address, "3")
	compare("plain")
	compare("metrics", "-m")
	compare("metrics and status file", "-m", "-s", "status")
	compare("metrics and status file per hour", "-m", "-s", "status", "-u", "hours")
	out := must(t, t.TempDir(), nagios, "-m", ours)
	if !strings.HasPrefix(out, "OK|active_txns=0") {
		t.Errorf("zeo-nagios -m says %q", out)
	}
}

// TestZeopack packs the mirror with ZEO's script: both files lose the garbage, and
// nothing else.
func TestZeopack(t *testing.T) {
	t.Parallel()
	s := serveMirror(t)
	client(t, "fill", s.address, "20")
	var before []int64
	for _, path := range s.files {
		before = append(before, size(t, path))
	}
	must(t, t.TempDir(), tool(t, "RAIDSTORAGE_PYTHON", "zeopack"), "-d", "1", s.address)
	for i, path := range s.files {
		if size(t, path) != before[i] {
			t.Errorf("%s: a pack to yesterday changed the size from %d to %d bytes", path, before[i], size(t, path))
		}
	}
	must(t, t.TempDir(), tool(t, "RAIDSTORAGE_PYTHON", "zeopack"), s.address)
	client(t, "check", s.address, "20")
	for i, path := range s.files {
		if now := size(t, path); now > before[i]-19*1000 {
			t.Errorf("%s: %d bytes before the pack, %d after it; it holds 19 objects of 1,000 bytes too much", path, before[i], now)
		}
		fstest(t, path)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	for _, path := range s.files {
		client(t, "file", path, "20")
	}
}

// TestRepozoAndFstest backs the files of a mirror up with ZODB's script, in full and
// incrementally, while they are served, and restores them.
func TestRepozoAndFstest(t *testing.T) {
	t.Parallel()
	repozo := tool(t, "RAIDSTORAGE_PYTHON", "repozo")
	s := serveMirror(t)
	client(t, "fill", s.address, "5")
	repositories := make(map[string]string)
	for _, path := range s.files {
		repositories[path] = t.TempDir()
		must(t, t.TempDir(), repozo, "-B", "-v", "-r", repositories[path], "-f", path)
	}
	client(t, "fill", s.address, "5")
	for _, path := range s.files {
		dir := repositories[path]
		until(t, "the next second, as repozo names files by it", func() bool { return !backedUpThisSecond(t, dir) })
		must(t, t.TempDir(), repozo, "-B", "-v", "-r", dir, "-f", path)
		must(t, t.TempDir(), repozo, "-V", "-v", "-r", dir)
		if deltas, err := filepath.Glob(filepath.Join(dir, "*.deltafs")); err != nil || len(deltas) != 1 {
			t.Errorf("%s: incremental backups are %v, %v", path, deltas, err)
		}
		restored := filepath.Join(t.TempDir(), "Restored.fs")
		must(t, t.TempDir(), repozo, "-R", "-v", "-r", dir, "-o", restored)
		fstest(t, path)
		fstest(t, restored)
		if !slices.Equal(read(t, restored), read(t, path)) {
			t.Errorf("%s: the restored file differs", path)
		}
	}
}

// backedUpThisSecond tells whether the newest file in dir has the time that a file made
// now would have in its name.
func backedUpThisSecond(t *testing.T, dir string) bool {
	t.Helper()
	now := time.Now().UTC().Format("2006-01-02-15-04-05")
	found, err := filepath.Glob(filepath.Join(dir, now+".*"))
	if err != nil {
		t.Fatal(err)
	}
	return len(found) > 0
}

// until waits for the clock to make a condition true.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	within(t, 10*time.Second, what, condition)
}

// within is until with another bound.
func within(t *testing.T, bound time.Duration, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	end := time.After(bound)
	for !condition() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("waited %v for %s", bound, what)
		}
	}
}

func size(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
