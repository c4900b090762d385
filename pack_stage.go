package raidstorage

import "context"

// StagedPacker is a GarbageFinder whose pack has two steps: one that takes as long as it
// takes and changes nothing, and one that is over in a moment. So several storages can be
// packed at one position of the commit order (rule K2).
type StagedPacker interface {
	GarbageFinder
	// StagePack makes ready, beside what is there, what Pack with opts would leave;
	// opts.Decided must be set. Reads and commits go on, and nothing that they see
	// changes. Other packs of the storage may wait until the StagedPack has ended; a
	// process that dies leaves nothing of it behind. ctx bounds this call only. Errors as
	// of Pack.
	StagePack(ctx context.Context, opts PackOptions) (StagedPack, error)
}

// StagedPack is a pack that is ready to be put in place. It belongs to one caller, is not
// safe for concurrent use, and must be ended. Closing the storage ends it too.
type StagedPack interface {
	// Relinked returns, in ascending order, those of opts.Garbage that are no garbage any
	// more, because a transaction later than after refers to them, or to what leads to
	// them: FindGarbage would not return them now. If there are any before decide it
	// returns them at once; else it calls decide as FindGarbage does. Errors as of
	// FindGarbage.
	Relinked(ctx context.Context, after TID, decide func(context.Context) error) ([]OID, error)
	// CatchUp takes in what was committed meanwhile, so that little is left to Switch.
	CatchUp(ctx context.Context) error
	// Switch puts the packed storage in the place of the other one, in one step, with all
	// that was committed by then. It waits for the storage's commit lock and holds it
	// while it takes in what CatchUp has not. After an error the storage is as it was, or
	// refuses all that comes. A process that dies in it leaves the storage packed, or as
	// it was.
	Switch(ctx context.Context) error
	// End removes what is not needed any more: what was made ready, or, after Switch, what
	// the pack has dropped, which may take its time. Only its first call has an effect.
	End(ctx context.Context) error
}

// oneCall makes one call of a staged pack at a time: a call that was given up, as a disk
// hangs, may still be at it when the pack is to end.
type oneCall struct {
	slot   chan struct{} // one
	staged StagedPack
}

func newOneCall(staged StagedPack) *oneCall { return &oneCall{make(chan struct{}, 1), staged} }

// busy tells whether a call that was given up is still at it: others have ended before
// their caller goes on.
func (o *oneCall) busy() bool { return len(o.slot) > 0 }

// lock takes the slot until the function that it returns is called.
func (o *oneCall) lock() (unlock func()) {
	o.slot <- struct{}{}
	return func() { <-o.slot }
}

func (o *oneCall) Relinked(ctx context.Context, after TID, decide func(context.Context) error) ([]OID, error) {
	defer o.lock()()
	return o.staged.Relinked(ctx, after, decide)
}

func (o *oneCall) CatchUp(ctx context.Context) error {
	defer o.lock()()
	return o.staged.CatchUp(ctx)
}

func (o *oneCall) Switch(ctx context.Context) error {
	defer o.lock()()
	return o.staged.Switch(ctx)
}

func (o *oneCall) End(ctx context.Context) error {
	defer o.lock()()
	return o.staged.End(ctx)
}
