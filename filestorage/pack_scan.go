package filestorage

import (
	"github.com/zeoraid/raidstorage"
)

// readToPackTime reads the headers of all that is not later than the pack time.
func (p *packer) readToPackTime() error {
	p.rewind()
	p.cur = newIndex()
	var last raidstorage.TID
	var err error
	p.packPos, err = p.transactions(magicLen, p.end, func(h txnHeader) (bool, error) {
		if h.tid > p.through {
			return false, nil
		}
		if h.tid <= last {
			return false, p.s.corrupt(&flaw{pos: h.pos, tid: h.tid, reason: "transaction id is not later than the one before"})
		}
		last = h.tid
		p.unpacked = p.unpacked || h.status != raidstorage.StatusPacked
		if h.status == statusUndone {
			return true, nil // no reader sees it; Python would bring it back
		}
		return true, p.records(h, func(rec recordHeader) error {
			if rec.size != 0 || rec.back != 0 {
				p.cur.set(rec.oid, rec.pos)
			} else {
				p.cur.remove(rec.oid)
			}
			return nil
		})
	})
	return err
}

// redundant tells whether all before packPos is packed and what follows too, or
// nothing follows: by the same rule as Python's buildPackIndex.
func (p *packer) redundant() (bool, error) {
	if p.packPos == p.end {
		return !p.unpacked, nil
	}
	return p.packedLater()
}

// packedLater tells whether the log was packed to a later time.
func (p *packer) packedLater() (bool, error) {
	if p.unpacked || p.packPos == p.end {
		return false, nil
	}
	h, bad, err := p.w.header(p.packPos)
	return h.status == raidstorage.StatusPacked, p.s.check(bad, err)
}

// readLater reads what was written after the pack time, from pos on: which earlier
// records it repeats and, with gc, what it refers to. In the end p.kept and p.marks
// have the roots of what must stay.
func (p *packer) readLater(pos int64) error {
	var batch []entry
	_, err := p.transactions(pos, p.end, func(h txnHeader) (bool, error) {
		if h.status == statusUndone {
			return true, nil
		}
		return true, p.records(h, func(rec recordHeader) error {
			if p.repeats(rec) {
				p.kept[rec.back] += 0 // its place may be known already
				if p.repeated != nil {
					p.repeated[rec.oid] = true
				}
				if p.later != nil {
					p.later.repeats = append(p.later.repeats, entry{rec.oid, rec.back})
				}
			}
			if p.marks == nil || p.decided || rec.size == 0 && (rec.back == 0 || rec.back >= p.packPos) {
				return nil // has no references, or has those of a later record
			}
			batch = append(batch, entry{rec.oid, rec.pos})
			if len(batch) < markBatch {
				return nil
			}
			err := p.follow(batch)
			batch = batch[:0]
			return err
		})
	})
	if err != nil || p.marks == nil || p.decided {
		return err
	}
	return p.follow(batch)
}

// repeats tells whether rec, after the pack time, points to a record before it that
// stays: Python keeps all of those if it collects garbage, else those only that
// were current.
func (p *packer) repeats(rec recordHeader) bool {
	if rec.size != 0 || rec.back == 0 || rec.back >= p.packPos {
		return false
	}
	if p.decided && p.marks != nil && !p.marks.has(rec.oid) {
		return false
	}
	return p.gc || p.cur != nil && p.cur.get(rec.oid) == rec.back
}

// stays tells whether rec, before the pack time, is copied.
func (p *packer) stays(rec recordHeader) bool {
	if p.cur.get(rec.oid) == rec.pos && (p.marks == nil || p.marks.has(rec.oid)) {
		return true
	}
	if len(p.kept) == 0 {
		return false
	}
	_, ok := p.kept[rec.pos]
	return ok
}
