package raidstorage

import (
	"context"
	"fmt"
	"iter"
	"time"
)

// timely is a storage of which each single step may take no longer than a read: a
// backend that hangs must not hold up what reads a whole log, such as a recovery, a
// comparison under the commit slot, or the start. What the consumer does with the
// steps takes as long as it takes. It has no optional interfaces.
type timely struct {
	Storage
	timeout func() time.Duration
}

// within makes one call with the deadline.
func within[T any](ctx context.Context, timeout time.Duration, ask func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return ask(ctx)
}

// LoadBefore implements Storage.
func (t timely) LoadBefore(ctx context.Context, oid OID, before TID) (Revision, error) {
	return within(ctx, t.timeout(), func(ctx context.Context) (Revision, error) { return t.Storage.LoadBefore(ctx, oid, before) })
}

// LastTID implements Storage.
func (t timely) LastTID(ctx context.Context) (TID, error) {
	return within(ctx, t.timeout(), t.Storage.LastTID)
}

// NewOIDs implements Storage.
func (t timely) NewOIDs(ctx context.Context, n int) ([]OID, error) {
	return within(ctx, t.timeout(), func(ctx context.Context) ([]OID, error) { return t.Storage.NewOIDs(ctx, n) })
}

// Iterate implements Storage.
func (t timely) Iterate(ctx context.Context, from, through TID) iter.Seq2[*Transaction, error] {
	return stepwise(ctx, t.timeout(), func(ctx context.Context, watch *stepWatch) iter.Seq2[*Transaction, error] {
		return func(yield func(*Transaction, error) bool) {
			for txn, err := range t.Storage.Iterate(ctx, from, through) {
				if err == nil {
					out := *txn
					out.Records = eachStep(watch, txn.Records)
					txn = &out
				}
				if !yield(txn, err) {
					return
				}
			}
		}
	})
}

// stepWatch ends an iteration whose source does not go on.
type stepWatch struct {
	ctx     context.Context // the caller's
	timeout time.Duration
	timer   *time.Timer
	fired   context.Context // ends with the iteration
}

// stepwise runs an iteration of a storage with a deadline for each step.
func stepwise[T any](ctx context.Context, timeout time.Duration,
	source func(context.Context, *stepWatch) iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		inside, cancel := context.WithCancel(ctx)
		defer cancel()
		w := &stepWatch{ctx: ctx, timeout: timeout, fired: inside, timer: time.AfterFunc(timeout, cancel)}
		defer w.timer.Stop()
		eachStep(w, source(inside, w))(yield)
	}
}

// eachStep lets the time run only while seq is at work.
func eachStep[T any](w *stepWatch, seq iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		w.timer.Reset(w.timeout)
		for v, err := range seq {
			w.timer.Stop()
			if err != nil && w.fired.Err() != nil && w.ctx.Err() == nil {
				err = fmt.Errorf("no answer for %v: %w", w.timeout, context.DeadlineExceeded)
			}
			if !yield(v, err) {
				return
			}
			w.timer.Reset(w.timeout)
		}
		w.timer.Stop()
	}
}
