package raidstorage_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
)

// mixedRun carries out one history. Its goroutine commits and reads; packs, recoveries
// and the like may go on beside it.
type mixedRun struct {
	propTrace
	t        *testing.T
	seed     uint64
	dir      string
	kinds    []mixedKind
	cfg      raidstorage.Config // without Backends and Membership
	disks    []*mixedDisk       // configured
	spares   []*mixedDisk
	past     []*mixedDisk // that another disk has replaced
	versions int
	reg      *propRegister
	model    *propModel
	refs     map[string][]raidstorage.OID // what data refers to
	blobs    map[string]string            // the blob that comes with data
	foreign  map[string]bool              // data that someone else wrote

	gen     *propGen
	gens    int
	m       *raidstorage.Mirror // nil while none runs
	shown   raidstorage.TID
	ids     int
	later   sync.WaitGroup
	packing atomic.Int32 // packs under way
	calm    bool         // all is well, and nobody disturbs
	// unpacked: the disk that is compared may hold what packs have dropped elsewhere
	unpacked bool
}

func newMixedRun(t *testing.T, seed uint64, logs bool) *mixedRun {
	rng := rand.New(rand.NewPCG(seed, 0x313ed))
	n := 2 + rng.IntN(4)
	r := &mixedRun{t: t, seed: seed, dir: t.TempDir(), kinds: mixedKinds(), reg: &propRegister{}, model: newPropModel(),
		refs: map[string][]raidstorage.OID{}, blobs: map[string]string{}, foreign: map[string]bool{}}
	for i := range n + 1 {
		d := r.newDisk(rng, name(i))
		if i < n {
			r.disks = append(r.disks, d)
		} else {
			r.spares = append(r.spares, d)
		}
	}
	r.giveRoles(rng)
	full := configuredFull(r.disks)
	r.cfg = raidstorage.Config{
		WriteQuorum: 1 + min(rng.IntN(full), rng.IntN(full)),
		ReadPolicy:  raidstorage.ReadPolicy(rng.IntN(3)),
		AutoRecover: raidstorage.AutoRecover(rng.IntN(2)),
		RetryMin:    50 * time.Millisecond,
		RetryMax:    time.Second,
		SpareAfter:  time.Duration(1+rng.IntN(100)) * time.Millisecond,
		TempDir:     r.dir,
		Timeouts: raidstorage.Timeouts{Open: mixedTimeout, Vote: mixedTimeout, Finish: mixedTimeout, Read: mixedTimeout,
			Register: mixedTimeout, PackSettle: 20 * time.Millisecond},
	}
	r.cfg.StartQuorum = 1 + rng.IntN(r.cfg.WriteQuorum)
	if rng.IntN(2) == 0 {
		r.cfg.Scrub.Interval = time.Duration(1+rng.IntN(300)) * time.Millisecond
	}
	if logs {
		r.cfg.Logger = r.logger()
	}
	r.note("%v and the spare %v, WriteQuorum %d, StartQuorum %d, ReadPolicy %d, AutoRecover off: %v, spares after %v, scrub after %v", r.disks, r.spares,
		r.cfg.WriteQuorum, r.cfg.StartQuorum, r.cfg.ReadPolicy, r.cfg.AutoRecover == raidstorage.AutoRecoverOff, r.cfg.SpareAfter, r.cfg.Scrub.Interval)
	return r
}

// newDisk makes an empty disk of any kind.
func (r *mixedRun) newDisk(rng *rand.Rand, name string) *mixedDisk {
	r.versions++
	d, err := newMixedDisk(r.t, r.kinds[rng.IntN(len(r.kinds))], name, r.versions, r.dir)
	if err != nil {
		r.t.Fatal(err)
	}
	return d
}

func (r *mixedRun) every() []*mixedDisk { return slices.Concat(r.disks, r.spares, r.past) }

func (r *mixedRun) pickDisk(rng *rand.Rand) *mixedDisk { return r.disks[rng.IntN(len(r.disks))] }

func (r *mixedRun) backendOn(d *mixedDisk) raidstorage.Backend {
	g := r.gen
	return raidstorage.Backend{Name: d.name, Identity: d.identity(), Role: d.role,
		Open: func(ctx context.Context) (raidstorage.Storage, error) { return d.open(ctx, g) }}
}

// start opens a mirror on what there is. If it does not start everything is made well
// first: then it must.
func (r *mixedRun) start() {
	err := r.startOnce()
	if err != nil {
		r.healAll()
		// What died may still be there: its locks, its late changes of the record.
		for deadline := time.Now().Add(20 * time.Second); err != nil && time.Now().Before(deadline); {
			err = r.startOnce()
		}
	}
	if err != nil {
		r.failf("the mirror does not start although nothing is wrong: %w", err)
	}
}

func (r *mixedRun) startOnce() error {
	r.gens++
	r.gen = newPropGen(r.gens)
	cfg := r.cfg
	cfg.Membership = propLink{r.reg, r.gen}
	for _, d := range r.disks {
		cfg.Backends = append(cfg.Backends, r.backendOn(d))
	}
	ctx, cancel := r.bounded()
	defer cancel()
	before := r.reg.record()
	m, err := raidstorage.Open(ctx, cfg)
	r.note("open: %v", propShort(err))
	if err != nil {
		r.gen.kill()
		return err
	}
	r.m = m
	r.keptRoles(before)
	r.look()
	return nil
}

// crash ends the mirror as the death of its process does: nothing that it does from now
// on reaches a disk or the register.
func (r *mixedRun) crash() {
	if r.m == nil {
		return
	}
	m := r.m
	r.m = nil
	r.kill()
	for _, t := range r.model.all {
		if t.fate == propPending {
			t.fate = propUnknown
		}
	}
	_ = m.Close() // its backends fail, so it may well return an error
	r.later.Wait()
}

// kill ends the mirror that runs now.
func (r *mixedRun) kill() {
	r.gen.kill()
	for _, d := range r.every() {
		d.cutOff()
	}
}

// killer returns kill for a fault's hook: it may be called at any time, beside what changes
// r, and does nothing if that mirror has ended.
func (r *mixedRun) killer() func() {
	gen, disks := r.gen, r.every()
	return func() {
		if gen.killed() {
			return
		}
		gen.kill()
		for _, d := range disks {
			d.cutOff()
		}
	}
}

// settle learns what became of transactions whose outcome is unknown. It returns false
// if it cannot be known yet.
func (r *mixedRun) settle() bool {
	if len(r.model.unsettled()) == 0 {
		return true
	}
	if r.m == nil {
		return false
	}
	ctx, cancel := r.bounded()
	defer cancel()
	txn, err := r.m.Begin(ctx, raidstorage.Meta{})
	if err == nil {
		defer txn.Abort(context.WithoutCancel(ctx))
		var v raidstorage.Vote
		if v, err = txn.Vote(ctx); err == nil { // which settles what is in doubt
			err = r.learn(ctx, v.Last)
		}
	}
	if err != nil {
		r.note("      not settled yet: %s", propShort(err))
		r.allowed("settle", err)
	}
	return err == nil
}

// learn reads what is in the log up to last, the end of it, after what is known.
func (r *mixedRun) learn(ctx context.Context, last raidstorage.TID) error {
	if last < r.model.last() {
		r.failf("the log ends at %v, and %v was acknowledged", last, r.model.last())
	}
	var log []propLogged
	if last > r.model.last() {
		var err error
		if log, err = propLogRange(ctx, r.m, r.model.last()+1, last); err != nil {
			return err
		}
	}
	for _, l := range log {
		t := r.model.all[l.id]
		switch {
		case t == nil:
			r.failf("the mirror shows %q (%v), which nobody made", l.id, l.tid)
			return nil
		case t.tid != 0 && t.tid != l.tid:
			r.failf("%s was said to be %v and is %v", t.id, t.tid, l.tid)
		}
		t.tid = l.tid
		if err := r.model.settleIn(t); err != nil {
			r.failf("%w", err)
		} else if err := r.sameRecords(t, l.records); err != nil && t.tid > r.horizon() {
			r.failf("%w", err)
		}
		r.note("      %s (%s) is in", t.id, shortTID(t.tid))
	}
	for _, t := range r.model.unsettled() {
		t.fate = propOut
		r.note("      %s (%s) is out", t.id, shortTID(t.tid))
	}
	return nil
}

// allowed tells whether a failure is no surprise; it is one when all is well.
func (r *mixedRun) allowed(what string, err error) {
	if r.calm {
		r.failf("%s, while all is well: %w", what, err)
	}
	if c, ok := errors.AsType[*raidstorage.ContradictionError](err); ok {
		r.failf("%s: backends that do not lie contradict each other: %w", what, c)
	}
}

func (r *mixedRun) healAll() {
	r.reg.heal()
	for _, d := range r.every() {
		if err := d.heal(); err != nil {
			r.failf("%w", err)
		}
	}
}

// awaitStates waits until done holds for the states of all backends.
func (r *mixedRun) awaitStates(done func(raidstorage.BackendStatus) bool) bool {
	ctx, cancel := r.bounded()
	defer cancel()
	events := r.m.Watch(ctx)
	for {
		if !slices.ContainsFunc(r.m.Status().Backends, func(b raidstorage.BackendStatus) bool { return !done(b) }) {
			return true
		}
		if _, ok := <-events; !ok {
			return false
		}
	}
}

// stuck fails the history because something does not come back, unless a fault that had
// been waiting has killed the mirror meanwhile.
func (r *mixedRun) stuck(format string, args ...any) {
	if !r.gen.killed() {
		r.failf(format, args...)
	}
}

// quiet takes all faults away and waits: everything must come back by itself, as far as
// the configuration says so, and commits must go on.
func (r *mixedRun) quiet(rng *rand.Rand) {
	if r.m == nil {
		return
	}
	r.note("quiet")
	r.healAll()
	r.later.Wait()
	<-time.After(2 * mixedDelay) // a fault that has begun still does what it is to do
	r.healAll()
	if r.gen.killed() {
		return
	}
	for range 8 {
		r.touch() // what died before has not been noticed yet
		if !r.awaitStates(func(b raidstorage.BackendStatus) bool { return b.State != raidstorage.StateSuspect }) {
			r.stuck("a suspect backend stays one although nothing is wrong: %+v", r.m.Status())
			return
		}
		for _, b := range r.m.Status().Backends {
			if !well(b) && (b.State != raidstorage.StateDisabled || rng == nil) {
				r.bringBack(b.Name)
			}
		}
		if r.failed() || r.gen.killed() {
			return
		}
		s := r.m.Status()
		all := !slices.ContainsFunc(s.Backends, func(b raidstorage.BackendStatus) bool { return !well(b) })
		if rng != nil && len(s.Membership.InSync) < r.m.Settings().WriteQuorum {
			return // others are disabled
		}
		if r.touch() && (all || rng != nil) {
			if rng != nil {
				r.calm = true
				r.commit(rng)
				r.calm = false
			}
			return
		}
	}
	r.stuck("the mirror does not recover: %+v", r.m.Status())
}

// touch makes an empty transaction, which finds out whether all backends answer.
func (r *mixedRun) touch() bool {
	ctx, cancel := r.bounded()
	defer cancel()
	txn, err := r.m.Begin(ctx, raidstorage.Meta{})
	if err == nil {
		_, err = txn.Vote(ctx)
		_ = txn.Abort(ctx)
	}
	r.note("      touch: %v", propShort(err))
	return err == nil && !slices.ContainsFunc(r.m.Status().Backends, func(b raidstorage.BackendStatus) bool {
		return !well(b) && b.State != raidstorage.StateDisabled
	})
}

// bringBack recovers a backend, with all that an operator may do.
func (r *mixedRun) bringBack(name string) {
	d := r.disks[slices.IndexFunc(r.disks, func(d *mixedDisk) bool { return d.name == name })]
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var err error
	for try := range 6 {
		if try > 0 { // the way to it may have been cut since the last attempt
			err = r.m.RecoverWith(ctx, name, raidstorage.RecoverOptions{Rollback: true})
		} else {
			err = r.m.RecoverWith(ctx, name, raidstorage.RecoverOptions{Rollback: true, Full: true})
		}
		r.note("bring back %s: %v", name, propShort(err))
		_, differs := errors.AsType[*raidstorage.DifferenceError](err)
		_, diverged := errors.AsType[*raidstorage.DivergedError](err)
		switch {
		case err == nil:
			return
		case differs && try == 0: // the last pack may not have succeeded on the others
			perr := r.m.Pack(ctx, raidstorage.PackOptions{Through: raidstorage.MaxTID, GC: true})
			r.note("pack: %v", propShort(perr))
		case differs || diverged:
			r.renew(ctx, d)
			return
		}
		r.awaitStates(func(b raidstorage.BackendStatus) bool { return b.State != raidstorage.StateSuspect })
		<-time.After(50 * time.Millisecond << try) // what was being opened when it was disabled is closed by then
	}
	r.stuck("%s cannot be recovered although nothing is wrong: %w", name, err)
}

// renew gives a backend an empty disk, as the hints of the errors say.
func (r *mixedRun) renew(ctx context.Context, d *mixedDisk) {
	i := slices.Index(r.disks, d)
	fresh := r.newDisk(rand.New(rand.NewPCG(r.seed, uint64(r.versions))), d.name)
	fresh.role = d.role
	err := r.m.Replace(ctx, d.name, r.backendOn(fresh))
	r.note("%v is replaced by %v: %v", d, fresh, propShort(err))
	r.disks[i], r.past = fresh, append(r.past, d)
	if err == nil {
		err = r.m.RecoverWith(ctx, d.name, raidstorage.RecoverOptions{})
		r.note("recover %s: %v", d.name, propShort(err))
	}
	if err != nil {
		r.stuck("%v cannot take the place of %v: %w", fresh, d, err)
	}
}

// endAll stops everything that was left behind.
func (r *mixedRun) endAll() {
	r.crash()
	r.later.Wait()
	for _, d := range r.every() {
		d.end()
	}
}

func (r *mixedRun) horizon() raidstorage.TID { return r.reg.record().PackHorizon }

// uneven tells whether undo may be refused whatever it is of.
func (r *mixedRun) uneven() bool {
	record := r.reg.record()
	return record.Lock != nil || slices.ContainsFunc(record.InSync, func(n string) bool { return slices.Contains(record.Unpacked, n) })
}

func (r *mixedRun) sameRecords(t *propTxn, records []raidstorage.Record) error {
	if err := t.sameRecords(records); err != nil {
		return err
	}
	for _, rec := range records {
		if err := r.sameBlob(string(rec.Data), rec.OpenBlob); err != nil {
			return fmt.Errorf("%s: %w", t.id, err)
		}
	}
	return nil
}
