package filestorage

import (
	"context"
	"errors"
	"os"

	"github.com/zeoraid/raidstorage"
)

// BlobMover is what the transactions of a Storage with a BlobDir are besides.
type BlobMover interface {
	raidstorage.BlobTxn
	// MoveBlob is StoreBlob with the file at path, which is moved, not copied, where it
	// is on the file system of the blob directory. Once MoveBlob has returned nil, the
	// file belongs to the transaction, and is gone if that aborts; nobody may write to
	// it any more. After an error it is where it was. *raidstorage.InvalidError if it
	// is not a regular file. (ZODB: storeBlob.)
	MoveBlob(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID, data []byte, path string) error
}

var _ BlobMover = blobTxn{}

// MoveBlob implements BlobMover.
func (t blobTxn) MoveBlob(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID, data []byte, path string) error {
	if t.state != stateOpen {
		return &raidstorage.TxnStateError{Op: "move blob", State: t.state.String()}
	}
	if len(data) == 0 {
		return &raidstorage.InvalidError{Op: "move blob", Reason: "there is no data"}
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return &raidstorage.InvalidError{Op: "move blob", Reason: path + " is not a regular file"}
	}
	f, err := t.createBlob(ctx, oid) // for its name
	if err != nil {
		return err
	}
	temp := f.Name()
	err = f.Close()
	if err == nil {
		err = os.Rename(path, temp)
	}
	if err != nil { // on another file system
		return errors.Join(ignoreMissing(os.Remove(temp)), t.copyAndRemove(ctx, oid, serial, data, path))
	}
	c := change{kind: kindStore, oid: oid, tid: serial, blob: &stagedBlob{temp: temp}}
	if err = t.syncMoved(oid, temp); err == nil {
		err = t.stage(ctx, "move blob", c, data)
	}
	if err != nil {
		return errors.Join(err, os.Rename(temp, path), os.Chmod(path, info.Mode().Perm()))
	}
	t.blobs = append(t.blobs, c.blob)
	return nil
}

func (t blobTxn) syncMoved(oid raidstorage.OID, temp string) error {
	f, err := os.Open(temp)
	if err != nil {
		return err
	}
	return errors.Join(t.syncBlob(oid, f), f.Close())
}

func (t blobTxn) copyAndRemove(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID, data []byte, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	err = t.StoreBlob(ctx, oid, serial, data, f)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		t.s.log.Warn("a blob that was copied could not be removed", "backend", t.s.path, "oid", oid, "err", err)
	}
	return nil
}
