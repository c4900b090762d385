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
	if len(wrong) == 0 || len(v.sides)-len(wrong) < max(m.tuned().WriteQuorum, m.tuned().StartQuorum) {
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
