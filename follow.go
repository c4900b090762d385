package raidstorage

// An asynchronous backend follows the log (its supervisor does, one step after another):
//
//	open     with the deadline; failures are tried again with growing pauses
//	compare  as a recovery does: its log must be a beginning of the others' (V1). One
//	         that has diverged is refused, and waits for an operator
//	read     from a backend in sync: the transactions after its last one, as many as a
//	         batch holds, in memory and temporary files (see spooled)
//	write    each as it is, on condition that the log still ends at its predecessor (R1)
//	pack     as the others were, at the cut (follow_pack.go)
//
// Invariants. Only what is visible is sent: what resolve may still drop never gets there,
// so the backend always holds a beginning of what clients have seen. Nobody waits for
// it, and it counts for nothing: a commit only wakes it, and nothing of the backlog is
// kept, as the log is the backlog. Crash points: it holds a beginning of the log at
// each moment; whatever was lost, the next comparison tells where to go on.

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Bounds of a batch. One transaction may be larger; it waits in a temporary file.
const (
	batchTransactions = 64
	batchBytes        = 4 << 20
)

// slowest is the rate, in bytes a second, below which a backend that follows is given up:
// a large transaction has this much longer than the deadline of a vote.
const slowest = 64 << 10

// follower is what a supervisor remembers between two steps of following.
type follower struct {
	session *session // that was compared; another one has to be compared anew
	last    TID      // the end of its log
	aligned TID      // the pack time of the others when it was last compared with them
	pace    pacer
	from    *recovery // that compared it: what it may be read from
}

// follow makes one step for b. If it returns no error, and more, another one follows at
// once.
func (m *Mirror) follow(b *backend, f *follower) (more bool, err error) {
	ctx, cancel := m.following(m.ctx, b)
	if ctx == nil {
		return false, nil
	}
	defer cancel()
	s, err := m.ensureOpen(ctx, b)
	if err != nil {
		return false, err
	}
	// One that is not following lost its role for a moment, while its storage stayed open.
	if state, _ := m.stateOf(b); f.session != s || state != StateFollowing {
		if err := m.compareFollower(ctx, b, f, s, RecoverOptions{}); err != nil {
			return false, m.followFailed(ctx, b, s, err)
		}
	}
	through, pack := m.followThrough(b)
	if f.last >= through {
		if pack != nil {
			m.packFollower(ctx, b, s, pack)
			return true, nil
		}
		return m.alignFollower(ctx, b, f, s)
	}
	batch, err := m.readBatch(ctx, f, through)
	defer releaseAll(batch)
	if err != nil { // no fault of this one
		return false, m.followWaits(ctx, b, err)
	}
	if err := m.writeBatch(ctx, b, f, batch); err != nil {
		return false, m.followFailed(ctx, b, s, err)
	}
	return true, nil
}

// following returns a context that ends with the parent, and when b is disabled, leaves
// or gets another role; nil if it does not follow.
func (m *Mirror) following(parent context.Context, b *backend) (context.Context, context.CancelFunc) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if b.role.Actual != RoleAsync || b.state != StateFailed && b.state != StateFollowing || b.hasLeft() {
		return nil, nil
	}
	ctx, cancel := context.WithCancel(parent)
	b.cancelRecovery = cancel
	return ctx, cancel
}

// compareFollower finds the end of b's log in the others', or refuses it.
func (m *Mirror) compareFollower(ctx context.Context, b *backend, f *follower, s *session, opts RecoverOptions) error {
	m.mu.Lock()
	opts.Full = opts.Full || slices.Contains(m.shown.Damaged, b.cfg.Name) || slices.Contains(m.shown.New, b.cfg.Name)
	fresh := opts.Full
	horizon := m.shown.PackHorizon
	m.mu.Unlock()
	r := &recovery{m: m, b: b, target: s, opts: opts}
	err := r.findSources(ctx)
	if err == nil {
		err = r.compare(ctx)
	}
	if err != nil {
		if m.packedSince(horizon) { // what differs may be what a pack drops at this moment
			err = &BusyError{Op: "compare", Holder: "pack", Reason: err.Error(), Since: m.now()}
		}
		return err
	}
	if fresh {
		if err := m.noteCompared(ctx, b); err != nil {
			return err
		}
	}
	f.session, f.last, f.from = s, r.last, r
	m.countLag(ctx, b, r)
	m.mu.Lock()
	defer m.mu.Unlock()
	b.lastTID = r.last
	m.caughtUpLocked(b)
	if b.state == StateFailed && b.role.Actual == RoleAsync { // else it was disabled, follows already, or is to be recovered
		m.setStateLocked(b, eventFollows, "follows from "+r.last.String())
	}
	return nil
}

// refollow has b follow again that was disabled or refused, as an operator asks.
func (m *Mirror) refollow(ctx context.Context, b *backend, f *follower, r *recoverRequest) error {
	opts := r.opts
	if state, _ := m.stateOf(b); state == StateDisabled {
		if err := m.enable(ctx, b, r, m.toBeComparedLocked); err != nil {
			return err
		}
	}
	ctx, cancel := m.following(ctx, b)
	if ctx == nil {
		return &InvalidError{Op: r.op, Reason: fmt.Sprintf("backend %s does not follow any more", b.cfg.Name)}
	}
	defer cancel()
	m.mu.Lock()
	b.parked = false
	m.mu.Unlock()
	s, err := m.ensureOpen(ctx, b)
	if err != nil || f.session == s && !opts.Full && !opts.Rollback {
		return err
	}
	if err := m.compareFollower(ctx, b, f, s, opts); err != nil {
		m.followFailed(ctx, b, s, err)
		return err
	}
	return nil
}

// packedSince tells whether a pack runs, or ran since the horizon was this one.
func (m *Mirror) packedSince(horizon TID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.exclusion.pack != nil || m.shown.PackHorizon != horizon
}

// noteCompared takes out of the record that b has to be compared as a whole.
func (m *Mirror) noteCompared(ctx context.Context, b *backend) error {
	return m.amend(ctx, b, b.cfg.Name+" compared", func(next *Membership, is func(string) bool) {
		next.New = slices.DeleteFunc(next.New, is)
		next.Damaged = slices.DeleteFunc(next.Damaged, is)
	})
}

// amend changes what the record says of b, which follows. It waits for a commit under way.
func (m *Mirror) amend(ctx context.Context, b *backend, reason string, edit func(next *Membership, is func(name string) bool)) error {
	if err := m.holdSlot(ctx); err != nil {
		return err
	}
	defer m.unlockCommit()
	if b.hasLeft() || ctx.Err() != nil {
		return context.Canceled
	}
	next := m.record.next(m.now(), reason)
	edit(&next, func(name string) bool { return name == b.cfg.Name })
	return m.setRecord(context.WithoutCancel(ctx), next)
}

// followThrough returns up to where b may be given the log: the visible tid, or the cut
// of a pack that waits for it.
func (m *Mirror) followThrough(b *backend) (TID, *packAt) {
	m.mu.Lock()
	defer m.mu.Unlock()
	last := m.view.Load().last
	if p := b.pack; p != nil {
		return min(last, p.cut), p
	}
	return last, nil
}

// readBatch reads the next transactions from a backend in sync, from such as were packed
// alike (recovery_source.go).
func (m *Mirror) readBatch(ctx context.Context, f *follower, through TID) (batch []*spooled, err error) {
	v := m.view.Load()
	err = f.from.findSources(ctx)
	if err != nil {
		return nil, err
	}
	source, err := f.from.source()
	if err != nil {
		f.session = nil // to be compared anew, with others
		return nil, err
	}
	room := int64(batchBytes)
	for txn, err := range source.timely.Iterate(ctx, f.last+1, through) {
		if err != nil {
			return batch, m.sourceFailed(ctx, f, v, source, err)
		}
		one, err := m.spool(ctx, txn, room)
		if err != nil {
			return batch, m.sourceFailed(ctx, f, v, source, err)
		}
		batch = append(batch, one)
		if room -= one.weight; room <= 0 || len(batch) >= batchTransactions {
			break
		}
	}
	if len(batch) == 0 && ctx.Err() == nil {
		return nil, fmt.Errorf("the log of %s ends before %v", source.b.cfg.Name, through)
	}
	return batch, ctx.Err()
}

// sourceFailed drops a source that failed, as a read does. The follower goes on with
// another one.
func (m *Mirror) sourceFailed(ctx context.Context, f *follower, v *view, source *session, err error) error {
	if spool, ok := errors.AsType[*spoolError](err); ok || ctx.Err() != nil {
		return errors.Join(spool, ctx.Err())
	}
	f.from.sources.fails(source)
	if failed := m.iterationFailed(ctx, &v, &iterationError{source, err}); failed != nil {
		return failed
	}
	return err // another source has its turn after a pause
}

// followFailed notes why b does not follow now, and lets go of its storage: the next
// attempt opens it anew.
func (m *Mirror) followFailed(ctx context.Context, b *backend, s *session, err error) error {
	if ctx.Err() != nil {
		return nil // it is not to follow any more, or the mirror closes
	}
	refused := isA[*DivergedError](err) || isA[*DifferenceError](err)
	if isA[*UnavailableError](err) || isA[*BusyError](err) || errors.Is(err, errPackedApart) {
		return m.followWaits(ctx, b, err)
	}
	m.mu.Lock()
	b.faults.Add(1)
	s.dead.Store(true)
	if !m.setStateLocked(b, eventFault, err.Error()) && b.state == StateFailed {
		b.reason = err.Error()
	}
	b.parked, b.apart = refused, isA[*DifferenceError](err)
	m.mu.Unlock()
	if refused {
		m.cfg.Logger.Error("a backend cannot follow", "backend", b.cfg.Name, "err", err)
	}
	m.closeBackend(b)
	return err
}

// followWaits notes why nothing is sent to b, which is as it was.
func (m *Mirror) followWaits(ctx context.Context, b *backend, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	b.reason = err.Error()
	return err
}
