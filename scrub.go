package raidstorage

// The scrub is a verification in the background, again and again, blobs too, at a
// limited rate: a record that nobody reads must not rot until it is the last copy. It
// holds up nobody: it gives way to packs, recoveries and changes of the configuration
// at once, and goes on afterwards where it was. With Config.StateDir it also goes on
// there after a restart; otherwise it begins anew. Whoever is found to be wrong is
// repaired, where that can be done, or degraded at once, as by Verify.

import (
	"context"
	"log/slog"
	"slices"
	"time"
)

// Scrub has all backends in sync compared in the background. The zero value is off.
type Scrub struct {
	// Interval is the pause between the end of one verification and the beginning of
	// the next. 0: there is none.
	Interval time.Duration
	// BytesPerSecond bounds how much is read of each backend, on an average. Default 10 MiB.
	BytesPerSecond int64
	// Repair has it repair, as Verify with VerifyOptions.Repair. By default it reports and
	// degrades only: copies that a recovery made of a damaged one are a majority, too, and a
	// person may know better.
	Repair bool
}

const (
	defaultScrubRate = 10 << 20
	// scrubFindings is how many findings a run of the scrub lists.
	scrubFindings = 100
	// scrubSaves is how often the scrub notes how far it is.
	scrubSaves = time.Minute
)

// ScrubStatus tells what the scrub does.
type ScrubStatus struct {
	Interval       time.Duration `json:"interval_ns"`
	BytesPerSecond int64         `json:"bytes_per_second"`
	Repair         bool          `json:"repair"` // Scrub.Repair
	// Running is the run under way, nil between two.
	Running *VerifyProgress `json:"running,omitempty"`
	Started time.Time       `json:"started,omitzero"` // of that run
	// Waits is for what it waits, such as "pack", "" if for nothing.
	Waits string        `json:"waits,omitempty"`
	Next  time.Time     `json:"next,omitzero"`  // when the next run begins, between two
	Last  *VerifyReport `json:"last,omitempty"` // of the last run that came to its end
	// Since the mirror was opened: the runs that ended, the bytes read of one backend,
	// the findings, and those of them that were repaired.
	Runs     int64 `json:"runs"`
	Bytes    int64 `json:"bytes"`
	Findings int64 `json:"findings"`
	Repaired int64 `json:"repaired"`
}

// scrubFile is the file of the state directory that says how far the scrub is.
const scrubFile = "scrub.json"

// scrubState is what that file holds.
type scrubState struct {
	Run  *VerifyReport `json:"run,omitempty"`  // under way
	Last *VerifyReport `json:"last,omitempty"` // ended
}

// scrubber is the goroutine of the scrub.
type scrubber struct {
	m     *Mirror
	state scrubState
	saved time.Time
}

// scrub runs until the mirror closes.
func (m *Mirror) scrub() {
	s := &scrubber{m: m}
	s.load()
	for m.ctx.Err() == nil {
		if s.state.Run == nil {
			if !s.pause() {
				return
			}
			s.state.Run = &VerifyReport{Started: m.now()}
		}
		if err := s.run(); err != nil && !m.closing() {
			m.cfg.Logger.Info("the verification in the background cannot go on yet", "err", err)
			s.sleep(m.cfg.RetryMax)
		}
	}
}

// pause waits until the next run is due.
func (s *scrubber) pause() bool {
	m := s.m
	wait := m.cfg.Scrub.Interval
	if s.state.Last != nil {
		wait = min(wait, m.cfg.Scrub.Interval-m.now().Sub(s.state.Last.Ended))
	}
	next := m.now().Add(max(wait, 0))
	s.status(func(st *ScrubStatus) { st.Running, st.Next, st.Last = nil, next, s.state.Last })
	return s.sleep(wait)
}

func (s *scrubber) sleep(wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.m.ctx.Done():
		return false
	}
}

// run goes on with the run under way, until it ends or has to give way.
func (s *scrubber) run() error {
	m := s.m
	ctx, cancel := context.WithCancel(m.ctx)
	defer cancel()
	s.progress(s.state.Run.VerifyProgress)
	shared, err := m.exclusion.yielding(ctx, m, "background verification", cancel, func(holder string) {
		m.scrubbing.Waits = holder
	})
	s.status(func(st *ScrubStatus) { st.Waits = "" })
	if err != nil {
		return err
	}
	v := &verification{m: m, atOnce: true, report: *s.state.Run, opts: VerifyOptions{
		Blobs: true, Repair: m.cfg.Scrub.Repair, BytesPerSecond: m.cfg.Scrub.BytesPerSecond, MaxFindings: scrubFindings, Progress: s.progress,
	}}
	err = v.run(ctx)
	m.exclusion.leave(m, shared)
	report := v.report
	s.state.Run = &report
	if err != nil {
		s.progress(report.VerifyProgress)
		s.save()
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	report.Ended = m.now()
	s.state = scrubState{Last: &report}
	s.status(func(st *ScrubStatus) {
		st.Runs++
		st.Running, st.Started, st.Last, st.Next = nil, time.Time{}, &report, report.Ended.Add(m.cfg.Scrub.Interval)
	})
	s.save()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tell(Event{Kind: EventScrub, Time: report.Ended, Condition: m.conditionLocked(), Scrub: &report})
	return nil
}

// status changes what Status shows.
func (s *scrubber) status(change func(*ScrubStatus)) {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	change(&s.m.scrubbing)
}

// progress is VerifyOptions.Progress.
func (s *scrubber) progress(p VerifyProgress) {
	s.status(func(st *ScrubStatus) {
		before := VerifyProgress{}
		if st.Running != nil {
			before = *st.Running
		} else {
			before = s.state.Run.VerifyProgress
		}
		st.Bytes += p.Bytes - before.Bytes
		st.Findings += p.Findings - before.Findings
		st.Repaired += p.Repaired - before.Repaired
		st.Running, st.Started, st.Next = &p, s.state.Run.Started, time.Time{}
	})
	if s.m.now().Sub(s.saved) >= scrubSaves {
		run := *s.state.Run
		run.VerifyProgress = p
		s.write(scrubState{Run: &run, Last: s.state.Last})
	}
}

// load reads how far the last process was.
func (s *scrubber) load() {
	s.saved = s.m.now()
	r, ok := s.m.register.(*FileRegister)
	if !ok {
		return
	}
	if err := r.locked(s.m.ctx, func() error { return r.read(scrubFile, &s.state) }); err != nil {
		s.m.cfg.Logger.Warn("it is not known how far the verification in the background was; it begins anew", "err", err)
		s.state = scrubState{}
	}
}

// save writes how far the scrub is.
func (s *scrubber) save() { s.write(s.state) }

func (s *scrubber) write(state scrubState) {
	s.saved = s.m.now()
	r, ok := s.m.register.(*FileRegister)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.m.ctx), s.m.tuned().Timeouts.Register)
	defer cancel()
	if err := r.locked(ctx, func() error { return r.write(scrubFile, state) }); err != nil {
		s.m.cfg.Logger.Warn("how far the verification in the background is was not saved", "err", err)
	}
}

// scrubStatusLocked returns what Status shows, nil if there is no scrub.
func (m *Mirror) scrubStatusLocked() *ScrubStatus {
	if m.cfg.Scrub.Interval == 0 {
		return nil
	}
	s := m.scrubbing
	s.Interval, s.BytesPerSecond, s.Repair = m.cfg.Scrub.Interval, m.cfg.Scrub.BytesPerSecond, m.cfg.Scrub.Repair
	return &s
}

// logScrub writes the end of a run to the log.
func logScrub(l *slog.Logger, r *VerifyReport) {
	level := slog.LevelInfo
	if r.Findings > 0 { // repaired ones too: a disk is not as it was
		level = slog.LevelWarn
	}
	unread := make([]string, 0, len(r.Unread))
	for name := range r.Unread {
		unread = append(unread, name)
	}
	slices.Sort(unread)
	l.Log(context.Background(), level, "backends were compared", "backends", r.Backends, "transactions", r.Transactions,
		"objects", r.Objects, "findings", r.Findings, "repaired", r.Repaired, "degraded", r.Degraded, "unread", unread, "kept", r.Kept)
}
