package filestorage_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// badSector is a file of which some bytes cannot be read, or written.
type badSector struct {
	filestorage.File
	from, to int64
	writes   bool // they can be read, and not written
}

var errSector = errors.New("bad sector")

func (f *badSector) ReadAt(b []byte, off int64) (int, error) {
	if !f.writes && off < f.to && off+int64(len(b)) > f.from {
		return 0, errSector
	}
	return f.File.ReadAt(b, off)
}

func (f *badSector) WriteAt(b []byte, off int64) (int, error) {
	if f.writes && off < f.to && off+int64(len(b)) > f.from {
		return 0, errSector
	}
	return f.File.WriteAt(b, off)
}

// No note keeps a file from being opened: not one whose record cannot be read or written,
// nor one that cannot be read itself.
func TestNoNoteKeepsAFileFromBeingOpened(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		f    func(r *rotten) *badSector
		note func(t *testing.T, path string)
		kept string // where the note is then
	}{
		"the record cannot be read": {f: func(r *rotten) *badSector {
			return &badSector{from: int64(r.at + 1000), to: int64(r.at + 1512)}
		}, kept: ".mending"},
		"the record cannot be written": {f: func(r *rotten) *badSector { return &badSector{from: int64(r.at), to: int64(r.at + 512), writes: true} }, kept: ".mending"},
		"the note is a directory": {f: func(r *rotten) *badSector { return &badSector{} }, note: func(t *testing.T, path string) {
			remove(t, path)
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, kept: ".damaged0"},
		"there are too many": {f: func(r *rotten) *badSector { return &badSector{} }, note: func(t *testing.T, path string) {
			for i := range 100 {
				write(t, fmt.Sprintf("%s.damaged%d", strings.TrimSuffix(path, ".mending"), i), nil)
			}
		}, kept: ".mending"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			r := rot(t, func(b []byte) { clear(b[:600]) })
			s := openFor(t, r.path, filestorage.Options{Durability: filestorage.NoSync})
			kept, err := r.mend(s)
			if err != nil {
				t.Fatal(err)
			}
			for i := range 400 { // so that nothing else reads the place
				put(t, s, raidstorage.OID(10+i), storagetest.Pickled(strings.Repeat("later ", 100)))
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(kept, r.path+".mending"); err != nil {
				t.Fatal(err)
			}
			b := read(t, r.path)
			copy(b[r.at:], r.damaged)
			write(t, r.path, b)
			if c.note != nil {
				c.note(t, r.path+".mending")
			}
			s, err = filestorage.OpenWith(t.Context(), r.path, filestorage.Options{}, func(under filestorage.File) filestorage.File {
				f := c.f(r)
				f.File = under
				return f
			})
			if err != nil {
				t.Fatalf("it cannot be opened: %v", err)
			}
			put(t, s, 4, storagetest.Pickled("it goes on"))
			if _, err := os.Lstat(r.path + ".mending"); err == nil && c.note == nil { // one at a time
				other, err := s.LoadBefore(t.Context(), 10, raidstorage.MaxTID)
				if err != nil {
					t.Fatal(err)
				}
				good := append(slices.Clone(other.Data[:len(other.Data)-1]), '#')
				_, err = s.MendRecord(t.Context(), 10, other.Serial, other.Data, good)
				wantErr[*raidstorage.BusyError](t, err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if _, err := os.Lstat(r.path + c.kept); err != nil {
				t.Errorf("the note is gone: %v", err)
			}
		})
	}
}

// What was there is kept, a bounded number of times: then nothing is mended.
func TestMendingEndsWhenTooMuchIsKept(t *testing.T) {
	t.Parallel()
	r := rot(t, rotBit(7))
	for i := range 100 {
		write(t, fmt.Sprintf("%s.damaged%d", r.path, i), nil)
	}
	before := read(t, r.path)
	s := openFor(t, r.path, filestorage.Options{})
	_, err := r.mend(s)
	if wantErr[*raidstorage.InvalidError](t, err); !strings.Contains(err.Error(), "remove them") {
		t.Error(err)
	}
	r.wantFile(before)

	path, dir := filepath.Join(t.TempDir(), "Data.fs"), filepath.Join(t.TempDir(), "blobs")
	b := openFor(t, path, filestorage.Options{BlobDir: dir})
	tid := storagetest.Transact(t, b, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
		return txn.(raidstorage.BlobTxn).StoreBlob(t.Context(), 1, 0, []byte(blobPickle), strings.NewReader("blob"))
	})
	file, err := b.BlobPath(t.Context(), 1, tid)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 101 {
		rewriteBlob(t, file, fmt.Sprint("bxob", i))
		stamp, err := b.BlobStamp(t.Context(), 1, tid)
		if err != nil {
			t.Fatal(err)
		}
		staged, err := b.StageBlob(t.Context(), 1, tid, blobSum(t, "blob"), strings.NewReader("blob"))
		if err != nil {
			t.Fatal(err)
		}
		kept, err := staged.Place(t.Context(), stamp)
		staged.Discard()
		switch {
		case i < 100 && (err != nil || string(read(t, kept)) != fmt.Sprint("bxob", i)):
			t.Fatalf("%d: %v, kept %s", i, err, kept)
		case i == 100:
			wantErr[*raidstorage.InvalidError](t, err)
		}
	}
	if got := read(t, file); string(got) != "bxob100" {
		t.Errorf("it is %q", got)
	}
}

// A pack, from its staging to its end, and a repair keep each other out.
func TestMendRecordRefusesWhileThereIsAPack(t *testing.T) {
	t.Parallel()
	r := rot(t, rotBit(7))
	before := read(t, r.path)
	s := openFor(t, r.path, filestorage.Options{})
	staged, err := s.StagePack(t.Context(), raidstorage.PackOptions{Through: r.tid, Decided: true})
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.mend(s)
	wantErr[*raidstorage.BusyError](t, err)
	if !bytes.Equal(read(t, r.path), before) {
		t.Error("it was mended")
	}
	_ = staged.End(t.Context())
	if _, err := r.mend(s); err != nil {
		t.Error(err)
	}
}

// What a record's data may be, by themselves.
func TestCheckRecord(t *testing.T) {
	t.Parallel()
	s := openFor(t, filepath.Join(t.TempDir(), "Data.fs"), filestorage.Options{})
	sound := storagetest.Pickled("text", 1, 2)
	for what, c := range map[string]struct {
		data       string
		whole, bad bool
	}{
		"two pickles":              {data: sound, whole: true},
		"a blob's":                 {data: blobPickle, whole: true},
		"an unknown persistent id": {data: "\x80\x03N.\x80\x03K\x01Q.", whole: true},
		"something left over":      {data: sound + "x"},
		"one pickle":               {data: "\x80\x03N.", bad: true},
		"cut off":                  {data: sound[:len(sound)-1], bad: true},
		"no pickle":                {data: "text", bad: true},
		"nothing":                  {bad: true},
	} {
		if whole, err := s.CheckRecord([]byte(c.data)); whole != c.whole || (err != nil) != c.bad {
			t.Errorf("%s: %v, %v", what, whole, err)
		}
	}
}
