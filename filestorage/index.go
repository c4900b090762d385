package filestorage

import (
	"iter"
	"math"
	"math/bits"
	"slices"

	"github.com/zeoraid/raidstorage"
)

// index maps oids to the positions of their current records. It takes about 6.5
// bytes for each of many adjacent oids, as ZODB's databases have them: a map would
// take six times that. Of oids far from each other it takes 16 bytes. Its owner guards
// it.
type index struct {
	pages   map[uint64]*page // by oid / pageSize
	keys    []uint64         // of pages
	ordered bool             // whether keys are in ascending order
	sparse  sparse           // what no page is worth its memory for
	count   int
	highest raidstorage.OID // the highest oid ever set
	changes *changes        // nil unless somebody needs the index as it was
}

const (
	pageBits = 8
	pageSize = 1 << pageBits
	minPage  = 8 // adjacent oids from which on they get a page
	posBytes = 6 // as in ZODB's fsIndex: files of up to 256 TiB
	maxPos   = 1<<(8*posBytes) - 1
)

// page holds the positions of those of pageSize adjacent oids that are there, one
// after the other, in oid order.
type page struct {
	present [pageSize / 64]uint64
	packed  []byte // posBytes each, big-endian
}

func newIndex() *index { return &index{pages: make(map[uint64]*page), ordered: true} }

// get returns the position of oid's record, 0 if there is none.
func (x *index) get(oid raidstorage.OID) int64 {
	p := x.pages[uint64(oid)>>pageBits]
	if p == nil {
		return x.sparse.get(oid)
	}
	rank, ok := p.rank(uint8(oid))
	if !ok {
		return 0
	}
	return getPos(p.packed[rank*posBytes:])
}

// set makes pos, 1 to maxPos, the position of oid's record.
func (x *index) set(oid raidstorage.OID, pos int64) {
	if x.changes != nil {
		x.changes.note(oid, x.get(oid))
	}
	x.highest = max(x.highest, oid)
	p := x.pages[uint64(oid)>>pageBits]
	if p == nil {
		added, ofPage := x.sparse.set(oid, pos)
		if added {
			x.count++
		}
		if ofPage >= minPage {
			p = new(page)
			x.sparse.take(oid, p.set)
			x.addPage(uint64(oid)>>pageBits, p)
		}
		return
	}
	before := len(p.packed)
	p.set(oid, pos)
	x.count += (len(p.packed) - before) / posBytes
}

func (x *index) addPage(key uint64, p *page) {
	if n := len(x.keys); n > 0 && x.keys[n-1] > key {
		x.ordered = false
	}
	x.pages[key] = p
	x.keys = append(x.keys, key)
}

// set makes pos the position of oid, which belongs to the page.
func (p *page) set(oid raidstorage.OID, pos int64) {
	rank, ok := p.rank(uint8(oid))
	if !ok {
		p.insert(uint8(oid), rank)
	}
	putPos(p.packed[rank*posBytes:], pos)
}

// addBucket adds the entries of one bucket of an index file, of oids greater than
// all that are there: base plus the 2-byte suffixes. It refuses, with false, what is
// out of order and positions outside of lowest to highest.
func (x *index) addBucket(base raidstorage.OID, suffixes, positions []byte, lowest, highest int64) bool {
	n, last := len(suffixes)/suffixLen, -1
	for i := 0; i < n; {
		key, first := suffixes[i*suffixLen], i
		for ; i < n && suffixes[i*suffixLen] == key; i++ {
			pos := getPos(positions[i*posBytes:])
			at := int(key)<<8 | int(suffixes[i*suffixLen+1])
			if at <= last || pos < lowest || pos > highest {
				return false
			}
			last = at
		}
		if i-first < minPage {
			for j := first; j < i; j++ {
				oid := base | raidstorage.OID(key)<<8 | raidstorage.OID(suffixes[j*suffixLen+1])
				x.sparse.set(oid, getPos(positions[j*posBytes:]))
			}
			continue
		}
		p := new(page)
		for j := first; j < i; j++ {
			low := suffixes[j*suffixLen+1]
			p.present[low/64] |= 1 << (low % 64)
		}
		p.packed = append(make([]byte, 0, (i-first)*posBytes), positions[first*posBytes:i*posBytes]...)
		x.addPage(uint64(base)>>pageBits|uint64(key), p)
	}
	x.count += n
	x.highest = base | raidstorage.OID(last)
	return true
}

// remove forgets oid.
func (x *index) remove(oid raidstorage.OID) {
	if x.changes != nil {
		x.changes.lost = true // where it was would not be found any more
	}
	p := x.pages[uint64(oid)>>pageBits]
	if p == nil {
		if x.sparse.remove(oid) {
			x.count--
		}
		return
	}
	if rank, ok := p.rank(uint8(oid)); ok {
		p.packed = slices.Delete(p.packed, rank*posBytes, (rank+1)*posBytes)
		p.present[uint8(oid)/64] &^= 1 << (uint8(oid) % 64)
		x.count--
	}
}

// entry is an oid and the position of its record.
type entry struct {
	oid raidstorage.OID
	pos int64
}

// sort puts the keys in order, which from needs. It changes the index.
func (x *index) sort() {
	if !x.ordered {
		slices.Sort(x.keys)
		x.ordered = true
	}
}

// from yields the entries with oid ≥ first in order. Call sort before.
func (x *index) from(first raidstorage.OID) iter.Seq[entry] {
	return func(yield func(entry) bool) {
		at, _ := slices.BinarySearch(x.keys, uint64(first)>>pageBits)
		others := x.sparse.from(first)
		for _, key := range x.keys[at:] {
			for e, ok := others.next(key); ok; e, ok = others.next(key) {
				if !yield(e) {
					return
				}
			}
			p, rank := x.pages[key], 0
			for word, present := range p.present {
				for ; present != 0; present &= present - 1 {
					oid := raidstorage.OID(key<<pageBits | uint64(word*64+bits.TrailingZeros64(present)))
					if oid >= first && !yield(entry{oid, getPos(p.packed[rank*posBytes:])}) {
						return
					}
					rank++
				}
			}
		}
		for e, ok := others.next(math.MaxUint64); ok; e, ok = others.next(math.MaxUint64) {
			if !yield(e) {
				return
			}
		}
	}
}

// sample yields about n entries, evenly spread over the oids: all of a small index.
// Call sort before.
func (x *index) sample(n int) iter.Seq[entry] {
	return func(yield func(entry) bool) {
		spans := len(x.keys) + len(x.sparse.firsts)
		each := max(1, n/max(1, spans))
		for i := 0; i < spans; i += max(1, spans/n) {
			var page uint64
			if i < len(x.keys) {
				page = x.keys[i]
			} else {
				page = x.sparse.firsts[i-len(x.keys)]
			}
			left := each
			for e := range x.from(raidstorage.OID(page << pageBits)) {
				if left == 0 {
					break
				}
				if left--; !yield(e) {
					return
				}
			}
		}
	}
}

// rank returns how many oids of the page come before low, and whether low is there.
func (p *page) rank(low uint8) (int, bool) {
	word, bit := int(low/64), low%64
	rank := bits.OnesCount64(p.present[word] & (1<<bit - 1))
	for i := range word {
		rank += bits.OnesCount64(p.present[i])
	}
	return rank, p.present[word]&(1<<bit) != 0
}

// insert makes room for low at its rank.
func (p *page) insert(low uint8, rank int) {
	p.present[low/64] |= 1 << (low % 64)
	n := len(p.packed)
	if n == cap(p.packed) {
		// Doubling from 8 entries ends at exactly pageSize: no slack in a full page.
		grown := make([]byte, n, max(2*n, 8*posBytes))
		copy(grown, p.packed)
		p.packed = grown
	}
	p.packed = p.packed[:n+posBytes]
	copy(p.packed[(rank+1)*posBytes:], p.packed[rank*posBytes:n])
}

func getPos(b []byte) int64 {
	_ = b[5]
	return int64(b[0])<<40 | int64(b[1])<<32 | int64(b[2])<<24 | int64(b[3])<<16 | int64(b[4])<<8 | int64(b[5])
}

func putPos(b []byte, pos int64) {
	_ = b[5]
	b[0], b[1], b[2] = byte(pos>>40), byte(pos>>32), byte(pos>>24)
	b[3], b[4], b[5] = byte(pos>>16), byte(pos>>8), byte(pos)
}
