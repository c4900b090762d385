//go:build interop

package filestorage_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/memstorage"
)

// Random histories, with undos: what a pack by FindKept's garbage leaves of the pack time
// and Python's pack of the same file drops, FindKept names, and nothing else.
func TestKeptIsWhatPythonDropsBesides(t *testing.T) {
	t.Parallel()
	histories := uint64(60)
	first := uint64(rand.Uint32())
	for name, value := range map[string]*uint64{"RAIDSTORAGE_SEED": &first, "RAIDSTORAGE_KEPT_HISTORIES": &histories} {
		if s := os.Getenv(name); s != "" {
			n, err := strconv.ParseUint(s, 10, 32)
			if err != nil {
				t.Fatal(err)
			}
			*value = n
		}
	}
	t.Logf("RAIDSTORAGE_SEED=%d", first)
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), python(t), filepath.Join("testdata", "pack.py"), dir, fmt.Sprint(first), fmt.Sprint(histories))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("python: %v\n%s", err, out)
	}
	var tally keptTally
	for seed := first; seed < first+histories; seed++ {
		keptAsPython(t, filepath.Join(dir, fmt.Sprint(seed)), &tally)
	}
	t.Logf("%+v", tally)
	if tally.packs < int(histories)/3 || tally.kept < 3 {
		t.Errorf("the histories do not show much: %+v", tally)
	}
}

// keptTally counts packs.
type keptTally struct {
	packs  int // that were compared
	kept   int // where Python drops what we keep
	later  int // of those, where such an object was written later
	memory int // where a memory storage with the same log names more
}

// keptAsPython compares the steps of the plan in dir, each with Python's file of before.
func keptAsPython(t *testing.T, dir string, tally *keptTally) {
	t.Helper()
	before := filepath.Join(dir, "Data.fs")
	steps := strings.Split(strings.TrimSpace(string(read(t, filepath.Join(dir, "plan")))), "\n")
	for i, line := range steps {
		shown, gc, _ := strings.Cut(line, " ")
		through, err := raidstorage.ParseTID(shown)
		if err != nil {
			t.Fatal(err)
		}
		after := filepath.Join(dir, fmt.Sprintf("%d.plain.fs", i+1))
		if _, err := os.Stat(after); errors.Is(err, os.ErrNotExist) {
			return // Python fails
		}
		if gc == "1" {
			keptInStep(t, fmt.Sprintf("%s: pack %d to %v", dir, i+1, through), before, after, through, tally)
		}
		before = after
	}
}

func keptInStep(t *testing.T, name, before, after string, through raidstorage.TID, tally *keptTally) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "Data.fs")
	if err := os.WriteFile(path, read(t, before), 0o666); err != nil {
		t.Fatal(err)
	}
	s := openFor(t, path, filestorage.Options{Durability: filestorage.NoSync})
	defer s.Close()
	log, python := readLog(t, s), fileLog(t, after)
	if reflect.DeepEqual(stripPointers(log), stripPointers(python)) && !slices.ContainsFunc(log, func(txn logTxn) bool {
		return txn.Meta.TID <= through && txn.Meta.Status != raidstorage.StatusPacked
	}) {
		return // redundant
	}
	mem := memoryWith(t, log)
	nothing := func(context.Context) error { return nil }
	garbage, kept, err := s.FindKept(t.Context(), through, nothing)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	garbageInMemory, keptInMemory, err := mem.FindKept(t.Context(), through, nothing)
	if err != nil {
		t.Errorf("%s: in memory: %v", name, err)
	}
	if err := s.Pack(t.Context(), raidstorage.PackOptions{Through: through, Decided: true, Garbage: garbage}); err != nil {
		t.Fatal(err)
	}
	ours, theirs, later, empty := map[raidstorage.OID]raidstorage.TID{}, map[revisionID]bool{}, map[raidstorage.OID]bool{}, map[raidstorage.OID]bool{}
	for _, txn := range python {
		for _, rec := range txn.Records {
			theirs[revisionID{rec.OID, rec.TID}] = true
		}
	}
	for _, txn := range readLog(t, s) {
		for _, rec := range txn.Records {
			if rec.TID > through {
				later[rec.OID] = true
			} else {
				ours[rec.OID], empty[rec.OID] = rec.TID, rec.Data == nil
			}
		}
	}
	var want []raidstorage.OID
	for oid, tid := range ours {
		if !theirs[revisionID{oid, tid}] {
			want = append(want, oid)
		}
	}
	slices.Sort(want)
	if !slices.Equal(kept, want) {
		t.Errorf("%s: FindKept names %v, Python drops %v", name, kept, want)
	}
	for _, oid := range want {
		// A deletion that was brought back is a record in a file, and none in memory.
		if !empty[oid] && !slices.Contains(keptInMemory, oid) && !slices.Contains(garbageInMemory, oid) {
			t.Errorf("%s: in memory FindKept does not name %v", name, oid)
		}
	}
	tally.packs++
	if len(want) > 0 {
		tally.kept++
	}
	if slices.ContainsFunc(want, func(oid raidstorage.OID) bool { return later[oid] }) {
		tally.later++
	}
	if len(keptInMemory) > len(want) {
		tally.memory++
	}
}

// fileLog reads a file that is not changed.
func fileLog(t *testing.T, path string) []logTxn {
	t.Helper()
	s := openFor(t, path, filestorage.Options{ReadOnly: true})
	defer s.Close()
	return readLog(t, s)
}

// memoryWith returns a memory storage with that log.
func memoryWith(t *testing.T, log []logTxn) *memstorage.Storage {
	t.Helper()
	s := memstorage.New("memory")
	for _, txn := range log {
		commit(t, s, txn.Meta, func(to raidstorage.Txn) (err error) {
			for _, rec := range txn.Records {
				err = errors.Join(err, to.Restore(t.Context(), rec))
			}
			return err
		})
	}
	return s
}
