package raidstorage

// A verification compares all backends in sync, while reads and commits go on:
//
//	log       every transaction up to the last one at the start, side by side, by
//	          metadata and the digest of each record
//	objects   the current record of every object, by serial and data
//
// What a pack of one backend may have dropped is no difference (recovery_pack.go), and
// a pack and a verification keep each other waiting. Where backends differ the
// majority is right; without one, what only some have does not come from nothing, so who
// lacks it is wrong; else nobody can tell. Those that are wrong are degraded like any
// other that failed, and the record names them as damaged, so that they are compared
// from the first transaction on before they are taken back.

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"time"
)

// VerifyOptions says how to verify.
type VerifyOptions struct {
	// Blobs compares the contents of blobs too.
	Blobs bool
	// BytesPerSecond bounds how much record data is compared, counted once for all
	// backends; 0: as fast as it goes.
	BytesPerSecond int64
	// KeepAll degrades nobody: the report alone tells.
	KeepAll bool
	// MaxFindings is how many findings the report lists; default 1000. All are counted.
	MaxFindings int
	// NoWait refuses with *BusyError while a pack is going on, instead of waiting.
	NoWait bool
	// Progress, if not nil, is called now and then, by the goroutine that verifies.
	Progress func(VerifyProgress)
}

// VerifyPhase is what a verification is doing.
type VerifyPhase string

// The phases of a verification, in order.
const (
	VerifyLog     VerifyPhase = "log"
	VerifyObjects VerifyPhase = "objects"
)

// VerifyProgress tells how far a verification is.
type VerifyProgress struct {
	Phase        VerifyPhase `json:"phase"`
	TID          TID         `json:"tid"`     // the last transaction compared
	Through      TID         `json:"through"` // the last one to compare
	OID          OID         `json:"oid"`     // the last object compared
	Transactions int64       `json:"transactions"`
	Objects      int64       `json:"objects"`
	Bytes        int64       `json:"bytes"`
	Findings     int64       `json:"findings"`
}

// FindingKind says how a backend differs.
type FindingKind string

// The kinds of findings.
const (
	FindingTransaction FindingKind = "transaction missing" // the whole of it
	FindingMetadata    FindingKind = "metadata differs"    // user or description
	FindingMissing     FindingKind = "record missing"      // of a transaction that is there
	FindingRecord      FindingKind = "record differs"      // its data or blob
	FindingObject      FindingKind = "object differs"      // its current revision
	FindingUnreadable  FindingKind = "cannot be read"      // the comparison went on without it
)

// Finding is one difference, of one backend.
type Finding struct {
	Backend string      `json:"backend"`
	Kind    FindingKind `json:"kind"`
	OID     OID         `json:"oid"` // of the record, where it is about one
	TID     TID         `json:"tid"`
	Detail  string      `json:"detail,omitempty"`
	// Wrong is true if the others tell that it is this backend that is wrong; false
	// if nobody can tell: then each of those that differ has a finding.
	Wrong bool `json:"wrong"`
}

// String tells the finding in one line.
func (f Finding) String() string {
	s := fmt.Sprintf("backend %s: %s: object %v, transaction %v", f.Backend, f.Kind, f.OID, f.TID)
	if f.Detail != "" {
		s += ": " + f.Detail
	}
	if !f.Wrong {
		s += " (which one is right cannot be told)"
	}
	return s
}

// VerifyReport is the result of a verification.
type VerifyReport struct {
	VerifyProgress
	Started  time.Time `json:"started"`
	Ended    time.Time `json:"ended"`
	Backends []string  `json:"backends"` // those that were compared
	// Listed are the first findings; VerifyProgress.Findings counts all.
	Listed []Finding `json:"listed"`
	// Wrong counts, by backend, the findings that say that it is wrong.
	Wrong    map[string]int64 `json:"wrong,omitempty"`
	Degraded []string         `json:"degraded,omitempty"`
}

// Verify compares all backends in sync and reports what differs; see above. Memory is
// for one transaction of each. The error says why it did not come to its end: the
// report tells how far it got. What differs is no error.
func (m *Mirror) Verify(ctx context.Context, opts VerifyOptions) (VerifyReport, error) {
	report := VerifyReport{Started: m.now(), Wrong: make(map[string]int64)}
	if m.view.Load().closed {
		return report, ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return report, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(m.ctx, cancel)()
	shared, err := m.exclusion.share(ctx, m, "verify", "verification", opts.NoWait)
	if err != nil {
		return report, err
	}
	defer m.exclusion.leave(m, shared)
	fill(&opts.MaxFindings, 1000)
	v := &verification{m: m, opts: opts, report: report, began: time.Now()}
	err = v.run(ctx)
	v.report.Ended = m.now()
	if m.closing() {
		err = ErrClosed
	}
	return v.report, err
}

// verification is one run of Verify. It belongs to one goroutine.
type verification struct {
	m      *Mirror
	opts   VerifyOptions
	report VerifyReport
	sides  []*side
	began  time.Time // for the rate
	told   time.Time
}

// side is one backend being compared.
type side struct {
	*session
	horizon TID // it is packed up to here
	failed  bool
	next    func() (identity, bool, error)
	id      identity // of the transaction at hand, if more
	more    bool
}

func (v *verification) run(ctx context.Context) error {
	m := v.m
	if err := m.settleOpen(ctx); err != nil {
		return err
	}
	view := m.view.Load()
	if len(view.sessions) == 0 {
		return &UnavailableError{Need: 1}
	}
	packed := TID(m.horizon.Load())
	v.report.Through = view.last
	for _, s := range view.sessions {
		v.report.Backends = append(v.report.Backends, s.b.cfg.Name)
		horizon, err := packHorizon(ctx, s.timely)
		x := &side{session: s, horizon: max(horizon, packed)}
		v.sides = append(v.sides, x)
		if err != nil {
			v.lost(ctx, x, err)
		}
	}
	err := v.compareLogs(ctx)
	if err == nil {
		err = v.compareObjects(ctx)
	}
	v.progress(true)
	if err != nil || v.opts.KeepAll {
		return err
	}
	return v.degrade(ctx)
}

// lost goes on without a backend that failed.
func (v *verification) lost(ctx context.Context, x *side, err error) {
	if ctx.Err() != nil {
		return
	}
	x.failed, x.more = true, false
	f := Finding{Backend: x.b.cfg.Name, Kind: FindingUnreadable, TID: v.report.TID, OID: v.report.OID, Detail: err.Error(), Wrong: true}
	if c, ok := errors.AsType[*CorruptError](err); ok {
		f.OID, f.TID = c.OID, c.TID
	}
	v.add(f)
}

func (v *verification) add(f Finding) {
	v.report.Findings++
	if f.Wrong {
		v.report.Wrong[f.Backend]++
	}
	if len(v.report.Listed) < v.opts.MaxFindings {
		v.report.Listed = append(v.report.Listed, f)
	}
}

// alive returns the sides that are still being compared.
func (v *verification) alive() []*side {
	return slices.DeleteFunc(slices.Clone(v.sides), func(x *side) bool { return x.failed })
}

// compareLogs walks all logs side by side.
func (v *verification) compareLogs(ctx context.Context) error {
	v.report.Phase = VerifyLog
	var bytes int64
	for i, x := range v.sides {
		if x.failed {
			continue
		}
		counted := &bytes
		if i > 0 {
			counted = nil
		}
		next, stop := pull(ctx, countedLog{x.timely, counted, v.opts.Blobs}, 1, v.report.Through)
		defer stop()
		x.next = next
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
		if err := v.pace(ctx, &bytes); err != nil {
			return err
		}
		for _, x := range v.alive() {
			if x.more && x.id.tid == least {
				v.advance(ctx, x)
			}
		}
	}
}

func (v *verification) advance(ctx context.Context, x *side) {
	var err error
	if x.id, x.more, err = x.next(); err != nil {
		v.lost(ctx, x, err)
	}
}

// compareTransaction compares one transaction of all sides.
func (v *verification) compareTransaction(ctx context.Context, tid TID) error {
	sides := v.alive()
	has := func(x *side) bool { return x.more && x.id.tid == tid }
	first := sides[0]
	if !slices.ContainsFunc(sides, func(x *side) bool { return !has(x) || x.id.digest != first.id.digest }) {
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
		if sum == nil {
			dropped, err := superseded(ctx, x.timely, oid, tid, x.horizon)
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
		}
		sides, sums = append(sides, x), append(sums, sum)
	}
	v.judge(sides, sums, Finding{Kind: FindingRecord, OID: oid, TID: tid}, kinds)
	return ctx.Err()
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
	nothing := 2*missing > len(sums)
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
		v.add(f)
	}
}

// compareObjects compares the current records.
func (v *verification) compareObjects(ctx context.Context) error {
	v.report.Phase = VerifyObjects
	for ctx.Err() == nil {
		sides := slices.DeleteFunc(v.alive(), func(x *side) bool { return !Supports(x.storage, reflect.TypeFor[RecordIterator]()) })
		if len(sides) < 2 {
			return nil // one alone has nothing to be compared with
		}
		sessions := make([]*session, len(sides))
		for i, x := range sides {
			sessions[i] = x.session
		}
		from := v.report.OID
		var bytes int64
		err := walkCurrent(ctx, v.m, sessions, func(oid OID, records []*Record) error {
			if oid < from {
				return nil // compared before one was lost
			}
			v.report.OID = oid
			v.report.Objects++
			if records[0] != nil {
				bytes += int64(len(records[0].Data))
			}
			if err := v.compareObject(ctx, sides, oid, records); err != nil {
				return err
			}
			return v.pace(ctx, &bytes)
		})
		i := slices.IndexFunc(sides, func(x *side) bool { return isOf(err, x.session) })
		if i < 0 {
			return err
		}
		v.lost(ctx, sides[i], err)
	}
	return ctx.Err()
}

// compareObject compares the current records of one object. What differs is loaded as
// of the start: commits go on.
func (v *verification) compareObject(ctx context.Context, sides []*side, oid OID, records []*Record) error {
	sums, err := v.recordSums(ctx, sides, records)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(sums, func(d *digest) bool { return d == nil || *d != *orZero(sums[0]) }) {
		return nil
	}
	var judged []*side
	var votes []*digest
	uneven := v.m.uneven.Load()
	for _, x := range sides {
		rev, err := x.timely.LoadBefore(ctx, oid, v.report.Through+1)
		switch {
		case isA[*NotFoundError](err):
			if !uneven { // else it may be garbage that this one has dropped
				judged, votes = append(judged, x), append(votes, nil)
			}
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
			judged, votes = append(judged, x), append(votes, &sum)
		}
	}
	v.judge(judged, votes, Finding{Kind: FindingObject, OID: oid, TID: v.report.Through}, nil)
	return nil
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

// pace counts bytes and waits as long as the rate wants.
func (v *verification) pace(ctx context.Context, bytes *int64) error {
	v.report.Bytes += *bytes
	*bytes = 0
	v.progress(false)
	if v.opts.BytesPerSecond <= 0 {
		return nil
	}
	due := v.began.Add(time.Duration(float64(v.report.Bytes) / float64(v.opts.BytesPerSecond) * float64(time.Second)))
	wait := time.Until(due)
	if wait <= 0 {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (v *verification) progress(always bool) {
	if v.opts.Progress == nil {
		return
	}
	if now := v.m.now(); always || now.Sub(v.told) >= progressEvery {
		v.told = now
		v.opts.Progress(v.report.VerifyProgress)
	}
}

// degrade takes those out that are wrong, as far as enough others stay.
func (v *verification) degrade(ctx context.Context) error {
	m := v.m
	var wrong []*side
	for _, x := range v.sides {
		if v.report.Wrong[x.b.cfg.Name] > 0 && !x.dead.Load() {
			wrong = append(wrong, x)
		}
	}
	if len(wrong) == 0 || len(v.sides)-len(wrong) < max(m.cfg.WriteQuorum, m.cfg.StartQuorum) {
		return nil
	}
	if err := m.lockCommit(ctx); err != nil {
		return err
	}
	next := m.record.next(m.now(), "a verification found damage")
	for _, x := range wrong {
		name := x.b.cfg.Name
		next.Reason += fmt.Sprintf("; %s: %d findings", name, v.report.Wrong[name])
		if !slices.Contains(next.Damaged, name) {
			next.Damaged = append(next.Damaged, name)
		}
	}
	err := m.setRecord(context.WithoutCancel(ctx), next)
	m.unlockCommit()
	if err != nil {
		return unavailable(err)
	}
	for _, x := range wrong {
		i := slices.IndexFunc(v.report.Listed, func(f Finding) bool { return f.Backend == x.b.cfg.Name && f.Wrong })
		reason := fmt.Errorf("a verification found %d differences", v.report.Wrong[x.b.cfg.Name])
		if i >= 0 {
			reason = fmt.Errorf("%w, the first one: %s", reason, v.report.Listed[i])
		}
		v.report.Degraded = append(v.report.Degraded, x.b.cfg.Name)
		m.fault(x.session, reason)
	}
	return nil
}

// countedLog is a log that counts the bytes of the data read, if bytes is not nil, and
// hides blobs unless they are wanted.
type countedLog struct {
	Storage
	bytes *int64
	blobs bool
}

// Iterate implements Storage.
func (l countedLog) Iterate(ctx context.Context, from, through TID) iter.Seq2[*Transaction, error] {
	return func(yield func(*Transaction, error) bool) {
		for txn, err := range l.Storage.Iterate(ctx, from, through) {
			if err == nil {
				out := *txn
				out.Records = l.records(txn.Records)
				txn = &out
			}
			if !yield(txn, err) {
				return
			}
		}
	}
}

func (l countedLog) records(records iter.Seq2[Record, error]) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for r, err := range records {
			if !l.blobs {
				r.OpenBlob = nil
			}
			if l.bytes != nil {
				*l.bytes += int64(len(r.Data))
			}
			if !yield(r, err) {
				return
			}
		}
	}
}
