package commitmodel

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// sound are explored in a second or two. Those of RAIDSTORAGE_MODEL=large take minutes.
var sound = []Config{
	{Members: 2, Quorum: 1, Txns: 3, Depth: 2, MemberCrashes: 1, FrontCrashes: 1, Faults: 1, RegisterFaults: 1},
	{Members: 2, Quorum: 2, Txns: 3, Depth: 2, MemberCrashes: 1, FrontCrashes: 1, Faults: 1, RegisterFaults: 1},
	{Members: 2, Quorum: 1, Txns: 3, Depth: 3, FrontCrashes: 1, Faults: 2, RegisterFaults: 1},
	{Members: 3, Quorum: 2, Txns: 3, Depth: 3, FrontCrashes: 1, Faults: 1, RegisterFaults: 1},
}

var large = []Config{
	{Members: 2, Quorum: 1, Txns: 4, Depth: 3, MemberCrashes: 1, FrontCrashes: 1, Faults: 2, RegisterFaults: 1},
	{Members: 2, Quorum: 2, Txns: 4, Depth: 3, MemberCrashes: 1, FrontCrashes: 2, Faults: 2, RegisterFaults: 1},
	{Members: 2, Quorum: 1, Txns: 3, Depth: 3, MemberCrashes: 2, FrontCrashes: 2, Faults: 2, RegisterFaults: 2},
	{Members: 3, Quorum: 1, Txns: 3, Depth: 3, MemberCrashes: 1, FrontCrashes: 1, Faults: 1, RegisterFaults: 1},
	{Members: 3, Quorum: 2, Txns: 3, Depth: 3, MemberCrashes: 1, FrontCrashes: 1, Faults: 2, RegisterFaults: 1},
}

func TestRulesKeepPromises(t *testing.T) {
	t.Parallel()
	configs := sound
	if os.Getenv("RAIDSTORAGE_MODEL") == "large" {
		configs = large
	}
	for i, cfg := range configs {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			r := Explore(cfg)
			if r.Violation != nil {
				t.Fatalf("%+v: %s\n%s", cfg, r.Violation.What, strings.Join(r.Violation.Steps, "\n"))
			}
			if r.States < 10000 {
				t.Errorf("%+v: only %d states", cfg, r.States)
			}
			t.Logf("%+v: %d states", cfg, r.States)
		})
	}
}

// TestEachRuleIsNeeded leaves one rule out: the model finds what it is for.
func TestEachRuleIsNeeded(t *testing.T) {
	t.Parallel()
	two := Config{Members: 2, Quorum: 1, Txns: 3, Depth: 2, MemberCrashes: 1, FrontCrashes: 1, Faults: 1, RegisterFaults: 1}
	three := Config{Members: 3, Quorum: 2, Txns: 3, Depth: 2, Faults: 2, RegisterFaults: 1}
	for name, c := range map[string]struct {
		cfg    Config
		broken Rules
		want   string
	}{
		"acknowledged at W, one pending":          {two, Rules{AckAtQuorum: true}, "P1: a member of the record lacks what was shown"},
		"acknowledged before an earlier one":      {two, Rules{AckAnyOrder: true}, "what was shown is not what the vote was based on"},
		"commits go on after an unknown outcome":  {two, Rules{StartInDoubt: true}, "P3: the logs of members part"},
		"dropped for one, counted for the next":   {three, Rules{CountDropped: true}, "acknowledged with fewer than W in the record"},
		"one trailing transaction assumed":        {two, Rules{RollLastOnly: true}, "P3: the logs of members part"},
		"resolved while members still work":       {three, Rules{ResolveEarly: true}, "P1: a member of the record lacks what was shown"},
		"a member joins while some are in flight": {two, Rules{JoinUndrained: true}, "P3: the logs of members part"},
		"a later one durable without the earlier": {two, Rules{DurableAnyhow: true}, "P3: the logs of members part"},
		"shown when one member has it":            {two, Rules{ShowEarly: true}, "P1: a member of the record lacks what was shown"},
		"checked against what is acknowledged":    {two, Rules{VoteBesideTail: true}, "what was shown is not what the vote was based on"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := c.cfg
			if r := Explore(cfg); r.Violation != nil {
				t.Fatalf("with all rules: %s", r.Violation.What)
			}
			cfg.Broken = c.broken
			r := Explore(cfg)
			if r.Violation == nil {
				t.Fatalf("%d states, and nothing is wrong", r.States)
			}
			t.Logf("%s:\n%s", r.Violation.What, strings.Join(r.Violation.Steps, "\n"))
			if r.Violation.What != c.want {
				t.Errorf("got %q, want %q", r.Violation.What, c.want)
			}
		})
	}
}
