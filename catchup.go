package raidstorage

// Catching up (rule V5). While a backend is recovered, each byte that is committed
// must be paid for by k bytes, the ratio, that the recovery has copied first. What is
// not paid for waits, in the order of arrival, until the recovery has copied more.
//
// Let L be the bytes that the target lacks when the copying begins (commits under way
// at that moment included), and r the bytes that are copied per second. At any time
// the commits let through have at most 1/k of the bytes copied, so all that is ever to
// be copied is at most L and 1/k of it: the recovery ends within
//
//	L / (r·(1 - 1/k))
//
// and the time of the end phase: joinLag transactions, and the join. The lag in bytes
// is never above L - (1 - 1/k)·(bytes copied). Credit does not lapse, so that nothing
// waits while applications write less than r/k.
//
// No commit waits longer than MaxDelay, which limits the guarantee: it needs
// k·n·b ≤ r·MaxDelay, where n commits of b bytes wait at the same time. Where they are
// more, they go on with n·b/MaxDelay bytes per second; if that is below r the recovery
// ends within L/(r - n·b/MaxDelay), else it may not end. What was let through unpaid
// is owed: it is paid for before a later commit is. A recovery that stands still thus
// costs each commit MaxDelay, until it fails, which one deadline brings about.
//
// Both sides are measured alike, in the bytes that a FileStorage would need (see
// weight): where a backend's own count is of other things, such as data without
// headers, many small commits would look lighter than they are to be copied.

// catchUp is the controller: a pure machine, without clock, lock or I/O. Each event
// returns the commits which may go on from then on. The zero value with a ratio is
// ready.
type catchUp struct {
	ratio    float64
	copying  []*copyPhase
	waiting  []*admission // oldest first
	underWay int64        // commits let through while a recovery copied, and not ended
	phases   uint64       // copy phases that ever began
}

// copyPhase is a recovery while it copies.
type copyPhase struct {
	name              string
	number            uint64
	copied, committed int64 // bytes since the phase began
	left              int64 // transactions to copy, those of commits under way included; -1: not known
}

// admission is one commit, from asking to its end.
type admission struct {
	bytes  int64
	phases uint64        // when it was let through: which phases it was charged to
	open   chan struct{} // the owner's; closed when it may go on
}

// copies tells that the recovery of a backend begins to copy, or copies on, and how
// many transactions it has to; -1 if that is not known.
func (c *catchUp) copies(name string, left int64) []*admission {
	p := c.phase(name)
	if p == nil {
		c.phases++
		p = &copyPhase{name: name, number: c.phases}
		c.copying = append(c.copying, p)
	}
	p.left = left
	if left >= 0 {
		p.left += c.underWay
	}
	return c.release()
}

// copied tells that a recovery has copied one transaction.
func (c *catchUp) copied(name string, bytes int64) []*admission {
	if p := c.phase(name); p != nil {
		p.copied += bytes
		p.left = max(p.left-1, min(p.left, 0))
	}
	return c.release()
}

// stops tells that a recovery does not copy any more: it has joined, failed, or does
// something else. What its commits owed is forgotten.
func (c *catchUp) stops(name string) []*admission {
	for i, p := range c.copying {
		if p.name == name {
			c.copying = append(c.copying[:i:i], c.copying[i+1:]...)
			break
		}
	}
	return c.release()
}

// asks lets a commit stand in line; it may be among those that go on at once.
func (c *catchUp) asks(a *admission) []*admission {
	c.waiting = append(c.waiting, a)
	return c.release()
}

// expires lets a commit through that has waited for long enough. It returns false if
// that one was let through already.
func (c *catchUp) expires(a *admission) bool {
	if !c.leaves(a) {
		return false
	}
	c.charge(a)
	return true
}

// withdraws tells that a commit is given up: one that waits, or that has gone on and
// changed nothing.
func (c *catchUp) withdraws(a *admission) []*admission {
	if c.leaves(a) {
		return c.release() // others may have waited for it
	}
	c.underWay--
	for _, p := range c.copying {
		if p.number > a.phases {
			continue // it began later
		}
		p.committed -= a.bytes
		p.left = max(p.left-1, min(p.left, 0))
	}
	return c.release()
}

// grows tells that a commit which has gone on is larger than it said.
func (c *catchUp) grows(a *admission, bytes int64) {
	a.bytes += bytes
	for _, p := range c.copying {
		if p.number <= a.phases {
			p.committed += bytes
		}
	}
}

// commits tells that a commit which has gone on has ended with success, or may have.
func (c *catchUp) commits(*admission) { c.underWay-- }

// release takes those out of the line that may go on. One that must wait keeps the
// later ones back, so that a large one gets its turn.
func (c *catchUp) release() (open []*admission) {
	for len(c.waiting) > 0 && c.pays(c.waiting[0].bytes) {
		a := c.waiting[0]
		c.waiting = c.waiting[1:]
		c.charge(a)
		open = append(open, a)
	}
	return open
}

// pays tells whether every recovery has copied enough for a commit, or is so near its
// end that a join does the rest whatever is committed now.
func (c *catchUp) pays(bytes int64) bool {
	for _, p := range c.copying {
		near := p.left >= 0 && p.left < joinLag
		if !near && float64(p.copied) < c.ratio*float64(p.committed+bytes) {
			return false
		}
	}
	return true
}

func (c *catchUp) charge(a *admission) {
	a.phases = c.phases
	c.underWay++
	for _, p := range c.copying {
		p.committed += a.bytes
		if p.left >= 0 {
			p.left++
		}
	}
}

// leaves takes a out of the line, if it is there.
func (c *catchUp) leaves(a *admission) bool {
	for i, w := range c.waiting {
		if w == a {
			c.waiting = append(c.waiting[:i:i], c.waiting[i+1:]...)
			return true
		}
	}
	return false
}

func (c *catchUp) phase(name string) *copyPhase {
	for _, p := range c.copying {
		if p.name == name {
			return p
		}
	}
	return nil
}

// slowest returns the backend that commits depend on most, "" if on none.
func (c *catchUp) slowest() (name string) {
	var least float64
	for _, p := range c.copying {
		if credit := float64(p.copied) - c.ratio*float64(p.committed); name == "" || credit < least {
			name, least = p.name, credit
		}
	}
	return name
}
