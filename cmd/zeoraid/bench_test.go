package main

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestBenchComparesTwoServers(t *testing.T) {
	t.Parallel()
	s, _ := serveHere(t, flagsOn(t.TempDir())...)
	peer, _ := serveHere(t, flagsOn(t.TempDir())...)
	args := []string{"bench", "-objects", "100", "-time", "10ms", "-rounds", "1"}
	status, out, errs := controlVerbs(t.Context(), append(args, "-json", s.zeo, peer.zeo)...)
	if status != exitClean {
		t.Fatalf("exit status %d: %s", status, errs)
	}
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	if len(lines) != len(benchWorks(1, 1)) {
		t.Errorf("%d lines:\n%s", len(lines), out)
	}
	for _, line := range lines {
		var row benchRow
		if err := json.Unmarshal([]byte(line), &row); err != nil || row.PerSecond <= 0 || row.PeerPerSecond <= 0 || row.Ratio <= 0 {
			t.Errorf("%s: %v", line, err)
		}
	}
	if status, out, errs = controlVerbs(t.Context(), append(args, s.zeo)...); status != exitClean || !strings.Contains(out, "commit of 100 objects, 1 client") || strings.Contains(out, "ratio") {
		t.Errorf("exit status %d:\n%s%s", status, out, errs)
	}
}

func TestBenchSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{}, {"-rounds", "0", "x:1"}, {"-time", "0s", "x:1"}, {"127.0.0.1:1"}, {"a", "b", "c"}} {
		if status, _, errs := controlVerbs(t.Context(), append([]string{"bench"}, args...)...); status != exitUnknown || errs == "" {
			t.Errorf("%q: exit status %d: %s", args, status, errs)
		}
	}
}
