package raidstorage

// A pack of a mirror (replication.md, K1-K5, V6). Pack does not commute with commits:
// what is garbage is decided once, at one position of the commit order, the cut.
//
//	wait      until no recovery runs; from here on none begins (V6)
//	find      a native backend (GarbageFinder) reads what is garbage at the pack
//	          time; commits go on until it has read nearly everything. If others would
//	          drop more the pack ends here, or begins anew (pack_kept.go)
//	cut       with the commit slot held: it reads the rest; the record is written,
//	          with the pack horizon, the lock and its holder, and all backends as
//	          unpacked; backends with a garbage collection of their own only (ZEO
//	          servers) are told to pack, and get Timeouts.PackSettle to begin (K3)
//	pack      commits go on; the native ones pack one after the other, each by the
//	          same set, the others meanwhile
//	          (this is for native backends that are not all StagedPackers; those prepare
//	          first, and switch at the cut, see pack_steps.go)
//	compare   the objects that all of them hold as of the cut (K4)
//	end       the record is written without the lock, and with those backends as
//	          unpacked that failed or were not there; those that lack an object
//	          which others have are degraded
//
// Invariants. While the record has the lock, or names a backend as unpacked that is
// in sync, the backends may hold different garbage and old revisions: then nobody is
// degraded for such a difference, a vote that they answer differently is refused, and
// so is every undo. From the cut on an undo at or before the pack horizon is refused,
// whatever a backend would still do (K5). The last transaction is never dropped: its
// records may be, but LastTID does not go back.
//
// Crash points. Before the record of the cut nothing has happened. After it each
// backend is packed or not, and none was compared; the next start takes the lock out of
// the record, leaves all backends marked as unpacked, and makes the pack again
// (pack_finish.go). A backend marked so is compared object by object when it is
// recovered (recovery_pack.go).

import (
	"cmp"
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-multierror"
)

// Packer is a storage that can drop what is not needed any more.
type Packer interface {
	// Pack drops the revisions that were not current at opts.Through and, with GC,
	// the objects that were not reachable then from the root object nor from a
	// record written later. Transactions up to opts.Through become StatusPacked.
	// Reads and commits go on. A record whose references cannot be read stops the
	// pack with a *CorruptError that names it, and nothing is dropped. What was packed
	// to a later time already stays as it is: which objects could be reached cannot be
	// told any more. (ZODB: pack.)
	Pack(ctx context.Context, opts PackOptions) error
}

// PackOptions says what Packer.Pack drops.
type PackOptions struct {
	Through TID  // the pack time, inclusive: revisions current at it are kept
	GC      bool // whether to collect objects that cannot be reached

	// Decided makes Pack of a GarbageFinder drop exactly the objects in Garbage, as
	// they were at Through, instead of finding out itself: nothing that was written
	// since spares one. GC is ignored. The last transaction up to Through stays, even
	// if it loses all its records, so that LastTID does not go back, here or after a
	// restart. Storages with equal logs then have equal current records. Others than
	// a GarbageFinder refuse it, or take no notice.
	Decided bool
	Garbage []OID // in ascending order; only read, until Pack returns

	// CompareBytesPerSecond is Config.CompareBytesPerSecond for this pack of a Mirror, 0
	// for that. Other storages take no notice.
	CompareBytesPerSecond int64

	// NoWait makes a Mirror refuse with *BusyError instead of waiting for a recovery
	// or another pack to end. Other storages take no notice.
	NoWait bool
}

// GarbageFinder is a Packer that tells what is garbage without dropping it, and
// that packs by what another one has told: see PackOptions.Decided. With it a mirror
// decides once for all backends (rule K2).
type GarbageFinder interface {
	Packer
	// FindGarbage returns the objects, in ascending order, that Pack with GC would
	// drop: those which were there at through and could be reached neither then from
	// the root object, nor from a record written later. When it has read nearly
	// everything it calls decide, once, and from there on it reads only what was
	// finished until decide returned: if transactions are kept from finishing until
	// FindGarbage has returned, its answer holds for that moment. An error of decide
	// ends it. Errors as of Pack.
	FindGarbage(ctx context.Context, through TID, decide func(context.Context) error) ([]OID, error)
}

var _ GarbageFinder = (*Mirror)(nil)

// FindGarbage implements GarbageFinder, for a mirror that is a backend of another one:
// one of the backends tells.
func (m *Mirror) FindGarbage(ctx context.Context, through TID, decide func(context.Context) error) (garbage []OID, err error) {
	if err := supports[GarbageFinder](m); err != nil {
		return nil, err
	}
	err = m.findAtOne(ctx, through, decide, func(s *session, through TID, decide func(context.Context) error) error {
		finder, err := Can[GarbageFinder](s.storage)
		if err == nil {
			garbage, err = finder.FindGarbage(ctx, through, decide)
		}
		return err
	})
	return garbage, err
}

// findAtOne has one backend find the garbage.
func (m *Mirror) findAtOne(ctx context.Context, through TID, decide func(context.Context) error,
	find func(s *session, through TID, decide func(context.Context) error) error) error {
	v := m.view.Load()
	switch {
	case v.closed:
		return ErrClosed
	case len(v.sessions) == 0:
		return &UnavailableError{Need: 1}
	}
	through = min(through, v.last)
	able, err := m.knowing(ctx, v, v.sessions, through)
	if err != nil {
		return err
	}
	s := m.mostFirst(ctx, able)[0]
	err = find(s, through, func(ctx context.Context) error {
		if err := decide(ctx); err != nil {
			return err
		}
		return mayDecide(m.view.Load(), s)
	})
	if err != nil {
		return &BackendError{Backend: s.b.cfg.Name, Op: "find garbage", Err: err}
	}
	return nil
}

// Pack implements Packer: all backends in sync drop the same, see above. It waits
// for recoveries to end, and they for it, unless opts.NoWait is set. A backend whose
// pack fails stays in sync and is named in the error, which may hold several; one
// that lacks an object which the others have afterwards is degraded. Reads and
// commits go on, but no undo. The pack time is at most the last transaction's; with
// backends that only have a garbage collection of their own it is before it, so that
// they cannot drop the last transaction. If all backends in sync were packed to a later time
// already, nothing is done. Progress is in Status and in events.
//
// Beside GarbageFinders those others may drop more: objects that could not be reached at
// the pack time and that a later transaction has linked again (KeptFinder). If there are
// any Pack is refused with *InvalidError, which names the first one, and nothing has
// changed; but as far as opts.Through allows a later pack time it tries some of those first.
func (m *Mirror) Pack(ctx context.Context, opts PackOptions) error {
	if m.view.Load().closed {
		return ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := supports[Packer](m); err != nil {
		return err
	}
	if opts.Decided {
		if err := supports[GarbageFinder](m); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(m.ctx, cancel)()
	p := &packing{m: m, opts: opts, failed: make(map[*session]error)}
	err := p.run(ctx)
	if m.closing() {
		return ErrClosed
	}
	return err
}

// packing is one run of Pack. It belongs to one goroutine.
type packing struct {
	m       *Mirror
	opts    PackOptions
	through TID
	cut     TID
	garbage []OID
	decided bool       // garbage is known
	able    []*session // the native ones that know what could be reached at the pack time
	finder  *session   // who told what is garbage
	natives bool       // there are native backends
	mixed   bool       // there are both kinds
	tells   bool       // who finds the garbage must tell what others would drop besides (pack_kept.go)
	apart   bool       // they would, or may
	// before are the backends that an earlier pack up to lastHorizon has left unpacked.
	before      []string
	lastHorizon TID

	staged map[*session]*oneCall // what is made ready and not ended
	order  []*session            // the native ones, of staged packs
	found  TID                   // the last transaction when the garbage was found, of staged packs

	sessions []*session // in sync at the cut
	finders  []*session // the native ones of those, as a mirror may cease to be one
	others   sync.WaitGroup
	mu       sync.Mutex // guards failed while others run
	failed   map[*session]error
	told     time.Time
}

func (p *packing) run(ctx context.Context) error {
	m := p.m
	progress := &PackProgress{Phase: PackWaiting, Started: m.now(), Through: p.opts.Through, Garbage: -1}
	if err := m.exclusion.exclusive(ctx, m, progress, p.opts.NoWait); err != nil {
		return err
	}
	defer m.exclusion.end(m)
	if err := p.decide(ctx); err != nil || p.cut == 0 {
		return err
	}
	if p.staged == nil {
		p.packNatives(ctx)
	}
	p.endStaged(ctx)
	p.others.Wait()
	c := p.compare(ctx)
	return p.end(ctx, c)
}

// packTime returns the pack time for a pack that begins with v.
func (m *Mirror) packTime(v *view, asked TID) TID {
	through := min(asked, v.last)
	if slices.ContainsFunc(v.sessions, func(s *session) bool { return !native(s) }) || m.followedByOthers() {
		through = min(through, v.last-min(v.last, packMargin))
	}
	return through
}

// attempt is decide for the pack time that is chosen now.
func (p *packing) attempt(ctx context.Context) error {
	m := p.m
	// Before anything is read: what is committed while that goes on counts as later.
	v := m.view.Load()
	p.through = m.packTime(v, p.opts.Through)
	sessions := v.sessions
	finders := slices.DeleteFunc(slices.Clone(sessions), func(s *session) bool { return !native(s) })
	p.natives, p.mixed = len(finders) > 0, len(finders) > 0 && len(finders) < len(sessions)
	p.tells = p.opts.GC && !p.opts.Decided && p.natives && (p.mixed || m.follows())
	p.garbage, p.finder, p.found, p.apart, p.staged, p.order = nil, nil, 0, false, nil, nil
	if p.through == 0 {
		return nil
	}
	p.progress(true, func(pp *PackProgress) { pp.Phase, pp.Through = PackFinding, p.through })
	if nothing, err := p.packedAlready(ctx, v, finders); nothing || err != nil {
		return err
	}
	if p.opts.Decided {
		p.garbage = p.opts.Garbage
	}
	if len(finders) > 0 && !slices.ContainsFunc(finders, func(s *session) bool { return !canStage(s) }) {
		return p.inTwoSteps(ctx, finders)
	}
	if p.opts.Decided || !p.opts.GC || len(finders) == 0 {
		p.decided = p.opts.Decided || !p.opts.GC
		if err := m.lockCommit(ctx); err != nil {
			return err
		}
		defer m.unlockCommit()
		return p.makeCut(ctx)
	}
	able, err := p.ableToTell()
	if err != nil {
		return err
	}
	return p.findAt(ctx, able, p.decideAt)
}

// findAt has one backend find the garbage, or another one if it fails.
func (p *packing) findAt(ctx context.Context, finders []*session, find func(context.Context, *session) error) error {
	var errs *multierror.Error
	for _, s := range p.m.mostFirst(ctx, finders) {
		err := find(ctx, s)
		if err == nil || isA[*apartError](err) {
			return err
		}
		errs = gather(errs, &BackendError{Backend: s.b.cfg.Name, Op: "find garbage", Err: err})
		// Another one would say the same, or was not asked for.
		if ctx.Err() != nil || Classify(err) != ClassFailure || isA[*CorruptError](err) {
			break
		}
	}
	return errs
}

// packMargin keeps the pack time of storages that round it, such as ZEO servers,
// before the last transaction: 10 ms.
const packMargin = TID(1<<32) / 6000

// native tells whether a backend packs by what another one has decided.
func native(s *session) bool {
	return Supports(s.storage, reflect.TypeFor[GarbageFinder]())
}

// mostFirst puts the one with the most objects first: after an interrupted pack it is
// one that has not packed, and knows what is garbage there.
func (m *Mirror) mostFirst(ctx context.Context, finders []*session) []*session {
	finders = slices.Clone(finders)
	count := make(map[*session]int64)
	for _, s := range finders {
		if sizer, err := Can[Sizer](s.storage); err == nil {
			if n, err := leave(ctx, m, m.tuned().Timeouts.Read, func(ctx context.Context) (int64, error) {
				n, _, err := sizer.Size(ctx)
				return n, err
			}); err == nil {
				count[s] = n
			}
		}
	}
	slices.SortStableFunc(finders, func(a, b *session) int { return cmp.Compare(count[b], count[a]) })
	return finders
}

// decideAt finds the garbage at one backend. The commit slot is taken on the way and
// freed when the cut is made.
func (p *packing) decideAt(ctx context.Context, s *session) (err error) {
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
		if err := m.lockCommit(w.ctx); err != nil {
			return err
		}
		locked = true
		if err := p.settle(w.ctx); err != nil {
			return err
		}
		w.begin() // commits wait now
		return mayDecide(m.view.Load(), s)
	}
	found, err := leaveAsking(w.ctx, m, m.tuned().Timeouts.Pack, decide,
		func(ctx context.Context, ask func(context.Context) error) (finding, error) {
			return p.find(ctx, s, ask)
		})
	if err = w.because(err); err != nil {
		return err
	}
	if s.dead.Load() {
		return fmt.Errorf("the backend failed meanwhile")
	}
	if err := p.takes(found); err != nil {
		return err
	}
	p.decided, p.finder = true, s
	return p.makeCut(ctx)
}

// settle makes sure that the backends are equal. The commit slot is held.
func (p *packing) settle(ctx context.Context) error {
	m := p.m
	if m.unresolved != nil || !m.covers(m.view.Load()) {
		return m.resolve(ctx)
	}
	return nil
}

// makeCut writes the record and starts those that decide for themselves (K3). The
// commit slot is held.
func (p *packing) makeCut(ctx context.Context) error {
	if err := p.writeCut(ctx); err != nil {
		return err
	}
	for _, s := range p.sessions {
		if native(s) {
			p.finders = append(p.finders, s)
		}
	}
	p.settleOthers(ctx, p.startOthers(ctx))
	return nil
}

// writeCut writes the record of the cut. The commit slot is held.
func (p *packing) writeCut(ctx context.Context) error {
	m := p.m
	if err := p.settle(ctx); err != nil {
		return err
	}
	v := m.view.Load()
	// One may have come back since the pack time and the garbage were decided.
	for _, s := range v.sessions {
		if native(s) != p.natives && !p.mixed {
			return &UnavailableError{Err: fmt.Errorf("backend %s has come back meanwhile; pack again", s.b.cfg.Name)}
		}
	}
	p.before, p.lastHorizon = m.record.Unpacked, m.record.PackHorizon
	next := m.record.next(m.now(), fmt.Sprintf("pack to %v begins, decided at %v", p.through, v.last))
	next.PackHorizon = max(next.PackHorizon, p.through)
	next.Lock = &RecordLock{Holder: m.cfg.Name, Reason: "pack to " + p.through.String(), Since: next.Time}
	next.Unpacked = m.names()
	next.Unfinished = &UnfinishedPack{Through: p.through, GC: p.opts.GC && !p.opts.Decided}
	if err := m.setRecord(context.WithoutCancel(ctx), next); err != nil {
		return unavailable(err)
	}
	m.packHasCut = true
	p.cut, p.sessions = v.last, v.sessions
	p.packFollowers()
	p.progress(true, func(pp *PackProgress) {
		pp.Phase, pp.Cut = PackPacking, p.cut
		if p.decided {
			pp.Garbage = int64(len(p.garbage))
		}
	})
	return nil
}

// startOthers starts the packs of those that decide for themselves, and tells whether
// there are any.
func (p *packing) startOthers(ctx context.Context) (started bool) {
	for _, s := range p.sessions {
		if native(s) {
			continue
		}
		started = true
		p.others.Add(1)
		call := func() {
			defer p.others.Done()
			p.packAt(ctx, s, PackOptions{Through: p.through, GC: p.opts.GC})
		}
		if !p.m.run(call) {
			call() // the mirror closes, and ctx has ended
		}
	}
	return started
}

// settleOthers gives those that were started the time to begin (K3).
func (p *packing) settleOthers(ctx context.Context, started bool) {
	if !started {
		return
	}
	timer := time.NewTimer(p.m.tuned().Timeouts.PackSettle)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done(): // compare will tell
	}
}

// packNatives packs one backend after the other: it is much work for a machine, and
// reads must go on.
func (p *packing) packNatives(ctx context.Context) {
	for _, s := range p.finders {
		p.packAt(ctx, s, PackOptions{Through: p.through, Decided: true, Garbage: p.garbage})
	}
}

// packAt packs one backend. A failure is noted, and is no fault: its data is as it was.
func (p *packing) packAt(ctx context.Context, s *session, opts PackOptions) {
	err := p.m.askToPack(ctx, s, opts)
	p.packed(s, err)
}

// packed notes how the pack of one backend has ended.
func (p *packing) packed(s *session, err error) {
	if err == nil && s.dead.Load() {
		err = fmt.Errorf("the backend failed meanwhile")
	}
	name := s.b.cfg.Name
	p.mu.Lock()
	if err != nil {
		p.failed[s] = &BackendError{Backend: name, Op: "pack", Err: err}
	}
	p.mu.Unlock()
	p.progress(true, func(pp *PackProgress) {
		if err != nil {
			pp.Failed = append(slices.Clone(pp.Failed), name)
		} else {
			pp.Packed = append(slices.Clone(pp.Packed), name)
		}
	})
}

// failure returns how the pack of a backend failed so far.
func (p *packing) failure(s *session) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failed[s]
}

// askToPack has a backend pack. A call that is left to itself may still do something one
// day: until it has ended the backend is asked for no other pack.
func (m *Mirror) askToPack(ctx context.Context, s *session, opts PackOptions) error {
	packer, err := Can[Packer](s.storage)
	if err != nil {
		return err
	}
	if !s.packs.CompareAndSwap(false, true) {
		return fmt.Errorf("an earlier pack of it has not ended")
	}
	_, err = leave(ctx, m, m.tuned().Timeouts.Pack, func(ctx context.Context) (struct{}, error) {
		defer s.packs.Store(false)
		return struct{}{}, packer.Pack(ctx, opts)
	})
	return err
}

// end writes the record and degrades those that lack something.
func (p *packing) end(ctx context.Context, c *packComparison) error {
	m := p.m
	ctx = context.WithoutCancel(ctx) // the lock must not stay, whoever gave up
	var errs *multierror.Error
	whole := make(map[string]bool)
	for _, s := range p.sessions {
		switch err := p.failed[s]; {
		case err != nil:
			errs = gather(errs, err)
		case c.lost[s] != nil:
			errs = gather(errs, c.lost[s])
		case p.through < p.lastHorizon && slices.Contains(p.before, s.b.cfg.Name):
			// This one does not make up for the earlier pack, to a later time.
		case c.err == nil && c.lacks[s] == nil && c.keeps[s] == nil && !c.older[s] && !s.dead.Load():
			whole[s.b.cfg.Name] = true
		}
	}
	if c.err != nil {
		errs = gather(errs, c.err)
	}
	for _, s := range p.sessions {
		if err := c.keeps[s]; err != nil {
			errs = gather(errs, err)
		}
	}
	if err := m.lockCommit(ctx); err != nil {
		return gather(errs, err)
	}
	m.packHasCut = false // if this is not confirmed, who moves the epoch takes the lock out
	next := m.record.next(m.now(), fmt.Sprintf("pack to %v ends", p.through))
	next.Lock, next.Unfinished = nil, nil
	next.Unpacked = slices.DeleteFunc(next.Unpacked, func(name string) bool {
		return whole[name] && slices.Contains(next.InSync, name)
	})
	err := m.setRecord(ctx, next)
	m.unlockCommit()
	if err != nil {
		errs = gather(errs, unavailable(err))
	}
	defer m.unpark() // those that are degraded here have no recovery behind them yet
	for _, s := range p.sessions {
		lack := c.lacks[s]
		if lack == nil {
			continue
		}
		errs = gather(errs, &BackendError{Backend: s.b.cfg.Name, Op: "compare after pack", Err: lack})
		if len(p.sessions)-len(c.lacks) >= max(m.tuned().WriteQuorum, m.tuned().StartQuorum) {
			m.fault(s, lack)
		}
	}
	return errs.ErrorOrNil()
}
