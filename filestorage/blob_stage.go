package filestorage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/pickleref"
)

// blobTxn is a transaction of a storage with blobs. It implements
// raidstorage.UndoTxn and raidstorage.BlobTxn.
type blobTxn struct{ *txn }

// stagedBlob is a blob that waits for the vote, durable already.
type stagedBlob struct {
	temp      string // the path of the file
	installed bool   // whether it has its final name now
}

// StoreBlob implements raidstorage.BlobTxn. The blob is never in memory as a whole.
// If it cannot be read, or does not fit on the disk, nothing is staged.
func (t blobTxn) StoreBlob(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID, data []byte, blob io.Reader) error {
	if len(data) == 0 {
		return &raidstorage.InvalidError{Op: "store blob", Reason: "there is no data"}
	}
	return t.stageBlob(ctx, "store blob", change{kind: kindStore, oid: oid, tid: serial}, data, blob)
}

// restoreBlob stages a restored record with a blob.
func (t *txn) restoreBlob(ctx context.Context, c change, record *raidstorage.Record) error {
	if record.Data == nil {
		return &raidstorage.InvalidError{Op: "restore", Reason: "a record without data has no blob"}
	}
	blob, err := record.OpenBlob(ctx)
	if err != nil {
		return fmt.Errorf("open the blob of object %v: %w", c.oid, err)
	}
	err = t.stageBlob(ctx, "restore", c, record.Data, blob)
	return errors.Join(err, blob.Close())
}

func (t *txn) stageBlob(ctx context.Context, op string, c change, data []byte, blob io.Reader) error {
	if t.state != stateOpen {
		return &raidstorage.TxnStateError{Op: op, State: t.state.String()}
	}
	f, err := t.createBlob(ctx, c.oid)
	if err != nil {
		return err
	}
	c.blob = &stagedBlob{temp: f.Name()}
	if err = t.copyBlob(ctx, c.oid, f, blob); err == nil {
		err = t.syncBlob(c.oid, f)
	}
	if closed := f.Close(); err == nil && closed != nil {
		err = t.s.ioError(op, closed)
	}
	if err == nil {
		err = t.stage(ctx, op, c, data)
	}
	if err != nil {
		return errors.Join(err, ignoreMissing(os.Remove(c.blob.temp)))
	}
	t.blobs = append(t.blobs, c.blob)
	return nil
}

// createBlob makes a file for a blob of oid, and the directory where it is to go.
func (t *txn) createBlob(ctx context.Context, oid raidstorage.OID) (*os.File, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := t.s.enter(); err != nil {
		return nil, err
	}
	defer t.s.calls.Done()
	if _, err := t.s.blobs.makeOIDDir(oid); err != nil {
		return nil, t.s.ioError("stage blob", err)
	}
	f, err := os.CreateTemp(t.s.blobs.temp(), blobTempPrefix+"*"+blobTempSuffix)
	if err != nil {
		return nil, t.s.ioError("stage blob", err)
	}
	return f, nil
}

// maxEmptyReads is how often in a row a reader may return nothing.
const maxEmptyReads = 100

// copyBlob copies blob to f. Close of the storage does not wait for the reader, which
// is the caller's.
func (t *txn) copyBlob(ctx context.Context, oid raidstorage.OID, f *os.File, blob io.Reader) error {
	buf := make([]byte, windowSize)
	for empty := 0; ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, readErr := blob.Read(buf)
		if err := t.writeBlob(f, buf[:n]); err != nil {
			return err
		}
		if empty++; n > 0 {
			empty = 0
		} else if empty == maxEmptyReads && readErr == nil {
			readErr = io.ErrNoProgress
		}
		switch {
		case errors.Is(readErr, io.EOF):
			return nil
		case readErr != nil:
			return fmt.Errorf("read the blob of object %v: %w", oid, readErr)
		}
	}
}

func (t *txn) writeBlob(f *os.File, b []byte) error {
	if err := t.s.enter(); err != nil {
		return err
	}
	defer t.s.calls.Done()
	if _, err := f.Write(b); err != nil {
		return t.s.ioError("stage blob", err)
	}
	return nil
}

// syncBlob gives f the permissions that Python gives a blob, those for reading of the
// directory and none for writing, and makes it durable.
func (t *txn) syncBlob(oid raidstorage.OID, f *os.File) error {
	if err := t.s.enter(); err != nil {
		return err
	}
	defer t.s.calls.Done()
	const write, read = 0o222, 0o444
	dir, err := os.Stat(filepath.Join(t.s.blobs.path, t.s.blobs.oidDir(oid)))
	if errors.Is(err, fs.ErrNotExist) { // a pack has removed it, as it is empty
		dir, err = os.Stat(t.s.blobs.path)
	}
	if err == nil {
		var info fs.FileInfo
		if info, err = f.Stat(); err == nil {
			err = f.Chmod(info.Mode().Perm()&^write | dir.Mode().Perm()&read)
		}
	}
	if err == nil && t.s.blobs.sync {
		err = t.s.blobs.syncFile(f)
	}
	if err != nil {
		return t.s.ioError(fmt.Sprintf("stage the blob of object %v", oid), err)
	}
	return nil
}

// dropBlobs removes what was staged and not used.
func (t *txn) dropBlobs() {
	for _, b := range t.blobs {
		if b.installed {
			continue
		}
		if err := ignoreMissing(os.Remove(b.temp)); err != nil {
			t.s.log.Warn("a temporary blob was not removed", "backend", t.s.path, "err", err)
		}
	}
	t.blobs = nil
}

// installBlobs puts the blobs of the transaction in place, durably. The caller holds
// the commit lock.
func (p *pending) installBlobs(ctx context.Context) error {
	if p.t.s.blobs == nil {
		return nil
	}
	for i := range p.records {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := p.installBlob(ctx, &p.records[i]); err != nil {
			return err
		}
	}
	return nil
}

func (p *pending) installBlob(ctx context.Context, r *pendingRecord) error {
	s, d := p.t.s, p.t.s.blobs
	var final string
	var place func() error
	switch {
	case r.blob != nil:
		final = d.file(r.oid, p.tid)
		place = func() error { return os.Rename(r.blob.temp, final) }
	case r.undone != 0 && r.back != 0:
		from, err := p.earlierBlob(ctx, r)
		if err != nil {
			return err
		}
		if from != "" {
			final = d.file(r.oid, p.tid)
			place = func() error { return d.link(from, final) }
		}
	}
	if place == nil {
		if !p.t.chosen {
			return nil // no file can have a tid that is made now
		}
		if !s.placed.mayHave(r.oid) {
			return nil
		}
		return d.removeOrphan(r.oid, p.tid, s)
	}
	s.placed.add(r.oid)
	if err := d.place(r.oid, place); err != nil {
		return s.ioError("vote: put the blob in place", err)
	}
	if r.blob != nil {
		r.blob.installed = true
	}
	p.installed = append(p.installed, blobName{r.oid, p.tid})
	if err := d.syncPath(filepath.Dir(final)); err != nil {
		err = s.ioError("vote: put the blob in place", err)
		if !isFull(err) { // the next sync may say that all is well, and it is not
			s.fail("making a blob durable failed", err)
		}
		return err
	}
	return nil
}

// place calls f, which puts a file into oid's directory. A pack removes empty
// directories at the same time.
func (d *blobDir) place(oid raidstorage.OID, f func() error) error {
	const attempts = 10
	var err error
	for range attempts {
		if err = f(); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if _, err := d.makeOIDDir(oid); err != nil {
			return err
		}
	}
	return err
}

// link gives the blob at from the name to as well. Where the file system has no such
// links, or not for this file, to becomes a copy.
func (d *blobDir) link(from, to string) error {
	err := os.Link(from, to)
	if errors.Is(err, fs.ErrExist) { // left by a crash
		if err = os.Remove(to); err == nil {
			err = os.Link(from, to)
		}
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return d.copyFile(from, to)
}

// copyFile makes to a durable copy of the blob at from; its name is not durable.
func (d *blobDir) copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	out, err := os.CreateTemp(d.temp(), blobTempPrefix+"*"+blobTempSuffix)
	if err != nil {
		return errors.Join(err, in.Close())
	}
	_, err = io.Copy(out, in)
	var info fs.FileInfo
	if err == nil {
		info, err = in.Stat()
	}
	if err == nil {
		err = out.Chmod(info.Mode().Perm())
	}
	if err == nil && d.sync {
		err = d.syncFile(out)
	}
	if err = errors.Join(err, out.Close(), in.Close()); err == nil {
		err = os.Rename(out.Name(), to)
	}
	if err != nil {
		return errors.Join(err, os.Remove(out.Name()))
	}
	return nil
}

// removeOrphan removes a file that a transaction with this tid left, which was never
// committed, so that it does not become part of the one that is.
func (d *blobDir) removeOrphan(oid raidstorage.OID, tid raidstorage.TID, s *Storage) error {
	path := d.file(oid, tid)
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nearly always
	}
	if err == nil {
		err = d.syncPath(filepath.Dir(path))
	}
	if err != nil {
		return s.ioError("vote: remove a blob that belongs to no transaction", err)
	}
	return nil
}

// earlierBlob returns the path of the blob that undoing brings back: that of the
// record that r points to, or of the one that this one repeats, and so on. Empty if
// the object was no blob then; an *UndoError if its blob is missing.
func (p *pending) earlierBlob(ctx context.Context, r *pendingRecord) (string, error) {
	s := p.t.s
	for pos := r.back; ; {
		state, err := s.stateAt(ctx, r.oid, pos, p.pos)
		if err != nil {
			return "", err
		}
		path := s.blobs.file(r.oid, state.tid)
		if _, err = os.Lstat(path); err == nil {
			return path, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", s.ioError("vote: look for the earlier blob", err)
		}
		if state.back == 0 {
			return "", p.mustBeNoBlob(r.undone, state)
		}
		pos = state.back
	}
}

// maxBlobRecord is longer than the record of any blob: it is its class and no state.
const maxBlobRecord = 1 << 10

// mustBeNoBlob returns an error if the revision is that of a blob by its class.
func (p *pending) mustBeNoBlob(undone raidstorage.TID, state objectState) error {
	if state.size > maxBlobRecord {
		return nil
	}
	v := p.t.s.committerView(p.pos)
	data, err := v.bytesAt(state.recordHeader)
	if err == nil && pickleref.IsBlob(data) {
		return &raidstorage.UndoError{TID: undone, OID: state.oid, Reason: "the blob to bring back is missing"}
	}
	return err
}

// removeInstalled removes the blobs of a transaction that is not committed. What
// cannot be removed is in nobody's way.
func (p *pending) removeInstalled() {
	d := p.t.s.blobs
	for _, b := range p.installed {
		if err := ignoreMissing(os.Remove(d.file(b.oid, b.tid))); err != nil {
			p.t.s.log.Warn("the blob of an aborted transaction was not removed", "backend", p.t.s.path, "oid", b.oid, "tid", b.tid, "err", err)
		}
	}
	p.installed = nil
}
