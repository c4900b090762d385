package raidstorage

// Backends that were packed to different times (rule V1). A pack takes away revisions,
// transactions and objects, so that logs may differ at or before the pack time of
// either side and still be of one database. Where each was packed to is seen from the
// status of its transactions. There a transaction, or a record, that only one side has
// is taken to be dropped by the other one's pack, provided that this side has a later
// revision of the object, or none: a transaction of its own would be the latest.
//
// Objects that only the target has, from before the pack time, were garbage to the
// others: the target drops them by a pack that is told to. One that cannot be told
// keeps them, and stays marked as unpacked, until the next pack of the mirror: its own
// collection would go by what is garbage now. An object that the target lacks cannot be
// given to it, as its revision lies in the past: it is refused.
//
// So is one that cannot be told, and holds an object as of the pack time that the others
// had not any more then, but have again: the deletion was packed away, and what brought
// the object back was copied. Its current revision is right, and its old ones are not.

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// packHorizon returns the last transaction of s that is packed, 0 if none is. Packed
// ones are a beginning of the log. It looks at places at growing distances from the
// end, as lastCommon does, and then goes on from the last packed one of those: storages
// find transactions near the end faster.
func packHorizon(ctx context.Context, s Storage) (TID, error) {
	end, err := s.LastTID(ctx)
	if err != nil || end == 0 {
		return 0, err
	}
	_, packed, err := firstFrom(ctx, s, 1, end)
	if err != nil || !packed {
		return 0, err
	}
	last := TID(1) // where a packed one follows
	for span := TID(0); span < end; span = max(firstWindow, span*windowGrowth) {
		tid, packed, err := firstFrom(ctx, s, end-span, end)
		if err != nil {
			return 0, err
		}
		if packed {
			last = tid
			break
		}
		if span > MaxTID/windowGrowth {
			break
		}
	}
	horizon := TID(0)
	for txn, err := range s.Iterate(ctx, last, end) {
		if err != nil {
			return 0, err
		}
		if txn.Status != StatusPacked {
			break
		}
		horizon = txn.TID
	}
	return horizon, nil
}

// firstFrom returns the first transaction from a tid on, and whether it is packed.
func firstFrom(ctx context.Context, s Storage, from, through TID) (tid TID, packed bool, err error) {
	for txn, err := range s.Iterate(ctx, from, through) {
		if err != nil {
			return 0, false, err
		}
		return txn.TID, txn.Status == StatusPacked, nil
	}
	return 0, false, nil
}

// superseded tells whether s, packed to horizon, may have had a record of oid at tid
// and dropped it.
func superseded(ctx context.Context, s Storage, oid OID, tid, horizon TID) (bool, error) {
	if tid > horizon {
		return false, nil
	}
	rev, err := s.LoadBefore(ctx, oid, horizon+1)
	if isA[*NotFoundError](err) {
		return true, nil
	}
	return rev.Serial > tid, err
}

// droppedAt tells whether all records of i that are not in other may have been dropped
// by s, packed to horizon. What both have must be equal.
func droppedAt(ctx context.Context, s Storage, horizon TID, i, other identity) (bool, error) {
	for oid, sum := range i.records {
		if theirs, ok := other.records[oid]; ok {
			if theirs != sum {
				return false, nil
			}
			continue
		}
		if ok, err := superseded(ctx, s, oid, i.tid, horizon); !ok || err != nil {
			return false, err
		}
	}
	return i.tid <= horizon, nil
}

// same compares two transactions with one tid.
func (c *comparer) same(ctx context.Context, t, s identity) (bool, error) {
	if t.digest == s.digest {
		return true, nil
	}
	if t.tid > max(c.targetHorizon, c.sourceHorizon) || t.meta != s.meta {
		return false, nil
	}
	for oid, sum := range t.records {
		if theirs, ok := s.records[oid]; ok {
			if theirs != sum {
				return false, nil
			}
		} else if ok, err := superseded(ctx, c.source, oid, t.tid, c.sourceHorizon); !ok || err != nil {
			return false, err
		}
	}
	for oid := range s.records {
		if _, ok := t.records[oid]; ok {
			continue
		}
		if ok, err := superseded(ctx, c.target, oid, s.tid, c.targetHorizon); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// mustAlign tells whether the target may hold other objects than the rest, although
// its log fits.
func (r *recovery) mustAlign() bool {
	m := r.m
	m.mu.Lock()
	defer m.mu.Unlock()
	unpacked := slices.Contains(m.shown.Unpacked, r.b.cfg.Name)
	return !r.aligned && !r.empty && (r.opts.Full || r.uneven || unpacked || r.found.targetHorizon != r.found.sourceHorizon)
}

// align makes the target hold the same objects as a source, as of the target's end:
// it drops by a pack what only it has. *DifferenceError if that does not do.
func (r *recovery) align(ctx context.Context) error {
	source, err := r.source()
	if err != nil {
		return err
	}
	even := r.sources.chosen.even
	m := r.m
	m.mu.Lock()
	horizon := max(r.found.sourceHorizon, m.shown.PackHorizon)
	m.mu.Unlock()
	horizon = min(horizon, r.last)
	exact, through := native(r.target), horizon
	if !exact { // it must not drop the last transaction
		through = min(through, r.last-min(r.last, packMargin))
	}
	r.progress(true, func(p *RecoveryProgress) { p.Phase = PhaseAlign })
	garbage, err := r.onlyTarget(ctx, source, horizon)
	if d, ok := errors.AsType[*DifferenceError](err); ok && !even && d.Serial == 0 {
		d.Hint = "the last pack has not succeeded on the others: pack again, then recover this one"
	}
	if err != nil {
		r.doubtSource(ctx, source)
		return err
	}
	keeps := len(garbage) > 0
	if exact && even { // else the source may lack what another one still has
		keeps = false
	} else {
		garbage = nil
	}
	if len(garbage) > 0 || r.found.targetHorizon < through {
		switch err := r.packTarget(ctx, exact, through, garbage); {
		case err == nil:
			r.found.targetHorizon = through
		case !exact && errors.Is(err, errors.ErrUnsupported):
			keeps = true // such as a ZEO server, which would collect garbage by what is garbage now
		default:
			return err
		}
	}
	r.aligned, r.unpacked = true, keeps
	return nil
}

// packTarget packs the target as the others were.
func (r *recovery) packTarget(ctx context.Context, exact bool, horizon TID, garbage []OID) error {
	packer, err := Can[Packer](r.target.storage)
	if err != nil {
		return fmt.Errorf("the others were packed to %v, and this backend cannot be: %w", horizon, err)
	}
	opts := PackOptions{Through: horizon}
	if exact {
		opts.Decided, opts.Garbage = true, garbage
	}
	r.m.cfg.Logger.Info("packing a backend as the others were", "backend", r.b.cfg.Name, "tid", horizon, "garbage", len(garbage))
	if err := packer.Pack(ctx, opts); err != nil {
		return fmt.Errorf("pack to %v: %w", horizon, err)
	}
	return nil
}

// onlyTarget returns the objects that the target has and the source has not, now or as of
// the horizon. Any other difference is an error.
func (r *recovery) onlyTarget(ctx context.Context, source *session, horizon TID) ([]OID, error) {
	var garbage []OID
	sessions := []*session{r.target, source}
	err := walkCurrent(ctx, r.m, sessions, func(oid OID, records []*Record) error {
		if sameSerials(records) {
			came, err := r.cameBack(ctx, sessions, records[0], horizon)
			if came {
				garbage = append(garbage, oid)
			}
			return err
		}
		serials, err := serialsAt(ctx, r.m, sessions, oid, r.last+1)
		switch {
		case err != nil:
			return err
		case serials[0] == serials[1]:
		case serials[1] == 0 && serials[0] <= horizon:
			garbage = append(garbage, oid)
		default:
			e := &DifferenceError{Backend: r.b.cfg.Name, OID: oid, Count: 1, Serial: serials[0], Others: serials[1], Hint: packedApart}
			if serials[0] == 0 && r.found.targetHorizon > r.found.sourceHorizon {
				e.Hint = fmt.Sprintf("it was packed to %v, later than the others: pack the mirror to that time and recover again, or replace it by an empty one", r.found.targetHorizon)
			}
			return e
		}
		return nil
	})
	return garbage, err
}

// cameBack tells whether an object of which target and source have the same current
// record was not there for the source as of the horizon, and was for the target. It is an
// error for a target that cannot be told to drop what it had.
func (r *recovery) cameBack(ctx context.Context, sessions []*session, current *Record, horizon TID) (bool, error) {
	if current.TID <= horizon {
		return false, nil
	}
	serials, err := serialsAt(ctx, r.m, sessions, current.OID, horizon+1)
	if err != nil || serials[0] == 0 || serials[1] != 0 {
		return false, err
	}
	if !native(r.target) {
		return false, &DifferenceError{Backend: r.b.cfg.Name, OID: current.OID, Count: 1, Serial: serials[0],
			Hint: "the others dropped it by a pack, and have it again since then: replace this backend by an empty one and recover"}
	}
	return true, nil
}

// sameCount compares how many objects target and source have, as far as they know: a
// pack that collected garbage on one side only leaves no other trace.
func (r *recovery) sameCount(ctx context.Context) (bool, error) {
	source, err := r.source()
	if err != nil {
		return false, err
	}
	var counts [2]int64
	for i, s := range []*session{r.target, source} {
		sizer, err := Can[Sizer](s.storage)
		if err != nil {
			return true, nil
		}
		counts[i], err = onWorker(ctx, r.m, "size", s, func(ctx context.Context) (int64, error) {
			n, _, err := sizer.Size(ctx)
			return n, err
		})
		if err != nil {
			return false, err
		}
	}
	return counts[0] == counts[1], nil
}
