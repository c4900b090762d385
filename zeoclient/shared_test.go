package zeoclient_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/internal/blobdir"
	"github.com/zeoraid/raidstorage/storagetest"
	"github.com/zeoraid/raidstorage/zeoclient"
	"github.com/zeoraid/raidstorage/zeoserver"
)

// sharingServer serves a file storage with blobs, and returns how to open it over the
// shared directory.
func sharingServer(t testing.TB, layout string) (zeoclient.Options, string) {
	t.Helper()
	dir := t.TempDir()
	blobs := filepath.Join(dir, "blobs")
	if layout != "" {
		if err := errors.Join(os.Mkdir(blobs, 0o777), os.WriteFile(filepath.Join(blobs, ".layout"), []byte(layout), 0o666)); err != nil {
			t.Fatal(err)
		}
	}
	s, err := filestorage.Open(t.Context(), filepath.Join(dir, "Data.fs"), filestorage.Options{BlobDir: blobs})
	if err != nil {
		t.Fatal(err)
	}
	server, err := zeoserver.New(zeoserver.Config{Storages: map[string]raidstorage.Storage{"1": s}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		if err := errors.Join(server.Close(), <-served, s.Close()); err != nil {
			t.Error(err)
		}
	})
	return zeoclient.Options{Addresses: []string{l.Addr().String()}, TempDir: t.TempDir(), SharedBlobDir: blobs}, blobs
}

// openClosing opens a storage that the test's end closes.
func openClosing(t testing.TB, opts zeoclient.Options) *zeoclient.Storage {
	t.Helper()
	s, err := zeoclient.Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// blobFiles lists the files in a blob directory.
func blobFiles(t testing.TB, dir string) (names []string) {
	t.Helper()
	if err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() && e.Name() != ".layout" {
			rel, _ := filepath.Rel(dir, path)
			names = append(names, filepath.ToSlash(rel))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return names
}

func storeBlob(ctx context.Context, txn raidstorage.Txn, oid raidstorage.OID, content string) error {
	return raidstorage.StoreBlob(ctx, txn, oid, 0, []byte("\x80\x03cZODB.blob\nBlob\n.\x80\x03N."), strings.NewReader(content))
}

// TestBlobsOfASharedDirectory: they come to be where the server looks for them, are read
// from there, and transactions that do not commit leave nothing.
func TestBlobsOfASharedDirectory(t *testing.T) {
	t.Parallel()
	for _, layout := range []string{"", blobdir.Bushy, blobdir.Lawn} {
		opts, dir := sharingServer(t, layout)
		s := openClosing(t, opts)
		ctx := t.Context()
		tid := storagetest.Transact(t, s, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
			return errors.Join(storeBlob(ctx, txn, 7, "replaced"), storeBlob(ctx, txn, 7, "content"), storeBlob(ctx, txn, 8, ""))
		})
		if layout == "" {
			layout = blobdir.Bushy
		}
		want := []string{filepath.ToSlash(blobdir.File(layout, 7, tid)), filepath.ToSlash(blobdir.File(layout, 8, tid))}
		if got := blobFiles(t, dir); strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%s: the directory has %v, want %v", layout, got, want)
		}
		for oid, want := range map[raidstorage.OID]string{7: "content", 8: ""} {
			r, err := s.OpenBlob(ctx, oid, tid)
			if err != nil {
				t.Fatal(err)
			}
			if f, ok := r.(*os.File); !ok || !strings.HasPrefix(f.Name(), dir) {
				t.Errorf("%s: the blob is read from %v", layout, r)
			}
			got, err := io.ReadAll(r)
			if err = errors.Join(err, r.Close()); err != nil || string(got) != want {
				t.Errorf("%s: the blob of %v is %q, %v", layout, oid, got, err)
			}
		}
		if _, err := s.OpenBlob(ctx, 9, tid); raidstorage.Classify(err) != raidstorage.ClassAnswer {
			t.Errorf("%s: a blob that is not there: %v", layout, err)
		}
		for _, vote := range []bool{false, true} {
			txn, err := s.Begin(ctx, raidstorage.Meta{})
			if err == nil {
				err = storeBlob(ctx, txn, 9, "aborted")
			}
			if err == nil && vote {
				_, err = txn.Vote(ctx)
			}
			if err = errors.Join(err, txn.Abort(ctx)); err != nil {
				t.Fatal(err)
			}
		}
		// Nobody waits for the server's abort but the next one who votes.
		txn, err := s.Begin(ctx, raidstorage.Meta{})
		if err == nil {
			_, err = txn.Vote(ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := blobFiles(t, dir); len(got) != 2 {
			t.Errorf("%s: after aborted transactions there are %v", layout, got)
		}
		if err := txn.Abort(ctx); err != nil {
			t.Error(err)
		}
	}
}

// TestABlobThatCannotBeReadLeavesNothing: its reader fails.
func TestABlobThatCannotBeReadLeavesNothing(t *testing.T) {
	t.Parallel()
	opts, dir := sharingServer(t, "")
	s := openClosing(t, opts)
	txn, err := s.Begin(t.Context(), raidstorage.Meta{})
	if err != nil {
		t.Fatal(err)
	}
	bad := errors.New("bad")
	err = raidstorage.StoreBlob(t.Context(), txn, 1, 0, []byte("x"), io.MultiReader(strings.NewReader("half"), failingReader{bad}))
	if !errors.Is(err, bad) {
		t.Errorf("got %v", err)
	}
	if err := txn.Abort(t.Context()); err != nil {
		t.Error(err)
	}
	if got := blobFiles(t, dir); len(got) > 0 {
		t.Errorf("there are %v", got)
	}
}

type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) { return 0, r.err }

// TestDirectoriesThatCannotBeShared: they are refused with the reason, as a failure, so
// that a mirror goes on without the backend and tries again.
func TestDirectoriesThatCannotBeShared(t *testing.T) {
	t.Parallel()
	opts, dir := sharingServer(t, "")
	elsewhere := t.TempDir()
	file := filepath.Join(elsewhere, "file")
	odd := filepath.Join(elsewhere, "odd")
	empty := filepath.Join(elsewhere, "empty")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Mkdir(empty, 0o700), os.Mkdir(odd, 0o700),
		os.WriteFile(filepath.Join(odd, ".layout"), bytes.Repeat([]byte("lawn"), 9), 0o600)); err != nil {
		t.Fatal(err)
	}
	refused := func(what string, err error) {
		t.Helper()
		if _, ok := errors.AsType[*zeoclient.BlobDirError](err); !ok || raidstorage.Classify(err) != raidstorage.ClassFailure {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, path := range map[string]string{
		"missing": filepath.Join(elsewhere, "missing"), "a file": file, "without a layout": empty, "of another layout": odd,
	} {
		bad := opts
		bad.SharedBlobDir = path
		s, err := zeoclient.Open(t.Context(), bad)
		if err == nil {
			_ = s.Close()
		}
		refused(what, err)
	}
	s := openClosing(t, opts)
	ctx := t.Context()
	tid := storagetest.Transact(t, s, raidstorage.Meta{}, func(txn raidstorage.Txn) error { return storeBlob(ctx, txn, 7, "content") })
	// What is no file in the place of a blob.
	path := filepath.Join(dir, blobdir.File(blobdir.Bushy, 7, tid))
	if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
		t.Fatal(err)
	}
	_, err := s.OpenBlob(ctx, 7, tid)
	refused("a directory in the place of a blob", err)
	// The disk with the directory goes.
	if err := os.Rename(dir, dir+"-gone"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the server looks for it, too
		if err := os.Rename(dir+"-gone", dir); err != nil {
			t.Error(err)
		}
	})
	_, err = s.OpenBlob(ctx, 7, tid)
	refused("reading when it is gone", err)
	txn, err := s.Begin(ctx, raidstorage.Meta{})
	if err != nil {
		t.Fatal(err)
	}
	refused("storing when it is gone", storeBlob(ctx, txn, 8, "x"))
	if err := txn.Abort(ctx); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory was made again: %v", err)
	}
}
