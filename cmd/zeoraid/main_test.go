package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// database makes a FileStorage of two transactions, and returns its path.
func database(t testing.TB, data ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "Data.fs")
	clock := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s, err := filestorage.Open(t.Context(), path, filestorage.Options{
		Durability: filestorage.NoSync, Clock: func() time.Time { return clock },
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range data {
		txn, err := s.Begin(t.Context(), raidstorage.Meta{User: []byte("jim")})
		if err != nil {
			t.Fatal(err)
		}
		if err := txn.Store(t.Context(), raidstorage.OID(i), 0, []byte(d)); err != nil {
			t.Fatal(err)
		}
		if _, err := txn.Vote(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := txn.Finish(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

const pickled = "\x80\x03cx\nY\nq\x00.\x80\x03N."

func sound(t testing.TB) string { return database(t, pickled, pickled) }

// damaged returns a file whose first transaction has an unknown status.
func damaged(t testing.TB) string {
	t.Helper()
	path := sound(t)
	b, err := os.ReadFile(path)
	if err == nil {
		b[4+16] = 'x'
		err = os.WriteFile(path, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// command runs the program.
func command(t testing.TB, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	status = run(t.Context(), args, &out, &err)
	return status, out.String(), err.String()
}

// want compares a result; file stands for the path in the texts.
func want(t *testing.T, status int, stdout, stderr, file string, wantStatus int, wantOut, wantErr string) {
	t.Helper()
	stdout, stderr = strings.ReplaceAll(stdout, file, "FILE"), strings.ReplaceAll(stderr, file, "FILE")
	if status != wantStatus || stdout != wantOut || stderr != wantErr {
		t.Errorf("status %d\n%s%s\nwant %d\n%s%s", status, stdout, stderr, wantStatus, wantOut, wantErr)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	file := sound(t)
	status, out, err := command(t, "fs", "check", file)
	want(t, status, out, err, file, 0, "FILE: 2 transactions, 2 records, 2 objects, 184 bytes: clean\n", "")

	file = damaged(t)
	status, out, err = command(t, "fs", "check", file)
	want(t, status, out, err, file, 2, "FILE: status at 4 (90 bytes), tid 0405ed5815555555: transaction status is 'x'\n"+
		"FILE: 2 transactions, 2 records, 2 objects, 184 bytes: 1 finding\n", "")

	status, out, err = command(t, "fs", "check", "-json", file)
	want(t, status, out, err, file, 2, `{"type":"finding","file":"FILE","kind":"status","offset":4,"length":90,"tid":"0405ed5815555555","text":"transaction status is 'x'"}`+"\n"+
		`{"type":"report","file":"FILE","size":184,"transactions":2,"records":2,"objects":2,"findings":1,"lost_bytes":0}`+"\n", "")

	file = database(t, "no pickle")
	if status, out, _ := command(t, "fs", "check", file); status != 2 || !strings.Contains(out, "oid 0000000000000000") {
		t.Errorf("status %d: %s", status, out)
	}
	if status, out, _ := command(t, "fs", "check", "-opaque", file); status != 0 {
		t.Errorf("opaque: status %d: %s", status, out)
	}
}

// A record that is a blob's and whose file is not in the blob directory.
func TestCheckLooksForBlobs(t *testing.T) {
	t.Parallel()
	file := database(t, "\x80\x03cZODB.blob\nBlob\nq\x00.\x80\x03N.")
	if status, out, _ := command(t, "fs", "check", file); status != 0 {
		t.Errorf("without -blob-dir: status %d: %s", status, out)
	}
	if status, out, _ := command(t, "fs", "check", "-blob-dir", t.TempDir(), file); status != 2 || !strings.Contains(out, "blob's file is missing") {
		t.Errorf("with an empty blob directory: status %d: %s", status, out)
	}
	if status, _, _ := command(t, "fs", "check", "-blob-dir", filepath.Join(t.TempDir(), "none"), file); status != 3 {
		t.Errorf("with a directory that does not exist: status %d, want 3", status)
	}
}

func TestStatusOfSeveralFiles(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		files []string
		want  int
	}{
		{[]string{sound(t), sound(t)}, 0},
		{[]string{sound(t), "missing"}, 3},
		{[]string{"missing", damaged(t), "missing"}, 2},
	} {
		for _, verb := range []string{"check", "dump"} {
			if status, out, _ := command(t, append([]string{"fs", verb}, c.files...)...); status != c.want {
				t.Errorf("%s %v: status %d, want %d\n%s", verb, c.files, status, c.want, out)
			}
		}
	}
}

func TestErrorsHaveHints(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "missing")
	status, out, err := command(t, "fs", "check", file)
	want(t, status, out, err, file, 3, "", "FILE: open FILE: no such file or directory\nhint: look whether the path is right\n")
	status, out, _ = command(t, "fs", "check", "-json", file)
	var s summary
	if err := json.Unmarshal([]byte(out), &s); err != nil || status != 3 || s.Error == "" || s.Hint == "" {
		t.Errorf("status %d: %s (%v)", status, out, err)
	}
	fresh := sound(t)
	s2, openErr := filestorage.Open(t.Context(), fresh, filestorage.Options{})
	if openErr != nil {
		t.Fatal(openErr)
	}
	defer s2.Close()
	for _, name := range []string{fresh, fresh + ".index"} {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	if status, _, err := command(t, "fs", "recover", sound(t), fresh); status != 3 || !strings.Contains(err, "hint: end the process") {
		t.Errorf("a locked file: status %d, %s", status, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout, stderr bytes.Buffer
	if status := run(ctx, []string{"fs", "recover", sound(t), fresh + "2"}, &stdout, &stderr); status != 3 || !strings.Contains(stderr.String(), "interrupted") {
		t.Errorf("interrupted: status %d, %s", status, &stderr)
	}
	if status := run(t.Context(), []string{"fs", "dump", sound(t)}, brokenWriter{}, &stderr); status != 3 {
		t.Errorf("an output that cannot be written: status %d", status)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, os.ErrClosed }

func TestDump(t *testing.T) {
	t.Parallel()
	file := damaged(t)
	status, out, err := command(t, "fs", "dump", file)
	want(t, status, out, err, file, 2, `! status at 4: transaction status is 'x'
transaction 0405ed5815555555 at 4: 2026-01-02T03:04:04.999999996Z, 82 bytes, status 'x', user "jim", description "", extension of 0 bytes
  object 0000000000000000 at 30: 14 bytes, x.Y
transaction 0405ed5815555556 at 94: 2026-01-02T03:04:05.00000001Z, 82 bytes, status ' ', user "jim", description "", extension of 0 bytes
  object 0000000000000001 at 120: 14 bytes, x.Y
`, "")
	status, out, _ = command(t, "fs", "dump", "-json", file)
	for line := range strings.Lines(out) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil || fields["type"] == "" {
			t.Errorf("%q: %v", line, err)
		}
	}
	if n := strings.Count(out, "\n"); status != 2 || n != 1+4+1 {
		t.Errorf("status %d, %d lines:\n%s", status, n, out)
	}
}

func TestRecover(t *testing.T) {
	t.Parallel()
	file, fresh := damaged(t), filepath.Join(t.TempDir(), "Fresh.fs")
	status, out, err := command(t, "fs", "recover", file, fresh)
	out = strings.ReplaceAll(out, fresh, "FRESH")
	want(t, status, out, err, file, 2, "FILE: status at 4 (90 bytes), tid 0405ed5815555555: transaction status is 'x'\n"+
		"FILE: 2 transactions, 2 records copied to FRESH; 1 finding, 0 bytes lost\n", "")
	if status, out, _ := command(t, "fs", "check", fresh); status != 0 {
		t.Errorf("the new file: status %d: %s", status, out)
	}
	if status, _, err := command(t, "fs", "recover", file, fresh); status != 3 || !strings.Contains(err, "exists already") {
		t.Errorf("again: status %d: %s", status, err)
	}
}

func TestWrongUsage(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{}, {"f"}, {"fs"}, {"fs", "chekc", "x"}, {"fs", "check"}, {"fs", "check", "-no"}, {"fs", "dump"},
		{"fs", "recover", "one"}, {"fs", "recover", "one", "two", "three"},
	} {
		if status, out, err := command(t, args...); status != 3 || out != "" || !strings.Contains(err, "usage: zeoraid") {
			t.Errorf("%v: status %d\n%s%s", args, status, out, err)
		}
	}
	for _, args := range [][]string{{"-h"}, {"fs", "help"}, {"fs", "check", "-h"}, {"fs", "dump", "--help"}, {"fs", "recover", "-help"}} {
		if status, out, err := command(t, args...); status != 0 || err != "" || !strings.Contains(out, "usage: zeoraid") {
			t.Errorf("%v: status %d\n%s%s", args, status, out, err)
		}
	}
}

func TestProgress(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		terminal, quiet bool
		want            string
	}{
		{false, false, "Data.fs: 50% of 200 MiB, 20 MiB/s\nData.fs: 100% of 200 MiB, 20 MiB/s\n"},
		{true, false, "\r\x1b[KData.fs: 10% of 200 MiB, 20 MiB/s\r\x1b[KData.fs: 50% of 200 MiB, 20 MiB/s\r\x1b[KData.fs: 100% of 200 MiB, 20 MiB/s\r\x1b[K"},
		{true, true, ""},
	} {
		var out bytes.Buffer
		now := time.Unix(0, 0)
		e := env{stderr: &out, terminal: c.terminal, now: func() time.Time { return now }}
		p := e.progress("Data.fs", c.quiet)
		for _, percent := range []int64{10, 50, 100} {
			now = time.Unix(percent/10, 0)
			p.update(percent*2<<20, 200<<20)
			p.update(percent*2<<20, 200<<20) // too soon
		}
		p.end()
		if out.String() != c.want {
			t.Errorf("%+v: %q", c, &out)
		}
	}
	if isTerminal(new(bytes.Buffer)) {
		t.Error("a buffer is taken for a terminal")
	}
}
