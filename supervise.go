package raidstorage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// supervised is the goroutine of one backend. It ends when the mirror closes or the
// backend leaves it.
func (b *backend) supervised(m *Mirror) func() {
	return func() {
		defer close(b.ended)
		if b.replaces != nil {
			<-b.replaces.ended // its waits have bounds
			b.replaces = nil
		}
		m.supervise(b)
		if b.hasLeft() {
			m.closeBackend(b)
		}
	}
}

// supervise does, whatever the state of b, what leads out of it.
//
//	suspect     close the storage; take it out of the record, or, where the mirror
//	            cannot do without it, open it again and see whether it is complete
//	failed      open it and recover it, with growing pauses (AutoRecover)
//	disabled    close it
//	async       one step of following, see follow.go
//	spare       close it, or put it in the place of one that failed, see spare.go
//	in sync     settle what is in doubt, if anything is
func (m *Mirror) supervise(b *backend) {
	var pause time.Duration
	var f follower
	for m.ctx.Err() == nil && !b.hasLeft() {
		select {
		case <-b.kick: // what it tells of is looked at now
		default:
		}
		if m.roleOf(b) != RoleAsync {
			f = follower{} // what it knew is not kept: others write there now
		}
		var err error
		more := false
		var again time.Duration
		switch state, parked := m.stateOf(b); {
		case state != StateDisabled && m.roleOf(b) == RoleAsync:
			if !parked {
				more, err = m.follow(b, &f)
			}
		case state != StateDisabled && m.roleOf(b) == RoleSpare:
			again, err = m.spare(b)
		case state == StateSuspect:
			err = m.settleSuspect(b, pause > 0)
		case state == StateFailed && m.cfg.AutoRecover == AutoRecoverOn && !parked:
			if err = m.recover(m.ctx, b, RecoverOptions{}, entry{}); err != nil && !m.closing() {
				m.cfg.Logger.Info("recovery failed", "backend", b.cfg.Name, "err", err)
			}
		case state == StateDisabled:
			err = m.closeBackend(b)
			pause = 0
		case state == StateFailed:
			err = m.closeIfDead(b)
		case state == StateInSync:
			err = m.settleDoubt()
		}
		if state, parked := m.stateOf(b); err == nil && m.roleOf(b) == RoleFull && (state == StateSuspect ||
			state == StateFailed && m.cfg.AutoRecover == AutoRecoverOn && !parked) {
			pause = 0
			continue // it moved on to a state in which there is something to do
		}
		if err == nil {
			pause = 0
		} else {
			pause = min(max(2*pause, m.cfg.RetryMin), m.cfg.RetryMax)
		}
		m.idle(b, &f, max(pause, again), more && err == nil)
	}
}

// idle waits for something to do: a kick, a request, or the end of the pause. With more
// it only looks for a request.
func (m *Mirror) idle(b *backend, f *follower, pause time.Duration, more bool) {
	serve := func(r *recoverRequest) {
		err := m.serve(r, b, f)
		if m.roleOf(b) != RoleAsync {
			*f = follower{} // before whoever asked can give it that role again
		}
		r.done <- err
	}
	if more {
		select {
		case r := <-b.requests:
			serve(r)
		default:
		}
		return
	}
	var after <-chan time.Time
	if pause > 0 {
		timer := time.NewTimer(pause)
		defer timer.Stop()
		after = timer.C
	}
	select {
	case <-b.kick:
	case <-after:
	case r := <-b.requests:
		serve(r)
	case <-b.left:
	case <-m.ctx.Done():
	}
}

func (m *Mirror) stateOf(b *backend) (State, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return b.state, b.parked
}

// closeIfDead lets go of a storage that failed and that nobody is to open again.
func (m *Mirror) closeIfDead(b *backend) error {
	m.mu.Lock()
	dead := b.session != nil && b.session.dead.Load()
	m.mu.Unlock()
	if dead {
		return m.closeBackend(b)
	}
	return nil
}

// closeBackend closes b's storage, if it is open.
func (m *Mirror) closeBackend(b *backend) error {
	m.mu.Lock()
	s := b.session
	if s != nil && s.b.state != StateInSync {
		b.session = nil
	} else {
		s = nil
	}
	m.mu.Unlock()
	if s == nil {
		return nil
	}
	if err := m.closeSession(s); err != nil {
		m.cfg.Logger.Warn("backend was not closed properly", "backend", b.cfg.Name, "err", err)
	}
	return nil
}

// ensureOpen opens b's storage, a dead session's anew.
func (m *Mirror) ensureOpen(ctx context.Context, b *backend) (*session, error) {
	m.mu.Lock()
	s := b.session
	m.mu.Unlock()
	if s != nil && !s.dead.Load() {
		return s, nil
	}
	if err := m.closeBackend(b); err != nil {
		return nil, err
	}
	s, err := m.open(ctx, b)
	m.mu.Lock()
	closed := m.closed
	switch {
	case err == nil && !closed:
		b.session = s
	case err != nil && b.state != StateDisabled:
		b.reason = err.Error()
	}
	m.mu.Unlock()
	if closed && err == nil { // Close has gone by already
		return nil, errors.Join(ErrClosed, m.closeSession(s))
	}
	return s, err
}

// settleSuspect brings a backend that failed while the record names it out of the
// record, or back. reopen is false at the first attempt: first the others go on
// without it, and a transaction that has voted there may end.
func (m *Mirror) settleSuspect(b *backend, reopen bool) error {
	if reopen {
		if _, err := m.ensureOpen(m.ctx, b); err != nil {
			return err
		}
	}
	if err := m.lockCommit(m.ctx); err != nil {
		return err
	}
	defer m.unlockCommit()
	if state, _ := m.stateOf(b); state != StateSuspect {
		return nil // a commit dropped it meanwhile
	}
	return m.resolve(m.ctx)
}

// settleDoubt resolves an unknown outcome, or a foreign commit, that no commit has
// come to resolve.
func (m *Mirror) settleDoubt() error {
	if !m.foreignSeen.Load() && !m.inDoubt.Load() {
		return nil
	}
	if err := m.lockCommit(m.ctx); err != nil {
		return err
	}
	defer m.unlockCommit()
	if m.foreignSeen.Swap(false) && m.unresolved == nil {
		m.unresolved = errors.New("a backend has a transaction that this mirror did not make")
		m.inDoubt.Store(true)
	}
	if m.unresolved == nil {
		return nil
	}
	err := m.resolve(m.ctx)
	if err != nil && !m.closing() {
		m.cfg.Logger.Warn("the backends cannot be compared yet", "err", err)
	}
	return err
}

// foreign is told of transactions that others made at a backend. It must not wait.
func (m *Mirror) foreign(s *session, inv Invalidation) {
	if inv.TID <= m.view.Load().last || s.dead.Load() || m.roleOf(s.b) != RoleFull {
		return
	}
	m.foreignSeen.Store(true)
	s.b.wake()
}

// Disable takes a backend out of the mirror until Recover is called for it, also
// over restarts: no call is made to it any more, and its storage is closed.
// *UnavailableError if fewer than WriteQuorum backends would stay in sync, or none,
// where commits have stopped because this backend contradicts another;
// *InvalidError for an unknown name.
func (m *Mirror) Disable(ctx context.Context, name, reason string) error {
	b := m.backendNamed(name)
	if b == nil {
		return &InvalidError{Op: "disable", Reason: fmt.Sprintf("there is no backend %q", name)}
	}
	if err := m.lockCommit(ctx); err != nil {
		return err
	}
	defer m.unlockCommit()
	if b.hasLeft() {
		return &InvalidError{Op: "disable", Reason: fmt.Sprintf("backend %q was taken out", name)}
	}
	m.mu.Lock()
	stopped := m.stopped
	m.mu.Unlock()
	if m.unresolved != nil && stopped == nil {
		if err := m.resolve(ctx); err != nil {
			return err
		}
	}
	next := m.record.next(m.now(), fmt.Sprintf("%s disabled: %s", name, reason))
	next.InSync = slices.DeleteFunc(next.InSync, func(n string) bool { return n == name })
	if !slices.Contains(next.Disabled, name) {
		next.Disabled = append(next.Disabled, name)
	}
	// An operator who settles a contradiction chooses between copies.
	quorum, settles := m.tuned().WriteQuorum, false
	if stopped != nil {
		if _, settles = stopped.Answers[name]; settles {
			quorum = 1
		}
	}
	if slices.Contains(m.record.InSync, name) {
		if err := m.checkStaying(ctx, []*backend{b}, quorum); err != nil {
			return err
		}
	}
	if err := m.setRecord(context.WithoutCancel(ctx), next); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if settles {
		m.stopped = nil
	}
	if b.session != nil {
		b.session.dead.Store(true)
	}
	b.disabled++
	m.setStateLocked(b, eventDisabled, reason)
	if b.cancelRecovery != nil {
		b.cancelRecovery()
	}
	m.publishLocked(m.view.Load().last)
	b.wake()
	return nil
}

// checkStaying makes sure, under their locks, that enough others answer and are
// equal (C4, M2).
func (m *Mirror) checkStaying(ctx context.Context, leaving []*backend, quorum int) error {
	live, _ := m.members()
	live = slices.DeleteFunc(live, func(s *session) bool { return slices.Contains(leaving, s.b) })
	tails, failed := m.lockAll(ctx, live)
	voters := make([]voter, 0, len(tails))
	last := m.view.Load().last
	for _, t := range tails {
		voters = append(voters, t.voter)
		if t.last != last {
			failed = append(failed, t.voter.session.b)
		}
	}
	defer m.abortAll(ctx, voters)
	if err := ctx.Err(); err != nil {
		return err
	}
	if need := max(1, quorum); len(live)-len(failed) < need {
		return &UnavailableError{InSync: len(live) - len(failed), Need: need, Err: m.reasons(failed)}
	}
	return nil
}

func (m *Mirror) backendNamed(name string) *backend {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range m.backends {
		if b.cfg.Name == name {
			return b
		}
	}
	return nil
}
