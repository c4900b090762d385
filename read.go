package raidstorage

import (
	"cmp"
	"context"
	"io"
	"math"
	"slices"
	"time"

	"github.com/hashicorp/go-multierror"
)

// latencySample is how often a read is timed where the policy does not need it.
const latencySample = 64

// first returns the index of the session that a read tries first: the policy's
// choice. The others follow in turn.
func (m *Mirror) first(v *view) int {
	n := len(v.sessions)
	if n == 1 {
		return 0
	}
	switch m.tuned().ReadPolicy {
	case PrimaryFirst:
		return 0
	case LeastLatency:
		turn := m.turn.Add(1)
		if turn%latencySample == 0 {
			return int(turn / latencySample % uint64(n)) // now and then another, so as to know
		}
		best := 0
		for i, s := range v.sessions {
			if s.b.latency.Load() < v.sessions[best].b.latency.Load() {
				best = i
			}
		}
		return best
	}
	return int(m.turn.Add(1) % uint64(n))
}

// LoadBefore implements Storage. It asks a backend in sync; when that one fails, it
// is dropped and another one asked. A revision counts as current if it is current
// as of the last acknowledged transaction (rule R1).
func (m *Mirror) LoadBefore(ctx context.Context, oid OID, before TID) (Revision, error) {
	v := m.view.Load()
	before = min(before, v.last+1)
	rev, err := read(ctx, m, v, "load", func(ctx context.Context, s *session) (Revision, error) {
		return s.storage.LoadBefore(ctx, oid, before)
	})
	if rev.Next > v.last {
		rev.Next = 0 // finished on that backend, but not acknowledged yet
	}
	if err != nil && len(v.sessions) > 1 && isA[*NotFoundError](err) {
		return m.confirmMissing(ctx, v, oid, before, err)
	}
	return rev, err
}

// confirmMissing asks all others for an object that one does not have (rule R2):
// a damaged backend must not make an application believe that data is gone.
func (m *Mirror) confirmMissing(ctx context.Context, v *view, oid OID, before TID, missing error) (Revision, error) {
	var have []*session
	var rev Revision
	for _, s := range v.sessions {
		got, err := call(ctx, m, s, func(ctx context.Context, s *session) (Revision, error) {
			return s.storage.LoadBefore(ctx, oid, before)
		})
		if err == nil {
			rev, have = got, append(have, s)
		}
	}
	if len(have) == 0 || ctx.Err() != nil {
		return Revision{}, missing
	}
	if m.uneven.Load() || rev.Next != 0 && rev.Next <= TID(m.horizon.Load()) {
		// A pack has dropped it on some backends, or a pack that began meanwhile.
		if rev.Next > v.last {
			rev.Next = 0
		}
		return rev, nil
	}
	damaged := m.damagedAt(ctx, oid, before-1, v.sessions)
	if len(damaged) == len(v.sessions) {
		damaged = nil
	}
	for _, s := range damaged {
		m.fault(s, &ContradictionError{Op: "load " + oid.String(), Answers: map[string]string{
			s.b.cfg.Name: missing.Error(), have[0].b.cfg.Name: "found " + rev.Serial.String()}})
	}
	if slices.Contains(damaged, have[0]) {
		return Revision{}, missing
	}
	if rev.Next > v.last {
		rev.Next = 0
	}
	return rev, nil
}

// read asks the backends of v, one after the other, until one gives an answer. A
// failure drops the backend, except for the last one: then it is the caller's. A
// refusal, such as that of a nested mirror without enough backends, counts if all
// refuse.
func read[T any](ctx context.Context, m *Mirror, v *view, op string, ask func(context.Context, *session) (T, error)) (T, error) {
	var none T
	n := len(v.sessions)
	if n == 0 {
		if v.closed {
			return none, ErrClosed
		}
		return none, &UnavailableError{Need: 1}
	}
	var errs *multierror.Error
	var refusal error
	first := m.first(v)
	for i := range n {
		s := v.sessions[(first+i)%n]
		if s.dead.Load() && i < n-1 {
			continue
		}
		value, err := call(ctx, m, s, ask)
		if err == nil {
			return value, nil
		}
		switch Classify(err) {
		case ClassAnswer:
			return none, err
		case ClassRefusal:
			refusal = cmp.Or(refusal, err)
			continue
		}
		if ctx.Err() != nil {
			return none, ctx.Err()
		}
		s.b.loadErrors.Add(1)
		err = &BackendError{Backend: s.b.cfg.Name, Op: op, Err: err}
		errs = gather(errs, err)
		if m.closing() {
			return none, ErrClosed
		}
		if i < n-1 {
			m.faultOfRead(s, err)
		}
	}
	if newer := m.view.Load(); newer != v && !slices.Equal(newer.sessions, v.sessions) {
		return read(ctx, m, newer, op, ask) // the members changed meanwhile; this ends, as they fail one by one
	}
	if errs == nil {
		return none, refusal
	}
	return none, errs
}

func (m *Mirror) closing() bool { return m.ctx.Err() != nil }

// call makes one call with the read deadline, and counts it. It is timed if the
// policy wants to know, else now and then.
func call[T any](ctx context.Context, m *Mirror, s *session, ask func(context.Context, *session) (T, error)) (T, error) {
	rc := lazyContext{Context: ctx, timeout: m.tuned().Timeouts.Read}
	n := s.b.loads.Add(1)
	if m.tuned().ReadPolicy != LeastLatency && n%latencySample != 0 {
		value, err := ask(&rc, s)
		rc.end()
		return value, err
	}
	start := time.Now()
	value, err := ask(&rc, s)
	took := time.Since(start)
	rc.end()
	s.b.timed(took)
	return value, err
}

// timed notes how long a read took.
func (b *backend) timed(d time.Duration) {
	took := int64(d)
	if old := b.latency.Load(); old != 0 {
		took = old + (took-old)/8
	}
	b.latency.Store(max(took, 1))
}

// OpenBlob implements BlobLoader.
func (m *Mirror) OpenBlob(ctx context.Context, oid OID, serial TID) (io.ReadCloser, error) {
	v := m.view.Load()
	if serial > v.last {
		return nil, &NotFoundError{OID: oid, Serial: serial}
	}
	if err := supports[BlobLoader](m); err != nil {
		return nil, err
	}
	return read(ctx, m, v, "open blob", func(_ context.Context, s *session) (io.ReadCloser, error) {
		blobs, err := Can[BlobLoader](s.storage)
		if err != nil {
			return nil, err
		}
		return blobs.OpenBlob(ctx, oid, serial) // the caller's context: it reads on after this returns
	})
}

// History implements Historian.
func (m *Mirror) History(ctx context.Context, oid OID, limit int) ([]TxnInfo, error) {
	if err := supports[Historian](m); err != nil {
		return nil, err
	}
	v := m.view.Load()
	infos, err := read(ctx, m, v, "history", func(ctx context.Context, s *session) ([]TxnInfo, error) {
		h, err := Can[Historian](s.storage)
		if err != nil {
			return nil, err
		}
		return historyThrough(ctx, h, oid, limit, v.last)
	})
	if err == nil && len(infos) == 0 && limit > 0 { // it is known from a transaction that is not acknowledged
		err = &NotFoundError{OID: oid}
	}
	return infos[:min(len(infos), max(limit, 0))], err
}

// historyThrough returns at least limit entries up to last, if there are as many. How many
// later ones there are nobody knows: some may be in flight.
func historyThrough(ctx context.Context, h Historian, oid OID, limit int, last TID) ([]TxnInfo, error) {
	for later := 1; ; later *= 2 {
		ask := min(limit, math.MaxInt-later) + later
		infos, err := h.History(ctx, oid, ask)
		if err != nil {
			return nil, err
		}
		all := len(infos) < ask
		infos = slices.DeleteFunc(infos, func(i TxnInfo) bool { return i.TID > last })
		if all || len(infos) >= limit {
			return infos, nil
		}
	}
}

// UndoLog implements Undoer.
func (m *Mirror) UndoLog(ctx context.Context, skip, limit int, match func(TxnInfo) bool) ([]TxnInfo, error) {
	if err := supports[Undoer](m); err != nil {
		return nil, err
	}
	v := m.view.Load()
	return read(ctx, m, v, "undo log", func(_ context.Context, s *session) ([]TxnInfo, error) {
		u, err := Can[Undoer](s.storage)
		if err != nil {
			return nil, err
		}
		// A long log is no fault, and match takes the time it takes: the deadline is
		// for the way from one transaction to the next.
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		timer := time.AfterFunc(m.tuned().Timeouts.Read, cancel)
		defer timer.Stop()
		return u.UndoLog(ctx, skip, limit, func(i TxnInfo) bool {
			timer.Stop()
			defer timer.Reset(m.tuned().Timeouts.Read)
			return i.TID <= v.last && i.TID > TID(m.horizon.Load()) && (match == nil || match(i))
		})
	})
}

// Size implements Sizer: that of one backend.
func (m *Mirror) Size(ctx context.Context) (objects, bytes int64, err error) {
	if err := supports[Sizer](m); err != nil {
		return 0, 0, err
	}
	size, err := read(ctx, m, m.view.Load(), "size", func(ctx context.Context, s *session) (size [2]int64, err error) {
		sizer, err := Can[Sizer](s.storage)
		if err == nil {
			size[0], size[1], err = sizer.Size(ctx)
		}
		return size, err
	})
	return size[0], size[1], err
}
