package raidstorage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/go-multierror"
)

// The answers to a vote (replication.md, C3 and C4). Valid ones - voted, conflict,
// undo refused - must agree. Failures concern the backend alone. A backend that
// contradicts a majority is dropped; where there is no majority, the logs decide;
// where they do not, commits stop.

// ballot is what the backends answered, sorted out.
type ballot struct {
	voters []voter
	groups map[string][]*session // by answer, failures left out
	sample map[string]error      // an error of each group, nil for those that voted
	failed []*session
	errs   *multierror.Error // of the failed
	// uneven says that last tids differ from the visible one, so that answers differ
	// for a good reason.
	uneven error
}

func sortOut(last TID, results []result[voter]) ballot {
	b := ballot{groups: make(map[string][]*session), sample: make(map[string]error)}
	for _, r := range results {
		if order, ok := errors.AsType[*TIDOrderError](r.err); ok {
			b.uneven = order
		}
		switch {
		case r.err == nil:
			b.voters = append(b.voters, r.value)
			if got := r.value.vote.Last; got != last {
				b.uneven = &BackendError{Backend: r.session.b.cfg.Name, Op: "vote", Err: &TIDOrderError{TID: last, Last: got}}
			}
		case Classify(r.err) == ClassFailure, Classify(r.err) == ClassUnknown:
			b.failed = append(b.failed, r.session)
			b.errs = gather(b.errs, r.err)
			continue
		}
		key := answerKey(r)
		b.groups[key] = append(b.groups[key], r.session)
		b.sample[key] = r.err
	}
	return b
}

// answerKey is equal for equal answers.
func answerKey(r result[voter]) string {
	if r.err == nil {
		return fmt.Sprint("voted, changed ", r.value.vote.Changed)
	}
	inner := bare(r.err)
	if ro, ok := errors.AsType[*ReadOnlyError](inner); ok {
		inner = &ReadOnlyError{Reason: ro.Reason} // the names differ
	}
	return fmt.Sprintf("%T %v", inner, inner)
}

// bare is the error without the name of the backend that said it.
func bare(err error) error {
	if b, ok := err.(*BackendError); ok {
		return b.Err
	}
	return err
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
	if err := ctx.Err(); err != nil {
		return b.voters, err // the caller gave up; that tells nothing of the backends
	}
	if b.uneven != nil {
		m.unresolved = b.uneven
		m.faultAll(b.failed, b.errs)
		return b.voters, b.uneven
	}
	switch len(b.groups) {
	case 0:
		m.faultAll(b.failed, b.errs)
		return nil, &UnavailableError{InSync: 0, Need: m.cfg.WriteQuorum, Err: b.errs.ErrorOrNil()}
	case 1:
		m.faultAll(b.failed, b.errs)
		if len(b.voters) == 0 {
			for _, err := range b.sample {
				return nil, bare(err) // all that answered refuse alike
			}
		}
		return b.voters, m.goOnWith(ctx, b)
	}
	return m.contradiction(ctx, log, last, b, len(results))
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
	if len(b.voters) < m.cfg.WriteQuorum {
		return &UnavailableError{InSync: len(b.voters), Need: m.cfg.WriteQuorum, Err: b.errs.ErrorOrNil()}
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
	for i, r := range round(ctx, m, "last tid", sessions, m.cfg.Timeouts.Read,
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
	err := &ContradictionError{Op: "vote", Answers: make(map[string]string)}
	var majority string
	var all []*session
	for key, sessions := range b.groups {
		for _, s := range sessions {
			err.Answers[s.b.cfg.Name] = key
		}
		if 2*len(sessions) > asked {
			majority = key
		}
		all = append(all, sessions...)
	}
	if majority == "" {
		m.abortAll(ctx, b.voters)
		m.faultAll(b.failed, b.errs)
		return nil, m.adjudicate(ctx, log.oids(), last, all, err)
	}
	for key, sessions := range b.groups {
		if key != majority {
			b.failed = append(b.failed, sessions...)
			for _, s := range sessions {
				b.errs = gather(b.errs, &BackendError{Backend: s.b.cfg.Name, Op: "vote", Err: err})
			}
		}
	}
	m.faultAll(b.failed, b.errs)
	if refusal := b.sample[majority]; refusal != nil {
		return b.voters, bare(refusal)
	}
	var stay, leave []voter
	for _, v := range b.voters {
		if slices.Contains(b.groups[majority], v.session) {
			stay = append(stay, v)
		} else {
			leave = append(leave, v)
		}
	}
	m.abortAll(ctx, leave)
	b.voters = stay
	return stay, m.goOnWith(ctx, b)
}

// oids returns the objects that the staged calls name.
func (l *opLog) oids() []OID {
	var oids []OID
	for _, o := range l.ops {
		if o.kind != opUndo {
			oids = append(oids, o.oid)
		}
	}
	return oids
}

// adjudicate finds out which sessions contradict their own or the others' logs on
// one of oids, and faults them. It returns the error for the caller: with
// m.unresolved set if the question is settled and the call may be repeated, else
// err, and commits are stopped.
func (m *Mirror) adjudicate(ctx context.Context, oids []OID, last TID, sessions []*session, err *ContradictionError) error {
	ctx, cancel := context.WithTimeout(ctx, m.cfg.Timeouts.Read)
	defer cancel()
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
	m.mu.Lock()
	m.stopped = err
	m.mu.Unlock()
	m.cfg.Logger.Error("commits stopped until a backend is disabled", "err", err)
	return err
}

// evidence is what one backend says of an object: by its index and by its log.
type evidence struct {
	rev    Revision
	err    error // of the load or the log: an answer or a failure
	tid    TID   // of the latest record in the log, 0 if there is none that late
	data   []byte
	failed bool
}

// agrees tells whether the index says the same as the log.
func (e evidence) agrees(from TID) bool {
	switch {
	case e.failed:
		return false
	case e.tid == 0:
		return e.rev.Serial < from
	case e.data == nil:
		return e.err != nil
	}
	return e.err == nil && e.rev.Serial == e.tid && bytes.Equal(e.rev.Data, e.data)
}

// damagedAt compares what sessions load for oid as of last with what their logs
// say. A record in a log does not come from nothing: who does not know it is wrong.
func (m *Mirror) damagedAt(ctx context.Context, oid OID, last TID, sessions []*session) []*session {
	found := make([]evidence, len(sessions))
	var from, newest TID // logs need not be searched before the latest revision that is served
	for i, s := range sessions {
		e := &found[i]
		e.rev, e.err = s.storage.LoadBefore(ctx, oid, last+1)
		from = max(from, e.rev.Serial)
	}
	for i, s := range sessions {
		e := &found[i]
		if e.err == nil || Classify(e.err) == ClassAnswer {
			var err error
			e.tid, e.data, err = lastLogged(ctx, s.storage, oid, from, last)
			e.failed = err != nil
		} else {
			e.failed = true
		}
		newest = max(newest, e.tid)
	}
	var damaged []*session
	for i, s := range sessions {
		if e := found[i]; !e.agrees(from) || e.tid < newest {
			damaged = append(damaged, s)
		}
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
