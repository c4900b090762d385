package filestorage_test

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// disk is a file on a disk that loses power: what was not synced may be there or
// not, each write by itself and in part. After each call it shows all the files
// that could be left to check.
type disk struct {
	filestorage.File
	durable  []byte
	unsynced []diskWrite
	check    func(call string, image []byte)
}

// diskWrite is a write, or, with nil data, a truncation to off.
type diskWrite struct {
	off  int64
	data []byte
}

func (w diskWrite) apply(image []byte) []byte {
	if w.data == nil {
		return append(image, make([]byte, max(0, int(w.off)-len(image)))...)[:w.off]
	}
	end := int(w.off) + len(w.data)
	image = append(image, make([]byte, max(0, end-len(image)))...)
	copy(image[w.off:], w.data)
	return image
}

func (d *disk) WriteAt(b []byte, off int64) (int, error) {
	n, err := d.File.WriteAt(b, off)
	d.unsynced = append(d.unsynced, diskWrite{off, bytes.Clone(b)})
	d.losePower("write")
	return n, err
}

func (d *disk) Truncate(size int64) error {
	d.unsynced = append(d.unsynced, diskWrite{off: size})
	d.losePower("truncate")
	return d.File.Truncate(size)
}

func (d *disk) Sync() error {
	for _, w := range d.unsynced {
		d.durable = w.apply(d.durable)
	}
	d.unsynced = nil
	d.losePower("sync")
	return d.File.Sync()
}

// losePower checks the images with none of the unsynced writes, with each of them
// alone, with all but one, and with half of one.
func (d *disk) losePower(call string) {
	d.check(call+", nothing more written", slices.Clone(d.durable))
	for i := range d.unsynced {
		alone, without, half := slices.Clone(d.durable), slices.Clone(d.durable), slices.Clone(d.durable)
		for j, w := range d.unsynced {
			if i != j {
				without = w.apply(without)
				continue
			}
			alone = w.apply(alone)
			if w.data != nil {
				second := len(w.data) / 2
				half = diskWrite{w.off + int64(second), w.data[second:]}.apply(half)
			}
		}
		d.check(fmt.Sprintf("%s, only write %d", call, i), alone)
		d.check(fmt.Sprintf("%s, all but write %d", call, i), without)
		d.check(fmt.Sprintf("%s, only the second half of write %d", call, i), half)
	}
}

// step is a call of a workload and the state that it leads to.
type step struct {
	name string
	run  func(s *filestorage.Storage) error
}

func crashSteps(ctx context.Context) []step {
	store := func(tid raidstorage.TID, size int, end func(txn raidstorage.Txn) error) func(*filestorage.Storage) error {
		return func(s *filestorage.Storage) error {
			txn, err := s.Begin(ctx, raidstorage.Meta{TID: tid})
			if err != nil {
				return err
			}
			defer func() { _ = txn.Abort(ctx) }()
			for oid := range raidstorage.OID(3) {
				rec := raidstorage.Record{OID: oid, TID: tid, Data: bytes.Repeat([]byte{byte(tid)}, size)}
				if err := txn.Restore(ctx, rec); err != nil {
					return err
				}
			}
			if _, err := txn.Vote(ctx); err != nil {
				return err
			}
			return end(txn)
		}
	}
	finish := func(txn raidstorage.Txn) error { _, err := txn.Finish(ctx); return err }
	abort := func(txn raidstorage.Txn) error { return txn.Abort(ctx) }
	return []step{
		{"commit 100", store(100, 10, finish)},
		{"commit 101, larger than the write buffer", store(101, 200_000, finish)},
		{"abort of a large one", store(102, 60_000, abort)},
		{"commit 103 where it was", store(103, 20, finish)},
		{"abort of a small one", store(104, 5, abort)},
		{"commit 105", store(105, 30_000, finish)},
		{"cut after 101", func(s *filestorage.Storage) error { return s.TruncateAfter(ctx, 101, 105) }},
		{"commit 106", store(106, 7, finish)},
	}
}

// At every moment that the power can fail, the file holds the transactions that
// were acknowledged, and the one under way as a whole or not at all.
func TestNoPowerFailureLosesOrTearsATransaction(t *testing.T) {
	t.Parallel()
	steps := crashSteps(t.Context())
	states := crashStates(t, steps)
	dir, n := t.TempDir(), 0
	allowed, now := states[:1], "open"
	d := &disk{check: func(call string, image []byte) {
		n++
		path := filepath.Join(dir, fmt.Sprintf("crash%d.fs", n))
		write(t, path, image)
		s, err := filestorage.Open(context.Background(), path, filestorage.Options{Durability: filestorage.NoSync})
		if err != nil {
			t.Errorf("%s, %s: %v", now, call, err)
			return
		}
		defer s.Close()
		if got := mustDump(t, s); !slices.Contains(allowed, got) {
			t.Errorf("%s, %s: the file holds\n%.300s\nallowed is\n%.300q", now, call, got, allowed)
		}
	}}
	s, err := filestorage.OpenWith(t.Context(), filepath.Join(dir, "Data.fs"), filestorage.Options{}, func(f filestorage.File) filestorage.File {
		d.File = f
		return d
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, step := range steps {
		now, allowed = step.name, states[i:i+2]
		if err := step.run(s); err != nil {
			t.Fatal(err)
		}
		allowed = states[i+1 : i+2]
		d.losePower("after it")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d images", n)
}

// crashStates returns what the file holds before the first step and after each.
func crashStates(t *testing.T, steps []step) []string {
	t.Helper()
	s := temp(t)
	states := []string{mustDump(t, s)}
	for _, step := range steps {
		if err := step.run(s); err != nil {
			t.Fatal(err)
		}
		states = append(states, mustDump(t, s))
	}
	return states
}
