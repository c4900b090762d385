package filestorage

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// removeBlobs is the last step of a pack: it removes the blobs of revisions that the
// file had before and has no more. If the old file is kept, they are moved to
// BlobDir.old, where the others get a second name, as in Python, so that the old file
// and that directory are what the database was.
//
// If it is interrupted, blobs stay that nobody needs. It removes no others: those
// that belong to neither file may be of another database.
func (p *packer) removeBlobs() error {
	s := p.s
	if s.blobs == nil || p.out == nil || !p.out.adopted {
		return nil
	}
	names, err := s.blobs.list(p.ctx)
	if err != nil {
		return s.ioError("pack: list the blobs", err)
	}
	if len(names) == 0 { // which spares reading both files
		return p.renewOld()
	}
	before, after := make([]bool, len(names)), make([]bool, len(names))
	if err := p.markBefore(names, before); err != nil {
		return err
	}
	r, err := s.newLogReader(p.ctx)
	if err != nil {
		return err
	}
	defer r.close()
	if err := r.markBlobs(names, after); err != nil {
		return err
	}
	if err := p.renewOld(); err != nil {
		return err
	}
	for i, name := range names {
		if !before[i] {
			continue
		}
		// If transactions were cut off meanwhile, others may have come in their place.
		var failed error
		err := r.step(func() (*flaw, error) {
			failed = s.blobs.discard(name, after[i], !s.dropOld)
			return nil, nil
		})
		if err != nil {
			return err
		}
		if failed != nil {
			return s.ioError("pack: remove a blob", failed)
		}
	}
	return nil
}

// renewOld empties the directory of what this pack removes, if that is kept.
func (p *packer) renewOld() error {
	if p.s.dropOld {
		return nil
	}
	if err := p.s.blobs.makeOld(); err != nil {
		return p.s.ioError("pack: keep the old blobs", err)
	}
	return nil
}

// list returns all blobs, in order of oid and tid.
func (d *blobDir) list(ctx context.Context) ([]blobName, error) {
	var names []blobName
	for name, err := range d.all() {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	slices.SortFunc(names, compareNames)
	return names, nil
}

func compareNames(a, b blobName) int {
	return cmp.Or(cmp.Compare(a.oid, b.oid), cmp.Compare(a.tid, b.tid))
}

// mark sets marks[i] if names[i] is that of the record.
func mark(names []blobName, marks []bool, rec recordHeader) {
	if i, found := slices.BinarySearchFunc(names, blobName{rec.oid, rec.tid}, compareNames); found {
		marks[i] = true
	}
}

// markBefore marks the blobs whose records are in the file that was packed.
func (p *packer) markBefore(names []blobName, marks []bool) error {
	p.rewind()
	_, err := p.transactions(magicLen, p.end, func(h txnHeader) (bool, error) {
		return true, p.records(h, func(rec recordHeader) error {
			mark(names, marks, rec)
			return nil
		})
	})
	return err
}

// markBlobs marks the blobs whose records are in the log.
func (r *logReader) markBlobs(names []blobName, marks []bool) error {
	for pos := int64(magicLen); pos < r.end; {
		h, err := r.header(pos)
		if err != nil {
			return err
		}
		err = r.step(func() (*flaw, error) {
			for pos := h.records(); pos < h.end(); {
				rec, bad, err := r.w.record(pos, h)
				if bad != nil || err != nil {
					return bad, err
				}
				mark(names, marks, rec)
				pos = rec.next()
			}
			return nil, nil
		})
		if err != nil {
			return err
		}
		pos = h.next()
	}
	return nil
}

// old is where what a pack removes is kept.
func (d *blobDir) old() *blobDir {
	return &blobDir{path: d.path + oldSuffix, layout: d.layout, sync: d.sync, making: make(chan struct{}, 1), syncFile: d.syncFile}
}

// makeOld makes the directory for what a pack removes, without what is there of the
// pack before.
func (d *blobDir) makeOld() error {
	old := d.old()
	if err := os.RemoveAll(old.path); err != nil {
		return err
	}
	if err := os.Mkdir(old.path, 0o777); err != nil {
		return err
	}
	return old.mark(old.layout)
}

// discard removes a blob that is not needed any more; keep has it moved to the old
// directory, and one that is needed linked there.
func (d *blobDir) discard(name blobName, needed, keep bool) error {
	from := d.file(name.oid, name.tid)
	if keep {
		to := d.old().file(name.oid, name.tid)
		if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
			return err
		}
		if needed {
			return ignoreMissing(d.link(from, to))
		}
		if err := os.Rename(from, to); err != nil {
			return ignoreMissing(err)
		}
	}
	if needed {
		return nil
	}
	if err := os.Remove(from); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	d.removeEmpty(name.oid)
	return nil
}

// keepBlobs makes blobs that are about to be removed a part of the blob directory at
// path as well, which it makes.
func (d *blobDir) keepBlobs(ctx context.Context, path string, names []blobName) error {
	kept, err := openBlobDir(path, false, d.sync)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		from, to := d.file(name.oid, name.tid), kept.file(name.oid, name.tid)
		if _, err := os.Lstat(from); errors.Is(err, fs.ErrNotExist) {
			continue // it was missing before
		}
		err := kept.place(name.oid, func() error { return kept.link(from, to) })
		if err == nil {
			err = kept.syncPath(filepath.Dir(to))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// dropBlobs removes blobs whose transactions are not in the file any more. What cannot be
// removed is in nobody's way.
func (s *Storage) dropBlobs(names []blobName) {
	for _, name := range names {
		if err := s.blobs.discard(name, false, false); err != nil {
			s.log.Warn("the blob of a transaction that was cut off was not removed", "backend", s.path, "oid", name.oid, "tid", name.tid, "err", err)
		}
	}
}
