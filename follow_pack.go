package raidstorage

// Packing a backend that follows. It must drop what the others dropped, by a decision
// made at the same position of the log (K1), and nobody waits for it. So it is given the
// log up to the cut and no further, and packed there:
//
//	one that packs by what others have decided gets the same set (K2); if it had missed
//	an earlier pack, or had not got to the pack time, so that it gets a part of the log
//	from those that were packed, its objects are compared with those of another one,
//	when it has caught up, and it drops what only it has, as in a recovery
//	(recovery_pack.go)
//
//	one with a garbage collection of its own, such as a ZEO server, decides itself, at
//	the same position as the others did (K3): nothing else is written to it meanwhile
//
// Until that is done the record names it as unpacked. A process that dies in between has
// forgotten where the cut was: the first kind is compared, the second one keeps its
// garbage until the next pack. What it holds is then more than what the others hold,
// never less, and a promotion compares it.

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// packAt is a pack that waits for a backend to reach its cut. It is never changed.
type packAt struct {
	opts    PackOptions
	cut     TID
	decided bool // opts.Garbage is known
	behind  bool // it had not got to the pack time, and gets the rest from those that were packed
	before  bool // an earlier pack was missed
	earlier bool // and it was to a later time, which this one does not make up for
	apart   bool // one that decides itself may drop what the others keep (pack_kept.go)
}

// packFollowers has those that follow packed when they reach the cut. The commit slot is
// held, so that none is past it.
func (p *packing) packFollowers() {
	m := p.m
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range m.backends {
		if b.role.Actual != RoleAsync {
			continue
		}
		before := slices.Contains(p.before, b.cfg.Name)
		b.pack = &packAt{
			opts: PackOptions{Through: p.through, GC: p.opts.GC, Garbage: p.garbage},
			cut:  p.cut, decided: p.decided, behind: b.lastTID < p.through, before: before, earlier: before && p.through < p.lastHorizon,
			apart: p.apart,
		}
		b.wake()
	}
}

// packFollower packs b, which has reached the cut. What fails is tried no more: the
// record goes on to name it.
func (m *Mirror) packFollower(ctx context.Context, b *backend, s *session, p *packAt) {
	done, err := p.pack(ctx, m, s)
	if ctx.Err() != nil && err != nil {
		return // it is not to follow any more
	}
	m.mu.Lock()
	if b.pack == p {
		b.pack = nil
	}
	m.mu.Unlock()
	if err == nil && done {
		err = m.notePacked(ctx, b)
	}
	if err != nil {
		m.cfg.Logger.Warn("a backend that follows was not packed", "backend", b.cfg.Name, "tid", p.opts.Through, "err", err)
	}
}

// pack tells whether s holds the same objects as the others then.
func (p *packAt) pack(ctx context.Context, m *Mirror, s *session) (done bool, err error) {
	opts := p.opts
	switch exact := native(s); {
	case exact && (p.before || p.behind):
		return false, nil // alignFollower compares it
	case exact && p.decided:
		opts.Decided = true
	case !exact && p.apart:
		return false, &InvalidError{Op: "pack", Reason: "it would drop objects that the others keep, as they were linked again after the pack time"}
	case !exact: // it must not drop the last transaction
		opts.Through, opts.Garbage = min(opts.Through, p.cut-min(p.cut, packMargin)), nil
	}
	if opts.Through == 0 {
		return true, nil
	}
	return opts.Through == p.opts.Through && !p.earlier && !p.behind, m.askToPack(ctx, s, opts)
}

func (m *Mirror) notePacked(ctx context.Context, b *backend) error {
	return m.amend(ctx, b, b.cfg.Name+" packed, as the others were", func(next *Membership, is func(string) bool) {
		next.Unpacked = slices.DeleteFunc(next.Unpacked, is)
	})
}

// alignFollower has b, which has the whole log, drop what the others dropped in a pack
// that it missed. It is tried once for each pack.
func (m *Mirror) alignFollower(ctx context.Context, b *backend, f *follower, s *session) (more bool, err error) {
	m.mu.Lock()
	horizon := m.shown.PackHorizon
	needed := m.shown.Lock == nil && m.exclusion.pack == nil && horizon != f.aligned && slices.Contains(m.shown.Unpacked, b.cfg.Name)
	m.mu.Unlock()
	if !needed || !native(s) || f.last < horizon {
		return false, nil
	}
	r := &recovery{m: m, b: b, target: s, last: f.last}
	if err := r.findSources(ctx); err != nil {
		return false, nil
	}
	source, err := r.source()
	if err != nil || !r.sources.chosen.even {
		return false, nil // they are not packed themselves
	}
	if err := m.alignWith(ctx, r, source, horizon); err != nil {
		if isA[*BusyError](err) {
			return true, nil
		}
		return false, m.followFailed(ctx, b, s, fmt.Errorf("compared after a pack: %w", err))
	}
	f.aligned = horizon
	if err := m.notePacked(ctx, b); err != nil {
		return false, err
	}
	return true, nil
}

// alignWith compares r's target with a source that was packed to horizon, and packs it.
func (m *Mirror) alignWith(ctx context.Context, r *recovery, source *session, horizon TID) (err error) {
	if r.found.targetHorizon, err = packHorizon(ctx, r.target.timely); err != nil {
		return err
	}
	if r.found.sourceHorizon, err = packHorizon(ctx, source.timely); err != nil {
		return err
	}
	garbage, err := r.onlyTarget(ctx, source, horizon)
	if m.packedSince(horizon) { // the source may have dropped what was current here
		return &BusyError{Op: "compare", Holder: "pack", Since: m.now()}
	}
	if err != nil || len(garbage) == 0 && r.found.targetHorizon >= horizon {
		return err
	}
	err = r.packTarget(ctx, true, horizon, garbage)
	if errors.Is(err, context.Canceled) {
		return ctx.Err()
	}
	return err
}

// followedByOthers tells whether a backend follows that packs by its own decision.
func (m *Mirror) followedByOthers() bool {
	m.mu.Lock()
	var sessions []*session
	for _, b := range m.backends {
		if b.role.Actual == RoleAsync && b.session != nil {
			sessions = append(sessions, b.session)
		}
	}
	m.mu.Unlock()
	return slices.ContainsFunc(sessions, func(s *session) bool { return !native(s) })
}
