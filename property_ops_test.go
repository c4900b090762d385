package raidstorage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// Commits and reads.

// pickOID returns an oid that was written, if there is one.
func (r *propRun) pickOID(rng *rand.Rand) raidstorage.OID {
	if len(r.model.oids) == 0 {
		return 1 << 40
	}
	return r.model.oids[rng.IntN(len(r.model.oids))]
}

// changes chooses what a transaction does.
func (r *propRun) changes(rng *rand.Rand, id string) []propChange {
	last := r.model.last()
	if len(r.model.log) > 0 && rng.IntN(6) == 0 {
		log := r.model.log
		tid := log[len(log)-1-rng.IntN(min(len(log), 4))].tid
		if !r.model.repeatsDeletion(tid) {
			return []propChange{{kind: "undo", serial: tid}}
		}
	}
	var all []propChange
	used := make(map[raidstorage.OID]bool)
	for range 1 + rng.IntN(4) {
		c := propChange{kind: []string{"new", "store", "store", "store", "delete", "check"}[rng.IntN(6)]}
		if len(r.model.oids) == 0 || c.kind == "new" {
			c.kind, c.oid = "store", r.newOID(rng)
		} else {
			c.oid = r.pickOID(rng)
			if cur, _ := r.model.at(c.oid, last+1, last); cur != nil {
				c.serial = cur.tid
			}
			if rng.IntN(8) == 0 { // stale, or never read
				c.serial = 0
				if revs := r.model.revs[c.oid]; len(revs) > 1 {
					c.serial = revs[len(revs)-2].tid
				}
			}
		}
		if c.oid == 0 || used[c.oid] {
			continue
		}
		used[c.oid] = true
		if c.kind == "store" {
			c.data = fmt.Appendf(nil, "%s of %x", id, uint64(c.oid))
		}
		all = append(all, c)
	}
	return all
}

// newOID takes an oid, 0 if none is given.
func (r *propRun) newOID(rng *rand.Rand) raidstorage.OID {
	n := 1 + rng.IntN(3)
	oids, err := r.m.NewOIDs(context.Background(), n)
	if err != nil {
		r.allowed("new oids", err)
		return 0
	}
	for i, oid := range oids {
		if oid == 0 || r.model.given[oid] || r.model.revs[oid] != nil || i > 0 && oid <= oids[i-1] || len(oids) != n {
			r.failf("oids %v for %d; given before, or used: %v", oids, n, r.model.given[oid])
		}
		r.model.given[oid] = true
		r.model.handed = append(r.model.handed, oid)
	}
	return oids[rng.IntN(n)]
}

// bounded is a context that now and then ends soon.
func (r *propRun) bounded(rng *rand.Rand) (context.Context, context.CancelFunc) {
	if !r.calm && rng.IntN(6) == 0 {
		return context.WithTimeout(context.Background(), time.Duration(rng.IntN(2500))*time.Millisecond)
	}
	return context.WithCancel(context.Background())
}

// vote begins a transaction and votes; nil if it did not get that far.
func (r *propRun) vote(rng *rand.Rand, changes []propChange, id string) (raidstorage.Txn, *propTxn) {
	t := &propTxn{id: id, gen: r.gen.n, fate: propOut}
	r.model.all[id] = t
	ctx, cancel := r.bounded(rng)
	defer cancel()
	txn, err := r.m.Begin(ctx, raidstorage.Meta{Description: []byte(id)})
	if err != nil {
		r.allowed("begin", err)
		return nil, nil
	}
	for _, c := range changes {
		switch c.kind {
		case "store":
			err = txn.Store(ctx, c.oid, c.serial, c.data)
		case "delete":
			err = txn.Delete(ctx, c.oid, c.serial)
		case "check":
			err = txn.CheckCurrent(ctx, c.oid, c.serial)
		case "undo":
			err = raidstorage.Undo(ctx, txn, c.serial)
		}
		if err != nil {
			r.allowed(c.kind, err)
			_ = txn.Abort(ctx) // the contract: always safe, nothing to learn
			return nil, nil
		}
	}
	if rng.IntN(16) == 0 {
		r.note("      aborted before the vote")
		if err := txn.Abort(ctx); err != nil {
			r.failf("abort before the vote: %w", err)
		}
		return nil, nil
	}
	before := r.model.last()
	r.hasty(rng)
	v, err := txn.Vote(ctx)
	if err != nil || len(r.model.unsettled()) > 0 || rng.IntN(2) == 0 {
		r.look()
	} else {
		r.hasty(rng) // and finish at once, whatever goes on in the background
	}
	if r.gen.killed() && err != nil || r.err != nil {
		return nil, nil
	}
	if err != nil {
		r.refused(before, changes, err)
		_ = txn.Abort(ctx)
		return nil, nil
	}
	recs, refusals := r.model.vote(changes, v.Last)
	t.after = v.Last
	behind := r.model.inFlight(v.Last, r.gen.n)
	switch {
	case behind != nil && behind.overlap(changes):
		r.failf("the vote on %s succeeded, behind %s in flight, which changes the same", id, behind.id)
	case !r.gen.killed() && v.Last != r.model.last() && behind == nil:
		r.failf("the vote tells last tid %v, visible is %v", v.Last, r.model.last())
	case len(refusals) > 0:
		r.failf("the vote on %s succeeded, but must be refused: %w", id, refusals[0])
	}
	t.recs, t.fate = recs, propPending
	return txn, t
}

// hasty reads without looking at the answer, so that faults are found while a commit
// goes on.
func (r *propRun) hasty(rng *rand.Rand) {
	for range max(rng.IntN(8)-4, 0) {
		_, err := r.m.LoadBefore(context.Background(), r.pickOID(rng), raidstorage.MaxTID)
		if err != nil && raidstorage.Classify(err) != raidstorage.ClassAnswer {
			r.allowed("load", err)
		}
	}
}

// refused checks that the model, too, refuses.
func (r *propRun) refused(before raidstorage.TID, changes []propChange, err error) {
	r.note("      vote: %s", propShort(err))
	if raidstorage.Classify(err) != raidstorage.ClassAnswer {
		r.allowed("vote", err)
		return
	}
	for _, last := range r.between(before) {
		if _, refusals := r.model.vote(changes, last); rightAnswer(err, refusals) {
			return
		}
	}
	r.failf("the vote was refused without reason: %w", err)
}

// finished notes how a commit ended.
func (r *propRun) finished(t *propTxn, tid raidstorage.TID, err error) {
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
		r.landed(t.after)
		if err := r.model.settleIn(t); err != nil {
			r.failf("%w", err)
		}
	}
}

// landed notes that a transaction was acknowledged that followed tid: if that was in
// flight, of unknown outcome, it is in, as are those before it (L2).
func (r *propRun) landed(tid raidstorage.TID) {
	t := r.model.inFlight(tid, r.gen.n)
	if t == nil {
		return
	}
	r.landed(t.after)
	if err := r.model.settleIn(t); err != nil {
		r.failf("%w", err)
		return
	}
	r.note("      %s (%s) is in", t.id, shortTID(t.tid))
	r.wantNews(t)
}

// commit makes one transaction and ends it in one of many ways.
func (r *propRun) commit(rng *rand.Rand) {
	if !r.running() {
		return
	}
	r.ids++
	id := fmt.Sprintf("t%d", r.ids)
	changes := r.changes(rng, id)
	r.note("%s: commit %v", id, changes)
	if r.gen.killed() {
		return
	}
	txn, t := r.vote(rng, changes, id)
	if txn == nil {
		return
	}
	switch way := rng.IntN(20); {
	case way == 0:
		r.note("      aborted after the vote")
		t.fate = propOut
		if err := txn.Abort(context.Background()); err != nil {
			r.failf("abort after the vote: %w", err)
		}
	case way == 1 && !r.calm:
		r.note("      crash between vote and finish")
		r.crash()
		t.fate = propOut // nothing was sent
	case way < 7 && !r.calm:
		r.finishSlowly(rng, txn, t)
	default:
		ctx, cancel := r.bounded(rng)
		tid, err := txn.Finish(ctx)
		cancel()
		r.finished(t, tid, err)
	}
	_ = txn.Abort(context.Background()) // no effect on one that has ended
}

// propHeld is a backend whose next finish is held up.
type propHeld struct {
	d *propDisk
	f *storagetest.FaultyStorage
}

// finishSlowly holds finish up at some backends, looks whether the mirror waits for
// them (C7), and goes on from there.
func (r *propRun) finishSlowly(rng *rand.Rand, txn raidstorage.Txn, t *propTxn) {
	kind := []storagetest.Kind{storagetest.Hang, storagetest.HangHard}[rng.IntN(2)]
	var held []propHeld
	for _, d := range r.disks {
		if all := r.gen.on(d); len(all) > 0 && rng.IntN(2) == 0 {
			f := all[len(all)-1]
			f.Inject(storagetest.Fault{Call: storagetest.CallFinish, Kind: kind, Times: 1})
			held = append(held, propHeld{d, f})
			r.note("      %v finish at %s", kind, d.name)
		}
	}
	type result struct {
		tid raidstorage.TID
		err error
	}
	done := make(chan result, 1)
	ctx, cancel := r.bounded(rng)
	defer cancel()
	go func() {
		tid, err := txn.Finish(ctx)
		done <- result{tid, err}
	}()
	waiting := true
	r.poll = func() { // before anything is judged by the model
		select {
		case res := <-done:
			waiting, r.poll = false, nil
			r.finished(t, res.tid, res.err)
		default:
		}
	}
	propSettle()
	gen := r.gen
	if len(done) == 0 && !gen.killed() {
		r.look()
		r.read(rng)
		r.lists(rng)
	}
	switch way := rng.IntN(4); {
	case gen.killed():
	case way == 0:
		r.note("      crash in the middle of finish")
		r.crash() // t's outcome is what Finish says, or unknown
	case way == 1:
		r.note("      the held up go on")
		for _, h := range held {
			h.f.Release()
		}
	case way == 2:
		r.note("      the held up are cut off")
		for _, h := range held {
			gen.cut(h.d, rng.IntN(2) == 0)
		}
	}
	r.poll = nil
	if waiting {
		res := <-done
		r.finished(t, res.tid, res.err)
	}
	for _, h := range held {
		h.f.Release()
	}
}

// read loads an object and compares.
func (r *propRun) read(rng *rand.Rand) {
	if r.m == nil || r.gen.killed() || r.err != nil {
		return
	}
	oid := r.pickOID(rng)
	last := r.model.last()
	before := raidstorage.MaxTID
	switch revs := r.model.revs[oid]; rng.IntN(5) {
	case 0:
		before = last + 1
	case 1, 2:
		if len(revs) > 0 {
			before = revs[rng.IntN(len(revs))].tid + raidstorage.TID(rng.IntN(2))
		}
	case 3:
		before = last + 1 + raidstorage.TID(rng.IntN(3))
	}
	ctx, cancel := r.bounded(rng)
	defer cancel()
	rev, err := r.m.LoadBefore(ctx, oid, before)
	r.note("read %x before %s: %s %v", uint64(oid), shortTID(before), shortTID(rev.Serial), propShort(err))
	r.look()
	if r.gen.killed() || r.err != nil {
		return
	}
	if err != nil && raidstorage.Classify(err) != raidstorage.ClassAnswer {
		r.allowed("load", err)
		return
	}
	var wrong error
	for _, v := range r.between(last) {
		want, wantErr := r.model.load(oid, before, v)
		if wrong = r.compareRevision(rev, err, want, wantErr); wrong == nil {
			return
		}
	}
	r.failf("load %v before %v: %w", oid, before, wrong)
}

func (r *propRun) compareRevision(got raidstorage.Revision, err error, want raidstorage.Revision, wantErr error) error {
	if err != nil || wantErr != nil {
		if err == nil || wantErr == nil || err.Error() != wantErr.Error() {
			return fmt.Errorf("got %v (%v) instead of %v (%v)", err, got.Serial, wantErr, want.Serial)
		}
		return nil
	}
	if got.Serial != want.Serial || got.Next != want.Next || !bytes.Equal(got.Data, want.Data) && !r.tainted {
		return fmt.Errorf("got %q %v next %v instead of %q %v next %v", got.Data, got.Serial, got.Next, want.Data, want.Serial, want.Next)
	}
	return nil
}

// lists compares one of the listings.
func (r *propRun) lists(rng *rand.Rand) {
	if r.m == nil || r.gen.killed() || r.err != nil {
		return
	}
	last := r.model.last()
	ctx, cancel := r.bounded(rng)
	defer cancel()
	list := []func(context.Context, *rand.Rand) propListing{r.listLog, r.listHistory, r.listUndo, r.listRecords}[rng.IntN(4)]
	l := list(ctx, rng)
	what, got, err := l.what, l.got, l.err
	r.note("%s: %d, %v", what, len(got), propShort(err))
	r.look()
	if r.gen.killed() || r.err != nil {
		return
	}
	answer := err == nil || raidstorage.Classify(err) == raidstorage.ClassAnswer
	if !answer {
		r.allowed(what, err)
	}
	var wanted []string
	for _, v := range r.between(last) {
		var wantErr error
		wanted, wantErr = l.want(v)
		switch {
		case !answer && len(got) <= len(wanted) && slices.Equal(got, wanted[:len(got)]):
			return
		case answer && slices.Equal(got, wanted) && propShort(err) == propShort(wantErr):
			return
		}
	}
	if r.tainted && what[:4] == "curr" {
		return
	}
	r.failf("%s: got %v, %v instead of %v", what, got, err, wanted)
}

// propListing is what a listing told, and what it must tell when last is visible.
type propListing struct {
	what string
	got  []string
	err  error
	want func(last raidstorage.TID) ([]string, error)
}

func (r *propRun) listLog(ctx context.Context, rng *rand.Rand) (l propListing) {
	from, through := raidstorage.TID(0), raidstorage.MaxTID
	if log := r.model.log; len(log) > 0 && rng.IntN(2) == 0 {
		i := rng.IntN(len(log))
		from, through = log[i].tid, log[i+rng.IntN(len(log)-i)].tid
	}
	line := func(tid raidstorage.TID, id string, oid raidstorage.OID, data []byte) string {
		return fmt.Sprintf("%v %s %v %q", tid, id, oid, data)
	}
	for txn, err := range r.m.Iterate(ctx, from, through) {
		if l.err = err; err != nil {
			break
		}
		var lines []string
		for rec, err := range txn.Records {
			if l.err = err; err != nil {
				break
			}
			lines = append(lines, line(txn.TID, string(txn.Description), rec.OID, rec.Data))
		}
		slices.Sort(lines) // an interrupted transaction is cut short below
		if l.err != nil {
			break
		}
		l.got = append(l.got, lines...)
	}
	l.what = fmt.Sprintf("iterate %s to %s", shortTID(from), shortTID(through))
	l.want = func(last raidstorage.TID) (all []string, _ error) {
		for _, t := range r.model.log {
			if t.tid < from || t.tid > through || t.tid > last {
				continue
			}
			var lines []string
			for _, rec := range t.recs {
				lines = append(lines, line(t.tid, t.id, rec.oid, rec.data))
			}
			slices.Sort(lines)
			all = append(all, lines...)
		}
		return all, nil
	}
	return l
}

func (r *propRun) listHistory(ctx context.Context, rng *rand.Rand) (l propListing) {
	oid, limit := r.pickOID(rng), 1+rng.IntN(4)
	if rng.IntN(4) == 0 && len(r.model.handed) > 0 { // perhaps one that only a pending transaction has
		oid = r.model.handed[rng.IntN(len(r.model.handed))]
	}
	var infos []raidstorage.TxnInfo
	infos, l.err = r.m.History(ctx, oid, limit)
	for _, i := range infos {
		l.got = append(l.got, i.TID.String())
	}
	l.what = fmt.Sprintf("history of %x, limit %d", uint64(oid), limit)
	l.want = func(last raidstorage.TID) (all []string, _ error) {
		for _, rev := range slices.Backward(r.model.revs[oid]) {
			if rev.tid <= last {
				all = append(all, rev.tid.String())
			}
		}
		if len(all) == 0 {
			return nil, &raidstorage.NotFoundError{OID: oid}
		}
		return all[:min(len(all), limit)], nil
	}
	return l
}

func (r *propRun) listUndo(ctx context.Context, rng *rand.Rand) (l propListing) {
	skip, limit := rng.IntN(3), 1+rng.IntN(5)
	var infos []raidstorage.TxnInfo
	infos, l.err = r.m.UndoLog(ctx, skip, limit, nil)
	for _, i := range infos {
		l.got = append(l.got, i.TID.String())
	}
	l.what = fmt.Sprintf("undo log, skip %d, limit %d", skip, limit)
	l.want = func(last raidstorage.TID) (all []string, _ error) {
		for _, t := range slices.Backward(r.model.log) {
			if t.tid <= last {
				all = append(all, t.tid.String())
			}
		}
		all = all[min(skip, len(all)):]
		return all[:min(len(all), limit)], nil
	}
	return l
}

func (r *propRun) listRecords(ctx context.Context, rng *rand.Rand) (l propListing) {
	var from raidstorage.OID
	if rng.IntN(2) == 0 {
		from = r.pickOID(rng)
	}
	for rec, err := range r.m.CurrentRecords(ctx, from) {
		if l.err = err; err != nil {
			break
		}
		l.got = append(l.got, fmt.Sprintf("%v %v %q", rec.OID, rec.TID, rec.Data))
	}
	l.what = fmt.Sprintf("current records from %x", uint64(from))
	l.want = func(last raidstorage.TID) (all []string, _ error) {
		for _, oid := range slices.Sorted(slices.Values(r.model.oids)) {
			if rev, _ := r.model.at(oid, last+1, last); oid >= from && rev != nil && rev.data != nil {
				all = append(all, fmt.Sprintf("%v %v %q", oid, rev.tid, rev.data))
			}
		}
		return all, nil
	}
	return l
}
