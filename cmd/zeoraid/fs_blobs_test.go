package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// blobs makes a FileStorage with one blob and one blob file that belongs to nothing.
func blobs(t testing.TB) (file, dir string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "Data.fs")
	dir = file + ".blobs"
	clock := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s, err := filestorage.Open(t.Context(), file, filestorage.Options{
		BlobDir: dir, Durability: filestorage.NoSync, Clock: func() time.Time { return clock },
	})
	if err != nil {
		t.Fatal(err)
	}
	txn, err := s.Begin(t.Context(), raidstorage.Meta{})
	if err == nil {
		err = raidstorage.StoreBlob(t.Context(), txn, 0, 0, []byte("\x80\x03cZODB.blob\nBlob\nq\x00.\x80\x03N."), strings.NewReader("content"))
	}
	if err == nil {
		_, err = txn.Vote(t.Context())
	}
	var tid raidstorage.TID
	if err == nil {
		tid, err = txn.Finish(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	path, err := s.BlobPath(t.Context(), 0, tid)
	if err == nil {
		err = os.WriteFile(filepath.Join(filepath.Dir(path), "0x05.blob"), nil, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return file, dir
}

func TestCheckShowsWarnings(t *testing.T) {
	t.Parallel()
	file, dir := blobs(t)
	status, out, err := command(t, "fs", "check", "-blob-dir", dir, file)
	orphan := filepath.Join(dir, strings.Repeat("0x00/", 8)+"0x05.blob")
	text := "a blob file that belongs to nothing, " + orphan + ": no record has data of this object and transaction"
	want(t, status, out, err, "\x00", 0, file+": orphan, a warning, oid 0000000000000000, tid 0000000000000005: "+text+"\n"+
		file+": 1 transaction, 1 record, 1 object, 102 bytes: clean, 1 warning\n", "")
	status, out, _ = command(t, "fs", "check", "-json", "-blob-dir", dir, file)
	if status != 0 || !strings.Contains(out, `"kind":"orphan","offset":-1,`) || !strings.Contains(out, `"warning":true`) ||
		!strings.Contains(out, `"findings":0,"warnings":1,`) {
		t.Errorf("status %d: %s", status, out)
	}
}

func TestRecoverTakesBlobs(t *testing.T) {
	t.Parallel()
	file, dir := blobs(t)
	fresh := filepath.Join(t.TempDir(), "Fresh.fs")
	status, out, err := command(t, "fs", "recover", "-blob-dir", dir, "-fresh-blob-dir", fresh+".blobs", file, fresh)
	want(t, status, out, err, "\x00", 0, file+": 1 transaction, 1 record, 1 blob copied to "+fresh+"; 0 findings, 0 bytes lost\n", "")
	if status, out, _ := command(t, "fs", "check", "-blob-dir", fresh+".blobs", fresh); status != 0 || strings.Contains(out, "warning") {
		t.Errorf("the copy: status %d: %s", status, out)
	}
	if status, _, err := command(t, "fs", "recover", "-blob-dir", dir, file, fresh+"2"); status != 3 || !strings.Contains(err, "no directory for the blobs") {
		t.Errorf("without a new directory: status %d: %s", status, err)
	}
}

// The blobs of one file are no orphans in another.
func TestABlobDirectoryIsOfOneFile(t *testing.T) {
	t.Parallel()
	file, dir := blobs(t)
	if status, out, err := command(t, "fs", "check", "-blob-dir", dir, file, file); status != 3 || out != "" || !strings.Contains(err, "usage: zeoraid") {
		t.Errorf("status %d\n%s%s", status, out, err)
	}
}
