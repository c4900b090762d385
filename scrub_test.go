package raidstorage_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// scrubbed makes the world's mirrors scrub, and gives them a state directory.
func (w *world) scrubbed(interval time.Duration, rate int64) {
	w.cfg.Scrub = raidstorage.Scrub{Interval: interval, BytesPerSecond: rate}
	w.cfg.Membership, w.cfg.StateDir = nil, w.t.TempDir()
}

// scrub returns the status of the scrub.
func scrub(t *testing.T, m *raidstorage.Mirror) raidstorage.ScrubStatus {
	t.Helper()
	s := m.Status().Scrub
	if s == nil {
		t.Fatal("no scrub")
	}
	return *s
}

// scrubRuns waits until n runs have ended.
func scrubRuns(t *testing.T, m *raidstorage.Mirror, n int64) raidstorage.VerifyReport {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 1000*time.Hour) // simulated
	defer cancel()
	events := m.Watch(ctx)
	for scrub(t, m).Runs < n {
		if _, ok := <-events; !ok {
			t.Fatalf("%d runs do not come: %+v", n, scrub(t, m))
		}
	}
	return *scrub(t, m).Last
}

// large commits n transactions of 1000 bytes each.
func (w *world) large(m *raidstorage.Mirror, n int) {
	for i := range n {
		w.mustCommit(m, raidstorage.OID(i%7+1), storagetest.Pickled(strings.Repeat("x", 990)+strings.Repeat("y", i%3)))
	}
}

func TestScrubComparesAgainAndAgain(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.scrubbed(24*time.Hour, 0)
		m := w.start()
		w.large(m, 20)
		if s := scrub(t, m); s.Running != nil || s.Next.IsZero() || s.Last != nil || s.Interval != 24*time.Hour || s.BytesPerSecond != 10<<20 {
			t.Errorf("at first: %+v", s)
		}
		begun := time.Now()
		first := scrubRuns(t, m, 1)
		if took := time.Since(begun); took < 24*time.Hour || took > 25*time.Hour {
			t.Errorf("the first run ended after %v", took)
		}
		if first.Findings != 0 || first.Transactions != 20 || first.Objects != 7 || first.Bytes < 27*1000 || len(first.Backends) != 2 {
			t.Errorf("the report is %+v", first)
		}
		w.large(m, 1)
		if second := scrubRuns(t, m, 2); second.Transactions != 21 {
			t.Errorf("the report is %+v", second)
		}
		if s := scrub(t, m); s.Bytes < 2*27*1000 || s.Findings != 0 || s.Running != nil || time.Until(s.Next) > 24*time.Hour {
			t.Errorf("in the end: %+v", s)
		}
	})
}

// Whoever is wrong is degraded when that is found, long before the run ends, and named.
func TestScrubDegradesTheMinorityAtOnce(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		var log bytes.Buffer
		m := w.start()
		w.large(m, 50)
		m.Close()
		w.forge(1, 5, func(txn *storagetest.LogTransaction) { txn.Records[0].Data = "rotten" })
		forged := w.log("b2")[5].TID
		w.cfg.Scrub = raidstorage.Scrub{Interval: time.Minute, BytesPerSecond: 1000}
		w.cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
		m = w.start()
		begun := time.Now()
		w.waitState(m, "b2", raidstorage.StateFailed)
		if took := time.Since(begun); took > time.Minute+10*time.Second {
			t.Errorf("b2 is degraded after %v", took)
		}
		w.wantInSync("b1", "b3")
		if r := w.record(); !slices.Equal(r.Damaged, []string{"b2"}) {
			t.Errorf("damaged are %v", r.Damaged)
		}
		if s := scrub(t, m); s.Running == nil || s.Started.IsZero() || !s.Next.IsZero() {
			t.Errorf("meanwhile: %+v", s)
		}
		report := scrubRuns(t, m, 1)
		if report.Findings != 1 || report.Wrong["b2"] != 1 || !slices.Equal(report.Degraded, []string{"b2"}) || report.Transactions != 50 {
			t.Errorf("the report is %+v", report)
		}
		if s := scrub(t, m); s.Findings != 1 {
			t.Errorf("afterwards: %+v", s)
		}
		m.Close()
		for _, want := range []string{"a backend differs", "backend=b2", "tid=" + forged.String(), "findings=1"} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("no %q in the log:\n%s", want, &log)
			}
		}
	})
}

// A pack, a change and a recovery do not wait for the scrub, not even those that wait
// for nothing; it goes on afterwards and compares nothing twice.
func TestScrubGivesWay(t *testing.T) {
	t.Parallel()
	for what, do := range map[string]func(t *testing.T, w *world, m *raidstorage.Mirror) error{
		"pack": func(t *testing.T, w *world, m *raidstorage.Mirror) error {
			return m.Pack(t.Context(), raidstorage.PackOptions{Through: w.log("b1")[0].TID, NoWait: true})
		},
		"change": func(t *testing.T, w *world, m *raidstorage.Mirror) error {
			c := m.Settings()
			c.ReadPolicy, c.NoWait = raidstorage.PrimaryFirst, true
			return m.Change(t.Context(), c)
		},
		"recovery": func(t *testing.T, w *world, m *raidstorage.Mirror) error {
			if err := m.Disable(t.Context(), "b3", "test"); err != nil {
				return err
			}
			w.large(m, 1)
			hang := storagetest.Fault{Call: storagetest.CallRestore, Kind: storagetest.Hang, Times: 1}
			w.onNextOpen(func(_ string, f *storagetest.FaultyStorage) { f.Inject(hang) })
			done := make(chan error, 1)
			go func() { done <- m.Recover(t.Context(), "b3") }()
			synctest.Wait()
			if s := scrub(t, m); s.Waits != "recovery of b3" {
				t.Errorf("during the recovery: %+v", s)
			}
			w.backend("b3").Release()
			return <-done
		},
	} {
		t.Run(what, func(t *testing.T) {
			scenario(t, 3, func(t *testing.T, w *world) {
				w.scrubbed(time.Minute, 1000)
				m := w.start()
				w.large(m, 50)
				<-time.After(time.Minute + 20*time.Second) // simulated
				if p := scrub(t, m).Running; p == nil || p.Transactions < 15 || p.Transactions > 25 {
					t.Errorf("before it gives way it is at %+v", p)
				}
				begun := time.Now()
				if err := do(t, w, m); err != nil {
					t.Error(err)
				}
				if took := time.Since(begun); took > 3*time.Second {
					t.Errorf("it took %v", took)
				}
				w.large(m, 1)
				report := scrubRuns(t, m, 1)
				if took := time.Since(begun); took > 50*time.Second {
					t.Errorf("the scrub took %v more", took)
				}
				if report.Findings != 0 || report.Transactions < 50 || report.Transactions > 52 || len(report.Unread) > 0 || report.Objects != 7 {
					t.Errorf("the report is %+v", report)
				}
			})
		})
	}
}

func TestScrubGoesOnAfterARestart(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.scrubbed(time.Hour, 1000)
		m := w.start()
		w.large(m, 200)
		<-time.After(time.Hour + 150*time.Second) // simulated
		m.Close()
		m = w.start()
		synctest.Wait()
		if p := scrub(t, m).Running; p == nil || p.Transactions < 140 || p.Transactions > 155 {
			t.Errorf("after the restart it is at %+v", p)
		}
		begun := time.Now()
		report := scrubRuns(t, m, 1)
		if took := time.Since(begun); report.Transactions != 200 || took > 70*time.Second {
			t.Errorf("after %v the report is %+v", took, report)
		}
		<-time.After(30 * time.Minute) // simulated
		m.Close()
		begun = time.Now()
		m = w.start()
		synctest.Wait()
		if s := scrub(t, m); s.Running != nil || s.Last == nil || s.Last.Transactions != 200 {
			t.Errorf("between two runs: %+v", s)
		}
		scrubRuns(t, m, 1)
		if took := time.Since(begun); took < 30*time.Minute || took > 40*time.Minute {
			t.Errorf("the second run ended %v after the restart", took)
		}
	})
}

// A read that fails now and then, or lies once, is made again: no finding, nobody is
// degraded.
func TestTransientErrorsAreNoFindings(t *testing.T) {
	t.Parallel()
	for _, call := range []storagetest.Call{storagetest.CallIterate, storagetest.CallNext, storagetest.CallOpenBlob,
		storagetest.CallCurrentRecords, storagetest.CallLoad} {
		for _, kind := range []storagetest.Kind{storagetest.Fail, storagetest.Hang, storagetest.Corrupt} {
			if kind == storagetest.Corrupt && call == storagetest.CallIterate {
				continue // it would be one at each step
			}
			t.Run(string(call)+" "+kind.String(), func(t *testing.T) {
				scenario(t, 2, func(t *testing.T, w *world) {
					m := w.start()
					w.fill(m, 30)
					for _, after := range []int{0, 3, 9} {
						w.backend("b2").Clear()
						w.backend("b2").Inject(storagetest.Fault{Call: call, Kind: kind, After: after, Times: 1})
						report := verify(t, m, raidstorage.VerifyOptions{Blobs: true})
						if report.Findings != 0 || len(report.Unread) > 0 || report.Transactions != 30 {
							t.Errorf("after %d calls: the report is %+v", after, report)
						}
					}
					w.wantInSync("b1", "b2")
				})
			})
		}
	}
}

// Only those count for the quorum that are in sync and answer when somebody is to be
// degraded: b3 has died since the verification began.
func TestVerifyNeverDegradesBelowTheQuorum(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		m := w.start()
		w.large(m, 50)
		m.Close()
		w.forge(1, 5, func(txn *storagetest.LogTransaction) { txn.Records[0].Data = "rotten" })
		m = w.start()
		done := make(chan raidstorage.VerifyReport, 1)
		go func() { done <- verify(t, m, raidstorage.VerifyOptions{BytesPerSecond: 1000}) }()
		<-time.After(20 * time.Second) // simulated
		w.backend("b3").CutOff()
		w.mustCommit(m, 1, "without b3")
		w.wantInSync("b1", "b2")
		report := <-done
		if report.Wrong["b2"] != 1 || len(report.Degraded) > 0 || !strings.Contains(report.Kept, "needed") {
			t.Errorf("the report is %+v", report)
		}
		w.wantInSync("b1", "b2")
		w.mustCommit(m, 1, "commits go on")
	})
}

// The rate holds within a blob, too.
func TestScrubReadsBlobsSlowly(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.scrubbed(time.Minute, 1<<20)
		m := w.start()
		blob := strings.Repeat("x", 60<<20)
		storagetest.Transact(t, m, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
			return txn.(raidstorage.BlobTxn).StoreBlob(t.Context(), 1, 0, []byte("record"), strings.NewReader(blob))
		})
		<-time.After(time.Minute + 30*time.Second) // simulated
		if p := scrub(t, m).Running; p == nil || p.Bytes > 61<<20 || p.Transactions != 0 {
			t.Errorf("after half the time it is at %+v", p)
		}
		begun := time.Now()
		report := scrubRuns(t, m, 1)
		if took := time.Since(begun); report.Findings != 0 || report.Bytes < 60<<20 || took < 25*time.Second || took > 35*time.Second {
			t.Errorf("after %v more the report is %+v", took, report)
		}
		closing := time.Now()
		if err := m.Close(); err != nil || time.Since(closing) > time.Second {
			t.Errorf("Close took %v (%v)", time.Since(closing), err)
		}
	})
}

// Commits go on at full speed while it runs.
func TestScrubStopsNoCommit(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.scrubbed(time.Minute, 100)
		m := w.start()
		w.large(m, 30)
		<-time.After(2 * time.Minute) // simulated
		begun := time.Now()
		w.large(m, 100)
		if took := time.Since(begun); took > time.Second || scrub(t, m).Running == nil {
			t.Errorf("100 commits took %v", took)
		}
		if _, err := m.Verify(t.Context(), raidstorage.VerifyOptions{NoWait: true}); err != nil {
			t.Errorf("Verify beside it: %v", err)
		}
		m.Close()
		if _, err := m.Verify(t.Context(), raidstorage.VerifyOptions{}); !errors.Is(err, raidstorage.ErrClosed) {
			t.Errorf("Verify: %v", err)
		}
	})
}

// What was found before a restart is still known after it, and what comes then is added.
func TestScrubKeepsItsFindingsOverARestart(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		m := w.start()
		w.large(m, 50)
		m.Close()
		w.forge(1, 5, func(txn *storagetest.LogTransaction) { txn.Records[0].Data = "rotten" })
		w.scrubbed(time.Minute, 1000)
		w.cfg.Force = []string{"b1", "b2", "b3"} // the state directory is a new one
		m = w.start()
		w.cfg.Force = nil
		<-time.After(time.Minute + 20*time.Second) // simulated
		m.Close()
		w.onNextOpen(func(name string, f *storagetest.FaultyStorage) {
			if name == "b3" {
				f.Inject(storagetest.Fault{Call: storagetest.CallNext, After: 1})
			}
		})
		m = w.start()
		report := scrubRuns(t, m, 1)
		if report.Wrong["b2"] != 1 || report.Unread["b3"] == "" || report.Findings != 1 || len(report.Listed) != 1 {
			t.Errorf("the report is %+v", report)
		}
	})
}
