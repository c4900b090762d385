package raidstorage

import (
	"context"
	"slices"
)

// spare keeps b, which is not needed, closed.
func (m *Mirror) spare(b *backend) error {
	m.mu.Lock()
	if b.role.Actual == RoleSpare && b.state == StateFailed && !b.parked {
		m.setStateLocked(b, eventStandsBy, "it is not needed")
	}
	m.mu.Unlock()
	return m.closeBackend(b)
}

// standBy makes a spare that was disabled, or that failed, ready again.
func (m *Mirror) standBy(ctx context.Context, b *backend) error {
	if state, _ := m.stateOf(b); state == StateDisabled {
		if err := m.enable(ctx, b); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	b.parked = false
	m.setStateLocked(b, eventStandsBy, "by an operator")
	return nil
}

// enable takes out of the record that b is disabled.
func (m *Mirror) enable(ctx context.Context, b *backend) error {
	return m.amend(ctx, b, b.cfg.Name+" is not disabled any more", func(next *Membership, is func(string) bool) {
		next.Disabled = slices.DeleteFunc(next.Disabled, is)
	})
}
