package raidstorage

import (
	"context"
	"errors"
	"iter"
)

// serialsAt returns the serial of each session's revision of oid before a tid, 0
// where there is none.
func serialsAt(ctx context.Context, m *Mirror, sessions []*session, oid OID, before TID) ([]TID, error) {
	serials := make([]TID, len(sessions))
	for i, s := range sessions {
		rev, err := leave(ctx, m, m.tuned().Timeouts.Read, func(ctx context.Context) (Revision, error) {
			return s.storage.LoadBefore(ctx, oid, before)
		})
		if err != nil && !isA[*NotFoundError](err) {
			return nil, &BackendError{Backend: s.b.cfg.Name, Op: "load", Err: err}
		}
		serials[i] = rev.Serial
	}
	return serials, nil
}

// errLeft ends a walk that was left to itself.
var errLeft = errors.New("left to itself")

// walkCurrent walks the current records of all sessions side by side, in oid order.
// visit gets one record of each, nil for who has none of that oid; they are valid
// until it returns. A backend whose next record does not come in time is named in a
// *BackendError; visit is not called any more when walkCurrent has returned.
func walkCurrent(ctx context.Context, m *Mirror, sessions []*session, visit func(oid OID, records []*Record) error) error {
	return walkCurrentFrom(ctx, m, sessions, 0, visit)
}

// walkCurrentFrom is walkCurrent, from an oid on.
func walkCurrentFrom(ctx context.Context, m *Mirror, sessions []*session, from OID, visit func(oid OID, records []*Record) error) error {
	w := &currentWalk{m: m, sessions: sessions, guard: stepGuard{side: -1}}
	done := make(chan struct{})
	var err error
	if !m.run(func() {
		walked := w.walk(ctx, from, visit)
		if w.guard.leave() {
			err = walked
			close(done)
		}
	}) {
		return ErrClosed
	}
	timeout := m.tuned().Timeouts.Read
	// Those that obey their context end at the first deadline.
	if side := w.guard.await(done, 2*timeout); side >= 0 {
		return &BackendError{Backend: sessions[side].b.cfg.Name, Op: "compare", Err: &leftError{2 * timeout}}
	}
	return err
}

// currentWalk is one run of walkCurrent. It belongs to a goroutine of its own, which
// may be left to itself while it waits for a backend.
type currentWalk struct {
	m        *Mirror
	sessions []*session
	guard    stepGuard
	sides    []currentSide
}

// currentSide is one backend of a walk.
type currentSide struct {
	next func() (Record, error, bool)
	rec  Record
	more bool
}

// advance goes to the next record of a side.
func (w *currentWalk) advance(i int) error {
	if !w.guard.enter(i) {
		return errLeft
	}
	rec, err, ok := w.sides[i].next()
	if !w.guard.leave() {
		return errLeft
	}
	if ok && err != nil {
		return &BackendError{Backend: w.sessions[i].b.cfg.Name, Op: "compare", Err: err}
	}
	w.sides[i].rec, w.sides[i].more = rec, ok
	return nil
}

func (w *currentWalk) walk(ctx context.Context, from OID, visit func(oid OID, records []*Record) error) error {
	w.sides = make([]currentSide, len(w.sessions))
	for i, s := range w.sessions {
		ri, err := Can[RecordIterator](s.storage)
		if err != nil {
			return err
		}
		next, stop := iter.Pull2(stepwise(ctx, w.m.tuned().Timeouts.Read, func(ctx context.Context, _ *stepWatch) iter.Seq2[Record, error] {
			return ri.CurrentRecords(ctx, from)
		}))
		defer func() {
			w.guard.enter(i)
			stop()
			w.guard.leave()
		}()
		w.sides[i].next = next
		if err := w.advance(i); err != nil {
			return err
		}
	}
	records := make([]*Record, len(w.sides))
	for {
		least, found := w.least()
		if !found {
			return ctx.Err()
		}
		for i := range w.sides {
			records[i] = nil
			if s := &w.sides[i]; s.more && s.rec.OID == least {
				records[i] = &s.rec
			}
		}
		if err := visit(least, records); err != nil {
			return err
		}
		for i := range w.sides {
			if records[i] == nil {
				continue
			}
			if err := w.advance(i); err != nil {
				return err
			}
		}
	}
}

// least returns the lowest oid that a side is at.
func (w *currentWalk) least() (oid OID, found bool) {
	for i := range w.sides {
		if s := &w.sides[i]; s.more && (!found || s.rec.OID < oid) {
			oid, found = s.rec.OID, true
		}
	}
	return oid, found
}
