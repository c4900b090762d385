package raidstorage

import (
	"context"
	"errors"
	"iter"
	"slices"
)

// Iterate implements Storage: up to the last acknowledged transaction. When a
// backend fails on the way, another one goes on where it stopped.
func (m *Mirror) Iterate(ctx context.Context, from, through TID) iter.Seq2[*Transaction, error] {
	return func(yield func(*Transaction, error) bool) {
		v := m.view.Load()
		through := min(through, v.last)
		for {
			next, err := m.iterateOne(ctx, v, from, through, yield)
			if err == nil {
				return
			}
			if err := m.iterationFailed(ctx, &v, err); err != nil {
				yield(nil, err)
				return
			}
			from = next
		}
	}
}

// iterationError carries the session that failed.
type iterationError struct {
	session *session
	err     error
}

func (e *iterationError) Error() string { return e.err.Error() }
func (e *iterationError) Unwrap() error { return e.err }

// iterateOne yields from one backend. It returns where another one has to go on, and
// an error if one has to.
func (m *Mirror) iterateOne(ctx context.Context, v *view, from, through TID, yield func(*Transaction, error) bool) (next TID, err error) {
	if v.closed {
		return from, ErrClosed
	}
	if len(v.sessions) == 0 {
		return from, &UnavailableError{Need: 1}
	}
	s := v.sessions[m.first(v)]
	next = from
	for txn, err := range s.timely.Iterate(ctx, from, through) {
		if err != nil {
			return next, &iterationError{s, err}
		}
		out := *txn
		out.Records = m.records(ctx, v, s, txn)
		if !yield(&out, nil) {
			return next, nil
		}
		next = txn.TID + 1
	}
	return next, nil
}

// iterationFailed drops the backend that failed and picks up the present view, or
// returns the error for the caller.
func (m *Mirror) iterationFailed(ctx context.Context, v **view, err error) error {
	failed, ok := errors.AsType[*iterationError](err)
	if !ok || Classify(err) == ClassAnswer {
		return err
	}
	if Classify(err) == ClassRefusal { // by a nested mirror, say: another one may have it
		rest := slices.DeleteFunc(slices.Clone((*v).sessions), func(s *session) bool { return s == failed.session })
		if len(rest) == 0 {
			return failed.err
		}
		*v = &view{last: (*v).last, sessions: rest, closed: (*v).closed}
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if m.closing() {
		return ErrClosed
	}
	err = &BackendError{Backend: failed.session.b.cfg.Name, Op: "iterate", Err: failed.err}
	if len((*v).sessions) > 1 {
		m.faultOfRead(failed.session, err)
	}
	if newer := m.view.Load(); !slices.Contains(newer.sessions, failed.session) {
		*v = &view{last: (*v).last, sessions: newer.sessions, closed: newer.closed} // the snapshot stays
		return nil
	}
	return err // it was the only one
}

// records yields the records of txn, from another backend if s fails on the way.
func (m *Mirror) records(ctx context.Context, v *view, s *session, txn *Transaction) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		done := 0
		for r, err := range txn.Records {
			if err == nil {
				if !yield(r, nil) {
					return
				}
				done++
				continue
			}
			if failed := m.iterationFailed(ctx, &v, &iterationError{s, err}); failed != nil {
				yield(Record{}, failed)
				return
			}
			m.restOfRecords(ctx, txn.TID, done, yield)
			return
		}
	}
}

// restOfRecords yields the records of transaction tid after the first done.
func (m *Mirror) restOfRecords(ctx context.Context, tid TID, done int, yield func(Record, error) bool) {
	for txn, err := range m.Iterate(ctx, tid, tid) {
		if err != nil {
			yield(Record{}, err)
			return
		}
		for r, err := range txn.Records {
			if done--; done >= 0 && err == nil {
				continue
			}
			if !yield(r, err) || err != nil {
				return
			}
		}
	}
}

// CurrentRecords implements RecordIterator, as of the last acknowledged
// transaction when it began.
func (m *Mirror) CurrentRecords(ctx context.Context, from OID) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		v := m.view.Load()
		for {
			next, err := m.currentFromOne(ctx, v, from, yield)
			if err == nil {
				return
			}
			if err := m.iterationFailed(ctx, &v, err); err != nil {
				yield(Record{}, err)
				return
			}
			from = next
		}
	}
}

func (m *Mirror) currentFromOne(ctx context.Context, v *view, from OID, yield func(Record, error) bool) (next OID, err error) {
	if err := supports[RecordIterator](m); err != nil {
		return from, err
	}
	if len(v.sessions) == 0 {
		return from, &UnavailableError{Need: 1}
	}
	s := v.sessions[m.first(v)]
	ri, err := Can[RecordIterator](s.storage)
	if err != nil {
		return from, err
	}
	hidden := unacknowledged{seen: v.last}
	next = from
	// show yields what later transactions have deleted, up to oid. What they delete is known
	// only after it is found missing.
	show := func(through OID) (more bool, err error) {
		if err := hidden.look(ctx, s, next); err != nil {
			return false, err
		}
		for len(hidden.oids) > 0 && hidden.oids[0] <= through {
			oid := hidden.oids[0]
			hidden.oids = hidden.oids[1:]
			rev, err := m.LoadBefore(ctx, oid, v.last+1)
			if isA[*NotFoundError](err) {
				continue
			}
			if err != nil {
				return false, err
			}
			if r, err := recordOf(ctx, s, oid, rev); err != nil || !yield(r, nil) {
				return false, err
			}
			next = oid + 1
		}
		return true, nil
	}
	for r, err := range stepwise(ctx, m.tuned().Timeouts.Read, func(ctx context.Context, _ *stepWatch) iter.Seq2[Record, error] {
		return ri.CurrentRecords(ctx, from)
	}) {
		if err != nil {
			return next, &iterationError{s, err}
		}
		if r.OID > next {
			if more, err := show(r.OID - 1); !more {
				return next, err
			}
		}
		if len(hidden.oids) > 0 && hidden.oids[0] == r.OID {
			hidden.oids = hidden.oids[1:]
		}
		found := true
		if r.TID > v.last { // not acknowledged, or later than the snapshot
			rev, err := m.LoadBefore(ctx, r.OID, v.last+1)
			if found = !isA[*NotFoundError](err); found && err != nil {
				return next, err
			}
			if found {
				if r, err = recordOf(ctx, s, r.OID, rev); err != nil {
					return next, err
				}
			}
		}
		if found && !yield(r, nil) {
			return next, nil
		}
		if next = r.OID + 1; next == 0 {
			return next, nil // it was the greatest
		}
	}
	_, err = show(1<<64 - 1)
	return next, err
}

// recordOf returns the record of a revision that was loaded: without its blob, if a pack has
// dropped it since.
func recordOf(ctx context.Context, s *session, oid OID, rev Revision) (Record, error) {
	r, err := recordAt(ctx, s, oid, rev.Serial)
	if err == nil && r.TID == 0 {
		r = Record{OID: oid, TID: rev.Serial, Data: rev.Data}
	}
	return r, err
}

// recordAt returns the record of oid in transaction serial, a zero one if there is none.
func recordAt(ctx context.Context, s *session, oid OID, serial TID) (found Record, err error) {
	for txn, err := range s.timely.Iterate(ctx, serial, serial) {
		if err != nil {
			return found, &iterationError{s, err}
		}
		for r, err := range txn.Records {
			if err != nil {
				return found, &iterationError{s, err}
			}
			if r.OID == oid {
				found = r // the last one counts
			}
		}
	}
	return found, nil
}

// unacknowledged are the oids, in ascending order, in transactions that a backend holds and
// that are not visible in a snapshot.
type unacknowledged struct {
	seen TID // the last one
	oids []OID
}

// look adds those of new transactions, from an oid on.
func (u *unacknowledged) look(ctx context.Context, s *session, from OID) error {
	known := len(u.oids)
	for txn, err := range s.timely.Iterate(ctx, u.seen+1, MaxTID) {
		if err != nil {
			return &iterationError{s, err}
		}
		for r, err := range txn.Records {
			if err != nil {
				return &iterationError{s, err}
			}
			if r.OID >= from {
				u.oids = append(u.oids, r.OID)
			}
		}
		u.seen = txn.TID
	}
	if len(u.oids) > known {
		slices.Sort(u.oids)
		u.oids = slices.Compact(u.oids)
	}
	return nil
}
