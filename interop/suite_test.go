//go:build interop

package interop_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// suite is one run of ZODB's and ZEO's tests.
type suite struct {
	name     string
	python   string // the variable that names the interpreter
	kind     kind
	msgpack  bool
	match    string // regular expressions: which cases, and which of them not
	leaveOut string
	level    int // 1: the ordinary cases; more: slow ones too
	seconds  int // bound of each case, 0: 60
	least    int // how many cases there are at least: an empty run proves nothing
	shards   int // processes side by side; many cases only wait
}

const (
	// slowCases take 5 to 10 seconds each, whatever the server does.
	slowCases = `checkConcurrent|client_has_newer_data|checkCheckForOutOfDateServer|zeo_blob_cache`
	// storageCases are those of ZODB's generic tests on a storage with blobs.
	storageCases = `^testZEO\.BlobAdapted|^MoreStorage|testblob|blob_`
)

// TestZODBSuites runs the tests that ZODB and ZEO have for their own storages, over
// ZEO's ClientStorage: over a mirror all of them but repetitions, and choices for the
// other storages and the other encoding. Each case has to pass but for those in
// differences.
func TestZODBSuites(t *testing.T) {
	t.Parallel()
	for _, s := range []suite{
		{name: "mirror", kind: inMirror, leaveOut: `BlobWritable.*\.test|SSLTests\.test|^RaceTests`,
			level: 1, least: 300, shards: 5},
		{name: "mirror, msgpack", kind: inMirror, msgpack: true, match: storageCases + `|testConnection\.FileStorage|^testZEO\.ClientConflict`,
			leaveOut: slowCases, level: 1, least: 150, shards: 2},
		{name: "mirror, races", kind: inMirror, match: `^RaceTests\.`, level: 10, seconds: 200,
			least: 3, shards: 2},
		{name: "file", kind: inFile, match: storageCases + `|testConnection\.FileStorageReconn`, leaveOut: slowCases,
			level: 1, least: 130, shards: 2},
		{name: "file, msgpack", kind: inFile, msgpack: true, match: storageCases, leaveOut: slowCases,
			level: 1, least: 120, shards: 2},
		{name: "memory", kind: inMemory, match: `^testZEO\.MappingStorage|^MoreStorage|Mapping`, leaveOut: slowCases,
			level: 1, least: 70, shards: 2},
		{name: "memory, msgpack", kind: inMemory, msgpack: true, match: `^testZEO\.MappingStorage|^MoreStorage`,
			leaveOut: slowCases, level: 1, least: 50, shards: 2},
	} {
		s.python = "RAIDSTORAGE_PYTHON"
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			s.run(t)
		})
	}
}

// TestZEO5Client runs the tests of ZEO 5.4 with its client.
func TestZEO5Client(t *testing.T) {
	t.Parallel()
	for _, s := range []suite{
		{name: "mirror", kind: inMirror, match: storageCases + `|testConnection\.FileStorageReconn|^testZEO\.[a-z]`,
			leaveOut: slowCases, level: 1, least: 140, shards: 3},
		{name: "file, msgpack", kind: inFile, msgpack: true, match: storageCases, leaveOut: slowCases,
			level: 1, least: 120, shards: 2},
		{name: "memory", kind: inMemory, match: `^testZEO\.MappingStorage|^MoreStorage`, leaveOut: slowCases,
			level: 1, least: 50, shards: 2},
	} {
		s.python = "RAIDSTORAGE_PYTHON5"
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			s.run(t)
		})
	}
}

// outcome is one line from suite.py.
type outcome struct {
	Name    string  `json:"name"`
	Result  string  `json:"result"` // ok, fail, error, skip
	Seconds float64 `json:"seconds"`
	Text    string  `json:"text"`
}

func (s suite) run(t *testing.T) {
	interpreter(t, s.python)
	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Minute)
	defer cancel()
	outcomes := make(chan outcome)
	ended := make(chan error)
	c := startControl(t, s.kind, s.msgpack)
	for shard := range s.shards {
		go func() { ended <- s.shard(ctx, t, c.port(), shard, outcomes) }()
	}
	seen := make(map[string]int)
	for running := s.shards; running > 0; {
		select {
		case o := <-outcomes:
			seen[o.Result]++
			s.judge(t, o)
		case err := <-ended:
			running--
			if err != nil {
				t.Error(err)
			}
		}
	}
	if n := seen["ok"]; n < s.least {
		t.Errorf("%d cases passed, there should be %d at least: %v", n, s.least, seen)
	}
	t.Logf("%s, %s: %v", s.python, s.name, seen)
}

// judge compares an outcome with what is expected of the case.
func (s suite) judge(t *testing.T, o outcome) {
	if o.Result == "elsewhere" {
		return
	}
	for _, d := range differences() {
		if !d.applies(s, o.Name) {
			continue
		}
		if o.Result == "ok" {
			t.Errorf("%s passes, though it is listed as different: %s", o.Name, d.reason)
		}
		return
	}
	if o.Result != "ok" {
		t.Errorf("%s %s after %.1f s\n%s", o.Name, o.Result, o.Seconds, o.Text)
	}
}

// shard runs one part of the cases in a process of its own.
func (s suite) shard(ctx context.Context, t *testing.T, port, shard int, outcomes chan<- outcome) error {
	script, err := filepath.Abs(filepath.Join("testdata", "suite.py"))
	if err != nil {
		return err
	}
	cmd := command(ctx, os.Getenv(s.python), script,
		"--control", strconv.Itoa(port), "--match", s.match, "--leave-out", s.leaveOut,
		"--level", strconv.Itoa(s.level), "--shard", fmt.Sprintf("%d/%d", shard, s.shards),
		"--seconds", strconv.Itoa(cmp.Or(s.seconds, 60)))
	var stderr strings.Builder
	cmd.Dir, cmd.Stderr = t.TempDir(), &stderr
	cmd.Env = os.Environ()
	if s.msgpack {
		cmd.Env = append(cmd.Env, "ZEO_MSGPACK=1")
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var o outcome
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return fmt.Errorf("%q: %w", lines.Text(), err)
		}
		outcomes <- o
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, stderr.String())
	}
	return nil
}
