package filestorage

import (
	"context"

	"github.com/zeoraid/raidstorage"
)

var (
	_ raidstorage.FinishStarter = (*txn)(nil)
	_ raidstorage.FinishStarter = blobTxn{}
)

// Finish implements raidstorage.Txn. It frees the commit lock as soon as the
// transaction is in the queue, and waits for the disk only, so ctx plays no part: once
// it has begun, the outcome must not depend on the caller's patience.
func (t *txn) Finish(ctx context.Context) (raidstorage.TID, error) {
	tid := t.meta.TID
	wait, err := t.StartFinish(ctx)
	if err == nil {
		err = wait(context.WithoutCancel(ctx))
	}
	if err != nil {
		return 0, err
	}
	return tid, nil
}

// StartFinish implements raidstorage.FinishStarter: the transaction is in the queue.
func (t *txn) StartFinish(context.Context) (wait func(context.Context) error, err error) {
	if t.state != stateVoted {
		return nil, &raidstorage.TxnStateError{Op: "finish", State: t.state.String()}
	}
	if err := t.s.enter(); err != nil {
		return nil, err // Close has aborted it
	}
	defer t.s.calls.Done()
	s, p, tid := t.s, t.pending, t.meta.TID
	p.installed = nil // whatever happens now, the transaction may be committed
	var last *pending // the one to wait for
	if s.sync {
		last, err = s.enqueue(p)
	} else {
		err = s.commitNow(p)
	}
	t.end()
	if err != nil {
		return nil, &raidstorage.OutcomeUnknownError{TID: tid, Err: err}
	}
	if last == nil {
		return func(context.Context) error { return nil }, nil
	}
	return func(ctx context.Context) error {
		err := s.awaitQueued(ctx, last)
		if err != nil && ctx.Err() == nil {
			err = &raidstorage.OutcomeUnknownError{TID: tid, Err: err}
		}
		return err
	}, nil
}

// awaitQueued is await for a call that has not begun with enter. Close works the queue
// off itself.
func (s *Storage) awaitQueued(ctx context.Context, p *pending) error {
	if s.enter() == nil {
		defer s.calls.Done()
		return s.await(ctx, p)
	}
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return ctx.Err()
	}
}
