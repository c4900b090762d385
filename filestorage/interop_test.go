//go:build interop

package filestorage_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// script runs testdata/fs.py and returns what it printed.
func script(t testing.TB, command, path string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), python(t), filepath.Join("testdata", "fs.py"), command, path)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("python %s: %v\n%s", command, err, stderr.String())
	}
	return string(out)
}

// pythonDump has Python check the file, read it, and say whether it used the index.
func pythonDump(t testing.TB, path string) (indexUsed bool, d string) {
	t.Helper()
	first, d, _ := strings.Cut(script(t, "dump", path), "\n")
	return first == "index used", d
}

// writeAllSorts makes a file with everything that we can write.
func writeAllSorts(t testing.TB, path string) {
	t.Helper()
	s := openFor(t, path, filestorage.Options{Durability: filestorage.NoSync})
	meta := raidstorage.Meta{User: []byte("jim"), Description: []byte("all sorts"), Extension: []byte("\x80\x03}q\x00.")}
	first := commit(t, s, meta, func(txn raidstorage.Txn) error {
		for oid := range raidstorage.OID(300) { // more than one page of the index
			if err := txn.Store(t.Context(), oid, 0, fmt.Appendf(nil, "object %d", oid)); err != nil {
				return err
			}
		}
		return txn.Store(t.Context(), 1<<40, 0, []byte(strings.Repeat("far", 50_000)))
	})
	put(t, s, 1, "one")
	changed := put(t, s, 1, "one again")
	undone := undoTxn(t, s, changed)
	undoTxn(t, s, undone)
	created := put(t, s, 1000, "thousand")
	undoTxn(t, s, created)
	commit(t, s, raidstorage.Meta{}, func(txn raidstorage.Txn) error { return txn.Delete(t.Context(), 2, first) })
	commit(t, s, raidstorage.Meta{}, func(raidstorage.Txn) error { return nil })
	last, err := s.LastTID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tid := last + 1<<32
	commit(t, s, raidstorage.Meta{TID: tid}, func(txn raidstorage.Txn) error {
		for _, r := range []raidstorage.Record{
			{OID: 1, TID: tid, Data: []byte("one"), DataTID: undone},
			{OID: 3, TID: tid, Data: []byte("not the data of that transaction"), DataTID: first},
			{OID: 4, TID: tid},
		} {
			if err := txn.Restore(t.Context(), r); err != nil {
				return err
			}
		}
		return nil
	})
	b := begin(t, s, raidstorage.Meta{}) // an aborted one leaves nothing
	if err := b.Store(t.Context(), 5000, 0, []byte("aborted")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Vote(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestPythonReadsAndGoesOnWithWhatGoWrote(t *testing.T) {
	t.Parallel()
	for _, withIndex := range []bool{true, false} {
		t.Run(fmt.Sprintf("index=%v", withIndex), func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "Data.fs")
			writeAllSorts(t, path)
			if !withIndex {
				if err := os.Remove(path + ".index"); err != nil {
					t.Fatal(err)
				}
			}
			want := dumpFile(t, path)
			used, got := pythonDump(t, path)
			if diff := cmp.Diff(got, want); diff != "" {
				t.Fatalf("Python reads (-) what Go does not (+):\n%s", diff)
			}
			if used != withIndex {
				t.Errorf("Python used the index: %v", used)
			}
			script(t, "more", path)
			_, want = pythonDump(t, path)
			s := openFor(t, path, filestorage.Options{})
			if diff := cmp.Diff(mustDump(t, s), want); diff != "" {
				t.Fatalf("Go reads (-) what Python does not (+) after its commits:\n%s", diff)
			}
			put(t, s, 77777, "from Go again")
		})
	}
}

func TestGoReadsAndGoesOnWithWhatPythonWrote(t *testing.T) {
	t.Parallel()
	for _, withIndex := range []bool{true, false} {
		t.Run(fmt.Sprintf("index=%v", withIndex), func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "Data.fs")
			script(t, "write", path)
			if !withIndex {
				if err := os.Remove(path + ".index"); err != nil {
					t.Fatal(err)
				}
			}
			_, want := pythonDump(t, path)
			s := openFor(t, path, filestorage.Options{})
			if diff := cmp.Diff(mustDump(t, s), want); diff != "" {
				t.Fatalf("Go reads (-) what Python does not (+):\n%s", diff)
			}
			undoTxn(t, s, put(t, s, 1, "from Go"))
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			script(t, "more", path)
			_, want = pythonDump(t, path)
			if diff := cmp.Diff(dumpFile(t, path), want); diff != "" {
				t.Fatalf("Go reads (-) what Python does not (+) in the end:\n%s", diff)
			}
		})
	}
}

func TestIndexFilesAreReadInBothDirections(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "Data.fs")
	writeAllSorts(t, path)
	ours := script(t, "index", path)
	goIndex := read(t, path+".index")
	if err := os.Remove(path + ".index"); err != nil {
		t.Fatal(err)
	}
	script(t, "open", path) // Python rebuilds it
	if diff := cmp.Diff(ours, script(t, "index", path)); diff != "" {
		t.Errorf("index written by Go (-) and by Python (+):\n%s", diff)
	}
	if diff := cmp.Diff(goIndex, read(t, path+".index")); diff != "" {
		t.Errorf("bytes of the index written by Go (-) and by Python (+):\n%s", diff)
	}
}

// Python believes the index that a storage saved before its process was killed.
func TestPythonUsesTheIndexSavedBeforeAKill(t *testing.T) {
	t.Parallel()
	s := temp(t)
	fill(t, s, 1000, 100, 300)
	put(t, s, 1<<50, "far")
	if _, err := filestorage.SaveIndexNow(s); err != nil {
		t.Fatal(err)
	}
	put(t, s, 5000, "the tail")
	put(t, s, 1<<50+1, "the tail")
	used, got := pythonDump(t, abandon(t, s.Name()))
	if diff := cmp.Diff(got, mustDump(t, s)); diff != "" || !used {
		t.Errorf("Python used the index: %v; it reads (-) what Go does not (+):\n%s", used, diff)
	}
}

func TestPythonCannotOpenWhatGoHasOpen(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "Data.fs")
	s := openFor(t, path, filestorage.Options{})
	if got := script(t, "open", path); got != "locked\n" {
		t.Errorf("Python: %q, want locked", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := script(t, "open", path); got != "open\n" {
		t.Errorf("Python, after Close: %q, want open", got)
	}
}

func TestGoCannotOpenWhatPythonHasOpen(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "Data.fs")
	cmd := exec.CommandContext(t.Context(), python(t), filepath.Join("testdata", "fs.py"), "hold", path)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "open\n" {
		t.Fatalf("Python says %q (%v)", line, err)
	}
	wantLocked(t, path)
	openFor(t, path, filestorage.Options{ReadOnly: true})
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	openFor(t, path, filestorage.Options{})
}
