package raidstorage_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing/synctest"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

var (
	errPropDown    = errors.New("the disk is down")
	errPropDead    = errors.New("the mirror is dead")
	errPropRefused = errors.New("the register refuses")
	errPropLost    = errors.New("the register's reply is lost")
)

// propDisk is a database that outlives the mirrors over it, and what is wrong with
// it.
type propDisk struct {
	name    string
	version int // of the disks with this name

	mu        sync.Mutex // guards the fields below
	store     *memstorage.Storage
	down      bool
	failOpens int                 // how many attempts to open it fail
	hangOpens int                 // how many hang after those
	sticky    []storagetest.Fault // injected into each handle
	next      []storagetest.Fault // injected into the next handle only
}

func (d *propDisk) identity() string { return fmt.Sprintf("%s#%d", d.name, d.version) }

// propGen is one life of a mirror: kill ends it, as the death of its process does.
// Nothing that it still does has any effect then.
type propGen struct {
	n       int
	swapped sync.Map // names of spares, and of those whose place they wanted to take

	mu      sync.Mutex // guards the fields below
	dead    bool
	handles map[*propDisk][]*storagetest.FaultyStorage
	done    chan struct{} // closed by kill
}

func newPropGen(n int) *propGen {
	return &propGen{n: n, handles: make(map[*propDisk][]*storagetest.FaultyStorage), done: make(chan struct{})}
}

// open is what the mirror's configuration calls.
func (g *propGen) open(ctx context.Context, d *propDisk) (raidstorage.Storage, error) {
	d.mu.Lock()
	fail, hang := d.down || d.failOpens > 0, d.hangOpens > 0
	if d.failOpens > 0 {
		d.failOpens--
	} else if hang && !fail {
		d.hangOpens--
	}
	store, faults := d.store, append(append([]storagetest.Fault(nil), d.sticky...), d.next...)
	if !fail && !hang {
		d.next = nil
	}
	d.mu.Unlock()
	switch {
	case fail:
		return nil, errPropDown
	case hang:
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-g.done:
			return nil, errPropDead
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.dead {
		return nil, errPropDead
	}
	f := storagetest.Faulty(store.Another(d.name))
	f.Inject(faults...)
	g.handles[d] = append(g.handles[d], f)
	return f, nil
}

// on returns the handles on d; the last one is the one in use.
func (g *propGen) on(d *propDisk) []*storagetest.FaultyStorage {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]*storagetest.FaultyStorage(nil), g.handles[d]...)
}

// inject gives f to the handle on d in use, or to the next one if there is none.
func (g *propGen) inject(d *propDisk, f storagetest.Fault) {
	if g != nil {
		if all := g.on(d); len(all) > 0 {
			all[len(all)-1].Inject(f)
			return
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.next = append(d.next, f)
}

// cut takes d down, or only breaks the connections to it.
func (g *propGen) cut(d *propDisk, down bool) {
	d.mu.Lock()
	d.down = d.down || down
	d.mu.Unlock()
	if g != nil {
		for _, f := range g.on(d) {
			f.CutOff()
			f.Release()
		}
	}
}

// kill ends the mirror's life. It may be called from a fault's hook.
func (g *propGen) kill() {
	g.mu.Lock()
	if g.dead {
		g.mu.Unlock()
		return
	}
	g.dead = true
	close(g.done)
	var all []*storagetest.FaultyStorage
	for _, handles := range g.handles {
		all = append(all, handles...)
	}
	g.mu.Unlock()
	for _, f := range all {
		f.Clear() // a dead process waits for nothing
		f.CutOff()
	}
	for _, f := range all {
		f.Release() // what hangs finds the connection cut
	}
}

func (g *propGen) killed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.dead
}

// heal removes all faults of d.
func (g *propGen) heal(d *propDisk) {
	d.mu.Lock()
	d.down, d.failOpens, d.hangOpens, d.sticky, d.next = false, 0, 0, nil, nil
	d.mu.Unlock()
	if g != nil {
		for _, f := range g.on(d) {
			f.Clear()
			f.Release()
			f.Reconnect()
		}
	}
}

// log reads d's log behind everybody's back.
func (d *propDisk) log() ([]propLogged, error) {
	d.mu.Lock()
	store := d.store
	d.mu.Unlock()
	return propLog(store.Another("witness"))
}

// propLogged is a transaction in a log.
type propLogged struct {
	tid     raidstorage.TID
	id      string
	records []raidstorage.Record
}

func propLog(s raidstorage.Storage) (log []propLogged, err error) {
	return propLogRange(context.Background(), s, 1, raidstorage.MaxTID)
}

func propLogRange(ctx context.Context, s raidstorage.Storage, from, through raidstorage.TID) (log []propLogged, err error) {
	for txn, err := range s.Iterate(ctx, from, through) {
		if err != nil {
			return log, err
		}
		l := propLogged{tid: txn.TID, id: string(txn.Description)}
		for r, err := range txn.Records {
			if err != nil {
				return log, err
			}
			if r.OpenBlob != nil { // valid now only
				blob, err := readBlob(r.OpenBlob(ctx))
				if err != nil {
					return log, fmt.Errorf("blob of %v: %w", r.OID, err)
				}
				r.OpenBlob = func(context.Context) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(blob)), nil }
			}
			l.records = append(l.records, r)
		}
		log = append(log, l)
	}
	return log, nil
}

// propRegFault is what goes wrong with the register's next calls.
type propRegFault struct {
	call  string // "load", "cas", "reserve", "" for any
	kind  string // "refuse", "lose", "late", "hang"
	times int
	after int // with late: after how many further calls it is stored
}

func (f propRegFault) String() string {
	return fmt.Sprintf("%s %s ×%d (after %d)", f.kind, cmpOrAny(f.call), f.times, f.after)
}

func cmpOrAny(call string) string {
	if call == "" {
		return "any call"
	}
	return call
}

// propRegister is the register that outlives the mirrors, and its faults.
type propRegister struct {
	inner raidstorage.MemoryRegister

	mu     sync.Mutex // guards the fields below
	faults []*propRegFault
	late   []propLate
	down   bool
	// onChange is called before a change of the configuration is stored, and tells
	// whether it is.
	onChange func() bool
}

// propLate is a change that is still on its way.
type propLate struct {
	next  raidstorage.Membership
	after int
}

// record returns the stored record, without faults.
func (r *propRegister) record() raidstorage.Membership {
	m, _ := r.inner.Load(context.Background()) // a background context does not end
	return m
}

// heal removes the faults; changes on their way arrive.
func (r *propRegister) heal() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults, r.down = nil, false
	for _, l := range r.late {
		_ = r.inner.CompareAndSet(context.Background(), l.next) // may be refused, as it came too late
	}
	r.late = nil
}

func (r *propRegister) waiting() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.late) > 0
}

// hit takes the fault for a call, and lets late changes arrive.
func (r *propRegister) hit(call string) *propRegFault {
	r.mu.Lock()
	defer r.mu.Unlock()
	var still []propLate
	for _, l := range r.late {
		if l.after--; l.after < 0 {
			_ = r.inner.CompareAndSet(context.Background(), l.next)
			continue
		}
		still = append(still, l)
	}
	r.late = still
	if r.down {
		return &propRegFault{kind: "refuse"}
	}
	for _, f := range r.faults {
		if f.times > 0 && (f.call == "" || f.call == call) {
			f.times--
			return f
		}
	}
	return nil
}

// propLink is one mirror's connection to the register.
type propLink struct {
	r *propRegister
	g *propGen
}

var _ raidstorage.Register = propLink{}

// do makes one call. store is what takes effect, late what takes it later.
func (l propLink) do(ctx context.Context, call string, store func() error, late func(after int)) error {
	if l.g.killed() {
		return errPropDead
	}
	f := l.r.hit(call)
	if f == nil {
		return store()
	}
	switch f.kind {
	case "hang":
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-l.g.done:
			return errPropDead
		}
	case "lose":
		_ = store() // nobody learns of it
		return errPropLost
	case "late":
		if late != nil {
			late(f.after)
			return errPropLost
		}
	}
	return errPropRefused
}

// Load implements raidstorage.Register.
func (l propLink) Load(ctx context.Context) (m raidstorage.Membership, err error) {
	err = l.do(ctx, "load", func() (err error) { m, err = l.r.inner.Load(ctx); return err }, nil)
	if err != nil {
		m = raidstorage.Membership{}
	}
	return m, err
}

// CompareAndSet implements raidstorage.Register.
func (l propLink) CompareAndSet(ctx context.Context, next raidstorage.Membership) error {
	if spare, full, ok := strings.Cut(next.Reason, " takes the place of "); ok {
		l.g.swapped.Store(spare, true)
		l.g.swapped.Store(full, true)
	}
	l.r.mu.Lock()
	onChange := l.r.onChange
	l.r.mu.Unlock()
	if onChange != nil && isChange(next) && !l.g.killed() {
		if onChange() {
			return errors.Join(l.r.inner.CompareAndSet(ctx, next), errPropDead)
		}
		return errPropDead
	}
	return l.do(ctx, "cas", func() error { return l.r.inner.CompareAndSet(ctx, next) }, func(after int) {
		l.r.mu.Lock()
		defer l.r.mu.Unlock()
		l.r.late = append(l.r.late, propLate{next, after})
	})
}

// Reserve implements raidstorage.Register.
func (l propLink) Reserve(ctx context.Context, floor, step raidstorage.Marks) (from raidstorage.Marks, err error) {
	err = l.do(ctx, "reserve", func() (err error) { from, err = l.r.inner.Reserve(ctx, floor, step); return err }, nil)
	if err != nil {
		from = raidstorage.Marks{}
	}
	return from, err
}

// settle lets everything run that does not wait for the clock.
func propSettle() { synctest.Wait() }
