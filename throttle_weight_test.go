package raidstorage_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// Sizes, metadata, blobs and undo weigh the same on both sides: what was copied pays
// for half as much of the like, to the byte.
func TestV5BothSidesAreMeasuredAlike(t *testing.T) {
	t.Parallel()
	for what, like := range map[string]func(t *testing.T, m raidstorage.Storage){
		"small records": func(t *testing.T, m raidstorage.Storage) {
			storagetest.Transact(t, m, raidstorage.Meta{}, func(txn raidstorage.Txn) error { return txn.Store(t.Context(), 1, serialOf(m, 1), []byte("x")) })
		},
		"metadata": func(t *testing.T, m raidstorage.Storage) {
			storagetest.Transact(t, m, raidstorage.Meta{User: []byte(sized(9000)), Description: []byte(sized(8000)), Extension: []byte("}q\x00.")}, func(txn raidstorage.Txn) error {
				return txn.Store(t.Context(), 1, serialOf(m, 1), []byte("x"))
			})
		},
		"a blob": func(t *testing.T, m raidstorage.Storage) {
			storagetest.Transact(t, m, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
				return raidstorage.StoreBlob(t.Context(), txn, 2, serialOf(m, 2), []byte("x"), strings.NewReader(sized(100000)))
			})
		},
		"undo":                 undoLast,
		"undo of many objects": undoLast,
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			scenarioIn(t, 2, func(t *testing.T, w *world) {
				w.cfg.CatchUp.MaxDelay = time.Second
				m := w.start()
				// Something to undo, which pays for less than one more.
				objects, want := 1, 5
				if what == "undo of many objects" {
					objects, want = 10, 6 // how many is known by the vote only
				}
				storagetest.Transact(t, m, raidstorage.Meta{}, func(txn raidstorage.Txn) (err error) {
					for i := range objects {
						err = errors.Join(err, txn.Store(t.Context(), raidstorage.OID(i+1), 0, []byte("x")))
					}
					return err
				})
				for range 50 {
					like(t, m)
				}
				w.onOpen = func(name string, f *storagetest.FaultyStorage) {
					f.Inject(storagetest.Fault{Call: storagetest.CallFinish, Kind: storagetest.Hang, After: 1 + 10})
				}
				w.replace(m, "b2")
				done := make(chan error, 1)
				go func() { done <- m.Recover(context.Background(), "b2") }()
				synctest.Wait()
				paid := -1
				for ; m.Status().CatchUp.Delayed == 0; paid++ {
					like(t, m)
				}
				if paid != want {
					t.Errorf("ten copied ones pay for %d, want %d", paid, want)
				}
				<-done
			})
		})
	}
}

func undoLast(t *testing.T, m raidstorage.Storage) {
	last, _ := m.LastTID(t.Context())
	storagetest.Transact(t, m, raidstorage.Meta{}, func(txn raidstorage.Txn) error { return raidstorage.Undo(t.Context(), txn, last) })
}

func serialOf(m raidstorage.Storage, oid raidstorage.OID) raidstorage.TID {
	rev, err := m.LoadBefore(context.Background(), oid, raidstorage.MaxTID)
	if err != nil {
		return 0
	}
	return rev.Serial
}
