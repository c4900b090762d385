package filestorage

import (
	"context"
	"maps"
	"slices"

	"github.com/zeoraid/raidstorage"
)

// What Python's pack would drop of what Pack keeps (fspack.py of ZODB, findReachable).
// Python follows the references from the root object as of the pack time. Of what was
// written later it looks at back pointers to before the pack time alone, one after the
// other: the revision that they repeat stays, and its references are followed if the
// object could be reached already, or has had such a back pointer before. An object that
// could not be reached is taken as reached from then on, though it is the repeated revision
// that stays, and not the current one: whatever else leads to it is not followed.

var _ raidstorage.KeptFinder = (*Storage)(nil)

// FindKept implements raidstorage.KeptFinder. It reads the log once, as FindGarbage does,
// and needs 6 bits for each object more.
func (s *Storage) FindKept(ctx context.Context, through raidstorage.TID, decide func(context.Context) error) (garbage, kept []raidstorage.OID, err error) {
	return s.findGarbage(ctx, through, decide, new(keptLater))
}

// keptLater is what a packer needs to know for keptByLater.
type keptLater struct {
	then    *marks  // what could be reached at the pack time
	repeats []entry // records after the pack time that repeat one before it, in order
}

// keptByLater returns, in ascending order, the objects whose revision of the pack time is
// kept, and would not be by Python. p.marks has all that is reached; it is replaced.
func (p *packer) keptByLater() ([]raidstorage.OID, error) {
	kept := p.marks.beyond(p.later.then, p.repeated)
	if len(kept) == 0 {
		return nil, nil
	}
	stay, err := p.asPython()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(kept, func(oid raidstorage.OID) bool {
		if repeated, ok := stay[oid]; ok {
			return slices.Contains(repeated, p.cur.get(oid))
		}
		return p.marks.has(oid)
	}), nil
}

// asPython marks what Python reaches. Of the objects in stay those revisions stay, which
// may not be the one of the pack time.
func (p *packer) asPython() (stay map[raidstorage.OID][]int64, err error) {
	then := p.later.then
	stay = make(map[raidstorage.OID][]int64)
	repeated := make(map[entry]bool)
	var roots []entry
	for _, e := range p.later.repeats {
		_, again := stay[e.oid]
		switch {
		case !again && !then.has(e.oid):
			stay[e.oid] = []int64{e.pos}
		case !repeated[e]:
			repeated[e] = true
			roots = append(roots, e)
			if again {
				stay[e.oid] = append(stay[e.oid], e.pos)
			}
		}
	}
	for oid := range maps.Keys(stay) {
		then.pass(oid)
	}
	p.marks, p.markers = then, nil
	for batch := range slices.Chunk(roots, markBatch) {
		if err := p.follow(batch); err != nil {
			return nil, err
		}
	}
	return stay, p.reach()
}

// followedAll returns a copy of m in which nothing is left to follow.
func (m *marks) followedAll() *marks {
	c := &marks{pages: make(map[uint64]*markPage, len(m.pages)), keys: m.keys, count: m.count}
	for key, p := range m.pages {
		c.pages[key] = &markPage{present: p.present, reached: p.reached, followed: p.reached}
	}
	return c
}

// pass marks an object, if the index has it, with nothing to follow.
func (m *marks) pass(oid raidstorage.OID) {
	if p := m.pages[uint64(oid)>>pageBits]; p != nil {
		word, bit := uint8(oid)/64, uint64(1)<<(uint8(oid)%64)&p.present[uint8(oid)/64]
		p.reached[word] |= bit
		p.followed[word] |= bit
	}
}

// beyond returns, in order, the objects that are marked, or in also, and not in earlier, a
// copy of m as it was once.
func (m *marks) beyond(earlier *marks, also map[raidstorage.OID]bool) []raidstorage.OID {
	more := &marks{pages: make(map[uint64]*markPage), keys: m.keys}
	for key, p := range m.pages {
		e := &markPage{reached: earlier.pages[key].reached}
		for word := range p.present { // unreached returns what is present and not reached
			e.present[word] = p.reached[word] &^ e.reached[word]
		}
		more.pages[key] = e
	}
	for oid := range also {
		if p := m.pages[uint64(oid)>>pageBits]; p != nil && !earlier.has(oid) {
			more.pages[uint64(oid)>>pageBits].present[uint8(oid)/64] |= 1 << (uint8(oid) % 64) & p.present[uint8(oid)/64]
		}
	}
	return more.unreached(nil)
}
