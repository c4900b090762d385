package raidstorage_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// Random histories with packs: commits that link and unlink objects, packs to random
// times with backends that fail and a process that dies in the midst of them, backends
// that are taken out, recovered, and packed behind the mirror's back. Whatever happens,
// what can be reached from the root is served, and once all is well again all backends
// hold the same. RAIDSTORAGE_PACK_HISTORIES and RAIDSTORAGE_PACK_SEED say how many and
// which.

// packHistories is how many a plain run plays.
const packHistories = 100

func TestPropertyPacks(t *testing.T) {
	t.Parallel()
	count, first := uint64(packHistories), uint64(1)
	if n, ok := propEnv(t, "RAIDSTORAGE_PACK_HISTORIES"); ok {
		count, first = n, uint64(time.Now().UnixNano())/1e6*1e6
	}
	if seed, ok := propEnv(t, "RAIDSTORAGE_PACK_SEED"); ok {
		count, first = 1, seed
	}
	for seed := first; seed < first+count && !t.Failed(); seed++ {
		dir := t.TempDir()
		scenarioIn(t, 3, func(t *testing.T, w *world) {
			p := &packRun{world: w, seed: seed, rng: rand.New(rand.NewPCG(seed, 0x9ac)), dir: dir, aside: map[string]bool{}}
			p.play()
			if t.Failed() {
				t.Logf("RAIDSTORAGE_PACK_SEED=%d%s", seed, strings.Join(p.trace, ""))
			}
		})
	}
}

// packRun is one history.
type packRun struct {
	*world
	seed  uint64
	rng   *rand.Rand
	dir   string
	file  int // which one is on a file, -1 for none
	files int
	own   string // who collects its garbage itself
	m     *raidstorage.Mirror
	trace []string

	refs  map[raidstorage.OID][]raidstorage.OID // of what was acknowledged
	data  map[raidstorage.OID]string
	next  raidstorage.OID
	tids  []raidstorage.TID
	aside map[string]bool // packed behind the mirror's back
}

func (p *packRun) note(format string, args ...any) {
	p.trace = append(p.trace, "\n"+fmt.Sprintf(format, args...))
}

func (p *packRun) play() {
	p.cfg.AutoRecover = raidstorage.AutoRecover(p.rng.IntN(2))
	p.cfg.RetryMin = time.Second
	if p.file = p.rng.IntN(4) - 1; p.file >= 0 {
		p.cfg.Backends[p.file].Open = p.openFile
	}
	if i := p.rng.IntN(4); i < 3 && i != p.file {
		p.own = name(i)
		p.makeSelfish(p.own)
		p.note("%s collects its garbage itself", name(i))
	}
	p.note("on a file: %d", p.file)
	p.refs, p.data, p.next = map[raidstorage.OID][]raidstorage.OID{}, map[raidstorage.OID]string{}, 1
	p.m = p.start()
	p.commit()
	for range 30 {
		switch n := p.rng.IntN(20); {
		case n < 9:
			p.commit()
		case n < 14:
			p.pack()
		case n == 14:
			b := p.any()
			p.note("disable %s: %v", b, p.m.Disable(context.Background(), b, "test"))
		case n == 15:
			b := p.any()
			p.note("recover %s: %v", b, p.m.Recover(context.Background(), b))
		case n == 16:
			p.packBehind()
		case n == 17:
			p.note("death")
			p.crash(p.m)
			p.m = p.start()
		case n == 18:
			<-time.After(time.Minute) // simulated
		default:
			report, err := p.m.Verify(context.Background(), raidstorage.VerifyOptions{})
			p.note("verify: %v", err)
			for _, f := range report.Listed { // one that a pack has found cut off may be cut off still
				if f.Kind != raidstorage.FindingUnreadable || !strings.Contains(f.Detail, storagetest.ErrInjected.Error()) {
					p.t.Errorf("a verification found %v", f)
				}
			}
		}
		p.check()
		if p.t.Failed() {
			return
		}
	}
	p.end()
}

func (p *packRun) any() string { return name(p.rng.IntN(3)) }

// openFile opens the disk that is a file.
func (p *packRun) openFile(ctx context.Context) (raidstorage.Storage, error) {
	s, err := filestorage.Open(ctx, p.path(), filestorage.Options{Durability: filestorage.NoSync})
	if err != nil {
		return nil, err
	}
	f := storagetest.Faulty(s)
	p.mu.Lock()
	p.opened[name(p.file)] = f
	p.mu.Unlock()
	return f, nil
}

func (p *packRun) path() string { return filepath.Join(p.dir, fmt.Sprintf("Data%d.fs", p.files)) }

// reachable returns what can be reached from the root, in order.
func (p *packRun) reachable() []raidstorage.OID {
	seen := map[raidstorage.OID]bool{}
	todo := []raidstorage.OID{0}
	for len(todo) > 0 {
		oid := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[oid] {
			continue
		}
		seen[oid] = true
		todo = append(todo, p.refs[oid]...)
	}
	return slices.Sorted(maps.Keys(seen))
}

// commit rewrites some objects that can be reached, with links to such and to new ones.
func (p *packRun) commit() {
	<-time.After(time.Duration(p.rng.IntN(100)) * time.Millisecond) // simulated
	ctx := context.Background()
	old := p.reachable()
	write := map[raidstorage.OID][]raidstorage.OID{}
	for range 1 + p.rng.IntN(2) {
		oid := old[p.rng.IntN(len(old))]
		var refs []raidstorage.OID
		for range p.rng.IntN(4) {
			if p.rng.IntN(2) == 0 {
				refs = append(refs, p.next)
				write[p.next] = nil
				p.next++
			} else {
				refs = append(refs, old[p.rng.IntN(len(old))])
			}
		}
		write[oid] = refs
	}
	txn, err := p.m.Begin(ctx, raidstorage.Meta{})
	data := map[raidstorage.OID]string{}
	for oid, refs := range write {
		data[oid] = storagetest.Pickled(fmt.Sprint("object ", oid, " of ", len(p.trace)), refs...)
		if err == nil {
			err = txn.Store(ctx, oid, p.serial(p.m, oid), []byte(data[oid]))
		}
	}
	if err == nil {
		_, err = txn.Vote(ctx)
	}
	var tid raidstorage.TID
	if err == nil {
		tid, err = txn.Finish(ctx)
	}
	p.note("commit of %v: %v %v", write, tid, err)
	if err != nil {
		if raidstorage.Classify(err) != raidstorage.ClassRefusal {
			p.t.Errorf("commit: %v", err)
		}
		return
	}
	p.tids = append(p.tids, tid)
	maps.Copy(p.refs, write)
	maps.Copy(p.data, data)
}

// pack packs, perhaps with something going wrong on the way.
func (p *packRun) pack() {
	opts := raidstorage.PackOptions{Through: raidstorage.MaxTID, GC: p.rng.IntN(3) > 0}
	if p.rng.IntN(3) > 0 {
		opts.Through = p.tids[p.rng.IntN(len(p.tids))]
	}
	calls := []storagetest.Call{storagetest.CallFindGarbage, storagetest.CallPack, storagetest.CallStagePack, storagetest.CallRelinked, storagetest.CallCatchUp, storagetest.CallSwitch, storagetest.CallEndPack, storagetest.CallCurrentRecords, storagetest.CallNext, storagetest.CallLoad, storagetest.CallSize}
	fault := storagetest.Fault{Call: calls[p.rng.IntN(len(calls))], After: p.rng.IntN(3), Times: 1}
	b, died := p.any(), false
	what := "nothing"
	switch p.rng.IntN(8) {
	case 0, 1:
		what, fault.Kind = "failure", []storagetest.Kind{storagetest.Fail, storagetest.LoseReply, storagetest.Disconnect}[p.rng.IntN(3)]
	case 2:
		what, fault.Kind = "death", []storagetest.Kind{storagetest.Observe, storagetest.LoseReply}[p.rng.IntN(2)]
		fault.Hook = func() {
			died = true
			p.reg.cut()
			for i := range 3 {
				p.backend(name(i)).CutOff()
			}
		}
	case 3, 4:
		what, fault.Kind, fault.Call, fault.After = "commit", storagetest.Observe, storagetest.CallStagePack, 0
		// Where the commit slot is held when its pack begins, no commit can go on.
		if b != p.own {
			fault.Hook = p.commit
		}
	case 5:
		what = "register"
		n, at, how := 0, p.rng.IntN(2), registerFault(1+p.rng.IntN(2))
		p.reg.on(func(raidstorage.Membership) registerFault {
			if n++; n == at+1 {
				return how
			}
			return registerWorks
		})
	default:
	}
	if what != "nothing" && what != "register" && p.backend(b) != nil {
		p.backend(b).Inject(fault)
	}
	// One that was not packed with the others, and decides itself, may still know what
	// refers to garbage of theirs.
	apart := p.own != "" && len(p.record().Unpacked) > 0
	err := p.m.Pack(context.Background(), opts)
	if _, differs := errors.AsType[*raidstorage.DifferenceError](err); differs && apart && what == "nothing" {
		what = "backends apart"
	}
	p.note("pack %+v with %s (%s %v): %v", opts, what, b, fault.Call, err)
	if err != nil && what == "nothing" && raidstorage.Classify(err) != raidstorage.ClassRefusal {
		p.t.Errorf("pack: %v", err)
	}
	p.reg.on(nil)
	if died {
		p.world.crash(p.m)
		p.m = p.start()
	}
	for i := range 3 {
		if f := p.backend(name(i)); f != nil {
			f.Clear()
		}
	}
}

// packBehind packs a backend that is out, as an operator might.
func (p *packRun) packBehind() {
	i := p.rng.IntN(3)
	if s, _ := state(p.m, name(i)); s != raidstorage.StateDisabled || i == p.file {
		return
	}
	opts := raidstorage.PackOptions{Through: p.tids[p.rng.IntN(len(p.tids))], GC: p.rng.IntN(2) == 0}
	err := p.mem.stores[i].Another("operator").Pack(context.Background(), opts)
	p.note("%s is packed behind the mirror's back %+v: %v", name(i), opts, err)
	p.aside[name(i)] = true
}

// check reads all that can be reached.
func (p *packRun) check() {
	for _, oid := range p.reachable() {
		rev, err := p.m.LoadBefore(context.Background(), oid, raidstorage.MaxTID)
		if _, unavailable := errors.AsType[*raidstorage.UnavailableError](err); unavailable {
			return
		}
		if errors.Is(err, storagetest.ErrInjected) && p.alone() {
			return // the only one left was cut off
		}
		if err != nil || string(rev.Data) != p.data[oid] {
			p.t.Errorf("object %v is %q, %v, want %q", oid, rev.Data, err, p.data[oid])
		}
	}
}

// alone tells whether fewer than two backends are in sync.
func (p *packRun) alone() bool {
	n := 0
	for i := range 3 {
		if s, _ := state(p.m, name(i)); s == raidstorage.StateInSync {
			n++
		}
	}
	return n < 2
}

// end brings all back, packs, and compares the disks.
func (p *packRun) end() {
	ctx := context.Background()
	p.note("the end: all is made well")
	<-time.After(10 * time.Minute) // simulated: those that failed come back, if the mirror cannot do without them
	for i := range 3 {
		err := p.m.Recover(ctx, name(i))
		p.note("recover %s: %v", name(i), err)
		_, differs := errors.AsType[*raidstorage.DifferenceError](err)
		if differs && !p.aside[name(i)] { // the last pack has not succeeded on the others
			p.note("pack: %v", p.m.Pack(ctx, raidstorage.PackOptions{Through: raidstorage.MaxTID, GC: true}))
			err = p.m.Recover(ctx, name(i))
			_, differs = errors.AsType[*raidstorage.DifferenceError](err)
		}
		diverged, nothing := errors.AsType[*raidstorage.DivergedError](err)
		// Packs of the others may have left nothing in common with one that was away.
		if differs && p.aside[name(i)] || nothing && diverged.Common == 0 {
			if err = p.m.Disable(ctx, name(i), "new disk"); err == nil {
				if i == p.file {
					p.files++
				}
				p.mem.stores[i] = memstorage.New(name(i))
				err = p.m.Recover(ctx, name(i))
			}
		}
		if err != nil {
			p.t.Errorf("recover %s: %v", name(i), err)
			return
		}
	}
	p.commit()
	<-time.After(time.Minute) // simulated, so that what comes now is clearly later
	p.commit()
	through := p.tids[max(len(p.tids)-2, 0)]
	if err := p.m.Pack(ctx, raidstorage.PackOptions{Through: through, GC: true}); err != nil {
		p.t.Errorf("the last pack: %v", err)
		return
	}
	p.check()
	if r := p.record(); len(r.Unpacked) > 0 || r.Lock != nil || len(r.Damaged) > 0 || len(r.InSync) != 3 {
		p.t.Errorf("in the end the record is %+v", r)
	}
	if report, err := p.m.Verify(ctx, raidstorage.VerifyOptions{}); err != nil || report.Findings > 0 {
		p.t.Errorf("in the end a verification finds %v, %v", report.Listed, err)
	}
	var first map[raidstorage.OID]string
	for i := range 3 {
		objects := map[raidstorage.OID]string{}
		s := raidstorage.RecordIterator(p.backend(name(i)))
		for rec, err := range s.CurrentRecords(ctx, 0) {
			if err != nil {
				p.t.Fatal(err)
			}
			objects[rec.OID] = fmt.Sprint(rec.TID, string(rec.Data))
		}
		if i == 0 {
			first = objects
		} else if diff := cmp.Diff(first, objects); diff != "" {
			p.t.Errorf("b1 and %s hold different objects:\n%s", name(i), diff)
		}
	}
}
