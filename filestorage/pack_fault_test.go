package filestorage_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// failingDir fails one call of a pack, with names or with the files that it makes.
type failingDir struct {
	filestorage.DirOps
	at    int64
	err   error
	calls atomic.Int64
	what  atomic.Value // the call that failed
}

func (d *failingDir) fails(call string) error {
	if d.calls.Add(1)-1 != d.at {
		return nil
	}
	d.what.Store(call)
	return d.err
}

func (d *failingDir) Create(path string) (filestorage.File, error) {
	if err := d.fails("create"); err != nil {
		return nil, err
	}
	f, err := d.DirOps.Create(path)
	return &failingPart{f, d}, err
}

func (d *failingDir) Remove(path string) error {
	if err := d.fails("remove"); err != nil {
		return err
	}
	return d.DirOps.Remove(path)
}

func (d *failingDir) Link(old, new string) error {
	if err := d.fails("link"); err != nil {
		return err
	}
	return d.DirOps.Link(old, new)
}

func (d *failingDir) Rename(old, new string) error {
	if err := d.fails("rename to " + filepath.Ext(new)); err != nil {
		return err
	}
	return d.DirOps.Rename(old, new)
}

func (d *failingDir) SyncDir(path string) error {
	if err := d.fails("sync the directory"); err != nil {
		return err
	}
	return d.DirOps.SyncDir(path)
}

// failingPart is a file that the pack makes.
type failingPart struct {
	filestorage.File
	dir *failingDir
}

// WriteAt may fail, and writes half then.
func (f *failingPart) WriteAt(b []byte, off int64) (int, error) {
	if err := f.dir.fails("write"); err != nil {
		n, _ := f.File.WriteAt(b[:len(b)/2], off)
		return n, err
	}
	return f.File.WriteAt(b, off)
}

// Sync may fail.
func (f *failingPart) Sync() error {
	if err := f.dir.fails("sync"); err != nil {
		return err
	}
	return f.File.Sync()
}

// Each call of a pack fails in turn. The database is what it was, goes on, and can be
// packed when the cause is gone. Only if the rename is done but cannot be made durable
// is nothing written any more.
func TestNoFaultDuringAPackHarmsTheDatabase(t *testing.T) {
	t.Parallel()
	for _, fault := range []error{syscall.ENOSPC, syscall.EIO} {
		for n := int64(0); ; n++ {
			path := filepath.Join(t.TempDir(), "Data.fs")
			s := openFor(t, path, filestorage.Options{})
			through := packable(t, s)
			before := mustDump(t, s)
			d := &failingDir{DirOps: filestorage.OSDir(), at: n, err: fault}
			s.SetDir(d)
			opts := raidstorage.PackOptions{Through: through, GC: true}
			err := s.Pack(t.Context(), opts)
			d.calls.Store(n + 1) // no more
			call, fired := d.what.Load().(string)
			if !fired {
				if err != nil || n < 12 {
					t.Errorf("without a fault: %v, %d calls", err, n)
				}
				break
			}
			faultDuringPack(t, fmt.Sprintf("%v at call %d, %s", fault, n, call), s, before, opts, err, fault)
		}
	}
}

// faultDuringPack checks what is left of s after its pack returned err.
func faultDuringPack(t *testing.T, name string, s *filestorage.Storage, before string, opts raidstorage.PackOptions, err, fault error) {
	t.Helper()
	after := mustDump(t, s)
	switch {
	case err == nil && after != before: // only the index is missing, or something to remove is there still
	case err != nil && !errors.Is(err, fault):
		t.Errorf("%s: the pack returns %v", name, err)
	case err == nil:
		t.Errorf("%s: the pack returns nothing and has done nothing", name)
	}
	if _, beginErr := s.Begin(t.Context(), raidstorage.Meta{}); beginErr != nil {
		wantErr[*raidstorage.ReadOnlyError](t, beginErr)
		if after == before {
			t.Errorf("%s: read-only, though the file is what it was", name)
		}
	} else {
		if err != nil && after != before {
			t.Errorf("%s: the database changed", name)
		}
		put(t, s, 2, storagetest.Pickled("it goes on"))
		after = mustDump(t, s)
		if err := s.Close(); err != nil {
			t.Errorf("%s: close: %v", name, err)
		}
	}
	_ = s.Close()
	r := openFor(t, s.Name(), filestorage.Options{})
	if got := mustDump(t, r); got != after {
		t.Errorf("%s: after reopening there is\n%.500s\nbefore there was\n%.500s", name, got, after)
	}
	if err := r.Pack(t.Context(), opts); err != nil {
		t.Errorf("%s: the next pack: %v", name, err)
	}
	put(t, r, 2, storagetest.Pickled("it goes on after the pack"))
}
