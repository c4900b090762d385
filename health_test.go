package raidstorage_test

import (
	"testing"

	"github.com/zeoraid/raidstorage"
)

// TestHealthMachine walks every state and event; what is not listed must leave the
// state as it is.
func TestHealthMachine(t *testing.T) {
	t.Parallel()
	const (
		failed     = raidstorage.StateFailed
		inSync     = raidstorage.StateInSync
		suspect    = raidstorage.StateSuspect
		recovering = raidstorage.StateRecovering
		disabled   = raidstorage.StateDisabled
		following  = raidstorage.StateFollowing
		standby    = raidstorage.StateStandby
	)
	want := map[raidstorage.State]map[string]raidstorage.State{
		failed:     {"confirmed": inSync, "recovery started": recovering, "disabled": disabled, "follows": following, "stands by": standby},
		inSync:     {"fault": suspect, "dropped": failed, "disabled": disabled, "follows": following, "stands by": standby},
		suspect:    {"dropped": failed, "confirmed": inSync, "disabled": disabled, "follows": following, "stands by": standby},
		recovering: {"confirmed": inSync, "recovery ended": failed, "disabled": disabled},
		disabled:   {"recovery started": recovering, "stands by": standby},
		following:  {"fault": failed, "dropped": failed, "confirmed": inSync, "recovery started": recovering, "disabled": disabled, "stands by": standby},
		standby:    {"dropped": failed, "confirmed": inSync, "recovery started": recovering, "disabled": disabled, "follows": following},
	}
	for from := failed; from <= standby; from++ {
		for event, e := range raidstorage.HealthEvents {
			to, changes := want[from][event]
			if !changes {
				to = from
			}
			if got, ok := raidstorage.On(from, e); got != to || ok != changes {
				t.Errorf("%v, %s: got %v, %v, want %v, %v", from, event, got, ok, to, changes)
			}
		}
	}
}

func TestCondition(t *testing.T) {
	t.Parallel()
	const (
		failed     = raidstorage.StateFailed
		inSync     = raidstorage.StateInSync
		suspect    = raidstorage.StateSuspect
		recovering = raidstorage.StateRecovering
		disabled   = raidstorage.StateDisabled
	)
	for _, c := range []struct {
		states  []raidstorage.State
		quorum  int
		stopped bool
		want    raidstorage.Condition
	}{
		{[]raidstorage.State{inSync, inSync}, 1, false, raidstorage.Optimal},
		{[]raidstorage.State{inSync, failed}, 1, false, raidstorage.Degraded},
		{[]raidstorage.State{inSync, suspect}, 1, false, raidstorage.Degraded},
		{[]raidstorage.State{inSync, disabled}, 1, false, raidstorage.Degraded},
		{[]raidstorage.State{inSync, recovering}, 1, false, raidstorage.Recovering},
		{[]raidstorage.State{inSync, recovering}, 2, false, raidstorage.Failed},
		{[]raidstorage.State{failed, recovering}, 1, false, raidstorage.Failed},
		{[]raidstorage.State{inSync, inSync}, 1, true, raidstorage.Failed},
	} {
		if got := raidstorage.ConditionOf(c.states, c.quorum, c.stopped); got != c.want {
			t.Errorf("condition of %v with quorum %d, stopped %v: got %v, want %v", c.states, c.quorum, c.stopped, got, c.want)
		}
	}
}
