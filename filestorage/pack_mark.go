package filestorage

import (
	"cmp"
	"errors"
	"maps"
	"math/bits"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/pickleref"
)

// marks says which of the objects of an index are reachable: three bits for each
// object. It does not need the index any more. Many goroutines may mark and ask.
type marks struct {
	pages map[uint64]*markPage
	keys  []uint64 // of pages, in order
	// fresh are objects with references still to be followed. When it is full the
	// bits alone tell, and missed is set.
	fresh  []raidstorage.OID
	missed bool
	count  int // of those that are reached
}

type markPage struct {
	present  [pageSize / 64]uint64 // in the index; never changed
	reached  [pageSize / 64]uint64 // changed atomically
	followed [pageSize / 64]uint64 // by one goroutine
}

// Bounds of memory. A long chain of objects goes from hand to hand in fresh; a
// broad tree overflows it, and sweeping over the bits is cheap then.
const (
	maxFresh  = 1 << 15
	markBatch = 1 << 15 // objects whose records are read in the order of the file
)

func newMarks(x *index) *marks {
	m := &marks{pages: make(map[uint64]*markPage, len(x.pages))}
	for key, p := range x.pages {
		m.pages[key] = &markPage{present: p.present}
	}
	for oid := range x.sparse.all() {
		p := m.pages[uint64(oid)>>pageBits]
		if p == nil {
			p = new(markPage)
			m.pages[uint64(oid)>>pageBits] = p
		}
		p.present[uint8(oid)/64] |= 1 << (uint8(oid) % 64)
	}
	m.keys = slices.Sorted(maps.Keys(m.pages))
	return m
}

func (m *marks) has(oid raidstorage.OID) bool {
	p := m.pages[uint64(oid)>>pageBits]
	return p != nil && p.reached[uint8(oid)/64]&(1<<(uint8(oid)%64)) != 0
}

// add marks an object, from the goroutine that owns m.
func (m *marks) add(oid raidstorage.OID) {
	v := marker{marks: m}
	v.mark(oid)
	m.take(&v)
}

// addAllBut marks all objects but those in garbage, with nothing to follow.
func (m *marks) addAllBut(garbage []raidstorage.OID) {
	for _, p := range m.pages {
		p.reached = p.present
	}
	for _, oid := range garbage {
		if p := m.pages[uint64(oid)>>pageBits]; p != nil {
			p.reached[uint8(oid)/64] &^= 1 << (uint8(oid) % 64)
		}
	}
}

// unreached returns the objects that are not marked, in order.
func (m *marks) unreached(spare map[raidstorage.OID]bool) (oids []raidstorage.OID) {
	for _, key := range m.keys {
		p := m.pages[key]
		for word, present := range p.present {
			for left := present &^ p.reached[word]; left != 0; left &= left - 1 {
				oid := raidstorage.OID(key<<pageBits | uint64(word*64+bits.TrailingZeros64(left)))
				if !spare[oid] {
					oids = append(oids, oid)
				}
			}
		}
	}
	return oids
}

// take takes over what a marker has found.
func (m *marks) take(v *marker) {
	room := maxFresh - len(m.fresh)
	if len(v.fresh) > room || v.missed {
		m.missed = true
	}
	m.fresh = append(m.fresh, v.fresh[:min(room, len(v.fresh))]...)
	m.count += v.marked
	v.fresh, v.missed, v.marked = v.fresh[:0], false, 0
}

// next appends up to markBatch objects that are marked and were not followed yet,
// with their places in the index.
func (m *marks) next(batch []entry, x *index) []entry {
	if len(m.fresh) == 0 && m.missed {
		m.sweep()
	}
	n := max(0, len(m.fresh)-markBatch)
	for _, oid := range m.fresh[n:] {
		p, bit := m.pages[uint64(oid)>>pageBits], uint64(1)<<(uint8(oid)%64)
		if p.followed[uint8(oid)/64]&bit != 0 {
			continue // a sweep had found it before
		}
		p.followed[uint8(oid)/64] |= bit
		batch = append(batch, entry{oid, x.get(oid)})
	}
	m.fresh = m.fresh[:n]
	return batch
}

// sweep fills fresh from the bits.
func (m *marks) sweep() {
	m.missed = false
	for _, key := range m.keys {
		p := m.pages[key]
		for word, reached := range p.reached {
			for left := reached &^ p.followed[word]; left != 0; left &= left - 1 {
				if len(m.fresh) == maxFresh {
					m.missed = true
					return
				}
				m.fresh = append(m.fresh, raidstorage.OID(key<<pageBits|uint64(word*64+bits.TrailingZeros64(left))))
			}
		}
	}
}

// marker follows references for one goroutine.
type marker struct {
	*marks
	p      *packer
	fresh  []raidstorage.OID
	missed bool
	marked int
	// near is the page of the last object: references often go to neighbours.
	near    *markPage
	nearKey uint64

	scan pickleref.Scanner
	refs []raidstorage.OID
	buf  []byte // of a stretch of the file
	long []byte // of a record that exceeds it
}

func (v *marker) mark(oid raidstorage.OID) {
	key := uint64(oid) >> pageBits
	if v.near == nil || v.nearKey != key {
		p := v.pages[key]
		if p == nil {
			return // dangling, or not there yet at the pack time
		}
		v.near, v.nearKey = p, key
	}
	word, bit := uint8(oid)/64, uint64(1)<<(uint8(oid)%64)
	if v.near.present[word]&bit == 0 || atomic.LoadUint64(&v.near.reached[word])&bit != 0 {
		return
	}
	if atomic.OrUint64(&v.near.reached[word], bit)&bit != 0 {
		return
	}
	v.marked++
	if len(v.fresh) == maxFresh {
		v.missed = true
		return
	}
	v.fresh = append(v.fresh, oid)
}

// reach follows references until there are no more.
func (p *packer) reach() error {
	batch := make([]entry, 0, markBatch)
	for {
		batch = p.marks.next(batch[:0], p.cur)
		if len(batch) == 0 {
			if len(p.marks.fresh) == 0 && !p.marks.missed {
				return nil
			}
			continue
		}
		if err := p.follow(batch); err != nil {
			return err
		}
	}
}

// follow marks what the records at the places of batch refer to. It puts batch in
// the order of the file, which is read in long stretches, on all processors.
func (p *packer) follow(batch []entry) error {
	const worthwhile = 512 // records for a goroutine of their own
	slices.SortFunc(batch, func(a, b entry) int { return cmp.Compare(a.pos, b.pos) })
	n := max(1, min(runtime.GOMAXPROCS(0), maxMarkers, len(batch)/worthwhile))
	for len(p.markers) < n {
		p.markers = append(p.markers, &marker{marks: p.marks, p: p})
	}
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		part := batch[i*len(batch)/n : (i+1)*len(batch)/n]
		work := func() { errs[i] = p.markers[i].follow(part) }
		if i == n-1 {
			work()
		} else {
			wg.Go(work)
		}
	}
	wg.Wait()
	for _, v := range p.markers[:n] {
		p.marks.take(v)
	}
	return errors.Join(errs...)
}

const (
	maxMarkers = 8
	// recordGuess is how much is read of a record whose length is not known yet.
	recordGuess = 4 << 10
	// maxGap is what is read for nothing rather than by another call.
	maxGap = 16 << 10
)

// follow marks what the records refer to; they are in the order of the file.
func (v *marker) follow(batch []entry) error {
	if v.buf == nil {
		v.buf = make([]byte, packBuffer)
	}
	for len(batch) > 0 {
		if err := v.p.alive(); err != nil {
			return err
		}
		start, end, n := batch[0].pos, batch[0].pos, 0
		for n < len(batch) && batch[n].pos-end <= maxGap && batch[n].pos+recordGuess-start <= packBuffer {
			end = batch[n].pos + recordGuess
			n++
		}
		b := v.buf[:min(end, v.p.end)-start]
		if err := readFull(v.p.f, b, start); err != nil {
			return v.p.s.ioError("read", err)
		}
		for _, e := range batch[:n] {
			if err := v.references(e, b[e.pos-start:]); err != nil {
				return err
			}
		}
		batch = batch[n:]
	}
	return nil
}

// references marks what the record at e, which begins with b, refers to.
func (v *marker) references(e entry, b []byte) error {
	rec, bad := parseRecordHeader(b, e.pos, v.p.end)
	if bad == nil && rec.oid != e.oid {
		bad = &flaw{pos: e.pos, oid: e.oid, tid: rec.tid, reason: "a record of another object is where one of this object must be"}
	}
	if bad != nil {
		return v.p.s.corrupt(bad)
	}
	source, err := v.p.dataSource(rec)
	if err != nil || source.size == 0 {
		return err
	}
	var data []byte
	if source.pos == rec.pos && int64(len(b)) >= recordHeaderLen+rec.size {
		data = b[recordHeaderLen:][:rec.size]
	} else if data, err = v.read(source); err != nil {
		return v.p.s.ioError("read", err)
	}
	if v.refs, err = v.scan.References(v.refs[:0], data); err != nil {
		return v.p.s.corrupt(&flaw{pos: e.pos, oid: rec.oid, tid: rec.tid, reason: "its references cannot be read: " + err.Error()})
	}
	for _, oid := range v.refs {
		v.mark(oid)
	}
	return nil
}

// read reads the data of a record that is not in the stretch at hand. The result is
// valid until the next call.
func (v *marker) read(rec recordHeader) ([]byte, error) {
	const keep = 1 << 20 // a longer buffer is for one record
	b := v.long
	if int64(cap(b)) < rec.size {
		b = make([]byte, rec.size)
		if rec.size <= keep {
			v.long = b
		}
	}
	b = b[:rec.size]
	return b, readFull(v.p.f, b, rec.data())
}
