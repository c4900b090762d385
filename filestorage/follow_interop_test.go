//go:build interop

package filestorage_test

import (
	"bufio"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// Python commits in another process, all the time that Go follows, and packs.
func TestFollowBesidePython(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "Data.fs")
	cmd := exec.CommandContext(t.Context(), python(t), filepath.Join("testdata", "follow.py"), path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewReader(out)
	ask := func(line string) { fmt.Fprintln(in, line) }
	answer := func() raidstorage.TID {
		line, err := answers.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		tid, err := raidstorage.ParseTID(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		return tid
	}
	ask("3")
	last := answer()
	s := openFor(t, path, filestorage.Options{ReadOnly: true})
	var told []raidstorage.TID
	defer s.Subscribe(func(inv raidstorage.Invalidation) { told = append(told, inv.TID) })()
	for range 3 {
		ask("300")
		done := make(chan raidstorage.TID, 1)
		go func() { done <- answer() }()
		for running := true; running; {
			select {
			case last = <-done:
				running = false
			default:
			}
			follow(t, s)
		}
		wantFollowed(t, s, last)
	}
	if len(told) != 900 || told[899] != last {
		t.Errorf("%d invalidations", len(told))
	}
	ask("pack")
	answer()
	ask("5")
	last = answer()
	follow(t, s)
	wantFollowed(t, s, last)
	if len(told) != 905 {
		t.Errorf("%d invalidations", len(told))
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, answers); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// wantFollowed compares what the storage shows with the file opened now.
func wantFollowed(t *testing.T, s *filestorage.Storage, last raidstorage.TID) {
	t.Helper()
	if tid, err := s.LastTID(t.Context()); err != nil || tid != last {
		t.Errorf("the last is %v (%v), Python's %v", tid, err, last)
	}
	now := openFor(t, s.Name(), filestorage.Options{ReadOnly: true})
	wantSame(t, s, now)
}
