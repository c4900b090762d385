package filestorage

import (
	"errors"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/blobdir"
)

// A blob directory holds one file for each revision with a blob, as Python's ZODB.blob
// lays them out:
//
//	.layout                              the word "bushy" or "lawn", no newline
//	tmp/                                 files that are not part of a transaction yet
//	0x00/0x00/.../0x00/0x2a/0x03f1.blob  bushy: one level for each byte of the oid
//	0x2a/0x03f1.blob                     lawn: one level for each oid
//
// In names of files, and of directories in a lawn, an oid or tid has no leading zero
// bytes. Files are never changed once they have their name: they are written in tmp,
// made durable, and renamed. Python marks them read-only, and so does this package.
const (
	blobTempDir = "tmp"
	// Our files in tmp are told from those of Python by their names.
	blobTempPrefix = "raidstorage-"
	blobTempSuffix = ".tmp"
)

// blobDir is an open blob directory. All methods may be called from any goroutine.
type blobDir struct {
	path   string
	layout string // blobdir's
	sync   bool
	// making is held by the one who makes directories: who finds one made may rely on
	// its being durable.
	making chan struct{}
	// syncFile makes a file, or the names in a directory, durable. Tests put others in
	// its place.
	syncFile func(*os.File) error
}

// openBlobDir opens the blob directory at path, or makes it. A read-only one must
// exist and is not changed.
func openBlobDir(path string, readOnly, sync bool) (*blobDir, error) {
	path = filepath.Clean(path) // names beside it are made by appending
	layout, marked, err := blobdir.LayoutOf(path)
	if err != nil && (readOnly || !errors.Is(err, fs.ErrNotExist)) {
		return nil, err
	}
	d := &blobDir{path: path, layout: layout, sync: sync, making: make(chan struct{}, 1), syncFile: (*os.File).Sync}
	if readOnly {
		return d, nil
	}
	if err := os.MkdirAll(path, 0o777); err != nil {
		return nil, err
	}
	if !marked { // before tmp, which would make an unmarked directory look like a lawn
		if err := d.mark(layout); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(d.temp(), 0o777); err != nil {
		return nil, err
	}
	if err := d.syncPath(filepath.Dir(path)); err != nil {
		return nil, err
	}
	return d, d.removeTemps()
}

// mark writes the marker, in one step: an empty one would make Python fail.
func (d *blobDir) mark(layout string) error {
	f, err := os.OpenFile(filepath.Join(d.path, blobdir.Marker+blobTempSuffix), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return err
	}
	_, err = f.WriteString(layout)
	if err == nil && d.sync {
		err = d.syncFile(f)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(d.path, blobdir.Marker))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return d.syncPath(d.path)
}

func (d *blobDir) isLawn() bool { return d.layout == blobdir.Lawn }

// isThere tells whether the directory is there: what it is mounted on may be gone for a
// while.
func (d *blobDir) isThere() bool {
	_, err := os.Lstat(filepath.Join(d.path, blobdir.Marker))
	return err == nil
}

func (d *blobDir) temp() string { return filepath.Join(d.path, blobTempDir) }

// removeTemps removes our temporary files that a crash, or Close, left. The caller
// holds the lock of the data file, so nobody writes to them. Python's stay: a client
// that shares the directory may still work on one.
func (d *blobDir) removeTemps() error {
	entries, err := os.ReadDir(d.temp())
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), blobTempPrefix) && strings.HasSuffix(e.Name(), blobTempSuffix) {
			errs = append(errs, ignoreMissing(os.Remove(filepath.Join(d.temp(), e.Name()))))
		}
	}
	return errors.Join(errs...)
}

// oidDir returns the path of the directory with oid's blobs, relative to the blob
// directory.
func (d *blobDir) oidDir(oid raidstorage.OID) string { return blobdir.Folder(d.layout, oid) }

// file returns the path of the blob of the revision of oid that tid wrote.
func (d *blobDir) file(oid raidstorage.OID, tid raidstorage.TID) string {
	return filepath.Join(d.path, d.relative(oid, tid))
}

func (d *blobDir) relative(oid raidstorage.OID, tid raidstorage.TID) string {
	return blobdir.File(d.layout, oid, tid)
}

// parseShortHex reads what blobdir.ShortHex wrote, strictly: another spelling would be
// another file.
func parseShortHex(s string) (v uint64, ok bool) {
	digits, ok := strings.CutPrefix(s, "0x")
	if !ok || len(digits) == 0 || len(digits) > 16 {
		return 0, false
	}
	id, err := raidstorage.ParseTID(digits)
	return uint64(id), err == nil && blobdir.ShortHex(id.Bytes()) == s
}

// blobName identifies a blob file.
type blobName struct {
	oid raidstorage.OID
	tid raidstorage.TID
}

// all yields the blob files, in no certain order. Those that come or go meanwhile may
// be left out. After an error it stops. What has another name than a blob is passed
// over.
func (d *blobDir) all() iter.Seq2[blobName, error] {
	levels := 8
	if d.isLawn() {
		levels = 1
	}
	return func(yield func(blobName, error) bool) { d.walk(d.path, 0, levels, yield) }
}

// walk yields what is in dir, which is levels above its blobs and stands for the
// beginning oid of their oids.
func (d *blobDir) walk(dir string, oid raidstorage.OID, levels int, yield func(blobName, error) bool) bool {
	entries, err := os.ReadDir(dir)
	if ignoreMissing(err) != nil {
		yield(blobName{}, err)
		return false
	}
	for _, e := range entries {
		name := e.Name()
		if levels == 0 {
			short, blob := strings.CutSuffix(name, blobdir.Suffix)
			if tid, ok := parseShortHex(short); ok && blob && !yield(blobName{oid, raidstorage.TID(tid)}, nil) {
				return false
			}
			continue
		}
		part, ok := parseShortHex(name)
		if !ok || !e.IsDir() || !d.isLawn() && part > 0xff {
			continue
		}
		if !d.walk(filepath.Join(dir, name), oid<<8|raidstorage.OID(part), levels-1, yield) {
			return false
		}
	}
	return true
}

// makeOIDDir makes the directory for oid's blobs, durably, and returns its path.
func (d *blobDir) makeOIDDir(oid raidstorage.OID) (string, error) {
	d.making <- struct{}{}
	defer func() { <-d.making }()
	path := filepath.Join(d.path, d.oidDir(oid))
	return path, d.makeDir(path)
}

// makeDir makes path and what is missing above it, and their names durable.
func (d *blobDir) makeDir(path string) error {
	err := os.Mkdir(path, 0o777)
	if errors.Is(err, fs.ErrNotExist) {
		if err := d.makeDir(filepath.Dir(path)); err != nil {
			return err
		}
		err = os.Mkdir(path, 0o777)
	}
	switch {
	case err == nil:
		return d.syncPath(filepath.Dir(path))
	case errors.Is(err, fs.ErrExist):
		return nil
	}
	return err
}

// syncPath makes the names in the directory at path durable.
func (d *blobDir) syncPath(path string) error {
	if !d.sync {
		return nil
	}
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	err = ignoreUnsupportedSync(d.syncFile(dir))
	return errors.Join(err, dir.Close())
}

// removeEmpty removes the directories of oid that hold nothing. Whoever is about to
// put a blob into one finds it missing and makes it again.
func (d *blobDir) removeEmpty(oid raidstorage.OID) {
	for rel := d.oidDir(oid); rel != "."; rel = filepath.Dir(rel) {
		if os.Remove(filepath.Join(d.path, rel)) != nil { // not empty, or gone
			return
		}
	}
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
