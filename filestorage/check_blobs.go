package filestorage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/blobdir"
)

// blobCheck looks for files in a blob directory that belong to nothing in the log. A
// crash leaves some, see blob.go, and they are in nobody's way; but who finds many,
// or old ones, may want to know. The directory is listed before the log is read: what
// comes later belongs to a transaction that comes later.
type blobCheck struct {
	dir   *blobDir
	names []blobName // in order
	used  []bool
	temps []string // paths
}

// listBlobs lists the blob directory at path. live says that others may be at work in
// it, and so that temporary files are theirs.
func listBlobs(ctx context.Context, path string, live bool) (*blobCheck, error) {
	dir, err := openBlobDir(path, true, false)
	if err != nil {
		return nil, err
	}
	b := &blobCheck{dir: dir}
	if !live {
		if b.temps, err = dir.temps(); err != nil {
			return nil, err
		}
	}
	if b.names, err = dir.list(ctx); err != nil {
		return nil, err
	}
	b.used = make([]bool, len(b.names))
	return b, nil
}

// temps returns the paths of the temporary files of the directory, Python's too.
func (d *blobDir) temps() (paths []string, err error) {
	entries, err := os.ReadDir(d.temp())
	if ignoreMissing(err) != nil {
		return nil, err
	}
	for _, e := range entries {
		paths = append(paths, filepath.Join(d.temp(), e.Name()))
	}
	marker := filepath.Join(d.path, blobdir.Marker+blobTempSuffix)
	if _, err := os.Lstat(marker); err == nil {
		paths = append(paths, marker)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return paths, nil
}

// dataTemps returns the paths of the files beside the data file at path that a pack or
// a save of the index makes and that a crash may leave.
func dataTemps(path string) (paths []string, err error) {
	for _, suffix := range []string{packSuffix, packIndexTemp, indexTemp} {
		switch _, err := os.Lstat(path + suffix); {
		case err == nil:
			paths = append(paths, path+suffix)
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	return paths, nil
}

// use notes that rec has data, which may be those of a blob.
func (b *blobCheck) use(rec recordHeader) {
	if b != nil && (rec.size > 0 || rec.back != 0) {
		mark(b.names, b.used, rec)
	}
}

// leftovers reports, as warnings, the files that belong to nothing. last is the tid of
// the last transaction.
func (c *checker) leftovers(ctx context.Context, last raidstorage.TID) error {
	for _, path := range c.temps {
		c.warn(Finding{Kind: kindTemporary, Offset: -1, Text: "a temporary file that is left: " + path})
	}
	b := c.blobs
	if b == nil {
		return nil
	}
	reason := "no record has data of this object and transaction"
	if c.report.LostBytes > 0 {
		reason += "; the damaged part of the file may"
	}
	for i, name := range b.names {
		if b.used[i] || c.opts.Live && name.tid > last {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		path := b.dir.file(name.oid, name.tid)
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			continue // its transaction was aborted meanwhile, or a pack removed it
		}
		c.warn(Finding{Kind: kindOrphan, Offset: -1, OID: name.oid, Object: true, TID: name.tid,
			Text: fmt.Sprintf("a blob file that belongs to nothing, %s: %s", path, reason)})
	}
	return nil
}
