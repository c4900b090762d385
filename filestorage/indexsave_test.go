package filestorage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// onSave is a log handler that calls a function, from the saver's goroutine, each time
// that it has saved the index or given up.
type onSave struct {
	slog.Handler
	call func(message string, attrs map[string]slog.Value)
}

func (h onSave) Enabled(context.Context, slog.Level) bool { return true }

func (h onSave) Handle(_ context.Context, r slog.Record) error {
	attrs := make(map[string]slog.Value)
	r.Attrs(func(a slog.Attr) bool { attrs[a.Key] = a.Value; return true })
	h.call(r.Message, attrs)
	return nil
}

// savingStorage opens a storage that saves its index after each few bytes, and calls
// saved with the end of each index while that is the one in the file.
func savingStorage(t *testing.T, after int64, saved func(path string, end int64)) *filestorage.Storage {
	t.Helper()
	path := filepath.Join(t.TempDir(), "Data.fs")
	log := slog.New(onSave{slog.DiscardHandler, func(message string, attrs map[string]slog.Value) {
		switch message {
		case "the index was saved":
			saved(path, attrs["offset"].Int64())
		case "the index was not saved":
			t.Errorf("the index was not saved: %v", attrs["err"])
		}
	}})
	return openFor(t, path, filestorage.Options{SaveIndexAfter: after, Logger: log})
}

// readCounter counts what is read of a file.
type readCounter struct {
	filestorage.File
	bytes atomic.Int64
}

func (f *readCounter) ReadAt(b []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(b, off)
	f.bytes.Add(int64(n))
	return n, err
}

// abandon copies the files as a killed process leaves them.
func abandon(t *testing.T, path string) string {
	t.Helper()
	left := filepath.Join(t.TempDir(), "Data.fs")
	copyFile(t, path, left)
	copyFile(t, path+".index", left+".index")
	return left
}

// A storage whose process is killed opens with the index that was saved last, and
// reads the transactions after it only.
func TestAfterAKillOnlyTheTailIsScanned(t *testing.T) {
	t.Parallel()
	ends := make(chan int64, 100)
	s := savingStorage(t, 3_000_000, func(_ string, end int64) { ends <- end })
	fill(t, s, 4000, 100, 1000)
	end := <-ends
	for oid := range raidstorage.OID(3) {
		put(t, s, 10_000+oid, "the tail")
	}
	left := abandon(t, s.Name())
	info, err := os.Stat(left)
	if err != nil {
		t.Fatal(err)
	}
	counted := &readCounter{}
	again, err := filestorage.OpenWith(t.Context(), left, filestorage.Options{ReadOnly: true}, func(f filestorage.File) filestorage.File {
		counted.File = f
		return counted
	})
	if err != nil {
		t.Fatal(err)
	}
	opened := counted.bytes.Load()
	if got, want := mustDump(t, again), mustDump(t, s); got != want {
		t.Errorf("the storage is another one after the kill:\n%.500s\nwas\n%.500s", got, want)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
	if err := os.Remove(left + ".index"); err != nil {
		t.Fatal(err)
	}
	counted.bytes.Store(0)
	again, err = filestorage.OpenWith(t.Context(), left, filestorage.Options{ReadOnly: true}, func(f filestorage.File) filestorage.File {
		counted.File = f
		return counted
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("index to %d of %d bytes: %d were read, %d without it", end, info.Size(), opened, counted.bytes.Load())
	// A long transaction is read up to twice: its end comes first.
	if opened > 2*(info.Size()-end)+1<<20 || opened >= counted.bytes.Load()*2/3 {
		t.Errorf("%d bytes were read at open, %d without an index", opened, counted.bytes.Load())
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// Whatever is committed while it is saved, by whom and how: an index file is, byte for
// byte, the one that reading the log up to its end makes.
func TestSavedIndexesAreThoseOfOneMoment(t *testing.T) {
	t.Parallel()
	const seed, committers, each, wanted = 5, 4, 150, 5
	t.Logf("seed %d", seed)
	saves, enough := 0, make(chan struct{})
	s := savingStorage(t, 1, func(path string, end int64) {
		if saves++; saves == wanted {
			close(enough)
		}
		if saves > 3*wanted {
			return
		}
		wantIndexOf(t, path, end)
	})
	var wg sync.WaitGroup
	for c := range committers {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(c)))
			serials := make(map[raidstorage.OID]raidstorage.TID)
			for range each {
				oid := raidstorage.OID(c) << 40
				switch random.IntN(3) {
				case 0:
					oid += raidstorage.OID(random.IntN(100))
				case 1:
					oid |= raidstorage.OID(random.Uint64N(1 << 40))
				case 2:
					oid += raidstorage.OID(len(serials)) << 20
				}
				tid, err := commitErr(t, s, func(txn raidstorage.Txn) error {
					return txn.Store(t.Context(), oid, serials[oid], fmt.Appendf(nil, "%d", random.Uint64()))
				})
				if err != nil {
					t.Error(err)
					return
				}
				serials[oid] = tid
			}
		})
	}
	wg.Wait()
	for serial := raidstorage.TID(0); ; { // until the saver has been there often enough
		select {
		case <-enough:
			return
		default:
		}
		tid, err := commitErr(t, s, func(txn raidstorage.Txn) error {
			return txn.Store(t.Context(), 1<<50, serial, []byte("more"))
		})
		if err != nil {
			t.Fatal(err)
		}
		serial = tid
	}
}

// wantIndexOf compares the index file at path with one that is made anew from the log
// before end.
func wantIndexOf(t *testing.T, path string, end int64) {
	got, err := os.ReadFile(path + ".index")
	if err != nil {
		t.Error(err)
		return
	}
	log, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
		return
	}
	anew := filepath.Join(t.TempDir(), "anew.fs")
	if err := os.WriteFile(anew, log[:end], 0o666); err != nil {
		t.Error(err)
		return
	}
	s, err := filestorage.Open(context.Background(), anew, filestorage.Options{Durability: filestorage.NoSync})
	if err != nil {
		t.Errorf("the log up to %d: %v", end, err)
		return
	}
	if s.Repaired() != nil {
		t.Errorf("the index ends at %d, where the log was not settled", end)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	want, err := os.ReadFile(anew + ".index")
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("the index file up to %d is not that of the log: %d bytes, want %d (%v)", end, len(got), len(want), err)
	}
}

// Deferred transactions are on the disk before an index has them.
func TestAnIndexHasNoTransactionThatIsNotOnTheDisk(t *testing.T) {
	t.Parallel()
	s := temp(t)
	first := put(t, s, 1, "one")
	for i := range raidstorage.OID(5) {
		commit(t, s, raidstorage.Meta{Deferred: true}, func(txn raidstorage.Txn) error {
			return txn.Store(t.Context(), 10+i, 0, []byte("deferred"))
		})
	}
	commit(t, s, raidstorage.Meta{Deferred: true}, func(txn raidstorage.Txn) error {
		return txn.Store(t.Context(), 1, first, []byte("deferred"))
	})
	end, err := filestorage.SaveIndexNow(s)
	if err != nil {
		t.Fatal(err)
	}
	if n := filestorage.Queued(s); n != 0 {
		t.Errorf("%d transactions wait for the disk", n)
	}
	wantIndexOf(t, s.Name(), end)
}

// meanwhileDir does something when the index is being written.
type meanwhileDir struct {
	filestorage.DirOps
	once sync.Once
	do   func()
}

func (d *meanwhileDir) Create(path string) (filestorage.File, error) {
	if filepath.Ext(path) == ".index_tmp" {
		d.once.Do(d.do)
	}
	return d.DirOps.Create(path)
}

func TestAnIndexOfWhatWasReplacedMeanwhileIsNotKept(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(t *testing.T, s *filestorage.Storage, first, last raidstorage.TID){
		"cut": func(t *testing.T, s *filestorage.Storage, first, last raidstorage.TID) {
			if err := s.TruncateAfter(t.Context(), first, last); err != nil {
				t.Error(err)
			}
		},
		"cut, and others committed": func(t *testing.T, s *filestorage.Storage, first, last raidstorage.TID) {
			if err := s.TruncateAfter(t.Context(), first, last); err != nil {
				t.Error(err)
			}
			put(t, s, 3, "3")
			put(t, s, 4, "4")
		},
		"packed": func(t *testing.T, s *filestorage.Storage, _, _ raidstorage.TID) {
			if err := s.Pack(t.Context(), raidstorage.PackOptions{Through: raidstorage.MaxTID}); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openFor(t, filepath.Join(t.TempDir(), "Data.fs"), filestorage.Options{SaveIndexAfter: -1})
			first := put(t, s, 1, "1")
			put(t, s, 1, "one again")
			last := put(t, s, 2, "2")
			s.SetDir(&meanwhileDir{DirOps: filestorage.OSDir(), do: func() { change(t, s, first, last) }})
			if end, err := filestorage.SaveIndexNow(s); err == nil {
				t.Errorf("the index up to %d was saved", end)
			}
			if _, err := os.Stat(s.Name() + ".index.index_tmp"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a part of it stays: %v", err)
			}
			want := mustDump(t, s)
			left := filepath.Join(t.TempDir(), "Data.fs")
			copyFile(t, s.Name(), left)
			if name == "packed" { // has saved one of its own
				copyFile(t, s.Name()+".index", left+".index")
			} else if _, err := os.Stat(s.Name() + ".index"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("there is an index: %v", err)
			}
			if got := dumpFile(t, left); got != want {
				t.Errorf("after a kill there is\n%s\nwas\n%s", got, want)
			}
			if end, err := filestorage.SaveIndexNow(s); err != nil {
				t.Errorf("the next save: %v", err)
			} else {
				wantIndexOf(t, s.Name(), end)
			}
		})
	}
}

// Each call of a save fails in turn: the index before stays, and commits go on.
func TestAFailedSaveHurtsNobody(t *testing.T) {
	t.Parallel()
	for n := int64(0); ; n++ {
		path := filepath.Join(t.TempDir(), "Data.fs")
		s := openFor(t, path, filestorage.Options{SaveIndexAfter: -1})
		put(t, s, 1, "one")
		if _, err := filestorage.SaveIndexNow(s); err != nil {
			t.Fatal(err)
		}
		before := read(t, path+".index")
		put(t, s, 2, "two")
		dir := &failingDir{DirOps: filestorage.OSDir(), at: n, err: syscall.ENOSPC}
		s.SetDir(dir)
		_, err := filestorage.SaveIndexNow(s)
		s.SetDir(filestorage.OSDir())
		if dir.what.Load() == nil {
			if n < 4 {
				t.Errorf("%d calls were tried only", n)
			}
			return
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%v fails: %v", dir.what.Load(), err)
		}
		if !bytes.Equal(read(t, path+".index"), before) {
			t.Errorf("%v fails: the index file is another one", dir.what.Load())
		}
		put(t, s, 3, "three")
		if got, want := dumpFile(t, abandon(t, path)), mustDump(t, s); got != want {
			t.Errorf("%v fails: after a kill there is\n%s\nwas\n%s", dir.what.Load(), got, want)
		}
		if end, err := filestorage.SaveIndexNow(s); err != nil {
			t.Errorf("after %v failed: %v", dir.what.Load(), err)
		} else {
			wantIndexOf(t, path, end)
		}
	}
}

// An index that has an object of one of the last transactions, or of few, where
// something else is, or an earlier revision, is not believed.
func TestAnIndexWithAWrongPositionIsRebuilt(t *testing.T) {
	t.Parallel()
	s := temp(t)
	for oid := range raidstorage.OID(100) {
		put(t, s, oid, "first")
	}
	for oid := range raidstorage.OID(60) {
		put(t, s, oid, "second")
	}
	want := mustDump(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	good := read(t, s.Name()+".index")
	entries, end, err := filestorage.ReadIndex(bytes.NewReader(good), int64(len(good)))
	if err != nil {
		t.Fatal(err)
	}
	for oid := range uint64(100) {
		pos := entries[oid]
		for _, wrong := range []int64{entries[(oid+1)%100], pos - 1, 27, end - 1} {
			if wrong == pos {
				continue
			}
			entries[oid] = wrong
			var b bytes.Buffer
			if err := filestorage.WriteIndex(&b, entries, end); err != nil {
				t.Fatal(err)
			}
			entries[oid] = pos
			write(t, s.Name()+".index", b.Bytes())
			if got := dumpFile(t, s.Name()); got != want {
				t.Fatalf("object %d at %d was believed", oid, wrong)
			}
			again, err := filestorage.Open(t.Context(), s.Name(), filestorage.Options{Durability: filestorage.NoSync})
			if err != nil {
				t.Fatal(err)
			}
			if err := again.Close(); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(read(t, s.Name()+".index"), good) {
				t.Fatalf("object %d at %d: the index was not rebuilt", oid, wrong)
			}
		}
	}
}
