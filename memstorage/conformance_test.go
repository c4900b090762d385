package memstorage_test

import (
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	storagetest.Run(t, storagetest.Fixture{
		Open: func(testing.TB) raidstorage.Storage { return memstorage.New("mem") },
		Reopen: func(t testing.TB, s raidstorage.Storage) raidstorage.Storage {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return s.(*memstorage.Storage).Another("reopened")
		},
		Second: func(_ testing.TB, s raidstorage.Storage) raidstorage.Storage {
			return s.(*memstorage.Storage).Another("second")
		},
		Capabilities: storagetest.All,
	})
}
