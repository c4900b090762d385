package raidstorage

import (
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"sync/atomic"
	"time"
)

// CatchUp makes sure that a recovery ends while applications write (rule V5): commits
// wait, when they come faster than the backend catches up, for just as long as is
// needed. With L bytes to copy at the start and r bytes copied per second it ends
// within L / (r·(1 - 1/Ratio)) and the time for a last few transactions, provided that
// MaxDelay does not cut waiting short: that many bytes as wait to be committed at one
// time, times Ratio, must be copied within MaxDelay. The zero value is the default.
type CatchUp struct {
	// Ratio is how many bytes must be recovered for each byte committed; more than 1.
	// Default 2: a recovery takes at most twice as long as without commits.
	Ratio float64
	// MaxDelay is the longest that one commit waits for a recovery. Default 2 s.
	MaxDelay time.Duration
	// Off lets commits go on as fast as they can. A recovery may then never end.
	Off bool
}

// The defaults of CatchUp.
const (
	defaultCatchUpRatio    = 2
	defaultCatchUpMaxDelay = 2 * time.Second
)

// fault says what is wrong, "" if nothing is.
func (c CatchUp) fault() string {
	switch {
	case c.Ratio != 0 && !(c.Ratio > 1 && c.Ratio <= math.MaxFloat32):
		return fmt.Sprintf("CatchUp.Ratio %v, which must be more than 1", c.Ratio)
	case c.MaxDelay < 0:
		return "a negative CatchUp.MaxDelay"
	}
	return ""
}

// CatchUpStatus tells how commits are slowed so that recoveries catch up.
type CatchUpStatus struct {
	Ratio    float64       `json:"ratio"`        // 0: it is off
	MaxDelay time.Duration `json:"max_delay_ns"` // of one commit
	// Backend is the one on whose recovery commits depend now, the slowest; "" if on
	// none, so that none has to wait.
	Backend string `json:"backend,omitempty"`
	Waiting int    `json:"waiting"` // commits that wait now
	// Since the mirror was opened: the commits that had to wait, those of them that
	// waited for MaxDelay in vain, and the time that they waited in all.
	Delayed int64         `json:"delayed"`
	Expired int64         `json:"expired"`
	Delay   time.Duration `json:"delay_ns"`
	Latest  time.Duration `json:"latest_ns"` // how long the latest of them waited
}

// String tells it in one line.
func (s *CatchUpStatus) String() string {
	if s.Backend == "" {
		return fmt.Sprintf("commits do not wait; %d had to, %v in all", s.Delayed, s.Delay)
	}
	return fmt.Sprintf("commits wait for the recovery of %s: %d now, %d so far, %v in all", s.Backend, s.Waiting, s.Delayed, s.Delay)
}

// throttle carries out what the controller decides. Mirror.mu guards it, but for
// active.
type throttle struct {
	catchUp
	active atomic.Bool // a recovery copies: commits must ask
	slows  bool        // a commit had to wait since then
	counts CatchUpStatus
}

// awaitCatchUp waits until t may be committed: before it takes the commit slot, so
// that it holds nothing. Errors: ctx's, ErrClosed; the end of t then withdraws it.
func (m *Mirror) awaitCatchUp(ctx context.Context, t *mirrorTxn) error {
	if !m.throttle.active.Load() {
		return nil
	}
	a := &admission{bytes: t.weight(), open: make(chan struct{})}
	m.mu.Lock()
	openAll(m.throttle.asks(a))
	t.admission = a
	select {
	case <-a.open:
		m.mu.Unlock()
		return nil
	default:
	}
	m.tellSlowsLocked(true)
	m.mu.Unlock()
	began := time.Now()
	err := m.awaitOpen(ctx, a)
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &m.throttle.counts
	s.Latest = time.Since(began)
	s.Delay += s.Latest
	s.Delayed++
	return err
}

// awaitOpen waits until the controller lets a through, for MaxDelay at most.
func (m *Mirror) awaitOpen(ctx context.Context, a *admission) error {
	timer := time.NewTimer(m.cfg.CatchUp.MaxDelay)
	defer timer.Stop()
	select {
	case <-a.open:
	case <-timer.C:
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.throttle.expires(a) {
			m.throttle.counts.Expired++
		}
	case <-ctx.Done():
		return ctx.Err()
	case <-m.ctx.Done():
		return ErrClosed
	}
	return nil
}

func openAll(all []*admission) {
	for _, a := range all {
		close(a.open)
	}
}

// settle tells the controller how t ended.
func (t *mirrorTxn) settle(committed bool) {
	a := t.admission
	if a == nil {
		return
	}
	t.admission = nil
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	if committed {
		t.m.throttle.commits(a)
	} else {
		openAll(t.m.throttle.withdraws(a))
	}
}

// undoes tells the controller of the records that undoing makes, known by the vote.
func (t *mirrorTxn) undoes(changed []OID) {
	if t.admission == nil || len(changed) == 0 {
		return
	}
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	t.m.throttle.grows(t.admission, int64(len(changed)-t.log.undos())*undoneRecord)
}

// copies tells the controller that the recovery copies, with left transactions to do
// as of the time when m.committed was before.
func (m *Mirror) copies(b *backend, left, before int64) {
	if m.cfg.CatchUp.Off {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if left >= 0 { // one that is visible and still under way counts twice: rather too many
		left += m.committed.Load() - before
	}
	openAll(m.throttle.copies(b.cfg.Name, left))
	m.throttle.active.Store(true)
}

// copied tells it of a transaction.
func (m *Mirror) copied(b *backend, bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	openAll(m.throttle.copied(b.cfg.Name, bytes))
}

// stopsCopying tells it that the recovery has ended, or does something else.
func (m *Mirror) stopsCopying(b *backend) {
	m.mu.Lock()
	defer m.mu.Unlock()
	openAll(m.throttle.stops(b.cfg.Name))
	if len(m.throttle.copying) == 0 {
		m.throttle.active.Store(false)
		m.tellSlowsLocked(false)
	}
}

// tellSlowsLocked tells the watchers when commits begin to wait, and when that is over.
func (m *Mirror) tellSlowsLocked(slows bool) {
	if m.throttle.slows == slows {
		return
	}
	m.throttle.slows = slows
	s := m.catchUpStatusLocked()
	e := Event{Kind: EventCatchUp, Time: m.cfg.Clock(), Backend: s.Backend, Condition: m.conditionLocked(), CatchUp: &s}
	for _, b := range m.backends {
		if b.cfg.Name == s.Backend {
			e.From, e.To = b.state, b.state
		}
	}
	m.tell(e)
}

func (m *Mirror) catchUpStatusLocked() CatchUpStatus {
	s := m.throttle.counts
	if m.cfg.CatchUp.Off {
		return s
	}
	s.Ratio, s.MaxDelay = m.cfg.CatchUp.Ratio, m.cfg.CatchUp.MaxDelay
	s.Backend, s.Waiting = m.throttle.slowest(), len(m.throttle.waiting)
	return s
}

// What a FileStorage needs besides data and blobs, in bytes.
const (
	transactionHeader = 23 + 8 // with the length at the end
	recordHeader      = 42
	backPointer       = 8 // instead of data
	undoneRecord      = recordHeader + backPointer
)

// weight is what the transaction weighs for the controller, as far as it is known
// before the vote.
func (t *mirrorTxn) weight() int64 {
	n := metaWeight(t.meta)
	for i := range t.log.ops {
		o := &t.log.ops[i]
		switch o.kind {
		case opCheck:
		case opUndo:
			n += undoneRecord // at least
		default:
			n += recordWeight(o.size, o.dataTID)
			if o.blob != nil {
				n += o.blob.size
			}
		}
	}
	return n
}

// undos counts the transactions to undo.
func (l *opLog) undos() (n int) {
	for i := range l.ops {
		if l.ops[i].kind == opUndo {
			n++
		}
	}
	return n
}

// repeats tells whether a record of the transaction may repeat the data of an earlier one.
func (l *opLog) repeats() bool {
	return slices.ContainsFunc(l.ops, func(o op) bool { return o.kind == opUndo || o.dataTID != 0 })
}

func metaWeight(m Meta) int64 {
	return transactionHeader + int64(len(m.User)+len(m.Description)+len(m.Extension))
}

func recordWeight(size int, dataTID TID) int64 {
	if dataTID != 0 || size == 0 {
		size = backPointer
	}
	return recordHeader + int64(size)
}

// weighed is a transaction's records on their way to the target.
type weighed struct {
	bytes atomic.Int64 // a target may read blobs in another goroutine
}

// record weighs rec, and its blob as it is read.
func (w *weighed) record(rec Record) Record {
	w.bytes.Add(recordWeight(len(rec.Data), rec.DataTID))
	if open := rec.OpenBlob; open != nil {
		rec.OpenBlob = func(ctx context.Context) (io.ReadCloser, error) {
			blob, err := open(ctx)
			if err != nil {
				return nil, err
			}
			return &weighedBlob{blob, w}, nil
		}
	}
	return rec
}

type weighedBlob struct {
	io.ReadCloser
	w *weighed
}

// Read implements io.Reader.
func (b *weighedBlob) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.w.bytes.Add(int64(n))
	return n, err
}
