package filestorage

import (
	"context"
	"errors"

	"github.com/zeoraid/raidstorage"
)

// FindGarbage implements raidstorage.GarbageFinder: by the rules of Pack, whose steps
// 1 and 2 it is. What is committed meanwhile is read in rounds, until little is left
// for the time after decide. *raidstorage.TIDOrderError if transactions were cut off
// meanwhile.
func (s *Storage) FindGarbage(ctx context.Context, through raidstorage.TID, decide func(context.Context) error) ([]raidstorage.OID, error) {
	garbage, _, err := s.findGarbage(ctx, through, decide, nil)
	return garbage, err
}

// findGarbage finds what later alone keeps, too, unless later is nil.
func (s *Storage) findGarbage(ctx context.Context, through raidstorage.TID, decide func(context.Context) error, later *keptLater) (garbage, kept []raidstorage.OID, err error) {
	leave, err := s.enterPack(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer leave()
	p, err := s.newPacker(ctx, raidstorage.PackOptions{Through: through, GC: true})
	if err != nil {
		return nil, nil, err
	}
	if p == nil { // there are no objects
		return nil, nil, decide(ctx)
	}
	defer s.unpin(p.src)
	p.finding, p.repeated, p.later = true, make(map[raidstorage.OID]bool), later
	garbage, err = p.find(decide)
	if failed, ok := errors.AsType[*decideError](err); ok {
		return nil, nil, failed.err
	}
	if err == nil && later != nil && p.marks != nil {
		kept, err = p.keptByLater()
	}
	if err != nil {
		return nil, nil, p.because(err)
	}
	return garbage, kept, nil
}

// decideError is what the caller's function returned.
type decideError struct{ err error }

func (e *decideError) Error() string { return e.err.Error() }

func (p *packer) find(decide func(context.Context) error) ([]raidstorage.OID, error) {
	if err := p.readToPackTime(); err != nil {
		return nil, err
	}
	late, err := p.packedLater()
	if err == nil && !late { // else what led to an object then may be gone
		err = p.startMarks()
	}
	if err != nil {
		return nil, err
	}
	if p.later != nil && p.marks != nil {
		if err := p.reach(); err != nil {
			return nil, err
		}
		p.later.then = p.marks.followedAll()
	}
	read := func(from int64) error {
		if err := p.readLater(from); err != nil || p.marks == nil {
			return err
		}
		return p.reach()
	}
	if err := read(p.packPos); err != nil {
		return nil, err
	}
	end := func() int64 {
		p.s.mu.RLock()
		defer p.s.mu.RUnlock()
		return p.s.settledLocked()
	}
	rest := func(to int64) error {
		from := p.end
		p.grow(to)
		return read(from)
	}
	for range maxRounds {
		now := end()
		if now-p.end <= smallRest {
			break
		}
		if err := rest(now); err != nil {
			return nil, err
		}
	}
	if err := decide(p.ctx); err != nil {
		return nil, &decideError{err}
	}
	if err := rest(end()); err != nil {
		return nil, err
	}
	if p.s.cuts.Load() != p.cuts {
		return nil, errCut
	}
	if p.marks == nil {
		return nil, nil
	}
	return p.marks.unreached(p.repeated), nil
}
