package raidstorage_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

func verify(t *testing.T, m *raidstorage.Mirror, opts raidstorage.VerifyOptions) raidstorage.VerifyReport {
	t.Helper()
	report, err := m.Verify(t.Context(), opts)
	if err != nil {
		t.Fatalf("Verify: %v", err)
	}
	return report
}

// forge replaces a backend's disk by a copy in which change has changed the n-th
// transaction; the mirror must not run.
func (w *world) forge(i, n int, change func(txn *storagetest.LogTransaction)) {
	w.t.Helper()
	changed := memstorage.New(name(i))
	for k, txn := range w.log(name(i)) {
		if k == n {
			change(&txn)
		}
		meta := raidstorage.Meta{TID: txn.TID, User: []byte(txn.User), Description: []byte(txn.Description), Extension: []byte(txn.Extension)}
		storagetest.Transact(w.t, changed, meta, func(to raidstorage.Txn) (err error) {
			for _, r := range txn.Records {
				rec := raidstorage.Record{OID: r.OID, TID: r.TID, Data: []byte(r.Data), DataTID: r.DataTID}
				if r.Deleted {
					rec.Data = nil
				}
				err = errors.Join(err, to.Restore(w.t.Context(), rec))
			}
			return err
		})
	}
	w.mem.stores[i] = changed
}

func TestVerifyFindsNothingWhereNothingIsWrong(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		m := w.start()
		w.fill(m, 60)
		var last raidstorage.VerifyProgress
		report := verify(t, m, raidstorage.VerifyOptions{Blobs: true, Progress: func(p raidstorage.VerifyProgress) { last = p }})
		if report.Findings != 0 || len(report.Listed) != 0 || report.Transactions != 60 || report.Objects == 0 || report.Bytes == 0 || len(report.Backends) != 3 {
			t.Errorf("the report is %+v", report)
		}
		if last != report.VerifyProgress {
			t.Errorf("the last progress is %+v, the report %+v", last, report.VerifyProgress)
		}
		w.wantInSync("b1", "b2", "b3")
	})
}

// The majority tells who is wrong; that one is degraded, and stays so over restarts
// until it is replaced.
func TestVerifyDegradesTheMinority(t *testing.T) {
	t.Parallel()
	for kind, change := range map[raidstorage.FindingKind]func(txn *storagetest.LogTransaction){
		raidstorage.FindingRecord:   func(txn *storagetest.LogTransaction) { txn.Records[0].Data += " rotten" },
		raidstorage.FindingMetadata: func(txn *storagetest.LogTransaction) { txn.User = "forged" },
		raidstorage.FindingMissing:  func(txn *storagetest.LogTransaction) { txn.Records = txn.Records[:1] },
	} {
		t.Run(string(kind), func(t *testing.T) {
			scenario(t, 3, func(t *testing.T, w *world) {
				w.cfg.AutoRecover = raidstorage.AutoRecoverOn
				m := w.start()
				for range 3 {
					w.fill(m, 5)
					storagetest.Transact(t, m, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
						return errors.Join(txn.Store(t.Context(), 50, w.serial(m, 50), []byte("a")), txn.Store(t.Context(), 51, w.serial(m, 51), []byte("b")))
					})
				}
				m.Close()
				forged := w.log("b2")[5]
				w.forge(1, 5, change)
				m = w.start()
				w.wantInSync("b1", "b2", "b3")
				report := verify(t, m, raidstorage.VerifyOptions{})
				if report.Findings == 0 || report.Wrong["b2"] != report.Findings || !slices.Equal(report.Degraded, []string{"b2"}) {
					t.Fatalf("the report is %+v", report)
				}
				if f := report.Listed[0]; f.Kind != kind || f.Backend != "b2" || f.TID != forged.TID || !f.Wrong || f.String() == "" {
					t.Errorf("the first finding is %v, want %q at %v", f, kind, forged.TID)
				}
				w.waitState(m, "b2", raidstorage.StateFailed)
				<-time.After(time.Hour) // simulated: recoveries are tried
				w.wantInSync("b1", "b3")
				m.Close()
				m = w.start()
				<-time.After(time.Hour) // simulated
				w.wantInSync("b1", "b3")
				wantErr[*raidstorage.DivergedError](t, "Recover", m.Recover(t.Context(), "b2"))
				w.mem.stores[1] = memstorage.New("b2")
				if err := m.Recover(t.Context(), "b2"); err != nil {
					t.Fatal(err)
				}
				if r := w.record(); len(r.Damaged) != 0 {
					t.Errorf("damaged are %v", r.Damaged)
				}
				if report := verify(t, m, raidstorage.VerifyOptions{}); report.Findings != 0 {
					t.Errorf("after the repair: %v", report.Listed)
				}
			})
		})
	}
}

// One against one: nobody can tell, both are named, both stay.
func TestVerifyWithoutAMajority(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		w.fill(m, 5)
		m.Close()
		w.forge(1, 2, func(txn *storagetest.LogTransaction) { txn.Records[0].Data += " rotten" })
		m = w.start()
		report := verify(t, m, raidstorage.VerifyOptions{MaxFindings: 1})
		if report.Findings < 2 || len(report.Listed) != 1 || len(report.Wrong) != 0 || len(report.Degraded) != 0 || report.Listed[0].Wrong {
			t.Errorf("the report is %+v", report)
		}
		w.wantInSync("b1", "b2")
	})
}

// A lie about a current object, by the index and not by the log.
func TestVerifyComparesCurrentObjects(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		m := w.start()
		w.fill(m, 5)
		w.backend("b3").Inject(storagetest.Fault{Call: storagetest.CallCurrentRecords, Kind: storagetest.Corrupt},
			storagetest.Fault{Call: storagetest.CallLoad, Kind: storagetest.Corrupt})
		report := verify(t, m, raidstorage.VerifyOptions{KeepAll: true})
		if report.Findings == 0 || report.Wrong["b3"] != report.Findings || report.Listed[0].Kind != raidstorage.FindingObject {
			t.Errorf("the report is %+v", report)
		}
		w.wantInSync("b1", "b2", "b3")
	})
}

// A backend that cannot be read is degraded, as after any read, not for what it holds,
// and the others are compared all the same.
func TestVerifyGoesOnWithoutTheUnreadable(t *testing.T) {
	t.Parallel()
	for _, call := range []storagetest.Call{storagetest.CallIterate, storagetest.CallNext, storagetest.CallCurrentRecords} {
		t.Run(string(call), func(t *testing.T) {
			scenario(t, 3, func(t *testing.T, w *world) {
				m := w.start()
				w.fill(m, 20)
				w.backend("b2").Inject(storagetest.Fault{Call: call})
				report := verify(t, m, raidstorage.VerifyOptions{})
				if report.Findings != 0 || report.Unread["b2"] == "" || len(report.Unread) != 1 || report.Transactions != 20 {
					t.Errorf("the report is %+v", report)
				}
				synctest.Wait()
				w.wantInSync("b1", "b3")
				if damaged := w.record().Damaged; len(damaged) > 0 {
					t.Errorf("damaged are %v", damaged)
				}
			})
		})
	}
}

// What packs have dropped, on some backends or on all, is no difference.
func TestVerifyAfterPacks(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		m := w.start()
		tids := w.tree(m)
		w.backend("b2").Inject(storagetest.Fault{Call: storagetest.CallSwitch, Times: 1})
		if err := m.Pack(t.Context(), raidstorage.PackOptions{Through: tids[2], GC: true}); err == nil {
			t.Error("the pack did not fail")
		}
		if report := verify(t, m, raidstorage.VerifyOptions{}); report.Findings != 0 {
			t.Errorf("uneven: %v", report.Listed)
		}
		mustPack(t, m, tids[2])
		if report := verify(t, m, raidstorage.VerifyOptions{}); report.Findings != 0 {
			t.Errorf("even: %v", report.Listed)
		}
		w.wantInSync("b1", "b2", "b3")
	})
}

// Commits go on, a pack waits, the rate is kept, and the context ends it.
func TestVerifyIsSlowAndInNobodysWay(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		for range 50 {
			w.mustCommit(m, 1, storagetest.Pickled(strings.Repeat("x", 1000)))
		}
		last, _ := m.LastTID(t.Context())
		done, packed := make(chan raidstorage.VerifyReport, 1), make(chan error, 1)
		begun := time.Now()
		go func() { done <- verify(t, m, raidstorage.VerifyOptions{BytesPerSecond: 1000}) }()
		synctest.Wait()
		w.mustCommit(m, 1, storagetest.Pickled("meanwhile"))
		busy := wantErr[*raidstorage.BusyError](t, "Pack", m.Pack(t.Context(), raidstorage.PackOptions{Through: last, NoWait: true}))
		if busy.Holder != "verification" {
			t.Errorf("it says %v", busy)
		}
		go func() { packed <- m.Pack(t.Context(), raidstorage.PackOptions{Through: last}) }()
		report := <-done
		if took := time.Since(begun); took < 50*time.Second || took > 70*time.Second || report.Findings != 0 || report.Transactions != 50 {
			t.Errorf("after %v the report is %+v", took, report)
		}
		if err := <-packed; err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := m.Verify(ctx, raidstorage.VerifyOptions{BytesPerSecond: 1}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after its context has ended: %v", err)
		}
		m.Close()
		if _, err := m.Verify(t.Context(), raidstorage.VerifyOptions{}); !errors.Is(err, raidstorage.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

// A blob that is gone is found where it is gone, and what follows is compared too; that
// most lack it proves nothing.
func TestVerifyFindsMissingBlobs(t *testing.T) {
	t.Parallel()
	var dirs []string
	cfg := raidstorage.Config{Membership: &raidstorage.MemoryRegister{}, AutoRecover: raidstorage.AutoRecoverOff}
	for i := range 3 {
		dirs = append(dirs, t.TempDir())
		cfg.Backends = append(cfg.Backends, raidstorage.Backend{Name: name(i), Open: func(ctx context.Context) (raidstorage.Storage, error) {
			return filestorage.Open(ctx, filepath.Join(dirs[i], "Data.fs"), filestorage.Options{BlobDir: filepath.Join(dirs[i], "blobs")})
		}})
	}
	m := open(t, cfg)
	for i, content := range []string{"", "a blob"} {
		storagetest.Transact(t, m, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
			return txn.(raidstorage.BlobTxn).StoreBlob(t.Context(), raidstorage.OID(i+1), 0, []byte("\x80\x03cZODB.blob\nBlob\nq\x00.\x80\x03N."), strings.NewReader(content))
		})
	}
	for i, gone := range []int{2, 1} {
		found, err := filepath.Glob(filepath.Join(dirs[i], "blobs", "*", "*", "*", "*", "*", "*", "*", fmt.Sprintf("0x%02x", gone), "*.blob"))
		if err != nil || len(found) != 1 {
			t.Fatal(found, err)
		}
		if err := os.Remove(found[0]); err != nil {
			t.Fatal(err)
		}
	}
	report := verify(t, m, raidstorage.VerifyOptions{Blobs: true, KeepAll: true})
	if report.Findings != 2 || report.Wrong["b1"] != 1 || report.Wrong["b2"] != 1 || report.Transactions != 2 || len(report.Unread) > 0 {
		t.Errorf("the report is %+v", report)
	}
	for _, f := range report.Listed {
		if f.Kind != raidstorage.FindingBlob {
			t.Errorf("%v", f)
		}
	}
}
