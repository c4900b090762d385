//go:build interop && compare

package interop_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
)

// These measure the server beside Python's, and print ratios; nothing is asserted about
// them. Run them alone on a quiet machine:
//
//	go test -tags interop,compare -run Speed -v ./interop
//
// Beside our ratios stand bounds: what the machine allows to whoever does as much.

// measured is a line of `zeoraid bench -json`.
type measured struct {
	Work        string  `json:"work"`
	Connections int     `json:"connections"`
	InFlight    int     `json:"in_flight"`
	Objects     int     `json:"objects_per_commit"`
	PerSecond   float64 `json:"per_second"`
	Peer        float64 `json:"peer_per_second"`
	Ratio       float64 `json:"ratio"`
}

func (m measured) what() string {
	if m.Objects > 0 {
		return fmt.Sprintf("%s of %d, %d clients", m.Work, m.Objects, m.Connections)
	}
	return fmt.Sprintf("%s, %d x %d", m.Work, m.Connections, m.InFlight)
}

const speedTime, speedRounds = "1500ms", "3"

// benchmark runs `zeoraid bench`. It may be called on any goroutine.
func benchmark(ctx context.Context, program string, addresses ...string) ([]measured, error) {
	cmd := exec.CommandContext(ctx, program, append([]string{"bench", "-json", "-time", speedTime, "-rounds", speedRounds}, addresses...)...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("zeoraid bench: %w: %s", err, said.String())
	}
	var all []measured
	for d := json.NewDecoder(&out); d.More(); {
		var m measured
		if err := d.Decode(&m); err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}

func speedContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func startRunzeos(ctx context.Context, t *testing.T, n int) []*runzeo {
	t.Helper()
	var all []*runzeo
	for i := range n {
		s := newRunzeo(t, filepath.Join(t.TempDir(), fmt.Sprint(i)))
		s.start(ctx, t)
		all = append(all, s)
	}
	return all
}

// TestSpeedOnTwoFiles measures a mirror of two files beside a Python server with one.
func TestSpeedOnTwoFiles(t *testing.T) {
	ctx := speedContext(t)
	program := build(ctx, t)
	peer := startRunzeos(ctx, t, 1)[0]
	raid := serveProgram(ctx, t, program, "-data", t.TempDir(), "-listen", freeAddress(t), "-admin", freeAddress(t))
	all, err := benchmark(ctx, program, raid.zeo, peer.address)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		t.Logf("%-28s %8.0f/s, runzeo %8.0f/s, ratio %5.2f", m.what(), m.PerSecond, m.Peer, m.Ratio)
	}
	t.Logf("two syncs, one after the other, on two files at once, and nothing else: %.0f/s", syncsOfTwoFiles(t))
	dir := t.TempDir()
	for _, bound := range []struct{ name, section string }{
		// A mirror of two files can do no more than the same server over one of them,
		// without a mirror.
		{"one file", fmt.Sprintf("<filestorage 1>\n path %s/Data.fs\n blob-dir %s/blobs\n</filestorage>\n", dir, dir)},
		// What is left without files and syncs is the protocol, and the load generator's
		// part of the processors.
		{"in memory", "<mappingstorage 1/>\n"},
	} {
		for i, m := range over(ctx, t, program, bound.section) {
			if m.Objects > 0 {
				t.Logf("%s: %-28s %8.0f/s, ratio %5.2f", bound.name, m.what(), m.PerSecond, m.PerSecond/all[i].Peer)
			}
		}
	}
}

// over measures the server over the storage of a section of its configuration.
func over(ctx context.Context, t *testing.T, program, section string) []measured {
	t.Helper()
	conf := filepath.Join(t.TempDir(), "zeo.conf")
	text := fmt.Sprintf("<zeo>\n address %s\n</zeo>\n%s", freeAddress(t), section)
	if err := os.WriteFile(conf, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	raid := serveProgram(ctx, t, program, "-config", conf, "-admin", freeAddress(t))
	all, err := benchmark(ctx, program, raid.zeo)
	if err != nil {
		t.Fatal(err)
	}
	raid.stop(ctx, t)
	return all
}

// syncsOfTwoFiles returns how often a second two files, side by side, can be made
// longer, synced, overwritten in one byte and synced: a commit's least, without its
// work.
func syncsOfTwoFiles(t *testing.T) float64 {
	t.Helper()
	dir, data := t.TempDir(), make([]byte, 300)
	commit := func(f *os.File, end int64) error {
		_, err := f.WriteAt(data, end)
		err = errors.Join(err, syscall.Fdatasync(int(f.Fd())))
		_, status := f.WriteAt([]byte{' '}, end+16)
		return errors.Join(err, status, syscall.Fdatasync(int(f.Fd())))
	}
	var files [2]*os.File
	for i := range files {
		f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	began, n := time.Now(), 0
	for ; time.Since(began) < 2*time.Second; n++ {
		var errs [2]error
		var wg sync.WaitGroup
		for i, f := range files {
			wg.Go(func() { errs[i] = commit(f, int64(n*len(data))) })
		}
		wg.Wait()
		if err := errors.Join(errs[:]...); err != nil {
			t.Fatal(err)
		}
	}
	return float64(n) / time.Since(began).Seconds()
}

// TestSpeedInFrontOfTwoPythonServers measures a mirror of two Python servers, with and
// without a cache, beside a third one that is used directly; and two Python servers
// that are used directly at the same time, each by clients of its own. As the mirror's
// servers commit every transaction both, and share the loads, its bound is the slower
// one's commits, and the sum of their loads.
func TestSpeedInFrontOfTwoPythonServers(t *testing.T) {
	ctx := speedContext(t)
	program := build(ctx, t)
	servers := startRunzeos(ctx, t, 3)
	bound := bothAtOnce(ctx, t, program, startRunzeos(ctx, t, 2))
	for _, cache := range []string{"0", "256MB"} {
		conf := fmt.Sprintf("<zeo>\n address %s\n</zeo>\n<raidstorage 1>\n state-dir %s\n", freeAddress(t), t.TempDir())
		for i, s := range servers[:2] {
			conf += fmt.Sprintf(" <zeoclient %d>\n  server %s\n  storage 1\n  cache-size %s\n </zeoclient>\n", i+1, s.address, cache)
		}
		raid := startRaid(ctx, t, conf+"</raidstorage>\n")
		raid.expect(ctx, t, 0, raidstorage.Optimal.String(), "status")
		all, err := benchmark(ctx, program, raid.zeo, servers[2].address)
		if err != nil {
			t.Fatal(err)
		}
		for i, m := range all {
			limit := fmt.Sprintf("bound %5.2f", bound[i])
			if cache != "0" && m.Objects == 0 {
				limit = "cached"
			}
			t.Logf("cache %-5s %-28s %8.0f/s, runzeo %8.0f/s, ratio %5.2f, %s", cache, m.what(), m.PerSecond, m.Peer, m.Ratio, limit)
		}
		raid.stop(ctx, t)
	}
}

// bothAtOnce returns what two servers do at the same time, as ratios to what one does
// alone.
func bothAtOnce(ctx context.Context, t *testing.T, program string, servers []*runzeo) []float64 {
	t.Helper()
	alone, err := benchmark(ctx, program, servers[0].address)
	if err != nil {
		t.Fatal(err)
	}
	var results [2][]measured
	var errs [2]error
	var wg sync.WaitGroup
	for i, s := range servers {
		wg.Go(func() { results[i], errs[i] = benchmark(ctx, program, s.address) })
	}
	wg.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	var ratios []float64
	for i, m := range alone {
		a, b := results[0][i].PerSecond, results[1][i].PerSecond
		both := a + b
		if m.Objects > 0 {
			both = min(a, b)
		}
		ratios = append(ratios, both/m.PerSecond)
		t.Logf("two runzeo at once: %-28s %8.0f/s and %8.0f/s, one alone %8.0f/s", m.what(), a, b, m.PerSecond)
	}
	return ratios
}
