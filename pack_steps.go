package raidstorage

// A pack of native backends in two steps (rule K2), where all of them are StagedPackers:
//
//	find      one backend reads what is garbage at the pack time; commits go on
//	prepare   each backend makes ready what it will be, one after the other; commits go on
//	relink    one of them reads what was committed since the garbage was found. If that
//	          has linked garbage again it is taken out of the set, and all prepare again
//	cut       with the commit slot held: the rest is read, which is little; if that has
//	          linked garbage, the slot is freed and all prepare again. Else the record is
//	          written, those that decide for themselves are started, and all switch
//
// So what is dropped is exactly what is garbage at the cut, on all alike: nothing is
// between the decision and the switch, and what is linked later was there no more. An
// error before the record of the cut leaves all as it was.
//
// Crash points. Before the record of the cut no backend has changed, and what was prepared
// is removed when it is opened. Between the first and the last switch some are packed, and
// no commit was made since the cut.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-multierror"
)

// maxPrepares bounds how often garbage that is linked again makes all prepare anew.
const maxPrepares = 4

func canStage(s *session) bool {
	_, err := Can[StagedPacker](s.storage)
	return err == nil
}

// inTwoSteps finds the garbage, prepares the native backends and has them switch. Only who
// found the garbage knows what links it again: another one may have lost some of it in an
// earlier pack, and with it what it refers to. If it fails the garbage is found anew.
func (p *packing) inTwoSteps(ctx context.Context, natives []*session) error {
	p.staged, p.order = make(map[*session]*oneCall), natives
	for range maxPrepares {
		if p.finds() && p.finder == nil {
			if err := p.findForAll(ctx); err != nil {
				return err
			}
		}
		p.decided = true
		if err := p.prepare(ctx, natives); err != nil {
			p.endStaged(ctx)
			return err
		}
		linked, err := p.cutAndSwitch(ctx)
		if p.cut == 0 && p.finds() && p.staged[p.finder] == nil && ctx.Err() == nil {
			p.endStaged(ctx)
			p.m.cfg.Logger.Info("the backend that found the garbage has failed, it is found anew", "backend", p.finder.b.cfg.Name, "tid", p.through)
			p.finder = nil
			continue
		}
		if err != nil && p.cut == 0 {
			p.endStaged(ctx)
			return err
		}
		if len(linked) == 0 {
			return err
		}
		p.endStaged(ctx)
		if err := p.linkedAgain(linked); err != nil {
			return err
		}
		p.m.cfg.Logger.Info("garbage was linked again, the backends prepare the pack anew", "tid", p.through, "objects", len(linked))
	}
	if p.finds() && p.finder == nil {
		return p.failures()
	}
	return &InvalidError{Op: "pack", Reason: "garbage is linked again and again while the pack goes on; pack to an earlier time"}
}

// finds tells whether a backend has to find the garbage.
func (p *packing) finds() bool { return p.opts.GC && !p.opts.Decided }

// findForAll has a backend find the garbage that has not failed.
func (p *packing) findForAll(ctx context.Context) error {
	able, err := p.ableToTell()
	if err != nil {
		return err
	}
	able = slices.DeleteFunc(slices.Clone(able), func(s *session) bool { return s.dead.Load() || p.failed[s] != nil })
	if len(able) == 0 {
		return p.failures()
	}
	return p.findAt(ctx, able, p.findOnly)
}

// failures are why no backend is left.
func (p *packing) failures() error {
	if err := gatherAll(p.failed); err != nil {
		return err
	}
	return &UnavailableError{Need: 1} // their sessions have ended
}

// findOnly finds the garbage at one backend, and decides nothing yet.
func (p *packing) findOnly(ctx context.Context, s *session) error {
	w := p.watchRest(ctx)
	defer w.end()
	last := TID(0)
	found, err := leaveAsking(w.ctx, p.m, p.m.tuned().Timeouts.Pack, func() error {
		v := p.m.view.Load()
		last = v.last // the backend has all of that, and may have read more
		if !p.tells { // what others would drop it works out now, which may be as much as before
			w.begin()
		}
		return mayDecide(v, s)
	}, func(ctx context.Context, ask func(context.Context) error) (finding, error) {
		return p.find(ctx, s, ask)
	})
	err = w.because(err)
	if err == nil && s.dead.Load() {
		err = fmt.Errorf("the backend failed meanwhile")
	}
	if err == nil {
		p.found, p.finder = last, s
		err = p.takes(found)
	}
	return err
}

// restWatch bounds the time in which a backend reads the rest, after it was told to
// decide: it is little.
type restWatch struct {
	parent, ctx context.Context
	cancel      context.CancelFunc
	timer       *time.Timer
	limit       time.Duration
}

func (p *packing) watchRest(ctx context.Context) *restWatch {
	w := &restWatch{parent: ctx, limit: p.m.tuned().Timeouts.Vote}
	w.ctx, w.cancel = context.WithCancel(ctx)
	w.timer = time.AfterFunc(w.limit, w.cancel)
	w.timer.Stop() // until begin
	return w
}

func (w *restWatch) begin() { w.timer.Reset(w.limit) }

func (w *restWatch) end() {
	w.timer.Stop()
	w.cancel()
}

// because returns the error of what was watched.
func (w *restWatch) because(err error) error {
	if w.ctx.Err() != nil && w.parent.Err() == nil {
		return fmt.Errorf("the rest was not read in %v: %w", w.limit, context.DeadlineExceeded)
	}
	if err == nil {
		err = w.ctx.Err()
	}
	return err
}

// prepare has each backend make ready its pack. Those that fail are noted; it is an error
// if all do.
func (p *packing) prepare(ctx context.Context, natives []*session) error {
	p.progress(true, func(pp *PackProgress) { pp.Phase, pp.Garbage = PackPreparing, int64(len(p.garbage)) })
	opts := PackOptions{Through: p.through, Decided: true, Garbage: p.garbage}
	var errs *multierror.Error
	for _, s := range natives {
		if s.dead.Load() || p.failed[s] != nil {
			continue
		}
		staged, err := leave(ctx, p.m, p.m.tuned().Timeouts.Pack, func(ctx context.Context) (StagedPack, error) {
			return stage(ctx, s, opts)
		})
		if err != nil {
			p.packed(s, err)
			errs = gather(errs, p.failed[s])
			continue
		}
		p.staged[s] = newOneCall(staged)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(p.staged) == 0 {
		if errs == nil { // all have failed since the garbage was found
			return &UnavailableError{Need: 1}
		}
		return errs
	}
	return nil
}

// stage calls StagePack. What comes too late for its caller is ended.
func stage(ctx context.Context, s *session, opts PackOptions) (StagedPack, error) {
	packer, err := Can[StagedPacker](s.storage)
	if err != nil {
		return nil, err
	}
	staged, err := packer.StagePack(ctx, opts)
	if err == nil && ctx.Err() != nil {
		_ = staged.End(context.WithoutCancel(ctx)) // nothing was changed, and nobody waits
		return nil, ctx.Err()
	}
	return staged, err
}

// drop ends the pack of one backend that failed before it has switched.
func (p *packing) drop(ctx context.Context, s *session, err error) {
	p.packed(s, err)
	p.endOne(ctx, s)
}

// endStaged ends what was prepared: it is removed, or what it has replaced is.
func (p *packing) endStaged(ctx context.Context) {
	for _, s := range p.preparedOnes() {
		p.endOne(ctx, s)
	}
}

func (p *packing) endOne(ctx context.Context, s *session) {
	staged := p.staged[s]
	delete(p.staged, s)
	if staged.busy() { // it would keep everything that waits for packs waiting
		p.m.cfg.Logger.Warn("a call of a pack that was given up has not come back yet", "backend", s.b.cfg.Name)
		p.m.run(func() {
			if err := staged.End(context.WithoutCancel(ctx)); err != nil {
				p.m.cfg.Logger.Warn("what was prepared for a pack was not removed", "backend", s.b.cfg.Name, "err", err)
			}
		})
		return
	}
	_, err := leave(context.WithoutCancel(ctx), p.m, p.m.tuned().Timeouts.Pack, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, staged.End(ctx)
	})
	if err != nil && p.cut != 0 && p.failure(s) == nil {
		p.packed(s, err)
	} else if err != nil {
		p.m.cfg.Logger.Warn("what was prepared for a pack was not removed", "backend", s.b.cfg.Name, "err", err)
	}
}

// cutAndSwitch makes the cut and has all switch, or returns the garbage that was linked
// again. The commit slot is free again when it returns.
func (p *packing) cutAndSwitch(ctx context.Context) (linked []OID, err error) {
	for _, s := range p.preparedOnes() {
		staged := p.staged[s]
		_, err := leave(ctx, p.m, p.m.tuned().Timeouts.Pack, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, staged.CatchUp(ctx)
		})
		if err != nil {
			p.drop(ctx, s, err)
		}
	}
	for _, s := range p.preparedOnes() {
		if p.finds() && s != p.finder {
			break
		}
		linked, refused, err := p.cutBy(ctx, s)
		if err == nil || refused || ctx.Err() != nil {
			return linked, err
		}
		p.drop(ctx, s, err)
	}
	return nil, p.failures()
}

// preparedOnes are the backends that are prepared, who found the garbage first.
func (p *packing) preparedOnes() []*session {
	all := slices.DeleteFunc(slices.Clone(p.order), func(s *session) bool { return p.staged[s] == nil })
	if i := slices.Index(all, p.finder); i > 0 {
		all[0], all[i] = all[i], all[0]
	}
	return all
}

// cutBy makes the cut by what s has read. refused: it is not s that is in the way.
func (p *packing) cutBy(ctx context.Context, s *session) (linked []OID, refused bool, err error) {
	m := p.m
	locked := false
	defer func() {
		if locked {
			m.unlockCommit()
		}
	}()
	w := p.watchRest(ctx)
	defer w.end()
	decide := func() error {
		err := m.lockCommit(w.ctx)
		if err == nil {
			locked = true
			err = p.settle(w.ctx)
		}
		if err == nil {
			err = p.undoneSince()
		}
		if refused = err != nil; !refused {
			err = mayDecide(m.view.Load(), s)
		}
		w.begin() // commits wait now
		return err
	}
	if !p.opts.GC || p.opts.Decided {
		err = decide()
	} else {
		staged := p.staged[s]
		linked, err = leaveAsking(w.ctx, m, m.tuned().Timeouts.Pack, decide,
			func(ctx context.Context, ask func(context.Context) error) ([]OID, error) {
				return staged.Relinked(ctx, p.found, ask)
			})
		if !refused {
			err = w.because(err)
		}
	}
	if err != nil || len(linked) > 0 {
		return linked, refused, err
	}
	if !locked {
		return nil, false, fmt.Errorf("it has not asked to decide")
	}
	err = p.switchAll(ctx)
	return nil, err != nil, err
}

// switchAll writes the record of the cut and has all switch. The commit slot is held.
func (p *packing) switchAll(ctx context.Context) error {
	if err := p.writeCut(ctx); err != nil {
		return err
	}
	started := p.startOthers(ctx)
	var wg sync.WaitGroup
	for _, s := range p.sessions {
		staged := p.staged[s]
		switch {
		case !native(s) || p.failure(s) != nil:
		case staged == nil:
			p.packed(s, fmt.Errorf("it has come back meanwhile, and was not prepared"))
		default:
			wg.Go(func() { p.switchOne(ctx, s, staged) })
		}
	}
	wg.Wait()
	p.settleOthers(ctx, started)
	return nil
}

// switchOne has one backend switch. One that does not answer is dropped, like one that
// does not answer to a finish: nobody knows what it is now.
func (p *packing) switchOne(ctx context.Context, s *session, staged *oneCall) {
	_, err := leave(context.WithoutCancel(ctx), p.m, p.m.tuned().Timeouts.Finish, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, staged.Switch(ctx)
	})
	if isA[*leftError](err) {
		p.m.fault(s, fmt.Errorf("switch to the packed storage: %w", err))
	}
	p.packed(s, err)
}

// mayDecide returns an error unless s has all that was committed: one that failed, or was
// demoted, since it was asked what is garbage does not know what was linked meanwhile.
func mayDecide(v *view, s *session) error {
	if slices.Contains(v.sessions, s) {
		return nil
	}
	return errors.New("the backend is not in sync any more")
}
