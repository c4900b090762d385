package filestorage

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/blobdir"
	"github.com/zeoraid/raidstorage/internal/pickleref"
)

// blobSalvage takes blobs over to a new directory.
type blobSalvage struct {
	file    func(raidstorage.OID, raidstorage.TID) string // where a blob was
	survey  *blobSurvey
	fresh   *blobDir
	pending []salvagedBlob // of the transaction being written
}

// salvagedBlob is a blob of a record that is copied.
type salvagedBlob struct {
	blobName
	from    string // empty if it is missing
	missing Finding
}

// newBlobSalvage makes the directory that opts names, with the layout of the old one;
// nil if there are no blobs to look for.
func newBlobSalvage(opts *InspectOptions) (*blobSalvage, error) {
	if opts.FreshBlobDir == "" && opts.BlobDir == "" && opts.BlobFile == nil {
		return nil, nil
	}
	invalid := func(reason string) error { return &raidstorage.InvalidError{Op: "recover", Reason: reason} }
	if opts.FreshBlobDir == "" {
		return nil, invalid("there is no directory for the blobs of the new file")
	}
	b := &blobSalvage{file: opts.BlobFile}
	lawn := false
	if opts.BlobDir != "" {
		old, err := openBlobDir(opts.BlobDir, true, false)
		if err != nil {
			return nil, err
		}
		b.file, b.survey, lawn = old.file, newBlobSurvey(old), old.isLawn()
	}
	if b.file == nil {
		return nil, invalid("there is no directory to take blobs from")
	}
	if err := os.Mkdir(opts.FreshBlobDir, 0o777); err != nil {
		if errors.Is(err, fs.ErrExist) {
			err = errors.Join(invalid(opts.FreshBlobDir+" exists already"), err)
		}
		return nil, err
	}
	err := b.open(opts.FreshBlobDir, lawn)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(opts.FreshBlobDir))
	}
	return b, nil
}

func (b *blobSalvage) open(path string, lawn bool) (err error) {
	if lawn {
		d := blobDir{path: path, sync: true, syncFile: (*os.File).Sync}
		if err := d.mark(blobdir.Lawn); err != nil {
			return err
		}
	}
	b.fresh, err = openBlobDir(path, false, true)
	return err
}

// remove removes the new directory, after an error.
func (b *blobSalvage) remove() error {
	if b == nil {
		return nil
	}
	return os.RemoveAll(b.fresh.path)
}

// blobOf looks for the blob of a record that was copied. Its file is named after the
// transaction; if the two differ, the record may know its name better.
func (s *salvager) blobOf(ctx context.Context, it *item) error {
	b := s.blobs
	name := blobName{it.oid, s.txn.tid}
	if b.survey.mayHave(it.oid) {
		for _, tid := range []raidstorage.TID{s.txn.tid, it.tid} {
			path := b.file(it.oid, tid)
			if path == "" {
				return nil
			}
			_, err := os.Lstat(path)
			if err == nil {
				b.pending = append(b.pending, salvagedBlob{blobName: name, from: path})
				return nil
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	is, err := s.isBlob(ctx, it)
	if is {
		b.pending = append(b.pending, salvagedBlob{blobName: name, missing: Finding{
			Kind: kindBlob, Offset: it.pos, TID: s.txn.tid, OID: it.oid, Object: true,
			Text: "the blob's file is missing; the record was copied without it",
		}})
	}
	return err
}

// isBlob tells whether the class of the record is that of blobs.
func (s *salvager) isBlob(ctx context.Context, it *item) (bool, error) {
	source, bad, err := s.dataOf(ctx, it.recordHeader)
	if bad != "" || err != nil || source.size == 0 || source.size > maxBlobRecord {
		return false, err
	}
	if int(source.size) > cap(s.data) {
		s.data = make([]byte, source.size)
	}
	s.data = s.data[:source.size]
	if err := s.w.read(s.data, source.data()); err != nil {
		return false, err
	}
	return pickleref.IsBlob(s.data), nil
}

// takeBlobs puts the blobs of a transaction that was written into the new directory.
func (s *salvager) takeBlobs() error {
	if s.blobs == nil {
		return nil
	}
	d := s.blobs.fresh
	for _, b := range s.blobs.pending {
		if b.from == "" {
			s.found(b.missing)
			continue
		}
		to := d.file(b.oid, b.tid)
		if err := d.place(b.oid, func() error { return d.link(b.from, to) }); err != nil {
			return err
		}
		if err := d.syncPath(filepath.Dir(to)); err != nil {
			return err
		}
		s.report.Blobs++
	}
	s.blobs.pending = s.blobs.pending[:0]
	return nil
}
