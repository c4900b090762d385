package raidstorage

import "fmt"

// State is the health of one backend. What is known in each, and how one leaves:
type State int

const (
	// StateFailed: the record names other backends only; this one may lack
	// acknowledged transactions. Left by a recovery, or by an operator's Disable.
	StateFailed State = iota
	// StateInSync: it holds every acknowledged transaction, takes part in each
	// commit and serves reads. Left by a fault or by Disable.
	StateInSync
	// StateSuspect: the record still names it, but a call failed, so that nothing is
	// asked of it. Left when the record is changed, or when it was opened again and
	// found complete.
	StateSuspect
	// StateRecovering: a recovery copies to it what it lacks. Left by joining the
	// record, a failure, or Disable.
	StateRecovering
	// StateDisabled: an operator took it out; only Recover brings it back.
	StateDisabled
	// StateFollowing: an asynchronous backend that holds a beginning of the log, and is
	// given the rest. Left by a fault, a recovery that promotes it, or Disable.
	StateFollowing
	// StateStandby: a spare that is not needed. Left by a recovery that puts it in
	// another one's place, or Disable.
	StateStandby
)

var stateNames = [...]string{"failed", "in sync", "suspect", "recovering", "disabled", "following", "standby"}

// String returns the word that logs and tools show.
func (s State) String() string {
	if s < 0 || int(s) >= len(stateNames) {
		return fmt.Sprintf("State(%d)", int(s))
	}
	return stateNames[s]
}

// MarshalText makes JSON show the word.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// healthEvent is something that happened to a backend.
type healthEvent int

const (
	eventFault           healthEvent = iota // a call failed, or its answer contradicts the others
	eventDropped                            // the record does not name it any more, or its role ends
	eventConfirmed                          // under its commit lock it was found complete, and the record names it
	eventRecoveryStarted                    // a recovery begins
	eventRecoveryEnded                      // a recovery failed or was cancelled
	eventDisabled                           // an operator took it out of the record
	eventFollows                            // it is asynchronous, and its log is a beginning of the others'
	eventStandsBy                           // it is a spare
)

// on returns the state after event, and whether the event means anything in s.
// It is pure: the mirror carries out what follows from it.
func (s State) on(event healthEvent) (State, bool) {
	switch event {
	case eventFault:
		switch s {
		case StateInSync:
			return StateSuspect, true
		case StateFollowing:
			return StateFailed, true
		}
		// A recovery that meets a fault ends by itself; the others are out already.
	case eventDropped:
		switch s {
		case StateInSync, StateSuspect, StateFollowing, StateStandby:
			return StateFailed, true
		}
	case eventConfirmed:
		if s != StateDisabled {
			return StateInSync, s != StateInSync
		}
	case eventRecoveryStarted:
		switch s {
		case StateFailed, StateDisabled, StateFollowing, StateStandby:
			return StateRecovering, true
		}
	case eventRecoveryEnded:
		if s == StateRecovering {
			return StateFailed, true
		}
	case eventDisabled:
		return StateDisabled, s != StateDisabled
	case eventFollows:
		if s != StateDisabled && s != StateRecovering {
			return StateFollowing, s != StateFollowing
		}
	case eventStandsBy:
		if s != StateRecovering {
			return StateStandby, s != StateStandby
		}
	}
	return s, false
}

// Condition is the state of a mirror as a whole, in RAID's words.
type Condition int

const (
	// Optimal: every full backend is in sync.
	Optimal Condition = iota
	// Recovering: commits go on, and a recovery is under way.
	Recovering
	// Degraded: commits go on with fewer copies than configured.
	Degraded
	// Failed: fewer than WriteQuorum backends are in sync, or commits had to stop.
	Failed
)

var conditionNames = [...]string{"optimal", "recovering", "degraded", "failed"}

// String returns the word that logs and tools show.
func (c Condition) String() string {
	if c < 0 || int(c) >= len(conditionNames) {
		return fmt.Sprintf("Condition(%d)", int(c))
	}
	return conditionNames[c]
}

// MarshalText makes JSON show the word.
func (c Condition) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// condition counts the states of the full backends against the quorum.
func condition(states []State, quorum int, stopped bool) Condition {
	var inSync, recovering int
	for _, s := range states {
		switch s {
		case StateInSync:
			inSync++
		case StateRecovering:
			recovering++
		}
	}
	switch {
	case stopped || inSync < quorum:
		return Failed
	case inSync == len(states):
		return Optimal
	case recovering > 0:
		return Recovering
	}
	return Degraded
}
