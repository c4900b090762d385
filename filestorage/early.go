package filestorage

// A vote that is answered over a network is followed by its Finish a round trip later.
// With Options.SyncEarly the disk does not idle meanwhile: the transaction that was
// voted is synced, and Finish has one sync to wait for instead of two. It is the sync
// that step 2 of a round would do: by G1 it must begin when the transaction and all
// before it are written, so only a transaction that has an empty queue before it is
// synced early. Syncs are never done side by side: whoever holds syncing may do one.

// startEarly begins to sync the transaction that was voted. The caller holds the commit
// lock, and its call has begun with enter.
func (s *Storage) startEarly(p *pending) {
	if !s.early || !s.sync || p.t.meta.Deferred || len(p.records) == 0 {
		return
	}
	p.early = make(chan struct{})
	s.calls.Go(func() { s.syncEarly(p) })
}

func (s *Storage) syncEarly(p *pending) {
	defer close(p.early)
	select {
	case s.syncing <- struct{}{}:
	default:
		return // a round is under way; there is something before p
	}
	defer func() { <-s.syncing }()
	s.mu.RLock()
	first := s.firstLocked(p)
	s.mu.RUnlock()
	if !first {
		return
	}
	if err := s.f.Sync(); err != nil {
		s.failQueue(s.ioError("vote: sync", err))
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p.synced = true
	if len(s.queue) > 0 && s.queue[0] == p {
		s.synced = 1
	}
}

// firstLocked tells whether p is the first transaction that waits for a sync: the front of
// the queue, or voted with nothing before it in the queue. While syncing is held it stays
// so until it is aborted, which waits for the early sync, and nobody replaces the file: for
// that the commit lock is needed, and an empty queue. If this goroutine is late and p
// through, a pack may be closing the file.
func (s *Storage) firstLocked(p *pending) bool {
	if len(s.queue) > 0 {
		return s.queue[0] == p
	}
	return s.voted == p.t
}

// awaitEarly waits until nobody syncs the transaction early any more: then the end of
// the file may be cut off.
func (p *pending) awaitEarly() {
	if p.early != nil {
		<-p.early
	}
}
