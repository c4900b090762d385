package commitmodel

import (
	"fmt"
	"math/bits"
)

// steps adds all states that follow s.
func (e *explorer) steps(s state) {
	e.commits(s)
	e.completes(s)
	e.disks(s)
	e.crashes(s)
	e.resolves(s)
	e.joins(s)
	if s.pending { // F3: a change of the register that was given up on
		n := s
		n.reg, n.pending, n.late = s.late, false, 0
		e.to(s, n, "late change of the register")
	}
}

func (e *explorer) holder(s *state) uint8 {
	for t := uint8(1); t < s.next; t++ {
		if s.txn[t] == voted {
			return t
		}
	}
	return 0
}

// alive are the members that the front-end believes in and talks to.
func (e *explorer) alive(s *state) (mask uint8) {
	for i := range e.cfg.Members {
		if s.believed&(1<<i) != 0 && !s.m[i].dead {
			mask |= 1 << i
		}
	}
	return mask
}

// commits are vote, abort and the start of a finish.
func (e *explorer) commits(s state) {
	holder := e.holder(&s)
	inDoubt := s.doubt && !e.cfg.Broken.StartInDoubt
	if holder == 0 && int(s.next) <= e.cfg.Txns && !inDoubt && e.alive(&s) == s.believed &&
		int(s.queue.len()) < e.cfg.Depth && bits.OnesCount8(s.believed) >= e.cfg.Quorum {
		n := s
		t := s.next
		n.txn[t], n.next = voted, t+1
		first := bits.TrailingZeros8(s.believed)
		n.base[t] = s.m[first].log.tail()
		if e.cfg.Broken.VoteBesideTail {
			n.base[t] = s.history.tail()
		}
		same := true
		for i := range e.cfg.Members {
			same = same && (s.believed&(1<<i) == 0 || s.m[i].log.tail() == s.m[first].log.tail())
		}
		if same || e.cfg.Broken.StartInDoubt {
			e.to(s, n, fmt.Sprintf("vote T%d", t))
		}
	}
	if holder == 0 {
		return
	}
	n := s
	n.txn[holder] = refused
	e.to(s, n, fmt.Sprintf("abort T%d", holder))
	if inDoubt {
		return
	}
	// Each living member appends it and says so, or appends it and does not, or does not.
	alive := e.alive(&s)
	for outcome := range 1 << (2 * e.cfg.Members) {
		n := s
		n.txn[holder] = flying
		n.queue[n.queue.len()] = holder
		lost, ok := 0, true
		for i := range e.cfg.Members {
			switch o := outcome >> (2 * i) & 3; {
			case alive&(1<<i) == 0 && o != 0, o == 3:
				ok = false
			case alive&(1<<i) == 0:
			default:
				if o < 2 {
					n.m[i].log[n.m[i].log.len()] = holder
				}
				if o > 0 {
					n.m[i].dead = true
					lost++
				}
			}
		}
		if n.faults += uint8(lost); ok && int(n.faults) <= e.cfg.Faults {
			e.to(s, n, fmt.Sprintf("start T%d, lost by %d", holder, lost))
		}
	}
}

// completes ends the oldest transaction in flight (C5 to C8).
func (e *explorer) completes(s state) {
	for q := range s.queue.len() {
		if q == 0 || e.cfg.Broken.AckAnyOrder {
			e.complete(s, int(q))
		}
	}
	if e.cfg.Broken.ShowEarly {
		for i := range e.cfg.Members {
			t, n := s.queue[0], s
			if k := s.m[i].log.index(t); t != 0 && k >= 0 && k < int(s.m[i].durable) && s.history.index(t) < 0 {
				n.history[n.history.len()] = t
				e.to(s, n, fmt.Sprintf("show T%d", t))
			}
		}
	}
}

func (e *explorer) complete(s state, q int) {
	t := s.queue[q]
	var confirmed, waits uint8
	for i := range e.cfg.Members {
		m := &s.m[i]
		at := m.log.index(t)
		durable := at >= 0 && at < int(m.durable)
		switch {
		case !m.dead && at >= 0 && !durable:
			waits |= 1 << i
		case !m.dead && at >= 0, e.cfg.Broken.CountDropped && durable:
			confirmed |= 1 << i
		}
	}
	if !e.cfg.Broken.CountDropped {
		confirmed &= s.believed
	}
	n := s
	n.queue = logOf{}
	for i, x := range s.queue[:s.queue.len()] {
		if i != q {
			n.queue[n.queue.len()] = x
		}
	}
	enough := bits.OnesCount8(confirmed) >= e.cfg.Quorum
	if waits != 0 && !(e.cfg.Broken.AckAtQuorum && enough) && !(e.cfg.Broken.ResolveEarly && s.doubt) {
		return
	}
	if s.doubt && !e.cfg.Broken.StartInDoubt && !e.cfg.Broken.AckAnyOrder || !enough {
		n.txn[t], n.doubt = unknown, true
		e.to(s, n, fmt.Sprintf("T%d unknown", t))
		return
	}
	left := s.believed & (confirmed | waits)
	if left == s.believed {
		e.acknowledge(s, n, t, "")
		return
	}
	e.change(s, n, left, func(n state, how string) { e.acknowledge(s, n, t, how) }, func(n state, how string) {
		n.txn[t] = unknown
		e.to(s, n, fmt.Sprintf("T%d unknown: register %s", t, how))
	})
}

func (e *explorer) acknowledge(s, n state, t uint8, how string) {
	n.txn[t] = acked
	if n.history.index(t) < 0 {
		n.history[n.history.len()] = t
	}
	e.to(s, n, fmt.Sprintf("ack T%d%s", t, how))
	if bits.OnesCount8(n.believed) < e.cfg.Quorum && e.bad == "" {
		e.bad, e.at = "acknowledged with fewer than W in the record", n
	}
}

// change is a change of the record to mask, with all that may become of it.
func (e *explorer) change(s, n state, mask uint8, done, failed func(state, string)) {
	ok := n
	ok.reg, ok.believed = mask, mask
	done(ok, fmt.Sprintf(", record %b", mask))
	if int(s.registerFaults) >= e.cfg.RegisterFaults {
		return
	}
	n.registerFaults++
	n.doubt = true
	failed(n, "refuses")
	stored := n
	stored.reg = mask
	failed(stored, "stores in silence")
	later := n
	later.late, later.pending = mask, true
	failed(later, "is slow")
}

// disks are members that make the next transaction durable, and ones that fail.
func (e *explorer) disks(s state) {
	for i := range e.cfg.Members {
		m := &s.m[i]
		if m.durable < m.log.len() {
			n := s
			n.m[i].durable++
			e.to(s, n, fmt.Sprintf("B%d has T%d on its disk", i, m.log[m.durable]))
		}
		if !m.dead && int(s.faults) < e.cfg.Faults {
			n := s
			n.m[i].dead = true
			n.faults++
			e.to(s, n, fmt.Sprintf("B%d is given up", i))
		}
	}
}

// opened are the states that a member may be in when it is opened again.
func (e *explorer) opened(m member) (ms []member) {
	for n := m.durable; n <= m.log.len(); n++ {
		ms = append(ms, member{log: m.log.cut(n), durable: n})
	}
	if e.cfg.Broken.DurableAnyhow && m.log.len() > m.durable+1 { // a hole
		var hole member
		hole.log = m.log.cut(m.durable)
		hole.log[m.durable] = m.log.tail()
		hole.durable = m.durable + 1
		ms = append(ms, hole)
	}
	return ms
}

// crashes are power failures of a member, and of the front-end with all its members.
func (e *explorer) crashes(s state) {
	if int(s.memberCrashes) < e.cfg.MemberCrashes {
		for i := range e.cfg.Members {
			for _, m := range e.opened(s.m[i]) {
				n := s
				n.m[i] = m
				n.m[i].dead = true
				n.memberCrashes++
				e.to(s, n, fmt.Sprintf("B%d crashes and keeps %d", i, m.durable))
			}
		}
	}
	if int(s.frontCrashes) >= e.cfg.FrontCrashes {
		return
	}
	n := s
	n.frontCrashes++
	n.doubt, n.queue = true, logOf{}
	for t := range n.txn {
		if n.txn[t] == flying || n.txn[t] == voted {
			n.txn[t] = unknown
		}
	}
	n.believed = n.reg
	for i := range e.cfg.Members {
		n.m[i].dead = true
	}
	e.to(s, n, "the front-end crashes")
}
