package raidstorage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// Commits, and what packs may have taken away.

// reach returns the objects that can be reached from the root as of a tid, or from any
// record that was written later: what a pack to it with garbage collection keeps.
func (r *mixedRun) reach(through raidstorage.TID) map[raidstorage.OID]bool {
	seen := map[raidstorage.OID]bool{}
	todo := []raidstorage.OID{0}
	for _, revs := range r.model.revs {
		for _, rev := range revs {
			if rev.tid > through {
				todo = append(todo, r.refs[string(rev.data)]...)
			}
		}
	}
	for len(todo) > 0 {
		oid := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[oid] {
			continue
		}
		seen[oid] = true
		if rev, _ := r.model.at(oid, through+1, through); rev != nil {
			todo = append(todo, r.refs[string(rev.data)]...)
		}
	}
	return seen
}

// reachable returns what can be reached now, in order.
func (r *mixedRun) reachable() []raidstorage.OID {
	seen := r.reach(raidstorage.MaxTID - 1)
	return slices.DeleteFunc(slices.Clone(r.model.oids), func(oid raidstorage.OID) bool { return !seen[oid] })
}

// loose returns the objects that cannot be reached now and that no pack can have taken.
func (r *mixedRun) loose() []raidstorage.OID {
	now, kept := r.reach(raidstorage.MaxTID-1), r.reach(r.horizon())
	return slices.DeleteFunc(slices.Clone(r.model.oids), func(oid raidstorage.OID) bool {
		cur, _ := r.model.at(oid, raidstorage.MaxTID, raidstorage.MaxTID)
		return now[oid] || cur.data == nil || !kept[oid] && cur.tid <= r.horizon()
	})
}

// mayBeGone tells whether a pack to horizon may have taken a revision; next is the tid
// of the one after it.
func mayBeGone(rev *propRev, next, horizon raidstorage.TID, kept map[raidstorage.OID]bool) bool {
	return rev != nil && rev.tid <= horizon && (rev.data == nil || next != 0 && next <= horizon || !kept[rev.oid])
}

// stale tells whether got is an older revision of an object that a pack may have taken,
// or what someone else wrote: a member that the record marks as unpacked may still have
// it, without the revisions that were written and dropped while it was away. Nothing
// refers to it.
func (r *mixedRun) stale(oid raidstorage.OID, got raidstorage.TID, data []byte) bool {
	horizon := r.horizon()
	if !r.uneven() && !r.unpacked || got > horizon || r.reach(horizon)[oid] {
		return false
	}
	cur, _ := r.model.at(oid, raidstorage.MaxTID, raidstorage.MaxTID)
	if cur != nil && cur.tid > horizon {
		return false
	}
	old, _ := r.model.at(oid, got+1, raidstorage.MaxTID)
	return r.foreign[string(data)] || old != nil && old.tid == got && bytes.Equal(old.data, data)
}

// hasBlob tells whether an object is a blob: every third one. While it cannot be reached it is
// not stored: a later pack to a time before drops the blobs of all its revisions in Python
// (fspack, blob_removed), and what nobody can reach nobody misses.
func hasBlob(oid raidstorage.OID) bool { return oid%3 == 2 }

// write makes the data of an object, with references.
func (r *mixedRun) write(rng *rand.Rand, id string, oid raidstorage.OID, refs []raidstorage.OID) []byte {
	text := fmt.Sprintf("%s of %x", id, uint64(oid))
	data := storagetest.Pickled(text, refs...)
	if hasBlob(oid) {
		data = strings.Replace(data, "cpersistent.mapping\nPersistentMapping\n", "cZODB.blob\nBlob\n", 1)
		r.blobs[data] = strings.Repeat(text+"\n", 1+rng.IntN(4)*rng.IntN(1000))
	}
	r.refs[data] = refs
	return []byte(data)
}

func (r *mixedRun) sameBlob(data string, open func(context.Context) (io.ReadCloser, error)) error {
	want, has := r.blobs[data]
	if open == nil {
		if has {
			return errors.New("a blob is missing")
		}
		return nil
	}
	got, err := readBlob(open(context.Background()))
	switch {
	case err != nil:
		return fmt.Errorf("blob: %w", err)
	case got != want:
		return fmt.Errorf("the blob is %d bytes %.50q instead of %d bytes %.50q", len(got), got, len(want), want)
	}
	return nil
}

func readBlob(blob io.ReadCloser, err error) (string, error) {
	if err != nil {
		return "", err
	}
	data, err := io.ReadAll(blob)
	return string(data), errors.Join(err, blob.Close())
}

// changes chooses what a transaction does.
func (r *mixedRun) changes(rng *rand.Rand, id string) (all []propChange) {
	last := r.model.last()
	if last == 0 {
		return []propChange{{kind: "store", data: r.write(rng, id, 0, nil)}}
	}
	if rng.IntN(5) == 0 {
		if c, ok := r.chooseUndo(rng); ok {
			return []propChange{c}
		}
	}
	if loose := r.loose(); len(loose) > 0 && rng.IntN(4) == 0 {
		c := propChange{kind: []string{"delete", "store"}[rng.IntN(2)], oid: loose[rng.IntN(len(loose))]}
		if hasBlob(c.oid) {
			c.kind = "delete"
		}
		cur, _ := r.model.at(c.oid, last+1, last)
		c.serial, c.data = cur.tid, r.write(rng, id, c.oid, r.refs[string(cur.data)])
		return []propChange{c}
	}
	old := r.reachable()
	used := map[raidstorage.OID]bool{}
	for range 1 + rng.IntN(3) {
		oid := old[rng.IntN(len(old))]
		if used[oid] {
			continue
		}
		used[oid] = true
		c := propChange{kind: "store", oid: oid}
		cur, _ := r.model.at(oid, last+1, last)
		c.serial = cur.tid
		if revs := r.model.revs[oid]; len(revs) > 1 && rng.IntN(12) == 0 {
			c.serial = revs[len(revs)-2].tid // stale
		}
		if rng.IntN(8) == 0 {
			c.kind = "check"
			all = append(all, c)
			continue
		}
		var refs []raidstorage.OID
		for _, ref := range r.refs[string(cur.data)] {
			if rng.IntN(3) > 0 && len(refs) < 6 {
				refs = append(refs, ref)
			}
		}
		for range rng.IntN(3) {
			if rng.IntN(3) == 0 {
				refs = append(refs, old[rng.IntN(len(old))])
			} else if n := r.newOID(rng); n != 0 {
				refs = append(refs, n)
				all = append(all, propChange{kind: "store", oid: n, data: r.write(rng, id, n, nil)})
			}
		}
		c.data = r.write(rng, id, oid, refs)
		all = append(all, c)
	}
	return all
}

// chooseUndo chooses a transaction to undo: one whose undoing the model can tell.
func (r *mixedRun) chooseUndo(rng *rand.Rand) (propChange, bool) {
	log := r.model.log
	t := log[len(log)-1-rng.IntN(min(len(log), 6))]
	horizon := r.horizon()
	kept := r.reach(horizon)
	undone, _ := r.model.undo(t.tid, r.model.last())
	reached := r.reach(raidstorage.MaxTID - 1)
	for i, rec := range undone {
		old, next := r.model.at(rec.oid, t.tid, r.model.last())
		if t.tid > horizon && mayBeGone(old, next, horizon, kept) {
			return propChange{}, false
		}
		if rec.oid == 0 && rec.data == nil { // the root's creation
			return propChange{}, false
		}
		if hasBlob(rec.oid) && rec.data != nil && !reached[rec.oid] {
			return propChange{}, false
		}
		for _, ref := range r.refs[string(undone[i].data)] { // else a reference to what was deleted comes back
			if cur, _ := r.model.at(ref, raidstorage.MaxTID, raidstorage.MaxTID); cur == nil || cur.data == nil {
				return propChange{}, false
			}
		}
	}
	return propChange{kind: "undo", serial: t.tid}, !r.model.repeatsDeletion(t.tid)
}

func (r *mixedRun) newOID(rng *rand.Rand) raidstorage.OID {
	ctx, cancel := r.bounded()
	defer cancel()
	n := 1 + rng.IntN(3)
	oids, err := r.m.NewOIDs(ctx, n)
	if err != nil {
		r.allowed("new oids", err)
		return 0
	}
	for _, oid := range oids {
		if oid == 0 || r.model.given[oid] || r.model.revs[oid] != nil {
			r.failf("oid %v was given before, or is used", oid)
		}
		r.model.given[oid] = true
	}
	return oids[rng.IntN(n)]
}

// commit makes one transaction and ends it in one of many ways.
func (r *mixedRun) commit(rng *rand.Rand) {
	if r.m == nil || !r.settle() || r.failed() {
		return
	}
	r.ids++
	id := fmt.Sprintf("t%d", r.ids)
	changes := r.changes(rng, id)
	r.note("%s: commit %v", id, changes)
	ctx, cancel := r.bounded()
	defer cancel()
	txn, t := r.vote(ctx, changes, id)
	if txn == nil {
		return
	}
	defer txn.Abort(context.WithoutCancel(ctx))
	switch way := rng.IntN(24); {
	case way == 0 && !r.calm:
		r.note("      aborted after the vote")
		t.fate = propOut
		return
	case way == 1 && !r.calm:
		r.note("      the mirror dies between vote and finish")
		r.crash()
		t.fate = propOut // nothing was sent
		return
	case way < 5 && !r.calm:
		d := r.pickDisk(rng)
		r.note("      %v dies between vote and finish", d)
		d.die()
	case way < 7 && !r.calm:
		d := r.pickDisk(rng)
		r.note("      %v dies while it finishes", d)
		d.inject(storagetest.Fault{Call: storagetest.CallFinish, Kind: []storagetest.Kind{storagetest.Observe, storagetest.LoseReply}[rng.IntN(2)], Times: 1, Hook: d.die})
	case way == 7 && !r.calm:
		r.note("      the mirror dies while it finishes")
		r.pickDisk(rng).inject(storagetest.Fault{Call: storagetest.CallFinish, Kind: storagetest.LoseReply, Times: 1, Hook: r.killer()})
	}
	tid, err := txn.Finish(ctx)
	r.finished(t, tid, err)
}

// vote begins a transaction and votes; nil if it did not get that far.
func (r *mixedRun) vote(ctx context.Context, changes []propChange, id string) (raidstorage.Txn, *propTxn) {
	t := &propTxn{id: id, gen: r.gens, fate: propOut}
	r.model.all[id] = t
	txn, err := r.m.Begin(ctx, raidstorage.Meta{Description: []byte(id)})
	if err != nil {
		r.allowed("begin", err)
		return nil, nil
	}
	for _, c := range changes {
		switch blob, has := r.blobs[string(c.data)]; {
		case c.kind == "store" && has:
			err = raidstorage.StoreBlob(ctx, txn, c.oid, c.serial, c.data, strings.NewReader(blob))
		case c.kind == "store":
			err = txn.Store(ctx, c.oid, c.serial, c.data)
		case c.kind == "delete":
			err = txn.Delete(ctx, c.oid, c.serial)
		case c.kind == "check":
			err = txn.CheckCurrent(ctx, c.oid, c.serial)
		case c.kind == "undo":
			err = raidstorage.Undo(ctx, txn, c.serial)
		}
		if err != nil {
			r.allowed(c.kind, err)
			_ = txn.Abort(ctx) // the contract: always safe, nothing to learn
			return nil, nil
		}
	}
	horizon, busy := r.horizon(), r.noUndo()
	v, err := txn.Vote(ctx)
	recs, refusals := r.model.vote(changes, r.model.last())
	if err != nil {
		_ = txn.Abort(ctx)
		r.refused(changes, refusals, err, busy)
		return nil, nil
	}
	switch undo := changes[0]; {
	case v.Last != r.model.last():
		r.failf("the vote tells last tid %v, the last one acknowledged is %v", v.Last, r.model.last())
	case len(refusals) > 0:
		r.failf("the vote on %s succeeded, but must be refused: %w", id, refusals[0])
	case undo.kind == "undo" && undo.serial <= horizon:
		r.failf("the undo of %v was accepted, and a pack went to %v", undo.serial, horizon)
	}
	t.recs, t.fate = recs, propPending
	return txn, t
}

// noUndo tells whether undos may be refused now.
func (r *mixedRun) noUndo() bool { return r.uneven() || r.packing.Load() > 0 }

// refused checks that the model, too, refuses. busy tells whether undos might be refused
// before the vote: what refused it may have ended since.
func (r *mixedRun) refused(changes []propChange, refusals []error, err error, busy bool) {
	r.note("      vote: %s", propShort(err))
	if raidstorage.Classify(err) != raidstorage.ClassAnswer {
		r.allowed("vote", err)
		return
	}
	if none, ok := errors.AsType[*raidstorage.NotFoundError](err); ok { // a pack began after the object was chosen
		cur, _ := r.model.at(none.OID, raidstorage.MaxTID, raidstorage.MaxTID)
		if horizon := r.horizon(); mayBeGone(cur, 0, horizon, r.reach(horizon)) {
			return
		}
	}
	undo, isUndo := errors.AsType[*raidstorage.UndoError](err)
	if isUndo && (undo.TID <= r.horizon() || busy || r.noUndo()) || rightAnswer(err, refusals) {
		return
	}
	if isUndo && len(refusals) > 0 { // of several objects that were changed it may name any
		if other, ok := errors.AsType[*raidstorage.UndoError](refusals[0]); ok && other.TID == undo.TID {
			return
		}
	}
	r.failf("the vote on %v was refused without reason: %w", changes, err)
}

// finished notes how a commit ended.
func (r *mixedRun) finished(t *propTxn, tid raidstorage.TID, err error) {
	unknown, isUnknown := errors.AsType[*raidstorage.OutcomeUnknownError](err)
	switch {
	case err == nil:
		t.tid = tid
		r.note("      acknowledged %s (%s)", t.id, shortTID(tid))
	case isUnknown:
		t.tid, t.fate = unknown.TID, propUnknown
		r.note("      %s", propShort(err))
		r.allowed("finish", err)
	case r.gen.killed():
		t.fate = propUnknown
		r.note("      %s", propShort(err))
		return
	default:
		t.fate = propOut
		r.note("      %s", propShort(err))
		r.allowed("finish", err)
		return
	}
	if t.tid <= r.model.greatest {
		r.failf("%s got tid %v, not after %v", t.id, t.tid, r.model.greatest)
	}
	r.model.greatest = max(r.model.greatest, t.tid)
	if err == nil {
		if err := r.model.settleIn(t); err != nil {
			r.failf("%w", err)
		}
	}
}
