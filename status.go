package raidstorage

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Status is what an operator wants to know of a mirror, at one moment.
type Status struct {
	Name        string          `json:"name"`
	Condition   Condition       `json:"condition"`
	Reason      string          `json:"reason,omitempty"` // why not optimal
	LastTID     TID             `json:"last_tid"`         // the last acknowledged transaction
	WriteQuorum int             `json:"write_quorum"`
	Membership  Membership      `json:"membership"`
	Backends    []BackendStatus `json:"backends"`       // in configured order
	Pack        *PackProgress   `json:"pack,omitempty"` // nil: none is going on
	CatchUp     CatchUpStatus   `json:"catch_up"`
	Scrub       *ScrubStatus    `json:"scrub,omitempty"` // nil: it is off
}

// BackendStatus is the part of a Status about one backend.
type BackendStatus struct {
	Name string `json:"name"`
	// Role is what it is, Configured what it was configured as.
	Role       Role      `json:"role"`
	Configured Role      `json:"configured_role"`
	State      State     `json:"state"`
	Reason     string    `json:"reason,omitempty"` // why it is not in sync
	Since      time.Time `json:"since"`
	LastTID    TID       `json:"last_tid"` // the last transaction that it is known to hold
	// LagTransactions counts the commits since it dropped out, in this process, or the
	// transactions that one which follows still lacks, and LagBytes about how many bytes
	// those are; -1 where that is not known. Lag is the time between its last transaction
	// and the mirror's.
	LagTransactions int64             `json:"lag_transactions"`
	LagBytes        int64             `json:"lag_bytes"`
	Lag             time.Duration     `json:"lag_ns"`
	Counters        Counters          `json:"counters"`
	Latency         time.Duration     `json:"latency_ns"` // of recent reads, smoothed; 0 when not known
	Recovery        *RecoveryProgress `json:"recovery,omitempty"`
	History         []Event           `json:"history"` // its latest state changes and repairs, oldest first
}

// Counters count what a backend did since the mirror was opened.
type Counters struct {
	Loads      int64 `json:"loads"`
	LoadErrors int64 `json:"load_errors"`
	Commits    int64 `json:"commits"`
	Faults     int64 `json:"faults"`
	Repairs    int64 `json:"repairs"` // of records and blobs, by verifications
}

// EventKind says what an Event tells of.
type EventKind string

const (
	// EventState is a backend's change of state.
	EventState EventKind = "state"
	// EventMembership is a change of the membership record.
	EventMembership EventKind = "membership"
	// EventRecovery is the progress of a recovery.
	EventRecovery EventKind = "recovery"
	// EventPack is the progress of a pack.
	EventPack EventKind = "pack"
	// EventChange is a change of the configuration, by Change; Reason is the difference.
	EventChange EventKind = "change"
	// EventCatchUp tells that commits begin to wait for a recovery, or cease to.
	EventCatchUp EventKind = "catch_up"
	// EventScrub is the end of a verification in the background.
	EventScrub EventKind = "scrub"
	// EventRepair tells that a verification put right what a backend held; Reason is what.
	EventRepair EventKind = "repair"
)

// Event is something that happened to a mirror. Events are the only source of the
// log, of Watch and of the histories in Status.
type Event struct {
	Kind      EventKind         `json:"kind"`
	Time      time.Time         `json:"time"`
	Condition Condition         `json:"condition"` // of the mirror afterwards
	Backend   string            `json:"backend,omitempty"`
	From      State             `json:"from"`
	To        State             `json:"to"`
	Reason    string            `json:"reason,omitempty"`
	Epoch     uint64            `json:"epoch,omitempty"`
	InSync    []string          `json:"in_sync,omitempty"`
	Recovery  *RecoveryProgress `json:"recovery,omitempty"`
	Pack      *PackProgress     `json:"pack,omitempty"`
	CatchUp   *CatchUpStatus    `json:"catch_up,omitempty"`
	Scrub     *VerifyReport     `json:"scrub,omitempty"`
	// Missed counts the events before this one that a slow watcher did not get.
	Missed int `json:"missed,omitempty"`
}

// String tells the event in one line.
func (e Event) String() string {
	switch e.Kind {
	case EventMembership:
		return fmt.Sprintf("membership epoch %d: in sync %v (%s)", e.Epoch, e.InSync, e.Reason)
	case EventRecovery:
		return fmt.Sprintf("backend %s: %v", e.Backend, e.Recovery)
	case EventPack:
		return e.Pack.String()
	case EventChange:
		return "configuration changed: " + e.Reason
	case EventCatchUp:
		return e.CatchUp.String()
	case EventRepair:
		return e.Reason
	case EventScrub:
		return fmt.Sprintf("backends %v were compared: %d findings", e.Scrub.Backends, e.Scrub.Findings)
	}
	return fmt.Sprintf("backend %s: %v -> %v (%s)", e.Backend, e.From, e.To, e.Reason)
}

// log writes the event. A backend that leaves is a warning, the rest information;
// progress is for watchers only.
func (e Event) log(l *slog.Logger) {
	switch e.Kind {
	case EventMembership:
		l.Info("membership changed", "epoch", e.Epoch, "in_sync", e.InSync, "reason", e.Reason)
	case EventChange:
		l.Info("configuration changed", "difference", e.Reason, "mirror", e.Condition.String())
	case EventCatchUp:
		l.Info("catching up", "backend", e.Backend, "reason", e.CatchUp.String())
	case EventRepair:
		l.Warn("a backend was repaired", "backend", e.Backend, "reason", e.Reason)
	case EventScrub:
		logScrub(l, e.Scrub)
	case EventState:
		level := slog.LevelInfo
		if e.From == StateInSync {
			level = slog.LevelWarn
		}
		l.Log(context.Background(), level, "backend changed state", "backend", e.Backend,
			"from", e.From.String(), "state", e.To.String(), "reason", e.Reason, "mirror", e.Condition.String())
	}
}

// watcherBuffer is how many events a watcher may be behind before it misses some.
const watcherBuffer = 256

// watchers hands events to those who called Watch. Sending never waits.
type watchers struct {
	mu   sync.Mutex // guards the fields below
	all  map[chan Event]int
	done bool
}

func (w *watchers) add(ctx context.Context) <-chan Event {
	ch := make(chan Event, watcherBuffer)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done || ctx.Err() != nil {
		close(ch)
		return ch
	}
	if w.all == nil {
		w.all = make(map[chan Event]int)
	}
	w.all[ch] = 0
	context.AfterFunc(ctx, func() { w.remove(ch) })
	return ch
}

func (w *watchers) remove(ch chan Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.all[ch]; ok {
		delete(w.all, ch)
		close(ch)
	}
}

func (w *watchers) send(e Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for ch, missed := range w.all {
		e.Missed = missed
		select {
		case ch <- e:
			w.all[ch] = 0
		default:
			w.all[ch]++
		}
	}
}

func (w *watchers) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done = true
	for ch := range w.all {
		close(ch)
	}
	w.all = nil
}

// Watch returns a channel of all events from now on. It is closed when ctx ends or
// the mirror closes. A watcher that is more than a few hundred events behind
// misses some, and is told how many.
func (m *Mirror) Watch(ctx context.Context) <-chan Event { return m.watchers.add(ctx) }

// Status returns the state of the mirror and its backends.
func (m *Mirror) Status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	last := m.view.Load().last
	s := Status{
		Name:        m.cfg.Name,
		Condition:   m.conditionLocked(),
		LastTID:     last,
		WriteQuorum: m.tuned().WriteQuorum,
		Membership:  m.shown.next(m.shown.Time, m.shown.Reason), // a copy that shares nothing
	}
	s.Membership.Epoch = m.shown.Epoch
	s.Membership.Joining = m.shown.Joining
	s.Pack = m.exclusion.pack
	s.CatchUp = m.catchUpStatusLocked()
	s.Scrub = m.scrubStatusLocked()
	if m.stopped != nil {
		s.Reason = m.stopped.Error()
	}
	for _, b := range m.backends {
		bs := m.statusOfLocked(b, last)
		if bs.Reason != "" && m.stopped == nil && bs.Role == RoleFull {
			if s.Reason != "" {
				s.Reason += "; "
			}
			s.Reason += b.cfg.Name + ": " + bs.Reason
		}
		s.Backends = append(s.Backends, bs)
	}
	return s
}

func (m *Mirror) statusOfLocked(b *backend, last TID) BackendStatus {
	s := BackendStatus{
		Name: b.cfg.Name,
		Role: b.role.Actual, Configured: b.role.Configured,
		State:   b.state,
		Reason:  b.reason,
		Since:   b.since,
		LastTID: b.lastTID,
		Latency: time.Duration(b.latency.Load()),
		Counters: Counters{
			Loads:      b.loads.Load(),
			LoadErrors: b.loadErrors.Load(),
			Commits:    b.commits.Load(),
			Faults:     b.faults.Load(),
			Repairs:    b.repairs.Load(),
		},
		History: slices.Clone(b.history),
	}
	if b.state == StateInSync {
		s.LastTID = last
		return s
	}
	s.LagTransactions, s.LagBytes = -1, -1
	switch {
	case b.role.Actual == RoleAsync:
		s.LagTransactions, s.LagBytes = m.lagLocked(b, last)
	case b.droppedAt >= 0:
		s.LagTransactions = m.committed.Load() - b.droppedAt
	}
	if s.LastTID != 0 && last > s.LastTID {
		s.Lag = last.Time().Sub(s.LastTID.Time())
	}
	if b.recovery != nil {
		progress := *b.recovery
		s.Recovery = &progress
	}
	return s
}

func (m *Mirror) conditionLocked() Condition {
	var states []State
	for _, b := range m.full() {
		states = append(states, b.state)
	}
	return condition(states, m.tuned().WriteQuorum, m.stopped != nil)
}
