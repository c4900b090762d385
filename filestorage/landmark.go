package filestorage

import (
	"cmp"
	"slices"
	"sync"

	"github.com/zeoraid/raidstorage"
)

// landmarks are places in a file at which transactions begin, some way apart. Whoever
// walks over the file notes them, so that the next one who looks for a tid walks from the
// nearest one: a recovery that reads a log in parts does not walk over all of it again
// for each of them. They take no more than maxLandmarks times 16 bytes.
type landmarks struct {
	mu     sync.Mutex
	points []landmark // in order, at least apart bytes from each other
	apart  int64
	cuts   int // how often the file was cut: a reader from before that notes nothing
}

type landmark struct {
	tid raidstorage.TID
	pos int64
}

const (
	maxLandmarks   = 16 << 10
	landmarksApart = 64 << 10 // at first; twice as much each time that there are too many
)

// reader returns what note is to be given by one who reads the file as it is now.
func (l *landmarks) reader() (cuts int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cuts
}

// note notes that the transaction tid begins at pos, unless that is close to another one.
func (l *landmarks) note(tid raidstorage.TID, pos int64, cuts int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.apart = max(l.apart, landmarksApart)
	i, found := l.searchLocked(tid)
	switch {
	case found || l.cuts != cuts:
		return
	case i > 0 && pos-l.points[i-1].pos < l.apart:
		return
	case i < len(l.points) && l.points[i].pos-pos < l.apart:
		return
	}
	l.points = slices.Insert(l.points, i, landmark{tid, pos})
	if len(l.points) < maxLandmarks {
		return
	}
	l.apart *= 2
	last := int64(-l.apart)
	l.points = slices.DeleteFunc(l.points, func(p landmark) bool {
		if p.pos-last < l.apart {
			return true
		}
		last = p.pos
		return false
	})
}

func (l *landmarks) searchLocked(tid raidstorage.TID) (i int, found bool) {
	return slices.BinarySearchFunc(l.points, tid, func(p landmark, tid raidstorage.TID) int { return cmp.Compare(p.tid, tid) })
}

// around returns where to look for the first transaction with a tid ≥ from: it begins at
// front or later, and at back if it does not before. start and end are the first and the
// last place that there are.
func (l *landmarks) around(from raidstorage.TID, start, end int64) (front, back int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i, _ := l.searchLocked(from)
	front, back = start, end
	if i > 0 {
		front = min(l.points[i-1].pos, end)
	}
	if i < len(l.points) {
		back = min(l.points[i].pos, end)
	}
	return front, back
}

// cut forgets those from pos on, where the file is about to end.
func (l *landmarks) cut(pos int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cuts++
	l.points = slices.DeleteFunc(l.points, func(p landmark) bool { return p.pos >= pos })
}
