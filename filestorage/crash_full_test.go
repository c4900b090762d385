//go:build linux

package filestorage_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// fullDisk fails calls that write or sync, of the data file and of the files and names
// that a pack makes: call number at, and if it stays full those after it too.
type fullDisk struct {
	filestorage.DirOps
	cause error
	stays bool

	mu      sync.Mutex
	calls   int
	at      int    // no call fails while it is negative
	failed  string // the first call that did
	allOver bool
}

func (d *fullDisk) fails(call string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.calls
	d.calls++
	if d.allOver || d.at < 0 || n < d.at || n > d.at && !d.stays {
		return nil
	}
	if d.failed == "" {
		d.failed = call
	}
	return d.cause
}

// start makes call n from now on fail.
func (d *fullDisk) start(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls, d.at = 0, n
}

// end has space return, and says which call failed.
func (d *fullDisk) end() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.allOver = true
	return d.failed
}

func (d *fullDisk) Create(path string) (filestorage.File, error) {
	if err := d.fails("create " + filepath.Base(path)); err != nil {
		return nil, err
	}
	f, err := d.DirOps.Create(path)
	return &fullFile{f, d, filepath.Base(path)}, err
}

// fullFile is a file on the disk.
type fullFile struct {
	filestorage.File
	d    *fullDisk
	name string
}

// WriteAt may fail, and writes half then.
func (f *fullFile) WriteAt(b []byte, off int64) (int, error) {
	if err := f.d.fails("write " + f.name); err != nil {
		n, _ := f.File.WriteAt(b[:len(b)/2], off)
		return n, err
	}
	return f.File.WriteAt(b, off)
}

// Sync may fail.
func (f *fullFile) Sync() error {
	if err := f.d.fails("sync " + f.name); err != nil {
		return err
	}
	return f.File.Sync()
}

// fullRun is a storage on such a disk, and what was acknowledged.
type fullRun struct {
	s  *filestorage.Storage
	mu sync.Mutex
	promises
	errs []error
}

// commit makes n transactions, one after the other, until one fails.
func (r *fullRun) commit(name string, oid raidstorage.OID, n int) {
	for i := range n {
		if err := r.one(fmt.Sprintf("%s-%d", name, i), oid+raidstorage.OID(i)); err != nil {
			r.mu.Lock()
			r.errs = append(r.errs, err)
			r.mu.Unlock()
			return
		}
	}
}

func (r *fullRun) one(name string, oid raidstorage.OID) error {
	ctx := context.Background()
	txn, err := r.s.Begin(ctx, raidstorage.Meta{Description: []byte(name)})
	if err != nil {
		return err
	}
	defer func() { _ = txn.Abort(ctx) }()
	if err := txn.Store(ctx, oid, 0, []byte(storagetest.Pickled(strings.Repeat(name, 100)))); err != nil {
		return err
	}
	if _, err := txn.Vote(ctx); err != nil {
		return err
	}
	r.mu.Lock()
	r.finishing[name] = true
	r.mu.Unlock()
	if _, err := txn.Finish(ctx); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.acked = append(r.acked, name)
	return nil
}

// intact returns an error unless all that was acknowledged is in the log.
func (r *fullRun) intact(log []loggedTxn) error {
	for _, name := range r.acked {
		if !slices.ContainsFunc(log, func(txn loggedTxn) bool { return txn.name == name }) {
			return fmt.Errorf("%s was acknowledged and is lost", name)
		}
	}
	for _, txn := range log {
		if txn.name != "" && !r.finishing[txn.name] {
			return fmt.Errorf("%s is in the log, but Finish was not called", txn.name)
		}
	}
	return nil
}

// Each write and sync fails in turn, by a full disk and by an error of it, once and
// until space returns: the error is reported, what was acknowledged is there, and the
// storage works on, if need be after it was opened again.
func TestAFullOrBrokenDiskLosesNothing(t *testing.T) {
	t.Parallel()
	loads := map[string]func(r *fullRun, through raidstorage.TID){
		"one committer":   func(r *fullRun, _ raidstorage.TID) { r.commit("one", 100, 6) },
		"four committers": func(r *fullRun, _ raidstorage.TID) { r.four() },
		"pack": func(r *fullRun, through raidstorage.TID) {
			var wg sync.WaitGroup
			wg.Go(func() { r.commit("meanwhile", 100, 3) })
			err := r.s.Pack(context.Background(), raidstorage.PackOptions{Through: through})
			wg.Wait()
			if err != nil {
				r.errs = append(r.errs, err)
			}
		},
	}
	for name, load := range loads {
		for _, cause := range []error{syscall.ENOSPC, syscall.EIO} {
			for _, stays := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %v, stays %v", name, cause, stays), func(t *testing.T) {
					t.Parallel()
					n := 0
					for failCall(t, &fullDisk{DirOps: filestorage.OSDir(), cause: cause, stays: stays, at: -1}, n, load) {
						n++
					}
					if n < 10 {
						t.Errorf("only %d calls", n)
					}
					t.Logf("%d calls", n)
				})
			}
		}
	}
}

func (r *fullRun) four() {
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() { r.commit(fmt.Sprintf("c%d", i), raidstorage.OID(100+10*i), 4) })
	}
	wg.Wait()
}

// failCall fails call n of the load. It returns false if there are fewer.
func failCall(t *testing.T, d *fullDisk, n int, load func(*fullRun, raidstorage.TID)) bool {
	dir := memoryDir(t)
	defer os.RemoveAll(dir)
	store := crashStore{dir: dir}
	s, err := filestorage.OpenWith(t.Context(), store.path(), store.opts, func(f filestorage.File) filestorage.File {
		return &fullFile{f, d, crashData}
	})
	if err != nil {
		t.Fatal(err)
	}
	r := &fullRun{s: s, promises: promises{finishing: make(map[string]bool)}}
	through := packable(t, s)
	s.SetDir(d)
	d.start(n)
	load(r, through)
	call := d.end()
	name := fmt.Sprintf("call %d, %s", n, call)
	if call == "" {
		if err := errors.Join(append(r.errs, s.Close())...); err != nil {
			t.Errorf("without a fault: %v", err)
		}
		return false
	}
	if !slices.ContainsFunc(r.errs, func(err error) bool { return errors.Is(err, d.cause) }) && !strings.Contains(call, "index") {
		t.Errorf("%s: the error is not reported, but %v", name, r.errs)
	}
	if log, err := logOf(s); err != nil {
		t.Errorf("%s: reading on: %v", name, err)
	} else if err := r.intact(log); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	if err := r.one("works on", 500); err != nil {
		wantErr[*raidstorage.ReadOnlyError](t, err)
		_ = s.Close() // it repeats why
	} else if err := s.Close(); err != nil {
		t.Errorf("%s: close: %v", name, err)
	}
	log, err := store.open()
	if err = errors.Join(err, r.intact(log), store.goesOn()); err != nil {
		t.Errorf("%s: opened again: %v", name, err)
	}
	return true
}
