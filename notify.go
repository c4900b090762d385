package raidstorage

import (
	"sync"
	"time"
)

// Events and invalidations are handed on in the order in which they happened, by
// whoever comes first: no goroutine is needed, and none waits for another.

// eventQueue logs events and gives them to the watchers, in order, without m.mu.
type eventQueue struct {
	m       *Mirror
	mu      sync.Mutex // guards the fields below; taken after Mirror.mu
	waiting []Event
	busy    bool
}

func (q *eventQueue) init(m *Mirror) { q.m = m }

// tell queues an event; it may be called with m.mu held. It is delivered by a
// goroutine so that loggers cannot deadlock with the caller's locks.
func (m *Mirror) tell(e Event) {
	q := &m.events
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, e)
	if !q.busy {
		q.busy = m.run(q.deliver)
	}
}

func (q *eventQueue) deliver() {
	for {
		q.mu.Lock()
		batch := q.waiting
		q.waiting = nil
		if len(batch) == 0 {
			q.busy = false
			q.mu.Unlock()
			return
		}
		q.mu.Unlock()
		for _, e := range batch {
			e.log(q.m.cfg.Logger)
			q.m.watchers.send(e)
		}
	}
}

// subscriber is one Subscribe.
type subscriber struct {
	mu     sync.Mutex // held while notify runs, so that cancel can promise its end
	notify func(Invalidation)
}

// Subscribe implements Notifier: notify is called for the transactions that become
// visible and were not finished, with success, by a Txn of this mirror: those
// whose outcome was unknown, and those of other clients of the backends.
func (m *Mirror) Subscribe(notify func(Invalidation)) (cancel func()) {
	s := &subscriber{notify: notify}
	m.mu.Lock()
	m.subscribers[s] = true
	m.mu.Unlock()
	return func() {
		m.mu.Lock()
		delete(m.subscribers, s)
		m.mu.Unlock()
		s.mu.Lock()
		s.notify = nil
		s.mu.Unlock()
	}
}

// notify tells the subscribers. The commit slot is held, which keeps tid order.
func (m *Mirror) notify(inv Invalidation) {
	m.mu.Lock()
	all := make([]*subscriber, 0, len(m.subscribers))
	for s := range m.subscribers {
		all = append(all, s)
	}
	m.mu.Unlock()
	for _, s := range all {
		s.mu.Lock()
		if s.notify != nil {
			s.notify(inv)
		}
		s.mu.Unlock()
	}
}

// routines counts goroutines. Unlike a WaitGroup it may be asked to start one while,
// or after, somebody waits for all.
type routines struct {
	mu      sync.Mutex // guards the fields below
	running int
	idle    chan struct{} // made by wait: closed when none runs, and none will
}

func (r *routines) start(f func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.idle != nil {
		return false
	}
	r.running++
	go func() {
		defer r.end()
		f()
	}()
	return true
}

func (r *routines) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running--; r.running == 0 && r.idle != nil {
		close(r.idle)
	}
}

// wait tells whether all have ended within the timeout. None is started any more.
func (r *routines) wait(timeout time.Duration) bool {
	r.mu.Lock()
	if r.idle == nil {
		r.idle = make(chan struct{})
		if r.running == 0 {
			close(r.idle)
		}
	}
	idle := r.idle
	r.mu.Unlock()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-idle:
		return true
	case <-timer.C:
		return false
	}
}
