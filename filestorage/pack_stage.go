package filestorage

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/zeoraid/raidstorage"
)

// A staged pack is a Pack (pack.go) that stops before step 4 and waits: Data.fs.pack is
// there, has nearly all, and is of no use to anybody yet, so that the next open removes
// it. Switch is step 4 to 6, and End step 7, or the removal of Data.fs.pack. What the
// first steps took for garbage, and what transactions refer to since, is told by Relinked,
// which does steps 1 and 2 for the garbage alone.

// stagedPack implements raidstorage.StagedPack. It holds Storage.packing from StagePack on
// until release.
type stagedPack struct {
	s     *Storage
	opts  raidstorage.PackOptions
	start time.Time
	p     *packer // nil: there are no objects
	found *packer // looks for garbage that is linked again; nil: there is no garbage
	ready bool    // whether p has a new file, else there is nothing to pack
	near  bool    // CatchUp was called
	ended bool
}

// StagePack implements raidstorage.StagedPacker. *raidstorage.InvalidError if
// opts.Decided is not set.
func (s *Storage) StagePack(ctx context.Context, opts raidstorage.PackOptions) (raidstorage.StagedPack, error) {
	if !opts.Decided {
		return nil, &raidstorage.InvalidError{Op: "stage a pack", Reason: "it is not decided what is garbage"}
	}
	if _, err := s.enterPack(ctx); err != nil {
		return nil, err
	}
	defer s.calls.Done() // the slot stays taken
	t := &stagedPack{s: s, opts: opts, start: time.Now()}
	s.staged = t
	if err := t.stage(ctx); err != nil {
		t.release()
		return nil, err
	}
	return t, nil
}

func (t *stagedPack) stage(ctx context.Context) error {
	p, err := t.s.newPacker(ctx, t.opts)
	if p == nil || err != nil {
		return err
	}
	t.p = p
	nothing, err := p.read()
	if err == nil && !nothing {
		t.found = p.garbageFinder()
		nothing, err = p.copyAll()
	}
	if err != nil {
		return p.because(err)
	}
	if nothing {
		p.discard()
	}
	t.ready = !nothing
	return nil
}

// garbageFinder returns a packer that finds out which of p's garbage is linked later. Its
// index has the garbage alone.
func (p *packer) garbageFinder() *packer {
	if len(p.garbage) == 0 {
		return nil
	}
	f := &packer{
		s: p.s, ctx: p.ctx, through: p.through, gc: true, finding: true, src: p.src, f: p.f, cuts: p.cuts, last: p.last,
		packPos: p.packPos, cur: newIndex(), kept: make(map[int64]int64), repeated: make(map[raidstorage.OID]bool),
		w: window{r: p.f, buf: make([]byte, packBuffer)}, earlier: window{r: p.f},
	}
	for _, oid := range p.garbage {
		if pos := p.cur.get(oid); pos != 0 {
			f.cur.set(oid, pos)
		}
	}
	f.marks = newMarks(f.cur)
	f.grow(p.packPos)
	return f
}

// enter begins a call: Close waits for its end. p is nil if there is nothing to pack.
func (t *stagedPack) enter(ctx context.Context) (p *packer, leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	if err := t.s.enter(); err != nil {
		return nil, nil, err
	}
	if t.ended {
		t.s.calls.Done()
		return nil, nil, &raidstorage.InvalidError{Op: "staged pack", Reason: "it has ended"}
	}
	if t.ready {
		p = t.p
		p.ctx = ctx
	}
	return p, t.s.calls.Done, nil
}

// Relinked implements raidstorage.StagedPack.
func (t *stagedPack) Relinked(ctx context.Context, after raidstorage.TID, decide func(context.Context) error) ([]raidstorage.OID, error) {
	_, leave, err := t.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if t.found == nil {
		return nil, decide(ctx)
	}
	t.found.ctx = ctx
	err = t.found.findRelinked(after, decide)
	if failed, ok := errors.AsType[*decideError](err); ok {
		return nil, failed.err
	}
	if err != nil {
		return nil, t.found.because(err)
	}
	return t.found.linked(t.opts.Garbage), nil
}

// findRelinked reads what is later than after, and calls decide unless garbage is linked
// there.
func (p *packer) findRelinked(after raidstorage.TID, decide func(context.Context) error) error {
	read := func(to int64) error {
		from := p.end
		p.grow(to)
		if err := p.readLater(from); err != nil {
			return err
		}
		return p.reach()
	}
	if p.end == p.packPos { // the first time
		p.grow(p.settledEnd())
		pos, err := p.transactions(p.packPos, p.end, func(h txnHeader) (bool, error) { return h.tid <= after, nil })
		if err != nil {
			return err
		}
		p.grow(pos)
	}
	for range maxRounds {
		now := p.settledEnd()
		little := now-p.end <= smallRest
		if err := read(now); err != nil {
			return err
		}
		if little {
			break
		}
	}
	if len(p.linked(nil)) > 0 {
		return nil
	}
	if err := decide(p.ctx); err != nil {
		return &decideError{err}
	}
	if err := read(p.settledEnd()); err != nil {
		return err
	}
	if p.s.cuts.Load() != p.cuts {
		return errCut
	}
	return nil
}

// linked returns those of the garbage that are linked, in order; for nil some of them.
func (p *packer) linked(garbage []raidstorage.OID) (oids []raidstorage.OID) {
	if garbage == nil {
		garbage = slices.Collect(maps.Keys(p.repeated))
		if p.marks.count > 0 {
			return make([]raidstorage.OID, 1)
		}
	}
	for _, oid := range garbage {
		if p.cur.get(oid) != 0 && (p.marks.has(oid) || p.repeated[oid]) {
			oids = append(oids, oid)
		}
	}
	return oids
}

// settledEnd is settledLocked.
func (p *packer) settledEnd() int64 {
	p.s.mu.RLock()
	defer p.s.mu.RUnlock()
	return p.s.settledLocked()
}

// CatchUp implements raidstorage.StagedPack.
func (t *stagedPack) CatchUp(ctx context.Context) error {
	p, leave, err := t.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if p == nil {
		return nil
	}
	return t.catchUp(p)
}

func (t *stagedPack) catchUp(p *packer) error {
	if _, err := p.catchUp(); err != nil { // what is decided is not begun again
		return p.because(err)
	}
	t.near = true
	return nil
}

// Switch implements raidstorage.StagedPack. *raidstorage.TIDOrderError says that
// TruncateAfter cut transactions off meanwhile.
func (t *stagedPack) Switch(ctx context.Context) error {
	p, leave, err := t.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if p != nil {
		if !t.near {
			if err := t.catchUp(p); err != nil {
				return err
			}
		}
		if _, err := p.switchOver(); err != nil {
			return p.because(err)
		}
		t.s.log.Info("packed", "backend", t.s.path, "tid", t.opts.Through, "garbage", len(t.opts.Garbage), "outcome", p.outcome,
			"bytes_before", p.before, "bytes", p.after, "duration", time.Since(t.start), "commits_waited", p.locked)
	}
	return nil
}

// End implements raidstorage.StagedPack.
func (t *stagedPack) End(ctx context.Context) error {
	if t.s.enter() != nil { // Close has released it, or does
		return nil
	}
	defer t.s.calls.Done()
	if t.ended {
		return nil
	}
	var err error
	if t.ready && t.p.out.adopted {
		t.p.ctx = ctx
		err = t.p.removeBlobs()
	}
	t.release()
	return err
}

// release gives everything back. It is called within a call, or by Close.
func (t *stagedPack) release() {
	t.ended = true
	if t.p != nil {
		t.p.discard()
		t.s.unpin(t.p.src)
	}
	t.s.staged = nil
	<-t.s.packing
}
