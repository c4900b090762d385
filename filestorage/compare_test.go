//go:build compare

package filestorage_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// This measures Python's FileStorage and ours on the same file, in turn, and prints a
// table of ratios:
//
//	go test -tags compare -run TestComparison -v -timeout 10m ./filestorage
//
// With -run Comparison it does so for packing as well, time and memory, see
// TestPackComparison.
//
// RAIDSTORAGE_PYTHON names an interpreter with ZODB. The file, 460 MB, is made in a
// temporary directory, or kept in the directory that RAIDSTORAGE_COMPARE names and
// used again.

const (
	compareObjects = 1_000_000
	compareRounds  = 3
)

// peer is Python, which answers questions with numbers.
type peer struct {
	in  io.Writer
	out *bufio.Reader
}

func startPeer(t *testing.T, path string) *peer {
	t.Helper()
	// Without the test's context, which ends before the clean-up: it ends with its input.
	cmd := exec.Command(python(t), filepath.Join("testdata", "compare.py"), "serve", path)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	return &peer{in, bufio.NewReader(out)}
}

func (p *peer) ask(t *testing.T, question string) float64 {
	t.Helper()
	if _, err := fmt.Fprintln(p.in, question); err != nil {
		t.Fatal(err)
	}
	line, err := p.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	v, err := strconv.ParseFloat(strings.TrimSpace(line), 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// comparison is a row of the table.
type comparison struct {
	name    string
	seconds bool // whether less is better; else it is a rate
	goal    float64
	python  func() float64
	ours    func() float64
}

func TestComparison(t *testing.T) {
	dir := os.Getenv("RAIDSTORAGE_COMPARE")
	if dir == "" {
		dir = t.TempDir()
	}
	path := filepath.Join(dir, "compare.fs")
	if _, err := os.Stat(path + ".index"); err != nil {
		cmd := exec.CommandContext(t.Context(), python(t), filepath.Join("testdata", "compare.py"), "build", path)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	t.Logf("%-28s %14s %14s %8s %8s", "", "Python", "Go", "ratio", "goal")
	for _, c := range comparisons(t, path, startPeer(t, path)) {
		var theirs, ours []float64
		for range compareRounds {
			theirs, ours = append(theirs, c.python()), append(ours, c.ours())
		}
		p, g := median(theirs), median(ours)
		ratio, unit := g/p, "/s"
		if c.seconds {
			ratio, unit = p/g, "s"
		}
		t.Logf("%-28s %12.6g%-2s %12.6g%-2s %8.2f %8.2f", c.name, p, unit, g, unit, ratio, c.goal)
	}
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

func comparisons(t *testing.T, path string, py *peer) []comparison {
	ask := func(question string) func() float64 { return func() float64 { return py.ask(t, question) } }
	n := 0
	fresh := func() string {
		n++
		return filepath.Join(t.TempDir(), fmt.Sprintf("commit%d.fs", n))
	}
	askCommit := func() float64 { return py.ask(t, "commit "+fresh()) }
	commits := func(committers int) func() float64 {
		return func() float64 { return commitRate(t, fresh(), committers) }
	}
	s := openFor(t, path, filestorage.Options{ReadOnly: true})
	return []comparison{
		{"open without index", true, 6, ask("scan"), func() float64 { return scanTime(t, path) }},
		{"open with index", true, 1, ask("open"), func() float64 { return openTime(t, path) }},
		{"iterate all records", false, 6, ask("iterate"), func() float64 { return iterateRate(t, s) }},
		{"loadBefore, 1 thread each", false, 6, ask("load 1"), func() float64 { return loadRate(t, s, 1) }},
		{"loadBefore, Python 1, Go 2", false, 10, ask("load 1"), func() float64 { return loadRate(t, s, 2) }},
		{"loadBefore, 2 threads each", false, 10, ask("load 2"), func() float64 { return loadRate(t, s, 2) }},
		{"commit, 1 committer each", false, 2, askCommit, commits(1)},
		{"commit, Python 1, Go 8", false, 8, askCommit, commits(8)},
		{"commit, Python 1, Go 32", false, 0, askCommit, commits(32)},
	}
}

func openTime(t *testing.T, path string) float64 {
	start := time.Now()
	s, err := filestorage.Open(t.Context(), path, filestorage.Options{ReadOnly: true})
	seconds := time.Since(start).Seconds()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	return seconds
}

func scanTime(t *testing.T, path string) float64 {
	if err := os.Rename(path+".index", path+".aside"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.Rename(path+".aside", path+".index"); err != nil {
			t.Error(err)
		}
	}()
	return openTime(t, path)
}

func iterateRate(t *testing.T, s *filestorage.Storage) float64 {
	start, n := time.Now(), 0
	for txn, err := range s.Iterate(t.Context(), 0, raidstorage.MaxTID) {
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range txn.Records {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
	}
	return float64(n) / time.Since(start).Seconds()
}

func loadRate(t *testing.T, s *filestorage.Storage, readers int) float64 {
	const loads = 1_000_000
	start := time.Now()
	var wg sync.WaitGroup
	for i := range readers {
		wg.Go(func() {
			r, ctx := rand.New(rand.NewPCG(7, uint64(i))), t.Context()
			for range loads / readers {
				if _, err := s.LoadBefore(ctx, raidstorage.OID(r.IntN(compareObjects)), raidstorage.MaxTID); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return loads / time.Since(start).Seconds()
}

// commitRate has each committer change an object of its own.
func commitRate(t *testing.T, path string, committers int) float64 {
	s, err := filestorage.Open(t.Context(), path, filestorage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	each := 1000 * min(8, committers) / committers
	start := time.Now()
	var wg sync.WaitGroup
	for i := range committers {
		wg.Go(func() {
			var serial raidstorage.TID
			for range each {
				tid, err := commitOne(t.Context(), s, raidstorage.OID(i), serial)
				if err != nil {
					t.Error(err)
					return
				}
				serial = tid
			}
		})
	}
	wg.Wait()
	rate := float64(each*committers) / time.Since(start).Seconds()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	return rate
}

func commitOne(ctx context.Context, s raidstorage.Storage, oid raidstorage.OID, serial raidstorage.TID) (raidstorage.TID, error) {
	txn, err := s.Begin(ctx, raidstorage.Meta{})
	if err != nil {
		return 0, err
	}
	if err := txn.Store(ctx, oid, serial, bytes.Repeat([]byte{'x'}, 300)); err != nil {
		return 0, err
	}
	if _, err := txn.Vote(ctx); err != nil {
		return 0, err
	}
	return txn.Finish(ctx)
}
