package zeoserver

import (
	"cmp"
	"slices"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// How an outbox knows what was published since a load began: invariant 3 of order.go.

// recent is what an outbox remembers of publications, while loads are under way.
type recent struct {
	seq   uint64 // publications so far
	loads int    // under way
	cut   uint64 // publications up to this one are forgotten
	pubs  []publication
}

type publication struct {
	seq  uint64
	tid  raidstorage.TID
	oids []raidstorage.OID // sorted
}

// maxRecent bounds what is remembered for the slowest load.
const maxRecent = 1024

// publish appends a publication. It is sent by the writer, or, if it is the committer's
// own, by who finishes.
func (o *outbox) publish(tid raidstorage.TID, oids []raidstorage.OID, own bool, encode func(*zeowire.Writer) error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if encode != nil {
		if !o.openLocked() || encode(o.queue) != nil {
			o.endLocked()
			return
		}
		if !own {
			o.more.Signal()
		}
	}
	r := &o.recent
	r.seq++
	if r.loads == 0 {
		return
	}
	if len(r.pubs) == maxRecent {
		n := copy(r.pubs, r.pubs[maxRecent/2:])
		r.cut = r.pubs[0].seq - 1
		clear(r.pubs[n:])
		r.pubs = r.pubs[:n]
	}
	r.pubs = append(r.pubs, publication{r.seq, tid, oids})
}

// beginLoad returns the mark of a load that asks the storage from now on, when there
// is room for its answer. Each is followed by one endLoadLocked.
func (o *outbox) beginLoad() (mark uint64) {
	o.lockForRoom(o.forAnswers())
	defer o.mu.Unlock()
	o.recent.loads++
	return o.recent.seq
}

func (o *outbox) endLoadLocked() {
	r := &o.recent
	r.loads--
	if r.loads == 0 && len(r.pubs) > 0 {
		clear(r.pubs)
		r.pubs = r.pubs[:0]
	}
}

// changedLocked returns the first publication after mark that changed oid after
// serial, 0 if there is none. known is false if it cannot be told.
func (r *recent) changedLocked(mark uint64, oid raidstorage.OID, serial raidstorage.TID) (tid raidstorage.TID, known bool) {
	if mark == r.seq {
		return 0, true
	}
	if mark < r.cut {
		return 0, false
	}
	i, _ := slices.BinarySearchFunc(r.pubs, mark+1, func(p publication, seq uint64) int { return cmp.Compare(p.seq, seq) })
	for _, p := range r.pubs[i:] {
		if p.tid <= serial {
			continue
		}
		if _, found := slices.BinarySearch(p.oids, oid); found {
			return p.tid, true
		}
	}
	return 0, true
}
