package filestorage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/zeoraid/raidstorage"
)

// readIndexFile reads the index file of the storage at path: no index if there is
// none.
func readIndexFile(path string) (x *index, end int64, err error) {
	f, err := os.Open(path + indexSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	return readIndex(f, info.Size())
}

// maxIndexFindings bounds how many objects are named that the index file has
// elsewhere: if it is that of another file, these may be all.
const maxIndexFindings = 100

// compareIndex compares the index file with the index of all before pos, where a
// transaction begins. It does so once, at the first pos that the file covers.
func (c *checker) compareIndex(pos int64) {
	if c.saved == nil || c.compared {
		return
	}
	c.compared = true
	found := func(oid raidstorage.OID, at int64, text string) {
		c.found(Finding{Kind: kindIndex, Offset: at, OID: oid, Object: true, Text: text})
	}
	if pos != c.savedEnd {
		c.found(Finding{Kind: kindIndex, Offset: c.savedEnd, Text: fmt.Sprintf("the index file ends at %d, where no transaction ends", c.savedEnd)})
		if pos < c.savedEnd {
			c.saved = nil
			return // it is that of a longer file
		}
	}
	n := 0
	c.saved.sort()
	for e := range c.saved.from(0) {
		if at := c.index.get(e.oid); at != e.pos {
			if n++; n <= maxIndexFindings {
				found(e.oid, at, fmt.Sprintf("the index file has the object at %d, its current record is at %d", e.pos, at))
			}
		}
	}
	c.index.sort()
	for e := range c.index.from(0) {
		if c.saved.get(e.oid) == 0 {
			if n++; n <= maxIndexFindings {
				found(e.oid, e.pos, "the index file lacks the object")
			}
		}
	}
	if n > maxIndexFindings {
		c.found(Finding{Kind: kindIndex, Offset: -1, Text: fmt.Sprintf("the index file is wrong for %d more objects", n-maxIndexFindings)})
	}
	c.saved = nil // its memory can go
}
