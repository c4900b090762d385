package raidstorage

// How commits overlap.
//
// A commit on files spends nearly all of its time waiting for disks. If all backends
// in sync can start a finish and wait for it later (FinishStarter), the commit slot is
// free as soon as the finish was started on all of them: the next transaction votes
// while the one before is on its way to the disks, and several share a sync. Such a
// transaction is in flight, until it ends as steps C7 and C8 of commit.go say:
//
//	slot      vote, behind the youngest in flight
//	slot      Finish: start it on all that voted; it is in flight; free the slot
//	          wait for all of them, each transaction with its own deadline (C7)
//	its turn  all before it have ended: drop who failed, acknowledge or not (C8)
//
// With any other backend in sync, commits go one at a time. Rules, each with the
// history that breaks without it (internal/commitmodel finds them):
//
//   - L1 A member's log has no gap: a transaction that is durable proves that all
//     which were started before it are. (T1, T2 in flight; B1 keeps T2 only, B2 both:
//     the logs part.) It is the contract of FinishStarter; and since a vote holds the
//     member's own lock, T2 can vote there only after T1 was started there.
//   - L2 Transactions end one by one, in tid order, each when every member of the record
//     has made it durable or was dropped. So they are acknowledged, become visible and
//     are told of in that order, and never before. (T2 acknowledged, T1 lost: what T2
//     was based on never happened. Shown when B1 has it: B1 is lost.)
//   - L3 When an outcome is unknown, so is that of all in flight behind it, and what has
//     voted behind it is aborted. Nothing is started before a resolve has looked (C6).
//     (T1 unknown, T2 started after it: B1 takes T2 behind T1, B2 without it.)
//   - L4 A member that was dropped for one transaction counts for none that ends later,
//     whatever it says. (Three members, W=2: B2 dropped for T1, T2 on B1 and B2, B3
//     fails: T2 acknowledged with one copy in the record.)
//   - L5 Members of the record differ by at most pipelineDepth trailing transactions;
//     a resolve rolls all of them forward, in order. (Only the last one: the logs part.)
//   - L6 Whatever else needs the commit slot - resolve, the last step of a recovery, a
//     pack's cut, Change, Disable, Close - also waits until nothing is in flight, and
//     no wait is cut short because the outcome is clear. (B2 joins with what is visible
//     while T1 is in flight, T2 votes: B2 has T2 without T1. Resolved while B2
//     still works at T2, which is then shown: B2 crashes without it.)
//   - L7 A vote is checked against the end of the log, not against what is visible: each
//     member answers with the youngest in flight as its last transaction. An answer
//     other than a unanimous yes waits until those have ended, with the votes' locks
//     held, so that a conflict is never about a revision that the client cannot load,
//     and failures are judged as if nothing overlapped. What undoes looks into the
//     log, and waits before it votes.
//
// An abort needs no rule: who had voted leaves nothing behind, and the next one votes
// on the same tail. Reads go by the visible tid (R1), whatever members hold beyond it.
//
// Crash points: those of commit.go. After a crash each member has some beginning of what
// was in flight; by L1 and L2 all that was acknowledged is in it.
//
// Explored without a violation (members, W, transactions, depth; crashes of members, of
// the front-end, faults of members, of the register):
//
//	2 1 4 3   1 1 2 1   720,402 states
//	2 2 4 3   1 2 2 1   687,287
//	2 1 3 3   2 2 2 2   761,238
//	3 1 3 3   1 1 1 1   252,847
//	3 2 3 3   1 1 2 1   855,096

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// pipelineDepth bounds the transactions in flight: more do not make a sync cheaper, and
// a resolve copies them one by one.
const pipelineDepth = 16

// flight is a transaction in flight.
type flight struct {
	t        *mirrorTxn
	tid      TID
	sessions []*session         // those that it was started on
	waits    *roundOf[struct{}] // ends when each has finished or failed
	deadline time.Time          // of the whole finish
	before   *flight            // the next older one; nil if there was none
	done     chan struct{}      // closed when it has ended
}

// lockVote takes the commit slot; others may be in flight.
func (m *Mirror) lockVote(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case m.commit <- struct{}{}:
	default:
		select {
		case m.commit <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		case <-m.ctx.Done():
			return ErrClosed
		}
	}
	if m.ctx.Err() != nil {
		<-m.commit
		return ErrClosed
	}
	return nil
}

// lockCommit takes the commit slot and waits until nothing is in flight (L6).
func (m *Mirror) lockCommit(ctx context.Context) error {
	err := m.lockVote(ctx)
	if err == nil {
		if err = m.landed(ctx); err != nil {
			<-m.commit
		}
	}
	return err
}

// holdSlot takes the commit slot, with everything settled.
func (m *Mirror) holdSlot(ctx context.Context) error {
	if err := m.lockCommit(ctx); err != nil {
		return err
	}
	if m.unresolved != nil {
		if err := m.resolve(ctx); err != nil {
			m.unlockCommit()
			return err
		}
	}
	return nil
}

// youngest returns the last one in flight, nil if there is none.
func (m *Mirror) youngest() *flight {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := len(m.flights); n > 0 {
		return m.flights[n-1]
	}
	return nil
}

// landed waits until nothing is in flight, which the deadlines bound. The commit slot
// is held.
func (m *Mirror) landed(ctx context.Context) error {
	if f := m.youngest(); f != nil {
		select {
		case <-f.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// beforeVoted returns the youngest in flight if a later transaction has voted.
func (m *Mirror) beforeVoted() *flight {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := len(m.flights); n > 0 && m.voted != nil && m.voted.state.Load() == txnVoted {
		return m.flights[n-1]
	}
	return nil
}

// inFrontOf makes ready for a vote of t. It returns the one in flight that it follows,
// or nil if nothing is in flight. The commit slot is held.
func (m *Mirror) inFrontOf(ctx context.Context, t *mirrorTxn) (*flight, error) {
	f := m.youngest()
	if f == nil {
		return nil, nil
	}
	if t.log.undos() > 0 || m.inDoubt.Load() || !slices.Equal(f.sessions, m.view.Load().sessions) { // L3, L7
		return nil, m.landed(ctx)
	}
	m.mu.Lock()
	var oldest *flight
	if len(m.flights) >= pipelineDepth { // L5
		oldest = m.flights[0]
	}
	m.mu.Unlock()
	if oldest == nil {
		return f, nil
	}
	select {
	case <-oldest.done:
		return m.inFrontOf(ctx, t)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// errVoteAgain says that the vote must be repeated: what was in flight before it does
// not end well.
var errVoteAgain = errors.New("an earlier transaction has failed meanwhile")

// landBeforeJudging waits until what was in flight before a vote that is not unanimous
// has ended (L7). An error frees the votes' locks.
func (m *Mirror) landBeforeJudging(ctx context.Context, v *view, results []result[voter]) error {
	err := m.landed(ctx)
	if err == nil && m.unresolved == nil && m.covers(v) {
		return nil
	}
	var voters []voter
	for _, r := range results {
		if r.err == nil {
			voters = append(voters, r.value)
		}
	}
	m.abortAll(ctx, voters)
	if err == nil {
		err = errVoteAgain
	}
	return err
}

// takeOff starts the finish of t on all that voted, if all can do that. It returns nil
// if not: then nothing is in flight. An error means that t was aborted. The commit slot
// is held.
func (m *Mirror) takeOff(ctx context.Context, t *mirrorTxn) (*flight, error) {
	starts := make([]FinishStarter, len(t.voters))
	for i, v := range t.voters {
		var ok bool
		if starts[i], ok = v.txn.(FinishStarter); !ok {
			return nil, m.landToFinish(ctx, t)
		}
	}
	timeout := m.tuned().Timeouts.Finish
	f := &flight{t: t, tid: t.meta.TID, sessions: t.sessions(), done: make(chan struct{}), deadline: time.Now().Add(timeout)}
	waiting := make([]func(context.Context) error, len(t.voters))
	f.waits = newRound(ctx, f.sessions, timeout, func(ctx context.Context, i int, _ *session) (none struct{}, err error) {
		if waiting[i] == nil { // it is one that fails, see below
			if waiting[i], err = starts[i].StartFinish(ctx); err != nil {
				return none, err
			}
		}
		return none, waiting[i](ctx)
	}, nil)
	if !m.board(f) {
		if err := m.landToFinish(ctx, t); err != nil {
			return nil, err
		}
		m.board(f)
	}
	// The slot need not be held for one that is known to fail: the next vote is without it.
	var live []*session
	var at []int
	for i, s := range f.sessions {
		if s.dead.Load() {
			f.waits.send(i, s.calls)
		} else {
			live, at = append(live, s), append(at, i)
		}
	}
	for _, r := range round(ctx, m, "finish", live, timeout, func(ctx context.Context, k int, s *session) (none struct{}, err error) {
		i := at[k]
		if waiting[i], err = starts[i].StartFinish(ctx); err != nil {
			f.waits.answer(i, none, err)
		} else {
			f.waits.send(i, s.waits) // now, not when all have started: there is one deadline
		}
		return none, err
	}, nil) {
		if r.err != nil {
			m.fault(r.session, r.err) // before the next vote
		}
	}
	return f, nil
}

// board makes f the youngest in flight, unless an earlier outcome is unknown (L3).
func (m *Mirror) board(f *flight) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.inDoubt.Load() {
		return false
	}
	if n := len(m.flights); n > 0 {
		f.before = m.flights[n-1]
	}
	m.flights = append(slices.Clone(m.flights), f)
	return true
}

// landToFinish waits until nothing is in flight before t, which has voted. If that did
// not end well it aborts t (L3).
func (m *Mirror) landToFinish(ctx context.Context, t *mirrorTxn) error {
	err := m.landed(ctx)
	if err == nil && m.unresolved != nil {
		err = &UnavailableError{Err: fmt.Errorf("aborted, as the outcome of an earlier transaction is unknown: %v", m.unresolved)}
	}
	if err != nil {
		m.abortAll(ctx, t.voters)
	}
	return err
}

// land waits for the transaction in flight, and for those before it, and ends it.
func (m *Mirror) land(ctx context.Context, f *flight, ended func(error)) error {
	f.waits.wait(ctx, m, max(time.Until(f.deadline), 0))
	errs := make([]error, len(f.sessions))
	for i, r := range f.waits.results("finish") {
		errs[i] = r.err
	}
	if f.before != nil {
		<-f.before.done // its deadlines bound this
		f.before = nil
	}
	err := m.conclude(ctx, f.t, errs) // L2
	ended(err)
	m.mu.Lock()
	m.flights = slices.Clone(m.flights[1:])
	m.mu.Unlock()
	close(f.done)
	return err
}
