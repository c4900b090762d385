package filestorage

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/pickleref"
)

// How a blob is committed with its transaction.
//
//  1. StoreBlob copies it into a file in tmp and makes that durable.
//  2. Vote, when the tid is known, renames the file to its final name and makes the
//     name durable, before the transaction is written. So a transaction on the disk
//     proves that its blobs are there.
//  3. Abort, and a Vote that fails, remove the file again.
//
// A crash before the status is on the disk leaves a file without its transaction.
// Nobody sees it: OpenBlob looks for the revision first. The next pack removes it, or,
// if the same tid comes again, as it may in a mirror, the vote of that transaction.
//
// Undo gives the earlier blob a second name, the one of the new revision: committed
// files never change. Python, which copies it, cannot tell.

var (
	_ raidstorage.BlobLoader = (*Storage)(nil)
	_ raidstorage.BlobTxn    = blobTxn{}
	_ raidstorage.UndoTxn    = blobTxn{}
)

// OpenBlob implements raidstorage.BlobLoader. The blob may be read on when the storage
// is closed or packed.
func (s *Storage) OpenBlob(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID) (io.ReadCloser, error) {
	path, err := s.BlobPath(ctx, oid, serial)
	if err != nil {
		return nil, err
	}
	return s.openBlobFile(path, oid, serial)
}

// BlobFolder returns the directory in which the blobs of oid are, or would be. Programs
// that share the blob directory put files into it that are to be blobs: see BlobMover.
// *raidstorage.UnsupportedError if the storage has no blobs. (ZODB:
// FilesystemHelper.getPathForOID.)
func (s *Storage) BlobFolder(oid raidstorage.OID) (string, error) {
	if s.blobs == nil {
		return "", &raidstorage.UnsupportedError{Storage: s.path, Capability: "BlobLoader"}
	}
	return filepath.Dir(s.blobs.file(oid, 1)), nil
}

// BlobPath returns the path of the file with the blob of the revision of oid that
// transaction serial wrote. The file must not be changed; a pack may remove it.
// *raidstorage.NotFoundError if there is none. (ZODB: loadBlob.)
func (s *Storage) BlobPath(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID) (string, error) {
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
	// First the file: it is the cheaper question.
	path := s.blobs.file(oid, serial)
	if _, err := os.Lstat(path); err != nil {
		return "", s.blobError(err, oid, serial)
	}
	found, err := s.hasRevision(ctx, oid, serial)
	if err == nil && !found {
		found, err = s.logHas(ctx, oid, serial)
	}
	if err == nil && !found {
		err = &raidstorage.NotFoundError{OID: oid, Serial: serial}
	}
	return path, err
}

// logHas tells whether transaction serial is in the log with a record of oid. A pack keeps
// a record that a later one repeats, but not among the object's revisions; who copies the
// log wants its blob all the same.
func (s *Storage) logHas(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID) (bool, error) {
	r, err := s.newLogReader(ctx)
	if err != nil {
		return false, err
	}
	defer r.close()
	pos, err := r.exact(serial)
	if err != nil || pos == 0 {
		return false, err
	}
	records, err := r.lastRecords(pos)
	return slices.ContainsFunc(records, func(rec recordHeader) bool { return rec.oid == oid }), err
}

// hasRevision tells whether transaction serial is finished and wrote oid.
func (s *Storage) hasRevision(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID) (bool, error) {
	sc := s.scratch()
	defer s.scratches.Put(sc)
	for {
		pos, v, err := s.locate(oid, sc)
		if err != nil {
			return false, err
		}
		found, err := v.hasRevision(ctx, oid, pos, serial, sc)
		if !v.leave(sc) {
			return found, err
		}
	}
}

func (v *view) hasRevision(ctx context.Context, oid raidstorage.OID, pos int64, serial raidstorage.TID, sc *scratch) (bool, error) {
	for pos != 0 {
		h, _, err := v.recordAt(pos, v.end, oid, sc.buf[:maxRecordHeaderLen])
		if err != nil || h.tid <= serial {
			return err == nil && h.tid == serial, err
		}
		if err := ctx.Err(); err != nil {
			return false, err
		}
		pos = h.prev
	}
	return false, nil
}

func (s *Storage) openBlobFile(path string, oid raidstorage.OID, serial raidstorage.TID) (io.ReadCloser, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, s.blobError(err, oid, serial)
	}
	return f, nil
}

func (s *Storage) blobError(err error, oid raidstorage.OID, serial raidstorage.TID) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &raidstorage.NotFoundError{OID: oid, Serial: serial}
	}
	return s.ioError("open blob", err)
}

// attachBlob sets rec.OpenBlob if the record has a blob: if its file is there, whatever
// its class, or if its class says so. Then a file that is missing is an error when it
// is opened, not a record without a blob, which a copy would make of it unnoticed.
func (s *Storage) attachBlob(rec *raidstorage.Record, known *blobSurvey) error {
	if s.blobs == nil || rec.Data == nil {
		return nil
	}
	isBlob := pickleref.IsBlob(rec.Data)
	if !isBlob && !known.mayHave(rec.OID) {
		return nil
	}
	oid, tid := rec.OID, rec.TID
	path := s.blobs.file(oid, tid)
	if !isBlob {
		if _, err := os.Lstat(path); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return s.ioError("look for blob", err)
		}
	}
	rec.OpenBlob = func(ctx context.Context) (io.ReadCloser, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := s.enter(); err != nil {
			return nil, err
		}
		defer s.calls.Done()
		return s.openBlobFile(path, oid, tid)
	}
	return nil
}

// blobSurvey spares a reader of the log most questions for files that are not there:
// for each stretch of 256 oids it keeps which of them have a directory. What it
// reads of transactions that were finished before cannot have one that came later.
// It is for one goroutine. nil knows nothing.
type blobSurvey struct {
	dir       *blobDir
	stretches map[raidstorage.OID]*[256 / 8]byte
}

// maxSurvey bounds the memory of a survey to some MB.
const maxSurvey = 1 << 15

func newBlobSurvey(dir *blobDir) *blobSurvey {
	if dir == nil || dir.isLawn() { // a lawn may be one large directory
		return nil
	}
	return &blobSurvey{dir: dir, stretches: make(map[raidstorage.OID]*[256 / 8]byte)}
}

// mayHave returns false only if oid has no blobs.
func (b *blobSurvey) mayHave(oid raidstorage.OID) bool {
	if b == nil {
		return true
	}
	stretch, known := b.stretches[oid>>8]
	if !known {
		entries, err := os.ReadDir(filepath.Dir(filepath.Join(b.dir.path, b.dir.oidDir(oid))))
		if ignoreMissing(err) != nil {
			return true // asking for the file tells what is wrong
		}
		if err != nil && !b.dir.isThere() {
			return true // and is asked for again
		}
		if len(entries) > 0 {
			stretch = new([256 / 8]byte)
		}
		for _, e := range entries {
			if low, ok := parseShortHex(e.Name()); ok && low <= 0xff {
				stretch[low/8] |= 1 << (low % 8)
			}
		}
		if len(b.stretches) >= maxSurvey {
			clear(b.stretches)
		}
		b.stretches[oid>>8] = stretch
	}
	low := byte(oid)
	return stretch != nil && stretch[low/8]&(1<<(low%8)) != 0
}

// add notes that oid is about to get a directory.
func (b *blobSurvey) add(oid raidstorage.OID) {
	if b == nil {
		return
	}
	stretch, known := b.stretches[oid>>8]
	if !known {
		return // it will be looked for
	}
	if stretch == nil {
		stretch = new([256 / 8]byte)
		b.stretches[oid>>8] = stretch
	}
	low := byte(oid)
	stretch[low/8] |= 1 << (low % 8)
}
