package memstorage

import (
	"context"

	"github.com/zeoraid/raidstorage"
)

// stagedPack implements raidstorage.StagedPack: a rewrite that waits. It holds nothing: if
// somebody else rewrites the log meanwhile, Switch refuses.
type stagedPack struct {
	s        *Storage
	h        *handle
	opts     raidstorage.PackOptions
	w        *rewrite
	taken    int // how many of the log's transactions it has
	rewrites int
	ended    bool
}

// StagePack implements raidstorage.StagedPacker. *raidstorage.InvalidError if
// opts.Decided is not set.
func (s *Storage) StagePack(ctx context.Context, opts raidstorage.PackOptions) (raidstorage.StagedPack, error) {
	if !opts.Decided {
		return nil, &raidstorage.InvalidError{Op: "stage a pack", Reason: "it is not decided what is garbage"}
	}
	h := s.handle()
	if err := h.take(ctx, h.db.packing); err != nil {
		return nil, err
	}
	defer func() { <-h.db.packing }()
	h.db.mu.RLock()
	rewrites := h.db.rewrites // only changed with packing held
	h.db.mu.RUnlock()
	p, log, err := s.newPacker(ctx, h, opts)
	if err != nil {
		return nil, err
	}
	if err := p.read(ctx, log); err != nil {
		return nil, err
	}
	t := &stagedPack{s: s, h: h, opts: opts, rewrites: rewrites, taken: len(log), w: &rewrite{p: p, objects: make(map[raidstorage.OID]*object)}}
	t.w.add(log)
	return t, nil
}

// Relinked implements raidstorage.StagedPack. It finds all garbage anew.
func (t *stagedPack) Relinked(ctx context.Context, _ raidstorage.TID, decide func(context.Context) error) ([]raidstorage.OID, error) {
	if err := t.alive(); err != nil {
		return nil, err
	}
	if len(t.opts.Garbage) == 0 {
		return nil, decide(ctx)
	}
	p, log, err := t.s.newPacker(ctx, t.h, raidstorage.PackOptions{Through: t.opts.Through})
	if err != nil {
		return nil, err
	}
	p.gc = true // whatever was packed: it is decided what is garbage
	if err := p.read(ctx, log); err != nil {
		return nil, err
	}
	linked := func() (oids []raidstorage.OID) {
		for _, oid := range t.opts.Garbage {
			if rec := p.packed[oid]; rec != nil && rec.data != nil && (p.keep[oid] || p.repeated[oid]) {
				oids = append(oids, oid)
			}
		}
		return oids
	}
	if oids := linked(); len(oids) > 0 {
		return oids, nil
	}
	if err := decide(ctx); err != nil {
		return nil, err
	}
	if err := t.h.rlock(ctx); err != nil {
		return nil, err
	}
	now := t.h.db.log
	t.h.db.mu.RUnlock()
	if len(now) < len(log) {
		return nil, t.rewritten()
	}
	if err := p.read(ctx, now[len(log):]); err != nil {
		return nil, err
	}
	return linked(), nil
}

// CatchUp implements raidstorage.StagedPack.
func (t *stagedPack) CatchUp(ctx context.Context) error {
	if err := t.alive(); err != nil {
		return err
	}
	if err := t.h.rlock(ctx); err != nil {
		return err
	}
	log, rewrites := t.h.db.log, t.h.db.rewrites
	t.h.db.mu.RUnlock()
	if rewrites != t.rewrites {
		return t.rewritten()
	}
	t.w.add(log[t.taken:])
	t.taken = len(log)
	return nil
}

// Switch implements raidstorage.StagedPack.
func (t *stagedPack) Switch(ctx context.Context) error {
	if err := t.alive(); err != nil {
		return err
	}
	unlock, err := t.h.lockLog(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := t.CatchUp(ctx); err != nil {
		return err
	}
	t.ended = true
	return t.w.install()
}

// End implements raidstorage.StagedPack.
func (t *stagedPack) End(context.Context) error {
	t.ended, t.w = true, nil
	return nil
}

func (t *stagedPack) alive() error {
	if t.ended {
		return &raidstorage.InvalidError{Op: "staged pack", Reason: "it has ended"}
	}
	return nil
}

func (t *stagedPack) rewritten() error {
	return &raidstorage.InvalidError{Op: "staged pack", Reason: "the log was rewritten meanwhile"}
}
