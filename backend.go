package raidstorage

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// historyLength is how many of a backend's state changes and repairs Status shows.
const historyLength = 20

// backend is one member while the mirror runs. Its supervisor goroutine (see
// supervise.go) opens, recovers and closes its storage.
type backend struct {
	cfg Backend

	kick     chan struct{}        // wakes the supervisor; one slot, so that kicks coalesce
	requests chan *recoverRequest // what Recover asks for, one at a time
	left     chan struct{}        // closed, with Mirror.mu held, when it is no member any more
	ended    chan struct{}        // closed when the supervisor has ended
	replaces *backend             // whose storage must be closed before this one is opened; may be nil

	loads, loadErrors, commits, faults, repairs, latency atomic.Int64 // latency in ns

	// The fields below are guarded by Mirror.mu.
	state     State
	role      MemberRole // changed with the commit slot held, too
	bandwidth int64      // of following, in bytes a second, 0 for no bound
	reason    string
	since     time.Time
	session   *session // nil while the storage is closed
	lastTID   TID
	droppedAt int64 // Mirror.committed when it left, -1 if it never was in sync here
	parked    bool  // a recovery would fail again until an operator does something
	apart     bool  // parked because it was packed apart: or until a pack ends
	recovery  *RecoveryProgress
	disabled  int // how often an operator took it out
	// cancelRecovery ends the recovery, or the step of following, that is under way. nil if
	// there was none.
	cancelRecovery context.CancelFunc
	outSince       time.Time // since when it is not in sync, by the time package; zero: it is
	standsFor      *backend  // whose place it is about to take, as a spare; nil: nobody's
	notBefore      time.Time // when it may be tried again, as a spare
	spareRetry     time.Duration
	pack           *packAt // what it waits for that follows; nil: nothing
	lag            lag
	history        []Event
}

func newBackend(cfg Backend, now time.Time, reason string) *backend {
	return &backend{
		cfg: cfg, since: now, droppedAt: -1, reason: reason,
		role: MemberRole{Configured: cfg.Role, Actual: cfg.Role}, bandwidth: cfg.Bandwidth, outSince: time.Now(),
		kick: make(chan struct{}, 1), requests: make(chan *recoverRequest),
		left: make(chan struct{}), ended: make(chan struct{}),
	}
}

// hasLeft tells whether a Change took b out.
func (b *backend) hasLeft() bool {
	select {
	case <-b.left:
		return true
	default:
		return false
	}
}

// session is one opened storage of a backend. A session that had a fault is dead:
// nothing is asked of it any more, it is closed and another one opened, so that a
// late answer of an old call cannot be taken for one to a new call.
type session struct {
	b       *backend
	storage Storage
	timely  Storage     // the same with a deadline for each step, for what is not a client's read
	starter LoadStarter // the storage, if it is one; else nil
	started startedLoads
	calls   chan job // what the worker goroutine makes, one after the other
	waits   chan job // what the other one waits for: finishes that were started
	quit    chan struct{}
	idle    chan struct{} // closed when the worker has ended
	waited  chan struct{} // closed when the other one has
	dead    atomic.Bool
	packs   atomic.Bool // a call of its Pack has not returned
	cancel  func()      // ends the subscription, if any
}

// callBuffer is how many calls may wait for a session's worker. Commits are
// serial, so more than a few mean that it hangs.
const callBuffer = 8

// waitBuffer is how many finishes may be waited for: those in flight, and as many that
// were given up.
const waitBuffer = 2 * pipelineDepth

func (m *Mirror) newSession(b *backend, storage Storage) *session {
	s := &session{
		b: b, storage: storage, timely: timely{storage, func() time.Duration { return m.tuned().Timeouts.Read }},
		calls:  make(chan job, callBuffer),
		waits:  make(chan job, waitBuffer),
		quit:   make(chan struct{}),
		idle:   make(chan struct{}),
		waited: make(chan struct{}),
	}
	s.starter, _ = storage.(LoadStarter)
	if !m.run(func() { s.work(s.calls, s.idle) }) { // the mirror has closed; so will this session
		close(s.idle)
	}
	if !m.run(func() { s.work(s.waits, s.waited) }) {
		close(s.waited)
	}
	return s
}

// work is a worker: it makes the calls, until the session is closed.
func (s *session) work(calls chan job, ended chan struct{}) {
	defer close(ended)
	for {
		select {
		case c := <-calls:
			c.round.answerFor(c.index)
		case <-s.quit:
			drain(calls)
			return
		}
	}
}

// drain answers what waits for a worker that ends: the storage is closed.
func drain(calls chan job) {
	for {
		select {
		case c := <-calls:
			c.round.answerFor(c.index)
		default:
			return
		}
	}
}

// open opens b's storage, bounded by Timeouts.Open even if the opener does not
// obey its context; what such an opener returns later is closed.
func (m *Mirror) open(ctx context.Context, b *backend) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, m.tuned().Timeouts.Open)
	defer cancel()
	type opened struct {
		storage Storage
		err     error
	}
	done := make(chan opened)
	m.run(func() {
		var o opened
		o.storage, o.err = b.cfg.Open(ctx)
		select {
		case done <- o:
		case <-ctx.Done():
			if o.err == nil {
				o.storage.Close()
			}
		}
	})
	select {
	case o := <-done:
		if o.err != nil {
			return nil, &BackendError{Backend: b.cfg.Name, Op: "open", Err: o.err}
		}
		s := m.newSession(b, o.storage)
		s.cancel = func() {}
		if n, err := Can[Notifier](o.storage); err == nil {
			s.cancel = n.Subscribe(func(inv Invalidation) { m.foreign(s, inv) })
		}
		return s, nil
	case <-ctx.Done():
		return nil, &BackendError{Backend: b.cfg.Name, Op: "open", Err: ctx.Err()}
	}
}

// close closes the session's storage, bounded by Timeouts.Open: a storage that
// hangs is left to its goroutine.
func (m *Mirror) closeSession(s *session) error {
	s.dead.Store(true)
	done := make(chan error, 1)
	end := func() {
		s.cancel()
		err := s.storage.Close() // first: it ends calls under way
		s.started.end()
		close(s.quit)
		<-s.idle
		<-s.waited
		done <- err
	}
	if !m.run(end) {
		end()
	}
	timer := time.NewTimer(m.tuned().Timeouts.Open)
	defer timer.Stop()
	select {
	case err := <-done:
		if err != nil && !errors.Is(err, ErrClosed) {
			return &BackendError{Backend: s.b.cfg.Name, Op: "close", Err: err}
		}
		return nil
	case <-timer.C:
		return &BackendError{Backend: s.b.cfg.Name, Op: "close", Err: context.DeadlineExceeded}
	}
}

// setState applies event to b, and tells of it. The caller holds m.mu.
func (m *Mirror) setStateLocked(b *backend, event healthEvent, reason string) bool {
	to, ok := b.state.on(event)
	if !ok {
		return false
	}
	from := b.state
	b.state, b.reason, b.since = to, reason, m.cfg.Clock()
	switch to {
	case StateInSync, StateFollowing:
		b.reason, b.parked, b.apart, b.recovery = "", false, false, nil
	case StateRecovering:
		b.reason = reason
	}
	if from == StateInSync {
		b.lastTID = m.view.Load().last
		b.droppedAt = m.committed.Load()
	}
	m.noteOutLocked(b)
	e := Event{Kind: EventState, Time: b.since, Backend: b.cfg.Name, From: from, To: to, Reason: reason,
		Condition: m.conditionLocked()}
	b.noteLocked(e)
	m.tell(e)
	return true
}

// noteLocked adds e to the history. The caller holds Mirror.mu.
func (b *backend) noteLocked(e Event) {
	b.history = append(b.history, e)
	if len(b.history) > historyLength {
		b.history = b.history[1:]
	}
}

// fault notes that a call to s failed or gave an answer that must be wrong. From
// now on nothing is asked of s; the supervisor sees to the rest.
func (m *Mirror) fault(s *session, reason error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faultLocked(s, reason)
}

// faultOfRead is fault for a read, which may have begun when there were more: that the
// last one that is left fails is its caller's.
func (m *Mirror) faultOfRead(s *session, reason error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if all := m.view.Load().sessions; len(all) == 1 && all[0] == s {
		return
	}
	m.faultLocked(s, reason)
}

func (m *Mirror) faultLocked(s *session, reason error) {
	s.b.faults.Add(1)
	if s.b.session != s || !s.dead.CompareAndSwap(false, true) {
		return // an old session, or known already
	}
	if !m.setStateLocked(s.b, eventFault, reason.Error()) {
		if s.b.state == StateFailed { // at start-up, before it was ever in sync: the record tells why
			s.b.reason = reason.Error()
		}
		return // its supervisor is at it, and waits between its attempts
	}
	m.publishLocked(m.view.Load().last)
	s.b.wake()
}

// wake makes the supervisor look at b's state.
func (b *backend) wake() {
	select {
	case b.kick <- struct{}{}:
	default:
	}
}
