//go:build interop

package interop_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/zeoraid/raidstorage"
)

// soakLedger is what our writers know of their transactions, each with a name of its
// own, its description. It is compared with the log that is served while the test runs,
// and with each member's file in the end. All may use it.
//
// A pack drops revisions: then a transaction may be missing, or lack a record, if the
// object was written again. What a pack has gone over is forgotten here but for the
// latest revision of each object.
type soakLedger struct {
	fault func(format string, args ...any)

	mu       sync.Mutex // guards the fields below
	byName   map[string]*soakTxn
	byTID    map[raidstorage.TID]*soakTxn
	acked    raidstorage.TID                     // the latest acknowledged
	current  map[raidstorage.OID]raidstorage.TID // the latest that wrote it and is acknowledged or seen
	base     map[raidstorage.OID]soakVersion     // of the transactions that are forgotten
	through  raidstorage.TID                     // those that are forgotten
	followed raidstorage.TID                     // what was compared with the log that is served
	packed   raidstorage.TID                     // no pack has gone further; MaxTID while one goes on
	packs    int                                 // that go on
	counters map[raidstorage.OID]int             // in the log that is served
	garbage  map[raidstorage.OID]bool            // objects that may be dropped as a whole
	finished int                                 // acknowledged transactions, also the forgotten ones
	found    int                                 // of unknown outcome, that are there
}

// soakTxn is one transaction.
type soakTxn struct {
	name    string
	tid     raidstorage.TID // 0 until it is acknowledged, or found in the log
	acked   bool
	content soakContent
	counter raidstorage.OID // the one that it counts up, if counts
	counts  bool
	drops   raidstorage.OID // the object that it makes garbage, 0 for none
	seen    soakContent     // in the log
}

// soakContent is the digest of each object's data and blob.
type soakContent map[raidstorage.OID]string

// soakVersion is a revision.
type soakVersion struct {
	tid    raidstorage.TID
	digest string
}

func newSoakLedger(fault func(string, ...any)) *soakLedger {
	return &soakLedger{
		fault: fault, byName: make(map[string]*soakTxn), byTID: make(map[raidstorage.TID]*soakTxn),
		current: make(map[raidstorage.OID]raidstorage.TID), base: make(map[raidstorage.OID]soakVersion),
		counters: make(map[raidstorage.OID]int), garbage: make(map[raidstorage.OID]bool),
	}
}

// soakDigest is a record's, with its blob's if it has one.
func soakDigest(data []byte, blob io.Reader) (string, error) {
	sum := sha256.Sum256(data)
	text := hex.EncodeToString(sum[:10])
	if blob != nil {
		h := sha256.New()
		if _, err := io.Copy(h, blob); err != nil {
			return "", err
		}
		text += "+" + hex.EncodeToString(h.Sum(nil)[:10])
	}
	return text, nil
}

// try notes a transaction that is about to be voted for.
func (l *soakLedger) try(t *soakTxn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.byName[t.name] = t
}

// refuse notes that it was not committed.
func (l *soakLedger) refuse(t *soakTxn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.byName, t.name) // who finds it all the same finds that nobody has written it
	if t.tid != 0 {
		l.fault("%s was refused, and is in the log as %v", t.name, t.tid)
	}
}

// unknown notes that it may have been committed, and not be seen before its records
// were superseded.
func (l *soakLedger) unknown(t *soakTxn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.drops != 0 {
		l.garbage[t.drops] = true
	}
}

// ack notes that it was acknowledged.
func (l *soakLedger) ack(t *soakTxn, tid raidstorage.TID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.tid != 0 && t.tid != tid {
		l.fault("%s was acknowledged as %v, and is in the log as %v", t.name, tid, t.tid)
	}
	if other := l.byTID[tid]; other != nil && other != t {
		l.fault("%s and %s were both given tid %v", t.name, other.name, tid)
	}
	if l.followed >= tid && t.seen == nil && tid > l.packed {
		l.fault("%s was acknowledged as %v, and is not in the log that was listed up to %v", t.name, tid, l.followed)
	}
	t.acked = true
	l.finished++
	l.placeLocked(t, tid)
	l.acked = max(l.acked, tid)
}

// placeLocked notes at which tid it is committed.
func (l *soakLedger) placeLocked(t *soakTxn, tid raidstorage.TID) {
	t.tid = tid
	l.byTID[tid] = t
	for oid := range t.content {
		l.current[oid] = max(l.current[oid], tid)
	}
	if t.drops != 0 {
		l.garbage[t.drops] = true
	}
}

// least returns the latest acknowledged tid, and those that have written the objects,
// acknowledged or seen: who reads later must not see less.
func (l *soakLedger) least(oids ...raidstorage.OID) (all raidstorage.TID, each []raidstorage.TID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, oid := range oids {
		each = append(each, l.current[oid])
	}
	return l.acked, each
}

// compare compares a revision that was read with what was written, if that is known.
func (l *soakLedger) compare(oid raidstorage.OID, v soakVersion) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	want, known := "", false
	if t := l.byTID[v.tid]; t != nil {
		want, known = t.content[oid], true
	} else if b := l.base[oid]; b.tid == v.tid {
		want, known = b.digest, true
	}
	if known && !strings.HasPrefix(want, v.digest) { // the blob is not read each time
		return fmt.Errorf("object %v of %v reads as %s, and was written as %q", oid, v.tid, v.digest, want)
	}
	return nil
}

// packBegins notes that a pack begins.
func (l *soakLedger) packBegins() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.packs++
	l.packed = raidstorage.MaxTID
}

// packEnds notes that it has ended; last is a tid that was given later.
func (l *soakLedger) packEnds(last raidstorage.TID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.packs--; l.packs == 0 {
		l.packed = last
	}
}

// follow takes the part of the served log between what it has had and last.
func (l *soakLedger) follow(part []*logged, last raidstorage.TID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	written := part[:0:0]
	for _, g := range part {
		t := l.byName[g.name]
		if t == nil {
			l.fault("%s is in the log as %v, and nobody has written it", g.name, g.tid)
			continue
		}
		if !t.acked && t.tid == 0 {
			l.found++
		}
		if t.tid != 0 && t.tid != g.tid {
			l.fault("%s was acknowledged as %v, and is in the log as %v", t.name, t.tid, g.tid)
		}
		l.placeLocked(t, g.tid)
		written = append(written, g)
	}
	for _, g := range written { // now it is known what may be dropped
		t := l.byName[g.name]
		l.sameLocked("the served log", t, g, l.packed)
		t.seen = g.content
		for oid, n := range g.counts {
			if had := l.counters[oid]; n != had+1 && g.tid > l.packed {
				l.fault("%s counts %v from %d to %d: a conflict was not seen", g.name, oid, had, n)
			}
			l.counters[oid] = n
		}
	}
	for tid, t := range l.byTID {
		if tid > l.followed && tid <= last && t.seen == nil {
			l.missingLocked("the served log", t, nil, l.packed)
			t.seen = soakContent{}
		}
	}
	l.followed = last
	if l.packed != raidstorage.MaxTID {
		l.forgetLocked()
	}
}

// sameLocked compares a transaction with how a log has it that was packed to horizon.
func (l *soakLedger) sameLocked(where string, t *soakTxn, g *logged, horizon raidstorage.TID) {
	if t.tid != g.tid {
		l.fault("%s: %s is there as %v, and is %v", where, t.name, g.tid, t.tid)
	}
	for oid, digest := range g.content {
		if t.content[oid] != digest {
			l.fault("%s: %s of %v has object %v as %s, and wrote %q", where, t.name, g.tid, oid, digest, t.content[oid])
		}
	}
	if len(g.content) < len(t.content) {
		l.missingLocked(where, t, g.content, horizon)
	}
}

// missingLocked judges that a log packed to horizon has only some records of t.
func (l *soakLedger) missingLocked(where string, t *soakTxn, has soakContent, horizon raidstorage.TID) {
	for oid, digest := range t.content {
		if _, ok := has[oid]; !ok && (t.tid > horizon || l.current[oid] <= t.tid && !l.garbage[oid]) {
			l.fault("%s: %s, acknowledged %v as %v, lacks object %v (%s); packed up to %v, written last by %v",
				where, t.name, t.acked, t.tid, oid, digest, horizon, l.current[oid])
		}
	}
}

// forgetLocked forgets what is compared and packed.
func (l *soakLedger) forgetLocked() {
	for tid, t := range l.byTID {
		if tid > min(l.packed, l.followed) || t.seen == nil {
			continue
		}
		for oid, digest := range t.content {
			if l.base[oid].tid < tid {
				l.base[oid] = soakVersion{tid, digest}
			}
		}
		delete(l.byTID, tid)
		delete(l.byName, t.name)
		l.through = max(l.through, tid)
	}
}

// final returns the last revision of each object that must be there, and the log's
// transactions of ours by tid, when nothing is under way any more.
func (l *soakLedger) final() (map[raidstorage.OID]soakVersion, []*soakTxn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	last := maps.Clone(l.base)
	var all []*soakTxn
	for _, tid := range slices.Sorted(maps.Keys(l.byTID)) {
		t := l.byTID[tid]
		all = append(all, t)
		for oid, digest := range t.content {
			if last[oid].tid < tid {
				last[oid] = soakVersion{tid, digest}
			}
		}
	}
	maps.DeleteFunc(last, func(oid raidstorage.OID, _ soakVersion) bool { return l.garbage[oid] })
	return last, all
}
