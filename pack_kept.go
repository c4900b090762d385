package raidstorage

// Backends that do not agree about what is garbage. By K1 what a later transaction links
// again is none, whenever that was. Python's FileStorage, which is behind a ZEO server,
// goes by what could be reached at the pack time: of what was written later it sees only
// what undoes something. Where both kinds are packed at one cut, its backends would lose
// objects that the others keep and that may be in use.
//
// So who finds the garbage tells at the same time what only later transactions keep
// (KeptFinder). If there is any the pack is refused before anything has changed, or, if the
// caller's pack time allows that, made to a later one, when those objects were linked. What
// is linked between that and the cut is known as garbage that is linked again. What Python
// keeps changes with undos only: after one the garbage is found anew.
//
// A backend with its own collection that follows is not packed then: it holds more than
// the others do, never less, and the record names it. With such backends only nobody can
// tell, as with one ZEO server alone.

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/go-multierror"
)

// KeptFinder is a GarbageFinder that knows the rule of Python's FileStorage, too. A mirror
// that has others than GarbageFinders besides is packed with garbage collection only if
// one of its GarbageFinders is one.
type KeptFinder interface {
	GarbageFinder
	// FindKept is FindGarbage, and returns besides, in ascending order, the objects whose
	// revision of through is kept for the sake of later records only, and would be dropped
	// by Python's FileStorage with the same log. Errors as of FindGarbage.
	FindKept(ctx context.Context, through TID, decide func(context.Context) error) (garbage, kept []OID, err error)
}

var _ KeptFinder = (*Mirror)(nil)

// FindKept implements KeptFinder, as FindGarbage does.
func (m *Mirror) FindKept(ctx context.Context, through TID, decide func(context.Context) error) (garbage, kept []OID, err error) {
	if err := supports[KeptFinder](m); err != nil {
		return nil, nil, err
	}
	err = m.findAtOne(ctx, through, decide, func(s *session, through TID, decide func(context.Context) error) error {
		finder, err := Can[KeptFinder](s.storage)
		if err == nil {
			garbage, kept, err = finder.FindKept(ctx, through, decide)
		}
		return err
	})
	return garbage, kept, err
}

// apartError refuses a pack that would leave the backends with different objects. It is an
// *InvalidError.
type apartError struct {
	refusal *InvalidError
	anew    bool  // another attempt may find none
	kept    []OID // what is in the way
}

func (e *apartError) Error() string { return e.refusal.Error() }

func (e *apartError) Unwrap() error { return e.refusal }

// decide finds the garbage and makes the cut, if need be for a later pack time than at
// first. p.cut stays 0 if there is nothing to pack. If undos were in the way the last
// attempt refuses them: where the backends need long to prepare somebody undoes something
// in each.
func (p *packing) decide(ctx context.Context) error {
	defer p.m.noUndo.Store(false) // after the cut the record refuses them
	undone := false
	for attempt := 1; ; attempt++ {
		err := p.attempt(ctx)
		apart, ok := errors.AsType[*apartError](err)
		if !ok {
			return err
		}
		if attempt == maxPrepares || !apart.anew && p.m.packTime(p.m.view.Load(), p.opts.Through) <= p.through {
			if lacks := p.faultLacking(ctx, apart.kept); lacks != nil {
				return lacks
			}
			return apart
		}
		p.m.cfg.Logger.Info("the pack begins anew", "tid", p.through, "err", err)
		if undone = undone || apart.anew; undone && attempt == maxPrepares-1 {
			if err := p.m.lockCommit(ctx); err != nil { // what votes from here on is refused
				return err
			}
			p.m.noUndo.Store(true)
			p.m.unlockCommit()
		}
	}
}

// finding is what a GarbageFinder tells.
type finding struct {
	garbage, kept []OID
	all           bool // kept is known
}

// find has s find the garbage, and, if somebody must know, what later transactions keep.
func (p *packing) find(ctx context.Context, s *session, decide func(context.Context) error) (f finding, err error) {
	if p.tells {
		if finder, err := Can[KeptFinder](s.storage); err == nil {
			f.garbage, f.kept, err = finder.FindKept(ctx, p.through, decide)
			f.all = true
			return f, err
		}
	}
	finder, err := Can[GarbageFinder](s.storage)
	if err == nil {
		f.garbage, err = finder.FindGarbage(ctx, p.through, decide)
	}
	return f, err
}

// ableToTell returns the backends that can find the garbage for this pack.
func (p *packing) ableToTell() ([]*session, error) {
	if !p.tells || !p.mixed {
		return p.able, nil
	}
	able := slices.DeleteFunc(slices.Clone(p.able), func(s *session) bool {
		_, err := Can[KeptFinder](s.storage)
		return err != nil
	})
	if len(able) == 0 {
		return nil, &UnsupportedError{Storage: p.m.cfg.Name, Capability: "KeptFinder"}
	}
	return able, nil
}

// takes notes what was found, or refuses the pack.
func (p *packing) takes(f finding) error {
	p.garbage, p.apart = f.garbage, !f.all || len(f.kept) > 0
	if p.mixed && len(f.kept) > 0 {
		return p.keptByLater(f.kept)
	}
	return nil
}

// keptByLater refuses the pack for the sake of objects that backends with an own collection
// would drop.
func (p *packing) keptByLater(oids []OID) error {
	objects := fmt.Sprintf("object %v", oids[0])
	if n := len(oids) - 1; n > 0 {
		objects += fmt.Sprintf(" and %d more", n)
	}
	return &apartError{kept: oids, refusal: &InvalidError{Op: "pack", Reason: fmt.Sprintf(
		"%s could not be reached at %v, and what was written later leads to it or repeats it: backends that find the garbage themselves, as ZEO servers do, would drop it; pack to a later time, when it could be reached again, or to an earlier one",
		objects, p.through)}}
}

// maxLookedUp is how many of the objects in the way are looked up: who has packed lacks all
// of them that were not written again.
const maxLookedUp = 1000

// faultLacking degrades, after a pack that was interrupted, the backends that lack what is
// in the way of making it again: they have packed, and those objects were linked again
// since. It returns nil if there are none, or all are needed. Nothing is packed meanwhile.
func (p *packing) faultLacking(ctx context.Context, kept []OID) error {
	m := p.m
	if m.unfinished() == nil {
		return nil
	}
	v := m.view.Load()
	lacks := make(map[*session]*DifferenceError)
	for _, oid := range kept[:min(len(kept), maxLookedUp)] {
		serials, err := serialsAt(ctx, m, v.sessions, oid, v.last+1)
		if err != nil {
			return err
		}
		for i, s := range v.sessions {
			if newest := slices.Max(serials); serials[i] != newest {
				note(lacks, s, oid, serials[i], newest).Hint = packedApart
			}
		}
	}
	if len(v.sessions)-len(lacks) < max(m.tuned().WriteQuorum, m.tuned().StartQuorum) {
		return nil
	}
	var errs *multierror.Error
	for s, lack := range lacks {
		errs = gather(errs, &BackendError{Backend: s.b.cfg.Name, Op: "compare after a pack that was interrupted", Err: lack})
		m.fault(s, lack)
	}
	return errs.ErrorOrNil()
}

// undoneSince tells whether an undo may have changed, since the garbage was found, what
// Python keeps. The commit slot is held.
func (p *packing) undoneSince() error {
	if !p.tells || TID(p.m.repeated.Load()) <= p.found {
		return nil
	}
	p.apart = true
	if !p.mixed {
		return nil
	}
	return &apartError{anew: true, refusal: &InvalidError{Op: "pack", Reason: "transactions are undone again and again while the pack goes on; pack again"}}
}

// linkedAgain takes what was linked since the garbage was found out of it, or refuses the
// pack.
func (p *packing) linkedAgain(linked []OID) error {
	p.apart = true
	if p.mixed {
		return p.keptByLater(linked)
	}
	p.garbage = slices.DeleteFunc(slices.Clone(p.garbage), func(oid OID) bool {
		_, ok := slices.BinarySearch(linked, oid)
		return ok
	})
	return nil
}

// follows tells whether a backend follows.
func (m *Mirror) follows() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.backends, func(b *backend) bool { return b.role.Actual == RoleAsync })
}
