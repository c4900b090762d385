package raidstorage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
)

// packComparison is what a comparison after a pack found (K4), by backend.
type packComparison struct {
	lacks map[*session]*DifferenceError // those that lack what others have
	keeps map[*session]*DifferenceError // those that hold what the pack should have dropped
	older map[*session]bool             // those that hold garbage of an earlier pack, which this one did not collect
	lost  map[*session]error            // those that failed while they were compared
	err   error                         // why it did not come to an end
}

// DifferenceError says that a backend does not hold the same objects as others.
type DifferenceError struct {
	Backend string
	OID     OID   // the first object that differs
	Count   int64 // how many do
	Serial  TID   // of the backend's revision, 0 if it has none
	Others  TID   // of the others' revision, 0 if they have none
	Hint    string
}

func (e *DifferenceError) Error() string {
	has := func(t TID) string {
		if t == 0 {
			return "none"
		}
		return t.String()
	}
	msg := fmt.Sprintf("backend %s holds other objects than the rest: of object %v it has revision %s, they have %s",
		e.Backend, e.OID, has(e.Serial), has(e.Others))
	if e.Count > 1 {
		msg += fmt.Sprintf("; %d objects differ", e.Count)
	}
	if e.Hint != "" {
		msg += "; " + e.Hint
	}
	return msg
}

// packedApart tells an operator what to do about a backend that lacks objects.
const packedApart = "it was packed at another time, or is damaged: replace it by an empty one and recover"

// compare compares what the backends hold as of the cut. Only memory for a few
// records is needed: they are walked side by side.
func (p *packing) compare(ctx context.Context) *packComparison {
	c := &packComparison{lost: make(map[*session]error)}
	m := p.m
	var sessions []*session
	for _, s := range p.sessions {
		if _, err := Can[RecordIterator](s.storage); err != nil {
			m.cfg.Logger.Warn("the backend cannot be compared after the pack", "backend", s.b.cfg.Name, "err", err)
		} else if !s.dead.Load() {
			sessions = append(sessions, s)
		}
	}
	for {
		c.older = make(map[*session]bool)
		c.lacks, c.keeps = make(map[*session]*DifferenceError), make(map[*session]*DifferenceError)
		if len(sessions) < 2 {
			return c
		}
		p.progress(true, func(pp *PackProgress) { pp.Phase = PackComparing })
		c.err = p.compareOnce(ctx, c, sessions)
		i := slices.IndexFunc(sessions, func(s *session) bool { return isOf(c.err, s) })
		if i < 0 || ctx.Err() != nil {
			return c
		}
		c.lost[sessions[i]] = c.err // the others can be compared without it
		m.fault(sessions[i], c.err)
		sessions = slices.Delete(sessions, i, i+1)
		c.err = nil
	}
}

// isOf tells whether err is a failure of s.
func isOf(err error, s *session) bool {
	b, ok := errors.AsType[*BackendError](err)
	return ok && b.Backend == s.b.cfg.Name
}

func (p *packing) compareOnce(ctx context.Context, c *packComparison, sessions []*session) error {
	compared, pace := int64(0), newPacer(p.compareRate())
	defer func() { p.progress(true, func(pp *PackProgress) { pp.Compared = compared }) }()
	return walkCurrent(ctx, p.m, sessions, func(oid OID, records []*Record) error {
		if err := pace.wait(ctx, mostBytes(records)); err != nil {
			return err
		}
		if compared++; compared%1024 == 0 {
			p.progress(false, func(pp *PackProgress) { pp.Compared = compared })
		}
		if sameSerials(records) {
			return nil
		}
		// Commits go on: only what differs as of the cut counts.
		serials, err := serialsAt(ctx, p.m, sessions, oid, p.cut+1)
		if err == nil {
			p.judge(c, sessions, oid, serials)
		}
		return err
	})
}

// compareRate is how many bytes of records are compared in a second, 0 for no bound.
func (p *packing) compareRate() int64 {
	return cmp.Or(p.opts.CompareBytesPerSecond, p.m.cfg.CompareBytesPerSecond)
}

// mostBytes is what records of one object count as: the longest of them.
func mostBytes(records []*Record) int64 {
	most := 0
	for _, r := range records {
		if r != nil {
			most = max(most, len(r.Data))
		}
	}
	return int64(most)
}

// judge notes who is wrong about oid.
func (p *packing) judge(c *packComparison, sessions []*session, oid OID, serials []TID) {
	if slices.Max(serials) == slices.Min(serials) {
		return
	}
	_, garbage := slices.BinarySearch(p.garbage, oid)
	garbage = garbage && slices.Max(serials) <= p.through // else it was written again, and that stays
	if garbage || p.onlyUnpackedHave(sessions, serials) {
		for i, s := range sessions {
			if serials[i] != 0 && p.failed[s] == nil {
				note(c.keeps, s, oid, serials[i], 0)
			}
		}
		return
	}
	if p.leftOver(sessions, serials) && !p.alive(sessions, serials) {
		for i, s := range sessions {
			switch {
			case serials[i] == 0:
			case p.opts.GC && p.through >= p.lastHorizon: // where those with an own collector know
				note(c.keeps, s, oid, serials[i], 0).Hint = leftOverHint
			default:
				c.older[s] = true
			}
		}
		return
	}
	// An object does not come from nothing: who has the latest revision is right.
	newest := slices.Max(serials)
	for i, s := range sessions {
		if serials[i] != newest {
			note(c.lacks, s, oid, serials[i], newest).Hint = packedApart
		}
	}
}

// onlyUnpackedHave tells whether all that have an object are backends whose pack
// failed, and nobody knows what they should have dropped.
func (p *packing) onlyUnpackedHave(sessions []*session, serials []TID) bool {
	if p.decided {
		return false
	}
	for i, s := range sessions {
		if serials[i] != 0 && p.failed[s] == nil {
			return false
		}
	}
	return true
}

// leftOverHint is about an object that an earlier pack has dropped elsewhere and that is
// no garbage here.
const leftOverHint = "it was linked again before that pack had dropped it here; replace the others, one after the other, by empty ones and recover"

// leftOver tells whether only those have an object, from before an earlier pack time,
// whose pack failed then. A pack to an earlier time, or without garbage collection,
// leaves it there.
func (p *packing) leftOver(sessions []*session, serials []TID) bool {
	for i, s := range sessions {
		if serials[i] != 0 && (serials[i] > p.lastHorizon || !slices.Contains(p.before, s.b.cfg.Name)) {
			return false
		}
	}
	return true
}

// alive tells whether an object that is no garbage by p.garbage was linked again since
// the earlier pack: who decided has it, and did not find it to be garbage.
func (p *packing) alive(sessions []*session, serials []TID) bool {
	i := slices.Index(sessions, p.finder)
	return i >= 0 && serials[i] != 0 && p.through >= p.lastHorizon
}

func note(in map[*session]*DifferenceError, s *session, oid OID, serial, others TID) *DifferenceError {
	e := in[s]
	if e == nil {
		e = &DifferenceError{Backend: s.b.cfg.Name, OID: oid, Serial: serial, Others: others}
		in[s] = e
	}
	e.Count++
	return e
}

func sameSerials(records []*Record) bool {
	for _, r := range records {
		if r == nil || r.TID != records[0].TID {
			return false
		}
	}
	return true
}
