package raidstorage

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Loads that a backend answers later: LoadBefore without a goroutine that waits. The
// rules are the same (R1, R2): the backend is chosen and the snapshot taken when the load
// begins; an answer other than a revision, or none within the deadline, is followed up in
// a goroutine as LoadBefore would, on the other backends.

// startedLoad is a load under way at one backend.
type startedLoad struct {
	m      *Mirror
	s      *session
	v      *view
	oid    OID
	before TID
	to     LoadAnswer
	since  time.Time
	passed bool // the backend's answer was passed on, so its Flush is, too; the backend's

	// Guarded by s.started.mu: its place in the list of the session, from the oldest on.
	next, prev *startedLoad
	listed     bool
}

// startedLoads are those of a session. Whoever takes a load off the list answers it, so
// that each is answered once.
type startedLoads struct {
	mu       sync.Mutex // guards the fields below, and the loads' places
	first    *startedLoad
	last     *startedLoad
	watchdog *time.Timer // runs while there are loads
	running  bool
	ended    bool // the session is closed
}

var _ LoadStarter = (*Mirror)(nil)

// StartLoad implements LoadStarter, where the backend that is to be asked does. The
// answer comes within Timeouts.Read for each backend.
func (m *Mirror) StartLoad(oid OID, before TID, to LoadAnswer) (held LoadSender, begun bool) {
	v := m.view.Load()
	if len(v.sessions) == 0 {
		return nil, false
	}
	s := v.sessions[m.first(v)]
	if s.starter != nil && !s.dead.Load() {
		l := &startedLoad{m: m, s: s, v: v, oid: oid, before: min(before, v.last+1), to: to, since: time.Now()}
		if m.list(l) {
			held, begun = s.starter.StartLoad(oid, l.before, l)
			if begun || !s.started.take(l) { // in the latter case it is answered already: the watchdog's doing
				s.b.loads.Add(1)
				return held, true
			}
		}
	}
	m.turn.Add(^uint64(0)) // LoadBefore has the same choice again
	return nil, false
}

// list puts a load on its session's list. False means that the session is closed.
func (m *Mirror) list(l *startedLoad) bool {
	q := &l.s.started
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended {
		return false
	}
	l.listed, l.prev = true, q.last
	if q.last == nil {
		q.first = l
	} else {
		q.last.next = l
	}
	q.last = l
	if !q.running {
		q.running = true
		if timeout := m.tuned().Timeouts.Read; q.watchdog == nil {
			q.watchdog = time.AfterFunc(timeout, func() { m.watchLoads(l.s) })
		} else {
			q.watchdog.Reset(timeout)
		}
	}
	return true
}

// take takes a load off the list. False means that somebody else did.
func (q *startedLoads) take(l *startedLoad) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.takeLocked(l)
}

func (q *startedLoads) takeLocked(l *startedLoad) bool {
	if !l.listed {
		return false
	}
	l.listed = false
	if l.prev == nil {
		q.first = l.next
	} else {
		l.prev.next = l.next
	}
	if l.next == nil {
		q.last = l.prev
	} else {
		l.next.prev = l.prev
	}
	l.next, l.prev = nil, nil
	return true
}

// watchLoads is the watchdog of a session: what is not answered in time has failed. It
// rests when there are no loads.
func (m *Mirror) watchLoads(s *session) {
	timeout := m.tuned().Timeouts.Read
	q := &s.started
	var late []*startedLoad
	q.mu.Lock()
	for q.first != nil && time.Since(q.first.since) >= timeout {
		l := q.first
		q.takeLocked(l)
		late = append(late, l)
	}
	if q.running = q.first != nil && !q.ended; q.running {
		q.watchdog.Reset(timeout - time.Since(q.first.since))
	}
	q.mu.Unlock()
	for _, l := range late {
		l.follow(fmt.Errorf("no answer for %v: %w", timeout, context.DeadlineExceeded))
	}
}

// end answers what a closed session has left, and takes no more.
func (q *startedLoads) end() {
	q.mu.Lock()
	q.ended = true
	if q.watchdog != nil {
		q.watchdog.Stop()
	}
	var left []*startedLoad
	for q.first != nil {
		left = append(left, q.first)
		q.takeLocked(q.first)
	}
	q.mu.Unlock()
	for _, l := range left {
		l.follow(ErrClosed)
	}
}

// Loaded implements LoadAnswer, for the backend.
func (l *startedLoad) Loaded(rev Revision, err error) {
	if !l.s.started.take(l) {
		return // too late
	}
	if err != nil {
		l.follow(err)
		return
	}
	l.s.b.timed(time.Since(l.since))
	if rev.Next > l.v.last {
		rev.Next = 0 // finished on that backend, but not acknowledged yet (R1)
	}
	l.passed = true
	l.to.Loaded(rev, nil)
}

// Flush implements LoadAnswer, for the backend.
func (l *startedLoad) Flush() {
	if l.passed {
		l.to.Flush()
	}
}

// follow does what is to be done about a load without a revision, in a goroutine, as it
// may wait.
func (l *startedLoad) follow(err error) {
	if !l.m.run(func() { l.answer(l.m.followUp(l, err)) }) {
		l.answer(Revision{}, ErrClosed)
	}
}

func (l *startedLoad) answer(rev Revision, err error) {
	l.to.Loaded(rev, err)
	l.to.Flush()
}

// followUp is what read and LoadBefore do after an error.
func (m *Mirror) followUp(l *startedLoad, err error) (Revision, error) {
	if Classify(err) == ClassAnswer {
		if len(l.v.sessions) > 1 && isA[*NotFoundError](err) {
			return m.confirmMissing(m.ctx, l.v, l.oid, l.before, err)
		}
		return Revision{}, err
	}
	if m.closing() {
		return Revision{}, ErrClosed
	}
	if Classify(err) == ClassFailure {
		l.s.b.loadErrors.Add(1)
		err = &BackendError{Backend: l.s.b.cfg.Name, Op: "load", Err: err}
		switch {
		case len(l.v.sessions) > 1:
			m.faultOfRead(l.s, err)
		case m.view.Load() == l.v:
			return Revision{}, gather(nil, err) // of the last one the failure is the caller's
		}
	}
	return m.LoadBefore(m.ctx, l.oid, l.before)
}
