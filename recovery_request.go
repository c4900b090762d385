package raidstorage

import (
	"context"
	"fmt"
	"slices"
)

// requestRecovery asks b's supervisor and waits for its answer.
func (m *Mirror) requestRecovery(ctx context.Context, b *backend, r recoverRequest) error {
	r.ctx, r.done = ctx, make(chan error, 1)
	if r.promote {
		m.mu.Lock()
		if b.state == StateFollowing && b.cancelRecovery != nil {
			b.cancelRecovery() // a step of following that may take long
		}
		m.mu.Unlock()
	}
	select {
	case b.requests <- &r:
	case <-ctx.Done():
		return ctx.Err()
	case <-b.left:
		return &InvalidError{Op: r.op, Reason: fmt.Sprintf("backend %q was taken out", b.cfg.Name)}
	case <-m.ctx.Done():
		return ErrClosed
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// recoverRequest asks a supervisor for a recovery.
type recoverRequest struct {
	op       string
	promote  bool // to full
	disabled int  // backend.disabled when it was asked for
	ctx      context.Context
	opts     RecoverOptions
	done     chan error
}

// serve carries out a request, on the supervisor.
func (m *Mirror) serve(r *recoverRequest, b *backend, f *follower) error {
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	defer context.AfterFunc(m.ctx, cancel)()
	if state, _ := m.stateOf(b); state == StateSuspect {
		if err := m.settleSuspect(b, true); err != nil {
			return err
		}
	}
	state, _ := m.stateOf(b)
	role := m.roleOf(b)
	switch {
	case state == StateInSync:
		return nil
	case role == RoleAsync && !r.promote:
		return m.refollow(ctx, b, f, r)
	case role == RoleSpare && !r.promote:
		return m.standBy(ctx, b, r)
	}
	if state == StateDisabled {
		if err := m.readmit(ctx, b, r); err != nil {
			return err
		}
	}
	return m.recover(ctx, b, r.opts, entry{promotes: role != RoleFull})
}

// readmit ends that b is disabled, now that an operator wants it back and it answers: a
// restart that comes before it is in sync goes on with the recovery.
func (m *Mirror) readmit(ctx context.Context, b *backend, r *recoverRequest) error {
	m.mu.Lock()
	busy := m.exclusion.packBusyLocked("recover " + b.cfg.Name)
	m.mu.Unlock()
	if busy != nil {
		return busy
	}
	if _, err := m.ensureOpen(ctx, b); err != nil {
		return err
	}
	return m.enable(ctx, b, r, m.toBeComparedLocked)
}

// enable takes out of the record that b is disabled, and gives it another state before
// anybody else can change the record. An operator who has disabled it since it was asked
// for wants something else.
func (m *Mirror) enable(ctx context.Context, b *backend, r *recoverRequest, stateLocked func(*backend)) error {
	if err := m.holdSlot(ctx); err != nil {
		return err
	}
	defer m.unlockCommit()
	m.mu.Lock()
	since := b.disabled != r.disabled
	m.mu.Unlock()
	if since || b.hasLeft() {
		return &InvalidError{Op: r.op, Reason: fmt.Sprintf("backend %s was disabled, or taken out, meanwhile", b.cfg.Name)}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	next := m.record.next(m.now(), b.cfg.Name+" is not disabled any more")
	next.Disabled = slices.DeleteFunc(next.Disabled, func(name string) bool { return name == b.cfg.Name })
	if err := m.setRecord(context.WithoutCancel(ctx), next); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	stateLocked(b)
	return nil
}

// toBeComparedLocked has a backend that was disabled wait for a recovery, or to follow.
func (m *Mirror) toBeComparedLocked(b *backend) {
	m.setStateLocked(b, eventRecoveryStarted, "by an operator")
	m.setStateLocked(b, eventRecoveryEnded, "to be compared")
}
