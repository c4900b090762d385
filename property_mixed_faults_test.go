package raidstorage_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// What operators do, and what goes wrong.

// beside makes a call, now and then beside what follows.
func (r *mixedRun) beside(rng *rand.Rand, call func()) {
	if rng.IntN(2) == 0 {
		call()
	} else {
		r.later.Go(call)
	}
}

func (r *mixedRun) pack(rng *rand.Rand) {
	if r.m == nil || len(r.model.log) == 0 {
		return
	}
	m := r.m
	opts := raidstorage.PackOptions{Through: raidstorage.MaxTID, GC: rng.IntN(4) > 0, NoWait: rng.IntN(3) == 0}
	if rng.IntN(3) > 0 {
		log := r.model.log
		opts.Through = log[rng.IntN(len(log))].tid
	}
	what := "pack through " + shortTID(opts.Through)
	if opts.GC {
		what += " with garbage collection"
	}
	r.note("%s", what)
	r.packing.Add(1)
	r.beside(rng, func() {
		defer r.packing.Add(-1)
		ctx, cancel := r.bounded()
		defer cancel()
		r.note("      %s: %v", what, propShort(m.Pack(ctx, opts)))
	})
}

func (r *mixedRun) recover(rng *rand.Rand) {
	if r.m == nil {
		return
	}
	m, d := r.m, r.pickDisk(rng)
	opts := raidstorage.RecoverOptions{Rollback: rng.IntN(2) == 0, Full: rng.IntN(4) == 0, NoWait: rng.IntN(3) == 0}
	r.note("recover %s %+v", d.name, opts)
	r.beside(rng, func() {
		ctx, cancel := r.bounded()
		defer cancel()
		r.note("      recover %s: %v", d.name, propShort(m.RecoverWith(ctx, d.name, opts)))
	})
}

func (r *mixedRun) disable(rng *rand.Rand) {
	if r.m == nil {
		return
	}
	d := r.pickDisk(rng)
	ctx, cancel := r.bounded()
	defer cancel()
	r.note("disable %s: %v", d.name, propShort(r.m.Disable(ctx, d.name, "as the test wants it")))
}

// verify compares all: there must be nothing to find.
func (r *mixedRun) verify(rng *rand.Rand) {
	if r.m == nil {
		return
	}
	m := r.m
	opts := raidstorage.VerifyOptions{Blobs: rng.IntN(2) == 0, NoWait: rng.IntN(2) == 0}
	r.note("verify %+v", opts)
	r.beside(rng, func() {
		ctx, cancel := r.bounded()
		defer cancel()
		report, err := m.Verify(ctx, opts)
		r.note("      verify: %d findings, %v", report.Findings, propShort(err))
		for _, f := range report.Listed {
			if f.Kind != raidstorage.FindingUnreadable {
				r.failf("a verification found %v", f)
			}
		}
	})
}

// away returns a disk that is not in sync, and that no mirror has open.
func (r *mixedRun) away(rng *rand.Rand) *mixedDisk {
	record := r.reg.record()
	d := r.pickDisk(rng)
	if record.Epoch == 0 || slices.Contains(record.InSync, d.name) {
		return nil
	}
	return d
}

// diverge has someone else commit to a disk that is not in sync: a transaction that the
// mirror never made.
func (r *mixedRun) diverge(rng *rand.Rand) {
	d := r.away(rng)
	if d == nil {
		return
	}
	if r.later.Wait(); d.isDown() {
		return
	}
	if d.server == nil && d.mem == nil {
		r.crash() // a file can be opened once
	}
	ctx, cancel := r.bounded()
	defer cancel()
	if slices.Contains(r.reg.record().InSync, d.name) {
		return // it came back meanwhile
	}
	s, err := d.direct(ctx)
	if err != nil && d.isDown() {
		r.note("%v goes down", d) // by a fault that acts as a follower writes
		return
	}
	if err != nil {
		r.failf("open %v: %w", d, err)
		return
	}
	oid := raidstorage.OID(1<<40 + rng.IntN(3))
	if rng.IntN(2) == 0 && len(r.model.oids) > 0 {
		oid = r.model.oids[rng.IntN(len(r.model.oids))]
	}
	r.ids++
	data := storagetest.Pickled(fmt.Sprintf("foreign %d", r.ids))
	r.foreign[data], d.written = true, true
	err = r.foreignCommit(ctx, d, s, oid, data)
	r.note("%v diverges: %v", d, propShort(errors.Join(err, s.Close())))
}

// foreignCommit commits to s, unless the mirror counts on d when nobody can take it back any
// more: the lock is held then.
func (r *mixedRun) foreignCommit(ctx context.Context, d *mixedDisk, s raidstorage.Storage, oid raidstorage.OID, data string) error {
	serial := raidstorage.TID(0)
	if rev, err := s.LoadBefore(ctx, oid, raidstorage.MaxTID); err == nil {
		serial = rev.Serial
	}
	txn, err := s.Begin(ctx, raidstorage.Meta{Description: []byte(data)})
	if err != nil {
		return err
	}
	if err := txn.Store(ctx, oid, serial, []byte(data)); err != nil {
		return errors.Join(err, txn.Abort(ctx))
	}
	if _, err := txn.Vote(ctx); err != nil {
		return errors.Join(err, txn.Abort(ctx))
	}
	if slices.Contains(r.reg.record().InSync, d.name) {
		return errors.Join(errors.New("it has come back"), txn.Abort(ctx))
	}
	_, err = txn.Finish(ctx)
	return err
}

// change changes the configuration.
func (r *mixedRun) change(rng *rand.Rand) {
	if r.m == nil {
		return
	}
	disks, spares, past := slices.Clone(r.disks), slices.Clone(r.spares), slices.Clone(r.past)
	c := r.m.Settings()
	roles := map[*mixedDisk]raidstorage.Role{}
	for _, d := range slices.Concat(disks, spares) {
		roles[d] = d.role
	}
	switch i := rng.IntN(len(disks)); rng.IntN(5) {
	case 0: // add
		if len(spares) == 0 {
			return
		}
		disks, spares = slices.Insert(disks, i, spares[0]), spares[1:]
	case 1: // remove
		if len(disks) < 3 {
			return
		}
		spares = append(spares, disks[i])
		disks = slices.Delete(disks, i, i+1)
	case 2: // replace
		if r.versions > 12 {
			return
		}
		fresh := r.newDisk(rng, disks[i].name)
		fresh.role = disks[i].role
		past, disks[i] = append(past, disks[i]), fresh
	case 3: // another role
		roles[disks[i]] = raidstorage.Role(rng.IntN(3))
	default:
		c.ReadPolicy = raidstorage.ReadPolicy(rng.IntN(3))
	}
	for _, d := range disks {
		if _, known := roles[d]; !known {
			roles[d] = d.role // it replaces one
		}
	}
	c.WriteQuorum = 1 + min(rng.IntN(len(disks)), rng.IntN(len(disks)))
	c.StartQuorum = 1 + rng.IntN(c.WriteQuorum)
	c.NoWait = rng.IntN(2) == 0
	c.Backends = nil
	var added []*mixedDisk
	for _, d := range disks {
		b := raidstorage.Backend{Name: d.name, Identity: d.identity(), Role: roles[d]}
		if !slices.Contains(r.disks, d) {
			b, added = r.backendOn(d), append(added, d)
			b.Role = roles[d]
		}
		c.Backends = append(c.Backends, b)
	}
	ctx, cancel := r.bounded()
	defer cancel()
	err := r.m.Change(ctx, c)
	r.note("change to %v, quorums %d and %d: %v", disks, c.WriteQuorum, c.StartQuorum, propShort(err))
	if err == nil {
		r.disks, r.spares, r.past = disks, spares, past
		for _, d := range disks {
			d.role = roles[d]
		}
		r.cfg.WriteQuorum, r.cfg.StartQuorum, r.cfg.ReadPolicy = c.WriteQuorum, c.StartQuorum, c.ReadPolicy
		return
	}
	for _, d := range added {
		if !slices.Contains(r.spares, d) {
			r.past = append(r.past, d) // so that it is ended
		}
	}
}

// restart ends the mirror's process, or closes the mirror.
func (r *mixedRun) restart(rng *rand.Rand) {
	switch {
	case r.m == nil:
	case rng.IntN(3) > 0:
		r.note("the mirror dies")
		r.crash()
	default:
		r.note("the mirror is closed")
		r.later.Wait()
		m := r.m
		r.m = nil
		if err := m.Close(); err != nil {
			r.note("      %v", propShort(err))
		}
		r.kill()
	}
}

// die takes a disk away, with its server.
func (r *mixedRun) die(rng *rand.Rand) {
	d := r.pickDisk(rng)
	r.note("%v dies", d)
	d.die()
}

func (r *mixedRun) revive(rng *rand.Rand) {
	d := r.pickDisk(rng)
	r.note("%v is well", d)
	if err := d.heal(); err != nil {
		r.failf("%w", err)
	}
}

// badLine makes the bytes between mirror and server come late, in part, or not at all.
func (r *mixedRun) badLine(rng *rand.Rand) {
	d := r.pickDisk(rng)
	if d.proxy == nil {
		return
	}
	switch rng.IntN(5) {
	case 0, 1:
		n := 1 << rng.IntN(16)
		n += rng.IntN(n)
		r.note("%v: the line is cut after %d bytes", d, n)
		d.proxy.cutAfter(n)
	case 2:
		r.note("%v: the line is cut", d)
		d.proxy.cut()
	case 3:
		delay := time.Duration(rng.IntN(5000)) * time.Microsecond
		r.note("%v: the line is slow by %v", d, delay)
		d.proxy.slow(delay)
	default:
		r.note("%v: the line is stuck", d)
		d.proxy.stick(true)
	}
}

// fault makes a call of one backend fail soon.
func (r *mixedRun) fault(rng *rand.Rand) {
	d := r.pickDisk(rng)
	calls := []storagetest.Call{storagetest.CallAny, storagetest.CallVote, storagetest.CallFinish, storagetest.CallFinish,
		storagetest.CallLoad, storagetest.CallBegin, storagetest.CallNext, storagetest.CallRestore, storagetest.CallPack,
		storagetest.CallFindGarbage, storagetest.CallTruncate, storagetest.CallClose, storagetest.CallCurrentRecords, storagetest.CallSize}
	kinds := []storagetest.Kind{storagetest.Fail, storagetest.LoseReply, storagetest.Disconnect, storagetest.Observe}
	f := storagetest.Fault{Call: calls[rng.IntN(len(calls))], Kind: kinds[rng.IntN(len(kinds))], After: rng.IntN(4), Times: 1}
	if f.Kind == storagetest.Observe {
		f.Delay = time.Duration(rng.IntN(int(mixedDelay)))
		switch rng.IntN(4) {
		case 0:
			f.Hook = r.killer()
		case 1:
			f.Hook = d.die
		}
	}
	r.note("%v: %v", d, f)
	d.inject(f)
}

// mixedDelay is more than a fault delays a call.
const mixedDelay = 50 * time.Millisecond

// finale brings everything back and compares everything.
func (r *mixedRun) finale() {
	r.note("finale")
	if r.m == nil {
		r.start()
	}
	r.quiet(nil)
	if !r.failed() && r.gen.killed() { // by a fault that had been waiting
		r.crash()
		r.start()
		r.quiet(nil)
	}
	if r.failed() {
		return
	}
	if r.settledRoles(); r.failed() {
		return
	}
	r.calm = true
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for i := range 3 {
		if i > 0 {
			<-time.After(20 * time.Millisecond) // a pack time is that much before the last transaction
		}
		r.commit(rand.New(rand.NewPCG(r.seed, uint64(i))))
	}
	if r.failed() {
		return
	}
	r.compareDirect(ctx, "before the last pack")
}

// compareDirect closes the mirror and compares each disk with the model.
func (r *mixedRun) compareDirect(ctx context.Context, when string) {
	m := r.m
	report, err := m.Verify(ctx, raidstorage.VerifyOptions{Blobs: true})
	if err != nil || report.Findings > 0 {
		r.failf("%s a verification finds %v, %v", when, report.Listed, err)
		return
	}
	whole := r.settledRoles()
	if r.failed() {
		return
	}
	r.m = nil
	if err := m.Close(); err != nil {
		r.failf("Close: %w", err)
		return
	}
	for _, d := range whole {
		if err := r.rightWhole(ctx, d); err != nil {
			r.failf("%s %v: %w", when, d, err)
		}
	}
}

// rightDisk compares one disk with the model.
func (r *mixedRun) rightDisk(ctx context.Context, d *mixedDisk) error {
	s, err := d.direct(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	log, err := propLogRange(ctx, s, 1, raidstorage.MaxTID)
	if err == nil {
		err = r.rightLog(log)
	}
	if err == nil {
		err = r.listRecords(ctx, s, nil)
	}
	if err != nil {
		return err
	}
	horizon := r.horizon()
	kept := r.reach(horizon)
	for _, oid := range r.model.oids {
		rev, err := s.LoadBefore(ctx, oid, raidstorage.MaxTID)
		if err != nil && raidstorage.Classify(err) != raidstorage.ClassAnswer {
			return err
		}
		if err := r.rightRevision(oid, raidstorage.MaxTID, rev, err, horizon, kept); err != nil {
			return err
		}
	}
	return nil
}
