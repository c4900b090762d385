package raidstorage

// Promote makes a backend full through a recovery, whose last step changes the record
// once: the role and the place in the in-sync set together. Demote is one change of the
// record, too. Where that change is not confirmed the record is written again as it was,
// so that a role never changes by halves.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Promote makes an asynchronous or spare backend a full one: it is recovered, and from
// then on it takes part in commits and reads, also over restarts. It returns when that is
// done, at once if the backend is full and in sync. After an error it is what it was.
// Errors as of Recover; the quorums stay as they are.
func (m *Mirror) Promote(ctx context.Context, name string) error {
	return m.ask(ctx, recoverRequest{op: "promote", promote: true}, name)
}

// Demote makes a full backend an asynchronous one, or, if it is configured as a spare, a
// spare again: nobody waits for it any more, and it does not count, also over restarts. A
// backend that is not full stays what it is. *UnavailableError if fewer than WriteQuorum
// backends would stay in sync, or none, or if there would be fewer full ones than that;
// *InvalidError for an unknown name.
func (m *Mirror) Demote(ctx context.Context, name string) error {
	b := m.backendNamed(name)
	if b == nil {
		return &InvalidError{Op: "demote", Reason: fmt.Sprintf("there is no backend %q", name)}
	}
	if err := m.lockCommit(ctx); err != nil {
		return err
	}
	defer m.unlockCommit()
	m.mu.Lock()
	stopped := m.stopped
	m.mu.Unlock()
	switch {
	case b.hasLeft():
		return &InvalidError{Op: "demote", Reason: fmt.Sprintf("backend %q was taken out", name)}
	case b.role.Actual != RoleFull:
		return nil
	case stopped != nil:
		return stopped
	}
	if m.unresolved != nil {
		if err := m.resolve(ctx); err != nil {
			return err
		}
	}
	quorum := max(1, m.tuned().WriteQuorum)
	if n := len(m.full()) - 1; n < quorum {
		return &UnavailableError{InSync: n, Need: quorum, Err: fmt.Errorf("without %s there are %d full backends", name, n)}
	}
	if err := m.checkStaying(ctx, []*backend{b}, quorum); err != nil {
		return err
	}
	to := RoleAsync
	if b.role.Configured == RoleSpare {
		to = RoleSpare
	}
	next := m.record.next(m.now(), fmt.Sprintf("%s demoted to %v", name, to))
	next.InSync = slices.DeleteFunc(next.InSync, func(n string) bool { return n == name })
	role := map[*backend]MemberRole{b: {Configured: b.role.Configured, Actual: to}}
	next.Roles = rolesOf(m.backends, role)
	if err := m.setRoles(context.WithoutCancel(ctx), next, role); err != nil {
		return err
	}
	m.cfg.Logger.Info("a backend has another role", "backend", name, "role", to.String())
	return nil
}

// changeRecord writes next, or sees to it that what was before stays. The commit slot is
// held.
func (m *Mirror) changeRecord(ctx context.Context, next Membership) error {
	if err := m.setRecord(ctx, next); err != nil {
		return unavailable(errors.Join(err, m.takeBack(ctx, next)))
	}
	return nil
}

// setRoles writes next and relies on it, or leaves everything as it was. The commit slot
// is held.
func (m *Mirror) setRoles(ctx context.Context, next Membership, roles map[*backend]MemberRole) error {
	if err := m.changeRecord(ctx, next); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for b, role := range roles {
		m.setRoleLocked(b, role, fmt.Sprintf("its role is %v now", role.Actual))
	}
	m.publishLocked(m.view.Load().last)
	return nil
}

// setRoleLocked gives b another role, with which it is not in sync. The caller holds the
// commit slot and mu, has written the record, and publishes the view.
func (m *Mirror) setRoleLocked(b *backend, role MemberRole, reason string) {
	if b.role == role {
		return
	}
	from := b.role.Actual
	b.role = role
	if from == role.Actual {
		return
	}
	b.parked, b.pack = false, nil
	if role.Actual == RoleFull {
		b.outSince = time.Now() // the time of spares counts from here
	}
	if b.cancelRecovery != nil {
		b.cancelRecovery()
	}
	switch live := b.state == StateInSync && b.session != nil && !b.session.dead.Load(); {
	case b.state == StateDisabled:
	case role.Actual == RoleSpare:
		m.setStateLocked(b, eventStandsBy, reason)
	case role.Actual == RoleAsync && live:
		m.setStateLocked(b, eventFollows, reason)
		m.caughtUpLocked(b)
	default:
		m.setStateLocked(b, eventDropped, reason)
	}
	b.wake()
}
