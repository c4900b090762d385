package raidstorage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
)

// compareLogs walks all logs side by side.
func (v *verification) compareLogs(ctx context.Context) error {
	v.report.Phase = VerifyLog
	for _, x := range v.alive() {
		defer x.end()
		v.advance(ctx, x)
	}
	for {
		var least TID
		for _, x := range v.alive() {
			if x.more && (least == 0 || x.id.tid < least) {
				least = x.id.tid
			}
		}
		if err := ctx.Err(); err != nil || least == 0 {
			return err
		}
		if err := v.compareTransaction(ctx, least); err != nil {
			return err
		}
		v.report.TID = least
		v.report.Transactions++
		if err := v.pace(ctx); err != nil {
			return err
		}
		for _, x := range v.alive() {
			if x.more && x.id.tid == least {
				v.advance(ctx, x)
			}
		}
	}
}

// compareTransaction compares one transaction of all sides. What differs is read again,
// from the beginning, before it counts: a reading error must not look like damage.
func (v *verification) compareTransaction(ctx context.Context, tid TID) error {
	err := v.compareAt(ctx, tid)
	if err == nil && len(v.found) > 0 {
		v.found = v.found[:0]
		for _, x := range v.alive() {
			if x.more && x.id.tid == tid {
				v.readAgain(ctx, x)
			}
		}
		err = v.compareAt(ctx, tid)
	}
	if err == nil {
		err = v.mend(ctx, tid)
	}
	if err != nil {
		return err
	}
	return v.settleFindings(ctx)
}

// compareAt notes what differs in one transaction.
func (v *verification) compareAt(ctx context.Context, tid TID) error {
	sides := v.alive()
	has := func(x *side) bool { return x.more && x.id.tid == tid }
	if !slices.ContainsFunc(sides, has) {
		return nil
	}
	first := sides[0]
	if !slices.ContainsFunc(sides, func(x *side) bool { return !has(x) || x.id.digest != first.id.digest || len(x.noBlob) > 0 }) {
		return nil
	}
	var oids []OID
	metas := make([]*digest, len(sides))
	for i, x := range sides {
		if has(x) {
			metas[i] = &x.id.meta
			for oid := range x.id.records {
				oids = append(oids, oid)
			}
		}
	}
	slices.Sort(oids)
	oids = slices.Compact(oids)
	kinds := make(map[*side]FindingKind)
	for i, x := range sides {
		kinds[x] = FindingTransaction
		if metas[i] == nil && (len(oids) > 0 || tid <= x.horizon) { // there are findings below, or it has packed it
			metas[i] = metas[slices.IndexFunc(metas, func(d *digest) bool { return d != nil })]
		}
	}
	v.judge(sides, metas, Finding{Kind: FindingMetadata, TID: tid}, kinds)
	whole := make([]bool, len(sides)) // the finding about the whole transaction is made
	for _, oid := range oids {
		if err := v.compareRecord(ctx, sides, has, oid, tid, whole); err != nil {
			return err
		}
	}
	return nil
}

// compareRecord compares one record of a transaction.
func (v *verification) compareRecord(ctx context.Context, all []*side, has func(*side) bool, oid OID, tid TID, whole []bool) error {
	var sides []*side
	var sums []*digest
	kinds := make(map[*side]FindingKind)
	for i, x := range all {
		var sum *digest
		if has(x) {
			if d, ok := x.id.records[oid]; ok {
				sum = &d
			}
		}
		if has(x) && x.noBlob[oid] {
			sum, kinds[x] = nil, FindingBlob
		} else if sum == nil {
			dropped, err := patient(ctx, v, x, func() (bool, error) { return superseded(ctx, x.timely, oid, tid, x.horizon) })
			if err != nil {
				v.lost(ctx, x, err)
			}
			if dropped || err != nil || whole[i] {
				continue
			}
			kinds[x] = FindingMissing
			if !has(x) {
				kinds[x], whole[i] = FindingTransaction, true
			}
			if x.uneven && tid <= x.horizon {
				switch alive, known := v.alivePacked(ctx, oid, tid); {
				case !known:
					v.note(Finding{Backend: x.b.cfg.Name, Kind: kinds[x], OID: oid, TID: tid, Detail: "a pack has left this backend out, and nobody who was packed can be asked"})
					continue
				case !alive:
					continue
				}
			}
		}
		sides, sums = append(sides, x), append(sums, sum)
	}
	v.judge(sides, sums, Finding{Kind: FindingRecord, OID: oid, TID: tid}, kinds)
	return ctx.Err()
}

// alivePacked tells whether a backend that was packed as the record says still has an object
// of which tid wrote a record. If not, those that the pack has left out may hold any older
// revision of it, and lack later ones if they were recovered since.
func (v *verification) alivePacked(ctx context.Context, oid OID, tid TID) (alive, known bool) {
	for _, x := range v.alive() {
		if x.uneven || tid > x.horizon {
			continue
		}
		_, err := patient(ctx, v, x, func() (Revision, error) { return x.timely.LoadBefore(ctx, oid, x.horizon+1) })
		switch {
		case err == nil:
			return true, true
		case isA[*NotFoundError](err):
			known = true
		default:
			v.lost(ctx, x, err)
		}
	}
	return false, known
}

// judge compares what the sides have, nil for nothing, and notes who is wrong.
func (v *verification) judge(sides []*side, sums []*digest, f Finding, kinds map[*side]FindingKind) {
	votes := make(map[digest]int)
	missing := 0
	for _, sum := range sums {
		if sum == nil {
			missing++
		} else {
			votes[*sum]++
		}
	}
	if missing == 0 && len(votes) <= 1 || len(votes) == 0 {
		return
	}
	// right is what more than half say, or what some say while others say nothing.
	var right *digest
	nothing := 2*missing > len(sums) && !blobMissing(kinds)
	for sum, n := range votes {
		if 2*n > len(sums) || len(votes) == 1 && !nothing {
			right = &sum
		}
	}
	for i, x := range sides {
		if sums[i] == nil && nothing || right != nil && sums[i] != nil && *sums[i] == *right {
			continue
		}
		f := f
		f.Backend, f.Wrong = x.b.cfg.Name, right != nil || nothing
		if kind, ok := kinds[x]; ok && sums[i] == nil {
			f.Kind = kind
		}
		v.note(f)
	}
}

// blobMissing tells whether some lack a blob. However many do: it was there when the
// transaction voted.
func blobMissing(kinds map[*side]FindingKind) bool {
	for _, kind := range kinds {
		if kind == FindingBlob {
			return true
		}
	}
	return false
}

// compareObjects compares the current records.
func (v *verification) compareObjects(ctx context.Context) error {
	v.report.Phase = VerifyObjects
	failures, at := 0, v.report.OID
	for ctx.Err() == nil {
		sides := slices.DeleteFunc(v.alive(), func(x *side) bool { return !Supports(x.storage, reflect.TypeFor[RecordIterator]()) })
		if len(sides) < 2 {
			return nil // one alone has nothing to be compared with
		}
		err := v.compareObjectsOf(ctx, sides)
		i := slices.IndexFunc(sides, func(x *side) bool { return isOf(err, x.session) })
		if i < 0 {
			if err == nil || len(v.alive()) >= len(sides) {
				return err
			}
			continue // one was degraded
		}
		if v.report.OID > at {
			failures, at = 0, v.report.OID
		}
		if failures++; !v.again(ctx, sides[i], failures, err) {
			v.lost(ctx, sides[i], err)
			failures = 0
		}
	}
	return ctx.Err()
}

// errFewer ends a walk over the records of a side that is not compared any more.
var errFewer = errors.New("a backend was degraded")

func (v *verification) compareObjectsOf(ctx context.Context, sides []*side) error {
	sessions := make([]*session, len(sides))
	for i, x := range sides {
		sessions[i] = x.session
	}
	from := v.report.OID // compared before one was lost, or before a pause
	return walkCurrentFrom(ctx, v.m, sessions, from, func(oid OID, records []*Record) error {
		if oid != from || v.report.Objects == 0 {
			v.report.Objects++
		}
		v.report.OID = oid
		for i, r := range records {
			if r != nil {
				v.reads(sides[i], len(r.Data))
			}
		}
		if err := v.compareObject(ctx, sides, oid, records); err != nil {
			return err
		}
		if err := v.settleFindings(ctx); err != nil {
			return err
		}
		if slices.ContainsFunc(sides, func(x *side) bool { return x.failed }) {
			return errFewer
		}
		return v.pace(ctx)
	})
}

// compareObject compares the current records of one object. What differs is loaded as
// of the start: commits go on.
func (v *verification) compareObject(ctx context.Context, sides []*side, oid OID, records []*Record) error {
	if allEqual(records) {
		return nil // nearly always, and without a digest
	}
	sums, err := v.recordSums(ctx, sides, records)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(sums, func(d *digest) bool { return d == nil || *d != *orZero(sums[0]) }) {
		return nil
	}
	var judged []*side
	var votes []*digest
	var serials []TID // 0: it has none
	uneven := v.m.uneven.Load()
	collected := false // by who is packed as the record says
	for _, x := range sides {
		rev, err := patient(ctx, v, x, func() (Revision, error) { return x.timely.LoadBefore(ctx, oid, v.report.Through+1) })
		switch {
		case isA[*NotFoundError](err):
			if !uneven { // else it may be garbage that this one has dropped
				judged, votes, serials = append(judged, x), append(votes, nil), append(serials, 0)
			}
			collected = collected || !x.uneven
		case err != nil:
			return &BackendError{Backend: x.b.cfg.Name, Op: "load", Err: err}
		default:
			sum, err := recordDigest(ctx, Record{Data: rev.Data})
			if err != nil {
				return err
			}
			for i, b := range rev.Serial.Bytes() {
				sum[i] ^= b // two revisions with the same data differ
			}
			judged, votes, serials = append(judged, x), append(votes, &sum), append(serials, rev.Serial)
		}
	}
	// Those that a pack has left out may hold any revision of what it has dropped.
	left := len(judged) > 0 && !slices.ContainsFunc(judged, func(x *side) bool { return !x.uneven }) && slices.Max(serials) <= judged[0].horizon
	if left && collected {
		return nil
	}
	v.judge(judged, votes, Finding{Kind: FindingObject, OID: oid, TID: v.report.Through}, nil)
	switch {
	case len(v.found) == 0:
		return nil
	case slices.Min(serials) == slices.Max(serials):
		return v.mendObject(ctx, oid, serials[0])
	case left:
		for i := range v.found {
			v.found[i].Wrong = false
		}
		return nil
	}
	return v.blameIndex(ctx, judged, serials, oid)
}

// mendObject has a current record mended that has changed since its transaction was
// compared.
func (v *verification) mendObject(ctx context.Context, oid OID, serial TID) error {
	if !v.mends() {
		return nil
	}
	found := slices.Clone(v.found)
	for i := range found {
		found[i].Kind, found[i].TID = FindingRecord, serial
	}
	decided, err := v.mendRecord(ctx, oid, serial, found)
	if err != nil {
		v.found = decided
		return v.settleRepaired(ctx, err)
	}
	if len(decided) > 0 { // else the logs are alike
		v.found = decided
	}
	return nil
}

// rebuildIndex tells an operator what to do about an index.
const rebuildIndex = "disable the backend, have its index made anew (of a file storage: remove the .index file), and recover it"

// blameIndex looks whether those that show an older revision of an object than others do
// have the later one in their logs: then it is not their data that are wrong, but an index
// or a pointer. That is told by logs alone, and nothing is repaired: who has made an index
// wrong may have made a log wrong.
func (v *verification) blameIndex(ctx context.Context, judged []*side, serials []TID, oid OID) error {
	latest := slices.Max(serials)
	if slices.Min(serials) == 0 {
		return nil // it may have been deleted since
	}
	logs := make([]Record, len(judged))
	for i, x := range judged {
		r, err := patient(ctx, v, x, func() (Record, error) { return recordAt(ctx, x.session, oid, latest) })
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil || r.TID != latest || r.Data == nil || !bytes.Equal(r.Data, logs[0].Data) && i > 0 {
			return nil // it is not about an index alone
		}
		logs[i] = r
	}
	v.found = v.found[:0]
	for i, x := range judged {
		if serials[i] < latest {
			v.note(Finding{Backend: x.b.cfg.Name, Kind: FindingObject, OID: oid, TID: v.report.Through, Wrong: true, Detail: fmt.Sprintf(
				"it shows transaction %v, and the later %v is in its log: its index, or a pointer, is wrong; %s", serials[i], latest, rebuildIndex)})
		}
	}
	return nil
}

// allEqual tells whether the records are all there and the same, but for their blobs.
func allEqual(records []*Record) bool {
	return !slices.ContainsFunc(records, func(r *Record) bool {
		return r == nil || records[0] == nil || r.TID != records[0].TID || !bytes.Equal(r.Data, records[0].Data)
	})
}

func orZero(d *digest) *digest {
	if d == nil {
		return new(digest)
	}
	return d
}

// recordSums returns the digest of each record with its serial, nil for none. Blobs
// were compared with the log.
func (v *verification) recordSums(ctx context.Context, sides []*side, records []*Record) ([]*digest, error) {
	sums := make([]*digest, len(records))
	for i, r := range records {
		if r == nil {
			continue
		}
		sum, err := recordDigest(ctx, Record{Data: r.Data})
		if err != nil {
			return nil, &BackendError{Backend: sides[i].b.cfg.Name, Op: "compare", Err: err}
		}
		for n, b := range r.TID.Bytes() {
			sum[n] ^= b
		}
		sums[i] = &sum
	}
	return sums, nil
}
