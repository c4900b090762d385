package raidstorage

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A chunk is how much of the log is read from one source before another one's turn. A
// source that is alone is read on, so that it need not find where each chunk begins.
const (
	chunkTransactions = 256
	chunkBytes        = 8 << 20
)

// copyThrough copies the transactions after r.last up to through, and tells how
// many they were. A source that fails is dropped and another one takes over. When it
// returns without an error, what it copied is durable: the record must not name a target
// that could lose it (V4). Meanwhile a Flusher syncs in its own time.
func (r *recovery) copyThrough(ctx context.Context, through TID, each time.Duration) (n int, err error) {
	for r.last < through {
		source, err := r.source()
		if err != nil {
			return n, err
		}
		before := n
		err = r.copyChunk(ctx, source, through, each, &n)
		switch failed, ok := errors.AsType[*iterationError](err); {
		case ok && ctx.Err() == nil:
			v := r.m.view.Load()
			if err := r.m.iterationFailed(ctx, &v, failed); err != nil {
				return n, err
			}
			r.sources.fails(source)
		case err != nil:
			return n, err
		case n == before:
			return n, fmt.Errorf("the log of %s ends before %v", source.b.cfg.Name, through)
		}
	}
	f, err := Can[Flusher](r.target.storage)
	if err != nil {
		return n, nil // each transaction is durable
	}
	_, err = within(ctx, each, func(ctx context.Context) (struct{}, error) { return struct{}{}, f.Flush(ctx) })
	if err != nil {
		return n, fmt.Errorf("flush: %w", err)
	}
	return n, nil
}

// copyChunk copies up to a chunk from one source.
func (r *recovery) copyChunk(ctx context.Context, source *session, through TID, each time.Duration, n *int) error {
	var bytes int64
	for txn, err := range source.timely.Iterate(ctx, r.last+1, through) {
		if err != nil {
			return &iterationError{source, err}
		}
		if err := r.copyOne(ctx, source, txn, each, &bytes); err != nil {
			return err
		}
		*n++
		if *n%chunkTransactions != 0 && bytes <= chunkBytes {
			continue
		}
		if err := r.stillNeeded(); err != nil {
			return err
		}
		if r.sources.takeTurns(r.m.view.Load()) {
			break
		}
	}
	return nil
}

// copyOne copies txn with a deadline of its own: a target that hangs ends the recovery.
func (r *recovery) copyOne(ctx context.Context, source *session, txn *Transaction, each time.Duration, bytes *int64) error {
	ctx, cancel := context.WithTimeout(ctx, each)
	defer cancel()
	var size int64
	var weight weighed
	counted := *txn
	counted.Deferred = true // copyThrough flushes
	counted.Records = func(yield func(Record, error) bool) {
		for rec, err := range txn.Records {
			if err != nil {
				err = &iterationError{source, err}
			}
			size += int64(len(rec.Data))
			if !yield(weight.record(rec), err) {
				return
			}
		}
	}
	if err := copyTransaction(ctx, r.target.storage, &counted, r.last); err != nil {
		return err
	}
	r.last = txn.TID
	if txn.Size > 0 {
		size = txn.Size
	}
	*bytes += size
	r.m.copied(r.b, metaWeight(txn.Meta)+weight.bytes.Load())
	r.progress(false, func(p *RecoveryProgress) {
		p.TID = txn.TID
		p.Transactions++
		p.Bytes += size
		if p.TransactionsToDo > 0 {
			p.TransactionsToDo--
			p.BytesToDo = max(p.BytesToDo-size, 0)
		}
	})
	return nil
}

// copyTransaction appends txn to target as it is, provided that target's log ends
// at last (R1).
func copyTransaction(ctx context.Context, target Storage, txn *Transaction, last TID) error {
	t, err := voteCopy(ctx, target, txn, last)
	if err != nil {
		return err
	}
	if _, err := t.Finish(ctx); err != nil {
		return fmt.Errorf("copy %v: %w", txn.TID, err)
	}
	return nil
}

// sendTransaction is copyTransaction that need not wait for the end: wait does, which is
// nil where the transaction has finished already.
func sendTransaction(ctx context.Context, target Storage, txn *Transaction, last TID) (wait func(context.Context) error, err error) {
	t, err := voteCopy(ctx, target, txn, last)
	if err != nil {
		return nil, err
	}
	tid := txn.TID
	if s, ok := t.(FinishSender); ok {
		var sent func(context.Context) error
		if sent, err = s.SendFinish(ctx); err == nil {
			return func(ctx context.Context) error {
				if err := sent(ctx); err != nil {
					return fmt.Errorf("copy %v: %w", tid, err)
				}
				return nil
			}, nil
		}
	} else {
		_, err = t.Finish(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("copy %v: %w", tid, err)
	}
	return nil, nil
}

// voteCopy stages a copy of txn and votes, on condition that the target's log ends at last.
func voteCopy(ctx context.Context, target Storage, txn *Transaction, last TID) (Txn, error) {
	t, err := target.Begin(ctx, txn.Meta)
	if err != nil {
		return nil, fmt.Errorf("copy %v: %w", txn.TID, err)
	}
	undo := func(err error) (Txn, error) {
		return nil, errors.Join(fmt.Errorf("copy %v: %w", txn.TID, err), t.Abort(context.WithoutCancel(ctx)))
	}
	for rec, err := range txn.Records {
		if err == nil {
			err = t.Restore(ctx, rec)
		}
		if err != nil {
			return undo(err)
		}
	}
	vote, err := t.Vote(ctx)
	if err != nil {
		return nil, fmt.Errorf("copy %v: %w", txn.TID, err)
	}
	if vote.Last != last {
		return undo(fmt.Errorf("the target ends at %v, not at %v: someone else writes to it", vote.Last, last))
	}
	return t, nil
}
