package raidstorage

// Resolve makes the backends in sync equal before anything is served: at start-up,
// after a commit of unknown outcome, and when last tids turn out to differ
// (replication.md S1-S6, model section "Start-up / RESOLVE"):
//
//	move the epoch, if a change of the record may still be under way (S1, F3)
//	lock all of I by the vote of an empty transaction
//	those that fail leave the record, but not below StartQuorum (S2)
//	all tails equal: that is the visible state; free the locks; serve (S4)
//	a tail that is a beginning of the longest: roll it forward (S5) and start over;
//	it may lack what was in flight (pipeline.go, L5)
//	tails that part: keep the longest, drop the rest (S6; tie: what most have, then
//	the first configured, since neither was acknowledged)
//
// The commit slot is held throughout, so that no commit of this front-end runs; the
// locks wait for, or outlive, what a dead one left behind. A roll-forward cannot run
// under the lock, being a transaction of its own: it checks under its own lock that
// the target still ends where the plan says (S7).
//
// Crash points: every step leaves either a record that names fewer backends, or one
// more backend with the trailing transaction; start-up begins again from there.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/go-multierror"
)

// resolveAttempts bounds how often resolve starts over. Each turn either ends,
// drops a backend or rolls one forward.
const resolveAttempts = 16

// tail is the end of one backend's log, seen under its commit lock.
type tail struct {
	voter  voter
	last   TID
	digest digest
	oid    OID // one that the backend would give out next
}

// resolve settles what is in doubt. On an error m.unresolved stays set and nothing
// may be committed.
func (m *Mirror) resolve(ctx context.Context) error {
	if m.unresolved == nil {
		m.unresolved = fmt.Errorf("the backends are being compared")
	}
	var err error
	for range resolveAttempts {
		var done bool
		if done, err = m.resolveOnce(ctx); done || ctx.Err() != nil {
			return err
		}
	}
	return cmp.Or(err, m.unresolved)
}

// onWorker makes one call to s on its worker, so that a backend that hangs, even
// one that does not obey its context, costs a deadline and no more. A failure is a
// fault of s, unless the caller gave up.
func onWorker[T any](ctx context.Context, m *Mirror, op string, s *session, fn func(context.Context) (T, error)) (T, error) {
	r := round(ctx, m, op, []*session{s}, m.tuned().Timeouts.Vote,
		func(ctx context.Context, _ int, _ *session) (T, error) { return fn(ctx) }, nil)[0]
	if r.err != nil && ctx.Err() == nil && Classify(r.err) == ClassFailure && !isA[*iterationError](r.err) {
		m.fault(s, r.err)
	}
	return r.value, r.err
}

// resolveOnce makes one turn; done is false if another one may get further.
func (m *Mirror) resolveOnce(ctx context.Context) (done bool, err error) {
	if m.epochLost {
		if err := m.moveEpoch(ctx, m.unresolved.Error()); err != nil {
			return true, err
		}
	}
	live, dead := m.members()
	tails, failed := m.lockAll(ctx, live)
	voters := make([]voter, len(tails))
	for i, t := range tails {
		voters[i] = t.voter
	}
	defer func() { m.abortAll(ctx, voters) }()
	if err := ctx.Err(); err != nil {
		return true, err
	}
	gone := append(dead, failed...)
	floor := m.floor()
	if len(tails) < floor {
		return true, &UnavailableError{InSync: len(tails), Need: floor, Err: m.reasons(gone)}
	}
	if err := m.holdsAll(tails); err != nil {
		return true, err
	}
	behind, bad, err := m.compareTails(ctx, tails)
	if err != nil {
		return ctx.Err() != nil, err
	}
	if len(tails)-len(bad) < floor {
		return true, &UnavailableError{InSync: len(tails) - len(bad), Need: floor, Err: m.unresolved}
	}
	for _, t := range bad {
		gone = append(gone, t.voter.session.b)
	}
	if len(gone) > 0 {
		if err := m.removeBackends(context.WithoutCancel(ctx), gone, m.reasons(gone).Error()); err != nil {
			return false, err
		}
	}
	if len(bad) > 0 {
		return false, nil
	}
	if len(behind) > 0 {
		m.abortAll(ctx, voters)
		voters = nil
		return false, m.rollForward(ctx, tails, behind)
	}
	return true, m.settled(ctx, tails)
}

// floor is how many backends must stay in the record (S2). A record that names fewer
// than StartQuorum, after a first or a forced start, keeps those.
func (m *Mirror) floor() int {
	return max(1, min(m.tuned().StartQuorum, len(m.record.InSync)))
}

// holdsAll makes sure that some backend that answers has all that clients have seen
// (P2), before any other leaves the record.
func (m *Mirror) holdsAll(tails []tail) error {
	seen := m.view.Load().last
	if slices.ContainsFunc(tails, func(t tail) bool { return t.last >= seen }) {
		return nil
	}
	return fmt.Errorf("all backends that answer end before the last acknowledged transaction %v", seen)
}

// members returns the live sessions of the backends that the record names, and the
// backends that have none.
func (m *Mirror) members() (live []*session, dead []*backend) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range m.backends {
		switch {
		case !slices.Contains(m.record.InSync, b.cfg.Name):
		case b.session == nil || b.session.dead.Load():
			dead = append(dead, b)
		default:
			live = append(live, b.session)
		}
	}
	return live, dead
}

// lockAll takes the commit locks of sessions, one after the other in configured
// order, so that two who do so cannot deadlock (M1), and reads their tails.
func (m *Mirror) lockAll(ctx context.Context, sessions []*session) (tails []tail, failed []*backend) {
	horizon := m.record.PackHorizon // the worker may be late, when the slot is another's
	lock := func(ctx context.Context, _ int, s *session) (tail, error) {
		txn, err := s.storage.Begin(ctx, Meta{})
		if err != nil {
			return tail{}, err
		}
		vote, err := txn.Vote(ctx)
		if err != nil {
			return tail{}, err
		}
		t := tail{voter: voter{session: s, txn: txn, vote: vote}, last: vote.Last}
		var ok bool
		if t.digest, ok, err = digestAt(ctx, s.storage, t.last); err == nil && t.last <= horizon {
			t.digest = digest{} // it was acknowledged, and may have lost records to a pack
		}
		if err == nil && !ok {
			err = &CorruptError{Storage: s.storage.Name(), Offset: -1, TID: t.last, Reason: "the last transaction is not in the log"}
		}
		var oids []OID
		if err == nil {
			oids, err = s.storage.NewOIDs(ctx, 1)
		}
		if err != nil {
			txn.Abort(context.WithoutCancel(ctx))
			return t, err
		}
		t.oid = oids[0]
		return t, nil
	}
	late := func(t tail) { t.voter.txn.Abort(context.WithoutCancel(ctx)) }
	for _, s := range sessions {
		r := round(ctx, m, "lock", []*session{s}, m.tuned().Timeouts.Vote, lock, late)[0]
		switch {
		case r.err == nil:
			tails = append(tails, r.value)
		case ctx.Err() == nil:
			m.fault(s, r.err)
			failed = append(failed, s.b)
		}
	}
	return tails, failed
}

// compareTails returns the backends that lack only trailing transactions of ours,
// and those that must leave the record. An error says that they cannot be compared.
func (m *Mirror) compareTails(ctx context.Context, tails []tail) (behind, bad []tail, err error) {
	keep, seen := m.longest(tails), m.view.Load().last
	for _, t := range tails {
		if t.last == keep.last && t.digest == keep.digest {
			continue
		}
		missing, reason, err := m.missing(ctx, t, keep)
		switch {
		case err != nil:
			return nil, nil, err
		case t.last < seen:
			reason = fmt.Errorf("its log ends at %v, before the last acknowledged transaction %v", t.last, seen)
		case reason == nil && missing > pipelineDepth:
			reason = fmt.Errorf("its log ends at %v, more than %d transactions before the others", t.last, pipelineDepth)
		case reason == nil:
			behind = append(behind, t)
			continue
		}
		m.fault(t.voter.session, reason)
		bad = append(bad, t)
	}
	return behind, bad, nil
}

// longest returns the tail to keep. A transaction that no front-end of this mirror
// made counts only if all have it (S5).
func (m *Mirror) longest(tails []tail) tail {
	var keep *tail
	for i := range tails {
		t := &tails[i]
		if !m.ours(t.last) && !everyTail(tails, *t) {
			continue
		}
		if keep == nil || t.last > keep.last || t.last == keep.last && count(tails, *t) > count(tails, *keep) {
			keep = t
		}
	}
	if keep == nil {
		return tails[0] // all have foreign tails: the first configured stays, the others leave
	}
	return *keep
}

// ours tells whether this mirror may have made the trailing transaction tid: while
// it runs it knows which ones are in doubt; at start-up those of a predecessor lie
// at or below the reserved tids.
func (m *Mirror) ours(tid TID) bool {
	if !m.started {
		return tid <= m.tids.mark
	}
	return m.doubtful[tid] || tid <= m.view.Load().last
}

func everyTail(tails []tail, t tail) bool { return count(tails, t) == len(tails) }

// count tells how many of tails are the same as t.
func count(tails []tail, t tail) (n int) {
	for _, o := range tails {
		if o.last == t.last && o.digest == t.digest {
			n++
		}
	}
	return n
}

// missing counts the transactions, up to pipelineDepth+1, that keep has after short's end. A
// reason says that short's log is not a beginning of keep's, an error that keep
// cannot be asked.
func (m *Mirror) missing(ctx context.Context, short, keep tail) (n int, reason, err error) {
	if short.last >= keep.last {
		return 0, fmt.Errorf("its last transaction is %v, that of the others %v", short.last, keep.last), nil
	}
	source, horizon := keep.voter.session, m.record.PackHorizon
	n, err = onWorker(ctx, m, "compare", source, func(ctx context.Context) (n int, err error) {
		d, ok, err := digestAt(ctx, source.timely, short.last)
		if short.last <= horizon {
			d = digest{}
		}
		if err != nil || !ok || d != short.digest {
			return -1, err
		}
		for _, err := range source.timely.Iterate(ctx, short.last+1, keep.last) {
			if n++; err != nil || n > pipelineDepth {
				return n, err
			}
		}
		return n, nil
	})
	if n < 0 {
		reason = fmt.Errorf("its last transaction %v differs from the others' log", short.last)
	}
	return n, reason, err
}

// rollForward copies the trailing transactions to those that lack them, in order (L5).
func (m *Mirror) rollForward(ctx context.Context, tails, behind []tail) error {
	keep := m.longest(tails)
	source := keep.voter.session
	for _, t := range behind {
		_, err := onWorker(ctx, m, "roll forward", t.voter.session, func(ctx context.Context) (struct{}, error) {
			last := t.last
			for txn, err := range source.timely.Iterate(ctx, last+1, keep.last) {
				if err != nil {
					return struct{}{}, &iterationError{source, err}
				}
				if err := copyTransaction(ctx, t.voter.session.storage, txn, last); err != nil {
					return struct{}{}, err
				}
				last = txn.TID
			}
			return struct{}{}, nil
		})
		if failed, ok := errors.AsType[*iterationError](err); ok && ctx.Err() == nil {
			m.fault(failed.session, failed)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// settled makes the equal tails the visible state and tells of what is new.
func (m *Mirror) settled(ctx context.Context, tails []tail) error {
	last := tails[0].last
	for _, t := range tails {
		m.oids.raise(t.oid)
	}
	if err := m.tids.claim(ctx, last); err != nil {
		return err
	}
	news, err := m.newsSince(ctx, tails[0].voter.session, last)
	if err != nil {
		return err
	}
	m.unresolved = nil
	clear(m.doubtful)
	m.inDoubt.Store(false)
	m.committed.Add(int64(len(news)))
	m.mu.Lock()
	for _, t := range tails {
		if !t.voter.session.dead.Load() { // else a read has failed meanwhile
			m.setStateLocked(t.voter.session.b, eventConfirmed, "complete")
		}
	}
	m.publishLocked(last)
	m.mu.Unlock()
	for _, inv := range news {
		m.notify(inv)
	}
	return nil
}

// newsSince lists the transactions that become visible with last.
func (m *Mirror) newsSince(ctx context.Context, s *session, last TID) ([]Invalidation, error) {
	old := m.view.Load().last
	if !m.started || last <= old {
		return nil, nil // at start-up there is nobody to tell
	}
	return onWorker(ctx, m, "read", s, func(ctx context.Context) (news []Invalidation, err error) {
		for txn, err := range s.timely.Iterate(ctx, old+1, last) {
			if err != nil {
				return nil, err
			}
			inv := Invalidation{TID: txn.TID}
			for r, err := range txn.Records {
				if err != nil {
					return nil, err
				}
				inv.OIDs = append(inv.OIDs, r.OID)
			}
			slices.Sort(inv.OIDs)
			inv.OIDs = slices.Compact(inv.OIDs)
			news = append(news, inv)
		}
		return news, nil
	})
}

// reasons says why backends are not there.
func (m *Mirror) reasons(backends []*backend) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs *multierror.Error
	for _, b := range backends {
		errs = gather(errs, fmt.Errorf("backend %s: %s", b.cfg.Name, b.reason))
	}
	return errs.ErrorOrNil()
}
