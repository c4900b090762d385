package raidstorage

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// StartError says why a mirror refuses to start.
type StartError struct {
	Membership Membership        // the record
	Backends   map[string]string // by backend: what keeps it from being used
	Hint       string
}

func (e *StartError) Error() string {
	names := make([]string, 0, len(e.Backends))
	for name := range e.Backends {
		names = append(names, name)
	}
	slices.Sort(names)
	lines := make([]string, len(names))
	for i, name := range names {
		lines[i] = name + ": " + e.Backends[name]
	}
	msg := "the mirror cannot start: " + strings.Join(lines, "; ")
	if e.Hint != "" {
		msg += "; " + e.Hint
	}
	return msg
}

// forceHint tells an operator the way out.
const forceHint = "bring back a backend that is in sync, or name the backends to trust in Force, " +
	"which gives up the transactions that only the others hold"

// start opens the backends and decides which are whole (replication.md, S1-S4).
// Nothing runs beside it but the sessions' workers.
func (m *Mirror) start(ctx context.Context) error {
	if err := m.lockCommit(ctx); err != nil {
		return err
	}
	defer m.unlockCommit()
	record, err := m.loadRecord(ctx)
	if err != nil {
		return err
	}
	m.record = record
	m.assumeRoles(record)
	from, err := m.reserve(ctx, Marks{}, Marks{})
	if err != nil {
		return fmt.Errorf("membership record: %w", err)
	}
	m.tids.last, m.tids.mark = from.TID, from.TID
	m.oids.raise(from.OID)
	m.openAll(ctx)
	if record.Epoch == 0 {
		err = m.firstStart(ctx)
	} else {
		err = m.restart(ctx)
	}
	if err != nil {
		return err
	}
	m.failRest()
	m.started = true
	return nil
}

// openAll opens the full backends at once, and those that Force names; who cannot be
// opened keeps the reason. Nobody waits for the others.
func (m *Mirror) openAll(ctx context.Context) {
	var wg sync.WaitGroup
	for _, b := range m.backends {
		if b.role.Actual != RoleFull && !slices.Contains(m.cfg.Force, b.cfg.Name) {
			continue
		}
		wg.Go(func() {
			s, err := m.open(ctx, b)
			m.mu.Lock()
			defer m.mu.Unlock()
			if b.session = s; err != nil {
				b.reason = err.Error()
				b.faults.Add(1)
			}
		})
	}
	wg.Wait()
}

// restart goes by the record, or, where that is refused, by what the operator forces.
func (m *Mirror) restart(ctx context.Context) error {
	next := m.record.next(m.now(), "start")
	err := m.distrust(ctx, &next)
	if err == nil {
		err = m.restartFrom(ctx, next)
	}
	if !isA[*StartError](err) || len(m.cfg.Force) == 0 {
		return err
	}
	forced, refused := m.forced(err)
	if refused != nil {
		return refused
	}
	m.cfg.Logger.Warn("start is forced", "trusted", forced.InSync, "in_sync", m.record.InSync, "epoch", forced.Epoch, "err", err)
	return m.restartFrom(ctx, forced)
}

// restartFrom writes next, makes its backends equal and serves them.
func (m *Mirror) restartFrom(ctx context.Context, next Membership) error {
	names := m.names()
	if l := next.Lock; l != nil { // this front-end is alone, so its holder is dead
		m.cfg.Logger.Warn("a pack was interrupted", "holder", l.Holder, "reason", l.Reason, "since", l.Since,
			"made_again", m.cfg.AutoRecover == AutoRecoverOn)
		next.Reason += fmt.Sprintf("; %s by %s since %s was interrupted", l.Reason, l.Holder, l.Since.Format(time.RFC3339))
		next.Lock = nil
	}
	// A backend that is not configured any more takes no part in commits, so the
	// record must not call it in sync.
	floor, before := m.floor(), len(next.InSync)
	next.InSync = slices.DeleteFunc(next.InSync, func(name string) bool { return !slices.Contains(names, name) })
	next.fit(m.backends, nil)
	if len(next.InSync) == 0 || len(next.InSync) < floor && len(next.InSync) < before {
		return m.startError(ctx, &UnavailableError{InSync: len(next.InSync), Need: floor})
	}
	// F3: a change that the predecessor sent must not arrive after this.
	if err := m.setRecord(ctx, next); err != nil {
		return err
	}
	if err := m.resolve(ctx); err != nil {
		return m.startError(ctx, err)
	}
	return nil
}

// distrust takes those out of next.InSync whose storage is another one than the record
// knows. If none stays, it takes an operator to say that the database has moved (Force):
// names that were exchanged, or a configuration from before a change, look the same.
func (m *Mirror) distrust(ctx context.Context, next *Membership) error {
	var strangers []string
	for _, b := range m.backends {
		if name := b.cfg.Name; slices.Contains(next.InSync, name) && m.exchanged(b) {
			strangers = append(strangers, name)
			next.Reason += fmt.Sprintf("; %s is %s, and was %s", name, b.cfg.Identity, m.record.Identities[name])
		}
	}
	if len(strangers) == 0 {
		return nil
	}
	m.cfg.Logger.Warn("backends have other storages than the record knows", "backends", strangers, "reason", next.Reason)
	next.InSync = slices.DeleteFunc(next.InSync, func(name string) bool { return slices.Contains(strangers, name) })
	next.New = append(next.New, strangers...)
	if need := m.floor(); len(next.InSync) < need {
		return m.startError(ctx, &UnavailableError{InSync: len(next.InSync), Need: need,
			Err: fmt.Errorf("other storages than the record knows: %s", next.Reason)})
	}
	return nil
}

// exchanged tells whether b has another storage than the record knows.
func (m *Mirror) exchanged(b *backend) bool {
	known := m.record.Identities[b.cfg.Name]
	return known != "" && b.cfg.Identity != "" && known != b.cfg.Identity
}

// forced returns the record that Force asks for, provided that those backends can
// be reached: what a forced start overwrites cannot be had back.
func (m *Mirror) forced(cause error) (Membership, error) {
	next := m.record.next(m.now(), fmt.Sprintf("start, forced by the operator to trust %s; in sync before: %s",
		strings.Join(m.cfg.Force, ", "), strings.Join(m.record.InSync, ", ")))
	next.InSync = slices.Compact(slices.Sorted(slices.Values(m.cfg.Force)))
	next.Disabled = slices.DeleteFunc(next.Disabled, func(name string) bool { return slices.Contains(next.InSync, name) })
	for _, b := range m.backends {
		if slices.Contains(next.InSync, b.cfg.Name) && (b.session == nil || b.session.dead.Load()) {
			return next, fmt.Errorf("the start cannot be forced without backend %s, which failed: %s: %w", b.cfg.Name, b.reason, cause)
		}
	}
	m.promoteForced()
	return next, nil
}

// promoteForced makes those that Force names full: an asynchronous copy may be all that
// is left.
func (m *Mirror) promoteForced() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range m.backends {
		if slices.Contains(m.cfg.Force, b.cfg.Name) {
			b.role.Actual = RoleFull
		}
	}
}

func (m *Mirror) names() []string {
	names := make([]string, len(m.backends))
	for i, b := range m.backends {
		names[i] = b.cfg.Name
	}
	return names
}

// startError says of each backend what it lacks.
func (m *Mirror) startError(ctx context.Context, cause error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	e := &StartError{Membership: m.record, Backends: make(map[string]string), Hint: forceHint}
	for _, name := range m.record.InSync {
		e.Backends[name] = "in sync by the record, but not configured"
	}
	for _, b := range m.backends {
		m.mu.Lock()
		s, reason := b.session, b.reason
		m.mu.Unlock()
		inSync := slices.Contains(m.record.InSync, b.cfg.Name)
		switch {
		case b.role.Actual != RoleFull && inSync:
			e.Backends[b.cfg.Name] = fmt.Sprintf("in sync by the record, and now configured as %v", b.role.Actual)
		case b.role.Actual != RoleFull:
			e.Backends[b.cfg.Name] = fmt.Sprintf("%v, so that it is not in sync and may lack acknowledged transactions", b.role.Actual)
		case inSync && m.exchanged(b):
			e.Backends[b.cfg.Name] = fmt.Sprintf("in sync by the record, which knows it as %s, and now is %s", m.record.Identities[b.cfg.Name], b.cfg.Identity)
		case inSync && (s == nil || s.dead.Load()):
			e.Backends[b.cfg.Name] = "in sync by the record, but failed: " + reason
		case inSync:
			e.Backends[b.cfg.Name] = "in sync by the record, and reachable"
		case s == nil:
			e.Backends[b.cfg.Name] = fmt.Sprintf("not in sync since before epoch %d, and failed: %s", m.record.Epoch, reason)
		default:
			ends := "its log cannot be read"
			if last, err := s.timely.LastTID(ctx); err == nil {
				ends = fmt.Sprintf("its log ends at %v", last)
			}
			e.Backends[b.cfg.Name] = fmt.Sprintf("reachable, but not in sync: %s and may lack acknowledged transactions (record: %s)",
				ends, m.record.Reason)
		}
	}
	return fmt.Errorf("%w (%w)", e, cause)
}

// firstStart makes the first record (S3): all full backends are there, and those that
// are not equal to the newest are a beginning of it.
func (m *Mirror) firstStart(ctx context.Context) error {
	unreachable := make(map[string]string)
	m.promoteForced()
	for _, b := range m.full() {
		if b.session == nil && !m.notForced(b) {
			unreachable[b.cfg.Name] = b.reason
		}
	}
	source, err := m.newest(ctx)
	if err != nil {
		return err
	}
	if len(unreachable) > 0 || source == nil {
		return &StartError{Backends: unreachable,
			Hint: "at the first start all backends must be reachable; or name the one to start from in Force"}
	}
	next := Membership{Mirror: newMirrorID()}.next(m.now(), "first start")
	next.Members = m.names() // none of them is new: they are compared here
	next.fit(m.backends, nil)
	equal := make([]bool, len(m.backends))
	group, groupCtx := errgroup.WithContext(ctx)
	for i, b := range m.backends {
		if b.session != nil && b.role.Actual == RoleFull {
			group.Go(func() (err error) {
				equal[i], err = m.equalToSource(groupCtx, b.session, source)
				return err
			})
		}
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for i, b := range m.backends {
		if equal[i] {
			next.InSync = append(next.InSync, b.cfg.Name)
		}
	}
	if err := m.setRecord(ctx, next); err != nil {
		return err
	}
	if err := m.resolve(ctx); err != nil {
		return m.startError(ctx, err)
	}
	return nil
}

// notForced tells whether Force names others than b.
func (m *Mirror) notForced(b *backend) bool {
	return len(m.cfg.Force) > 0 && !slices.Contains(m.cfg.Force, b.cfg.Name)
}

// newest returns the backend to start from: the one with the greatest last tid, of
// those that Force names if it names any.
func (m *Mirror) newest(ctx context.Context) (*session, error) {
	var source *session
	var newest TID
	for _, b := range m.full() {
		if m.notForced(b) || b.session == nil {
			continue
		}
		last, err := b.session.timely.LastTID(ctx)
		if err != nil {
			return nil, &BackendError{Backend: b.cfg.Name, Op: "last tid", Err: err}
		}
		if source == nil || last > newest {
			source, newest = b.session, last
		}
	}
	return source, nil
}

// equalToSource tells whether s holds the same log as source. A shorter one that is
// a beginning of it is not equal, and no error; with Force anything goes, since a
// recovery will look again.
func (m *Mirror) equalToSource(ctx context.Context, s, source *session) (bool, error) {
	if s == source {
		return true, nil
	}
	end, err := source.timely.LastTID(ctx)
	if err != nil {
		return false, &BackendError{Backend: source.b.cfg.Name, Op: "last tid", Err: err}
	}
	c, err := lastCommon(ctx, s.timely, source.timely, end, false)
	if err != nil {
		return false, &BackendError{Backend: s.b.cfg.Name, Op: "compare", Err: err}
	}
	if c.extra > 0 {
		if m.notForced(s.b) {
			return false, nil
		}
		return false, &DivergedError{Backend: s.b.cfg.Name, Common: c.last, First: c.first,
			Hint: "name the backend to start from in Force, or configure an empty one"}
	}
	if c.shared == 0 && !c.empty && c.last != 0 {
		return false, &DivergedError{Backend: s.b.cfg.Name, First: c.last,
			Hint: "a pack has left nothing that it has in common with the newest; configure an empty one"}
	}
	// Packed apart: a recovery will compare their objects (V1).
	if c.targetHorizon != c.sourceHorizon || !m.sameSize(ctx, s, source) {
		return false, nil
	}
	return c.first == 0 && !m.notForced(s.b), nil
}

// sameSize tells whether two storages have the same number of objects, as far as they
// know.
func (m *Mirror) sameSize(ctx context.Context, sessions ...*session) bool {
	var counts []int64
	for _, s := range sessions {
		if sizer, err := Can[Sizer](s.storage); err == nil {
			if n, err := within(ctx, m.tuned().Timeouts.Read, func(ctx context.Context) (int64, error) {
				n, _, err := sizer.Size(ctx)
				return n, err
			}); err == nil {
				counts = append(counts, n)
			}
		}
	}
	return len(counts) < len(sessions) || slices.Min(counts) == slices.Max(counts)
}

// failRest gives every backend that the record does not name its state and reason.
func (m *Mirror) failRest() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range m.backends {
		if slices.Contains(m.record.Disabled, b.cfg.Name) {
			b.state, b.reason = StateDisabled, "disabled by an operator before the start"
		} else if b.role.Actual == RoleSpare {
			b.state, b.reason = StateStandby, ""
		} else if b.role.Actual == RoleAsync {
			b.reason = "not reached yet"
		} else if b.state == StateFailed && b.session != nil {
			b.reason = "not in sync: it lacks transactions, or the record does not name it"
		}
		b.since = m.now()
	}
}
