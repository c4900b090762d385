package filestorage_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

func mover(t *testing.T, txn raidstorage.Txn) filestorage.BlobMover {
	t.Helper()
	m, ok := txn.(filestorage.BlobMover)
	if !ok {
		t.Fatal("the transaction is no BlobMover")
	}
	return m
}

func TestAFileIsMovedIntoTheBlobDirectory(t *testing.T) {
	t.Parallel()
	s, _ := tempBlobs(t, filestorage.Options{})
	path := filepath.Join(t.TempDir(), "upload")
	write(t, path, []byte("moved"))
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	tid := commit(t, s, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
		return mover(t, txn).MoveBlob(t.Context(), 1, 0, []byte(blobRecord), path)
	})
	wantBlob(t, s, 1, tid, "moved")
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
	name, err := s.BlobPath(t.Context(), 1, tid)
	if err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(name)
	if err != nil || !os.SameFile(before, after) || after.Mode().Perm() != 0o444 {
		t.Errorf("%v, %v: not the same file, read-only", after, err)
	}
}

func TestAFileThatIsNotStoredStaysWhereItWas(t *testing.T) {
	t.Parallel()
	s, dir := tempBlobs(t, filestorage.Options{})
	folder := t.TempDir()
	path := filepath.Join(folder, "upload")
	write(t, path, []byte("stays"))
	txn := mover(t, begin(t, s, raidstorage.Meta{}))
	for _, wrong := range []struct{ data, path string }{{"", path}, {blobRecord, folder}} {
		err := txn.MoveBlob(t.Context(), 1, 0, []byte(wrong.data), wrong.path)
		wantErr[*raidstorage.InvalidError](t, err)
	}
	broken := errors.New("broken disk")
	filestorage.SetBlobSync(s, func(f *os.File) error {
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			return broken
		}
		return f.Sync()
	})
	if err := txn.MoveBlob(t.Context(), 1, 0, []byte(blobRecord), path); !errors.Is(err, broken) {
		t.Errorf("MoveBlob returned %v", err)
	}
	mustAbort(t, txn)
	if err := txn.MoveBlob(t.Context(), 1, 0, []byte(blobRecord), path); err != nil {
		wantErr[*raidstorage.TxnStateError](t, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm()&0o200 == 0 {
		t.Errorf("%v, %v", info, err)
	}
	if got := filesIn(t, dir); len(got) != 1 {
		t.Errorf("there are %q", got)
	}
}
