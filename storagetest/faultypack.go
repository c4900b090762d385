package storagetest

import (
	"context"

	"github.com/zeoraid/raidstorage"
)

// StagePack is CallStagePack. If it fails nothing is left staged.
func (f *FaultyStorage) StagePack(ctx context.Context, opts raidstorage.PackOptions) (raidstorage.StagedPack, error) {
	var staged raidstorage.StagedPack
	_, err := capable(ctx, f, f.enter(CallStagePack, 0, opts.Through, nil), func(ctx context.Context, p raidstorage.StagedPacker) (_ struct{}, err error) {
		staged, err = p.StagePack(ctx, opts)
		return struct{}{}, err
	})
	if err != nil {
		if staged != nil {
			_ = staged.End(context.WithoutCancel(ctx)) // the fault is what counts
		}
		return nil, err
	}
	return &faultyStaged{f, staged}, nil
}

// faultyStaged is a staged pack of a FaultyStorage.
type faultyStaged struct {
	f     *FaultyStorage
	inner raidstorage.StagedPack
}

// Relinked is CallRelinked.
func (s *faultyStaged) Relinked(ctx context.Context, after raidstorage.TID, decide func(context.Context) error) ([]raidstorage.OID, error) {
	return do(ctx, s.f.enter(CallRelinked, 0, after, nil), func(ctx context.Context) ([]raidstorage.OID, error) {
		return s.inner.Relinked(ctx, after, decide)
	}, nil)
}

// CatchUp is CallCatchUp.
func (s *faultyStaged) CatchUp(ctx context.Context) error {
	return s.do(ctx, CallCatchUp, s.inner.CatchUp)
}

// Switch is CallSwitch.
func (s *faultyStaged) Switch(ctx context.Context) error {
	return s.do(ctx, CallSwitch, s.inner.Switch)
}

func (s *faultyStaged) do(ctx context.Context, what Call, call func(context.Context) error) error {
	_, err := do(ctx, s.f.enter(what, 0, 0, nil), func(ctx context.Context) (struct{}, error) {
		return struct{}{}, call(ctx)
	}, nil)
	return err
}

// End is CallEndPack.
func (s *faultyStaged) End(ctx context.Context) error {
	c := s.f.enter(CallEndPack, 0, 0, nil)
	err := c.before(ctx, false)
	inner := s.inner.End(ctx)
	if err == nil {
		err = c.after(inner)
	}
	c.leave(0, err)
	return err
}
