//go:build interop

package filestorage_test

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// blobScript runs testdata/blob.py and returns what it printed.
func blobScript(t testing.TB, command, path string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), python(t), filepath.Join("testdata", "blob.py"), command, path)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("python %s: %v\n%s", command, err, stderr.String())
	}
	return string(out)
}

// goBlobs is the part of Python's dump that needs no application.
func goBlobs(t testing.TB, s *filestorage.Storage) string {
	t.Helper()
	var b strings.Builder
	for txn, err := range s.Iterate(t.Context(), 0, raidstorage.MaxTID) {
		if err != nil {
			t.Fatal(err)
		}
		for rec, err := range txn.Records {
			if err != nil {
				t.Fatal(err)
			}
			content := opened(t, rec)
			if content != "-" && content != "missing" {
				wantBlob(t, s, rec.OID, rec.TID, content)
				content = fmt.Sprintf("%d:%.40s", len(content), content)
			}
			fmt.Fprintln(&b, rec.TID, rec.OID, content)
		}
	}
	return b.String()
}

// wantSameBlobs compares what Go and Python read, each with the other closed.
func wantSameBlobs(t testing.TB, path, when string) {
	t.Helper()
	s := openBlobs(t, path, filestorage.Options{})
	ours := goBlobs(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	theirs := blobScript(t, "dump", path)
	if !strings.HasPrefix(theirs, ours) || strings.Contains(theirs, "missing") || strings.Count(theirs, ":") < 4 {
		t.Fatalf("%s, Go reads (-) what Python does not (+):\n%s", when, cmp.Diff(ours, theirs))
	}
}

// changeBlobs has Go change all blobs that are current, and undo one of the changes.
func changeBlobs(t testing.TB, path string) {
	t.Helper()
	s := openBlobs(t, path, filestorage.Options{})
	var oids []raidstorage.OID
	for rec, err := range s.CurrentRecords(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if rec.OpenBlob != nil {
			oids = append(oids, rec.OID)
		}
	}
	var last raidstorage.TID
	for _, oid := range oids {
		last = putBlob(t, s, oid, fmt.Sprintf("changed by Go: %v", oid))
	}
	undoTxn(t, s, last)
	undoTxn(t, s, putBlob(t, s, oids[0], "undone by Go"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestPythonAndGoTakeTurnsAtBlobs(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(testing.TB, string){"bushy": func(testing.TB, string) {}, "lawn": lawn} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "Data.fs")
			prepare(t, path+".blobs")
			steps := []struct {
				name string
				run  func()
			}{
				{"Python writes", func() { blobScript(t, "write", path) }},
				{"Go changes", func() { changeBlobs(t, path) }},
				{"Python undoes what Go did", func() { blobScript(t, "undo", path) }},
				{"Python changes", func() { blobScript(t, "more", path) }},
				{"Go undoes what Python did", func() {
					s := openBlobs(t, path, filestorage.Options{})
					last, err := s.LastTID(t.Context())
					undoTxn(t, s, last)
					if err := errors.Join(err, s.Close()); err != nil {
						t.Fatal(err)
					}
				}},
				{"Python undoes that", func() { blobScript(t, "undo", path) }},
				{"Go changes again", func() { changeBlobs(t, path) }},
			}
			for _, step := range steps {
				step.run()
				wantSameBlobs(t, path, step.name)
			}
			twin := filepath.Join(t.TempDir(), "Data.fs")
			copyDir(t, filepath.Dir(path), filepath.Dir(twin))
			blobScript(t, "pack", path)
			wantSameBlobs(t, path, "Python packs")
			s := openBlobs(t, twin, filestorage.Options{})
			last, err := s.LastTID(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(s.Pack(t.Context(), raidstorage.PackOptions{Through: last, GC: true}), s.Close()); err != nil {
				t.Fatal(err)
			}
			wantSameBlobs(t, twin, "Go packs")
			for _, suffix := range []string{".blobs", ".blobs.old"} {
				if diff := cmp.Diff(finals(t, twin+suffix), finals(t, path+suffix)); diff != "" {
					t.Errorf("%s after Go's pack (-) and Python's (+):\n%s", suffix, diff)
				}
			}
			changeBlobs(t, path)
			wantSameBlobs(t, path, "Go goes on after Python's pack")
			blobScript(t, "more", twin)
			wantSameBlobs(t, twin, "Python goes on after Go's pack")
		})
	}
}

// finals returns the files in a blob directory without temporary ones.
func finals(t testing.TB, dir string) []string {
	t.Helper()
	return slices.DeleteFunc(filesIn(t, dir), func(name string) bool { return strings.HasPrefix(name, "tmp/") })
}

func copyDir(t testing.TB, from, to string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", from+"/.", to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}
