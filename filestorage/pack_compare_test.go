//go:build compare

package filestorage_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// packed is what a pack took, in a process of its own.
type packed struct {
	seconds      float64
	before, peak int64 // KiB of memory
}

// This packs the same file with Python and with ours and compares time and memory:
//
//	go test -tags compare -run TestPackComparison -v ./filestorage
func TestPackComparison(t *testing.T) {
	const objects, rounds = 1_000_000, 3
	dir := t.TempDir()
	original := filepath.Join(dir, "original.fs")
	fillTree(t, original, objects)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var theirs, ours []packed
	for range rounds {
		path := filepath.Join(dir, "python.fs")
		theirs = append(theirs, timePack(t, original, path, exec.CommandContext(t.Context(), python(t), filepath.Join("testdata", "pack.py"), "time", path)))
		path = filepath.Join(dir, "go.fs")
		cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestPackForComparison$")
		cmd.Env = append(os.Environ(), packEnv+"="+path)
		ours = append(ours, timePack(t, original, path, cmd))
		if !bytes.Equal(read(t, path), read(t, filepath.Join(dir, "python.fs"))) {
			t.Error("the packed files differ")
		}
	}
	for i := range theirs {
		p, g := theirs[i], ours[i]
		t.Logf("pack: Python %.2f s, %d MiB at its peak, %d MiB of them for the pack; Go %.2f s, %d MiB, %d MiB; ratio of times %.1f (goal 8), of peaks %.2f",
			p.seconds, p.peak>>10, (p.peak-p.before)>>10, g.seconds, g.peak>>10, (g.peak-g.before)>>10, p.seconds/g.seconds, float64(p.peak)/float64(g.peak))
	}
}

func timePack(t *testing.T, original, path string, cmd *exec.Cmd) packed {
	t.Helper()
	copyFile(t, original, path)
	copyFile(t, original+".index", path+".index")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var p packed
	if _, err := fmt.Sscan(string(out), &p.seconds, &p.before, &p.peak); err != nil {
		t.Fatalf("%q: %v", out, err)
	}
	return p
}

const packEnv = "RAIDSTORAGE_PACK_FILE"

// TestPackForComparison is TestPackComparison's own process.
func TestPackForComparison(t *testing.T) {
	path := os.Getenv(packEnv)
	if path == "" {
		return
	}
	s, err := filestorage.Open(t.Context(), path, filestorage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	before, start := peakMemory(t), time.Now()
	if err := s.Pack(t.Context(), raidstorage.PackOptions{Through: raidstorage.MaxTID, GC: true}); err != nil {
		t.Fatal(err)
	}
	fmt.Println(time.Since(start).Seconds(), before, peakMemory(t))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// peakMemory returns the most memory that the process has had, in KiB, as Linux
// tells it; getrusage counts what it had before it became this program.
func peakMemory(t *testing.T) (kib int64) {
	for line := range strings.Lines(string(read(t, "/proc/self/status"))) {
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			return kib
		}
	}
	t.Fatal("no VmHWM")
	return 0
}
