package raidstorage_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/memstorage"
)

var errPlatter = errors.New("the disk does not work")

// platter is a disk whose transactions are durable some time after their finish was
// started: a sync serves all that were started before it. What is not durable may be
// lost, from some transaction on, whenever it is opened again.
type platter struct {
	name string

	mu      sync.Mutex // guards the fields below; never held while time passes
	rng     *rand.Rand
	store   *memstorage.Storage
	handle  *memstorage.Storage
	open    int // counts the openings
	down    bool
	broken  bool            // a sync has failed since it was opened
	durable raidstorage.TID // all up to it are
	syncing chan struct{}   // closed when the sync under way ends; nil if there is none
	syncs   int
	shared  int // the most transactions that one sync made durable

	// What is to happen next, once each.
	slowSync, slowStart            time.Duration
	failSync, failStart, loseStart bool
	keepNothing                    bool // at the next opening
}

func newPlatter(name string, seed uint64) *platter {
	return &platter{name: name, rng: rand.New(rand.NewPCG(seed, 0x9147)), store: memstorage.New(name)}
}

// tids lists the log.
func (p *platter) tids() (tids []raidstorage.TID) {
	for txn, err := range p.store.Another("witness").Iterate(context.Background(), 1, raidstorage.MaxTID) {
		if err != nil {
			panic(err) // a memory does not fail
		}
		tids = append(tids, txn.TID)
	}
	return tids
}

// Open is a backend's opener: some beginning of what was not durable is still there.
func (p *platter) Open(context.Context) (raidstorage.Storage, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		return nil, errPlatter
	}
	if p.handle != nil {
		p.handle.Close()
	}
	kept, stop := p.durable, p.keepNothing
	var last raidstorage.TID
	for _, tid := range p.tids() {
		if last = tid; tid > p.durable && !stop {
			if stop = p.rng.IntN(3) == 0; !stop {
				kept = tid
			}
		}
	}
	if last > kept {
		if err := p.store.TruncateAfter(context.Background(), kept, last); err != nil {
			return nil, err
		}
	}
	p.open++
	p.durable, p.broken, p.syncing, p.keepNothing = kept, false, nil, false
	p.handle = p.store.Another(p.name)
	return platterStorage{p.handle, p, p.open}, nil
}

// fail is a power failure: nothing works until it is opened again.
func (p *platter) fail(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down, p.broken = down, true
	if p.handle != nil {
		p.handle.Close()
	}
}

// platterStorage is one opening of a platter. It has no optional interfaces but what
// recovery wants.
type platterStorage struct {
	raidstorage.Storage
	p    *platter
	open int
}

func (s platterStorage) TruncateAfter(ctx context.Context, tid, last raidstorage.TID) error {
	return s.Storage.(raidstorage.Truncater).TruncateAfter(ctx, tid, last)
}

func (s platterStorage) Begin(ctx context.Context, meta raidstorage.Meta) (raidstorage.Txn, error) {
	txn, err := s.Storage.Begin(ctx, meta)
	if err != nil {
		return nil, err
	}
	return &platterTxn{Txn: txn, s: s}, nil
}

// platterTxn is a raidstorage.FinishStarter.
type platterTxn struct {
	raidstorage.Txn
	s platterStorage
}

func (t *platterTxn) Finish(ctx context.Context) (raidstorage.TID, error) {
	tid, err := t.start(ctx)
	if err == nil {
		err = t.s.p.await(ctx, t.s.open, tid)
	}
	return tid, err
}

func (t *platterTxn) StartFinish(ctx context.Context) (func(context.Context) error, error) {
	tid, err := t.start(ctx)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error { return t.s.p.await(ctx, t.s.open, tid) }, nil
}

func (t *platterTxn) start(ctx context.Context) (raidstorage.TID, error) {
	p := t.s.p
	p.mu.Lock()
	slow, fail, lose := p.slowStart, p.failStart, p.loseStart
	p.slowStart, p.failStart, p.loseStart = 0, false, false
	p.mu.Unlock()
	time.Sleep(slow) // whatever the context says
	p.mu.Lock()
	defer p.mu.Unlock()
	if fail || p.broken || p.open != t.s.open {
		return 0, errors.Join(errPlatter, t.Abort(ctx))
	}
	tid, err := t.Txn.Finish(ctx)
	if err == nil && lose {
		err = errPlatter
	}
	return tid, err
}

// await waits until tid is durable; who finds no sync under way makes one.
func (p *platter) await(ctx context.Context, open int, tid raidstorage.TID) error {
	for {
		p.mu.Lock()
		switch {
		case p.open != open || p.broken:
			p.mu.Unlock()
			return errPlatter
		case p.durable >= tid:
			p.mu.Unlock()
			return nil
		case p.syncing != nil:
			busy := p.syncing
			p.mu.Unlock()
			select {
			case <-busy:
			case <-ctx.Done():
				return ctx.Err()
			}
			continue
		}
		done := make(chan struct{})
		p.syncing = done
		all := p.tids()
		slow := p.slowSync + time.Duration(1+p.rng.IntN(5))*time.Millisecond
		p.slowSync = 0
		p.mu.Unlock()
		time.Sleep(slow)
		p.mu.Lock()
		if p.open == open {
			p.syncing = nil
			if p.failSync {
				p.failSync, p.broken = false, true
			}
			if !p.broken {
				n := 0
				for _, t := range all {
					if t > p.durable {
						p.durable = t
						n++
					}
				}
				p.syncs++
				p.shared = max(p.shared, n)
			}
		}
		p.mu.Unlock()
		close(done)
	}
}
