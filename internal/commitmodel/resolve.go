package commitmodel

import (
	"fmt"
	"math/bits"
)

// resolves is S1 to S6, one turn: all of the record are opened that can be, the rest
// leaves; then one that is behind gets the next transaction it lacks, or, where all are
// equal, everything is shown. A crash between two turns is a crash within one.
func (e *explorer) resolves(s state) {
	if e.holder(&s) != 0 || s.queue[0] != 0 || !s.doubt && e.alive(&s) == s.believed {
		return
	}
	n := s
	n.late, n.pending, n.believed = 0, false, s.reg // S1: the epoch moves
	for reached := uint8(1); reached < 1<<e.cfg.Members; reached++ {
		if reached&^n.believed != 0 {
			continue
		}
		n := n
		n.faults += uint8(bits.OnesCount8(n.believed &^ reached))
		if int(n.faults) > e.cfg.Faults {
			continue
		}
		e.open(s, n, reached, 0)
	}
}

// open tries all states that dead members may be found in.
func (e *explorer) open(s, n state, reached uint8, from int) {
	for i := from; i < e.cfg.Members; i++ {
		if reached&(1<<i) == 0 || !n.m[i].dead {
			continue
		}
		for _, m := range e.opened(n.m[i]) {
			n := n
			n.m[i] = m
			e.open(s, n, reached, i+1)
		}
		return
	}
	e.even(s, n, reached)
}

// even makes one of reached more like the longest, or serves.
func (e *explorer) even(s, n state, reached uint8) {
	longest := -1
	for i := range e.cfg.Members {
		if reached&(1<<i) != 0 && (longest < 0 || n.m[i].log.len() > n.m[longest].log.len()) {
			longest = i
		}
	}
	keep := n.m[longest].log
	if keep.len() < n.history.len() && s.frontCrashes == 0 {
		return // P2: waits
	}
	if reached != n.believed {
		e.change(s, n, reached, func(n state, how string) {
			n.doubt = true
			e.to(s, n, "resolve without some"+how)
		}, func(n state, how string) { e.to(s, n, "resolve: register "+how) })
		return
	}
	for i := range e.cfg.Members {
		if reached&(1<<i) == 0 || n.m[i].log == keep {
			continue
		}
		have := n.m[i].log.len()
		n := n
		n.doubt = true
		if int(keep.len()-have) > e.cfg.Depth {
			e.bad, e.at = "L5: a member lacks more than the depth", s
			return
		}
		next := keep[have]
		if e.cfg.Broken.RollLastOnly {
			next = keep.tail()
		}
		n.m[i].log[have] = next
		n.m[i].durable = have + 1
		e.to(s, n, fmt.Sprintf("roll T%d forward to B%d", next, i))
		return
	}
	n.doubt = false
	for _, t := range keep[n.history.len():keep.len()] {
		n.history[n.history.len()] = t
	}
	e.to(s, n, "resolve: serve")
}

// joins is the last step of a recovery (V4): the member is made equal to the others.
func (e *explorer) joins(s state) {
	undrained := e.cfg.Broken.JoinUndrained
	if !undrained && (e.holder(&s) != 0 || s.queue[0] != 0) || s.doubt || e.alive(&s) != s.believed {
		return
	}
	for i := range e.cfg.Members {
		if s.believed&(1<<i) != 0 {
			continue
		}
		n := s
		n.m[i] = member{log: s.history, durable: s.history.len()}
		e.change(s, n, s.believed|1<<i, func(n state, how string) {
			e.to(s, n, fmt.Sprintf("B%d joins%s", i, how))
		}, func(n state, how string) { e.to(s, n, fmt.Sprintf("B%d joins not: register %s", i, how)) })
	}
}
