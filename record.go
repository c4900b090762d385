package raidstorage

import (
	"context"
	"fmt"
	"slices"
)

// moveEpoch reads the record and writes it again with the next epoch, so that a
// change whose answer was lost, or that a dead predecessor sent, cannot come later.
func (m *Mirror) moveEpoch(ctx context.Context, reason string) error {
	record, err := m.loadRecord(ctx)
	if err != nil {
		return err
	}
	next := record.next(m.now(), reason)
	if next.Lock != nil && !m.packHasCut { // the reply to its cut, or to its end, was lost
		next.Lock, next.Unfinished = nil, nil
	}
	// If the change was one of the configuration, it has not come into force.
	m.mu.Lock()
	for _, b := range m.backends {
		if name := b.cfg.Name; b.state == StateDisabled && !slices.Contains(next.Disabled, name) {
			next.Disabled = append(next.Disabled, name)
		}
	}
	m.mu.Unlock()
	next.fit(m.backends, nil)
	if err := m.setRecord(ctx, next); err != nil {
		return err
	}
	m.adopt(reason)
	return nil
}

// loadRecord reads the record, within the register's deadline.
func (m *Mirror) loadRecord(ctx context.Context) (Membership, error) {
	ctx, cancel := context.WithTimeout(ctx, m.tuned().Timeouts.Register)
	defer cancel()
	record, err := m.register.Load(ctx)
	if err != nil {
		return Membership{}, fmt.Errorf("membership record: %w", err)
	}
	return record, nil
}

// adopt makes the states agree with a record that was read: a change whose answer
// was lost may have taken backends out.
func (m *Mirror) adopt(reason string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range m.backends {
		if slices.Contains(m.record.InSync, b.cfg.Name) || b.state != StateInSync && b.state != StateSuspect {
			continue
		}
		if b.session != nil {
			b.session.dead.Store(true)
		}
		event := eventDropped
		if slices.Contains(m.record.Disabled, b.cfg.Name) {
			event = eventDisabled
		}
		m.setStateLocked(b, event, cmpOr(b.reason, reason))
		b.wake()
	}
	m.publishLocked(m.view.Load().last)
}

// setRecord stores next and relies on it only when that is certain.
func (m *Mirror) setRecord(ctx context.Context, next Membership) error {
	ctx, cancel := context.WithTimeout(ctx, m.tuned().Timeouts.Register)
	defer cancel()
	if err := m.register.CompareAndSet(ctx, next); err != nil {
		// It may have been stored, or be stored later (M4).
		m.epochLost = true
		m.inDoubtFor(fmt.Errorf("membership record: %w", err))
		return m.unresolved
	}
	m.epochLost = false
	m.record = next
	m.uneven.Store(next.uneven())
	m.horizon.Store(uint64(next.PackHorizon))
	m.mu.Lock()
	m.shown = next
	e := Event{Kind: EventMembership, Time: next.Time, Reason: next.Reason, Epoch: next.Epoch,
		InSync: slices.Clone(next.InSync), Condition: m.conditionLocked()}
	m.mu.Unlock()
	m.tell(e)
	return nil
}

// removeFromRecord drops sessions' backends from the record.
func (m *Mirror) removeFromRecord(ctx context.Context, sessions []*session, reason string) error {
	backends := make([]*backend, len(sessions))
	for i, s := range sessions {
		backends[i] = s.b
	}
	return m.removeBackends(ctx, backends, reason)
}

// removeBackends drops backends from the record, then tells. The caller has made
// sure that enough stay.
func (m *Mirror) removeBackends(ctx context.Context, backends []*backend, reason string) error {
	next := m.record.next(m.now(), reason)
	next.InSync = slices.DeleteFunc(next.InSync, func(name string) bool {
		return slices.ContainsFunc(backends, func(b *backend) bool { return b.cfg.Name == name })
	})
	if len(next.InSync) == 0 { // M3; the callers' counts exclude it
		return &UnavailableError{InSync: 0, Need: 1}
	}
	if err := m.setRecord(ctx, next); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range backends {
		if b.session != nil {
			b.session.dead.Store(true)
		}
		m.setStateLocked(b, eventDropped, cmpOr(b.reason, reason))
		b.wake()
	}
	m.publishLocked(m.view.Load().last)
	return nil
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
