package raidstorage

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/hashicorp/go-multierror"
)

// The answers to a vote (replication.md, C3 and C4). Valid ones - voted, conflict,
// undo refused - must agree. Failures concern the backend alone, and so does a
// refusal to take part (read-only, unavailable) beside others that vote. A backend
// that contradicts a majority is dropped; where there is no majority, the logs
// decide; where they do not, commits stop.

// ballot is what the backends answered, sorted out.
type ballot struct {
	voters  []voter
	voted   map[string][]*session // those that voted, by what they changed
	refused []*session            // those with a valid answer that ends the transaction
	answer  error                 // what the first of them said, nil if none did
	failed  []*session
	errs    *multierror.Error // of the failed
	// uneven says that last tids differ from the visible one, so that answers differ
	// for a good reason.
	uneven error
}

func sortOut(last TID, results []result[voter]) ballot {
	b := ballot{voted: make(map[string][]*session)}
	for _, r := range results {
		if order, ok := errors.AsType[*TIDOrderError](r.err); ok {
			b.uneven = order
		}
		if r.err != nil {
			continue
		}
		b.voters = append(b.voters, r.value)
		key := fmt.Sprint("voted, changed ", r.value.vote.Changed)
		b.voted[key] = append(b.voted[key], r.session)
		if got := r.value.vote.Last; got != last {
			b.uneven = &BackendError{Backend: r.session.b.cfg.Name, Op: "vote", Err: &TIDOrderError{TID: last, Last: got}}
		}
	}
	for _, r := range results {
		if r.err == nil {
			continue
		}
		if c := Classify(r.err); c == ClassAnswer || c == ClassRefusal && len(b.voters) == 0 {
			b.refused = append(b.refused, r.session)
			b.answer = cmp.Or(b.answer, bare(r.err))
		} else {
			b.failed = append(b.failed, r.session)
			b.errs = gather(b.errs, r.err)
		}
	}
	return b
}

// bare is the error without the name of the backend that said it.
func bare(err error) error {
	if b, ok := err.(*BackendError); ok {
		return b.Err
	}
	return err
}

// spoolError says that the mirror could not read back what it had spooled: no fault
// of any backend.
type spoolError struct{ err error }

func (e *spoolError) Error() string { return "spool: " + e.err.Error() }
func (e *spoolError) Unwrap() error { return e.err }

// blameless returns an error if what went wrong says nothing about the backends:
// the caller gave up, or the mirror's own spool failed.
func blameless(ctx context.Context, results []result[voter]) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, r := range results {
		if spool, ok := errors.AsType[*spoolError](r.err); ok {
			return spool
		}
	}
	return nil
}

// judge decides what follows from the answers to a vote: it returns those to go on
// with, or an error and those to abort. The record is changed before anything goes
// on without a backend. With m.unresolved set the vote may be tried again.
func (m *Mirror) judge(ctx context.Context, log *opLog, last TID, results []result[voter]) ([]voter, error) {
	if unanimous(last, results) {
		voters := make([]voter, len(results))
		for i, r := range results {
			voters[i] = r.value
		}
		return voters, nil
	}
	b := sortOut(last, results)
	if err := blameless(ctx, results); err != nil {
		return b.voters, err
	}
	if b.uneven != nil {
		m.unresolved = b.uneven
		m.faultAll(b.failed, b.errs)
		return b.voters, b.uneven
	}
	switch {
	case len(b.voters) == 0 && b.answer == nil:
		m.faultHanging(b)
		return nil, &UnavailableError{InSync: 0, Need: m.tuned().WriteQuorum, Err: b.errs.ErrorOrNil()}
	case len(b.voters) == 0:
		m.faultAll(b.failed, b.errs)
		return nil, b.answer // all that answered refuse, perhaps in different words
	case len(b.voted) == 1 && len(b.refused) == 0:
		m.faultAll(b.failed, b.errs)
		return b.voters, m.goOnWith(ctx, b)
	}
	return m.contradiction(ctx, log, last, b, len(results))
}

// faultHanging is for a vote that nobody answered. If it was too large for the
// deadline, that is no fault of the backends: who hangs will still hang when the
// next call waits behind this one.
func (m *Mirror) faultHanging(b ballot) {
	for _, s := range b.failed {
		err := errorOf(s, b.errs)
		if !errors.Is(err, context.DeadlineExceeded) || len(s.calls) > 0 {
			m.fault(s, err)
		}
	}
}

// unanimous is the common case: all have voted alike.
func unanimous(last TID, results []result[voter]) bool {
	for _, r := range results {
		if r.err != nil || r.value.vote.Last != last || !slices.Equal(r.value.vote.Changed, results[0].value.vote.Changed) {
			return false
		}
	}
	return true
}

// goOnWith drops the failed from the record, so that the voters can finish without
// them (C4). They hold the locks of all that stays, with equal last tids.
func (m *Mirror) goOnWith(ctx context.Context, b ballot) error {
	if len(b.voters) < m.tuned().WriteQuorum {
		return &UnavailableError{InSync: len(b.voters), Need: m.tuned().WriteQuorum, Err: b.errs.ErrorOrNil()}
	}
	if len(b.failed) == 0 {
		return nil
	}
	// M2: a backend that died since it voted must not become the last one named.
	if err := m.stillThere(ctx, b.voters); err != nil {
		m.unresolved = err
		return err
	}
	return m.removeFromRecord(context.WithoutCancel(ctx), b.failed, b.errs.Error())
}

// stillThere asks each voter once more for its last tid.
func (m *Mirror) stillThere(ctx context.Context, voters []voter) error {
	sessions := make([]*session, len(voters))
	for i, v := range voters {
		sessions[i] = v.session
	}
	var err error
	for i, r := range round(ctx, m, "last tid", sessions, m.tuned().Timeouts.Read,
		func(ctx context.Context, _ int, s *session) (TID, error) { return s.storage.LastTID(ctx) }, nil) {
		if r.err == nil && r.value != voters[i].vote.Last {
			r.err = &BackendError{Backend: r.session.b.cfg.Name, Op: "last tid", Err: &TIDOrderError{TID: voters[i].vote.Last, Last: r.value}}
		}
		if r.err != nil && ctx.Err() == nil {
			m.fault(r.session, r.err)
		}
		err = errors.Join(err, r.err)
	}
	return err
}

func (m *Mirror) faultAll(sessions []*session, reason error) {
	for _, s := range sessions {
		m.fault(s, errorOf(s, reason))
	}
}

// errorOf picks the part of a multierror that concerns s.
func errorOf(s *session, err error) error {
	if multi, ok := errors.AsType[*multierror.Error](err); ok {
		for _, e := range multi.Errors {
			if b, ok := errors.AsType[*BackendError](e); ok && b.Backend == s.b.cfg.Name {
				return b
			}
		}
	}
	return err
}

// contradiction handles different valid answers over equal tails.
func (m *Mirror) contradiction(ctx context.Context, log *opLog, last TID, b ballot, asked int) ([]voter, error) {
	if m.record.uneven() {
		// It may be about garbage that some have dropped already: nobody is wrong.
		m.faultAll(b.failed, b.errs)
		if b.answer != nil {
			return b.voters, b.answer
		}
		return b.voters, &UnavailableError{Err: errors.New("backends differ while a pack is going on, or since one has not succeeded on all")}
	}
	const refused = "refused"
	groups := maps.Clone(b.voted)
	if len(b.refused) > 0 {
		groups[refused] = b.refused
	}
	err := &ContradictionError{Op: "vote", Answers: make(map[string]string)}
	var majority string
	var all []*session
	for key, sessions := range groups {
		for _, s := range sessions {
			err.Answers[s.b.cfg.Name] = key
			if key == refused {
				err.Answers[s.b.cfg.Name] = b.answer.Error()
			}
		}
		if 2*len(sessions) > asked {
			majority = key
		}
		all = append(all, sessions...)
	}
	if majority == "" {
		m.abortAll(ctx, b.voters)
		m.faultAll(b.failed, b.errs)
		return nil, m.adjudicate(ctx, m.oidsOf(ctx, log, all), last, all, b.answer, err)
	}
	for key, sessions := range groups {
		if key != majority {
			b.failed = append(b.failed, sessions...)
			for _, s := range sessions {
				b.errs = gather(b.errs, &BackendError{Backend: s.b.cfg.Name, Op: "vote", Err: err})
			}
		}
	}
	m.faultAll(b.failed, b.errs)
	if majority == refused {
		return b.voters, b.answer
	}
	var stay, leave []voter
	for _, v := range b.voters {
		if slices.Contains(groups[majority], v.session) {
			stay = append(stay, v)
		} else {
			leave = append(leave, v)
		}
	}
	m.abortAll(ctx, leave)
	b.voters = stay
	return stay, m.goOnWith(ctx, b)
}

// oidsOf returns the objects that the staged calls concern: for an undo, those of
// the transaction to undo.
func (m *Mirror) oidsOf(ctx context.Context, log *opLog, sessions []*session) []OID {
	var oids []OID
	for _, o := range log.ops {
		if o.kind != opUndo {
			oids = append(oids, o.oid)
			continue
		}
		for _, r := range round(ctx, m, "read", sessions, m.tuned().Timeouts.Read,
			func(ctx context.Context, _ int, s *session) ([]OID, error) { return oidsAt(ctx, s.storage, o.serial) }, nil) {
			oids = append(oids, r.value...)
		}
	}
	slices.Sort(oids)
	return slices.Compact(oids)
}

// oidsAt lists the objects of transaction tid.
func oidsAt(ctx context.Context, s Storage, tid TID) (oids []OID, err error) {
	for txn, err := range s.Iterate(ctx, tid, tid) {
		if err != nil {
			return nil, err
		}
		for r, err := range txn.Records {
			if err != nil {
				return nil, err
			}
			oids = append(oids, r.OID)
		}
	}
	return oids, nil
}

// adjudicate finds out which sessions contradict their own or the others' logs on
// one of oids, and faults them. It returns the error for the caller: with
// m.unresolved set if the question is settled and the call may be repeated, else
// err, and commits are stopped. answer is what those say that refuse.
func (m *Mirror) adjudicate(ctx context.Context, oids []OID, last TID, sessions []*session, answer error, err *ContradictionError) error {
	for _, oid := range oids {
		damaged := m.damagedAt(ctx, oid, last, sessions)
		if len(damaged) == 0 || len(damaged) == len(sessions) {
			continue
		}
		for _, s := range damaged {
			m.fault(s, fmt.Errorf("object %v: its records do not agree with the log: %w", oid, err))
		}
		m.unresolved = err
		return err
	}
	if refusal, ok := errors.AsType[*UndoError](answer); ok {
		// A recovered backend may be unable to tell an undone deletion from another
		// one, so that it refuses what others would do: nobody is wrong, nothing is done.
		return refusal
	}
	m.mu.Lock()
	m.stopped = err
	m.mu.Unlock()
	m.cfg.Logger.Error("commits stopped until a backend is disabled", "err", err)
	return err
}

// evidence is what one backend says of an object: by its index and by its log.
type evidence struct {
	rev     Revision
	missing bool // by the index
	tid     TID  // of the latest record in the log, 0 if there is none that late
	data    []byte
}

// agrees tells whether the index says the same as the log.
func (e evidence) agrees(from TID) bool {
	switch {
	case e.tid == 0:
		return e.rev.Serial < from
	case e.data == nil:
		return e.missing
	}
	return !e.missing && e.rev.Serial == e.tid && bytes.Equal(e.rev.Data, e.data)
}

// damagedAt compares what sessions load for oid as of last with what their logs
// say. A record in a log does not come from nothing: who does not know it is wrong,
// and so is who finds damage. Who cannot be asked is neither.
func (m *Mirror) damagedAt(ctx context.Context, oid OID, last TID, sessions []*session) []*session {
	loaded := round(ctx, m, "load", sessions, m.tuned().Timeouts.Read,
		func(ctx context.Context, _ int, s *session) (e evidence, err error) {
			e.rev, err = s.storage.LoadBefore(ctx, oid, last+1)
			if e.missing = isA[*NotFoundError](err); e.missing {
				err = nil
			}
			return e, err
		}, nil)
	var from TID // logs need not be searched before the latest revision that is served
	for _, r := range loaded {
		from = max(from, r.value.rev.Serial)
	}
	found := round(ctx, m, "read", sessions, m.tuned().Timeouts.Read,
		func(ctx context.Context, i int, s *session) (e evidence, err error) {
			if err := loaded[i].err; err != nil {
				return e, err
			}
			e = loaded[i].value
			e.tid, e.data, err = lastLogged(ctx, s.storage, oid, from, last)
			return e, err
		}, nil)
	var newest TID
	for _, r := range found {
		newest = max(newest, r.value.tid)
	}
	var damaged []*session
	for _, r := range found {
		if isA[*CorruptError](r.err) || r.err == nil && (!r.value.agrees(from) || r.value.tid < newest) {
			damaged = append(damaged, r.session)
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return damaged
}

// lastLogged returns the last record of oid in the log between from and through.
func lastLogged(ctx context.Context, s Storage, oid OID, from, through TID) (tid TID, data []byte, err error) {
	for txn, err := range s.Iterate(ctx, max(from, 1), through) {
		if err != nil {
			return 0, nil, err
		}
		for r, err := range txn.Records {
			if err != nil {
				return 0, nil, err
			}
			if r.OID == oid {
				tid, data = txn.TID, r.Data
			}
		}
	}
	return tid, data, nil
}
