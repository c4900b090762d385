package raidstorage

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/go-multierror"
)

// Mirror is a Storage that keeps full copies on several backends. See Open.
//
// Lock order: the commit slot, then mu. No backend, register, logger or callback is
// called with mu held.
type Mirror struct {
	cfg      Config // immutable after Open, with all defaults; see tuned for what Change changes
	register Register
	closeReg func() error

	ctx      context.Context // ends when the mirror closes
	stop     context.CancelFunc
	routines routines
	watchers watchers
	timers   sync.Pool // of *time.Timer, for rounds
	events   eventQueue
	// backends are in configured order. The slice is replaced, never changed, with the
	// commit slot and mu held, so that either is enough to read it.
	backends []*backend
	tuning   atomic.Pointer[tuning] // replaced with the commit slot held

	// commit is the commit slot: one slot, held from choosing a tid to the
	// acknowledgement, or the start of the finish (rule C1), and for every other change
	// of the record or of what is visible. It guards the fields that follow, while
	// nothing is in flight; else they are those of the oldest that is. See pipeline.go.
	commit     chan struct{}
	record     Membership
	unresolved error        // why the tails must be compared before the next commit (rules C6, C9)
	epochLost  bool         // a change of the record was not confirmed: the epoch must move (rule S1, F3)
	doubtful   map[TID]bool // transactions of ours whose finish was sent and not confirmed
	started    bool
	packHasCut bool // a pack has written its cut, and has not begun to write its end

	tids tidSource
	oids oidSource

	view      atomic.Pointer[view] // what readers go by
	committed atomic.Int64         // transactions that became visible here
	turn      atomic.Uint64        // of round-robin reads
	weighed   atomic.Int64         // bytes of those, while backends follow

	foreignSeen atomic.Bool // a backend told of a transaction that this mirror did not make
	inDoubt     atomic.Bool // unresolved was set and nobody may come to settle it

	uneven  atomic.Bool   // record.uneven()
	horizon atomic.Uint64 // record.PackHorizon
	// repeated is the tid of the last transaction that voted and repeats earlier data, by
	// an undo or a Restore. Written with the commit slot held.
	repeated atomic.Uint64
	// noUndo is set while a pack that undos have made begin anew refuses them.
	noUndo atomic.Bool

	mu          sync.Mutex          // guards the fields below and those that say so
	shown       Membership          // a copy of record for Status
	stopped     *ContradictionError // why commits are stopped until an operator decides, rule C4
	closed      bool
	exclusion   exclusion
	throttle    throttle
	scrubbing   ScrubStatus // of the scrub, as far as it changes
	voted       *mirrorTxn  // the last one that voted
	flights     []*flight   // oldest first; the slice is replaced, never changed
	subscribers map[*subscriber]bool
}

// view is what a read goes by: the visible tid and the backends that have applied
// it. It is replaced as a whole, never changed (rule R1).
type view struct {
	last     TID
	sessions []*session // in sync and alive, in configured order
	closed   bool
}

var (
	_ Storage        = (*Mirror)(nil)
	_ Undoer         = (*Mirror)(nil)
	_ BlobLoader     = (*Mirror)(nil)
	_ Historian      = (*Mirror)(nil)
	_ RecordIterator = (*Mirror)(nil)
	_ Notifier       = (*Mirror)(nil)
	_ Sizer          = (*Mirror)(nil)
	_ Wrapper        = (*Mirror)(nil)
)

// Open starts a mirror over the backends of cfg. At the first start, when there is
// no membership record, all backends must be reachable; the ones that are behind
// the newest, or empty, are recovered from it, and databases that are not the same
// are refused. Later the record says which backends are whole: Open returns
// *StartError if fewer than StartQuorum of those can be reached. ctx bounds the
// start; Close ends the mirror. Errors: *InvalidError, *StartError, *DivergedError,
// what the Register says.
func Open(ctx context.Context, cfg Config) (*Mirror, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	m := &Mirror{
		cfg:         cfg.withDefaults(),
		closeReg:    func() error { return nil },
		commit:      make(chan struct{}, 1),
		doubtful:    make(map[TID]bool),
		subscribers: make(map[*subscriber]bool),
	}
	m.ctx, m.stop = context.WithCancel(context.Background())
	m.view.Store(&view{})
	m.tuning.Store(m.cfg.tuning())
	m.throttle.ratio = m.cfg.CatchUp.Ratio
	m.tids.m, m.oids.m = m, m
	m.oids.slot = make(chan struct{}, 1)
	m.events.init(m)
	for _, b := range m.cfg.Backends {
		m.backends = append(m.backends, newBackend(b, m.now(), "not opened yet"))
	}
	m.register = m.cfg.Membership
	if m.cfg.StateDir != "" {
		r, err := OpenFileRegister(m.cfg.StateDir)
		if err != nil {
			return nil, err
		}
		m.register, m.closeReg = r, r.Close
	}
	if err := m.start(ctx); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	for _, b := range m.backends {
		m.run(b.supervised(m))
	}
	if m.cfg.Scrub.Interval > 0 {
		m.run(m.scrub)
	}
	if m.cfg.AutoRecover == AutoRecoverOn {
		m.run(m.finishPack)
	}
	return m, nil
}

// Close ends the mirror: it waits for a transaction that is being finished, at
// most as long as the timeouts say, aborts the others, and closes the backends.
func (m *Mirror) Close() error {
	m.mu.Lock()
	already := m.closed
	m.closed = true
	m.view.Store(&view{last: m.view.Load().last, closed: true})
	m.mu.Unlock()
	if already {
		return nil
	}
	m.stop() // waiting calls see it
	m.endVoted()
	m.commit <- struct{}{} // what holds it now ends within the timeouts
	m.landed(context.Background())
	var errs *multierror.Error
	var wg sync.WaitGroup
	for _, b := range m.backends {
		m.mu.Lock()
		s := b.session
		b.session = nil
		m.mu.Unlock()
		if s != nil {
			wg.Go(func() {
				if err := m.closeSession(s); err != nil {
					m.mu.Lock()
					errs = gather(errs, err)
					m.mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	if !m.routines.wait(m.tuned().Timeouts.Open) {
		errs = gather(errs, fmt.Errorf("a call to a backend hangs: %w", context.DeadlineExceeded))
	}
	m.watchers.close()
	if err := m.closeReg(); err != nil {
		errs = gather(errs, err)
	}
	return errs.ErrorOrNil()
}

// run starts a goroutine that Close waits for, and tells whether it did: not after
// Close. Everything it does is bounded by m.ctx or a timeout.
func (m *Mirror) run(f func()) bool { return m.routines.start(f) }

func (m *Mirror) unlockCommit() { <-m.commit }

// publishLocked makes last the visible tid, and the in-sync sessions those that
// serve it. The caller holds m.mu.
func (m *Mirror) publishLocked(last TID) {
	v := &view{last: last, closed: m.closed}
	for _, b := range m.backends {
		if b.state == StateInSync && b.session != nil && !b.session.dead.Load() {
			v.sessions = append(v.sessions, b.session)
		}
	}
	m.view.Store(v)
	m.wakeFollowersLocked()
}

// Name returns Config.Name.
func (m *Mirror) Name() string { return m.cfg.Name }

// Supports implements Wrapper: a mirror can do what all of its backends in sync can; to
// be a PackEstimator one of them is enough.
func (m *Mirror) Supports(capability reflect.Type) bool {
	switch capability {
	case reflect.TypeFor[Notifier](), reflect.TypeFor[Wrapper]():
		return true
	}
	if !reflect.TypeFor[*Mirror]().Implements(capability) {
		return false
	}
	// Without any backend the methods say so themselves: "unavailable" is another
	// answer than "never".
	if sessions := m.view.Load().sessions; capability == reflect.TypeFor[PackEstimator]() {
		return len(sessions) == 0 || slices.ContainsFunc(sessions, estimates) // one is enough
	}
	return !slices.ContainsFunc(m.view.Load().sessions, func(s *session) bool {
		return !Supports(s.storage, capability)
	})
}

// supports returns an *UnsupportedError if not all backends have capability C.
func supports[C any](m *Mirror) error {
	capability := reflect.TypeFor[C]()
	if v := m.view.Load(); v.closed {
		return ErrClosed
	} else if len(v.sessions) == 0 {
		return &UnavailableError{Need: 1}
	}
	if m.Supports(capability) {
		return nil
	}
	return &UnsupportedError{Storage: m.cfg.Name, Capability: capability.Name()}
}

// LastTID returns the tid of the last acknowledged transaction. While a voted one
// waits for its Finish, that is what it has seen as the last: LastTID waits until all
// before it have ended.
func (m *Mirror) LastTID(ctx context.Context) (TID, error) {
	if f := m.beforeVoted(); f != nil {
		select {
		case <-f.done:
		case <-ctx.Done():
		}
	}
	v := m.view.Load()
	if v.closed {
		return 0, ErrClosed
	}
	return v.last, ctx.Err()
}

func newMirrorID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails, by its documentation
	return fmt.Sprintf("%x", b)
}
