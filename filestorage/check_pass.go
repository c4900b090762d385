package filestorage

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/pickleref"
)

// checker reads the file twice. The first pass looks at the structure and learns
// where the current record of each object is, and which objects cannot be loaded. The
// second one reads the data, which may refer to objects that come later in the file.
type checker struct {
	*inspection
	index      *index // the current records
	pointers   *index // those of them that have no data of their own
	unloadable *index // objects that cannot be loaded, with a reason as their position
	saved      *index // of the index file; nil if there is none
	savedEnd   int64
	compared   bool // saved was compared with index
	blobs      *blobCheck
	temps      []string // temporary files beside the data file

	pickles pickleref.Scanner
	refs    []raidstorage.OID
	data    []byte
}

// Reasons in unloadable. 0 is for objects that are not there.
const (
	reasonUndone = iota + 1
	reasonBroken
)

// structure is the first pass.
func (c *checker) structure(ctx context.Context) error {
	for pos := int64(magicLen); pos < c.end; {
		if pos >= c.savedEnd {
			c.compareIndex(pos)
		}
		p, err := c.walker.next(ctx, pos)
		if err != nil {
			return err
		}
		switch {
		case !p.whole:
			c.report.LostBytes += p.next - p.pos
		case p.tail:
		default:
			c.report.Transactions++
			if err := c.records(ctx, &p); err != nil {
				return err
			}
		}
		pos = p.next
		c.progress(0, pos)
	}
	c.compareIndex(c.end)
	return nil
}

// records checks the records of p and enters them into the index.
func (c *checker) records(ctx context.Context, p *piece) error {
	if p.status == statusUndone {
		return nil // all readers pass over it
	}
	pos, err := c.firstItem(ctx, p)
	for err == nil && pos < p.end() {
		var it item
		if it, err = c.item(ctx, pos, p); err != nil {
			break
		}
		pos = it.next
		if it.garbage {
			c.report.LostBytes += it.next - it.pos
			continue
		}
		c.report.Records++
		c.blobs.use(it.recordHeader)
		err = c.pointersOf(&it, p)
		c.index.set(it.oid, it.pos)
		switch {
		case it.size == 0:
			c.pointers.set(it.oid, it.pos)
		case c.pointers.count > 0:
			c.pointers.remove(it.oid)
		}
	}
	return err
}

// pointersOf checks where the record points.
func (c *checker) pointersOf(it *item, p *piece) error {
	if !it.badPrev {
		ok, err := c.goodPrevious(it, p)
		if err != nil {
			return err
		}
		if !ok {
			c.itemFinding(it, p, kindPrevious, fmt.Sprintf("pointer to the previous record is %d, and should be %d",
				it.prev, c.index.get(it.oid)))
		}
	}
	if it.back == 0 {
		return nil
	}
	_, bad, err := c.headerAt(it.back, it.oid, it.tid)
	if bad != "" {
		c.itemFinding(it, p, kindBack, fmt.Sprintf("back pointer to %d: %s", it.back, bad))
		it.badBack = true
	}
	return err
}

// goodPrevious tells whether the pointer to the previous record is what a FileStorage
// writes: the object's last record, 0 where a pack wrote it. Several records of an
// object in one transaction may all point to the one before.
func (c *checker) goodPrevious(it *item, p *piece) (bool, error) {
	cur := c.index.get(it.oid)
	if it.prev == cur || it.prev == 0 && p.status == raidstorage.StatusPacked {
		return true, nil
	}
	for cur > p.pos && it.prev < cur { // within the transaction
		rec, bad, err := c.headerAt(cur, it.oid, raidstorage.MaxTID)
		if bad != "" || err != nil {
			return false, err
		}
		if cur = rec.prev; it.prev == cur {
			return true, nil
		}
	}
	return false, nil
}

// resolvePointers finds the objects that cannot be loaded: deleted ones, those whose
// creation was undone, and those whose data the pointers do not reach.
func (c *checker) resolvePointers(ctx context.Context) error {
	c.pointers.sort()
	for e := range c.pointers.from(0) {
		rec, bad, err := c.current(ctx, e)
		if err != nil {
			return err
		}
		switch {
		case bad != "":
			c.unloadable.set(e.oid, reasonBroken)
		case rec.size == 0:
			c.unloadable.set(e.oid, reasonUndone)
		}
	}
	return nil
}

// current returns the record with the data of the record at e.
func (c *checker) current(ctx context.Context, e entry) (recordHeader, string, error) {
	rec, bad, err := c.headerAt(e.pos, e.oid, raidstorage.MaxTID)
	if bad != "" || err != nil {
		return rec, bad, err
	}
	return c.dataOf(ctx, rec)
}

// contents is the second pass.
func (c *checker) contents(ctx context.Context) error {
	c.last = 0
	tell := c.found
	silent := func(Finding) {} // the first pass has told what the walker finds
	for pos := int64(magicLen); pos < c.end; {
		c.found = silent
		p, err := c.walker.next(ctx, pos)
		if err != nil {
			return err
		}
		if p.whole && !p.tail && p.status != statusUndone {
			at, err := c.firstItem(ctx, &p)
			for err == nil && at < p.end() {
				var it item
				c.found = silent
				if it, err = c.item(ctx, at, &p); err == nil && !it.garbage {
					c.found = tell
					err = c.content(ctx, &it, &p)
				}
				at = it.next
			}
			if err != nil {
				return err
			}
		}
		pos = p.next
		c.progress(1, pos)
	}
	c.found = tell
	return nil
}

// content checks what a record holds: its own data, and, if it is current or may be
// a blob's, the data that it points to.
func (c *checker) content(ctx context.Context, it *item, p *piece) error {
	current := c.index.get(it.oid) == it.pos
	rec := it.recordHeader
	if it.size == 0 {
		if it.badBack || it.back == 0 || !current && c.opts.BlobFile == nil {
			return nil
		}
		var bad string
		var err error
		if rec, bad, err = c.dataOf(ctx, rec); bad != "" || err != nil || rec.size == 0 {
			return err
		}
	}
	if rec.size > maxData {
		return nil
	}
	err := c.load(rec)
	if err != nil {
		return err
	}
	if !c.opts.Opaque {
		c.refs, err = c.pickles.References(c.refs[:0], c.data)
		switch {
		case err == nil && current:
			c.dangling(it, p)
		case err != nil && it.size > 0:
			c.itemFinding(it, p, kindPickle, err.Error())
		}
	}
	if c.opts.BlobFile != nil && pickleref.IsBlob(c.data) {
		if path := c.opts.BlobFile(it.oid, it.tid); path != "" {
			if _, err := os.Stat(path); err != nil {
				c.itemFinding(it, p, kindBlob, "the blob's file is missing: "+err.Error())
			}
		}
	}
	return nil
}

// maxData is the longest data that are looked at; pickleref reads no longer ones.
const maxData = 1 << 30

// load reads the data of rec into c.data.
func (c *checker) load(rec recordHeader) error {
	n := int(rec.size)
	if n > cap(c.data) {
		c.data = make([]byte, n)
	}
	c.data = c.data[:n]
	return c.w.read(c.data, rec.data())
}

// dangling reports the references in c.refs to objects that cannot be loaded.
func (c *checker) dangling(it *item, p *piece) {
	slices.Sort(c.refs)
	for _, ref := range slices.Compact(c.refs) {
		text := ""
		switch {
		case c.index.get(ref) == 0:
			text = "does not exist"
		case c.unloadable.get(ref) == reasonUndone:
			text = "was deleted, or its creation undone"
		case c.unloadable.get(ref) == reasonBroken:
			text = "cannot be loaded"
		default:
			continue
		}
		c.itemFinding(it, p, kindDangling, fmt.Sprintf("refers to object %v, which %s", ref, text))
	}
}
