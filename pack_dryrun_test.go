package raidstorage_test

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// What one backend tells is what the mirror's pack drops at each of them, and nothing is
// recorded of it.
func TestDryRunTellsWhatThePackDrops(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		through := w.tree(m)[2]
		w.mustCommit(m, 12, storagetest.Pickled("later"))
		opts := raidstorage.PackOptions{Through: through, GC: true}
		record := w.record()
		e, err := m.EstimatePack(t.Context(), opts)
		if err != nil || e.Objects != 2 || e.Revisions != 2 || e.Through != through || len(e.Classes) != 1 {
			t.Fatalf("the estimate is %+v, %v", e, err)
		}
		if now := w.record(); !reflect.DeepEqual(now, record) {
			t.Errorf("the dry run has written the record: %+v", now)
		}
		before := map[int]int64{}
		for name, s := range w.mem.stores {
			_, before[name], _ = s.Size(t.Context())
		}
		mustPack(t, m, through)
		for name, s := range w.mem.stores {
			if _, after, err := s.Size(t.Context()); err != nil || before[name]-after != e.Bytes {
				t.Errorf("backend %d has lost %d bytes, %v, not %d", name, before[name]-after, err, e.Bytes)
			}
		}
		if e, err := m.EstimatePack(t.Context(), opts); err != nil || e.Objects+e.Revisions+e.Bytes != 0 {
			t.Errorf("after the pack the estimate is %+v, %v", e, err)
		}
	})
}

// Without GC garbage stays, and is not looked for.
func TestDryRunWithoutGC(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		through := w.tree(m)[2]
		e, err := m.EstimatePack(t.Context(), raidstorage.PackOptions{Through: through})
		if err != nil || e.Objects != 0 || e.Revisions != 2 {
			t.Errorf("the estimate is %+v, %v", e, err)
		}
	})
}

// Commits go on while a backend estimates, and one that hangs is given up in time and
// stays in sync.
func TestDryRunHoldsUpNobodyAndEnds(t *testing.T) {
	for _, call := range []storagetest.Call{storagetest.CallFindGarbage, storagetest.CallEstimatePack} {
		t.Run(string(call), func(t *testing.T) {
			scenario(t, 2, func(t *testing.T, w *world) {
				w.cfg.Timeouts.Pack = time.Minute
				m := w.start()
				through := w.tree(m)[2]
				for _, b := range []string{"b1", "b2"} {
					w.backend(b).Inject(storagetest.Fault{Call: call, Kind: storagetest.HangHard})
				}
				done := make(chan error, 1)
				go func() {
					_, err := m.EstimatePack(context.Background(), raidstorage.PackOptions{Through: through, GC: true})
					done <- err
				}()
				synctest.Wait()
				w.mustCommit(m, 1, storagetest.Pickled("meanwhile"))
				if err := <-done; !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("it returns %v", err)
				}
				w.wantInSync("b1", "b2")
				w.backend("b1").Release()
				w.backend("b2").Release()
			})
		})
	}
}

// One native backend is enough, and without one nobody can tell.
func TestDryRunNeedsANativeBackend(t *testing.T) {
	for _, c := range []struct {
		name    string
		selfish []string
	}{{"one", []string{"b1"}}, {"none", []string{"b1", "b2"}}} {
		t.Run(c.name, func(t *testing.T) {
			scenario(t, 2, func(t *testing.T, w *world) {
				w.makeSelfish(c.selfish...)
				m := w.start()
				through := w.tree(m)[2]
				e, err := m.EstimatePack(t.Context(), raidstorage.PackOptions{Through: through, GC: true})
				if len(c.selfish) == 1 {
					// The pack time is before the last transaction then.
					if err != nil || e.Through >= through {
						t.Errorf("the estimate is %+v, %v", e, err)
					}
					return
				}
				wantErr[*raidstorage.UnsupportedError](t, "a dry run", err)
			})
		})
	}
}

// Where one backend fails another one tells.
func TestDryRunGoesOnAtAnotherBackend(t *testing.T) {
	for _, call := range []storagetest.Call{storagetest.CallFindGarbage, storagetest.CallEstimatePack} {
		for _, fails := range []string{"b1", "b2"} {
			t.Run(string(call)+" of "+fails, func(t *testing.T) {
				scenario(t, 2, func(t *testing.T, w *world) {
					m := w.start()
					through := w.tree(m)[2]
					w.backend(fails).Inject(storagetest.Fault{Call: call})
					e, err := m.EstimatePack(t.Context(), raidstorage.PackOptions{Through: through, GC: true})
					if err != nil || e.Objects != 2 {
						t.Errorf("the estimate is %+v, %v", e, err)
					}
					w.wantInSync("b1", "b2")
				})
			})
		}
	}
}
