package raidstorage

// Spares. A full backend that is out of sync for longer than Config.SpareAfter is
// replaced by a spare (the spare's supervisor does this):
//
//	claim    the full one that is out for longest, and that no other spare has claimed
//	recover  the spare, as any backend; it is given up when the full one comes back
//	swap     with the commit slot held, and if the full one is still out: one change of
//	         the record makes the spare full and in sync, and the other one a spare
//
// One that an operator has disabled is not replaced, nor one that is being recovered.
// Crash points: before the change of the record the spare is a spare, with a beginning of
// the log; after it the roles are exchanged. Either way they stay over a restart.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// errNotNeeded ends the recovery of a spare whose full one is back.
var errNotNeeded = errors.New("it is not needed any more")

// spare makes one step for b. again is when to look next, 0 if something has to happen
// first.
func (m *Mirror) spare(b *backend) (again time.Duration, err error) {
	out, again := m.claim(b)
	if out == nil {
		m.restSpare(b)
		return again, m.closeBackend(b)
	}
	defer func() { m.unclaim(b, err) }()
	m.cfg.Logger.Warn("a spare is brought in", "backend", b.cfg.Name, "instead", out.cfg.Name)
	err = m.recover(m.ctx, b, RecoverOptions{}, entry{promotes: true, instead: out})
	if errors.Is(err, errNotNeeded) {
		m.cfg.Logger.Info("the spare is not needed any more", "backend", b.cfg.Name, "instead", out.cfg.Name)
		m.restSpare(b)
		return 0, nil
	}
	if err != nil && !m.closing() {
		m.cfg.Logger.Warn("the spare could not be brought in", "backend", b.cfg.Name, "instead", out.cfg.Name, "err", err)
	}
	return 0, err
}

// restSpare has b stand by, unless it was refused.
func (m *Mirror) restSpare(b *backend) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if b.role.Actual == RoleSpare && b.state == StateFailed && !b.parked && time.Until(b.notBefore) <= 0 {
		m.setStateLocked(b, eventStandsBy, "it is not needed")
	}
}

// claim finds the backend whose place b takes, so that no other spare does; nil if there
// is none now.
func (m *Mirror) claim(b *backend) (out *backend, again time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if b.role.Actual != RoleSpare || b.parked || b.state == StateDisabled || b.hasLeft() || m.cfg.AutoRecover == AutoRecoverOff {
		return nil, 0
	}
	if left := time.Until(b.notBefore); left > 0 {
		return nil, left // whatever wakes it
	}
	for _, o := range m.backends {
		if o.role.Actual != RoleFull || o.state != StateFailed || m.claimedLocked(o) {
			continue
		}
		left := m.cfg.SpareAfter - time.Since(o.outSince)
		switch {
		case left > 0:
			if again == 0 || left < again {
				again = left
			}
		case out == nil || o.outSince.Before(out.outSince):
			out = o
		}
	}
	b.standsFor = out
	return out, again
}

// claimedLocked tells whether a spare is about to take o's place. The caller holds mu.
func (m *Mirror) claimedLocked(o *backend) bool {
	return slices.ContainsFunc(m.backends, func(b *backend) bool { return b.standsFor == o })
}

func (m *Mirror) unclaim(b *backend, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b.standsFor = nil
	if b.spareRetry *= 2; err == nil {
		b.spareRetry = 0
	} else {
		b.spareRetry = min(max(b.spareRetry, m.cfg.RetryMin), m.cfg.RetryMax)
		b.notBefore = time.Now().Add(b.spareRetry)
	}
	m.wakeSparesLocked() // another one may do better
}

// wakeSparesLocked has the spares look whether they are needed. The caller holds mu.
func (m *Mirror) wakeSparesLocked() {
	for _, b := range m.backends {
		if b.role.Actual == RoleSpare {
			b.wake()
		}
	}
}

// noteOutLocked keeps since when b is not in sync. The caller holds mu.
func (m *Mirror) noteOutLocked(b *backend) {
	switch {
	case b.state == StateInSync:
		b.outSince = time.Time{}
	case b.outSince.IsZero():
		b.outSince = time.Now()
	}
	if b.role.Actual == RoleFull {
		m.wakeSparesLocked()
	}
}

// stillNeeded returns errNotNeeded if the recovery is a spare's whose full one is back, or
// is to stay out.
func (r *recovery) stillNeeded() error {
	o := r.as.instead
	if o == nil {
		return nil
	}
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	if r.b.role.Actual != RoleSpare { // since it was claimed
		return fmt.Errorf("%s is %v now: %w", r.b.cfg.Name, r.b.role.Actual, errNotNeeded)
	}
	if o.hasLeft() || o.role.Actual != RoleFull || o.state != StateFailed && o.state != StateRecovering {
		return fmt.Errorf("%s is %v: %w", o.cfg.Name, o.state, errNotNeeded)
	}
	return nil
}

// standBy makes a spare that was disabled, or that failed, ready again.
func (m *Mirror) standBy(ctx context.Context, b *backend, r *recoverRequest) error {
	ready := func(b *backend) {
		if b.role.Actual != RoleSpare { // it has another role meanwhile
			m.toBeComparedLocked(b)
			return
		}
		b.parked = false
		m.setStateLocked(b, eventStandsBy, "by an operator")
	}
	if state, _ := m.stateOf(b); state == StateDisabled {
		return m.enable(ctx, b, r, ready)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if b.state != StateDisabled { // meanwhile
		ready(b)
	}
	return nil
}
