package filestorage_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// rotten is a database of which one record has changed on the disk.
type rotten struct {
	t             *testing.T
	path          string
	sound         []byte // the file as it was
	oid           raidstorage.OID
	tid           raidstorage.TID
	at            int // of the record's data in the file
	damaged, good []byte
}

// rot makes a database and changes bytes of the data of a record in the middle.
func rot(t *testing.T, change func(data []byte)) *rotten {
	t.Helper()
	r := &rotten{t: t, path: filepath.Join(t.TempDir(), "Data.fs"), oid: 2}
	s := openFor(t, r.path, filestorage.Options{Durability: filestorage.NoSync})
	put(t, s, 1, storagetest.Pickled("before"))
	r.good = []byte(storagetest.Pickled(strings.Repeat("the right data ", 200)))
	r.tid = put(t, s, 2, string(r.good))
	put(t, s, 1, storagetest.Pickled("later"))
	put(t, s, 3, storagetest.Pickled("after"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	r.sound = read(t, r.path)
	r.at = bytes.Index(r.sound, r.good)
	r.damaged = bytes.Clone(r.good)
	change(r.damaged)
	b := bytes.Clone(r.sound)
	copy(b[r.at:], r.damaged)
	write(t, r.path, b)
	return r
}

func rotBit(at int) func([]byte) { return func(b []byte) { b[(at+len(b))%len(b)] ^= 4 } }

func (r *rotten) mend(s *filestorage.Storage) (string, error) {
	return s.MendRecord(r.t.Context(), r.oid, r.tid, r.damaged, r.good)
}

// wantFile checks all bytes of Data.fs, and that no note is left.
func (r *rotten) wantFile(want []byte) {
	r.t.Helper()
	if !bytes.Equal(read(r.t, r.path), want) {
		r.t.Error("the file is not what it must be")
	}
	if _, err := os.Stat(r.path + ".mending"); !errors.Is(err, os.ErrNotExist) {
		r.t.Errorf("the note: %v", err)
	}
}

func (r *rotten) with(data []byte) []byte {
	b := bytes.Clone(r.sound)
	copy(b[r.at:], data)
	return b
}

func TestMendRecordPutsTheBytesBackAndNoOthers(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func([]byte){
		"a bit in the middle": rotBit(1500), "the first byte": rotBit(0), "the last byte": rotBit(-1),
		"all": func(b []byte) { clear(b) }, "both ends": func(b []byte) { b[0], b[len(b)-1] = 0, 0 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := rot(t, change)
			s := openFor(t, r.path, filestorage.Options{})
			if rev, err := s.LoadBefore(t.Context(), 2, r.tid+1); err != nil || !bytes.Equal(rev.Data, r.damaged) {
				t.Fatalf("before: %v", err)
			}
			kept, err := r.mend(s)
			if err != nil {
				t.Fatal(err)
			}
			if rev, err := s.LoadBefore(t.Context(), 2, r.tid+1); err != nil || !bytes.Equal(rev.Data, r.good) {
				t.Errorf("afterwards: %v", err)
			}
			note := read(t, kept)
			for _, want := range [][]byte{r.damaged, r.good, []byte("oid 0000000000000002\ntid " + r.tid.String()), fmt.Appendf(nil, "%x", sha256.Sum256(r.damaged))} {
				if !bytes.Contains(note, want) {
					t.Errorf("%s lacks %.60q", kept, want)
				}
			}
			put(t, s, 4, storagetest.Pickled("it goes on"))
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if got := read(t, r.path); !bytes.Equal(got[:len(r.sound)], r.sound) {
				t.Error("other bytes have changed")
			}
			if all, _ := check(t, r.path, filestorage.InspectOptions{}); len(all) > 0 {
				t.Errorf("%v", all)
			}
		})
	}
}

// Whatever is not exactly the damage that the caller saw stays as it is.
func TestMendRecordRefusesWhatIsNotAsItWas(t *testing.T) {
	t.Parallel()
	r := rot(t, rotBit(7))
	s := openFor(t, r.path, filestorage.Options{})
	undone := put(t, s, 3, storagetest.Pickled("to be undone"))
	repeats := undoTxn(t, s, undone)
	before := read(t, r.path)
	other := bytes.Clone(r.damaged)
	other[9] ^= 1
	invalid := func(err error) bool { _, ok := errors.AsType[*raidstorage.InvalidError](err); return ok }
	missing := func(err error) bool { _, ok := errors.AsType[*raidstorage.NotFoundError](err); return ok }
	after := []byte(storagetest.Pickled("after"))
	for name, c := range map[string]struct {
		oid           raidstorage.OID
		tid           raidstorage.TID
		damaged, good []byte
		want          func(error) bool
	}{
		"it is something else":      {2, r.tid, other, r.good, invalid},
		"another length":            {2, r.tid, r.damaged, r.good[1:], invalid},
		"the record's is another":   {2, r.tid, r.damaged[1:], r.good[1:], invalid},
		"no difference":             {2, r.tid, r.damaged, r.damaged, invalid},
		"nothing":                   {2, r.tid, nil, nil, invalid},
		"no such object there":      {1, r.tid, r.damaged, r.good, missing},
		"no such transaction":       {2, r.tid + 1, r.damaged, r.good, missing},
		"after the last":            {2, raidstorage.MaxTID, r.damaged, r.good, missing},
		"it repeats an earlier one": {3, repeats, after, bytes.ToUpper(after), invalid},
	} {
		if _, err := s.MendRecord(t.Context(), c.oid, c.tid, c.damaged, c.good); !c.want(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.MendRecord(ctx, 2, r.tid, r.damaged, r.good); !errors.Is(err, context.Canceled) {
		t.Errorf("an ended context: %v", err)
	}
	reader := openFor(t, r.path, filestorage.Options{ReadOnly: true})
	_, err := r.mend(reader)
	wantErr[*raidstorage.ReadOnlyError](t, err)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.mend(s); !errors.Is(err, raidstorage.ErrClosed) {
		t.Errorf("a closed storage: %v", err)
	}
	r.wantFile(before)
}

// mendStates are the states in which a crash can leave the file and the note: any sector
// of either as it was or as it is to be.
func TestOpenEndsWhatACrashInterrupted(t *testing.T) {
	t.Parallel()
	r := rot(t, func(b []byte) { clear(b) })
	s := openFor(t, r.path, filestorage.Options{})
	kept, err := r.mend(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	note := read(t, kept)
	mixed := func(seed int) []byte {
		b := bytes.Clone(r.damaged)
		for i := range b {
			if (r.at+i)/512%3 == seed {
				b[i] = r.good[i]
			}
		}
		return b
	}
	alien := bytes.Clone(r.damaged)
	alien[100] = 0xee
	moved := bytes.Replace(note, []byte("offset "), []byte("offset 1"), 1)
	moved = moved[:len(moved)-sha256.Size]
	sum := sha256.Sum256(moved)
	moved = append(moved, sum[:]...)
	for name, c := range map[string]struct{ note, now, want []byte }{
		"nothing written":        {note, r.damaged, r.good},
		"some sectors":           {note, mixed(0), r.good},
		"some others":            {note, mixed(1), r.good},
		"all written":            {note, r.good, r.good},
		"half a note":            {note[:len(note)/2], r.damaged, r.damaged},
		"an empty note":          {nil, r.damaged, r.damaged},
		"a note with holes":      {append(make([]byte, 600), note[600:]...), r.damaged, r.damaged},
		"others have changed it": {note, alien, alien},
		"a note of another file": {moved, r.damaged, r.damaged},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "Data.fs")
			at := *r
			at.t, at.path = t, path
			write(t, path, r.with(c.now))
			write(t, path+".mending", c.note)
			reader := openFor(t, path, filestorage.Options{ReadOnly: true})
			if got := read(t, path); !bytes.Equal(got, r.with(c.now)) {
				t.Error("a reader changed it")
			}
			if err := reader.Close(); err != nil {
				t.Error(err)
			}
			s := openFor(t, path, filestorage.Options{})
			if rev, err := s.LoadBefore(t.Context(), 2, r.tid+1); err != nil || !bytes.Equal(rev.Data, c.want) {
				t.Errorf("it is opened, and the record is not what it must be (%v)", err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			at.wantFile(r.with(c.want))
			if got := read(t, path+".damaged0"); !bytes.Equal(got, c.note) {
				t.Error("the note is not kept")
			}
		})
	}
}

// A disk that fails in between: the storage is read-only, and the next open makes it
// whole.
func TestMendRecordOnAFailingDisk(t *testing.T) {
	t.Parallel()
	for n := 0; ; n++ {
		r := rot(t, func(b []byte) { clear(b[10:2000]) })
		f := &filestorage.FailingFile{At: 1 << 40, Err: errors.New("broken disk"), Short: true}
		s, err := filestorage.OpenWith(t.Context(), r.path, filestorage.Options{}, func(under filestorage.File) filestorage.File {
			f.File = under
			return f
		})
		if err != nil {
			t.Fatal(err)
		}
		f.FailNext()
		f.At += int64(n)
		_, err = r.mend(s)
		if !f.Fired() {
			if err != nil {
				t.Fatal(err)
			}
			f.At = 1 << 40
			if err := s.Close(); err != nil || n < 2 {
				t.Fatalf("after %d faults: %v", n, err)
			}
			return
		}
		if err == nil {
			t.Fatalf("fault %d is not told", n)
		}
		_, err = s.NewOIDs(t.Context(), 1)
		wantErr[*raidstorage.ReadOnlyError](t, err)
		_ = s.Close()
		s = openFor(t, r.path, filestorage.Options{})
		if rev, err := s.LoadBefore(t.Context(), 2, r.tid+1); err != nil || !bytes.Equal(rev.Data, r.good) {
			t.Errorf("fault %d: %v", n, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		r.wantFile(r.sound)
	}
}

func blobSum(t *testing.T, content string) raidstorage.BlobSum {
	t.Helper()
	sum, err := raidstorage.SumBlob(t.Context(), strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

func TestMendBlob(t *testing.T) {
	t.Parallel()
	const record = "\x80\x03cZODB.blob\nBlob\nq\x00.\x80\x03N."
	changed := func(t *testing.T, path string) { rewriteBlob(t, path, "bxob") }
	for name, c := range map[string]struct {
		hurt      func(t *testing.T, path string)
		meanwhile func(t *testing.T, path, dir string) // after the file was looked at; then it must stay
	}{
		"changed": {hurt: changed},
		"shorter": {hurt: func(t *testing.T, path string) { rewriteBlob(t, path, "b") }},
		"missing": {hurt: func(t *testing.T, path string) { remove(t, path) }},
		"with its directory": {hurt: func(t *testing.T, path string) {
			remove(t, path)
			remove(t, filepath.Dir(path))
		}},
		"changed again": {hurt: changed, meanwhile: func(t *testing.T, path, _ string) { rewriteBlob(t, path, "other") }},
		"missing, but there": {hurt: func(t *testing.T, path string) { remove(t, path) }, meanwhile: func(t *testing.T, path, _ string) {
			write(t, path, []byte("other"))
		}},
		"there, but missing": {hurt: changed, meanwhile: func(t *testing.T, path, _ string) { remove(t, path) }},
		"the copy has changed": {hurt: changed, meanwhile: func(t *testing.T, _, dir string) {
			temps, err := filepath.Glob(filepath.Join(dir, "tmp", "*"))
			if err != nil || len(temps) != 1 {
				t.Fatal(temps, err)
			}
			rewriteBlob(t, temps[0], "blob of another kind")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, dir := filepath.Join(t.TempDir(), "Data.fs"), filepath.Join(t.TempDir(), "blobs")
			s := openFor(t, path, filestorage.Options{BlobDir: dir})
			tid := storagetest.Transact(t, s, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
				return txn.(raidstorage.BlobTxn).StoreBlob(t.Context(), 1, 0, []byte(record), strings.NewReader("blob"))
			})
			file, err := s.BlobPath(t.Context(), 1, tid)
			if err != nil {
				t.Fatal(err)
			}
			c.hurt(t, file)
			before, _ := os.ReadFile(file)
			stamp, err := s.BlobStamp(t.Context(), 1, tid)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.StageBlob(t.Context(), 1, tid, blobSum(t, "blob"), strings.NewReader("wrong")); err == nil {
				t.Error("a wrong source is taken")
			}
			if other, err := s.StageBlob(t.Context(), 1, tid+1, blobSum(t, "blob"), strings.NewReader("blob")); err != nil {
				t.Error(err)
			} else if _, err := other.Place(t.Context(), ""); err == nil {
				t.Error("a blob without its record is taken")
			} else {
				other.Discard()
			}
			staged, err := s.StageBlob(t.Context(), 1, tid, blobSum(t, "blob"), strings.NewReader("blob"))
			if err != nil {
				t.Fatal(err)
			}
			if now, _ := os.ReadFile(file); !bytes.Equal(now, before) {
				t.Error("a refused one has changed it")
			}
			if c.meanwhile != nil {
				c.meanwhile(t, file, dir)
				before, _ = os.ReadFile(file)
			}
			kept, err := staged.Place(t.Context(), stamp)
			staged.Discard()
			if (c.meanwhile == nil) != (err == nil) {
				t.Fatalf("it ended with %v", err)
			}
			want := []byte("blob")
			if c.meanwhile != nil {
				want = before
			} else if stamp != "" && (string(read(t, kept)) != string(before) || filepath.Dir(kept) != filepath.Join(dir, "damaged")) {
				t.Errorf("what was there is not kept, but %s", kept)
			}
			if now, _ := os.ReadFile(file); !bytes.Equal(now, want) {
				t.Errorf("it is %q now", now)
			}
			temps, err := os.ReadDir(filepath.Join(dir, "tmp"))
			if err != nil || len(temps) > 0 {
				t.Errorf("temporary files: %v %v", temps, err)
			}
		})
	}
}

// A blob directory that is not mounted lacks every blob: nothing may be put there.
func TestMendBlobNeedsItsDirectory(t *testing.T) {
	t.Parallel()
	path, dir := filepath.Join(t.TempDir(), "Data.fs"), filepath.Join(t.TempDir(), "blobs")
	s := openFor(t, path, filestorage.Options{BlobDir: dir})
	tid := storagetest.Transact(t, s, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
		return txn.(raidstorage.BlobTxn).StoreBlob(t.Context(), 1, 0, []byte("record"), strings.NewReader("blob"))
	})
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "tmp"), 0o777); err != nil { // the empty mount point
		t.Fatal(err)
	}
	if stamp, err := s.BlobStamp(t.Context(), 1, tid); err == nil {
		t.Errorf("the stamp is %q", stamp)
	}
	staged, err := s.StageBlob(t.Context(), 1, tid, blobSum(t, "blob"), strings.NewReader("blob"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := staged.Place(t.Context(), ""); err == nil {
		t.Error("a blob was put into a directory that is not the right one")
	}
}

func rewriteBlob(t *testing.T, path, content string) {
	t.Helper()
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	write(t, path, []byte(content))
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// Whoever closes the storage, to open it again say, waits for a repair under way; until
// then nobody else gets the file.
func TestCloseWaitsForMending(t *testing.T) {
	t.Parallel()
	r := rot(t, rotBit(100))
	f := &slowSync{entered: make(chan struct{}), leave: make(chan struct{})}
	s, err := filestorage.OpenWith(t.Context(), r.path, filestorage.Options{}, func(under filestorage.File) filestorage.File {
		f.File = under
		return f
	})
	if err != nil {
		t.Fatal(err)
	}
	f.armed.Store(true)
	mended, closed := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := r.mend(s)
		mended <- err
	}()
	<-f.entered
	go func() { closed <- s.Close() }()
	_, err = filestorage.Open(t.Context(), r.path, filestorage.Options{})
	wantErr[*filestorage.LockedError](t, err)
	select {
	case err := <-closed:
		t.Fatalf("Close did not wait (%v)", err)
	default:
	}
	f.armed.Store(false)
	close(f.leave)
	if err := errors.Join(<-mended, <-closed); err != nil {
		t.Fatal(err)
	}
	r.wantFile(r.sound)
}

// slowSync is a file whose Sync waits once it is armed.
type slowSync struct {
	filestorage.File
	armed          atomic.Bool
	entered, leave chan struct{}
}

func (f *slowSync) Sync() error {
	if f.armed.Load() {
		close(f.entered)
		<-f.leave
	}
	return f.File.Sync()
}
