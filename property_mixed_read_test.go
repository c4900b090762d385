package raidstorage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"

	"github.com/zeoraid/raidstorage"
)

// Reads, of what packs have left.

// read loads an object at a snapshot, and its blob.
func (r *mixedRun) read(rng *rand.Rand) {
	if r.m == nil || len(r.model.oids) == 0 || !r.settle() || r.failed() {
		return
	}
	oid := r.model.oids[rng.IntN(len(r.model.oids))]
	last := r.model.last()
	before := raidstorage.MaxTID
	switch revs := r.model.revs[oid]; rng.IntN(4) {
	case 0:
		before = last + 1
	case 1, 2:
		before = revs[rng.IntN(len(revs))].tid + raidstorage.TID(rng.IntN(2))
	}
	ctx, cancel := r.bounded()
	defer cancel()
	rev, err := r.m.LoadBefore(ctx, oid, before)
	r.note("read %x before %s: %s %v", uint64(oid), shortTID(before), shortTID(rev.Serial), propShort(err))
	if err != nil && raidstorage.Classify(err) != raidstorage.ClassAnswer {
		r.allowed("load", err)
		return
	}
	horizon := r.horizon()
	if err := r.rightRevision(oid, before, rev, err, horizon, r.reach(horizon)); err != nil {
		r.failf("load %v before %v: %w", oid, before, err)
	}
	if _, has := r.blobs[string(rev.Data)]; err != nil || !has {
		return
	}
	err = r.sameBlob(string(rev.Data), func(context.Context) (io.ReadCloser, error) { return r.m.OpenBlob(ctx, oid, rev.Serial) })
	if err == nil {
		return
	}
	r.note("      blob: %s", propShort(err))
	_, none := errors.AsType[*raidstorage.NotFoundError](err)
	at, next := r.model.at(oid, rev.Serial+1, last)
	switch horizon := r.horizon(); {
	case none && mayBeGone(at, next, horizon, r.reach(horizon)): // a pack goes on
	case !none && raidstorage.Classify(errors.Unwrap(err)) == raidstorage.ClassFailure && errors.Unwrap(err) != nil:
		r.allowed("blob", err)
	default:
		r.failf("blob of %v, %v: %w", oid, rev.Serial, err)
	}
}

// rightRevision compares what a load says with the model, after a pack to horizon.
func (r *mixedRun) rightRevision(oid raidstorage.OID, before raidstorage.TID, got raidstorage.Revision, err error, horizon raidstorage.TID, kept map[raidstorage.OID]bool) error {
	last := r.model.last()
	want, wantErr := r.model.load(oid, before, last)
	switch {
	case err != nil && wantErr != nil, err == nil && r.stale(oid, got.Serial, got.Data):
		return nil
	case err == nil && before <= horizon && got.Serial <= horizon && r.foreign[string(got.Data)]:
		return nil // nobody can tell that no pack took this from the others
	case err != nil:
		if rev, next := r.model.at(oid, before, last); mayBeGone(rev, next, horizon, kept) {
			return nil
		}
		return fmt.Errorf("got %w instead of %v", err, want.Serial)
	case wantErr != nil || got.Serial != want.Serial || got.Next != want.Next || !bytes.Equal(got.Data, want.Data):
		return fmt.Errorf("got %q %v next %v instead of %q %v next %v, %v", got.Data, got.Serial, got.Next, want.Data, want.Serial, want.Next, wantErr)
	}
	return nil
}

// lists compares one of the listings.
func (r *mixedRun) lists(rng *rand.Rand) {
	if r.m == nil || len(r.model.oids) == 0 || !r.settle() || r.failed() {
		return
	}
	ctx, cancel := r.bounded()
	defer cancel()
	list := []func(context.Context, raidstorage.Storage, *rand.Rand) error{r.listLog, r.listHistory, r.listUndo, r.listRecords}[rng.IntN(4)]
	err := list(ctx, r.m, rng)
	r.note("      %v", propShort(err))
	if wrong, ok := errors.AsType[*wrongError](err); ok {
		r.failf("%w", wrong)
	} else if err != nil {
		r.allowed("list", err)
	}
}

// wrongError says that an answer is wrong, not that there is none.
type wrongError struct{ what string }

func (e *wrongError) Error() string { return e.what }

func wrongf(format string, args ...any) error { return &wrongError{fmt.Sprintf(format, args...)} }

// listLog compares the whole log, down to what packs have left.
func (r *mixedRun) listLog(ctx context.Context, s raidstorage.Storage, _ *rand.Rand) error {
	log, err := propLogRange(ctx, s, 1, r.model.last())
	r.note("log: %d transactions", len(log))
	if err != nil {
		return err
	}
	return r.rightLog(log)
}

// rightLog compares a log with the model's: what is later than the pack horizon must be
// there, and all that is there must be right.
func (r *mixedRun) rightLog(log []propLogged) error {
	return r.rightLogThrough(log, r.model.last())
}

// rightLogThrough compares a beginning of the log.
func (r *mixedRun) rightLogThrough(log []propLogged, through raidstorage.TID) error {
	horizon := r.horizon()
	kept := r.reach(horizon)
	log = slices.DeleteFunc(log, func(l propLogged) bool { return r.foreign[l.id] && l.tid <= horizon })
	for _, t := range r.model.log {
		if t.tid > through {
			break
		}
		if len(log) == 0 || log[0].tid != t.tid {
			if t.tid <= horizon && (len(log) == 0 || log[0].tid > t.tid) && r.mayAllBeGone(t, nil, horizon, kept) {
				continue
			}
			return wrongf("the log lacks %s (%v), which is not later than the horizon %v", t.id, t.tid, horizon)
		}
		l := log[0]
		log = log[1:]
		if l.id != t.id {
			return wrongf("the log has %q where %q (%v) must be", l.id, t.id, t.tid)
		}
		if t.tid > horizon {
			if err := r.sameRecords(t, l.records); err != nil {
				return wrongf("%v", err)
			}
			continue
		}
		for _, rec := range l.records {
			i := slices.IndexFunc(t.recs, func(w propRec) bool { return w.oid == rec.OID })
			if i < 0 || !bytes.Equal(t.recs[i].data, rec.Data) {
				return wrongf("%s has %q for %v", t.id, rec.Data, rec.OID)
			}
		}
		if !r.mayAllBeGone(t, l.records, horizon, kept) {
			return wrongf("%s (%v) has lost records that no pack to %v takes: %v are left", t.id, t.tid, horizon, len(l.records))
		}
	}
	if len(log) > 0 {
		return wrongf("the log has %q (%v), which nobody made", log[0].id, log[0].tid)
	}
	return nil
}

// mayAllBeGone tells whether a pack may have taken those records of t that are not in left.
func (r *mixedRun) mayAllBeGone(t *propTxn, left []raidstorage.Record, horizon raidstorage.TID, kept map[raidstorage.OID]bool) bool {
	for _, rec := range t.recs {
		rev, next := r.model.at(rec.oid, t.tid+1, r.model.last())
		if !mayBeGone(rev, next, horizon, kept) && !slices.ContainsFunc(left, func(l raidstorage.Record) bool { return l.OID == rec.oid }) {
			return false
		}
	}
	return true
}

// listHistory compares an object's history.
func (r *mixedRun) listHistory(ctx context.Context, s raidstorage.Storage, rng *rand.Rand) error {
	oid, limit := r.model.oids[rng.IntN(len(r.model.oids))], 1+rng.IntN(5)
	h, err := raidstorage.Can[raidstorage.Historian](s)
	if err != nil {
		return err
	}
	infos, err := h.History(ctx, oid, limit)
	r.note("history of %x, limit %d: %d", uint64(oid), limit, len(infos))
	_, none := errors.AsType[*raidstorage.NotFoundError](err)
	if err != nil && !none {
		return err
	}
	horizon := r.horizon()
	kept := r.reach(horizon)
	for _, rev := range slices.Backward(r.model.revs[oid]) {
		if limit == 0 {
			break
		}
		limit--
		if len(infos) > 0 && infos[0].TID == rev.tid {
			infos = infos[1:]
			continue
		}
		if _, next := r.model.at(oid, rev.tid+1, r.model.last()); !mayBeGone(&rev, next, horizon, kept) {
			return wrongf("the history of %v lacks %v", oid, rev.tid)
		}
	}
	if len(infos) > 0 {
		return wrongf("the history of %v has %v, which is none of its revisions or not in order", oid, infos[0].TID)
	}
	return nil
}

// listUndo compares the undo log.
func (r *mixedRun) listUndo(ctx context.Context, s raidstorage.Storage, rng *rand.Rand) error {
	limit := 1 + rng.IntN(8)
	u, err := raidstorage.Can[raidstorage.Undoer](s)
	if err != nil {
		return err
	}
	infos, err := u.UndoLog(ctx, 0, limit, nil)
	r.note("undo log, limit %d: %d", limit, len(infos))
	if err != nil {
		return err
	}
	horizon := r.horizon()
	for i, t := range slices.Backward(r.model.log) {
		if n := len(r.model.log) - 1 - i; n >= len(infos) {
			if n < limit && t.tid > horizon {
				return wrongf("the undo log lacks %v, and a pack went to %v", t.tid, horizon)
			}
			break
		} else if infos[n].TID != t.tid {
			return wrongf("the undo log has %v where %v must be", infos[n].TID, t.tid)
		}
	}
	return nil
}

// listRecords compares the current records.
func (r *mixedRun) listRecords(ctx context.Context, s raidstorage.Storage, _ *rand.Rand) error {
	ri, err := raidstorage.Can[raidstorage.RecordIterator](s)
	if err != nil {
		return err
	}
	got := map[raidstorage.OID]raidstorage.Record{}
	for rec, err := range ri.CurrentRecords(ctx, 0) {
		if err != nil {
			return err
		}
		got[rec.OID] = rec
	}
	r.note("current records: %d", len(got))
	horizon := r.horizon()
	kept := r.reach(horizon)
	for _, oid := range r.model.oids {
		cur, _ := r.model.at(oid, raidstorage.MaxTID, raidstorage.MaxTID)
		rec, has := got[oid]
		delete(got, oid)
		switch {
		case !has && cur.data != nil && !mayBeGone(cur, 0, horizon, kept):
			return wrongf("object %v is not listed", oid)
		case has && (rec.TID != cur.tid || !bytes.Equal(rec.Data, cur.data)) && !r.stale(oid, rec.TID, rec.Data):
			return wrongf("object %v is %q %v instead of %q %v", oid, rec.Data, rec.TID, cur.data, cur.tid)
		}
	}
	for oid, rec := range got {
		if r.stale(oid, rec.TID, rec.Data) {
			continue
		}
		return wrongf("object %v is listed, which nobody made", oid)
	}
	return nil
}
