package filestorage_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// hookDir calls a function when a pack begins to write its file.
type hookDir struct {
	filestorage.DirOps
	meanwhile func()
	once      sync.Once
}

func (d *hookDir) Create(path string) (filestorage.File, error) {
	if strings.HasSuffix(path, ".pack") {
		d.once.Do(d.meanwhile)
	}
	return d.DirOps.Create(path)
}

func hooked(s *filestorage.Storage, meanwhile func()) {
	s.SetDir(&hookDir{DirOps: filestorage.OSDir(), meanwhile: meanwhile})
}

func pack(t *testing.T, s *filestorage.Storage, through raidstorage.TID, gc bool) {
	t.Helper()
	if err := s.Pack(t.Context(), raidstorage.PackOptions{Through: through, GC: gc}); err != nil {
		t.Fatal(err)
	}
}

// The undo brings back a reference to what the pack takes for garbage, when that is
// decided already.
func TestGarbageLinkedAgainDuringAPackStays(t *testing.T) {
	t.Parallel()
	s := temp(t)
	put(t, s, 0, storagetest.Pickled("root", 1))
	put(t, s, 1, storagetest.Pickled("child", 2))
	put(t, s, 2, storagetest.Pickled("grandchild"))
	put(t, s, 3, storagetest.Pickled("garbage"))
	cut := put(t, s, 0, storagetest.Pickled("root without a child"))
	hooked(s, func() { undoTxn(t, s, cut) })
	pack(t, s, cut, true)
	for oid, want := range []string{storagetest.Pickled("root", 1), storagetest.Pickled("child", 2), storagetest.Pickled("grandchild")} {
		if got := current(t, s, raidstorage.OID(oid)); got != want {
			t.Errorf("object %d is %q, want %q", oid, got, want)
		}
	}
	_, err := s.LoadBefore(t.Context(), 3, raidstorage.MaxTID)
	wantErr[*raidstorage.NotFoundError](t, err)
}

// What the undo repeats was current at the pack time: the pointer stays one.
func TestPointersCommittedDuringAPackStay(t *testing.T) {
	t.Parallel()
	for _, gc := range []bool{false, true} {
		s := temp(t)
		put(t, s, 0, storagetest.Pickled("root", 1))
		put(t, s, 1, storagetest.Pickled("garbage revision"))
		through := put(t, s, 1, storagetest.Pickled("kept revision"))
		var undo raidstorage.TID
		hooked(s, func() { undo = undoTxn(t, s, put(t, s, 1, storagetest.Pickled("undone"))) })
		pack(t, s, through, gc)
		key := fmt.Sprintf("%v@%v", raidstorage.OID(1), undo)
		if got := repeats(t, s)[key]; got != through.String() {
			t.Errorf("gc %v: the record that undoes repeats %q, want %v", gc, got, through)
		}
	}
}

func TestADroppedRevisionThatALaterRecordRepeatsIsCopied(t *testing.T) {
	t.Parallel()
	s := temp(t)
	put(t, s, 0, storagetest.Pickled("root", 1))
	put(t, s, 1, storagetest.Pickled("original"))
	changed := put(t, s, 1, storagetest.Pickled("changed"))
	undo := undoTxn(t, s, changed)
	again := undoTxn(t, s, undo)
	put(t, s, 1, storagetest.Pickled("last"))
	pack(t, s, changed, false)
	data, err := raidstorage.LoadSerial(t.Context(), s, 1, undo)
	if err != nil || string(data) != storagetest.Pickled("original") {
		t.Errorf("the record that undoes has %q, %v", data, err)
	}
	// The records after the longer one have moved by another distance.
	data, err = raidstorage.LoadSerial(t.Context(), s, 1, again)
	if err != nil || string(data) != storagetest.Pickled("changed") {
		t.Errorf("the record that undoes the undo has %q, %v", data, err)
	}
}

func TestPackEndsWithItsContextAndWithTheStorage(t *testing.T) {
	t.Parallel()
	s := temp(t)
	through := packable(t, s)
	before := mustDump(t, s)
	opts := raidstorage.PackOptions{Through: through, GC: true}
	ctx, cancel := context.WithCancel(t.Context())
	hooked(s, cancel)
	if err := s.Pack(ctx, opts); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled pack returns %v", err)
	}
	if got := mustDump(t, s); got != before {
		t.Error("a cancelled pack changed the database")
	}
	closed := make(chan error, 1)
	hooked(s, func() {
		go func() { closed <- s.Close() }()
		for { // until Close refuses calls
			if _, err := s.LastTID(context.Background()); err != nil {
				return
			}
		}
	})
	if err := s.Pack(t.Context(), opts); !errors.Is(err, raidstorage.ErrClosed) {
		t.Fatalf("a pack returns %v when the storage is closed", err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if got := dumpFile(t, s.Name()); got != before {
		t.Error("a pack that was ended changed the database")
	}
}

func TestASecondPackWaits(t *testing.T) {
	t.Parallel()
	s := temp(t)
	through := packable(t, s)
	opts := raidstorage.PackOptions{Through: through, GC: true}
	second := make(chan error, 1)
	hooked(s, func() {
		ctx, cancel := context.WithCancel(t.Context())
		cancelled := make(chan error, 1)
		go func() { cancelled <- s.Pack(ctx, opts) }()
		cancel()
		if err := <-cancelled; !errors.Is(err, context.Canceled) {
			t.Errorf("a pack that waits returns %v when it is cancelled", err)
		}
		go func() { second <- s.Pack(t.Context(), opts) }()
	})
	pack(t, s, through, true)
	if err := <-second; err != nil {
		t.Error(err)
	}
}

func TestATruncationDuringAPackEndsIt(t *testing.T) {
	t.Parallel()
	s := temp(t)
	through := packable(t, s)
	last, err := s.LastTID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	hooked(s, func() {
		if err := s.TruncateAfter(t.Context(), through, last); err != nil {
			t.Error(err)
		}
	})
	err = s.Pack(t.Context(), raidstorage.PackOptions{Through: through, GC: true})
	wantErr[*raidstorage.TIDOrderError](t, err)
	want := mustDump(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := dumpFile(t, s.Name()); got != want {
		t.Errorf("after reopening there is\n%s\nwant\n%s", got, want)
	}
}

func TestGarbageCollectionNeedsARoot(t *testing.T) {
	t.Parallel()
	s := temp(t)
	tid := put(t, s, 1, storagetest.Pickled("no root"))
	want := mustDump(t, s)
	err := s.Pack(t.Context(), raidstorage.PackOptions{Through: tid, GC: true})
	wantErr[*raidstorage.InvalidError](t, err)
	if got := mustDump(t, s); got != want {
		t.Errorf("the pack changed the database:\n%s", got)
	}
}

func TestAReadOnlyStorageIsNotPacked(t *testing.T) {
	t.Parallel()
	s := temp(t)
	through := packable(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	r := openFor(t, s.Name(), filestorage.Options{ReadOnly: true})
	wantErr[*raidstorage.ReadOnlyError](t, r.Pack(t.Context(), raidstorage.PackOptions{Through: through}))
}

func TestTheOldFileIsKeptUnlessItIsNotWanted(t *testing.T) {
	t.Parallel()
	for _, drop := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "Data.fs")
		s := openFor(t, path, filestorage.Options{PackDropOld: drop})
		through := packable(t, s)
		before := read(t, path)
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		pack(t, s, through, true)
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("drop %v: the packed file has another mode: %v, %v", drop, info, err)
		}
		old, err := os.ReadFile(path + ".old")
		if drop != os.IsNotExist(err) || !drop && string(old) != string(before) {
			t.Errorf("drop %v: Data.fs.old has %d bytes of %d, %v", drop, len(old), len(before), err)
		}
		if got := read(t, path); len(got) >= len(before) {
			t.Errorf("drop %v: %d bytes became %d", drop, len(before), len(got))
		}
	}
}

func TestOpenRemovesWhatACrashedPackLeft(t *testing.T) {
	t.Parallel()
	path := place(t, "packed.fs", "packed.fs.index")
	write(t, path+".pack", []byte("half a file"))
	write(t, path+".pack.index", []byte("half an index"))
	if err := os.Link(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	openFor(t, path, filestorage.Options{ReadOnly: true})
	if _, err := os.Stat(path + ".pack"); err != nil {
		t.Errorf("a read-only storage removed something: %v", err)
	}
	openFor(t, path, filestorage.Options{})
	for _, suffix := range []string{".pack", ".pack.index", ".old"} {
		if _, err := os.Stat(path + suffix); !os.IsNotExist(err) {
			t.Errorf("%s is still there (%v)", suffix, err)
		}
	}
	write(t, path+".old", []byte("a file of its own"))
	openFor(t, place(t, "packed.fs", ""), filestorage.Options{})
	if _, err := os.Stat(path + ".old"); err != nil {
		t.Errorf("Data.fs.old of a pack is gone: %v", err)
	}
}

// The index that a pack saves is used by the next open, without a Close.
func TestPackSavesTheIndex(t *testing.T) {
	t.Parallel()
	s := temp(t)
	through := packable(t, s)
	pack(t, s, through, true)
	copied := filepath.Join(t.TempDir(), "Data.fs")
	write(t, copied, read(t, s.Name()))
	write(t, copied+".index", read(t, s.Name()+".index"))
	if got, want := dumpFile(t, copied), mustDump(t, s); got != want {
		t.Errorf("with the saved index there is\n%s\nwant\n%s", got, want)
	}
}

// Readers, an iteration and committers go on while the storage is packed.
func TestPackUnderLoad(t *testing.T) {
	t.Parallel()
	s := temp(t)
	put(t, s, 0, storagetest.Pickled("root", 1, 2, 3))
	for oid := range raidstorage.OID(3) {
		put(t, s, oid+1, storagetest.Pickled("0"))
	}
	const commits = 100
	var writers, others sync.WaitGroup
	done := make(chan struct{})
	for oid := range raidstorage.OID(3) {
		serial := serialOf(t, s, oid+1)
		writers.Go(func() {
			for i := range commits {
				var err error
				serial, err = commitErr(t, s, func(txn raidstorage.Txn) error {
					return txn.Store(t.Context(), oid+1, serial, []byte(storagetest.Pickled(fmt.Sprint(i))))
				})
				if err != nil {
					t.Errorf("commit %d of %v: %v", i, oid+1, err)
					return
				}
			}
		})
	}
	others.Go(func() { loadUnderPack(t, s, done) })
	others.Go(func() { iterateUnderPack(t, s, done) })
	go func() { writers.Wait(); close(done) }()
	for running, n := true, 0; running; n++ {
		select {
		case <-done:
			running = false
		default:
		}
		last, err := s.LastTID(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		pack(t, s, last, n%2 == 0)
	}
	others.Wait()
	for oid := range raidstorage.OID(3) {
		if got := current(t, s, oid+1); got != storagetest.Pickled(fmt.Sprint(commits-1)) {
			t.Errorf("object %v is %q", oid+1, got)
		}
	}
	live := mustDump(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := dumpFile(t, s.Name()); got != live {
		t.Errorf("after reopening there is\n%s\nwant\n%s", got, live)
	}
}

func loadUnderPack(t *testing.T, s *filestorage.Storage, done chan struct{}) {
	for {
		select {
		case <-done:
			return
		default:
		}
		for oid := range raidstorage.OID(4) {
			if _, err := s.LoadBefore(t.Context(), oid, raidstorage.MaxTID); err != nil {
				t.Errorf("load of %v: %v", oid, err)
				return
			}
		}
	}
}

func iterateUnderPack(t *testing.T, s *filestorage.Storage, done chan struct{}) {
	for {
		select {
		case <-done:
			return
		default:
		}
		for txn, err := range s.Iterate(t.Context(), 0, raidstorage.MaxTID) {
			if err != nil {
				t.Errorf("iterate: %v", err)
				return
			}
			for _, err := range txn.Records {
				if err != nil {
					t.Errorf("iterate %v: %v", txn.TID, err)
					return
				}
			}
		}
	}
}
