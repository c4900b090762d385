package raidstorage_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// Faults, operators, and the end of a history.

// propStep is one step of a history. What it does depends on its seed and on what
// the steps before it have led to, so that a shorter history can leave some out.
type propStep struct {
	seed uint64
	n    int
}

// propSteps are the kinds of steps with their weights.
var propSteps = []struct {
	weight int
	do     func(*propRun, *rand.Rand)
}{
	{34, (*propRun).commit},
	{14, (*propRun).read},
	{8, (*propRun).lists},
	{14, (*propRun).fault},
	{4, (*propRun).cutOff},
	{4, (*propRun).reconnect},
	{5, (*propRun).registerFault},
	{4, (*propRun).crashNow},
	{4, (*propRun).crashSoon},
	{3, (*propRun).disable},
	{6, (*propRun).recover},
	{8, (*propRun).sleep},
	{3, (*propRun).quiet},
	{1, (*propRun).replace},
}

// play carries out the steps and the end.
func (r *propRun) play(steps []propStep) {
	total := 0
	for _, s := range propSteps {
		total += s.weight
	}
	for _, step := range steps {
		if r.err != nil {
			break
		}
		rng := rand.New(rand.NewPCG(step.seed, uint64(step.n)))
		if r.m == nil && rng.IntN(8) > 0 {
			r.start()
		}
		if r.lies.changes && rng.IntN(5) == 0 {
			r.note("%d:", step.n)
			propChangeSteps[rng.IntN(len(propChangeSteps))](r, rng)
			r.look()
			continue
		}
		pick := rng.IntN(total)
		for _, s := range propSteps {
			if pick -= s.weight; pick < 0 {
				r.note("%d:", step.n)
				s.do(r, rng)
				break
			}
		}
		if r.m != nil && r.gen.killed() {
			r.note("      the mirror crashed")
			r.crash()
		}
		r.look()
	}
	if r.err == nil {
		r.finale()
	}
	r.endAll()
}

// running tells whether a step that needs a mirror makes sense.
func (r *propRun) running() bool { return r.m != nil && !r.gen.killed() }

func (r *propRun) pickDisk(rng *rand.Rand) *propDisk { return r.disks[rng.IntN(len(r.disks))] }

// fault makes one backend fail soon.
func (r *propRun) fault(rng *rand.Rand) {
	d := r.pickDisk(rng)
	r.calm = false
	if rng.IntN(8) == 0 {
		d.mu.Lock()
		d.failOpens, d.hangOpens = rng.IntN(3), rng.IntN(2)
		r.note("%s: the next opens fail %d times, hang %d times", d.name, d.failOpens, d.hangOpens)
		d.mu.Unlock()
		return
	}
	calls := []storagetest.Call{storagetest.CallAny, storagetest.CallVote, storagetest.CallVote, storagetest.CallFinish,
		storagetest.CallFinish, storagetest.CallFinish, storagetest.CallAbort, storagetest.CallLoad, storagetest.CallLastTID,
		storagetest.CallNewOIDs, storagetest.CallBegin, storagetest.CallIterate, storagetest.CallNext, storagetest.CallStore,
		storagetest.CallRestore, storagetest.CallUndo, storagetest.CallTruncate, storagetest.CallClose, storagetest.CallHistory,
		storagetest.CallNotify, storagetest.CallCurrentRecords, storagetest.CallUndoLog}
	kinds := []storagetest.Kind{storagetest.Fail, storagetest.Fail, storagetest.LoseReply, storagetest.LoseReply, storagetest.Hang,
		storagetest.HangHard, storagetest.Disconnect, storagetest.Corrupt, storagetest.Observe}
	f := storagetest.Fault{Call: calls[rng.IntN(len(calls))], Kind: kinds[rng.IntN(len(kinds))],
		After: rng.IntN(4), Times: rng.IntN(4)}
	switch {
	case f.Kind == storagetest.Corrupt && !slices.Contains([]storagetest.Call{storagetest.CallVote, storagetest.CallFinish,
		storagetest.CallLastTID, storagetest.CallLoad}, f.Call):
		// Nothing protects against a log that is read wrongly while it is copied.
		f.Kind = storagetest.Fail
	case f.Kind == storagetest.HangHard && !slices.Contains([]storagetest.Call{storagetest.CallClose, storagetest.CallVote,
		storagetest.CallFinish, storagetest.CallAbort, storagetest.CallBegin, storagetest.CallStore, storagetest.CallRestore,
		storagetest.CallUndo}, f.Call):
		// Where a transaction waits the mirror does not even rely on contexts; reads
		// that do not obey theirs are against the contract.
		f.Kind = storagetest.Hang
	case f.Kind == storagetest.Observe:
		f.Delay = time.Duration(rng.IntN(2500)) * time.Millisecond
	}
	if f.Kind == storagetest.Corrupt && f.Call == storagetest.CallLoad {
		r.tainted = true
	}
	r.note("%s: %v", d.name, f)
	if f.Times == 0 {
		d.mu.Lock()
		d.sticky = append(d.sticky, f)
		d.mu.Unlock()
	}
	r.gen.inject(d, f)
}

// cutOff takes a disk away, or breaks the connections to it.
func (r *propRun) cutOff(rng *rand.Rand) {
	d, down := r.pickDisk(rng), rng.IntN(3) > 0
	r.calm = false
	r.note("%s: cut off, down %v", d.name, down)
	r.gen.cut(d, down)
}

// reconnect heals a disk.
func (r *propRun) reconnect(rng *rand.Rand) {
	d := r.pickDisk(rng)
	r.note("%s: healed", d.name)
	r.gen.heal(d)
}

// registerFault makes the register fail.
func (r *propRun) registerFault(rng *rand.Rand) {
	r.calm = false
	r.reg.mu.Lock()
	defer r.reg.mu.Unlock()
	switch {
	case r.reg.down:
		r.reg.down = false
		r.note("the register is back")
		return
	case rng.IntN(6) == 0:
		r.reg.down = true
		r.note("the register cannot be reached")
		return
	}
	calls := []string{"cas", "cas", "cas", "load", "reserve", ""}
	kinds := []string{"refuse", "lose", "late", "late", "hang"}
	f := &propRegFault{call: calls[rng.IntN(len(calls))], kind: kinds[rng.IntN(len(kinds))],
		times: 1 + rng.IntN(2), after: rng.IntN(6)}
	r.reg.faults = append(r.reg.faults, f)
	r.note("register: %v", *f)
}

// crashNow kills the mirror between two calls, and perhaps takes disks away.
func (r *propRun) crashNow(rng *rand.Rand) {
	r.note("crash")
	r.crash()
	clean := rng.IntN(2) == 0
	if clean {
		r.healAll()
	}
	for _, d := range r.disks {
		if rng.IntN(4) == 0 {
			r.note("      %s goes down", d.name)
			d.mu.Lock()
			d.down = true
			d.mu.Unlock()
		}
	}
	r.calm = false
	if rng.IntN(4) > 0 {
		r.start()
	}
}

// crashSoon kills the mirror at some later call of a backend.
func (r *propRun) crashSoon(rng *rand.Rand) {
	if r.gen == nil {
		return
	}
	d, kind := r.pickDisk(rng), []storagetest.Kind{storagetest.Observe, storagetest.LoseReply}[rng.IntN(2)]
	call := []storagetest.Call{storagetest.CallAny, storagetest.CallAny, storagetest.CallVote, storagetest.CallFinish, storagetest.CallRestore}[rng.IntN(5)]
	f := storagetest.Fault{Call: call, Kind: kind, After: rng.IntN(10), Times: 1}
	r.calm = false
	r.note("%s: crash at %v", d.name, f)
	g := r.gen
	f.Hook = g.kill
	g.inject(d, f)
}

// disable is the operator's.
func (r *propRun) disable(rng *rand.Rand) {
	if !r.running() {
		return
	}
	d := r.pickDisk(rng)
	r.calm = false
	ctx, cancel := r.bounded(rng)
	defer cancel()
	err := r.m.Disable(ctx, d.name, "as the test wants it")
	r.note("disable %s: %v", d.name, propShort(err))
	propSettle()
	if err == nil && !r.gen.killed() && slices.Contains(r.reg.record().InSync, d.name) {
		r.failf("%s is disabled, and in the record %v", d.name, r.reg.record().InSync)
	}
}

// recover asks for a recovery and waits, or lets it run beside what follows.
func (r *propRun) recover(rng *rand.Rand) {
	if !r.running() {
		return
	}
	d := r.pickDisk(rng)
	opts := raidstorage.RecoverOptions{Rollback: rng.IntN(2) == 0, Full: rng.IntN(4) == 0}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1+rng.IntN(30))*time.Second)
	m := r.m
	if rng.IntN(3) == 0 {
		r.note("recover %s %+v, in the background", d.name, opts)
		r.later.Go(func() {
			defer cancel()
			_ = m.RecoverWith(ctx, d.name, opts) // what it did is seen in the logs
		})
		return
	}
	defer cancel()
	err := m.RecoverWith(ctx, d.name, opts)
	r.note("recover %s %+v: %v", d.name, opts, propShort(err))
}

// sleep lets time go by.
func (r *propRun) sleep(rng *rand.Rand) {
	d := time.Duration(1+rng.IntN(200)) * 100 * time.Millisecond
	r.note("%v go by", d)
	time.Sleep(d) // of the bubble's time
}

// replace gives a backend an empty disk while no mirror runs. Not one that the
// record names: that would lose what only it has.
func (r *propRun) replace(rng *rand.Rand) {
	d := r.pickDisk(rng)
	record := r.reg.record()
	if r.m != nil || r.reg.waiting() || record.Epoch == 0 || slices.Contains(record.InSync, d.name) {
		return
	}
	r.note("%s: replaced by an empty one", d.name)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.store = memstorage.New(d.name)
}

func (r *propRun) healAll() {
	for _, d := range r.every() {
		r.gen.heal(d)
	}
	r.reg.heal()
}

// quiet takes all faults away and waits: everything must come back by itself, as far
// as the configuration says so, and commits must go on.
func (r *propRun) quiet(rng *rand.Rand) {
	r.note("quiet")
	r.healAll()
	time.Sleep(20 * time.Second)
	if !r.running() {
		r.crash()
		r.healAll() // it may have died of a fault
		if !r.start() {
			r.failf("the mirror does not start although nothing is wrong")
			return
		}
	}
	time.Sleep(time.Minute)
	propSettle()
	if r.gen.killed() { // a crash that had been waiting for its call
		return
	}
	for _, b := range r.m.Status().Backends {
		if b.State == raidstorage.StateInSync || b.State == raidstorage.StateDisabled {
			continue
		}
		diverged := r.diverged(b.Name)
		if r.cfg.AutoRecover == raidstorage.AutoRecoverOn && !diverged {
			r.failf("%s is %v although nothing has been wrong for a minute: %s", b.Name, b.State, b.Reason)
			return
		}
		r.bringBack(b.Name, diverged)
	}
	r.look()
	if r.err != nil || r.disabled() > len(r.disks)-r.cfg.WriteQuorum {
		return
	}
	r.calm, r.tainted = true, false
	r.commit(rng)
}

func (r *propRun) disabled() (n int) {
	for _, b := range r.m.Status().Backends {
		if b.State == raidstorage.StateDisabled {
			n++
		}
	}
	return n
}

// diverged tells whether a disk has what the mirror does not have.
func (r *propRun) diverged(name string) bool {
	for _, d := range r.disks {
		if d.name != name {
			continue
		}
		log, err := d.log()
		if err != nil {
			r.failf("log of %s: %w", name, err)
		}
		for i, l := range log {
			if i >= len(r.model.log) || r.model.log[i].id != l.id {
				return true
			}
		}
	}
	return false
}

// bringBack recovers a backend, with all that an operator may do.
func (r *propRun) bringBack(name string, diverged bool) {
	err := r.m.RecoverWith(context.Background(), name, raidstorage.RecoverOptions{Rollback: true})
	r.note("bring back %s: %v", name, propShort(err))
	different, ok := errors.AsType[*raidstorage.DivergedError](err)
	switch {
	case err == nil:
	case ok && !diverged:
		r.failf("%s is said to have diverged and has not: %w", name, err)
	case ok && different.Common == 0: // another database: it is emptied, as the hint says
		for _, d := range r.disks {
			if d.name == name {
				r.gen.cut(d, false)
				d.mu.Lock()
				d.store = memstorage.New(name)
				d.mu.Unlock()
			}
		}
		time.Sleep(20 * time.Second)
		_ = r.m.RecoverWith(context.Background(), name, raidstorage.RecoverOptions{}) // notices that the old disk is gone
		if err := r.m.RecoverWith(context.Background(), name, raidstorage.RecoverOptions{}); err != nil {
			r.failf("%s, now empty, cannot be recovered: %w", name, err)
		}
	default:
		r.failf("%s cannot be recovered although nothing is wrong: %w", name, err)
	}
}

// finale brings everything back and compares everything.
func (r *propRun) finale() {
	r.note("finale")
	r.quiet(rand.New(rand.NewPCG(1, 1)))
	if r.err == nil && r.gen.killed() {
		r.crash()
		r.quiet(rand.New(rand.NewPCG(1, 2)))
	}
	if r.err != nil {
		return
	}
	for _, b := range r.m.Status().Backends {
		if b.State != raidstorage.StateInSync {
			r.bringBack(b.Name, r.diverged(b.Name))
		}
	}
	r.look()
	if record := r.reg.record(); r.err == nil && len(record.InSync) != len(r.disks) {
		r.failf("only %v are in the record after all was recovered", record.InSync)
	}
	if s := r.m.Status(); r.err == nil && s.Condition != raidstorage.Optimal {
		r.failf("the mirror is %v after all was recovered: %s", s.Condition, s.Reason)
	}
	r.calm = true
	r.commit(rand.New(rand.NewPCG(1, 3)))
	r.look()
	if r.err != nil {
		return
	}
	var first []storagetest.LogTransaction
	for i, d := range r.disks {
		log, err := storagetest.Log(context.Background(), d.store.Another("witness"))
		if err != nil {
			r.failf("log of %s: %w", d.name, err)
		}
		if i == 0 {
			first = log
		} else if diff := cmp.Diff(first, log); diff != "" {
			r.failf("%s and %s differ (-%[1]s +%[2]s):\n%s", r.disks[0].name, d.name, diff)
		}
	}
	m := r.m
	r.m = nil
	if err := m.Close(); err != nil {
		r.failf("Close: %w", err)
	}
}

// endAll waits for everything that was left behind.
func (r *propRun) endAll() {
	if r.m != nil {
		r.crash()
	}
	for _, g := range r.gens {
		for _, d := range r.every() {
			g.heal(d)
		}
	}
	r.later.Wait()
}
