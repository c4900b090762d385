package raidstorage_test

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/memstorage"
)

// propMirror is what the histories need of a mirror, so that a test of the test can
// put a lying one in its place.
type propMirror interface {
	NewOIDs(ctx context.Context, n int) ([]raidstorage.OID, error)
	Begin(ctx context.Context, meta raidstorage.Meta) (raidstorage.Txn, error)
	LoadBefore(ctx context.Context, oid raidstorage.OID, before raidstorage.TID) (raidstorage.Revision, error)
	LastTID(ctx context.Context) (raidstorage.TID, error)
	Iterate(ctx context.Context, from, through raidstorage.TID) iter.Seq2[*raidstorage.Transaction, error]
	CurrentRecords(ctx context.Context, from raidstorage.OID) iter.Seq2[raidstorage.Record, error]
	History(ctx context.Context, oid raidstorage.OID, limit int) ([]raidstorage.TxnInfo, error)
	UndoLog(ctx context.Context, skip, limit int, match func(raidstorage.TxnInfo) bool) ([]raidstorage.TxnInfo, error)
	Subscribe(notify func(raidstorage.Invalidation)) (cancel func())
	Disable(ctx context.Context, name, reason string) error
	RecoverWith(ctx context.Context, name string, opts raidstorage.RecoverOptions) error
	Status() raidstorage.Status
	Close() error
}

// propLies are the seams at which a test of the test makes the world lie.
type propLies struct {
	mirror   func(propMirror) propMirror
	register func(raidstorage.Register) raidstorage.Register
	backend  func(raidstorage.Storage) raidstorage.Storage
	logs     bool // no lie: the mirror's log goes into the trace
	changes  bool // no lie: the configuration is changed as well
	alone    bool // no lie: no other history is played, so that stacks are of this one
}

// propRun carries out one history. It belongs to one goroutine.
type propRun struct {
	seed     uint64
	cfg      raidstorage.Config // without Backends and Membership
	disks    []*propDisk        // configured
	spares   []*propDisk        // not configured
	other    *propSetup         // the configuration that a crash has interrupted
	past     []*propDisk        // that were configured under a name which another disk has now
	versions int                // of disks
	reg      *propRegister
	model    *propModel
	lies     propLies

	gen  *propGen
	gens []*propGen
	m    propMirror // nil while no mirror runs
	calm bool       // nothing was made to fail since all was well
	// tainted says that a load may have been answered with flipped bits, which
	// nobody but the application can notice.
	tainted bool
	shown   raidstorage.TID // the greatest visible tid that any mirror told
	ids     int
	started int // generations
	later   sync.WaitGroup
	poll    func() // takes the answer of a Finish under way, if it is there
	news    propNews

	propTrace
}

// propNews collects what subscribers are told, of one mirror.
type propNews struct {
	mu   sync.Mutex // guards told
	told []raidstorage.Invalidation
}

func (n *propNews) add(inv raidstorage.Invalidation) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.told = append(n.told, inv)
}

func (n *propNews) take() []raidstorage.Invalidation {
	n.mu.Lock()
	defer n.mu.Unlock()
	told := n.told
	n.told = nil
	return told
}

func newPropRun(seed uint64, lies propLies) *propRun {
	rng := rand.New(rand.NewPCG(seed, 0xc0f16))
	n := 2 + rng.IntN(4)
	r := &propRun{seed: seed, model: newPropModel(), reg: &propRegister{}, lies: lies}
	for i := range n {
		r.disks = append(r.disks, &propDisk{name: name(i), store: memstorage.New(name(i))})
	}
	if lies.changes {
		for i := range 2 {
			r.spares = append(r.spares, &propDisk{name: name(n + i), store: memstorage.New(name(n + i))})
		}
	}
	r.cfg = raidstorage.Config{
		WriteQuorum: 1 + rng.IntN(n),
		ReadPolicy:  raidstorage.ReadPolicy(rng.IntN(3)),
		AutoRecover: raidstorage.AutoRecover(min(rng.IntN(3), 1)), // off in two of three
		RetryMin:    time.Second,
		RetryMax:    8 * time.Second,
		Timeouts: raidstorage.Timeouts{Open: 2 * time.Second, Vote: 2 * time.Second, Finish: 2 * time.Second,
			Read: time.Second, Register: time.Second},
	}
	if rng.IntN(2) == 0 {
		r.cfg.AutoRecover = raidstorage.AutoRecoverOn
	}
	r.cfg.StartQuorum = 1 + rng.IntN(r.cfg.WriteQuorum)
	r.note("%d backends, WriteQuorum %d, StartQuorum %d, ReadPolicy %d, AutoRecover off: %v", n,
		r.cfg.WriteQuorum, r.cfg.StartQuorum, r.cfg.ReadPolicy, r.cfg.AutoRecover == raidstorage.AutoRecoverOff)
	return r
}

// start opens a mirror on what there is. It tells whether one runs now.
func (r *propRun) start() bool {
	r.started++
	r.other = nil
	g := newPropGen(r.started)
	cfg := r.cfg
	cfg.Membership = propLink{r.reg, g}
	cfg.Clock = r.clock()
	if r.lies.register != nil {
		cfg.Membership = r.lies.register(cfg.Membership)
	}
	if r.lies.logs {
		cfg.Logger = r.logger()
	}
	reachable := 0
	for _, d := range r.disks {
		cfg.Backends = append(cfg.Backends, r.backendOn(g, d))
	}
	record, settled, clean := r.reg.record(), !r.reg.waiting(), r.clean()
	need := r.cfg.StartQuorum
	for _, d := range r.disks {
		if !d.down && (record.Epoch == 0 || slices.Contains(record.InSync, d.name) && r.known(record, d)) {
			reachable++
		}
	}
	if record.Epoch == 0 {
		need = len(r.disks)
	} else if r.lies.changes { // a lower one was in force, or one is not trusted
		need = max(1, min(need, len(record.InSync)))
	}
	r.gen, r.gens = g, append(r.gens, g)
	m, err := raidstorage.Open(context.Background(), cfg)
	r.note("open: %d of the needed %d reachable: %v", reachable, need, propShort(err))
	switch {
	case err == nil && settled && reachable < need:
		r.failf("the mirror starts with %d backends of the record %v, and needs %d", reachable, record.InSync, need)
	case err != nil && clean && reachable >= need:
		r.failf("the mirror does not start although %d backends of the record %v are there: %w", reachable, record.InSync, err)
	case err != nil && clean:
		if _, ok := errors.AsType[*raidstorage.StartError](err); !ok {
			r.failf("the mirror does not start, but not with a StartError: %w", err)
		}
	}
	if err != nil {
		g.kill()
		return false
	}
	r.m = m
	if r.lies.mirror != nil {
		r.m = r.lies.mirror(m)
	}
	r.news.take()
	r.m.Subscribe(r.news.add)
	r.look()
	return true
}

// backendOn is the configuration of a backend.
func (r *propRun) backendOn(g *propGen, d *propDisk) raidstorage.Backend {
	b := raidstorage.Backend{Name: d.name, Open: func(ctx context.Context) (raidstorage.Storage, error) {
		s, err := g.open(ctx, d)
		if err == nil && r.lies.backend != nil {
			s = r.lies.backend(s)
		}
		return s, err
	}}
	if r.lies.changes {
		b.Identity = d.identity()
	}
	return b
}

// clock is that of the mirror's machine, which may have been set between its lives.
func (r *propRun) clock() func() time.Time {
	rng := rand.New(rand.NewPCG(r.seed, uint64(r.started)))
	if rng.IntN(3) > 0 {
		return time.Now
	}
	offset := time.Duration(rng.IntN(1200)-600) * time.Second
	r.note("the clock is off by %v", offset)
	return func() time.Time { return time.Now().Add(offset) }
}

// known tells whether the record means this disk, and not another one of its name.
func (r *propRun) known(record raidstorage.Membership, d *propDisk) bool {
	return !r.lies.changes || record.Identities[d.name] == d.identity()
}

// clean tells whether nothing is wrong but that disks are down.
func (r *propRun) clean() bool {
	for _, d := range r.disks {
		d.mu.Lock()
		wrong := d.failOpens+d.hangOpens+len(d.sticky)+len(d.next) > 0
		d.mu.Unlock()
		if wrong {
			return false
		}
	}
	r.reg.mu.Lock()
	defer r.reg.mu.Unlock()
	return !r.reg.down && len(r.reg.late) == 0 && !slices.ContainsFunc(r.reg.faults, func(f *propRegFault) bool { return f.times > 0 })
}

// crash kills the mirror; what is left of it is closed in the background.
func (r *propRun) crash() {
	if r.m == nil {
		return
	}
	m := r.m
	r.m = nil
	r.gen.kill()
	for _, t := range r.model.all {
		if t.fate == propPending {
			t.fate = propUnknown
		}
	}
	r.later.Go(func() { _ = m.Close() }) // its backends fail, so it may well return an error
}

// look waits until nothing moves and checks what must hold at every moment.
func (r *propRun) look() {
	propSettle()
	if r.poll != nil {
		r.poll()
	}
	if r.err != nil {
		return
	}
	record := r.reg.record()
	logs := make(map[string][]propLogged)
	for _, d := range r.disks {
		if slices.Contains(record.InSync, d.name) && r.known(record, d) {
			log, err := d.log()
			if err != nil {
				r.failf("log of %s: %w", d.name, err)
				return
			}
			logs[d.name] = log
		}
	}
	if len(logs) == 0 {
		return // no record yet
	}
	if r.m != nil && !r.gen.killed() {
		last, err := r.m.LastTID(context.Background())
		if err != nil {
			r.failf("LastTID: %w", err)
			return
		}
		if last < r.shown {
			r.failf("the visible tid went down from %v to %v", r.shown, last)
			return
		}
		r.shown = last
		r.settle(last, logs[record.InSync[0]])
		if r.err == nil && last != r.model.last() {
			r.failf("the visible tid is %v, the last acknowledged transaction %v", last, r.model.last())
		}
		r.checkNews()
	}
	for name, log := range logs {
		r.checkLog(name, log)
	}
}

// settle finds out what became of transactions of unknown outcome: everybody may
// see now those that are at or before last.
func (r *propRun) settle(last raidstorage.TID, log []propLogged) {
	for _, l := range log {
		t := r.model.all[l.id]
		if l.tid > last || t == nil || t.fate != propUnknown {
			continue
		}
		if t.tid != 0 && t.tid != l.tid {
			r.failf("%s was said to be %v and is %v", t.id, t.tid, l.tid)
		}
		t.tid = l.tid
		if err := r.model.settleIn(t); err != nil {
			r.failf("%w", err)
			return
		}
		r.note("      %s (%s) is in", t.id, shortTID(t.tid))
		if t.gen == r.gen.n {
			r.wantNews(t)
		}
	}
	for _, t := range r.model.unsettled() {
		if t.tid != 0 && t.tid <= last || t.gen < r.gen.n {
			t.fate = propOut
			r.note("      %s (%s) is out", t.id, shortTID(t.tid))
		}
	}
}

// wantNews checks that the subscriber was told of t, which nobody acknowledged.
func (r *propRun) wantNews(t *propTxn) {
	r.news.mu.Lock()
	defer r.news.mu.Unlock()
	i := slices.IndexFunc(r.news.told, func(inv raidstorage.Invalidation) bool { return inv.TID == t.tid })
	if i < 0 {
		r.failf("%s became visible as %v, but no subscriber was told", t.id, t.tid)
		return
	}
	oids := make([]raidstorage.OID, 0, len(t.recs))
	for _, rec := range t.recs {
		oids = append(oids, rec.oid)
	}
	slices.Sort(oids)
	got := slices.Sorted(slices.Values(r.news.told[i].OIDs))
	if !slices.Equal(oids, got) {
		r.failf("%s changed %v, subscribers were told of %v", t.id, oids, got)
	}
	r.news.told = slices.Delete(r.news.told, i, i+1)
}

// checkNews: whatever is left was told without reason.
func (r *propRun) checkNews() {
	if told := r.news.take(); len(told) > 0 && r.err == nil {
		r.failf("a subscriber was told of %v, which was acknowledged, told before, or is not visible", told[0].TID)
	}
}

// checkLog compares the log of a backend that the record names with the model.
func (r *propRun) checkLog(disk string, log []propLogged) {
	want := r.model.log
	for i, t := range want {
		if i >= len(log) || log[i].id != t.id {
			got := "its end"
			if i < len(log) {
				got = log[i].id
			}
			r.failf("%s is in the record, but where it must have %s (%v) it has %s", disk, t.id, t.tid, got)
			return
		}
		if log[i].tid != t.tid {
			r.failf("%s: %s has tid %v instead of %v", disk, t.id, log[i].tid, t.tid)
		}
		if err := t.sameRecords(log[i].records); err != nil {
			r.failf("%s: %w", disk, err)
			return
		}
	}
	trailing := log[len(want):]
	for i, l := range trailing {
		t := r.model.all[l.id]
		switch {
		case t == nil:
			r.failf("%s has %q, which nobody made", disk, l.id)
		case i > 0 && t.after != trailing[i-1].tid: // L5: but for one that voted behind it
			r.failf("%s has more than one trailing transaction: %s", disk, l.id)
		case t.fate != propUnknown && t.fate != propPending:
			r.failf("%s has %s, which is %v", disk, l.id, t.fate)
		}
	}
}

// between returns the visible tids that a call may have gone by that began when
// from was visible.
func (r *propRun) between(from raidstorage.TID) []raidstorage.TID {
	tids := []raidstorage.TID{from}
	for _, t := range r.model.log {
		if t.tid > from {
			tids = append(tids, t.tid)
		}
	}
	return tids
}

// allowed tells whether a failure is no surprise; it is one when all is well.
func (r *propRun) allowed(what string, err error) {
	if r.calm && !r.gen.killed() {
		r.failf("%s, while all is well: %w", what, err)
	}
	if c, ok := errors.AsType[*raidstorage.ContradictionError](err); ok && c.Op == "vote" {
		r.failf("%s: backends that do not lie contradict each other: %w", what, err)
	}
}
