package raidstorage_test

// What a second look at the repairs of a review showed.

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// R2: a nested mirror that has no backend left is passed over by every kind of read.
func TestEveryReadPassesOverANestedMirrorWithoutBackends(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for what, ask := range map[string]func(m *raidstorage.Mirror) error{
		"iterate": func(m *raidstorage.Mirror) error { _, err := storagetest.Log(ctx, m); return err },
		"current": func(m *raidstorage.Mirror) error {
			for _, err := range m.CurrentRecords(ctx, 0) {
				if err != nil {
					return err
				}
			}
			return nil
		},
		"history": func(m *raidstorage.Mirror) error { _, err := m.History(ctx, 1, 3); return err },
		"undolog": func(m *raidstorage.Mirror) error { _, err := m.UndoLog(ctx, 0, 3, nil); return err },
		"size":    func(m *raidstorage.Mirror) error { _, _, err := m.Size(ctx); return err },
		"blob": func(m *raidstorage.Mirror) error {
			rev, _ := m.LoadBefore(ctx, 5, raidstorage.MaxTID)
			b, err := m.OpenBlob(ctx, 5, rev.Serial)
			if err == nil {
				b.Close()
			}
			return err
		},
		"newoids": func(m *raidstorage.Mirror) error { _, err := m.NewOIDs(ctx, 3); return err },
		"stage undo": func(m *raidstorage.Mirror) error {
			txn, err := m.Begin(ctx, raidstorage.Meta{})
			if err != nil {
				return err
			}
			defer txn.Abort(ctx)
			last, _ := m.LastTID(ctx)
			return raidstorage.Undo(ctx, txn, last)
		},
	} {
		t.Run(what, func(t *testing.T) {
			scenario(t, 2, func(t *testing.T, w *world) {
				w.cfg.ReadPolicy = raidstorage.PrimaryFirst
				inner, nested := w.nest()
				m := w.start()
				w.mustCommit(m, 1, "one")
				storagetest.Transact(t, m, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
					return raidstorage.StoreBlob(ctx, txn, 5, 0, []byte("r"), strings.NewReader("b"))
				})
				inner.setDown(true, "b1", "b2")
				inner.backend("b1").CutOff()
				inner.backend("b2").CutOff()
				commit(nested(), 9, "x")
				if err := ask(m); err != nil {
					t.Errorf("%s: %T %v", what, err, err)
				}
			})
		})
	}
}

// R1: while a transaction is being finished, the current records are those before it,
// with blobs and all.
func TestCurrentRecordsStayWholeWhileATransactionFinishes(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"replaced", "deleted"} {
		t.Run(what, func(t *testing.T) {
			scenario(t, 2, func(t *testing.T, w *world) {
				w.cfg.ReadPolicy = raidstorage.PrimaryFirst
				m := w.start()
				storagetest.Transact(t, m, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
					return raidstorage.StoreBlob(t.Context(), txn, 1, 0, []byte("record"), strings.NewReader("old blob"))
				})
				w.mustCommit(m, 2, "one")
				undone := w.mustCommit(m, 2, "two")
				storagetest.Transact(t, m, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
					return raidstorage.Undo(t.Context(), txn, undone)
				})
				before := currentRecords(t, m)
				b2 := w.backend("b2")
				n := count(b2, storagetest.CallFinish)
				b2.Inject(storagetest.Fault{Call: storagetest.CallFinish, Kind: storagetest.Hang, Times: 1})
				done := make(chan struct{})
				go func() {
					defer close(done)
					storagetest.Transact(t, m, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
						for _, oid := range []raidstorage.OID{1, 2} {
							var err error
							if what == "deleted" {
								err = txn.Delete(t.Context(), oid, w.serial(m, oid))
							} else {
								err = txn.Store(t.Context(), oid, w.serial(m, oid), []byte("new"))
							}
							if err != nil {
								return err
							}
						}
						return nil
					})
				}()
				b2.WaitFor(t.Context(), storagetest.CallFinish, n+1)
				synctest.Wait()
				if diff := cmp.Diff(before, currentRecords(t, m)); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				b2.Release()
				<-done
			})
		})
	}
}

// What is deleted while the current records are read is read, as all that was there when
// that began: also if it goes when the backend has been asked, or after the first record.
func TestCurrentRecordsStayWholeWhileObjectsAreDeleted(t *testing.T) {
	t.Parallel()
	for _, gone := range [][]raidstorage.OID{{1}, {3}, {5}, {2, 3}, {4, 5}, {1, 2, 3, 4, 5}} {
		for _, first := range []bool{true, false} {
			t.Run(fmt.Sprint(gone, first), func(t *testing.T) {
				scenario(t, 2, func(t *testing.T, w *world) {
					w.cfg.ReadPolicy = raidstorage.PrimaryFirst
					m := w.start()
					for _, oid := range []raidstorage.OID{1, 2, 3, 4, 5} {
						w.mustCommit(m, oid, fmt.Sprint("object ", oid))
					}
					remove := sync.OnceFunc(func() {
						storagetest.Transact(t, m, raidstorage.Meta{}, func(txn raidstorage.Txn) (err error) {
							for _, oid := range gone {
								err = errors.Join(err, txn.Delete(t.Context(), oid, w.serial(m, oid)))
							}
							return errors.Join(err, txn.Store(t.Context(), 9, 0, []byte("new")))
						})
					})
					if first {
						w.observe("b1", storagetest.CallCurrentRecords, remove)
					}
					var got []string
					for r, err := range m.CurrentRecords(t.Context(), 0) {
						got = append(got, fmt.Sprintf("%v %s %v", r.OID, r.Data, err))
						remove()
					}
					var want []string
					for oid := raidstorage.OID(1); oid <= 5; oid++ {
						want = append(want, fmt.Sprintf("%v object %v <nil>", oid, oid))
					}
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("(-want +got):\n%s", diff)
					}
					if n := len(currentRecords(t, m)); n != 6-len(gone) {
						t.Errorf("later there are %d", n)
					}
				})
			})
		}
	}
}

// Another backend that goes on with the current records goes on with the same snapshot.
func TestCurrentRecordsOfOneSnapshotFromTwoBackends(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.cfg.ReadPolicy = raidstorage.PrimaryFirst
		m := w.start()
		for _, oid := range []raidstorage.OID{1, 2, 3, 4} {
			w.mustCommit(m, oid, fmt.Sprint("object ", oid))
		}
		before := currentRecords(t, m)
		fail := sync.OnceFunc(func() {
			storagetest.Transact(t, m, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
				return errors.Join(txn.Delete(t.Context(), 3, w.serial(m, 3)), txn.Store(t.Context(), 4, w.serial(m, 4), []byte("new")))
			})
			w.backend("b1").CutOff()
		})
		var got []raidstorage.TID
		for r, err := range m.CurrentRecords(t.Context(), 0) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, r.TID)
			fail()
		}
		var want []raidstorage.TID
		for _, r := range before {
			want = append(want, r.TID)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// A file that is moved into a transaction becomes each backend's blob; one that is refused
// stays where it was.
func TestMovedBlob(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		path := filepath.Join(t.TempDir(), "upload")
		write := func(content string) {
			t.Helper()
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write("content")
		txn, err := m.Begin(t.Context(), raidstorage.Meta{})
		if err != nil {
			t.Fatal(err)
		}
		move := func(data, path string) error {
			return txn.(interface {
				MoveBlob(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID, data []byte, path string) error
			}).MoveBlob(t.Context(), 1, 0, []byte(data), path)
		}
		if _, ok := errors.AsType[*raidstorage.InvalidError](move("r", filepath.Dir(path))); !ok {
			t.Error("a directory was taken")
		}
		if err := move("r", path+".missing"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a missing file: %v", err)
		}
		if _, ok := errors.AsType[*raidstorage.InvalidError](move("", path)); !ok {
			t.Error("a blob without data was taken")
		}
		if err := move("r", path); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the file has its name still: %v", err)
		}
		write("another")
		if _, err := txn.Vote(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, ok := errors.AsType[*raidstorage.TxnStateError](move("r", path)); !ok {
			t.Error("a blob was taken after the vote")
		}
		tid, err := txn.Finish(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != "another" {
			t.Errorf("what was refused is %q, %v", b, err)
		}
		for _, s := range w.mem.stores {
			blob, err := raidstorage.Can[raidstorage.BlobLoader](s)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := readBlob(blob.OpenBlob(t.Context(), 1, tid)); err != nil || got != "content" {
				t.Errorf("%s has %q, %v", s.Name(), got, err)
			}
		}
	})
}

// A blob that was cut short in the spool must not be committed, and hurts nobody.
func TestSpooledBlobThatIsCutShortIsNotCommitted(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		const size = 2_234_579
		w.cfg.TempDir = t.TempDir()
		m := w.start()
		w.mustCommit(m, 1, "x")
		txn, err := m.Begin(t.Context(), raidstorage.Meta{})
		if err != nil {
			t.Fatal(err)
		}
		blob := strings.NewReader(strings.Repeat("x", size))
		if err := raidstorage.StoreBlob(t.Context(), txn, 2, 0, []byte("r"), blob); err != nil {
			t.Fatal(err)
		}
		truncateUnlinked(t, size)
		if _, err := txn.Vote(t.Context()); err == nil {
			t.Error("a blob that was lost in the spool was accepted")
		}
		synctest.Wait()
		w.wantInSync("b1", "b2")
		w.mustCommit(m, 1, "y")
	})
}
