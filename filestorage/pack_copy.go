package filestorage

import (
	"bytes"
	"encoding/binary"
	"io"
	"sort"

	"github.com/zeoraid/raidstorage"
)

// shift says that records at from and later, until the next shift, are by bytes
// later in the new file. It changes where a pointer becomes the data itself.
type shift struct{ from, by int64 }

// copyPiece is the most that is copied at a time of a long record.
const copyPiece = packBuffer / 4

// copyToPackTime writes what stays of the transactions up to the pack time. Its
// records have no pointers: neither to previous ones, which are gone, nor to data.
func (p *packer) copyToPackTime() error {
	b, err := p.w.at(0, magicLen)
	if err != nil {
		return p.s.ioError("read", err)
	}
	p.out.write(b)
	p.entries = p.entries[:0]
	_, err = p.transactions(magicLen, p.packPos, func(h txnHeader) (bool, error) {
		if h.status == statusUndone {
			return true, nil
		}
		return true, p.copyPacked(h)
	})
	p.newPack = p.out.pos()
	p.shifts = append(p.shifts[:0], shift{p.packPos, p.newPack - p.packPos})
	if p.marks != nil {
		p.cur.intersect(p.marks)
	}
	for _, e := range p.entries {
		p.cur.set(e.oid, e.pos)
	}
	p.index, p.cur = p.cur, nil
	return err
}

// intersect forgets the objects that are not reachable.
func (x *index) intersect(m *marks) {
	x.count = 0
	for key, p := range x.pages {
		reached, kept, rank := m.pages[key].reached, 0, 0
		for word, present := range p.present {
			for ; present != 0; present &= present - 1 {
				if reached[word]&present&-present != 0 {
					copy(p.packed[kept*posBytes:][:posBytes], p.packed[rank*posBytes:])
					kept++
				}
				rank++
			}
			p.present[word] &= reached[word]
		}
		p.packed = p.packed[:kept*posBytes]
		x.count += kept
	}
	x.count += x.sparse.filter(m.has)
}

// copyPacked copies what stays of a transaction up to the pack time, if anything. The
// index of the records that were current becomes that of the new file on the way: a
// record that was current is the object's last one here, so its old place is not
// needed any more.
func (p *packer) copyPacked(h txnHeader) error {
	var newTxn int64
	err := p.records(h, func(rec recordHeader) error {
		if !p.stays(rec) {
			return nil
		}
		if newTxn == 0 {
			var err error
			if newTxn, err = p.copyHeader(h, raidstorage.StatusPacked); err != nil {
				return err
			}
		}
		source, err := p.dataSource(rec)
		if err != nil {
			return err
		}
		pos := p.out.pos()
		if len(p.kept) > 0 {
			if _, later := p.kept[rec.pos]; later {
				p.kept[rec.pos] = pos
			}
		}
		switch {
		case p.marks != nil && !p.marks.has(rec.oid):
			p.entries = append(p.entries, entry{rec.oid, pos}) // stays for a later record only
		case p.cur.get(rec.oid) == rec.pos:
			p.cur.set(rec.oid, pos)
		case p.cur.get(rec.oid) == 0: // an undone creation, which a later record repeats
			p.entries = append(p.entries, entry{rec.oid, pos})
		}
		return p.copyRecord(recordHeader{oid: rec.oid, tid: rec.tid, txn: newTxn, size: source.size}, source)
	})
	if err == nil && newTxn == 0 && p.decided && h.next() == p.packPos {
		newTxn, err = p.copyHeader(h, raidstorage.StatusPacked) // see raidstorage.PackOptions
	}
	if err != nil || newTxn == 0 {
		return err
	}
	p.endTxn(h, newTxn)
	return nil
}

// copyHeader writes the header of a transaction, with its old length, and returns
// where.
func (p *packer) copyHeader(h txnHeader, status raidstorage.TxnStatus) (int64, error) {
	b, err := p.w.at(h.pos, int(h.headerLen()))
	if err != nil {
		return 0, p.s.ioError("read", err)
	}
	pos := p.out.pos()
	p.out.write(b)
	if status != h.status {
		p.out.patch(pos+statusOffset, []byte{byte(status)})
	}
	return pos, p.out.failed()
}

// endTxn writes the length of the transaction that began at pos, as it is now.
func (p *packer) endTxn(h txnHeader, pos int64) {
	var b [trailerLen]byte
	length := p.out.pos() - pos
	binary.BigEndian.PutUint64(b[:], uint64(length))
	p.out.write(b[:])
	if length != h.length {
		p.out.patch(pos+8, b[:])
	}
}

// copyRecord writes a record with the data of source, if it has any.
func (p *packer) copyRecord(rec recordHeader, source recordHeader) error {
	var b [maxRecordHeaderLen]byte
	p.out.write(appendRecordHeader(b[:0], &rec))
	for done := int64(0); done < rec.size; {
		n := min(rec.size-done, copyPiece)
		w := &p.w
		if source.pos < w.off {
			w = &p.earlier // the data that a pointer points to: do not move away for it
		}
		piece, err := w.at(source.data()+done, int(n))
		if err != nil {
			return p.s.ioError("read", err)
		}
		p.out.write(piece)
		done += n
	}
	return p.out.failed()
}

// copyLater copies the transactions from pos to to, all of which are later than the
// pack time.
func (p *packer) copyLater(pos, to int64) error {
	_, err := p.transactions(pos, to, func(h txnHeader) (bool, error) {
		newTxn, err := p.copyHeader(h, h.status)
		if err != nil {
			return false, err
		}
		p.entries = p.entries[:0]
		if err := p.records(h, func(rec recordHeader) error { return p.copyLaterRecord(rec, newTxn) }); err != nil {
			return false, err
		}
		p.endTxn(h, newTxn)
		if h.status == statusUndone {
			return true, nil
		}
		// Only now: two records of one object have the same previous one, as in
		// Python's files.
		for _, e := range p.entries {
			p.index.set(e.oid, e.pos)
		}
		return true, nil
	})
	return err
}

func (p *packer) copyLaterRecord(rec recordHeader, newTxn int64) error {
	pos := p.out.pos()
	p.entries = append(p.entries, entry{rec.oid, pos})
	moved := recordHeader{oid: rec.oid, tid: rec.tid, prev: p.index.get(rec.oid), txn: newTxn, size: rec.size}
	source := rec
	if rec.size == 0 && rec.back != 0 {
		if moved.back = p.moved(rec.back); moved.back == 0 {
			var err error
			if source, err = p.dataSource(rec); err != nil {
				return err
			}
			moved.size = source.size
		}
	}
	if err := p.copyRecord(moved, source); err != nil {
		return err
	}
	if by := p.out.pos() - rec.next(); by != p.shifts[len(p.shifts)-1].by {
		p.shifts = append(p.shifts, shift{rec.next(), by})
	}
	return nil
}

// moved returns where the record at pos is in the new file, 0 if it has been
// dropped.
func (p *packer) moved(pos int64) int64 {
	if pos < p.packPos {
		return p.kept[pos]
	}
	i := sort.Search(len(p.shifts), func(i int) bool { return p.shifts[i].from > pos }) - 1
	return pos + p.shifts[i].by
}

// settle finds the records before the pack time that the transactions from pos on
// repeat, which were committed when the copy of those was written already.
func (p *packer) settle(pos int64) error {
	flushed := false
	_, err := p.transactions(pos, p.end, func(h txnHeader) (bool, error) {
		return true, p.records(h, func(rec recordHeader) error {
			if rec.size != 0 || rec.back == 0 || rec.back >= p.packPos || p.kept[rec.back] != 0 {
				return nil
			}
			if !flushed {
				if err := p.out.flush(false); err != nil {
					return err
				}
				flushed = true
			}
			return p.settleRecord(rec)
		})
	})
	return err
}

// settleRecord finds in the new file what rec repeats, if that was current at the
// pack time and has been copied.
func (p *packer) settleRecord(rec recordHeader) error {
	pos, err := p.newPacked(rec.oid)
	if pos == 0 || err != nil {
		return err
	}
	old, err := p.recordIn(p.f, rec.back, rec.pos)
	if err != nil {
		return err
	}
	copied, err := p.recordIn(p.out.f, pos, p.newPack)
	if err != nil || copied.tid != old.tid {
		return err
	}
	source, err := p.dataSource(old)
	if err != nil || copied.size != source.size {
		return err
	}
	// An object may have two records in a transaction, if several undos concern it.
	a, b := make([]byte, source.size), make([]byte, source.size)
	if err := readFull(p.f, a, source.data()); err != nil {
		return p.s.ioError("read", err)
	}
	if err := readFull(p.out.f, b, copied.data()); err != nil {
		return p.s.ioError("pack: read", err)
	}
	if bytes.Equal(a, b) {
		p.kept[rec.back] = pos
	}
	return nil
}

// newPacked returns where the new file has the record of oid that was current at the
// pack time: the first one of its chain.
func (p *packer) newPacked(oid raidstorage.OID) (int64, error) {
	pos := p.index.get(oid)
	for pos >= p.newPack {
		h, err := p.recordIn(p.out.f, pos, p.out.pos())
		if err != nil {
			return 0, err
		}
		pos = h.prev
	}
	return pos, nil
}

// recordIn reads the header of the record at pos, below end, in one of the files.
func (p *packer) recordIn(r io.ReaderAt, pos, end int64) (recordHeader, error) {
	var buf [maxRecordHeaderLen]byte
	b := buf[:min(maxRecordHeaderLen, end-pos)]
	if err := readFull(r, b, pos); err != nil {
		return recordHeader{}, p.s.ioError("pack: read", err)
	}
	h, bad := parseRecordHeader(b, pos, end)
	return h, p.s.check(bad, nil)
}
