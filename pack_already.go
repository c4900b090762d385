package raidstorage

// Packs to a time before an earlier pack. Who was packed to a later time does not know any
// more what could be reached then: what led to an object may be gone. It finds no garbage,
// and what a backend with an own collection would drop of its own it cannot tell. That is
// seen from the logs, as of a recovery (recovery_pack.go): the membership record does not
// know who was packed behind the mirror's back, or before it was one.

import (
	"context"
	"fmt"
	"slices"

	"github.com/hashicorp/go-multierror"
)

// packedLater returns those of the backends that were packed to a later time than through,
// and those that cannot be asked. Python calls a pack of the former redundant.
func (m *Mirror) packedLater(ctx context.Context, v *view, sessions []*session, through TID) (later map[*session]bool, failed map[*session]error) {
	later, failed = make(map[*session]bool), make(map[*session]error)
	if through >= v.last {
		return later, failed
	}
	for _, s := range sessions {
		// It may have to look for the place in all of a log, as a pack does.
		packed, err := leave(ctx, m, m.tuned().Timeouts.Pack, func(ctx context.Context) (bool, error) {
			_, packed, err := firstFrom(ctx, s.storage, through+1, v.last)
			return packed, err
		})
		if err != nil {
			failed[s] = &BackendError{Backend: s.b.cfg.Name, Op: "iterate", Err: err}
		} else if packed {
			later[s] = true
		}
	}
	return later, failed
}

// knowing returns those of the backends that know what could be reached at through, or all
// if none does. It is an error if nobody who can be asked does.
func (m *Mirror) knowing(ctx context.Context, v *view, sessions []*session, through TID) ([]*session, error) {
	later, failed := m.packedLater(ctx, v, sessions, through)
	rest := slices.DeleteFunc(slices.Clone(sessions), func(s *session) bool { return later[s] || failed[s] != nil })
	switch {
	case len(rest) > 0:
		return rest, nil
	case len(failed) > 0:
		return nil, gatherAll(failed)
	}
	return sessions, nil
}

// gatherAll gathers the errors of backends.
func gatherAll(failed map[*session]error) error {
	var errs *multierror.Error
	for _, err := range failed {
		errs = gather(errs, err)
	}
	return errs.ErrorOrNil()
}

// packedAlready tells whether there is nothing to pack, as all were packed to a later time,
// and sets p.able. If those were that must tell what the others would drop, and not all of
// the others, the pack is refused.
func (p *packing) packedAlready(ctx context.Context, v *view, natives []*session) (nothing bool, err error) {
	p.able = natives
	if p.opts.Decided || !p.natives {
		return false, nil
	}
	later, failed := p.m.packedLater(ctx, v, natives, p.through)
	if err := ctx.Err(); err != nil {
		return false, err
	}
	p.able = slices.DeleteFunc(slices.Clone(natives), func(s *session) bool { return later[s] || failed[s] != nil })
	switch {
	case len(p.able) > 0:
		return false, nil
	case len(failed) > 0:
		return false, gatherAll(failed)
	}
	others := slices.DeleteFunc(slices.Clone(v.sessions), native)
	later, failed = p.m.packedLater(ctx, v, others, p.through)
	for _, s := range others {
		switch {
		case failed[s] != nil:
			return false, failed[s]
		case later[s]:
		case !p.opts.GC: // it tells itself that it cannot
			p.able = natives
			return false, nil
		case p.through < min(p.opts.Through, v.last): // for the margin only
			return false, &UnavailableError{Err: fmt.Errorf("backend %s was not packed as far as others were; pack again after the next transaction", s.b.cfg.Name)}
		default:
			return false, &apartError{refusal: &InvalidError{Op: "pack", Reason: fmt.Sprintf(
				"all backends that could tell what backend %s would drop were packed to a later time than %v; pack to a later one", s.b.cfg.Name, p.through)}}
		}
	}
	if len(others) == 0 && (p.m.unfinished() != nil || p.m.uneven.Load()) {
		p.able = natives // nothing is dropped, but they are compared
		return false, nil
	}
	p.m.cfg.Logger.Info("nothing to pack: the backends were packed to a later time already", "tid", p.through)
	return true, nil
}
