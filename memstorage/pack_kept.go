package memstorage

import (
	"context"
	"maps"
	"slices"

	"github.com/zeoraid/raidstorage"
)

var _ raidstorage.KeptFinder = (*Storage)(nil)

// FindKept implements raidstorage.KeptFinder. A record that repeats data knows where they
// were first, and not of which revision it was made, and a deletion not whether it repeats
// one: where that matters for what Python would do, the object is taken as kept by later
// transactions alone.
func (s *Storage) FindKept(ctx context.Context, through raidstorage.TID, decide func(context.Context) error) (garbage, kept []raidstorage.OID, err error) {
	h := s.handle()
	if err := h.take(ctx, h.db.packing); err != nil {
		return nil, nil, err
	}
	defer func() { <-h.db.packing }()
	p, log, err := s.newPacker(ctx, h, raidstorage.PackOptions{Through: through, GC: true})
	if err != nil {
		return nil, nil, err
	}
	if err := p.read(ctx, log); err != nil {
		return nil, nil, err
	}
	if err := decide(ctx); err != nil {
		return nil, nil, err
	}
	if err := h.rlock(ctx); err != nil {
		return nil, nil, err
	}
	rest := h.db.log[len(log):]
	h.db.mu.RUnlock()
	if err := p.read(ctx, rest); err != nil {
		return nil, nil, err
	}
	if !p.gc {
		return nil, nil, nil
	}
	for oid, rec := range p.packed {
		switch {
		case rec.data == nil || p.then[oid]:
		case p.keep[oid] || p.repeated[oid]:
			kept = append(kept, oid)
		default:
			garbage = append(garbage, oid)
		}
	}
	slices.Sort(garbage)
	slices.Sort(kept)
	kept, err = p.withoutPythons(ctx, kept)
	return garbage, kept, err
}

// withoutPythons leaves in kept, of the objects that could not be reached at the pack
// time, those whose revision of then Python's pack would drop: it follows, of what was
// written later, what repeats an earlier revision of an object that it has reached already.
func (p *packer) withoutPythons(ctx context.Context, kept []raidstorage.OID) ([]raidstorage.OID, error) {
	if len(kept) == 0 {
		return nil, nil
	}
	stay := make(map[raidstorage.OID][]raidstorage.TID) // only these revisions, whatever leads to the object
	python := &packer{s: p.s, h: p.h, references: p.references, packed: p.packed, keep: maps.Clone(p.then)}
	var todo []raidstorage.OID
	for _, rec := range p.repeats {
		tids := stay[rec.oid]
		if slices.Contains(tids, rec.dataTID) {
			continue // perhaps it repeats one after the pack time, of which Python takes no notice
		}
		if !p.then[rec.oid] {
			python.keep[rec.oid] = true // and not followed
			if rec.dataTID == 0 {
				stay[rec.oid] = tids
				continue
			}
			stay[rec.oid] = append(tids, rec.dataTID)
			if len(tids) == 0 {
				continue
			}
		}
		refs, err := p.follow(ctx, rec)
		if err != nil {
			return nil, err
		}
		todo = append(todo, refs...)
	}
	if err := python.reach(ctx, todo); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(kept, func(oid raidstorage.OID) bool {
		if tids, ok := stay[oid]; ok {
			return slices.Contains(tids, p.packed[oid].tid)
		}
		return python.keep[oid]
	}), nil
}
