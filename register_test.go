package raidstorage_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
)

// registers are the implementations that ship; reopen is nil where nothing outlives
// the process.
func registers(t *testing.T, run func(t *testing.T, r raidstorage.Register)) {
	t.Run("memory", func(t *testing.T) { t.Parallel(); run(t, &raidstorage.MemoryRegister{}) })
	t.Run("file", func(t *testing.T) {
		t.Parallel()
		r, err := raidstorage.OpenFileRegister(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		run(t, r)
	})
}

func TestCompareAndSetStoresOnlyTheNextEpoch(t *testing.T) {
	t.Parallel()
	registers(t, func(t *testing.T, r raidstorage.Register) {
		ctx := t.Context()
		if m, err := r.Load(ctx); err != nil || m.Epoch != 0 {
			t.Fatalf("an empty register has %+v, %v", m, err)
		}
		first := raidstorage.Membership{Epoch: 1, Mirror: "m", Members: []string{"a", "b"}, InSync: []string{"a"}, Reason: "x"}
		if err := r.CompareAndSet(ctx, first); err != nil {
			t.Fatal(err)
		}
		for _, epoch := range []uint64{0, 1, 3} {
			err := r.CompareAndSet(ctx, raidstorage.Membership{Epoch: epoch})
			if _, ok := errors.AsType[*raidstorage.EpochError](err); !ok {
				t.Errorf("epoch %d after 1: got %v, want *EpochError", epoch, err)
			}
		}
		got, err := r.Load(ctx)
		if diff := cmp.Diff(first, got); diff != "" || err != nil {
			t.Errorf("stored and loaded differ (%v):\n%s", err, diff)
		}
	})
}

func TestOfConcurrentChangesOneWins(t *testing.T) {
	t.Parallel()
	registers(t, func(t *testing.T, r raidstorage.Register) {
		for epoch := uint64(1); epoch <= 5; epoch++ {
			var wins atomic.Int32
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					if r.CompareAndSet(t.Context(), raidstorage.Membership{Epoch: epoch, Reason: fmt.Sprint(i)}) == nil {
						wins.Add(1)
					}
				})
			}
			wg.Wait()
			if wins.Load() != 1 {
				t.Errorf("epoch %d: %d changes won", epoch, wins.Load())
			}
		}
	})
}

func TestReservedRangesNeverOverlap(t *testing.T) {
	t.Parallel()
	registers(t, func(t *testing.T, r raidstorage.Register) {
		var mu sync.Mutex
		seen := map[raidstorage.OID]bool{}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				from, err := r.Reserve(t.Context(), raidstorage.Marks{OID: 100}, raidstorage.Marks{OID: 3})
				mu.Lock()
				defer mu.Unlock()
				for oid := from.OID + 1; oid <= from.OID+3; oid++ {
					if seen[oid] || oid <= 100 || err != nil {
						t.Errorf("oid %v was reserved twice, or below the floor (%v)", oid, err)
					}
					seen[oid] = true
				}
			})
		}
		wg.Wait()
	})
}

func TestFileRegisterOutlivesItsProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r, err := raidstorage.OpenFileRegister(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := raidstorage.Membership{Epoch: 1, InSync: []string{"a"}}
	if err := r.CompareAndSet(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Reserve(t.Context(), raidstorage.Marks{}, raidstorage.Marks{OID: 7, TID: 9}); err != nil {
		t.Fatal(err)
	}
	_, err = raidstorage.OpenFileRegister(dir)
	if _, ok := errors.AsType[*raidstorage.InvalidError](err); !ok {
		t.Errorf("opening the directory twice: got %v, want *InvalidError", err)
	}
	r.Close()
	r, err = raidstorage.OpenFileRegister(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := r.Load(t.Context())
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("after reopening (%v):\n%s", err, diff)
	}
	if from, err := r.Reserve(t.Context(), raidstorage.Marks{}, raidstorage.Marks{}); from != (raidstorage.Marks{OID: 7, TID: 9}) || err != nil {
		t.Errorf("marks after reopening: %+v, %v", from, err)
	}
}

// TestFileRegisterIsFreeOnceClosed: also while a process that is being started has a copy of
// all descriptors.
func TestFileRegisterIsFreeOnceClosed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r, err := raidstorage.OpenFileRegister(dir)
	if err != nil {
		t.Fatal(err)
	}
	var lock syscall.Stat_t
	if err := syscall.Stat(filepath.Join(dir, "lock"), &lock); err != nil {
		t.Fatal(err)
	}
	found := false
	for fd := range 1024 {
		var at syscall.Stat_t
		if syscall.Fstat(fd, &at) != nil || at.Dev != lock.Dev || at.Ino != lock.Ino {
			continue
		}
		again, err := syscall.Dup(fd)
		if err != nil {
			t.Fatal(err)
		}
		defer syscall.Close(again)
		found = true
		break // the copy is the next that is found
	}
	if !found {
		t.Fatal("no descriptor of the lock was found")
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if r, err = raidstorage.OpenFileRegister(dir); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestFileRegisterNoticesEveryChangedByte: a record that cannot be trusted must not
// decide which backend is whole.
func TestFileRegisterNoticesEveryChangedByte(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r, err := raidstorage.OpenFileRegister(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	want := raidstorage.Membership{Epoch: 1, InSync: []string{"a"}, Reason: "r"}
	if err := r.CompareAndSet(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "membership.json")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		bad := append([]byte(nil), good...)
		bad[i] ^= 1
		if err := os.WriteFile(path, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := r.Load(t.Context())
		if _, ok := errors.AsType[*raidstorage.CorruptError](err); !ok && (err != nil || !cmp.Equal(got, want)) {
			t.Errorf("byte %d changed: got %+v, %v", i, got, err)
		}
	}
	for n := range good {
		if err := os.WriteFile(path, good[:n], 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := r.Load(t.Context())
		if _, ok := errors.AsType[*raidstorage.CorruptError](err); !ok && (err != nil || !cmp.Equal(got, want)) {
			t.Errorf("cut to %d bytes: got %+v, %v, want *CorruptError", n, got, err)
		}
	}
}
