package zeoserver_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
	"github.com/zeoraid/raidstorage/zeoserver"
)

// A client that shares the blob directory of a file puts its blob there itself: it
// becomes the revision's blob, or is removed with the transaction.
func TestBlobsOfASharedDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := filestorage.Open(context.Background(), filepath.Join(dir, "Data.fs"), filestorage.Options{BlobDir: filepath.Join(dir, "blobs")})
	if err != nil {
		t.Fatal(err)
	}
	c := serve(t, zeoserver.Config{Storages: map[string]raidstorage.Storage{"1": s}}).connect(t)
	folder, err := s.BlobFolder(1)
	if err != nil {
		t.Fatal(err)
	}
	stage := func(txn int64, name string) string {
		t.Helper()
		path := filepath.Join(folder, name)
		if err := errors.Join(os.MkdirAll(folder, 0o700), os.WriteFile(path, []byte(name), 0o600)); err != nil {
			t.Fatal(err)
		}
		c.tpcBegin(txn)
		c.queue("storea", oid(1), tid(0), data(emptyRecord), number(txn))
		c.queue("storeBlobShared", oid(1), tid(0), data(emptyRecord), text(name), number(txn))
		return path
	}

	aborted := stage(1, "one.tmp-")
	c.must("tpc_abort", number(1))
	if _, err := os.Stat(aborted); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file of the aborted transaction stays: %v", err)
	}
	kept := stage(2, "two.tmp")
	c.must("vote", number(2))
	v := c.must("tpc_finish", number(2))
	serial, _ := v.TID()
	if got := c.loadBlob(1, serial); string(got) != "two.tmp" {
		t.Errorf("the blob is %q", got)
	}
	path, err := s.BlobPath(t.Context(), 1, serial)
	if err != nil || filepath.Dir(path) != folder {
		t.Errorf("the blob is at %s (%v), want it in %s", path, err, folder)
	}
	if _, err := os.Stat(kept); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file was copied: %v", err)
	}

	c.tpcBegin(3)
	for _, name := range []string{"", "../x.tmp", "x/y.tmp", `x\y.tmp`, "x.tmp\x00", filepath.Base(path), "x.tmp--"} {
		c.fails(zeowire.ClassValueError, "storeBlobShared", oid(1), tid(0), data(emptyRecord), text(name), number(3))
	}
}
