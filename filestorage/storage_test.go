package filestorage_test

import (
	"path/filepath"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/storagetest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func fixture(durability filestorage.Durability) storagetest.Fixture {
	open := func(t testing.TB, path string, opts filestorage.Options) raidstorage.Storage {
		t.Helper()
		opts.Durability = durability
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
	return storagetest.Fixture{
		Open: func(t testing.TB) raidstorage.Storage {
			return open(t, filepath.Join(t.TempDir(), "Data.fs"), filestorage.Options{})
		},
		Reopen: func(t testing.TB, s raidstorage.Storage) raidstorage.Storage {
			return again(t, s, filestorage.Options{MustExist: true})
		},
		ReadOnly: func(t testing.TB, s raidstorage.Storage) raidstorage.Storage {
			return again(t, s, filestorage.Options{ReadOnly: true})
		},
		Capabilities: storagetest.Packer | storagetest.GarbageFinder | storagetest.StagedPacker | storagetest.PackEstimator | storagetest.KeptFinder | storagetest.Undoer | storagetest.Historian | storagetest.Truncater | storagetest.Sizer |
			storagetest.RecordIterator,
	}
}

func TestFileStorageConforms(t *testing.T) {
	t.Parallel()
	storagetest.Run(t, fixture(filestorage.NoSync))
}

func TestFileStorageThatSyncsEarlyConforms(t *testing.T) {
	t.Parallel()
	f := fixture(filestorage.Sync)
	f.Open = func(t testing.TB) raidstorage.Storage {
		return openFor(t, filepath.Join(t.TempDir(), "Data.fs"), filestorage.Options{SyncEarly: true})
	}
	storagetest.Run(t, f)
}
