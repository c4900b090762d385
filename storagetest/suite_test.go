package storagetest_test

import (
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// memory is the fixture of plain memory storages.
func memory() storagetest.Fixture {
	another := func(s raidstorage.Storage) *memstorage.Storage { return s.(*memstorage.Storage).Another("again") }
	return storagetest.Fixture{
		Open: func(testing.TB) raidstorage.Storage { return memstorage.New("memory") },
		Reopen: func(t testing.TB, s raidstorage.Storage) raidstorage.Storage {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return another(s)
		},
		Second:       func(_ testing.TB, s raidstorage.Storage) raidstorage.Storage { return another(s) },
		Capabilities: storagetest.All,
	}
}

func TestMemoryStorageConforms(t *testing.T) {
	t.Parallel()
	storagetest.Run(t, memory())
}
