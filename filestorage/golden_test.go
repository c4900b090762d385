package filestorage_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// The golden files are what Python's FileStorage wrote:
//
//	python testdata/fs.py make testdata
//
// *.dump are what Python reads from them.

func golden(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// place copies golden files to a new directory, the first as Data.fs.
func place(t testing.TB, data string, index string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "Data.fs")
	write(t, path, golden(t, data))
	if index != "" {
		write(t, path+".index", golden(t, index))
	}
	return path
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestReadsWhatPythonWrote(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ data, index, want string }{
		"undo with index":                   {"undone.fs", "undone.fs.index", "undone.dump"},
		"undo without index":                {"undone.fs", "", "undone.dump"},
		"the magic of Python 2":             {"python2.fs", "", "undone.dump"},
		"the magic of Python 2, with index": {"python2.fs", "undone.fs.index", "undone.dump"},
		"pack with index":                   {"packed.fs", "packed.fs.index", "packed.dump"},
		"pack without index":                {"packed.fs", "", "packed.dump"},
		"the index of another file":         {"packed.fs", "undone.fs.index", "packed.dump"},
		"an index that is too long":         {"undone.fs", "packed.fs.index", "undone.dump"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := place(t, c.data, c.index)
			_, want, _ := strings.Cut(string(golden(t, c.want)), "\n") // whether Python used the index
			if diff := cmp.Diff(dumpFile(t, path), want); diff != "" {
				t.Errorf("read-only (-got +want):\n%s", diff)
			}
			s := openFor(t, path, filestorage.Options{})
			if diff := cmp.Diff(mustDump(t, s), want); diff != "" {
				t.Errorf("writable (-got +want):\n%s", diff)
			}
			if !bytes.Equal(read(t, path), golden(t, c.data)) {
				t.Error("opening changed the file")
			}
		})
	}
}

func TestWritesTheIndexThatPythonWrites(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"undone.fs", "packed.fs"} {
		path := place(t, name, "")
		openFor(t, path, filestorage.Options{})
		if got, want := read(t, path+".index"), golden(t, name+".index"); !bytes.Equal(got, want) {
			t.Errorf("index of %s is\n%q, Python's is\n%q", name, got, want)
		}
	}
}

// A restored copy of a file is the file, byte by byte, unless Python had packed it
// or written an object twice in one transaction.
func TestRestoringEverythingGivesTheSameBytes(t *testing.T) {
	t.Parallel()
	from := openFor(t, place(t, "undone.fs", ""), filestorage.Options{})
	to := openFor(t, filepath.Join(t.TempDir(), "Copy.fs"), filestorage.Options{})
	copyAll(t, from, to)
	if !bytes.Equal(read(t, to.Name()), read(t, from.Name())) {
		t.Errorf("copy differs:\n%s", cmp.Diff(mustDump(t, to), mustDump(t, from)))
	}
}

// In a packed file an object's revisions are not a chain; the transaction that a
// record repeats must be found all the same.
func TestRestoringAPackedFileKeepsWhatRecordsRepeat(t *testing.T) {
	t.Parallel()
	from := openFor(t, place(t, "packed.fs", ""), filestorage.Options{})
	to := openFor(t, filepath.Join(t.TempDir(), "Copy.fs"), filestorage.Options{})
	copyAll(t, from, to)
	source, copied := repeats(t, from), repeats(t, to)
	if len(source) == 0 {
		t.Fatal("the golden file has no back pointers")
	}
	if diff := cmp.Diff(copied, source); diff != "" {
		t.Errorf("back pointers (-copy +source):\n%s", diff)
	}
}

// repeats returns the DataTID of each last record of an object in a transaction.
func repeats(t testing.TB, s raidstorage.Storage) map[string]string {
	t.Helper()
	all := map[string]string{}
	for txn, err := range s.Iterate(t.Context(), 0, raidstorage.MaxTID) {
		if err != nil {
			t.Fatal(err)
		}
		for r, err := range txn.Records {
			if err != nil {
				t.Fatal(err)
			}
			delete(all, r.OID.String()+"@"+r.TID.String())
			if r.DataTID != 0 {
				all[r.OID.String()+"@"+r.TID.String()] = r.DataTID.String()
			}
		}
	}
	return all
}

func copyAll(t testing.TB, from, to raidstorage.Storage) {
	t.Helper()
	for txn, err := range from.Iterate(t.Context(), 0, raidstorage.MaxTID) {
		if err != nil {
			t.Fatal(err)
		}
		commit(t, to, txn.Meta, func(out raidstorage.Txn) error {
			for r, err := range txn.Records {
				if err != nil {
					return err
				}
				if err := out.Restore(t.Context(), r); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

func TestUndoAndCommitGoOnInWhatPythonWrote(t *testing.T) {
	t.Parallel()
	path := place(t, "packed.fs", "packed.fs.index")
	s := openFor(t, path, filestorage.Options{})
	log, err := s.UndoLog(t.Context(), 0, 100, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(log) != 6 {
		t.Fatalf("%d transactions can be undone, want the 6 after the pack", len(log))
	}
	undoTxn(t, s, log[1].TID) // "undo both"
	if got := current(t, s, 1); got != "changed" {
		t.Errorf("after undoing the last undo object 1 is %q, want %q", got, "changed")
	}
	put(t, s, 9, "nine")
	_, err = commitErr(t, s, func(txn raidstorage.Txn) error { return raidstorage.Undo(t.Context(), txn, 0x03fb7b0700000000) })
	if _, ok := errors.AsType[*raidstorage.UndoError](err); !ok {
		t.Errorf("undoing a packed transaction gives %v, want *UndoError", err)
	}
}

func current(t testing.TB, s raidstorage.Storage, oid raidstorage.OID) string {
	t.Helper()
	rev, err := s.LoadBefore(t.Context(), oid, raidstorage.MaxTID)
	if err != nil {
		t.Fatal(err)
	}
	return string(rev.Data)
}

// commitErr is commit for what may fail.
func commitErr(t testing.TB, s raidstorage.Storage, stage func(txn raidstorage.Txn) error) (raidstorage.TID, error) {
	t.Helper()
	txn, err := s.Begin(t.Context(), raidstorage.Meta{})
	if err != nil {
		return 0, err
	}
	defer func() { _ = txn.Abort(t.Context()) }()
	if err := stage(txn); err != nil {
		return 0, err
	}
	if _, err := txn.Vote(t.Context()); err != nil {
		return 0, err
	}
	return txn.Finish(t.Context())
}
