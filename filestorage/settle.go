package filestorage

// Deferred transactions, such as those of a recovery, are worked off in the background
// while later ones come: so reading them, writing them and syncing them go on at the same
// time. The rounds are those of group.go. Nobody waits for one of them, but whoever adds
// a transaction to a queue that is too long waits until its first ones are settled, so
// that no more than maxDeferred transactions, or maxDeferredBytes, can be lost to a
// crash, and the queue takes no more than some 100 bytes of memory for each.

const (
	// settleAfter and settleAfterBytes are how many deferred transactions, or bytes of
	// them, that are not synced yet are worth a round.
	settleAfter      = 256
	settleAfterBytes = 4 << 20
)

// settleLocked sees to it that the queue, which ends with the deferred transaction p, is
// worked off, and returns the one that is to be waited for before another one comes;
// nil if none is. The call that it is part of has begun with enter. mu is held.
func (s *Storage) settleLocked(p *pending) (wait *pending) {
	// It is shown, and written.
	p.records, p.at = nil, nil
	if !s.settling && s.worthSettlingLocked() {
		s.settling = true
		s.calls.Go(s.settleDeferred) // ends when the queue is empty, whoever waits
	}
	if len(s.queue) >= maxDeferred || p.next-s.queue[0].pos >= maxDeferredBytes {
		return s.queue[0]
	}
	return nil
}

// worthSettlingLocked tells whether a round has enough to do: statuses that can be
// written, or many transactions to sync.
func (s *Storage) worthSettlingLocked() bool {
	n := len(s.queue)
	return s.synced > 0 || n-s.synced >= s.settleAfter || n > s.synced && s.tail-s.queue[s.synced].pos >= settleAfterBytes
}

// settleDeferred works rounds off as long as they are worth it.
func (s *Storage) settleDeferred() {
	s.syncing <- struct{}{} // whoever has it gives it back after some syncs
	defer func() { <-s.syncing }()
	for {
		s.mu.Lock()
		if s.settling = s.worthSettlingLocked(); !s.settling {
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		s.round()
	}
}
