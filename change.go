package raidstorage

// A change of the configuration while the mirror runs. It is refused as a whole, or
// made as a whole, in this order:
//
//	alone    no pack, recovery or verification runs beside it (V6)
//	slot     the commit slot is held: no transaction is between vote and finish, so
//	         each one goes by one quorum and one set of backends
//	settle   what is in doubt is resolved
//	check    those in sync that stay answer under their commit locks, are equal, and
//	         are as many as the new quorums ask for (C4, M2)
//	record   one compare-and-set: who leaves or is replaced leaves the in-sync set, the
//	         new ones are members, and not in sync (S4)
//	apply    in memory, where nothing can fail: the quorums, the backends, the readers'
//	         view; then the storages of those that left are closed
//
// A new backend starts as failed and comes in by an ordinary recovery, which compares it
// as a whole (Membership.New): nothing that it holds is trusted, whatever its name.
//
// Crash points. Before the record was written nothing has happened: the old
// configuration opens as ever, and with the new one those not in sync by the record are
// recovered, as at any start with an edited configuration. After it those that leave are
// not in sync: with the new configuration the rest opens; with the old one the rest opens
// too, and what had left is recovered, unless none of those in sync is what the record says
// (Backend.Identity): then it is refused. If the answer to the compare-and-set is lost the
// old configuration stays in force: the old record is written again, which also keeps the
// lost one from coming later. If that fails as well, moveEpoch makes the record fit when
// the register is back: a backend that it does not call in sync any more is recovered.

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Change is a configuration for Mirror.Change: everything that may be changed while a
// mirror runs, as in Config, with the same defaults. Mirror.Settings is the present one.
type Change struct {
	// Backends are all members afterwards, in order. One whose Open is nil stays, with
	// this Bandwidth, and with the role that it has if this Role is the one that it is
	// configured as; another Role is what it is from then on. One with an Open is new; if
	// there is one of its name it is replaced.
	Backends                 []Backend
	WriteQuorum, StartQuorum int
	ReadPolicy               ReadPolicy
	// Timeouts hold for what begins afterwards.
	Timeouts Timeouts
	// NoWait refuses with *BusyError instead of waiting for a pack, a recovery of a
	// backend that stays, a verification or another change to end.
	NoWait bool
}

// Settings returns what is in force, with all defaults filled in, as a Change that
// changes nothing.
func (m *Mirror) Settings() Change {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.settingsLocked()
}

func (m *Mirror) settingsLocked() Change {
	t := m.tuned()
	c := Change{WriteQuorum: t.WriteQuorum, StartQuorum: t.StartQuorum, ReadPolicy: t.ReadPolicy, Timeouts: t.Timeouts}
	for _, b := range m.backends {
		c.Backends = append(c.Backends, Backend{Name: b.cfg.Name, Role: b.role.Configured, Bandwidth: b.bandwidth})
	}
	return c
}

// Plan tells what Change would change, and whether it would be refused now: errors as
// of Change. It does nothing.
func (m *Mirror) Plan(c Change) (Difference, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return Difference{}, ErrClosed
	}
	p, err := m.planLocked(c)
	if err != nil {
		return Difference{}, err
	}
	return p.diff, m.checkLocked(p)
}

// Change puts c in force, as a whole or not at all: after an error the configuration is
// the old one. It waits for packs, recoveries and verifications to end, and they for it,
// unless c.NoWait is set; a recovery of a backend that leaves is cancelled. A new
// backend, or one whose storage is replaced, counts only when it has been recovered,
// which AutoRecover sees to, or Recover. *InvalidError says what is wrong with c,
// *UnavailableError that fewer backends would stay in sync than the new quorums ask for
// - a change that takes none out and raises no quorum is not refused for that - or that
// the register does not answer; *BusyError, *ContradictionError while commits are
// stopped.
func (m *Mirror) Change(ctx context.Context, c Change) error {
	return m.change(ctx, c.NoWait, func(Change) (Change, error) { return c, nil })
}

// Add adds a backend, as the last one, and leaves the quorums as they are. Errors as of
// Change.
func (m *Mirror) Add(ctx context.Context, b Backend) error {
	return m.change(ctx, false, func(c Change) (Change, error) {
		if slices.ContainsFunc(c.Backends, func(o Backend) bool { return o.Name == b.Name }) {
			return c, &InvalidError{Op: "add", Reason: fmt.Sprintf("there is a backend %q", b.Name)}
		}
		c.Backends = append(c.Backends, b)
		return c, nil
	})
}

// Remove takes a backend out and closes its storage. It leaves the quorums as they are.
// Errors as of Change.
func (m *Mirror) Remove(ctx context.Context, name string) error {
	return m.change(ctx, false, func(c Change) (Change, error) {
		i, err := c.find("remove", name)
		if err == nil {
			c.Backends = slices.Delete(c.Backends, i, i+1)
		}
		return c, err
	})
}

// Replace takes a backend out, closes its storage, and puts b in its place, whose name
// may be the same; an empty one means that. Errors as of Change.
func (m *Mirror) Replace(ctx context.Context, name string, b Backend) error {
	fill(&b.Name, name)
	return m.change(ctx, false, func(c Change) (Change, error) {
		i, err := c.find("replace", name)
		if err == nil && b.Open == nil {
			err = &InvalidError{Op: "replace", Reason: fmt.Sprintf("backend %q has no Open", b.Name)}
		}
		if err == nil {
			c.Backends[i] = b
		}
		return c, err
	})
}

// SetQuorum changes the quorums; 0 means the default. Errors as of Change.
func (m *Mirror) SetQuorum(ctx context.Context, write, start int) error {
	return m.change(ctx, false, func(c Change) (Change, error) {
		c.WriteQuorum, c.StartQuorum = write, start
		return c, nil
	})
}

// SetReadPolicy changes which backend reads are served from. Errors as of Change.
func (m *Mirror) SetReadPolicy(ctx context.Context, policy ReadPolicy) error {
	return m.change(ctx, false, func(c Change) (Change, error) {
		c.ReadPolicy = policy
		return c, nil
	})
}

// find returns the index of a backend.
func (c Change) find(op, name string) (int, error) {
	i := slices.IndexFunc(c.Backends, func(b Backend) bool { return b.Name == name })
	if i < 0 {
		return 0, &InvalidError{Op: op, Reason: fmt.Sprintf("there is no backend %q", name)}
	}
	return i, nil
}

// change carries out what edit makes of the settings in force. edit is called more than
// once, with mu held.
func (m *Mirror) change(ctx context.Context, noWait bool, edit func(Change) (Change, error)) error {
	if m.view.Load().closed {
		return ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(m.ctx, cancel)()
	m.mu.Lock()
	first, err := m.editLocked(edit) // what is invalid need not wait
	m.mu.Unlock()
	if err != nil {
		return err
	}
	gone, err := m.changeAlone(ctx, noWait, first, edit)
	switch {
	case m.closing():
		return ErrClosed
	case err != nil:
		m.cfg.Logger.Warn("the configuration was not changed", "difference", first.diff.String(), "err", err)
		return err
	}
	return m.awaitLeft(ctx, gone)
}

func (m *Mirror) editLocked(edit func(Change) (Change, error)) (*changePlan, error) {
	c, err := edit(m.settingsLocked())
	if err != nil {
		return nil, err
	}
	return m.planLocked(c)
}

// changeAlone makes the change when nothing runs that it excludes, and returns those
// that have left.
func (m *Mirror) changeAlone(ctx context.Context, noWait bool, first *changePlan, edit func(Change) (Change, error)) ([]*backend, error) {
	if err := m.exclusion.beginChange(ctx, m, noWait, first.gone); err != nil {
		return nil, err
	}
	defer m.exclusion.endChange(m)
	if err := m.lockCommit(ctx); err != nil {
		return nil, err
	}
	defer m.unlockCommit()
	m.mu.Lock()
	p, err := m.editLocked(edit)
	stopped := m.stopped
	m.mu.Unlock()
	switch {
	case err != nil:
		return nil, err
	case p.diff.Empty():
		return nil, nil
	case stopped != nil:
		return nil, stopped
	}
	old := m.tuned()
	if err := m.decideChange(ctx, p); err != nil {
		m.tuning.Store(old)
		return nil, err
	}
	m.applyChange(p)
	return p.gone, nil
}

// decideChange goes as far as the record. The commit slot is held.
func (m *Mirror) decideChange(ctx context.Context, p *changePlan) error {
	old := m.tuned()
	need, _ := p.need(old)
	if m.unresolved != nil || !m.covers(m.view.Load()) {
		// A lower StartQuorum is the way out of too few; here it must hold already.
		if p.tuning.StartQuorum < old.StartQuorum && m.liveStaying(p) >= need {
			lower := *old
			lower.StartQuorum = p.tuning.StartQuorum
			m.tuning.Store(&lower)
		}
		if err := m.resolve(ctx); err != nil {
			return err
		}
	}
	m.mu.Lock()
	p.leaving(m.record) // it may have turned out to name others
	err := m.checkLocked(p)
	m.mu.Unlock()
	if err != nil {
		return err
	}
	if _, look := p.need(old); look {
		if err := m.checkStaying(ctx, p.ceases(), need); err != nil {
			if few, ok := err.(*UnavailableError); ok {
				return tooFew(p, few.InSync, few.Need, few.Err)
			}
			return err
		}
	}
	if !p.diff.members() {
		return ctx.Err()
	}
	ctx = context.WithoutCancel(ctx)
	next := p.record(m.record, m.now())
	return m.changeRecord(ctx, next)
}

// takeBack writes the record as it was before next, which may have been stored or not.
// The commit slot has been held since, so nothing was committed, and who was in sync is.
func (m *Mirror) takeBack(ctx context.Context, next Membership) error {
	stored, err := m.loadRecord(ctx)
	if err != nil {
		return err
	}
	back := m.record.next(m.now(), "taken back, as it was not confirmed: "+next.Reason)
	if stored.Epoch != m.record.Epoch {
		if stored.Epoch != next.Epoch || stored.Reason != next.Reason || !stored.Time.Equal(next.Time) {
			return &EpochError{Want: next.Epoch, Have: stored.Epoch}
		}
		back.Epoch = next.Epoch + 1
	}
	return m.setRecord(ctx, back)
}

// liveStaying counts the backends of the record that stay and can be asked.
func (m *Mirror) liveStaying(p *changePlan) int {
	live, _ := m.members()
	ceases := p.ceases()
	return len(slices.DeleteFunc(live, func(s *session) bool { return slices.Contains(ceases, s.b) }))
}

// record returns the record that says what p changes.
func (p *changePlan) record(now Membership, t time.Time) Membership {
	next := now.next(t, "change: "+p.diff.String())
	gone := func(name string) bool {
		return slices.ContainsFunc(p.gone, func(b *backend) bool { return b.cfg.Name == name })
	}
	for _, list := range []*[]string{&next.Members, &next.InSync, &next.Disabled, &next.Unpacked, &next.Damaged, &next.New} {
		*list = slices.DeleteFunc(*list, gone)
	}
	next.fit(p.backends, p.roles)
	return next
}

// applyChange puts in force what the record says. The commit slot is held.
func (m *Mirror) applyChange(p *changePlan) {
	m.mu.Lock()
	m.backends = p.backends
	m.tuning.Store(p.tuning)
	for _, b := range p.gone {
		if b.session != nil {
			b.session.dead.Store(true) // its supervisor closes it
		}
		m.setStateLocked(b, eventDisabled, "it was taken out of the mirror")
		if b.cancelRecovery != nil {
			b.cancelRecovery()
		}
		close(b.left)
	}
	for b, role := range p.roles {
		m.setRoleLocked(b, role, fmt.Sprintf("its role is %v now", role.Actual))
	}
	for b, rate := range p.rates {
		b.bandwidth = rate
	}
	m.publishLocked(m.view.Load().last)
	m.tell(Event{Kind: EventChange, Time: m.now(), Reason: p.diff.String(), Epoch: m.record.Epoch,
		InSync: slices.Clone(m.record.InSync), Condition: m.conditionLocked()})
	m.mu.Unlock()
	for _, b := range p.gone {
		m.run(b.closedAtLast(m))
	}
	for _, b := range p.fresh {
		m.run(b.supervised(m))
	}
}

// closedAtLast closes the storage of one that left if its supervisor did not see that,
// having ended with the mirror while the record was written: Close does not know it.
func (b *backend) closedAtLast(m *Mirror) func() {
	return func() {
		<-b.ended
		m.closeBackend(b)
	}
}

// awaitLeft waits until the storages of those that left are closed. The change is in
// force: one that hangs is told to the log.
func (m *Mirror) awaitLeft(ctx context.Context, gone []*backend) error {
	timer := time.NewTimer(2 * m.tuned().Timeouts.Open)
	defer timer.Stop()
	for _, b := range gone {
		select {
		case <-b.ended:
			continue
		case <-timer.C:
		case <-ctx.Done():
		}
		m.cfg.Logger.Warn("the storage of a backend that was taken out is not closed yet", "backend", b.cfg.Name)
		return nil
	}
	return nil
}
