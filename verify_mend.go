package raidstorage

// How a verification repairs, with VerifyOptions.Repair. A record that differs is read
// again from everybody who is in sync, and decided about, with the commit slot held: so
// nobody drops out or comes back between the decision and what is written. Which copy is
// right is told by
//
//	majority   more than half of all that are in sync then hold the same bytes, and
//	           more than half of all that were compared: neither one that dropped out
//	           meanwhile nor one that came in, and may have copied the damage, must
//	           make the damaged copy the one that most hold
//	pickles    where the mirror has two full backends, both in sync: the data of one
//	           cannot be two pickles, and those of the other one, as long, are
//
// and by nothing else: not by an index, a pointer or a reference, nor by an error. A
// majority that holds what cannot be two pickles is not right about one that holds what
// can. Where nothing is decided, and where a storage is no Mender or refuses, nothing is
// changed: verify.go says what becomes of the finding. A backend that was to be mended and
// was not keeps the mark of damage in the record, whatever else happens to it.
//
// Packs are kept out by the exclusion. verify_mend_blob.go does the same with blobs.

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
)

// heldRecord is what one backend in sync holds of a record.
type heldRecord struct {
	s    *session
	data []byte
	blob bool // it has one
	err  error
}

// mend decides about what was found about records and blobs of a transaction.
func (v *verification) mend(ctx context.Context, tid TID) error {
	if !v.mends() {
		return nil
	}
	found := v.found
	v.found = nil
	groups := make(map[OID][]Finding)
	for _, f := range found {
		if f.Kind == FindingRecord || f.Kind == FindingBlob {
			groups[f.OID] = append(groups[f.OID], f)
		} else {
			v.found = append(v.found, f)
		}
	}
	for _, f := range found {
		group, ok := groups[f.OID]
		if !ok {
			continue
		}
		delete(groups, f.OID)
		decided, err := v.mendRecord(ctx, f.OID, tid, group)
		v.found = append(v.found, decided...)
		if err != nil {
			return v.settleRepaired(ctx, err)
		}
	}
	return nil
}

// settleRepaired ends with err what has repaired some records: the rest is found again by
// who goes on from here.
func (v *verification) settleRepaired(ctx context.Context, err error) error {
	v.found = slices.DeleteFunc(v.found, func(f Finding) bool { return !f.Repaired })
	v.broken = nil
	return errors.Join(err, v.settleFindings(context.WithoutCancel(ctx)))
}

func (v *verification) mends() bool { return v.opts.Repair && !v.opts.KeepAll }

// mendRecord decides about a record, of which the data or the blob differ, and mends the
// wrong copies. It returns the findings that take the place of found.
func (v *verification) mendRecord(ctx context.Context, oid OID, tid TID, found []Finding) ([]Finding, error) {
	if v.vain >= maxVain {
		return because(found, fmt.Sprintf("%d others were not repaired, so no more is tried", maxVain)), nil
	}
	decided, blob, err := v.mendData(ctx, oid, tid, found)
	if err == nil && blob {
		rest := slices.DeleteFunc(slices.Clone(found), func(f Finding) bool {
			return f.Kind == FindingRecord && slices.ContainsFunc(decided, func(d Finding) bool { return d.Backend == f.Backend })
		})
		var more []Finding
		more, err = v.mendBlobs(ctx, oid, tid, rest)
		decided = append(decided, more...)
	}
	if len(decided) > 0 && !slices.ContainsFunc(decided, func(f Finding) bool { return f.Repaired }) {
		v.vain++
	}
	return decided, err
}

// maxVain is how many records a verification tries to mend in vain. Each try reads the
// transaction again, of all backends, with the commit slot held.
const maxVain = 100

// mendData is mendRecord for the data. blob tells that they are the same everywhere now,
// and that there is a blob.
func (v *verification) mendData(ctx context.Context, oid OID, tid TID, found []Finding) (decided []Finding, blob bool, err error) {
	m := v.m
	if err := m.holdSlot(ctx); err != nil {
		return nil, false, err
	}
	defer m.unlockCommit()
	held := m.hold(ctx, oid, tid)
	if err := ctx.Err(); err != nil {
		return nil, false, err
	}
	known := slices.DeleteFunc(slices.Clone(held), func(h heldRecord) bool { return h.err != nil })
	if len(known) == 0 {
		return because(found, "no backend could be asked again"), false, nil
	}
	if !slices.ContainsFunc(known, func(h heldRecord) bool { return !h.same(known[0]) }) {
		const not = "not all in sync could be asked again"
		switch blob = slices.ContainsFunc(known, func(h heldRecord) bool { return h.blob }); {
		case blob && len(known) == len(m.record.InSync):
			return nil, true, nil
		case blob:
			return because(found, not), false, nil
		}
		return without(found, known, not), false, nil
	}
	right, reason := v.decide(known)
	if right == nil {
		return because(found, reason), false, nil
	}
	check := checker(known)
	if check(right.data) == pickleNone && slices.ContainsFunc(known, func(h heldRecord) bool { return check(h.data) == pickleWhole }) {
		found = because(found, "most hold something else, but that cannot be a record, and this one can")
		for i := range found {
			found[i].Wrong = false
		}
		return found, false, nil
	}
	for _, h := range known {
		if h.same(*right) {
			continue
		}
		f := Finding{Backend: h.s.b.cfg.Name, Kind: FindingRecord, OID: oid, TID: tid, Wrong: true,
			Detail: fmt.Sprintf("%s; SHA-256 %x instead of %x", reason, sha256.Sum256(h.data), sha256.Sum256(right.data))}
		kept, err := m.mendOne(ctx, h, right.data, oid, tid)
		if err := v.mended(ctx, &f, kept, err); err != nil {
			return decided, false, err
		}
		decided = append(decided, f)
	}
	if slices.ContainsFunc(decided, func(f Finding) bool { return !f.Repaired }) {
		blobs := slices.DeleteFunc(slices.Clone(found), func(f Finding) bool { return f.Kind != FindingBlob })
		decided = append(decided, because(blobs, "the data of the record differ, too")...)
	} else if slices.ContainsFunc(known, func(h heldRecord) bool { return h.blob }) {
		blob = true
		found = slices.DeleteFunc(slices.Clone(found), func(f Finding) bool { return f.Kind == FindingBlob }) // they follow
	}
	return append(decided, without(found, known, "it could not be asked again")...), blob, nil
}

// because says in findings why nothing was repaired.
func because(found []Finding, reason string) []Finding {
	found = slices.Clone(found)
	for i := range found {
		found[i].Detail = reason
	}
	return found
}

// without returns the findings about others than those that are known now.
func without(found []Finding, known []heldRecord, reason string) []Finding {
	return because(slices.DeleteFunc(slices.Clone(found), func(f Finding) bool {
		return slices.ContainsFunc(known, func(h heldRecord) bool { return h.s.b.cfg.Name == f.Backend })
	}), reason)
}

// hold reads a record from all that are in sync and answer. The commit slot is held.
func (m *Mirror) hold(ctx context.Context, oid OID, tid TID) []heldRecord {
	live, _ := m.members()
	answers := round(ctx, m, "compare", live, m.tuned().Timeouts.Read, func(ctx context.Context, _ int, s *session) (Record, error) {
		r, err := recordAt(ctx, s, oid, tid)
		if err == nil && r.TID != tid {
			err = &NotFoundError{OID: oid, Serial: tid}
		}
		return r, err
	}, nil)
	held := make([]heldRecord, len(answers))
	for i, a := range answers {
		held[i] = heldRecord{s: a.session, data: a.value.Data, blob: a.value.OpenBlob != nil, err: a.err}
		if a.session.dead.Load() {
			held[i].err = ErrClosed
		}
	}
	return held
}

func (h heldRecord) same(other heldRecord) bool {
	return bytes.Equal(h.data, other.data) && (h.data == nil) == (other.data == nil)
}

// decide returns a copy that is right, nil if none is known to be, and why. The commit
// slot is held.
func (v *verification) decide(known []heldRecord) (right *heldRecord, reason string) {
	const none = "no copy has a majority of those in sync"
	for i := range known {
		votes, compared := 0, 0
		for _, h := range known {
			if !h.same(known[i]) {
				continue
			}
			votes++
			if slices.ContainsFunc(v.sides, func(x *side) bool { return x.session == h.s }) {
				compared++
			}
		}
		if 2*votes > len(v.m.record.InSync) && 2*compared > len(v.sides) {
			right = &known[i]
		}
	}
	if right != nil {
		return right, "most others hold something else"
	}
	check := checker(known)
	if len(known) != 2 || v.electorate() != 2 || v.m.fullMembers() != 2 || len(known[0].data) != len(known[1].data) {
		return nil, none
	}
	switch a, b := check(known[0].data), check(known[1].data); {
	case a == pickleNone && b == pickleWhole:
		right = &known[1]
	case a == pickleWhole && b == pickleNone:
		right = &known[0]
	default:
		return nil, none + ", and their pickles do not tell"
	}
	return right, "its data cannot be a record's, and those of the other one are"
}

// electorate is what a majority is more than half of. The commit slot is held.
func (v *verification) electorate() int { return max(len(v.m.record.InSync), len(v.sides)) }

// fullMembers counts the backends that are to hold everything. The commit slot is held.
func (m *Mirror) fullMembers() (n int) {
	for _, name := range m.record.Members {
		if role := m.record.Roles[name]; role.Actual == RoleFull || role.Configured == RoleFull {
			n++
		}
	}
	return n
}

// What the data of a record are.
const (
	pickleUnknown = iota
	pickleNone    // not two pickles
	pickleWhole   // two pickles, and nothing else
)

// checker returns what looks at data, with the help of one of the storages.
func checker(held []heldRecord) func([]byte) int {
	for _, h := range held {
		mender, err := Can[Mender](h.s.storage)
		if err != nil {
			continue
		}
		return func(data []byte) int {
			switch whole, err := mender.CheckRecord(data); {
			case len(data) == 0:
			case err != nil:
				return pickleNone
			case whole:
				return pickleWhole
			}
			return pickleUnknown
		}
	}
	return func([]byte) int { return pickleUnknown }
}

// mendOne has a wrong copy put right, on its worker. The commit slot is held. It ends with
// its deadline, not with ctx: what is begun is done.
func (m *Mirror) mendOne(ctx context.Context, h heldRecord, good []byte, oid OID, tid TID) (kept string, err error) {
	mender, err := Can[Mender](h.s.storage)
	if err != nil {
		return "", err
	}
	if len(h.data) != len(good) {
		return "", &InvalidError{Op: "mend record", Reason: "the lengths differ"}
	}
	return mending(ctx, m, h.s, func(ctx context.Context) (string, error) {
		kept, err := mender.MendRecord(ctx, oid, tid, h.data, good)
		if err != nil {
			return kept, err
		}
		now, err := recordAt(ctx, h.s, oid, tid)
		if err == nil && !bytes.Equal(now.Data, good) {
			err = &CorruptError{Storage: h.s.storage.Name(), Offset: -1, OID: oid, TID: tid, Reason: "it was mended in vain"}
		}
		return kept, err
	})
}

// mending makes a call that writes, on the worker of s. That it fails is no fault of s for
// the supervisor, which would open it again and take it for sound: see mended.
func mending(ctx context.Context, m *Mirror, s *session, call func(context.Context) (string, error)) (string, error) {
	r := round(context.WithoutCancel(ctx), m, "mend", []*session{s}, m.tuned().Timeouts.Vote,
		func(ctx context.Context, _ int, _ *session) (string, error) { return call(ctx) }, nil)[0]
	return r.value, r.err
}

// unmendable tells an operator what to do about what was not put right.
const unmendable = "look at its disk, then recover it, or replace it by an empty one"

// mended notes how mending ended. If it failed the record gets its mark at once, which
// stays whatever happens to the backend. The commit slot is held.
func (v *verification) mended(ctx context.Context, f *Finding, kept string, err error) error {
	m, name := v.m, f.Backend
	if err != nil {
		f.Detail += fmt.Sprintf("; it was not repaired (%v): %s", err, unmendable)
		// Nothing was tried: it is as if nothing were to be repaired.
		if isA[*BusyError](err) || errors.Is(err, errors.ErrUnsupported) {
			return nil
		}
		v.hurt[name] = true
		if slices.Contains(m.record.Damaged, name) {
			return nil
		}
		next := m.record.next(m.now(), "a verification found damage; "+f.String())
		next.Damaged = append(next.Damaged, name)
		return m.setRecord(context.WithoutCancel(ctx), next)
	}
	f.Repaired = true
	if kept != "" {
		f.Detail += "; what was there is kept in " + kept
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range m.backends {
		if b.cfg.Name == name {
			b.repairs.Add(1)
			e := Event{Kind: EventRepair, Time: m.cfg.Clock(), Backend: name, From: b.state, To: b.state, Reason: f.String(), Condition: m.conditionLocked()}
			b.noteLocked(e)
			m.tell(e)
		}
	}
	return nil
}
