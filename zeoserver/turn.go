package zeoserver

import (
	"context"
	"slices"
	"sync"
	"time"
)

// turn decides which transaction of a storage commits next: first come, first served.
// Who has the turn votes. It is handed over when its finish begins: the next one then
// waits in the storage's own Vote, which lets it in as soon as it can, so that
// transactions of several clients share a sync.
type turn struct {
	clock func() time.Time

	mu      sync.Mutex // guards the fields below
	holder  *txn
	since   time.Time
	waiting []*turnWaiter
}

type turnWaiter struct {
	txn *txn
	got chan struct{}
}

// join takes the next place in the queue. It does not wait: the reader of a connection
// calls it, so that transactions that come one after the other vote in this order. It
// is followed by wait.
func (q *turn) join(t *txn) *turnWaiter {
	q.mu.Lock()
	defer q.mu.Unlock()
	w := &turnWaiter{t, make(chan struct{})}
	if q.holder == nil {
		q.holder, q.since = t, q.clock()
		close(w.got)
	} else {
		q.waiting = append(q.waiting, w)
	}
	return w
}

// wait waits until it is w's turn. An error is ctx's; then it is not.
func (q *turn) wait(ctx context.Context, w *turnWaiter) error {
	select {
	case <-w.got:
		return nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(q.waiting, w); i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	} else if q.holder == w.txn {
		q.nextLocked() // it was given to us meanwhile
	}
	return ctx.Err()
}

// give ends t's turn, if it has it.
func (q *turn) give(t *txn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.holder == t {
		q.nextLocked()
	}
}

func (q *turn) nextLocked() {
	q.holder, q.since = nil, time.Time{}
	if len(q.waiting) > 0 {
		w := q.waiting[0]
		q.waiting = slices.Delete(q.waiting, 0, 1)
		q.holder, q.since = w.txn, q.clock()
		close(w.got)
	}
}

// state returns how many wait, and since when the holder has the turn.
func (q *turn) state() (waiting int, since time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting), q.since
}
