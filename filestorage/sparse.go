package filestorage

import (
	"encoding/binary"
	"iter"
	"slices"
	"sort"

	"github.com/zeoraid/raidstorage"
)

// sparse holds the positions of oids that have few neighbours, in oid order: about 16
// bytes for each, where a page for itself would take 150. All oids of one page are in
// one chunk.
type sparse struct {
	firsts []uint64 // for each chunk the first page that belongs there; the first is 0
	chunks [][]byte // of sparseEntry bytes for each oid: oid and position, big-endian
}

const (
	sparseEntry = 8 + posBytes
	// chunkEntries bounds what an insertion moves. A chunk has at most minPage more.
	chunkEntries = 512
)

func sparseOID(chunk []byte, i int) raidstorage.OID {
	return raidstorage.OID(binary.BigEndian.Uint64(chunk[i*sparseEntry:]))
}

func sparsePos(chunk []byte, i int) int64 { return getPos(chunk[i*sparseEntry+8:]) }

// find returns in which chunk oid is or would be, where there, and whether it is.
func (s *sparse) find(oid raidstorage.OID) (c, i int, ok bool) {
	if len(s.chunks) == 0 {
		return 0, 0, false
	}
	page := uint64(oid) >> pageBits
	c, ok = slices.BinarySearch(s.firsts, page)
	if !ok {
		c--
	}
	chunk := s.chunks[c]
	n := len(chunk) / sparseEntry
	i = sort.Search(n, func(i int) bool { return sparseOID(chunk, i) >= oid })
	return c, i, i < n && sparseOID(chunk, i) == oid
}

func (s *sparse) get(oid raidstorage.OID) int64 {
	if c, i, ok := s.find(oid); ok {
		return sparsePos(s.chunks[c], i)
	}
	return 0
}

// set returns whether oid was new, and how many oids of its page there are now.
func (s *sparse) set(oid raidstorage.OID, pos int64) (added bool, ofPage int) {
	if len(s.chunks) == 0 {
		s.firsts, s.chunks = []uint64{0}, [][]byte{nil}
	}
	c, i, ok := s.find(oid)
	if !ok {
		c, i = s.insert(c, i, oid)
	}
	putPos(s.chunks[c][i*sparseEntry+8:], pos)
	from, to := s.page(c, i)
	return !ok, to - from
}

// page returns from which entry to which before the i-th they are of the same page.
func (s *sparse) page(c, i int) (from, to int) {
	chunk := s.chunks[c]
	n, page := len(chunk)/sparseEntry, sparseOID(chunk, i)>>pageBits
	for from = i; from > 0 && sparseOID(chunk, from-1)>>pageBits == page; from-- {
	}
	for to = i + 1; to < n && sparseOID(chunk, to)>>pageBits == page; to++ {
	}
	return from, to
}

// insert makes room for oid at entry i of chunk c, and returns where that is then.
func (s *sparse) insert(c, i int, oid raidstorage.OID) (int, int) {
	if n := len(s.chunks[c]) / sparseEntry; n >= chunkEntries {
		at := s.boundary(c, i, oid)
		if at > 0 {
			s.split(c, at, oid)
			if uint64(oid)>>pageBits >= s.firsts[c+1] {
				c, i = c+1, i-at
			}
		}
	}
	old := s.chunks[c]
	chunk, at := old, i*sparseEntry
	if cap(old)-len(old) < sparseEntry {
		// Little slack: there may be many chunks.
		chunk = append(make([]byte, 0, len(old)+max(len(old)/8, 2*sparseEntry)), old[:at]...)
	}
	chunk = chunk[:len(old)+sparseEntry]
	copy(chunk[at+sparseEntry:], old[at:])
	binary.BigEndian.PutUint64(chunk[at:], uint64(oid))
	s.chunks[c] = chunk
	return c, i
}

// boundary returns at which entry a full chunk is split, between two pages, to insert
// oid at i: in the middle, or at its end if oid comes behind it. 0 is never one.
func (s *sparse) boundary(c, i int, oid raidstorage.OID) int {
	chunk := s.chunks[c]
	n := len(chunk) / sparseEntry
	if i == n && sparseOID(chunk, n-1)>>pageBits != oid>>pageBits {
		return n // as oids that come in order always do
	}
	from, _ := s.page(c, n/2)
	return from
}

// split moves the entries of chunk c from at on into a chunk behind it; oid, if they
// are none, is going to be its first.
func (s *sparse) split(c, at int, oid raidstorage.OID) {
	chunk := s.chunks[c]
	if at < len(chunk)/sparseEntry {
		oid = sparseOID(chunk, at)
	}
	s.firsts = slices.Insert(s.firsts, c+1, uint64(oid)>>pageBits)
	s.chunks = slices.Insert(s.chunks, c+1, slices.Clone(chunk[at*sparseEntry:]))
	s.chunks[c] = slices.Clone(chunk[:at*sparseEntry])
}

// take removes the entries of the page that oid, which is there, belongs to, and
// yields them.
func (s *sparse) take(oid raidstorage.OID, yield func(raidstorage.OID, int64)) {
	c, i, _ := s.find(oid)
	from, to := s.page(c, i)
	for i := from; i < to; i++ {
		yield(sparseOID(s.chunks[c], i), sparsePos(s.chunks[c], i))
	}
	s.chunks[c] = slices.Delete(s.chunks[c], from*sparseEntry, to*sparseEntry)
}

// remove forgets oid, and returns whether it was there.
func (s *sparse) remove(oid raidstorage.OID) bool {
	c, i, ok := s.find(oid)
	if ok {
		s.chunks[c] = slices.Delete(s.chunks[c], i*sparseEntry, (i+1)*sparseEntry)
	}
	return ok
}

// all yields the oids in order.
func (s *sparse) all() iter.Seq[raidstorage.OID] {
	return func(yield func(raidstorage.OID) bool) {
		for _, chunk := range s.chunks {
			for i := range len(chunk) / sparseEntry {
				if !yield(sparseOID(chunk, i)) {
					return
				}
			}
		}
	}
}

// filter forgets the oids that keep does not name, and returns how many stay.
func (s *sparse) filter(keep func(raidstorage.OID) bool) (n int) {
	for c, chunk := range s.chunks {
		kept := 0
		for i := range len(chunk) / sparseEntry {
			if keep(sparseOID(chunk, i)) {
				copy(chunk[kept*sparseEntry:][:sparseEntry], chunk[i*sparseEntry:])
				kept++
			}
		}
		s.chunks[c] = chunk[:kept*sparseEntry]
		n += kept
	}
	return n
}

// sparseCursor walks through the entries in order.
type sparseCursor struct {
	s    *sparse
	c, i int
}

// from returns a cursor at the first entry with oid ≥ first.
func (s *sparse) from(first raidstorage.OID) sparseCursor {
	c, i, _ := s.find(first)
	return sparseCursor{s, c, i}
}

// next returns the next entry with an oid of a page before limit, and goes on.
func (k *sparseCursor) next(limit uint64) (entry, bool) {
	for k.c < len(k.s.chunks) && k.i*sparseEntry >= len(k.s.chunks[k.c]) {
		k.c, k.i = k.c+1, 0
	}
	if k.c == len(k.s.chunks) {
		return entry{}, false
	}
	chunk := k.s.chunks[k.c]
	e := entry{sparseOID(chunk, k.i), sparsePos(chunk, k.i)}
	if uint64(e.oid)>>pageBits >= limit {
		return entry{}, false
	}
	k.i++
	return e, true
}
