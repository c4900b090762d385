package filestorage_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// blobFixture is a fixture of storages with blobs, whose blob directory is made by
// prepare.
func blobFixture(prepare func(t testing.TB, dir string)) storagetest.Fixture {
	again := func(t testing.TB, s raidstorage.Storage, opts filestorage.Options) raidstorage.Storage {
		t.Helper()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		opts.Durability = filestorage.NoSync
		return openBlobs(t, s.Name(), opts)
	}
	f := fixture(filestorage.NoSync)
	f.Open = func(t testing.TB) raidstorage.Storage {
		t.Helper()
		path := filepath.Join(t.TempDir(), "Data.fs")
		prepare(t, path+".blobs")
		return openBlobs(t, path, filestorage.Options{Durability: filestorage.NoSync})
	}
	f.Reopen = func(t testing.TB, s raidstorage.Storage) raidstorage.Storage {
		t.Helper()
		return again(t, s, filestorage.Options{MustExist: true})
	}
	f.ReadOnly = func(t testing.TB, s raidstorage.Storage) raidstorage.Storage {
		t.Helper()
		return again(t, s, filestorage.Options{ReadOnly: true})
	}
	f.Capabilities |= storagetest.BlobLoader
	return f
}

// openBlobs opens a storage with the blob directory path.blobs. The test closes it.
func openBlobs(t testing.TB, path string, opts filestorage.Options) *filestorage.Storage {
	t.Helper()
	opts.BlobDir = path + ".blobs"
	return openFor(t, path, opts)
}

func tempBlobs(t testing.TB, opts filestorage.Options) (s *filestorage.Storage, dir string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "Data.fs")
	return openBlobs(t, path, opts), path + ".blobs"
}

func lawn(t testing.TB, dir string) {
	t.Helper()
	mkdir(t, dir)
	write(t, filepath.Join(dir, ".layout"), []byte("lawn"))
}

func mkdir(t testing.TB, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o777); err != nil {
		t.Fatal(err)
	}
}

// blobRecord is what ZODB stores for a blob.
const blobRecord = "\x80\x03cZODB.blob\nBlob\nq\x00.\x80\x03N."

func putBlob(t testing.TB, s *filestorage.Storage, oid raidstorage.OID, content string) raidstorage.TID {
	t.Helper()
	serial := serialOf(t, s, oid)
	return commit(t, s, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
		return raidstorage.StoreBlob(t.Context(), txn, oid, serial, []byte(blobRecord), strings.NewReader(content))
	})
}

func readAll(r io.ReadCloser, err error) (string, error) {
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(r)
	return string(b), errors.Join(err, r.Close())
}

func wantBlob(t testing.TB, s *filestorage.Storage, oid raidstorage.OID, tid raidstorage.TID, want string) {
	t.Helper()
	got, err := readAll(s.OpenBlob(t.Context(), oid, tid))
	if err != nil || got != want {
		t.Errorf("the blob of %v at %v is %.40q (%v), want %.40q", oid, tid, got, err, want)
	}
}

func wantNoBlob(t testing.TB, s *filestorage.Storage, oid raidstorage.OID, tid raidstorage.TID) {
	t.Helper()
	_, err := readAll(s.OpenBlob(t.Context(), oid, tid))
	wantErr[*raidstorage.NotFoundError](t, err)
}

// filesIn returns the files under dir, relative to it.
func filesIn(t testing.TB, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			name, _ := filepath.Rel(dir, path)
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// bushyPath is where a bushy directory has a blob, by the documentation of ZODB.
func bushyPath(oid byte, tid raidstorage.TID) string {
	digits := strings.TrimLeft(tid.String(), "0")
	if len(digits)%2 == 1 {
		digits = "0" + digits
	}
	return fmt.Sprintf("%s0x%02x/0x%s.blob", strings.Repeat("0x00/", 7), oid, digits)
}

func TestFileStorageWithBlobsConforms(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(testing.TB, string){"bushy": func(testing.TB, string) {}, "lawn": lawn} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storagetest.Run(t, blobFixture(prepare))
		})
	}
}

func blobOf(content string) func(context.Context) (io.ReadCloser, error) {
	return func(context.Context) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(content)), nil }
}

func TestTheLayoutIsChosenAsPythonDoes(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		files map[string]string // there before; one without content is a directory
		want  string
	}{
		"missing":             {nil, "bushy"},
		"empty":               {map[string]string{"": ""}, "bushy"},
		"hidden files":        {map[string]string{".svn": ""}, "bushy"},
		"used, not marked":    {map[string]string{"tmp": ""}, "lawn"},
		"marked bushy, used":  {map[string]string{".layout": "bushy", "tmp": ""}, "bushy"},
		"marked lawn, a line": {map[string]string{".layout": " lawn\n"}, "lawn"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "Data.fs")
			for file, content := range test.files {
				name := filepath.Join(path+".blobs", file)
				if content == "" {
					mkdir(t, name)
				} else {
					mkdir(t, filepath.Dir(name))
					write(t, name, []byte(content))
				}
			}
			s := openBlobs(t, path, filestorage.Options{Durability: filestorage.NoSync})
			commit(t, s, raidstorage.Meta{TID: 0x03f1}, func(txn raidstorage.Txn) error {
				return raidstorage.StoreBlob(t.Context(), txn, 0x12ab, 0, []byte("x"), strings.NewReader("blob"))
			})
			marker, err := os.ReadFile(path + ".blobs/.layout")
			if got := strings.TrimSpace(string(marker)); got != test.want {
				t.Errorf("the marker is %q (%v), want %q", marker, err, test.want)
			}
			want := map[string]string{
				"bushy": "0x00/0x00/0x00/0x00/0x00/0x00/0x12/0xab/0x03f1.blob", "lawn": "0x12ab/0x03f1.blob",
			}[test.want]
			info, err := os.Stat(filepath.Join(path+".blobs", want))
			if err != nil || info.Mode().Perm() != 0o444 {
				t.Errorf("%s: %v, %v; there are %q", want, info, err, filesIn(t, path+".blobs"))
			}
			got, err := s.BlobPath(t.Context(), 0x12ab, 0x03f1)
			if err != nil || got != filepath.Join(path+".blobs", want) {
				t.Errorf("BlobPath: %q, %v", got, err)
			}
			wantBlob(t, s, 0x12ab, 0x03f1, "blob")
		})
	}
}

func TestAnUnknownLayoutIsRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "Data.fs")
	mkdir(t, path+".blobs")
	for _, marker := range []string{"", "meadow"} {
		write(t, path+".blobs/.layout", []byte(marker))
		_, err := filestorage.Open(t.Context(), path, filestorage.Options{BlobDir: path + ".blobs"})
		wantErr[*raidstorage.InvalidError](t, err)
	}
}

func TestWithoutABlobDirThereAreNoBlobs(t *testing.T) {
	t.Parallel()
	s := temp(t)
	_, err := raidstorage.Can[raidstorage.BlobLoader](s)
	wantErr[*raidstorage.UnsupportedError](t, err)
	_, err = s.OpenBlob(t.Context(), 1, 1)
	wantErr[*raidstorage.UnsupportedError](t, err)
	txn := begin(t, s, raidstorage.Meta{})
	err = raidstorage.StoreBlob(t.Context(), txn, 1, 0, []byte("x"), strings.NewReader(""))
	wantErr[*raidstorage.UnsupportedError](t, err)
}

func TestReadOnlyNeedsTheBlobDirAndChangesNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "Data.fs")
	s := openBlobs(t, path, filestorage.Options{Durability: filestorage.NoSync})
	tid := putBlob(t, s, 1, "one")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	leftover := filepath.Join(path+".blobs", "tmp", "raidstorage-1.tmp")
	write(t, leftover, []byte("of a writer"))
	before := filesIn(t, path+".blobs")
	r := openBlobs(t, path, filestorage.Options{ReadOnly: true})
	wantBlob(t, r, 1, tid, "one")
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(filesIn(t, path+".blobs"), before); diff != "" {
		t.Error(diff)
	}
	_, err := filestorage.Open(t.Context(), path, filestorage.Options{ReadOnly: true, BlobDir: path + ".missing"})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing directory: %v", err)
	}
}
