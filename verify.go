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
// lacks it is wrong; else nobody can tell. What differs is read a second time before it
// counts. Those that are wrong are degraded, as far as enough others stay, and the record
// names them as damaged, so that they are compared from the first transaction on before
// they are taken back. A read that fails says nothing about the data: see verify_read.go.

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// VerifyOptions says how to verify.
type VerifyOptions struct {
	// Blobs compares the contents of blobs too.
	Blobs bool
	// BytesPerSecond bounds how much data is read of each backend, blobs too, on an
	// average; 0: as fast as it goes.
	BytesPerSecond int64
	// Repair has the storages that can (Mender) put right in place what is known to be
	// wrong with them; see verify_mend.go. What was there is kept.
	Repair bool
	// KeepAll degrades and repairs nobody: the report alone tells.
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
	Repaired     int64       `json:"repaired"` // of those
}

// FindingKind says how a backend differs.
type FindingKind string

// The kinds of findings.
const (
	FindingTransaction FindingKind = "transaction missing" // the whole of it
	FindingMetadata    FindingKind = "metadata differs"    // user or description
	FindingMissing     FindingKind = "record missing"      // of a transaction that is there
	FindingRecord      FindingKind = "record differs"      // its data or blob
	FindingBlob        FindingKind = "blob missing"        // its record is there
	FindingObject      FindingKind = "object differs"      // its current revision
	FindingUnreadable  FindingKind = "cannot be read"      // damaged; the comparison went on without it
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
	// Repaired is true if it was put right.
	Repaired bool `json:"repaired,omitempty"`
}

// String tells the finding in one line.
func (f Finding) String() string {
	s := fmt.Sprintf("backend %s: %s: object %v, transaction %v", f.Backend, f.Kind, f.OID, f.TID)
	if f.Detail != "" {
		s += ": " + f.Detail
	}
	if f.Repaired {
		s += " (repaired)"
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
	// LeftOut are those that were not: those that are not in sync, and not full.
	LeftOut []string `json:"left_out,omitempty"`
	// Listed are the first findings; VerifyProgress.Findings counts all.
	Listed []Finding `json:"listed"`
	// Wrong counts, by backend, the findings that say that it is wrong.
	Wrong    map[string]int64 `json:"wrong,omitempty"`
	Degraded []string         `json:"degraded,omitempty"`
	// Kept says why those that are wrong were not degraded: too few would have stayed.
	Kept string `json:"kept,omitempty"`
	// Unread says, by backend, why it was not compared to the end: reads failed,
	// several times, which says nothing about what it holds.
	Unread map[string]string `json:"unread,omitempty"`
}

// Verify compares all backends in sync and reports what differs; see above. Memory is
// for one transaction of each. The error says why it did not come to its end: the
// report tells how far it got. What differs is no error.
func (m *Mirror) Verify(ctx context.Context, opts VerifyOptions) (VerifyReport, error) {
	report := VerifyReport{Started: m.now()}
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
	v := &verification{m: m, opts: opts, report: report}
	err = v.run(ctx)
	v.report.Ended = m.now()
	if m.closing() {
		err = ErrClosed
	}
	return v.report, err
}

// verification is one run of Verify, or a part of a run of the scrub. It belongs to one
// goroutine.
type verification struct {
	m      *Mirror
	opts   VerifyOptions
	atOnce bool         // those that are wrong are degraded when that is found, not at the end
	report VerifyReport // where it says so, it goes on from there
	sides  []*side
	wrong  map[string]bool // by backend: the others tell that it is, in this part of the run
	hurt   map[string]bool // by backend: it was not mended, and is to be degraded
	vain   int             // how many records were to be mended, and none of their copies was
	kept   bool            // they were not degraded, as too few would have stayed
	found  []Finding       // of the transaction or object at hand
	broken []Finding       // of what could not be read, not settled yet
	began  time.Time
	read   int64 // bytes read of all sides since then
	told   time.Time
}

// side is one backend being compared.
type side struct {
	*session
	horizon TID  // it is packed up to here
	uneven  bool // by the record it is not, and may hold what the others have dropped
	failed  bool
	next    func() (identity, bool, error) // nil if its log is to be read from report.TID on
	stop    func()
	id      identity     // of the transaction at hand, if more
	noBlob  map[OID]bool // records of it whose blob is not there
	more    bool
}

// run compares from where the report is to the end.
func (v *verification) run(ctx context.Context) error {
	m := v.m
	v.began, v.wrong, v.hurt = time.Now(), make(map[string]bool), make(map[string]bool)
	if err := m.settleOpen(ctx); err != nil {
		return err
	}
	view := m.view.Load()
	if len(view.sessions) == 0 {
		return &UnavailableError{Need: 1}
	}
	v.report.LeftOut = m.notIn(view)
	m.mu.Lock()
	packed, unpacked := m.shown.PackHorizon, m.shown.Unpacked
	m.mu.Unlock()
	v.report.Through, v.report.Backends = view.last, nil
	made(&v.report.Wrong) // a report that was saved lacks those that are empty
	made(&v.report.Unread)
	for _, s := range view.sessions {
		v.report.Backends = append(v.report.Backends, s.b.cfg.Name)
		x := &side{session: s, uneven: slices.Contains(unpacked, s.b.cfg.Name)}
		v.sides = append(v.sides, x)
		horizon, err := patient(ctx, v, x, func() (TID, error) { return packHorizon(ctx, x.timely) })
		if err != nil {
			v.lost(ctx, x, err)
		}
		x.horizon = max(horizon, packed)
	}
	var err error
	if v.report.Phase != VerifyObjects {
		err = v.compareLogs(ctx)
	}
	if err == nil {
		err = v.compareObjects(ctx)
	}
	if err == nil {
		err = v.settleFindings(ctx)
	}
	v.progress(true)
	if err != nil || v.opts.KeepAll {
		return err
	}
	return v.degrade(ctx, v.wrong)
}

// notIn names the backends that do not serve v.
func (m *Mirror) notIn(v *view) (names []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range m.backends {
		if !slices.ContainsFunc(v.sessions, func(s *session) bool { return s.b == b }) {
			names = append(names, b.cfg.Name)
		}
	}
	return names
}

// made makes a map if there is none.
func made[K comparable, V any](m *map[K]V) {
	if *m == nil {
		*m = make(map[K]V)
	}
}

// note keeps a finding until settleFindings.
func (v *verification) note(f Finding) { v.found = append(v.found, f) }

// settleFindings counts what was found, and degrades who is wrong, if that is to be
// done at once.
func (v *verification) settleFindings(ctx context.Context) error {
	wrong := false
	for _, f := range slices.Concat(v.broken, v.found) {
		v.report.Findings++
		if f.Wrong {
			v.report.Wrong[f.Backend]++
		}
		if f.Repaired {
			v.report.Repaired++
		}
		if f.Wrong && !f.Repaired {
			v.wrong[f.Backend], wrong = true, true
		}
		if len(v.report.Listed) < v.opts.MaxFindings {
			v.report.Listed = append(v.report.Listed, f)
			if v.atOnce && !f.Repaired { // its event tells that
				v.m.cfg.Logger.Warn("a backend differs", "backend", f.Backend, "oid", f.OID, "tid", f.TID, "reason", f.String())
			}
		}
	}
	v.found, v.broken = v.found[:0], nil
	if !wrong || !v.atOnce && len(v.hurt) == 0 || v.opts.KeepAll || v.kept {
		return nil
	}
	if v.atOnce {
		return v.degrade(ctx, v.wrong)
	}
	return v.degrade(ctx, v.hurt) // the others when all is compared
}

// alive returns the sides that are still being compared.
func (v *verification) alive() []*side {
	return slices.DeleteFunc(slices.Clone(v.sides), func(x *side) bool { return x.failed })
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

// degrade takes those out that are named, as far as enough others stay: those that are
// in sync now, and answer under their commit locks (C4).
func (v *verification) degrade(ctx context.Context, names map[string]bool) error {
	m := v.m
	if len(names) == 0 {
		return nil
	}
	if err := m.holdSlot(ctx); err != nil {
		return err
	}
	defer m.unlockCommit()
	live, _ := m.members()
	var wrong []*backend
	for _, b := range m.backends {
		name := b.cfg.Name
		same := slices.ContainsFunc(v.sides, func(x *side) bool { return x.b == b && slices.Contains(live, x.session) })
		// One that was not mended is damaged whether its session is another one or not.
		if names[name] && (same || v.hurt[name] && slices.Contains(m.record.InSync, name)) {
			wrong = append(wrong, b)
		}
	}
	if len(wrong) > 0 {
		need := max(1, m.tuned().WriteQuorum, m.tuned().StartQuorum)
		if err := m.checkStaying(ctx, wrong, need); err != nil {
			if ctx.Err() != nil {
				return err
			}
			v.report.Kept, v.kept = err.Error(), true
			wrong = nil
		}
	}
	if len(wrong) > 0 {
		if err := m.removeDamaged(context.WithoutCancel(ctx), wrong, v.reason); err != nil {
			return unavailable(err)
		}
	}
	for _, x := range v.sides {
		if slices.Contains(wrong, x.b) {
			v.report.Degraded = append(v.report.Degraded, x.b.cfg.Name)
			x.failed, x.more = true, false
		}
	}
	clear(v.hurt)
	return nil
}

// reason says why a backend is degraded.
func (v *verification) reason(name string) string {
	reason := fmt.Sprintf("a verification found %d differences", v.report.Wrong[name])
	i := slices.IndexFunc(v.report.Listed, func(f Finding) bool { return f.Backend == name && f.Wrong && !f.Repaired })
	if i >= 0 {
		reason += ", the first one: " + v.report.Listed[i].String()
	}
	return reason
}

// removeDamaged drops backends from the record, which says that they are damaged. The
// commit slot is held, and enough others stay.
func (m *Mirror) removeDamaged(ctx context.Context, backends []*backend, reason func(name string) string) error {
	next := m.record.next(m.now(), "a verification found damage")
	for _, b := range backends {
		name := b.cfg.Name
		next.Reason += "; " + name + ": " + reason(name)
		next.InSync = slices.DeleteFunc(next.InSync, func(n string) bool { return n == name })
		if !slices.Contains(next.Damaged, name) {
			next.Damaged = append(next.Damaged, name)
		}
	}
	if err := m.setRecord(ctx, next); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range backends {
		b.faults.Add(1)
		if b.session != nil {
			b.session.dead.Store(true)
		}
		m.setStateLocked(b, eventDropped, reason(b.cfg.Name))
		b.wake()
	}
	m.publishLocked(m.view.Load().last)
	return nil
}
