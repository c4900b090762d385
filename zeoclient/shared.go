package zeoclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/blobdir"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// A blob directory that is shared with the server (ZEO's shared_blob_dir): blobs do not
// go through the connection. A new one is written beside those of its object, under a
// name that ends with ".tmp", made durable, and named to the server with storeBlobShared;
// the server renames it when the transaction votes, and removes it when the transaction
// aborts. Whoever is killed before leaves such a file; nothing reads it.
//
// What is not in the directory, or of a transaction that the server has not told of, is
// asked for at the server: only it knows whether there is such a blob.

// BlobDirError says that the blob directory which is to be shared with the server cannot
// be used. It is a failure in the sense of raidstorage.Classify.
type BlobDirError struct {
	Dir    string
	Reason string // may be empty
	Err    error  // may be nil
}

func (e *BlobDirError) Error() string {
	text := "shared blob directory " + e.Dir + ":"
	if e.Reason != "" {
		text += " " + e.Reason
	}
	if e.Err != nil {
		text = fmt.Sprintf("%s %v", text, e.Err)
	}
	return text
}

// Unwrap returns the reason, unless that is no failure by itself.
func (e *BlobDirError) Unwrap() error {
	if e.Err == nil || raidstorage.Classify(e.Err) != raidstorage.ClassFailure {
		return nil
	}
	return e.Err
}

// sharedDir is a blob directory of the server.
type sharedDir struct {
	path   string
	layout string
}

// openShared looks at the directory, which the server has made: it has its marker.
func openShared(path string) (*sharedDir, error) {
	path = filepath.Clean(path)
	layout, marked, err := blobdir.LayoutOf(path)
	if err == nil && !marked {
		return nil, &BlobDirError{Dir: path, Reason: "it has no file " + blobdir.Marker + ", so it is none that a server has made"}
	}
	if err != nil {
		return nil, &BlobDirError{Dir: path, Err: err}
	}
	return &sharedDir{path, layout}, nil
}

// create copies a blob into a new file for oid, durably.
func (d *sharedDir) create(ctx context.Context, oid raidstorage.OID, blob io.Reader) (*os.File, error) {
	if _, err := openShared(d.path); err != nil {
		return nil, err // it is not there any more, and must not be made again
	}
	file, err := d.createFile(filepath.Join(d.path, blobdir.Folder(d.layout, oid)))
	if err != nil {
		return nil, &BlobDirError{Dir: d.path, Err: err}
	}
	_, err = io.Copy(file, &contextReader{ctx: ctx, r: blob})
	if err == nil {
		err = file.Sync() // the server only renames it
	}
	if err != nil {
		_ = discard(file)
		return nil, err
	}
	return file, nil
}

// createTries is how often a folder may go, as it is empty, while a file is made in it.
const createTries = 10

// createFile makes a file with a name that the server takes. Its permissions are those
// that the process gives to new files, as the server may be another user.
func (d *sharedDir) createFile(folder string) (file *os.File, err error) {
	for range createTries {
		if err = os.MkdirAll(folder, 0o777); err != nil {
			return nil, err
		}
		name := filepath.Join(folder, fmt.Sprintf("raidstorage-%016x.tmp", rand.Uint64()))
		file, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
		if err == nil || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) {
			break
		}
	}
	return file, err
}

// open opens a blob; nil if it is not there.
func (d *sharedDir) open(oid raidstorage.OID, serial raidstorage.TID) (*os.File, error) {
	path := filepath.Join(d.path, blobdir.File(d.layout, oid, serial))
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		_, err := openShared(d.path)
		return nil, err
	}
	if err == nil && !info.Mode().IsRegular() { // a pipe would block
		return nil, &BlobDirError{Dir: d.path, Reason: path + " is no file"}
	}
	var file *os.File
	if err == nil {
		file, err = os.Open(path)
	}
	if err != nil {
		return nil, &BlobDirError{Dir: d.path, Err: err}
	}
	return file, nil
}

// keepBlob copies a blob to where it waits for the vote.
func (t *txn) keepBlob(ctx context.Context, oid raidstorage.OID, blob io.Reader) (*os.File, error) {
	if t.s.shared == nil {
		return t.s.spool(ctx, blob)
	}
	return t.s.shared.create(ctx, oid, blob)
}

// nameBlob tells the server where a blob is that it shares.
func (t *txn) nameBlob(ctx context.Context, o *op) error {
	return t.c.send(ctx, func(w *zeowire.Writer) error {
		return w.Message(zeowire.AsyncCall(zeowire.StoreBlobShared, zeowire.OID(o.oid), zeowire.TID(o.tid),
			zeowire.Bytes(o.data), zeowire.Text(filepath.Base(o.blob.Name())), zeowire.Int(t.id)))
	})
}
