// Package commitmodel is an explicit-state model of a mirror whose commits overlap:
// the rules of the root's pipeline.go. It visits every state that a few transactions,
// members, crashes and lost answers can lead to, and checks in each what replication
// promises. Nothing but its test uses it; with one of the rules left out it must find
// the history that loses data.
//
// The model: transactions are numbered in the order of their votes. A member's log is
// what it has appended, of which a beginning is durable. A vote sees the whole log. A
// finish is started on all members in one step, since a crash between two of them
// leaves what a crash after it may leave, when the undurable end of a log is lost.
// Then each member makes it durable, or fails; who has failed is asked nothing more,
// until a resolve or a join opens it again, with any beginning of its log that contains
// what was durable. The register may refuse a change, or store it without an answer,
// at once or later, until the next resolve.
package commitmodel

// Bounds of the arrays that a state is made of.
const (
	maxMembers = 3
	maxTxns    = 4
)

// Rules are what may be left out, to see that it is needed. The names are those of
// pipeline.go.
type Rules struct {
	AckAtQuorum    bool // L2: acknowledges while a member of the record is pending
	AckAnyOrder    bool // L2: acknowledges without those before
	StartInDoubt   bool // L3: goes on after an unknown outcome
	CountDropped   bool // L4: counts members that were dropped for an earlier one
	RollLastOnly   bool // L5: takes one trailing transaction for the most
	ResolveEarly   bool // L6: resolves before all waits have ended
	JoinUndrained  bool // L6: joins while transactions are in flight
	DurableAnyhow  bool // L1: members make a later transaction durable without an earlier one
	ShowEarly      bool // L2: shows what one member has made durable
	VoteBesideTail bool // L7: votes are based on what is acknowledged, not on the end of the log
}

// Config is one exploration.
type Config struct {
	Members, Quorum, Txns, Depth int
	// How often these happen at most.
	MemberCrashes, FrontCrashes, Faults, RegisterFaults int
	Broken                                              Rules
}

type txnState uint8

const (
	unborn txnState = iota
	voted           // the slot is held
	flying          // its finish was started
	acked
	refused // the client was told that it did not happen
	unknown
)

// logOf is a log: transaction numbers, 0 behind the end.
type logOf [maxTxns]uint8

func (l *logOf) len() (n uint8) {
	for n < maxTxns && l[n] != 0 {
		n++
	}
	return n
}

func (l *logOf) tail() uint8 {
	if n := l.len(); n > 0 {
		return l[n-1]
	}
	return 0
}

func (l *logOf) index(t uint8) int {
	for i, x := range l {
		if x == t {
			return i
		}
	}
	return -1
}

func (l logOf) cut(n uint8) logOf {
	for i := n; i < maxTxns; i++ {
		l[i] = 0
	}
	return l
}

// member is one member's disk and connection.
type member struct {
	log     logOf
	durable uint8 // how much of it
	dead    bool  // the front-end has given up on this connection
}

// state is comparable: it is the key of the set of states that were seen.
type state struct {
	m [maxMembers]member
	// What the register says, what it may say later, and what the front-end believes.
	reg, late, believed                                 uint8
	pending                                             bool // late may still come
	doubt                                               bool // C6
	txn                                                 [maxTxns + 1]txnState
	base                                                [maxTxns + 1]uint8 // what the vote was based on
	queue                                               logOf              // in flight, oldest first
	next                                                uint8
	history                                             logOf // acknowledged or shown, in that order
	memberCrashes, frontCrashes, faults, registerFaults uint8
}

// Violation is a promise that a state breaks, with the steps that led to it.
type Violation struct {
	What  string
	Steps []string
}

// Result is what an exploration found.
type Result struct {
	States    int
	Violation *Violation // the shortest one, nil if there is none
}

type edge struct {
	from state
	step string
}

type explorer struct {
	cfg  Config
	seen map[state]edge
	todo []state
	bad  string
	at   state
}

// Explore visits all states, breadth first, until one breaks a promise.
func Explore(cfg Config) Result {
	e := &explorer{cfg: cfg, seen: make(map[state]edge)}
	var s state
	s.next = 1
	s.reg = 1<<cfg.Members - 1
	s.believed = s.reg
	e.seen[s] = edge{}
	e.todo = []state{s}
	for len(e.todo) > 0 {
		s := e.todo[0]
		e.todo = e.todo[1:]
		e.steps(s)
		if e.bad != "" {
			return Result{len(e.seen), &Violation{e.bad, e.path(e.at)}}
		}
	}
	return Result{States: len(e.seen)}
}

func (e *explorer) path(s state) (steps []string) {
	for {
		from := e.seen[s]
		if from.step == "" {
			break
		}
		steps = append([]string{from.step}, steps...)
		s = from.from
	}
	return steps
}

// to adds a state that step leads to.
func (e *explorer) to(from, s state, step string) {
	if e.bad != "" {
		return
	}
	if _, ok := e.seen[s]; ok {
		return
	}
	e.seen[s] = edge{from, step}
	if what := e.broken(&s); what != "" {
		e.bad, e.at = what, s
		return
	}
	e.todo = append(e.todo, s)
}

// broken checks what must hold at every moment.
func (e *explorer) broken(s *state) string {
	for i := range s.history.len() {
		t := s.history[i]
		var before uint8
		if i > 0 {
			before = s.history[i-1]
		}
		if s.base[t] != before {
			return "what was shown is not what the vote was based on"
		}
		if s.txn[t] == refused {
			return "a refused transaction was shown"
		}
	}
	for i := range e.cfg.Members {
		m := &s.m[i]
		if s.reg&(1<<i) == 0 {
			continue
		}
		for k := range s.history.len() {
			if k >= m.durable || m.log[k] != s.history[k] {
				return "P1: a member of the record lacks what was shown"
			}
		}
		for j := range i { // P3
			o := &s.m[j]
			if s.reg&(1<<j) == 0 {
				continue
			}
			for k := range min(m.log.len(), o.log.len()) {
				if m.log[k] != o.log[k] {
					return "P3: the logs of members part"
				}
			}
		}
	}
	return ""
}
