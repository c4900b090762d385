package zeoserver

import (
	"context"
	"time"

	"github.com/zeoraid/raidstorage"
)

// invalidationQueue remembers the last transactions.
type invalidationQueue struct {
	size int
	most int // of objects in all entries
	oids int // in all entries
	// base is the tid after which nothing is missing; valid if known.
	base    raidstorage.TID
	known   bool
	entries []raidstorage.Invalidation // in tid order
}

// maxQueueOIDs bounds the memory of a queue, and how long it takes to answer from it,
// while nothing is published. Who missed more is better off with an empty cache.
const maxQueueOIDs = 1 << 20

func newQueue(size int) invalidationQueue {
	return invalidationQueue{size: size, most: maxQueueOIDs}
}

func (q *invalidationQueue) add(tid raidstorage.TID, oids []raidstorage.OID) {
	q.entries = append(q.entries, raidstorage.Invalidation{TID: tid, OIDs: oids})
	q.oids += len(oids)
	for len(q.entries) > q.size || q.oids > q.most {
		// As ZEO does it, a client that has seen the oldest remembered transaction
		// is served; so is one that has seen the one that is forgotten now.
		q.base, q.known = q.entries[0].TID, true
		q.oids -= len(q.entries[0].OIDs)
		q.entries[0] = raidstorage.Invalidation{}
		q.entries = q.entries[1:]
	}
}

// reset forgets everything up to tid.
func (q *invalidationQueue) reset(tid raidstorage.TID) {
	q.base, q.known, q.entries, q.oids = tid, true, nil, 0
}

// has tells whether a transaction is remembered.
func (q *invalidationQueue) has(tid raidstorage.TID) bool {
	for _, e := range q.entries {
		if e.TID == tid {
			return true
		}
	}
	return false
}

// since returns the objects that changed after tid; false if that is not known.
func (q *invalidationQueue) since(tid raidstorage.TID) (oids []raidstorage.OID, ok bool) {
	if !q.known || tid < q.base {
		return nil, false
	}
	seen := make(map[raidstorage.OID]bool)
	for i := len(q.entries) - 1; i >= 0 && q.entries[i].TID > tid; i-- {
		for _, oid := range q.entries[i].OIDs {
			if !seen[oid] {
				seen[oid] = true
				oids = append(oids, oid)
			}
		}
	}
	return oids, true
}

// refillTime bounds how long a server looks for the last transactions when it starts.
const refillTime = 10 * time.Second

// firstWindow and windowGrowth are the times before the end at which refill looks. A log
// far away is read at a few thousand transactions a second, and with a busy one the server
// waits for all of a window to be read: so the first one is short, and the one that is
// long enough has not many times more than needed.
const (
	firstWindow  = time.Second
	windowGrowth = 16
)

// refill fills the queue from the storage's log, which ends at last. Logs are read
// forwards only, so it looks at a growing time before the end. An error leaves the
// queue with what was found, so that it is right, if short.
func (q *invalidationQueue) refill(ctx context.Context, s raidstorage.Storage, last raidstorage.TID) error {
	q.reset(last)
	if last == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, refillTime)
	defer cancel()
	for window := firstWindow; ; window *= windowGrowth {
		from := raidstorage.TID(0)
		if window < 100*365*24*time.Hour && window > 0 {
			from = raidstorage.TIDFromTime(last.Time().Add(-window))
		}
		found := invalidationQueue{size: q.size, most: q.most, base: from, known: true}
		if from > 0 {
			found.base = from - 1
		}
		full, err := found.read(ctx, s, from, last)
		if err != nil {
			return err
		}
		*q = found
		if full || from == 0 {
			return nil
		}
	}
}

// read adds the transactions from ≤ tid ≤ through; full tells that there were enough.
func (q *invalidationQueue) read(ctx context.Context, s raidstorage.Storage, from, through raidstorage.TID) (full bool, err error) {
	for txn, err := range s.Iterate(ctx, from, through) {
		if err != nil {
			return false, err
		}
		var oids []raidstorage.OID
		for rec, err := range txn.Records {
			if err != nil {
				return false, err
			}
			oids = append(oids, rec.OID)
		}
		q.add(txn.TID, oids)
		full = full || q.base >= from // one was forgotten already
	}
	return full, nil
}
