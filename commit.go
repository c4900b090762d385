package raidstorage

// A commit (replication.md, C1-C8):
//
//	caller    Begin, Store, ...                 collected in an opLog, no lock held
//	caller    Vote:   wait while a recovery would not catch up (V5, see catchup.go)
//	                  take the commit slot
//	                  resolve, if an earlier outcome is in doubt (C6)
//	                  choose a tid from a reserved range (C2)
//	  all of I, in parallel: begin, stores, vote; the answer tells the last tid
//	                  compare the answers (C3, see answers.go)
//	                  drop who failed: the rest has voted and has equal last tids;
//	                  at least W of them; the record first (C4)
//	caller    Finish: all that voted, in parallel: finish
//	                  wait until each has finished or failed (C5, C7 of the model)
//	                  drop who failed: at least W have finished; the record first (C8)
//	                  make it visible, free the slot, return: the acknowledgement
//
// Where all backends can start a finish and wait for it later, the slot is free as
// soon as the finish was started; what is different then is in pipeline.go.
//
// Invariant: between Vote and the end of the transaction nothing else changes the
// record or what is visible, but the end of an earlier one. Crash points: before the
// first finish nothing happened
// (backends forget a voted transaction); after it some of I may hold the
// transaction and others not, which start-up or resolve evens out before anything
// is served; after the last nothing is missing but the reply.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/hashicorp/go-multierror"
)

// voteAttempts bounds how often a vote starts over because the backends turned out
// to be unequal, or the record moved, and were put right.
const voteAttempts = 4

// Vote implements Txn.
func (t *mirrorTxn) Vote(ctx context.Context) (Vote, error) {
	if state := t.state.Load(); state != txnOpen {
		return Vote{}, &TxnStateError{Op: "vote", State: txnStateNames[state]}
	}
	if err := t.m.awaitCatchUp(ctx, t); err != nil { // V5
		t.end()
		return Vote{}, err
	}
	if err := t.m.lockVote(ctx); err != nil {
		t.end()
		return Vote{}, err
	}
	v, err := t.vote(ctx)
	if err != nil {
		t.m.unlockCommit()
		t.end()
		return Vote{}, err
	}
	t.m.mu.Lock()
	closed := t.m.closed
	if !closed { // else Close has looked for a voted transaction already
		t.m.voted = t
		t.state.Store(txnVoted)
	}
	t.m.mu.Unlock()
	if closed {
		t.m.abortAll(ctx, t.voters)
		t.m.unlockCommit()
		t.end()
		return Vote{}, ErrClosed
	}
	return v, nil
}

// end forgets the transaction; its locks are free already.
func (t *mirrorTxn) end() {
	t.state.Store(txnEnded)
	t.settle(false)
	t.log.release()
}

// vote tries until the backends agree. The commit slot is held.
func (t *mirrorTxn) vote(ctx context.Context) (Vote, error) {
	var last error
	for range voteAttempts {
		before, err := t.m.inFrontOf(ctx, t)
		if err != nil {
			return Vote{}, err
		}
		// A backend of the record that does not take part must leave it first (C4),
		// whoever found out that it fails.
		if before == nil && (t.m.unresolved != nil || !t.m.covers(t.m.view.Load())) {
			if err := t.m.resolve(ctx); err != nil {
				return Vote{}, err
			}
		}
		v, again, err := t.voteOnce(ctx, before)
		if err == nil || !again {
			return v, err
		}
		last = err
	}
	return Vote{}, last
}

// voteOnce makes one attempt, behind the flight before, if that is not nil, and tells
// whether another one may succeed.
func (t *mirrorTxn) voteOnce(ctx context.Context, before *flight) (v Vote, again bool, err error) {
	m := t.m
	m.mu.Lock()
	stopped := m.stopped
	m.mu.Unlock()
	if stopped != nil {
		return Vote{}, false, stopped
	}
	view := m.view.Load()
	after := view.last
	if before != nil {
		if !slices.Equal(view.sessions, before.sessions) { // L4: all that before was started on, which is all of I
			return Vote{}, true, errVoteAgain
		}
		after = before.tid // L7
	} else if !m.covers(view) { // a read has found out meanwhile that one of them fails
		m.unresolved = errors.New("a backend in sync does not take part")
		return Vote{}, true, m.unresolved
	}
	if len(view.sessions) < m.tuned().WriteQuorum {
		return Vote{}, false, &UnavailableError{InSync: len(view.sessions), Need: m.tuned().WriteQuorum}
	}
	if err := t.undoable(); err != nil {
		return Vote{}, false, err
	}
	meta := t.meta
	if err := t.chooseTID(ctx, &meta, after); err != nil {
		return Vote{}, false, err
	}
	results := round(ctx, m, "vote", view.sessions, m.tuned().Timeouts.Vote,
		func(ctx context.Context, _ int, s *session) (voter, error) { return t.voteAt(ctx, s, meta) },
		func(late voter) { late.txn.Abort(context.WithoutCancel(ctx)) })
	if before != nil && !unanimous(after, results) {
		if err := m.landBeforeJudging(ctx, view, results); err != nil {
			return Vote{}, err == errVoteAgain, err
		}
	}
	voters, err := m.judge(ctx, &t.log, after, results)
	if err != nil {
		m.abortAll(ctx, voters)
		return Vote{}, m.unresolved != nil, err // nothing is in flight
	}
	if t.explicit {
		if err := t.m.tids.claim(ctx, meta.TID); err != nil {
			m.abortAll(ctx, voters)
			return Vote{}, false, unavailable(err)
		}
	}
	t.meta, t.voters = meta, voters
	t.undoes(voters[0].vote.Changed)
	return Vote{Changed: voters[0].vote.Changed, Last: after}, false, nil
}

// undoable refuses what backends that are packed, or not, would answer differently
// (K5). The commit slot is held, so it holds from the cut of a pack on.
func (t *mirrorTxn) undoable() error {
	for i := range t.log.ops {
		o := &t.log.ops[i]
		switch {
		case o.kind != opUndo:
		case o.serial <= t.m.record.PackHorizon:
			return &UndoError{TID: o.serial, Reason: fmt.Sprintf("it is not later than the pack time %v", t.m.record.PackHorizon)}
		case t.m.record.uneven(), t.m.noUndo.Load():
			return &UndoError{TID: o.serial, Reason: "a pack is going on, or has not succeeded on all backends"}
		}
	}
	return nil
}

// covers tells whether v has exactly the backends that the record names: only then
// a commit over v reaches all of I. The commit slot is held.
func (m *Mirror) covers(v *view) bool {
	return len(v.sessions) == len(m.record.InSync) && !slices.ContainsFunc(v.sessions, func(s *session) bool {
		return !slices.Contains(m.record.InSync, s.b.cfg.Name)
	})
}

func (t *mirrorTxn) chooseTID(ctx context.Context, meta *Meta, last TID) error {
	if t.explicit {
		if meta.TID <= last {
			return &TIDOrderError{TID: meta.TID, Last: last}
		}
		return nil // claimed when all have accepted it
	}
	tid, err := t.m.tids.next(ctx, last)
	meta.TID = tid
	return unavailable(err)
}

// unavailable is for a register that fails while nothing has been committed.
func unavailable(err error) error {
	if err == nil {
		return nil
	}
	return &UnavailableError{Err: fmt.Errorf("register: %w", err)}
}

// voteAt runs the whole transaction up to its vote at one backend, on its worker.
func (t *mirrorTxn) voteAt(ctx context.Context, s *session, meta Meta) (voter, error) {
	if !t.log.acquire() {
		return voter{}, context.Canceled // the transaction ended while this call waited
	}
	defer t.log.release()
	txn, err := s.storage.Begin(ctx, meta)
	if err != nil {
		return voter{}, err
	}
	if err := t.log.replay(ctx, meta, txn); err != nil {
		txn.Abort(context.WithoutCancel(ctx)) // err says more
		return voter{}, err
	}
	vote, err := txn.Vote(ctx)
	if err != nil {
		return voter{}, err
	}
	return voter{session: s, txn: txn, vote: vote}, nil
}

// abortAll frees the locks of voters. Who cannot abort is not to be trusted with
// its lock; a new session will do.
func (m *Mirror) abortAll(ctx context.Context, voters []voter) {
	if len(voters) == 0 {
		return
	}
	sessions := make([]*session, len(voters))
	for i, v := range voters {
		sessions[i] = v.session
	}
	ctx = context.WithoutCancel(ctx)
	for _, r := range round(ctx, m, "abort", sessions, m.tuned().Timeouts.Finish,
		func(ctx context.Context, i int, _ *session) (struct{}, error) {
			return struct{}{}, voters[i].txn.Abort(ctx)
		}, nil) {
		if r.err != nil {
			m.fault(r.session, r.err)
		}
	}
}

// Abort implements Txn.
func (t *mirrorTxn) Abort(ctx context.Context) error {
	switch {
	case t.state.CompareAndSwap(txnVoted, txnEnded):
		t.m.abortAll(ctx, t.voters)
		t.m.unlockCommit()
		t.settle(false)
		t.log.release()
	case t.state.CompareAndSwap(txnOpen, txnEnded):
		t.log.release()
	}
	return nil
}

// Finish implements Txn. If ctx ends while backends finish, it returns
// *OutcomeUnknownError at once and the commit goes on without the caller.
func (t *mirrorTxn) Finish(ctx context.Context) (TID, error) {
	if err := ctx.Err(); err != nil && t.state.Load() == txnVoted { // nothing was sent yet: a plain abort
		return 0, errors.Join(err, t.Abort(ctx))
	}
	if !t.state.CompareAndSwap(txnVoted, txnEnded) {
		if t.m.ctx.Err() != nil {
			return 0, ErrClosed
		}
		return 0, &TxnStateError{Op: "finish", State: txnStateNames[t.state.Load()]}
	}
	done := make(chan error, 1)
	var told atomic.Bool // the caller has its answer, or takes the one in done
	run := func() {
		err := t.m.finish(context.WithoutCancel(ctx), t, func(err error) {
			if !told.CompareAndSwap(false, true) && err == nil {
				t.m.notify(t.invalidation()) // the caller was told that the outcome is unknown
			}
		})
		t.settle(true)
		t.log.release()
		done <- err
	}
	if ctx.Done() == nil {
		run() // nothing can end the wait but the end
	} else if !t.m.run(run) {
		run()
	}
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		if told.CompareAndSwap(false, true) {
			return 0, &OutcomeUnknownError{TID: t.meta.TID, Err: ctx.Err()}
		}
		err = <-done // it comes at this moment
	}
	if err != nil {
		return 0, err
	}
	return t.meta.TID, nil
}

// invalidation tells what the transaction, which has voted, changes.
func (t *mirrorTxn) invalidation() Invalidation {
	oids := slices.Clone(t.voters[0].vote.Changed)
	for _, o := range t.log.ops {
		if o.kind != opCheck && o.kind != opUndo {
			oids = append(oids, o.oid)
		}
	}
	slices.Sort(oids)
	return Invalidation{TID: t.meta.TID, OIDs: slices.Compact(oids)}
}

// endVoted aborts a voted transaction whose owner did not end it before Close.
func (m *Mirror) endVoted() {
	m.mu.Lock()
	t := m.voted
	m.mu.Unlock()
	if t != nil {
		t.Abort(context.Background()) // bounded by Timeouts.Finish; a no-op if it has ended
	}
}

// finish carries out steps C5 to C8, and frees the commit slot. ended is called with
// the outcome before a later transaction ends.
func (m *Mirror) finish(ctx context.Context, t *mirrorTxn, ended func(error)) error {
	if t.log.repeats() { // the commit slot is held
		m.repeated.Store(uint64(t.meta.TID))
	}
	f, err := m.takeOff(ctx, t)
	switch {
	case err != nil:
		m.unlockCommit()
		return err
	case f != nil:
		m.unlockCommit()
		return m.land(ctx, f, ended)
	}
	defer m.unlockCommit()
	sessions := t.sessions()
	results := round(ctx, m, "finish", sessions, m.tuned().Timeouts.Finish,
		func(ctx context.Context, i int, s *session) (TID, error) {
			got, err := t.voters[i].txn.Finish(ctx)
			if err == nil && got != t.meta.TID {
				err = &ContradictionError{Op: "finish " + t.meta.TID.String(), Answers: map[string]string{s.b.cfg.Name: got.String()}}
			}
			return got, err
		}, nil)
	errs := make([]error, len(results))
	for i, r := range results {
		errs[i] = r.err
	}
	err = m.conclude(ctx, t, errs)
	ended(err)
	return err
}

// conclude is C8: errs are what the voters' finishes said. The commit slot is held and
// nothing else is in flight, or t is the oldest that is.
func (m *Mirror) conclude(ctx context.Context, t *mirrorTxn, errs []error) error {
	tid := t.meta.TID
	var finished, failed []*session
	var reasons *multierror.Error
	for i, v := range t.voters {
		inSync := slices.Contains(m.record.InSync, v.session.b.cfg.Name) // L4: else dropped for an earlier one
		switch {
		case errs[i] != nil:
			reasons = gather(reasons, errs[i])
			if !v.session.dead.Load() {
				m.fault(v.session, errs[i])
			}
			if inSync {
				failed = append(failed, v.session)
			}
		case inSync:
			finished = append(finished, v.session)
		}
	}
	if m.unresolved != nil { // L3
		m.doubtful[tid] = true
		return &OutcomeUnknownError{TID: tid, Err: fmt.Errorf("so is that of an earlier transaction: %v", m.unresolved)}
	}
	// C8: fewer than W copies, or a record that does not say who has them, is no
	// acknowledgement, even though the transaction may turn out to be committed.
	if len(finished) < m.tuned().WriteQuorum {
		err := reasons.ErrorOrNil()
		if err == nil {
			err = errors.New("too few backends are left in sync")
		}
		m.doubt(tid, err)
		return &OutcomeUnknownError{TID: tid, Err: err}
	}
	if len(failed) > 0 {
		if err := m.removeFromRecord(ctx, failed, reasons.Error()); err != nil {
			m.doubt(tid, err)
			return &OutcomeUnknownError{TID: tid, Err: gather(reasons, err)}
		}
	}
	for _, s := range finished {
		s.b.commits.Add(1)
	}
	m.oids.raise(t.log.maxOID)
	m.committed.Add(1)
	m.weigh(t)
	m.mu.Lock()
	m.advanceLocked(tid)
	m.mu.Unlock()
	return nil
}

// advanceLocked makes tid visible to the readers of the present view.
func (m *Mirror) advanceLocked(tid TID) {
	old := m.view.Load()
	m.view.Store(&view{last: tid, sessions: old.sessions, closed: old.closed})
	m.wakeFollowersLocked()
}

// doubt notes that tid may be on some backends and not on others: nothing is
// committed before resolve has looked.
func (m *Mirror) doubt(tid TID, reason error) {
	m.doubtful[tid] = true
	m.inDoubtFor(&OutcomeUnknownError{TID: tid, Err: reason})
}

// inDoubtFor notes that resolve has to look before anything is committed.
func (m *Mirror) inDoubtFor(reason error) {
	m.unresolved = reason
	if m.inDoubt.Swap(true) {
		return // they know, and wait between their attempts
	}
	for _, b := range m.backends {
		b.wake() // a supervisor resolves it even if nobody commits
	}
}
