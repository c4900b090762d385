package raidstorage

// A recovery brings one backend, the target, to the end of the log, while commits
// go on (replication.md V1-V4; model R1-R7 and F1):
//
//	compare  find the last transaction that the target has in common with the
//	         backends in sync, by content; it may have none after that
//	copy     append what is missing, each transaction as it is, on condition that
//	         the target still ends at its predecessor; round after round, as the
//	         log grows meanwhile
//	align    if they were packed apart, pack the target as the others were, or refuse
//	         it (recovery_pack.go)
//	join     with the commit slot held: copy the last few, compare the ends by
//	         content, write the record, open it for reads and commits
//
// Only acknowledged transactions are copied. The record is written before anything
// counts on the target. Crash points: during the copy the target is a beginning of
// the log, and the next recovery goes on from there; after the record was written it
// holds every acknowledged transaction.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// RecoverOptions says how to recover a backend.
type RecoverOptions struct {
	// Full compares the whole history instead of looking for the last common
	// transaction from the end.
	Full bool
	// Rollback cuts off the transactions that only the target has, if its storage
	// is a Truncater; it keeps them beside it. Without it such a target is refused
	// with *DivergedError.
	Rollback bool
	// NoWait refuses with *BusyError while a pack is going on, instead of waiting.
	NoWait bool
}

// RecoveryPhase is what a recovery is doing.
type RecoveryPhase string

// The phases of a recovery, in order.
const (
	PhaseCompare RecoveryPhase = "compare"
	PhaseCopy    RecoveryPhase = "copy"
	PhaseAlign   RecoveryPhase = "align"
	PhaseJoin    RecoveryPhase = "join"
)

// RecoveryProgress tells how far a recovery is.
type RecoveryProgress struct {
	Backend string        `json:"backend"`
	Phase   RecoveryPhase `json:"phase"`
	Started time.Time     `json:"started"`
	TID     TID           `json:"tid"`    // the last transaction copied
	Target  TID           `json:"target"` // the last one to copy, for now
	// Done and to do. The latter is -1 until it is known.
	Transactions     int64 `json:"transactions"`
	Bytes            int64 `json:"bytes"`
	TransactionsToDo int64 `json:"transactions_to_do"`
	BytesToDo        int64 `json:"bytes_to_do"`
	// Rate is in bytes per second, Left the estimated time, 0 while not known.
	Rate float64       `json:"rate"`
	Left time.Duration `json:"left_ns"`
}

// String tells the progress in one line.
func (p *RecoveryProgress) String() string {
	s := fmt.Sprintf("%s: %d transactions, %d bytes copied up to %v", p.Phase, p.Transactions, p.Bytes, p.TID)
	if p.TransactionsToDo >= 0 {
		s += fmt.Sprintf(", %d to do", p.TransactionsToDo)
	}
	if p.Left > 0 {
		s += fmt.Sprintf(", %v left", p.Left.Round(time.Second))
	}
	return s
}

// Recover brings a backend back: it is opened, compared, given what it lacks, and
// taken into the mirror. It returns when that is done, at once if the backend is in
// sync. Errors: *DivergedError, *InvalidError for an unknown name, what the backends
// say. If ctx ends the recovery stops; the next one goes on from there. A disabled
// backend is not disabled any more as soon as it has answered.
func (m *Mirror) Recover(ctx context.Context, name string) error {
	return m.RecoverWith(ctx, name, RecoverOptions{})
}

// RecoverWith is Recover with options.
func (m *Mirror) RecoverWith(ctx context.Context, name string, opts RecoverOptions) error {
	return m.ask(ctx, recoverRequest{op: "recover", opts: opts}, name)
}

// ask has the supervisor of a backend carry out a request.
func (m *Mirror) ask(ctx context.Context, r recoverRequest, name string) error {
	b := m.backendNamed(name)
	if b == nil {
		return &InvalidError{Op: r.op, Reason: fmt.Sprintf("there is no backend %q", name)}
	}
	m.mu.Lock()
	r.disabled = b.disabled
	m.mu.Unlock()
	for {
		err := m.requestRecovery(ctx, b, r)
		if !isA[*BusyError](err) || r.opts.NoWait {
			return err
		}
		// Not the supervisor waits, which has other things to do.
		if err := m.awaitPack(ctx); err != nil {
			return err
		}
	}
}

// awaitPack waits until no pack, and no change of the configuration, is in the way.
func (m *Mirror) awaitPack(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.exclusion.packBusyLocked("recover") != nil {
		if err := m.exclusion.awaitLocked(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// Recoveries returns the progress of the recoveries under way.
func (m *Mirror) Recoveries() []RecoveryProgress {
	var all []RecoveryProgress
	for _, b := range m.Status().Backends {
		if b.Recovery != nil {
			all = append(all, *b.Recovery)
		}
	}
	return all
}

// recover runs one recovery of b, on its supervisor. A disabled backend is not recovered:
// see readmit.
func (m *Mirror) recover(ctx context.Context, b *backend, opts RecoverOptions, as entry) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := m.ensureOpen(ctx, b)
	if err != nil {
		return err
	}
	m.mu.Lock()
	shared, err := m.exclusion.shareLocked("recover "+b.cfg.Name, "recovery of "+b.cfg.Name, m.now())
	if err != nil {
		m.mu.Unlock()
		return err
	}
	defer m.exclusion.leave(m, shared)
	if !as.promotes && b.role.Actual != RoleFull || as.instead != nil && b.role.Actual != RoleSpare { // it has another role since its storage was opened
		role := b.role.Actual
		m.mu.Unlock()
		return &InvalidError{Op: "recover", Reason: fmt.Sprintf("backend %s is %v now", b.cfg.Name, role)}
	}
	if b.hasLeft() || b.state == StateDisabled || !m.setStateLocked(b, eventRecoveryStarted, "recovery") {
		state := b.state
		m.mu.Unlock()
		return &InvalidError{Op: "recover", Reason: fmt.Sprintf("backend %s is %v", b.cfg.Name, state)}
	}
	b.cancelRecovery, shared.of = cancel, b
	m.exclusion.giveWayLocked()
	opts.Full = opts.Full || slices.Contains(m.shown.Damaged, b.cfg.Name) || slices.Contains(m.shown.New, b.cfg.Name)
	b.recovery = &RecoveryProgress{Backend: b.cfg.Name, Phase: PhaseCompare, Started: m.now(), TransactionsToDo: -1, BytesToDo: -1}
	m.mu.Unlock()
	r := &recovery{m: m, b: b, target: s, opts: opts, as: as}
	err = r.run(ctx)
	m.mu.Lock()
	b.cancelRecovery, b.recovery = nil, nil
	if err != nil {
		m.setStateLocked(b, eventRecoveryEnded, "recovery: "+err.Error())
		b.apart = isA[*DifferenceError](err)
		b.parked = b.apart || isA[*DivergedError](err)
	}
	m.mu.Unlock()
	// What failed may be the target's connection, it may have become read-only, and a
	// diverged disk may be replaced: the next attempt opens it anew.
	if err != nil {
		m.closeBackend(b)
	}
	return err
}

// recovery is one run.
type recovery struct {
	m       *Mirror
	b       *backend
	target  *session
	opts    RecoverOptions
	last    TID // the end of the target's log
	told    time.Time
	sources sources
	as      entry

	found    common // by compare
	empty    bool   // the target had nothing
	uneven   bool   // it has another number of objects than a source
	aligned  bool   // it holds the same objects, see align, but for garbage if unpacked
	unpacked bool
}

// joinLag is how many transactions may be left to copy under the commit slot.
const joinLag = 4

// run goes through the steps, again where the sources have changed: it ends, as each
// time a source was lost.
func (r *recovery) run(ctx context.Context) error {
	for {
		err := r.runFrom(ctx)
		r.m.stopsCopying(r.b)
		if !errors.Is(err, errPackedApart) {
			return err
		}
		r.m.cfg.Logger.Warn("recovering from a backend that was packed at another time", "backend", r.b.cfg.Name, "tid", r.last)
		r.sources.chosen, r.uneven, r.aligned, r.unpacked = nil, false, false, false
	}
}

// runFrom goes through the steps with sources that were packed alike.
func (r *recovery) runFrom(ctx context.Context) error {
	if err := r.findSources(ctx); err != nil {
		return err
	}
	if err := r.compare(ctx); err != nil {
		return err
	}
	for {
		if err := r.findSources(ctx); err != nil {
			return err
		}
		committed := r.m.committed.Load()
		through := r.m.view.Load().last
		r.m.copies(r.b, r.count(ctx, through), committed)
		n, err := r.copyThrough(ctx, through, r.m.tuned().Timeouts.Vote)
		if err != nil {
			return err
		}
		if n <= joinLag && r.mustAlign() {
			r.m.stopsCopying(r.b) // commits do not wait for a pack
			if err := r.align(ctx); err != nil {
				return err
			}
			continue
		}
		if n <= joinLag {
			joined, err := r.join(ctx)
			if joined || err != nil {
				return err
			}
		}
	}
}

// compare finds where to go on, and refuses a target that holds what the mirror
// does not.
func (r *recovery) compare(ctx context.Context) error {
	c, err := r.lastCommon(ctx)
	if err == nil && c.extra > 0 {
		// What the target has more may be a commit that is not acknowledged yet, or
		// whose outcome is open: that is settled before the target is judged.
		if err = r.m.settleOpen(ctx); err == nil {
			c, err = r.lastCommon(ctx)
		}
	}
	if err != nil {
		return err
	}
	if c.extra > 0 {
		if c, err = r.rollback(ctx, c); err != nil {
			return err
		}
	}
	if c.shared == 0 && !c.empty && c.last != 0 {
		return &DivergedError{Backend: r.b.cfg.Name, First: c.last,
			Hint: "a pack of the others has left nothing that it has in common with them; empty it to use it here"}
	}
	r.last, r.found, r.empty = c.last, c, c.empty
	return nil
}

func (r *recovery) lastCommon(ctx context.Context) (common, error) {
	source, err := r.source()
	if err != nil {
		return common{}, err
	}
	c, err := lastCommon(ctx, r.target.timely, source.timely, r.m.view.Load().last, r.opts.Full)
	if err != nil {
		r.doubtSource(ctx, source)
		return c, fmt.Errorf("compare with %s: %w", source.b.cfg.Name, err)
	}
	return c, nil
}

// settleOpen waits for a commit under way, and settles what is in doubt.
func (m *Mirror) settleOpen(ctx context.Context) error {
	if err := m.lockCommit(ctx); err != nil {
		return err
	}
	defer m.unlockCommit()
	if m.unresolved == nil {
		return nil
	}
	return m.resolve(ctx)
}

// rollback cuts off what only the target has, if that was asked for.
func (r *recovery) rollback(ctx context.Context, c common) (common, error) {
	diverged := &DivergedError{Backend: r.b.cfg.Name, Common: c.shared, First: c.first}
	truncater, err := Can[Truncater](r.target.storage)
	switch {
	case c.shared == 0:
		diverged.Hint = "it holds another database; empty it to use it here"
		return c, diverged
	case err != nil:
		diverged.Hint = "its storage cannot cut transactions off: replace it by an empty one and recover"
		return c, diverged
	case !r.opts.Rollback:
		diverged.Hint = "recover it with rollback to cut those transactions off"
		return c, diverged
	}
	end, err := r.target.timely.LastTID(ctx)
	if err != nil {
		return c, err
	}
	r.m.cfg.Logger.Warn("cutting off transactions", "backend", r.b.cfg.Name, "after", c.last, "first", c.first, "last", end, "count", c.extra)
	_, err = within(ctx, r.m.tuned().Timeouts.Vote, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, truncater.TruncateAfter(ctx, c.last, end)
	})
	return c, err
}

// countFor bounds the time spent on finding out how much there is to do.
const countFor = time.Second

// count finds out how much is to be copied, as far as that is quick, and returns how
// many transactions; -1 if it was not.
func (r *recovery) count(ctx context.Context, through TID) (transactions int64) {
	source, err := r.source()
	if err != nil {
		return -1
	}
	ctx, cancel := context.WithTimeout(ctx, countFor)
	defer cancel()
	var bytes int64
	for txn, err := range source.timely.Iterate(ctx, r.last+1, through) {
		if err != nil || ctx.Err() != nil {
			transactions, bytes = -1, -1
			break
		}
		transactions++
		bytes += txn.Size
	}
	r.progress(true, func(p *RecoveryProgress) {
		p.Phase, p.Target = PhaseCopy, through
		p.TransactionsToDo, p.BytesToDo = transactions, bytes
	})
	return transactions
}

// join takes the target into the mirror, with the commit slot held: no commit of
// this front-end is under way. joined is false if too much has to be copied first.
func (r *recovery) join(ctx context.Context) (joined bool, err error) {
	m := r.m
	if err := m.holdSlot(ctx); err != nil {
		return false, err
	}
	defer m.unlockCommit()
	last := m.view.Load().last
	source, err := r.source()
	if err != nil {
		return false, err
	}
	left, err := onWorker(ctx, m, "count", source, func(ctx context.Context) (left int, err error) {
		for _, err := range source.timely.Iterate(ctx, r.last+1, last) {
			if left++; err != nil || left > joinLag {
				return left, err
			}
		}
		return left, nil
	})
	if err != nil || left > joinLag {
		return false, err
	}
	r.progress(true, func(p *RecoveryProgress) { p.Phase, p.Target = PhaseJoin, last })
	// On the target's worker: if it hangs, commits wait for one deadline.
	_, err = onWorker(ctx, m, "join", r.target, func(ctx context.Context) (int, error) {
		return r.copyThrough(ctx, last, m.tuned().Timeouts.Vote)
	})
	if err != nil {
		return false, err
	}
	if !r.aligned && !r.empty {
		same, err := r.sameCount(ctx)
		if err != nil || !same {
			r.uneven = true
			return false, err
		}
	}
	if err := r.sameEnd(ctx, source, last); err != nil {
		return false, err
	}
	return true, r.enter(context.WithoutCancel(ctx), last)
}

// sameEnd compares the ends by identity (R5), under the target's lock.
func (r *recovery) sameEnd(ctx context.Context, source *session, last TID) error {
	want, err := onWorker(ctx, r.m, "compare", source, func(ctx context.Context) (digest, error) {
		d, _, err := digestAt(ctx, source.timely, last)
		return d, err
	})
	if err != nil {
		return err
	}
	tails, _ := r.m.lockAll(ctx, []*session{r.target})
	if len(tails) == 0 {
		return fmt.Errorf("the target does not answer")
	}
	defer r.m.abortAll(ctx, []voter{tails[0].voter})
	if last <= max(r.found.targetHorizon, r.found.sourceHorizon, r.m.record.PackHorizon) {
		want = tails[0].digest // a pack may have dropped records of it; it was compared above
	}
	if tails[0].last != last || tails[0].digest != want {
		return fmt.Errorf("the target ends at %v, which is not the others' %v", tails[0].last, last)
	}
	r.m.oids.raise(tails[0].oid) // C8
	return nil
}

// entry says how a target enters. The zero value is for a full one that comes back.
type entry struct {
	promotes bool     // it becomes full
	instead  *backend // and this one, which is out, a spare; nil: none
}

// roles returns the roles that change as the target enters.
func (r *recovery) roles() map[*backend]MemberRole {
	if !r.as.promotes {
		return nil
	}
	roles := map[*backend]MemberRole{r.b: {Configured: r.b.role.Configured, Actual: RoleFull}}
	if o := r.as.instead; o != nil {
		roles[o] = MemberRole{Configured: o.role.Configured, Actual: RoleSpare}
	}
	return roles
}

// enter writes the record, then counts on the target.
func (r *recovery) enter(ctx context.Context, last TID) error {
	m, name := r.m, r.b.cfg.Name
	if !r.opts.Full && slices.Contains(m.record.Damaged, name) {
		return fmt.Errorf("a verification found damage meanwhile: the whole is to be compared")
	}
	next := m.record.next(m.now(), name+" recovered")
	next.Disabled = slices.DeleteFunc(next.Disabled, func(n string) bool { return n == name })
	next.Unpacked = slices.DeleteFunc(next.Unpacked, func(n string) bool { return n == name })
	if r.unpacked {
		next.Unpacked = append(next.Unpacked, name)
	}
	next.Damaged = slices.DeleteFunc(next.Damaged, func(n string) bool { return n == name })
	next.New = slices.DeleteFunc(next.New, func(n string) bool { return n == name })
	next.PackHorizon = max(next.PackHorizon, r.found.targetHorizon)
	if !slices.Contains(next.InSync, name) {
		next.InSync = append(next.InSync, name)
	}
	if err := r.stillNeeded(); err != nil {
		return err
	}
	if !r.as.promotes && r.b.role.Actual != RoleFull { // it was demoted since: only full ones count
		return fmt.Errorf("%s is %v now: %w", name, r.b.role.Actual, context.Canceled)
	}
	roles := r.roles()
	if o := r.as.instead; o != nil {
		next.Reason = fmt.Sprintf("%s takes the place of %s", name, o.cfg.Name)
	}
	next.Roles = rolesOf(m.backends, roles)
	m.mu.Lock()
	state := r.b.state
	m.mu.Unlock()
	if state != StateRecovering {
		return fmt.Errorf("the backend is %v", state) // an operator disabled it meanwhile
	}
	if r.target.dead.Load() {
		return fmt.Errorf("the backend failed meanwhile") // as it freed its commit lock
	}
	write := m.setRecord
	if len(roles) > 0 {
		write = m.changeRecord
	}
	if err := write(ctx, next); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if role, ok := roles[r.b]; ok {
		r.b.role, r.b.pack = role, nil
	}
	if o := r.as.instead; o != nil {
		m.setRoleLocked(o, roles[o], fmt.Sprintf("%s has taken its place: %s", name, o.reason))
	}
	m.setStateLocked(r.b, eventConfirmed, "recovered")
	if r.target.dead.Load() { // while the record was written
		m.setStateLocked(r.b, eventFault, "the backend failed as it joined")
		r.b.wake()
	}
	m.publishLocked(last)
	return nil
}

// progressEvery is the shortest time between two progress events of a recovery.
const progressEvery = 100 * time.Millisecond

// progress updates what Status shows and tells watchers now and then.
func (r *recovery) progress(always bool, update func(*RecoveryProgress)) {
	m := r.m
	now := m.now()
	m.mu.Lock()
	defer m.mu.Unlock()
	p := r.b.recovery
	if p == nil {
		return
	}
	update(p)
	if seconds := now.Sub(p.Started).Seconds(); seconds > 0 {
		p.Rate = float64(p.Bytes) / seconds
		if p.Transactions > 0 && p.TransactionsToDo > 0 {
			p.Left = time.Duration(seconds / float64(p.Transactions) * float64(p.TransactionsToDo) * float64(time.Second))
		}
	}
	if !always && now.Sub(r.told) < progressEvery {
		return
	}
	r.told = now
	told := *p
	m.tell(Event{Kind: EventRecovery, Time: now, Backend: r.b.cfg.Name, From: r.b.state, To: r.b.state,
		Condition: m.conditionLocked(), Recovery: &told})
}
