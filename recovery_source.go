package raidstorage

import (
	"context"
	"errors"
	"slices"
)

// Where a recovery reads from. It may read from several backends in turn, but only from
// such as were packed alike. Else the target would get parts of different histories: a
// record from one that has not dropped it, and not the later record that deletes the
// object from one that has dropped both, which brings the object back. Packs and
// recoveries exclude each other, so that a backend stays what it was.

// errPackedApart tells that no source is left that was packed as those read so far. The
// target has a part of their history: it is to be compared with another one.
var errPackedApart = errors.New("the backends that are left were packed apart from those read so far")

// packedAs is what sources must have in common.
type packedAs struct {
	even    bool // whether the last pack has succeeded
	horizon TID  // its last packed transaction
}

// sources are the backends that a recovery may read from. They are for one goroutine.
type sources struct {
	known  map[*session]packedAs
	failed map[*session]bool // they are not asked again
	chosen *packedAs         // nil before the first was
	turn   int
}

// findSources finds out how the backends in sync were packed that are not known yet,
// each with the deadlines of reads. One that fails is not a source. Not to be called
// with the commit slot held.
func (r *recovery) findSources(ctx context.Context) error {
	var last error
	for _, s := range r.m.view.Load().sessions {
		if _, known := r.sources.known[s]; known || r.sources.failed[s] {
			continue
		}
		horizon, err := packHorizon(ctx, s.timely)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			r.doubtSource(ctx, s)
			last = &BackendError{Backend: s.b.cfg.Name, Op: "iterate", Err: err}
			continue // it is asked again in the next round
		}
		r.m.mu.Lock()
		even := !slices.Contains(r.m.shown.Unpacked, s.b.cfg.Name)
		r.m.mu.Unlock()
		if r.sources.known == nil {
			r.sources.known = make(map[*session]packedAs)
		}
		r.sources.known[s] = packedAs{even, horizon}
	}
	if last != nil && !slices.ContainsFunc(r.m.view.Load().sessions, r.sources.usable) {
		return last
	}
	return nil
}

func (f *sources) usable(s *session) bool {
	_, known := f.known[s]
	return known && !f.failed[s]
}

// takeTurns tells whether there is another source than the one that is read.
func (f *sources) takeTurns(v *view) bool {
	n := 0
	for _, s := range v.sessions {
		if f.usable(s) && *f.chosen == f.known[s] {
			n++
		}
	}
	return n != 1 // none: the present one has left, and source tells what follows
}

// source returns a session to read the log from: each of those that were packed alike
// in turn; at first one that the last pack has not left unpacked, if there is one.
// errPackedApart if there are only others.
func (r *recovery) source() (*session, error) {
	from := &r.sources
	all := r.m.view.Load().sessions
	if len(all) == 0 {
		return nil, &UnavailableError{Need: 1}
	}
	from.turn++
	var other *session
	unknown := false // whether one has joined meanwhile
	for i := range all {
		s := all[(from.turn+i)%len(all)]
		packed, known := from.known[s]
		unknown = unknown || !known && !from.failed[s]
		switch {
		case !from.usable(s):
		case from.chosen != nil && *from.chosen == packed, from.chosen == nil && packed.even:
			from.turn, from.chosen = from.turn+i, &packed
			return s, nil
		case other == nil:
			other = s
		}
	}
	switch {
	case unknown && from.chosen != nil:
		return nil, errPackedApart
	case other == nil:
		return nil, &UnavailableError{InSync: len(all), Need: 1, Err: errors.New("none of the backends in sync could be read")}
	case from.chosen != nil:
		return nil, errPackedApart
	}
	packed := from.known[other]
	from.chosen = &packed
	return other, nil
}

// doubtSource makes a call to a source after a failure that may be its own: then it is
// degraded and opened anew. Else, where nobody reads and too few are in sync to commit,
// each attempt would fail as this one did. Not to be called with the commit slot held.
func (r *recovery) doubtSource(ctx context.Context, source *session) {
	if ctx.Err() == nil {
		_, _ = onWorker(ctx, r.m, "read", source, source.storage.LastTID)
	}
}

// fails takes a session out.
func (f *sources) fails(s *session) {
	if f.failed == nil {
		f.failed = make(map[*session]bool)
	}
	f.failed[s] = true
}
