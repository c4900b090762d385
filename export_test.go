package raidstorage

// What the tests, which are of another package, need of the pure parts.

// HealthEvents are all events of the health machine, by name.
var HealthEvents = map[string]healthEvent{
	"fault": eventFault, "dropped": eventDropped, "confirmed": eventConfirmed,
	"recovery started": eventRecoveryStarted, "recovery ended": eventRecoveryEnded, "disabled": eventDisabled,
	"follows": eventFollows, "stands by": eventStandsBy,
}

// On is State.on.
func On(s State, e healthEvent) (State, bool) { return s.on(e) }

// ConditionOf is condition.
func ConditionOf(states []State, quorum int, stopped bool) Condition {
	return condition(states, quorum, stopped)
}

// PipelineDepth is pipelineDepth.
const PipelineDepth = pipelineDepth
