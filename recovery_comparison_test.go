//go:build compare

package raidstorage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// These measure a recovery between two native backends, and Python's
// copyTransactionsFrom between two FileStorages, of the same file, one after the other,
// and print a table of ratios:
//
//	go test -tags compare -run 'RecoveryComparison|CatchUpComparison' -v -timeout 30m .
//
// RAIDSTORAGE_PYTHON names an interpreter with ZODB. Both sync what they write, Python
// each transaction. The copies must be equal to the source to the byte. If
// RAIDSTORAGE_PROFILE names a directory, a CPU profile of each recovery is written there.

// comparedLog is the shape of a log.
type comparedLog struct{ transactions, objects int }

func (l comparedLog) String() string {
	return fmt.Sprintf("%d transactions of %d", l.transactions, l.objects)
}

// comparedBytes is how large an object is.
const comparedBytes = 300

func TestRecoveryComparison(t *testing.T) {
	t.Logf("%-36s %10s %10s %8s %8s", "recovery of all", "Python", "Go", "ratio", "goal")
	for _, l := range []comparedLog{{10_000, 100}, {1_000, 1000}, {30_000, 1}} {
		dir := t.TempDir()
		source, theirs, ours := filepath.Join(dir, "source.fs"), filepath.Join(dir, "python.fs"), filepath.Join(dir, "go.fs")
		fillCompared(t, source, l, 0)
		python := pythonCopies(t, source, theirs)
		took := recovers(t, source, ours, l.String())
		mustBeEqual(t, source, theirs)
		mustBeEqual(t, source, ours)
		t.Logf("%-36v %9.2fs %9.2fs %8.2f %8d", l, python, took, python/took, 5)
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCatchUpComparison(t *testing.T) {
	const missed = 1000
	t.Logf("%-36s %10s %10s %8s %8s", "the last 1,000 transactions", "Python", "Go", "ratio", "goal")
	for _, l := range []comparedLog{{10_000, 100}, {100_000, 10}, {1_000_000, 1}} {
		dir := t.TempDir()
		source, theirs, ours := filepath.Join(dir, "source.fs"), filepath.Join(dir, "python.fs"), filepath.Join(dir, "go.fs")
		fillCompared(t, source, l, 0)
		for _, to := range []string{theirs, ours} {
			copyFile(t, source, to)
			copyFile(t, source+".index", to+".index")
		}
		fillCompared(t, source, comparedLog{missed, l.objects}, l.transactions)
		python := pythonCopies(t, source, theirs, comparedTID(l.transactions).String())
		took := recovers(t, source, ours, "missed of "+l.String())
		mustBeEqual(t, source, theirs)
		mustBeEqual(t, source, ours)
		t.Logf("%-36v %9.3fs %9.3fs %8.2f %8s", l, python, took, python/took, "< 1 s")
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
}

// comparedTID is the tid of the transaction with a number, counted from 0: a second for
// each.
func comparedTID(n int) raidstorage.TID {
	return raidstorage.TIDFromTime(time.Date(2020, 1, 1, 0, 0, n, 0, time.UTC))
}

// fillCompared appends the transactions of l, numbered from first on.
func fillCompared(t *testing.T, path string, l comparedLog, first int) {
	t.Helper()
	s, err := filestorage.Open(t.Context(), path, filestorage.Options{Durability: filestorage.NoSync})
	if err != nil {
		t.Fatal(err)
	}
	random := rand.NewChaCha8([32]byte{byte(l.objects)})
	for n := first; n < first+l.transactions; n++ {
		meta := raidstorage.Meta{TID: comparedTID(n), User: []byte("user"), Description: fmt.Appendf(nil, "/folder/page%d/edit", n%100)}
		storagetest.Transact(t, s, meta, func(txn raidstorage.Txn) error {
			for i := range l.objects {
				data := make([]byte, comparedBytes)
				_, _ = random.Read(data) // never fails
				if err := txn.Store(t.Context(), raidstorage.OID(n*l.objects+i), 0, data); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// pythonCopies returns how long Python takes, in seconds.
func pythonCopies(t *testing.T, from, to string, start ...string) float64 {
	t.Helper()
	args := append([]string{filepath.Join("testdata", "recover_compare.py"), from, to}, start...)
	cmd := exec.CommandContext(t.Context(), python(t), args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	seconds, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
	if err != nil {
		t.Fatal(err)
	}
	return seconds
}

// recovers returns how long Recover takes, in seconds: with opening the target.
func recovers(t *testing.T, source, target, what string) float64 {
	t.Helper()
	opener := func(path string) func(context.Context) (raidstorage.Storage, error) {
		return func(ctx context.Context) (raidstorage.Storage, error) {
			return filestorage.Open(ctx, path, filestorage.Options{})
		}
	}
	m, err := raidstorage.Open(t.Context(), raidstorage.Config{
		Membership: &raidstorage.MemoryRegister{}, AutoRecover: raidstorage.AutoRecoverOff,
		Backends: []raidstorage.Backend{{Name: name(0), Open: opener(source)}, {Name: name(1), Open: opener(target)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if state := m.Status().Backends[1].State; state != raidstorage.StateFailed {
		t.Fatalf("the target is %v before its recovery", state)
	}
	stop := profile(t, what)
	begun := time.Now()
	err = m.Recover(t.Context(), name(1))
	took := time.Since(begun).Seconds()
	stop()
	if state := m.Status().Backends[1].State; state != raidstorage.StateInSync {
		t.Errorf("the target is %v after its recovery", state)
	}
	if err := errors.Join(err, m.Close()); err != nil {
		t.Fatal(err)
	}
	return took
}

func profile(t *testing.T, what string) (stop func()) {
	t.Helper()
	dir := os.Getenv("RAIDSTORAGE_PROFILE")
	if dir == "" {
		return func() {}
	}
	f, err := os.Create(filepath.Join(dir, strings.ReplaceAll(what, " ", "-")+".pprof"))
	if err == nil {
		err = pprof.StartCPUProfile(f)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		pprof.StopCPUProfile()
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Sync(), out.Close()); err != nil {
		t.Fatal(err)
	}
}

// mustBeEqual compares two files.
func mustBeEqual(t *testing.T, want, got string) {
	t.Helper()
	var files [2]*os.File
	for i, path := range []string{want, got} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	a, b := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := 0; ; at += len(a) {
		n, errA := io.ReadFull(files[0], a)
		k, errB := io.ReadFull(files[1], b)
		if !bytes.Equal(a[:n], b[:k]) {
			t.Fatalf("%s differs from %s in the MiB at %d, or ends there", got, want, at)
		}
		if errA != nil || errB != nil {
			if errA != errB {
				t.Fatal(errA, errB)
			}
			return
		}
	}
}
