package config_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/config"
)

// reloadFile is a configuration with the members and keys of its mirror, and more.
func reloadFile(dir, mirror, more string) string {
	text := "<zeo>\n address 127.0.0.1:0\n</zeo>\n<raidstorage main>\n state-dir " + filepath.Join(dir, "state") + "\n"
	for line := range strings.SplitSeq(mirror, ";") {
		line = strings.TrimSpace(line)
		if n, ok := strings.CutPrefix(line, "file "); ok {
			line = fmt.Sprintf("<filestorage %s>\n path %s\n</filestorage>", n[:1], filepath.Join(dir, strings.TrimSpace(n[1:])+".fs"))
		}
		if n, ok := strings.CutPrefix(line, "role "); ok { // of member 2, which is b
			line = fmt.Sprintf("<filestorage 2>\n path %s\n role %s\n</filestorage>", filepath.Join(dir, "b.fs"), strings.ReplaceAll(n[2:], " bandwidth", "\n bandwidth"))
		}
		text += line + "\n"
	}
	return text + "</raidstorage>\n" + more
}

func TestDiffTellsWhatChangesAndWhatCannot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	old := "file 1 a; file 2 b"
	for what, test := range map[string]struct {
		mirror, more string
		changes      []string
		fixed        string
	}{
		"nothing":            {mirror: old},
		"added":              {mirror: old + "; file 3 c", changes: []string{"add member 3: file DIR/c.fs"}},
		"removed":            {mirror: "file 2 b", changes: []string{"remove member 1: file DIR/a.fs"}},
		"replaced":           {mirror: "file 1 c; file 2 b", changes: []string{"replace member 1: file DIR/c.fs instead of file DIR/a.fs"}},
		"order":              {mirror: "file 2 b; file 1 a", changes: []string{"order of members"}},
		"quorum":             {mirror: old + "; write-quorum 2", changes: []string{"write-quorum: 2 instead of the default"}},
		"policy":             {mirror: old + "; read-policy primary-first", changes: []string{"read-policy: primary first instead of round robin"}},
		"timeouts":           {mirror: old + "; timeout 5s", changes: []string{"timeouts: open 5s, vote 5s, finish 5s, read 5s; 0s is the default"}},
		"pack-timeout":       {mirror: old + "; pack-timeout 2h", changes: []string{"pack-timeout: 2h0m0s instead of the default"}},
		"pack-compare-rate":  {mirror: old + "; pack-compare-rate 1MB", fixed: "storage main: pack-compare-rate changes at a restart only"},
		"role":               {mirror: "file 1 a; role 2 async", changes: []string{"role of member 2: async instead of full"}},
		"bandwidth":          {mirror: "file 1 a; role 2 async bandwidth 10KB", changes: []string{"role of member 2: async instead of full", "bandwidth of member 2: 10240 instead of 0 bytes a second, 0 for no bound"}},
		"auto-recover":       {mirror: old + "; auto-recover false", fixed: "storage main: auto-recover changes at a restart only"},
		"catch-up-ratio":     {mirror: old + "; catch-up-ratio off", fixed: "storage main: catch-up-ratio changes at a restart only"},
		"scrub-interval":     {mirror: old + "; scrub-interval 1d", fixed: "storage main: scrub-interval changes at a restart only"},
		"scrub-repair":       {mirror: old + "; scrub-repair on", fixed: "storage main: scrub-repair changes at a restart only"},
		"scrub-rate":         {mirror: old + "; scrub-rate 1MB", fixed: "storage main: scrub-rate changes at a restart only"},
		"spare-after":        {mirror: old + "; spare-after 1h", fixed: "storage main: spare-after changes at a restart only"},
		"catch-up-max-delay": {mirror: old + "; catch-up-max-delay 1", fixed: "storage main: catch-up-max-delay changes at a restart only"},
		"storage":            {mirror: old, more: "<mappingstorage other/>\n", fixed: "storage other is added: what is served changes at a restart only"},
		"log":                {mirror: old, more: "<eventlog>\n level debug\n</eventlog>\n", fixed: "eventlog: it changes at a restart only"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			d := config.Diff(load(t, reloadFile(dir, old, ""), nil), load(t, reloadFile(dir, test.mirror, test.more), nil))
			for i := range d.Changes {
				d.Changes[i] = strings.ReplaceAll(d.Changes[i], dir, "DIR")
			}
			if !slices.Equal(d.Changes, test.changes) || strings.Join(d.Fixed, "; ") != test.fixed {
				t.Errorf("it tells %q and %q", d.Changes, d.Fixed)
			}
			if d.Empty() != (test.changes == nil && test.fixed == "") {
				t.Errorf("Empty is %v", d.Empty())
			}
		})
	}
}

func TestReloadIsAllOrNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	old := load(t, reloadFile(dir, "file 1 a; file 2 b", ""), nil)
	o := open(t, old)
	m := o.Mirrors["main"]
	members := func(want ...string) {
		t.Helper()
		var got []string
		for _, b := range m.Status().Backends {
			got = append(got, b.Name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("members are %v, want %v", got, want)
		}
	}
	invalid := load(t, reloadFile(dir, "file 1 a; file 2 b; file 3 c", "<mappingstorage other/>\n"), nil)
	if _, err := o.Reload(t.Context(), old, invalid, nil, false); !isInvalid(err) || !strings.Contains(err.Error(), "storage other") {
		t.Errorf("it says %v", err)
	}
	few := load(t, reloadFile(dir, "file 3 c; file 4 d", ""), nil)
	var unavailable *raidstorage.UnavailableError
	if _, err := o.Reload(t.Context(), old, few, nil, false); !errors.As(err, &unavailable) {
		t.Errorf("it says %v", err)
	}
	members("1", "2")
	more := load(t, reloadFile(dir, "file 1 a; file 2 b; file 3 c; write-quorum 2", ""), nil)
	if d, err := o.Reload(t.Context(), old, more, nil, true); err != nil || len(d.Changes) != 2 {
		t.Errorf("the dry run says %q, %v", d.Changes, err)
	}
	members("1", "2")
	if _, err := o.Reload(t.Context(), old, more, nil, false); err != nil {
		t.Fatal(err)
	}
	members("1", "2", "3")
	if err := m.Recover(t.Context(), "3"); err != nil {
		t.Fatal(err)
	}
	fewer := load(t, reloadFile(dir, "file 3 c; file 2 b; write-quorum 2", ""), nil)
	if _, err := o.Reload(t.Context(), more, fewer, nil, false); err != nil {
		t.Fatal(err)
	}
	members("3", "2")
	if s := m.Status(); s.WriteQuorum != 2 || s.Condition != raidstorage.Optimal {
		t.Errorf("write quorum is %d, the mirror %v: %s", s.WriteQuorum, s.Condition, s.Reason)
	}
}

// A role that changes in the file does not replace the member.
func TestReloadOfARole(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	old := load(t, reloadFile(dir, "file 1 a; file 2 b", ""), nil)
	o := open(t, old)
	m := o.Mirrors["main"]
	follows := load(t, reloadFile(dir, "file 1 a; role 2 async bandwidth 1MB", ""), nil)
	d, err := o.Reload(t.Context(), old, follows, nil, false)
	if err != nil || len(d.Changes) != 2 {
		t.Fatalf("it says %q, %v", d.Changes, err)
	}
	if b := m.Status().Backends[1]; b.Role != raidstorage.RoleAsync || b.Configured != raidstorage.RoleAsync {
		t.Errorf("it is %v", b.Role)
	}
	if r := m.Status().Membership; len(r.New) > 0 || !slices.Equal(r.InSync, []string{"1"}) {
		t.Errorf("the record is %+v", r)
	}
	if c := m.Settings(); c.Backends[1].Bandwidth != 1<<20 {
		t.Errorf("the bandwidth is %d", c.Backends[1].Bandwidth)
	}
	if _, err := o.Reload(t.Context(), follows, old, nil, false); err != nil {
		t.Fatal(err)
	}
	if err := m.Recover(t.Context(), "2"); err != nil {
		t.Fatal(err)
	}
	if s := m.Status(); s.Condition != raidstorage.Optimal || len(s.Membership.InSync) != 2 {
		t.Errorf("the mirror is %v, in sync %v", s.Condition, s.Membership.InSync)
	}
}

func isInvalid(err error) bool {
	_, ok := errors.AsType[*raidstorage.InvalidError](err)
	return ok
}

// Changes of one mirror are not forgotten for those of another one, whatever they are.
func TestDiffOfTwoMirrorsChangesOneAtATime(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	both := func(first, second string) *config.Config {
		other := reloadFile(dir, second, "")
		other = strings.ReplaceAll(other[strings.Index(other, "<raidstorage"):], "raidstorage main", "raidstorage other")
		other = strings.ReplaceAll(other, "/state", "/state2")
		return load(t, reloadFile(dir, first, other), nil)
	}
	old := both("file 1 a; file 2 b", "file 1 d; file 2 e")
	for _, second := range []string{"file 2 e; file 1 d", "file 1 d; file 2 e; write-quorum 2"} {
		d := config.Diff(old, both("file 1 a; file 2 b; file 3 c", second))
		if d.Mirror != "main" || len(d.Changes) != 1 || !strings.Contains(d.Changes[0], "add member 3") || len(d.Fixed) != 1 {
			t.Errorf("%s: it tells of %q %q, fixed %q", second, d.Mirror, d.Changes, d.Fixed)
		}
	}
}

// Lines that move, comments and other spellings of a path change nothing.
func TestDiffIsNotOfPlaces(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text := reloadFile(dir, "file 1 a; file 2 b", "<eventlog>\n level info\n</eventlog>\n")
	client := "<zeoclient 3>\n server 127.0.0.1:9999\n</zeoclient>\n</raidstorage>"
	text = strings.Replace(text, "</raidstorage>", client, 1)
	d := config.Diff(load(t, text, nil), load(t, "# edited\n\n"+strings.ReplaceAll(text, "\n", "\n# x\n"), nil))
	if !d.Empty() {
		t.Errorf("it tells of %q, fixed %q", d.Changes, d.Fixed)
	}
}

// A database may move with its state; a member that moves alone is not trusted.
func TestADatabaseMayMoveWithItsState(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"all", "exchanged", "other blobs"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			from := filepath.Join(t.TempDir(), "from")
			if err := os.Mkdir(from, 0o755); err != nil {
				t.Fatal(err)
			}
			cfg := load(t, reloadFile(from, "file 1 a; file 2 b", ""), nil)
			o, err := cfg.Open(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(o.Mirrors["main"].Disable(t.Context(), "2", "x"), o.Close()); err != nil {
				t.Fatal(err)
			}
			to := from + " moved"
			if err := os.Rename(from, to); err != nil {
				t.Fatal(err)
			}
			if what == "all" {
				open(t, load(t, reloadFile(to, "file 1 a; file 2 b", ""), nil))
				return
			}
			after := reloadFile(to, "file 1 b; file 2 a", "")
			if what == "other blobs" {
				after = strings.Replace(reloadFile(to, "file 1 a; file 2 b", ""), "</filestorage>", " blob-dir "+to+"/blobs\n</filestorage>", 1)
			}
			o, err = load(t, after, nil).Open(t.Context(), nil)
			if err == nil {
				o.Close()
			}
			if _, ok := errors.AsType[*raidstorage.StartError](err); !ok {
				t.Errorf("Open says %v", err)
			}
		})
	}
}
