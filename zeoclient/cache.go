package zeoclient

import (
	"container/list"
	"sync"

	"github.com/zeoraid/raidstorage"
)

// cache keeps revisions in memory, the last used ones, up to a number of bytes. All
// methods of a nil cache do nothing. The reader calls those that follow the server's
// messages, in their order: so no revision is taken for current after the message
// that ends it.
//
// A revision that has ended never changes. A current one is current as of seen, the
// last transaction that the server told of, and no reply has shown a later one:
// Python's server sometimes answers lastTransaction before it tells of a transaction.
type cache struct {
	limit int64

	mu      sync.Mutex // guards the fields below
	bytes   int64
	used    *list.List // of *revision; the last used one is in front
	objects map[raidstorage.OID][]*list.Element
	loads   map[raidstorage.OID]*loading
	seen    raidstorage.TID
	latest  raidstorage.TID // the greatest tid of any reply
	epoch   uint64          // counts connections
}

// revision is an object's revision in the cache.
type revision struct {
	oid raidstorage.OID
	raidstorage.Revision
}

// revisionOverhead is about what a revision takes besides its data.
const revisionOverhead = 200

// loading counts the loads of an object that are under way.
type loading struct {
	loads int
	stale bool // it was changed, or packed, since the first of them began
}

func newCache(limit int64) *cache {
	return &cache{
		limit: limit, used: list.New(),
		objects: map[raidstorage.OID][]*list.Element{}, loads: map[raidstorage.OID]*loading{},
	}
}

// get returns the revision that a load would return, if it is known for certain.
func (k *cache) get(oid raidstorage.OID, before raidstorage.TID) (raidstorage.Revision, bool) {
	if k == nil {
		return raidstorage.Revision{}, false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range k.objects[oid] {
		r := e.Value.(*revision)
		if before <= r.Serial || r.Next != 0 && before > r.Next {
			continue
		}
		if r.Next == 0 && k.seen < k.latest && before > k.seen+1 {
			continue // something has happened that we were not told of yet
		}
		if r.Next == 0 && before != raidstorage.MaxTID && before > k.seen+1 {
			continue // who asks knows more than we do
		}
		k.used.MoveToFront(e)
		return r.Revision, true
	}
	return raidstorage.Revision{}, false
}

// begin notes that a load of oid is under way.
func (k *cache) begin(oid raidstorage.OID) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.loads[oid]
	if l == nil {
		l = &loading{}
		k.loads[oid] = l
	}
	l.loads++
}

// end notes that a load is over.
func (k *cache) end(oid raidstorage.OID) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.loads[oid]
	if l.loads--; l.loads == 0 {
		delete(k.loads, oid)
	}
}

// loaded adds what a load returned, unless the object was changed, or the storage
// packed, while the load was under way. A revision that was current is added only if
// its connection is still the one that tells of changes.
func (k *cache) loaded(epoch uint64, oid raidstorage.OID, r raidstorage.Revision) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.latest = max(k.latest, r.Serial, r.Next)
	if l := k.loads[oid]; l == nil || l.stale || r.Next == 0 && epoch != k.epoch {
		return
	}
	k.addLocked(oid, r)
}

// committed notes a commit of ours: data of the objects that are current now, nil for
// those that are only known to have changed.
func (k *cache) committed(tid raidstorage.TID, data map[raidstorage.OID][]byte) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.seen, k.latest = max(k.seen, tid), max(k.latest, tid)
	for oid, d := range data {
		k.endLocked(oid, tid)
		if d != nil {
			k.addLocked(oid, raidstorage.Revision{Data: d, Serial: tid})
		}
	}
}

// invalidate ends the current revisions of oids. A transaction that names none may
// have changed any object.
func (k *cache) invalidate(tid raidstorage.TID, oids []raidstorage.OID) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.seen, k.latest = max(k.seen, tid), max(k.latest, tid)
	if len(oids) == 0 {
		k.dropCurrentLocked()
	}
	for _, oid := range oids {
		k.endLocked(oid, tid)
	}
}

// shown notes a tid that a reply has told.
func (k *cache) shown(tid raidstorage.TID) {
	if k == nil {
		return
	}
	k.mu.Lock()
	k.latest = max(k.latest, tid)
	k.mu.Unlock()
}

// adopt begins with a new connection, whose server is at last. Unless nothing has
// happened in between, no revision is known to be current any more. It returns the
// connection's epoch.
func (k *cache) adopt(last raidstorage.TID, same bool) uint64 {
	if k == nil {
		return 0
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.seen, k.latest = last, last
	if !same {
		k.dropCurrentLocked()
	}
	k.epoch++
	return k.epoch
}

// clear drops everything: after a pack there are revisions less.
func (k *cache) clear() {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.used.Init()
	k.bytes = 0
	clear(k.objects)
	for _, l := range k.loads {
		l.stale = true
	}
}

func (k *cache) dropCurrentLocked() {
	for e := k.used.Front(); e != nil; {
		next := e.Next()
		if e.Value.(*revision).Next == 0 {
			k.removeLocked(e)
		}
		e = next
	}
	for _, l := range k.loads {
		l.stale = true
	}
}

// endLocked says that tid changed oid.
func (k *cache) endLocked(oid raidstorage.OID, tid raidstorage.TID) {
	if l := k.loads[oid]; l != nil {
		l.stale = true
	}
	for _, e := range k.objects[oid] {
		if r := e.Value.(*revision); r.Next == 0 && r.Serial < tid {
			// Others may hold the old value.
			e.Value = &revision{oid: oid, Revision: raidstorage.Revision{Data: r.Data, Serial: r.Serial, Next: tid}}
		}
	}
}

func (k *cache) addLocked(oid raidstorage.OID, r raidstorage.Revision) {
	for _, e := range k.objects[oid] {
		if e.Value.(*revision).Serial == r.Serial {
			return
		}
	}
	size := int64(len(r.Data)) + revisionOverhead
	if size > k.limit {
		return
	}
	k.objects[oid] = append(k.objects[oid], k.used.PushFront(&revision{oid: oid, Revision: r}))
	k.bytes += size
	for k.bytes > k.limit {
		k.removeLocked(k.used.Back())
	}
}

func (k *cache) removeLocked(e *list.Element) {
	r := k.used.Remove(e).(*revision)
	k.bytes -= int64(len(r.Data)) + revisionOverhead
	kept := k.objects[r.oid][:0]
	for _, other := range k.objects[r.oid] {
		if other != e {
			kept = append(kept, other)
		}
	}
	if len(kept) == 0 {
		delete(k.objects, r.oid)
	} else {
		k.objects[r.oid] = kept
	}
}
