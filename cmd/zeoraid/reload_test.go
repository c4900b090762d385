package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zeoraid/raidstorage/admin"
)

func TestReloadShowsTheDifferenceAndAppliesIt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "zeo.conf")
	write := func(more, keys string, members ...string) {
		t.Helper()
		text := "<zeo>\naddress 127.0.0.1:0\n" + more + "</zeo>\n<raidstorage 1>\nstate-dir " + dir + "/state\n" + keys
		for _, m := range members {
			text += fmt.Sprintf("<filestorage %s>\npath %s/%[1]s.fs\nblob-dir %[2]s/%[1]s.blobs\n</filestorage>\n", m, dir)
		}
		if err := os.WriteFile(path, []byte(text+"</raidstorage>\n"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	write("", "", "a", "b")
	s, end := serveHere(t, "serve", "-config", path, "-admin", "127.0.0.1:0")
	tid := commitOne(t, s.zeo, 1)
	reload := func(want int, says string, flags ...string) string {
		t.Helper()
		status, out, errs := controlVerbs(t.Context(), append([]string{"reload", "-admin", s.control}, flags...)...)
		if status != want || !strings.Contains(out+errs, says) {
			t.Errorf("exit status %d, want %d with %q:\n%s%s", status, want, says, out, errs)
		}
		return out
	}
	members := func(want string) {
		t.Helper()
		st, err := admin.Client{URL: s.control}.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, b := range st.Mirrors[0].Backends {
			names = append(names, b.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("members are %s, want %s", got, want)
		}
	}
	reload(exitClean, "nothing changes")
	write("", "", "a", "b", "c")
	reload(exitClean, "mirror 1: add member c", "-dry-run")
	members("a b")
	reload(exitClean, "in force")
	members("a b c")
	if status, _, errs := controlVerbs(t.Context(), "recover", "-wait", "c", "-admin", s.control); status != exitClean {
		t.Fatalf("recover: %d: %s", status, errs)
	}
	write("", "write-quorum 1\n", "c", "b")
	var last admin.Message
	for line := range strings.Lines(reload(exitClean, `"in force`[1:], "-json")) {
		if err := json.Unmarshal([]byte(line), &last); err != nil {
			t.Errorf("%q: %v", line, err)
		}
	}
	if last.Failure != nil || last.Type != admin.TypeEnd || len(last.Difference) != 2 {
		t.Errorf("JSON says %+v", last)
	}
	members("c b")
	wantOne(t, s.zeo, 1, tid)
	for what, edit := range map[string]func(){
		"at a restart only":            func() { write("transaction-timeout 77\n", "write-quorum 1\n", "c", "b", "d") },
		"too few would be in sync":     func() { write("", "write-quorum 1\n", "d", "e") },
		"zeo.conf:6":                   func() { write("", "write-quorum one\n", "c", "b") },
		"3 needed: refused: after the": func() { write("", "write-quorum 3\n", "c", "b", "d") },
	} {
		edit()
		reload(exitFindings, what)
		members("c b")
	}
	end()
	if status := s.ended(t); status != exitClean {
		t.Fatalf("exit status %d:\n%s", status, s.log)
	}
	if status, _, _ := controlVerbs(t.Context(), "reload", "-admin", s.control); status != exitUnknown {
		t.Errorf("without a server: exit status %d", status)
	}
}
