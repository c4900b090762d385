package filestorage_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// Python packed the file, so that the revisions of object 4 are no chain: the one
// that a restored record repeats must be looked for in the log.
func TestRestoreIntoAPackedFileFindsWhatTheRecordRepeats(t *testing.T) {
	t.Parallel()
	s := openFor(t, place(t, "packed.fs", "packed.fs.index"), filestorage.Options{})
	last, err := s.LastTID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := repeats(t, s)["0000000000000004@03fb7b0900000000"]
	if err := s.TruncateAfter(t.Context(), 0x03fb7b0800000000, last); err != nil {
		t.Fatal(err)
	}
	const tid = 0x03fb7b0900000000
	commit(t, s, raidstorage.Meta{TID: tid}, func(txn raidstorage.Txn) error {
		return txn.Restore(t.Context(), raidstorage.Record{OID: 4, TID: tid, Data: []byte("four"), DataTID: 0x03fb7b0100000000})
	})
	if got := repeats(t, s)["0000000000000004@03fb7b0900000000"]; got != want || want == "" {
		t.Errorf("the restored record repeats %q, want %q", got, want)
	}
}

// Without this, transactions that come after a truncation could make an index of
// those before it look right.
func TestTruncationRemovesTheIndex(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "Data.fs")
	s := openFor(t, path, filestorage.Options{})
	first := put(t, s, 1, "one")
	last := put(t, s, 1, "two")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openFor(t, path, filestorage.Options{})
	if _, err := os.Stat(path + ".index"); err != nil {
		t.Fatal(err)
	}
	if err := s.TruncateAfter(t.Context(), first, last); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path + ".index"); !os.IsNotExist(err) {
		t.Errorf("the index is still there (%v)", err)
	}
}

// The sync of the last Finish may have failed: Open must make its status durable
// before anything is written behind it.
func TestOpenMakesTheLastStatusDurable(t *testing.T) {
	t.Parallel()
	path := place(t, "undone.fs", "undone.fs.index")
	d := &disk{check: func(string, []byte) {}}
	s, err := filestorage.OpenWith(t.Context(), path, filestorage.Options{}, func(f filestorage.File) filestorage.File {
		d.File = f
		return d
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if len(d.unsynced) > 0 || len(d.durable) == 0 || d.durable[len(d.durable)-1] != ' ' {
		t.Errorf("Open wrote %q, left %d writes unsynced", bytes.Trim(d.durable, "\x00"), len(d.unsynced))
	}
	if !bytes.Equal(read(t, path), golden(t, "undone.fs")) {
		t.Error("the file changed")
	}
}

// The disk is full: the transaction fails, and the storage goes on.
func TestAFailedVoteLeavesTheFileAsItWas(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "Data.fs")
	plan := &filestorage.FailingFile{At: 1 << 30, Err: syscall.ENOSPC, Once: true, Short: true}
	s, err := filestorage.OpenWith(t.Context(), path, filestorage.Options{}, func(f filestorage.File) filestorage.File {
		plan.File = f
		return plan
	})
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, 1, "one")
	want := read(t, path)
	plan.FailNext()
	_, err = commitErr(t, s, func(txn raidstorage.Txn) error { return txn.Store(t.Context(), 2, 0, []byte("two")) })
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("the vote returns %v, want ENOSPC", err)
	}
	if !bytes.Equal(read(t, path), want) {
		t.Error("a part of the transaction is in the file")
	}
	if got := current(t, s, 1); got != "one" {
		t.Errorf("object 1 is %q", got)
	}
	put(t, s, 2, "two, when there is space again")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
