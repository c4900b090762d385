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
	"github.com/zeoraid/raidstorage/internal/blobdir"
)

// A blob is mended in two steps. StageBlob takes as long as it takes, and holds no lock:
// it copies the good blob into tmp, makes it durable, and reads it again. Place holds the
// commit lock for a few calls that do not depend on the blob's length: it gives the
// damaged file a second name in the directory "damaged" within the blob directory,
// durably, and then the new file the name of the damaged one. A crash leaves the one or
// the other. Whether a file is still the one that was looked at is told by its stamp.

// damagedBlobs is the directory of what is kept, maxKept files at most. As tmp, it is
// no blob's, to Python and to us.
const damagedBlobs = "damaged"

// stampOf identifies a file and its contents, as far as the system knows of changes.
func stampOf(info fs.FileInfo) string {
	return fmt.Sprintf("%d bytes, changed %d%s", info.Size(), info.ModTime().UnixNano(), identityOf(info))
}

// stamp returns the stamp of the file at path, "" if it is missing in a blob directory
// that is there.
func (d *blobDir) stamp(path string) (string, error) {
	info, err := os.Lstat(path)
	switch {
	case err == nil && !info.Mode().IsRegular():
		return "", &raidstorage.InvalidError{Op: "look at a blob", Reason: path + " is no regular file"}
	case err == nil:
		return stampOf(info), nil
	case !errors.Is(err, fs.ErrNotExist):
		return "", err
	}
	// A directory that is not mounted lacks all of them.
	if _, err := os.Stat(filepath.Join(d.path, blobdir.Marker)); err != nil {
		return "", fmt.Errorf("the blob directory is not there: %w", err)
	}
	return "", nil
}

// BlobStamp implements raidstorage.Mender.
func (s *Storage) BlobStamp(ctx context.Context, oid raidstorage.OID, tid raidstorage.TID) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if err := s.enter(); err != nil {
		return "", err
	}
	defer s.calls.Done()
	if s.blobs == nil {
		return "", &raidstorage.UnsupportedError{Storage: s.path, Capability: "BlobLoader"}
	}
	stamp, err := s.blobs.stamp(s.blobs.file(oid, tid))
	if err != nil {
		return "", s.ioError("look at a blob", err)
	}
	return stamp, nil
}

// stagedMend implements raidstorage.BlobMend.
type stagedMend struct {
	s     *Storage
	oid   raidstorage.OID
	tid   raidstorage.TID
	temp  string
	stamp string // of temp, when it was read
}

// StageBlob implements raidstorage.Mender.
func (s *Storage) StageBlob(ctx context.Context, oid raidstorage.OID, tid raidstorage.TID, good raidstorage.BlobSum, blob io.Reader) (raidstorage.BlobMend, error) {
	if s.blobs == nil {
		return nil, &raidstorage.UnsupportedError{Storage: s.path, Capability: "BlobLoader"}
	}
	t := &txn{s: s} // it stages a blob as a transaction does
	f, err := t.createBlob(ctx, oid)
	if err != nil {
		return nil, err
	}
	m := &stagedMend{s: s, oid: oid, tid: tid, temp: f.Name()}
	if err = t.copyBlob(ctx, oid, f, blob); err == nil {
		err = t.syncBlob(oid, f)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = m.check(ctx, good)
	}
	if err != nil {
		m.Discard()
		return nil, err
	}
	return m, nil
}

// check reads what was staged.
func (m *stagedMend) check(ctx context.Context, good raidstorage.BlobSum) error {
	f, err := os.Open(m.temp)
	if err != nil {
		return m.s.ioError("mend blob", err)
	}
	defer f.Close()
	got, err := raidstorage.SumBlob(ctx, f)
	if err != nil {
		return m.s.ioError("mend blob: read what was staged", err)
	}
	if got != good {
		return &raidstorage.InvalidError{Op: "mend blob", Reason: "what was copied is not what it is to be"}
	}
	info, err := f.Stat()
	if err != nil {
		return m.s.ioError("mend blob", err)
	}
	m.stamp = stampOf(info)
	return nil
}

// Place implements raidstorage.BlobMend.
func (m *stagedMend) Place(ctx context.Context, damaged string) (kept string, err error) {
	s, d := m.s, m.s.blobs
	end, err := s.beginMending(ctx)
	if err != nil {
		return "", err
	}
	defer end()
	if _, err := s.recordIn(ctx, m.oid, m.tid); err != nil {
		return "", err
	}
	final := d.file(m.oid, m.tid)
	for path, want := range map[string]string{final: damaged, m.temp: m.stamp} {
		switch now, err := d.stamp(path); {
		case err != nil:
			return "", s.ioError("mend blob", err)
		case now != want:
			return "", &raidstorage.InvalidError{Op: "mend blob", Reason: path + " is not what it was"}
		}
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if damaged != "" {
		if kept, err = d.keepDamaged(final, m.oid, m.tid); err != nil {
			return "", s.ioError("mend blob: keep what was there", err)
		}
	}
	s.placed.add(m.oid)
	err = d.place(m.oid, func() error { return os.Rename(m.temp, final) })
	s.mended.Add(1)
	if err == nil {
		err = d.syncPath(filepath.Dir(final))
	}
	if err != nil {
		err = s.ioError("mend blob", err)
		s.fail("mending a blob failed", err)
		return kept, err
	}
	s.log.Warn("a damaged blob was mended", "backend", s.path, "oid", m.oid, "tid", m.tid, "kept", kept)
	return kept, nil
}

// Discard implements raidstorage.BlobMend.
func (m *stagedMend) Discard() {
	if m.s.enter() != nil {
		return // the next open removes it
	}
	defer m.s.calls.Done()
	if err := ignoreMissing(os.Remove(m.temp)); err != nil {
		m.s.log.Warn("a temporary blob was not removed", "backend", m.s.path, "err", err)
	}
}

// keepDamaged gives a blob a second name, durably, under which it is kept.
func (d *blobDir) keepDamaged(path string, oid raidstorage.OID, tid raidstorage.TID) (string, error) {
	dir := filepath.Join(d.path, damagedBlobs)
	if err := d.makeDir(dir); err != nil {
		return "", err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	for i := 0; len(entries) < maxKept; i++ {
		kept := filepath.Join(dir, fmt.Sprintf("%v-%v.%d", oid, tid, i))
		err := os.Link(path, kept)
		if errors.Is(err, fs.ErrExist) && i < maxKept {
			continue
		}
		if err != nil {
			return "", err
		}
		return kept, d.syncPath(dir)
	}
	return "", tooManyKept(filepath.Join(dir, "*"))
}
