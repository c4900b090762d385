package zeoclient

import (
	"context"
	"sync"
	"time"

	"github.com/zeoraid/raidstorage"
)

// Transactions of others are told by a goroutine, in tid order. Most are told as the
// server tells of them. For some it has to look into the log: after a connection was
// lost, and where the server names no oids, as Python's does for transactions that
// delete or restore objects.

// maxPendingOIDs bounds what waits to be told; beyond it the oids are looked up later.
const maxPendingOIDs = 100_000

// note is a transaction that became visible.
type note struct {
	tid    raidstorage.TID
	oids   []raidstorage.OID
	own    bool // one of ours: not told
	search bool // whatever the log has up to tid is to be told
}

// notifier hands notes to subscribers.
type notifier struct {
	wake chan struct{} // one slot: there is something in the queue

	mu          sync.Mutex // guards the fields below
	subscribers map[*subscriber]struct{}
	queue       []note
	oids        int             // in the queue
	queued      raidstorage.TID // the last tid that was queued
	told        raidstorage.TID // all up to it is told, or ours
}

// subscriber is one Subscribe.
type subscriber struct {
	mu     sync.Mutex // held while notify runs, so that cancel can promise its end
	notify func(raidstorage.Invalidation)
}

func (n *notifier) init() {
	n.wake, n.subscribers = make(chan struct{}, 1), map[*subscriber]struct{}{}
}

// start says that everything up to last is old.
func (n *notifier) start(last raidstorage.TID) {
	n.mu.Lock()
	n.told, n.queued = last, last
	n.mu.Unlock()
}

// push queues a note; it does not wait. A tid that was queued before is left out: it
// comes from a connection that is being replaced.
func (n *notifier) push(next note) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if next.tid <= n.queued {
		return
	}
	n.queued = next.tid
	if n.oids+len(next.oids) > maxPendingOIDs {
		next.oids, next.search = nil, !next.own
	}
	if last := len(n.queue) - 1; last >= 0 &&
		(next.search && n.queue[last].search || next.own && n.queue[last].own) {
		n.queue[last].tid = next.tid
		return
	}
	n.queue = append(n.queue, next)
	n.oids += len(next.oids)
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// Subscribe implements raidstorage.Notifier. After a reconnection the transactions
// that were missed are told too, from the server's log. A transaction of ours of
// which Finish did not learn that it was committed is told as one of others. A server
// that names some of the oids of a transaction is taken to name all: Python's leaves
// out those that were deleted in the same transaction.
func (s *Storage) Subscribe(notify func(raidstorage.Invalidation)) (cancel func()) {
	sub := &subscriber{notify: notify}
	s.notes.mu.Lock()
	s.notes.subscribers[sub] = struct{}{}
	s.notes.mu.Unlock()
	return func() {
		s.notes.mu.Lock()
		delete(s.notes.subscribers, sub)
		s.notes.mu.Unlock()
		sub.mu.Lock()
		sub.notify = nil
		sub.mu.Unlock()
	}
}

// tellAll is the goroutine that tells. It ends with ctx, which Close ends.
func (s *Storage) tellAll(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.notes.wake:
		}
		for {
			next, ok := s.notes.next()
			if !ok {
				break
			}
			if next.search && s.notes.wanted() {
				s.tellFromLog(ctx, next)
				if ctx.Err() != nil {
					return
				}
			} else if !next.own && !next.search {
				s.notes.tell(raidstorage.Invalidation{TID: next.tid, OIDs: distinct(next.oids)})
			}
			s.notes.settle(next.tid)
		}
	}
}

func (n *notifier) next() (note, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.queue) == 0 {
		n.queue = nil
		return note{}, false
	}
	first := n.queue[0]
	n.queue = n.queue[1:]
	n.oids -= len(first.oids)
	return first, true
}

func (n *notifier) wanted() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.subscribers) > 0
}

func (n *notifier) settle(tid raidstorage.TID) {
	n.mu.Lock()
	n.told = max(n.told, tid)
	n.mu.Unlock()
}

func (n *notifier) settled() raidstorage.TID {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.told
}

func (n *notifier) tell(inv raidstorage.Invalidation) {
	n.mu.Lock()
	all := make([]*subscriber, 0, len(n.subscribers))
	for sub := range n.subscribers {
		all = append(all, sub)
	}
	n.mu.Unlock()
	for _, sub := range all {
		sub.mu.Lock()
		if sub.notify != nil {
			sub.notify(inv)
		}
		sub.mu.Unlock()
	}
}

// tellFromLog tells all transactions after the last that was told, up to the note's,
// as the log has them. It tries again until it can, or ctx ends: nothing later can be
// told before.
func (s *Storage) tellFromLog(ctx context.Context, next note) {
	if !s.capabilities().iterate {
		s.notes.tell(raidstorage.Invalidation{TID: next.tid}) // nobody can say more
		return
	}
	for backoff := firstBackoff; ; backoff = min(2*backoff, lastBackoff) {
		err := s.tellRange(ctx, next.tid)
		if err == nil {
			return
		}
		s.opts.Logger.Debug("transactions of others are not read yet", "server", s.opts.Name, "tid", next.tid, "err", err)
		timer := time.NewTimer(backoff)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

func (s *Storage) tellRange(ctx context.Context, through raidstorage.TID) error {
	for txn, err := range s.Iterate(ctx, s.notes.settled()+1, through) {
		if err != nil {
			return err
		}
		var oids []raidstorage.OID
		for rec, err := range txn.Records {
			if err != nil {
				return err
			}
			oids = append(oids, rec.OID)
		}
		s.fresh.stored(oids)
		s.notes.tell(raidstorage.Invalidation{TID: txn.TID, OIDs: distinct(oids)})
		s.notes.settle(txn.TID)
	}
	return nil
}

// distinct returns oids without repetitions, in their order.
func distinct(oids []raidstorage.OID) []raidstorage.OID {
	seen := make(map[raidstorage.OID]struct{}, len(oids))
	kept := make([]raidstorage.OID, 0, len(oids))
	for _, oid := range oids {
		if _, twice := seen[oid]; !twice {
			seen[oid] = struct{}{}
			kept = append(kept, oid)
		}
	}
	return kept
}
