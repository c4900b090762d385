package filestorage

import (
	"context"
	"runtime"
	"time"

	"github.com/zeoraid/raidstorage"
)

// How commits share syncs.
//
// A transaction is written by Vote with status 'c', behind the last one, and is not
// synced. StartFinish, the first half of Finish, puts it into the queue and frees the
// commit lock; then it is waited for. So the
// next transaction is checked and written while this one is on its way to the disk.
// One of those who wait works the queue off in rounds, each with one sync:
//
//  1. Overwrite the status of those transactions in the queue that an earlier round
//     has synced.
//  2. Sync.
//  3. Those of step 1 are committed: show them to readers, in order and each as a
//     whole, and let their Finish return. Those that were in the queue before step 2
//     but not part of step 1 are complete on the disk now.
//
// A commit takes two syncs, but each sync serves both the data of some transactions and
// the statuses of those before them. One sync would not do, in a format without
// checksums: the disk may write the sector with the status before one within the data
// of a record, and nothing in the file would tell. To make the file longer in advance,
// so that the syncs need not change its length, is out of the question: others that
// read the file while it is open would take the end for a transaction. A journal
// beside the file, overwritten in place, would need one sync of two fifths of the time of
// these two; but after a power failure the file alone, which is what Python and copies
// of it see, would not hold all that was acknowledged.
//
// Rules, with what depends on them:
//
//   - G1 A status is overwritten only after a sync that began when the transaction
//     and all before it were written. So a finished transaction on the disk proves
//     that it, and everything before it, is complete.
//   - G2 The disk may write the statuses of one round in any order, and so leave a
//     'c' before a finished transaction when the power fails. Open finishes such a
//     transaction, see scanner.finishes: by G1 it is complete. None of the round was
//     acknowledged, so any beginning of it may be what a crash leaves, but not a part
//     from the middle. Python would cut the file at the 'c', which is a beginning too.
//   - G3 All transactions of a round get the same status, so that Open knows what
//     to make of the 'c'.
//   - G4 The transactions of the queue have been decided on, but for the disk: the
//     next one's vote reads them as current (queuedAt, tail), and its Vote.Last is
//     the last of them. When a sync fails, all of them fail, and nothing can be
//     committed any more until the file is opened again: no transaction is ever
//     built on one that failed.
//   - G5 LastTID is the last transaction that is committed. It must not change while
//     a voted transaction holds the commit lock, although the queue before that is
//     worked off: so LastTID waits for the queue then, and always returns that
//     transaction's Vote.Last.
//   - G6 A finish that was started (StartFinish) is in the queue like one that waits
//     already. It is worked off by the first who waits for it or for a later one, or by
//     Close; rounds take transactions from the front only, so a durable one proves that
//     those started before it are, too.
//
// A deferred transaction (Meta.Deferred) is shown to readers when it is put into the
// queue; the queue is worked off by the next Finish that waits, by Flush, or in the
// background, see settle.go. Only such a transaction is ever read with status 'c', see
// unsettled.

const (
	// maxBatch bounds how many statuses are overwritten in one round. If as many
	// transactions or more follow one with status 'c' it was finished before, and has
	// changed since, see scanner.finishes.
	maxBatch = 1024
	// maxDeferred and maxDeferredBytes bound the deferred transactions in the queue.
	maxDeferred      = 2 * maxBatch
	maxDeferredBytes = 64 << 20
)

// unsettled is a finished transaction whose status in the file is 'c' still.
type unsettled struct {
	pos    int64
	status raidstorage.TxnStatus
}

// enqueue puts the voted transaction into the queue. The caller holds the commit
// lock. Once it is there it may be committed, whatever Finish returns. wait is the
// transaction to wait for, nil if there is none.
func (s *Storage) enqueue(p *pending) (wait *pending, err error) {
	for i := range p.records {
		p.records[i].body = payload{} // it is written
	}
	s.f.extend(p.next)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.writableLocked(); err != nil {
		return nil, err // the queue before it has failed
	}
	// Not before those that it follows.
	p.shown = p.t.meta.Deferred && s.end == s.tail
	s.queue = append(s.queue, p)
	s.tail, s.tailTID = p.next, p.tid
	if p.synced && len(s.queue) == 1 {
		s.synced = 1
	}
	if !p.shown {
		for i := range p.records {
			s.queuedAt[p.records[i].oid] = p.records[i].pos
		}
		return p, nil
	}
	s.unsettled = append(s.unsettled, unsettled{p.pos, p.status})
	s.showLocked(p)
	return s.settleLocked(p), nil
}

// showLocked makes a transaction visible.
func (s *Storage) showLocked(p *pending) {
	for i := range p.records {
		oid, pos := p.records[i].oid, p.records[i].pos
		s.index.set(oid, pos)
		if s.queuedAt[oid] == pos { // else a later one of the queue changes it again
			delete(s.queuedAt, oid)
		}
	}
	s.end, s.last = p.next, p.tid
	s.unsaved++
	s.askForSaveLocked()
}

// await waits until p is through the queue and returns how that went. Whoever waits
// and finds nobody working does the work. ctx ends only the waiting.
func (s *Storage) await(ctx context.Context, p *pending) error {
	select {
	case s.syncing <- struct{}{}:
	default: // only who waits asks ctx for a channel
		select {
		case <-p.done:
			return p.err
		case s.syncing <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	defer func() { <-s.syncing }()
	for {
		select {
		case <-p.done:
			return p.err
		default:
			s.round()
		}
	}
}

// round is one round. The caller holds syncing, and the queue is not empty.
func (s *Storage) round() {
	s.gather()
	s.mu.RLock()
	batch, n := s.queue[:s.batchLocked()], len(s.queue)
	s.mu.RUnlock()
	if err := s.settle(batch); err != nil {
		s.failQueue(err)
		return
	}
	s.mu.Lock()
	for _, p := range batch {
		if p.shown {
			s.unsettled = s.unsettled[1:]
		} else {
			s.showLocked(p)
		}
	}
	s.queue = s.queue[len(batch):]
	s.synced = n - len(batch)
	s.mu.Unlock()
	for _, p := range batch {
		close(p.done)
	}
}

// gather lets those who are about to put a transaction into the queue do so: a sync
// for one of them takes as long as for all, and the others would have to wait for the
// next. It is over at once if there is nobody.
func (s *Storage) gather() {
	var start time.Time
	for n, idle := s.unsynced(), 0; n > 0 && idle < gatherIdle; {
		runtime.Gosched() // whoever can run goes first
		now := s.unsynced()
		switch {
		case now > n || len(s.commit) > 0:
			n, idle = now, 0
		default:
			idle++
			continue
		}
		if start.IsZero() {
			start = time.Now()
		} else if time.Since(start) > maxGather {
			return
		}
	}
}

const (
	gatherIdle = 8
	// maxGather is short beside a sync.
	maxGather = 100 * time.Microsecond
)

// unsynced returns how many transactions of the queue wait for their first sync.
func (s *Storage) unsynced() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.queue) - s.synced
}

// batchLocked returns how many transactions at the beginning of the queue get their
// status in this round. None, once, if others have come meanwhile: a sync of data
// takes longer than one of statuses only, and those that get their status together
// come back together, so the next rounds serve all of them. The caller holds syncing.
func (s *Storage) batchLocked() int {
	if s.held = !s.held && len(s.queue) > s.synced; s.held {
		return 0
	}
	n := 0
	for n < s.synced && n < maxBatch && s.queue[n].status == s.queue[0].status {
		n++
	}
	return n
}

// settle writes the statuses and syncs.
func (s *Storage) settle(batch []*pending) error {
	for _, p := range batch {
		if _, err := s.f.WriteAt([]byte{byte(p.status)}, p.pos+statusOffset); err != nil {
			return s.ioError("finish", err)
		}
	}
	if err := s.f.Sync(); err != nil {
		return s.ioError("finish: sync", err)
	}
	return nil
}

// failQueue ends all transactions of the queue. What the system holds in memory and
// what is on the disk may differ now, and it may say that the next sync is fine
// although these bytes are lost. So nothing is written any more, but for an attempt
// to cut the failed transactions off: their outcome is unknown, and if the cut
// reaches the disk, the next open finds none of them.
func (s *Storage) failQueue(err error) {
	s.fail("making transactions durable failed", err) // first, so that none is added
	s.mu.Lock()
	failed := s.queue
	s.queue, s.synced = nil, 0
	clear(s.queuedAt)
	s.tail, s.tailTID = s.end, s.last
	end := s.end
	s.mu.Unlock()
	if cut := s.f.Truncate(end); cut != nil {
		s.log.Warn("transactions that failed were not cut off", "backend", s.path, "offset", end, "err", cut)
	}
	for _, p := range failed {
		p.err = err
		close(p.done)
	}
}

// drain waits until all transactions in the queue are committed, or have failed. The
// caller holds the commit lock, so that no others come.
func (s *Storage) drain(ctx context.Context) error {
	s.mu.RLock()
	var last *pending
	if n := len(s.queue); n > 0 {
		last = s.queue[n-1]
	}
	s.mu.RUnlock()
	if last == nil {
		return nil
	}
	return s.await(ctx, last)
}

// Flush implements raidstorage.Flusher.
func (s *Storage) Flush(ctx context.Context) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.calls.Done()
	if err := s.lockCommit(ctx); err != nil { // has emptied the queue
		return err
	}
	defer func() { <-s.commit }()
	s.mu.RLock()
	err := s.writableLocked()
	s.mu.RUnlock()
	if err != nil || s.sync {
		return err
	}
	if err := s.f.Sync(); err != nil {
		err = s.ioError("flush", err)
		s.fail("making transactions durable failed", err)
		return err
	}
	return nil
}

// commitNow finishes the voted transaction of a storage that does not sync, and
// shows it. The caller holds the commit lock.
func (s *Storage) commitNow(p *pending) error {
	if _, err := s.f.WriteAt([]byte{byte(p.status)}, p.pos+statusOffset); err != nil {
		err = s.ioError("finish", err)
		s.fail("finishing a transaction failed", err)
		return err
	}
	s.f.extend(p.next)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.showLocked(p)
	s.tail, s.tailTID = p.next, p.tid
	return nil
}
