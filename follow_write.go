package raidstorage

import (
	"context"
	"fmt"
	"time"
)

// writeBatch appends the batch to b's log.
func (m *Mirror) writeBatch(ctx context.Context, b *backend, f *follower, batch []*spooled) error {
	flusher, err := Can[Flusher](f.session.storage)
	deferred := err == nil && len(batch) > 1
	m.mu.Lock()
	f.pace.rate = b.bandwidth
	m.mu.Unlock()
	if !deferred {
		return m.writeEach(ctx, b, f, batch)
	}
	last, weight := f.last, int64(0)
	for _, one := range batch {
		one.meta.Deferred = true
		if wait, err := m.writeOne(ctx, f, one, f.last); err != nil {
			return err
		} else if err := m.written(ctx, wait); err != nil {
			return err
		}
		f.last = one.meta.TID
		weight += one.weight
	}
	flush, cancel := context.WithTimeout(ctx, m.tuned().Timeouts.Finish)
	defer cancel()
	if err := flusher.Flush(flush); err != nil {
		f.last = last
		return fmt.Errorf("flush: %w", err)
	}
	m.followed(b, f.last, int64(len(batch)), weight)
	return nil
}

// writeEach appends transactions that are durable one by one. One whose finish was sent
// counts when the backend has said that it is there; the next one's vote, behind it, has
// it wait no longer.
func (m *Mirror) writeEach(ctx context.Context, b *backend, f *follower, batch []*spooled) error {
	var sent *spooled
	var wait func(context.Context) error
	confirm := func() error {
		if err := m.written(ctx, wait); err != nil {
			return err
		}
		f.last = sent.meta.TID
		m.followed(b, f.last, 1, sent.weight)
		sent = nil
		return nil
	}
	end := f.last
	for _, one := range batch {
		next, err := m.writeOne(ctx, f, one, end)
		if err == nil && sent != nil {
			err = confirm()
		}
		if err != nil {
			if sent != nil {
				f.session = nil // it may be there, or not: to be compared anew
			}
			return err
		}
		sent, wait, end = one, next, one.meta.TID
		if wait == nil {
			if err := confirm(); err != nil {
				return err
			}
		}
	}
	if sent == nil {
		return nil
	}
	err := confirm()
	if err != nil {
		f.session = nil
	}
	return err
}

// written waits until a transaction has finished whose finish was sent.
func (m *Mirror) written(ctx context.Context, wait func(context.Context) error) error {
	if wait == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, m.tuned().Timeouts.Finish)
	defer cancel()
	return wait(ctx)
}

// writeOne appends one transaction behind last, within a deadline that its size and the
// bandwidth allow for. wait, if it is not nil, waits for its end.
func (m *Mirror) writeOne(ctx context.Context, f *follower, one *spooled, last TID) (wait func(context.Context) error, err error) {
	t := m.tuned().Timeouts
	patience := t.Vote + t.Finish + seconds(one.weight, slowest)
	if f.pace.rate > 0 {
		patience += max(0, time.Until(f.pace.due)) + seconds(one.weight, f.pace.rate)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	txn := Transaction{Meta: one.meta, Records: one.records(ctx, &f.pace)}
	return sendTransaction(ctx, f.session.storage, &txn, last)
}

// followed notes what b holds now.
func (m *Mirror) followed(b *backend, last TID, transactions, weight int64) {
	b.commits.Add(transactions)
	m.mu.Lock()
	defer m.mu.Unlock()
	b.lastTID, b.reason = last, ""
	b.lag.transactions -= transactions
	b.lag.bytes -= weight
	m.caughtUpLocked(b)
}

// seconds is the time that bytes take at a rate in bytes a second.
func seconds(bytes, rate int64) time.Duration {
	return time.Duration(float64(bytes) / float64(rate) * float64(time.Second))
}
