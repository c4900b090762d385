package filestorage_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// blobFixture is a fixture of storages with blobs, whose blob directory is made by
// prepare.
func blobFixture(durability filestorage.Durability, prepare func(t testing.TB, dir string)) storagetest.Fixture {
	open := func(t testing.TB, path string, opts filestorage.Options) raidstorage.Storage {
		t.Helper()
		opts.Durability, opts.BlobDir = durability, path+".blobs"
		s, err := filestorage.Open(t.Context(), path, opts)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	again := func(t testing.TB, s raidstorage.Storage, opts filestorage.Options) raidstorage.Storage {
		t.Helper()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		return open(t, s.Name(), opts)
	}
	f := fixture(durability)
	f.Open = func(t testing.TB) raidstorage.Storage {
		t.Helper()
		path := filepath.Join(t.TempDir(), "Data.fs")
		prepare(t, path+".blobs")
		return open(t, path, filestorage.Options{})
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

func TestFileStorageWithBlobsConforms(t *testing.T) {
	t.Parallel()
	t.Run("bushy", func(t *testing.T) {
		t.Parallel()
		storagetest.Run(t, blobFixture(filestorage.NoSync, func(testing.TB, string) {}))
	})
	t.Run("lawn", func(t *testing.T) {
		t.Parallel()
		storagetest.Run(t, blobFixture(filestorage.NoSync, func(t testing.TB, dir string) {
			mkdir(t, dir)
			write(t, filepath.Join(dir, ".layout"), []byte("lawn"))
		}))
	})
}

func mkdir(t testing.TB, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o777); err != nil {
		t.Fatal(err)
	}
}
