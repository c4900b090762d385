package raidstorage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// A record that changes again before it is overwritten stays as it is.
func TestRepairWritesOverNothingElse(t *testing.T) {
	t.Parallel()
	d := newDisks(t, 3)
	d.fill()
	d.rot(1, "another object", 3, "#")
	n := 0
	d.seen["b2"].Inject(storagetest.Fault{Call: storagetest.CallMend, Kind: storagetest.Observe, Hook: func() {
		n++
		d.rot(1, "ano#h", 5, string(rune('0'+n)))
	}})
	report := d.repair()
	if report.Repaired != 0 || !slices.Equal(report.Degraded, []string{"b2"}) || !strings.Contains(report.Listed[0].Detail, "it was not repaired") {
		t.Errorf("the report is %+v", report)
	}
	if !bytes.Contains(d.all(1)[d.file(1)], []byte(fmt.Sprintf("ano#h%dr object", n))) {
		t.Error("it was overwritten")
	}
	d.wantAsBefore(1)
}

// While a record is mended nothing is committed, and a pack is kept out.
func TestRepairExcludesCommitsAndPacks(t *testing.T) {
	t.Parallel()
	d := newDisks(t, 3)
	m := d.fill()
	d.rot(1, "another object", 3, "#")
	d.rewriteBlob(2, "another blob")
	committed := make(chan error, 1)
	pack := func() {
		err := m.Pack(t.Context(), raidstorage.PackOptions{Through: d.tids[5], NoWait: true})
		if _, busy := errors.AsType[*raidstorage.BusyError](err); !busy {
			t.Errorf("a pack meanwhile: %v", err)
		}
	}
	d.seen["b2"].Inject(storagetest.Fault{Call: storagetest.CallMend, Kind: storagetest.Observe, Hook: func() {
		pack()
		go func() {
			_, err := commit(m, 9, "meanwhile")
			committed <- err
		}()
		select {
		case err := <-committed:
			t.Errorf("a commit did not wait (%v)", err)
			committed <- err
		case <-time.After(100 * time.Millisecond):
		}
	}})
	d.seen["b3"].Inject(storagetest.Fault{Call: storagetest.CallMend, Kind: storagetest.Observe, Hook: pack})
	if report := d.repair(); report.Repaired != 2 || report.Findings != 2 {
		t.Errorf("the report is %+v", report)
	}
	if err := <-committed; err != nil {
		t.Error(err)
	}
	d.wantAsBefore()
}

// A blob that cannot be read is not one that is wrong: it is never replaced for that.
func TestUnreadableBlobsAreNotReplaced(t *testing.T) {
	t.Parallel()
	for _, members := range []int{2, 3} {
		t.Run(fmt.Sprint(members), func(t *testing.T) {
			t.Parallel()
			d := newDisks(t, members)
			d.fill()
			d.rewriteBlob(0, "what the blob hXlds") // and b2 cannot be read: nobody can tell
			d.good[0] = d.all(0)
			d.hurtBlobs("b2", func(ctx context.Context) error { return syscall.EIO })
			report := d.repair()
			if report.Repaired != 0 || report.Unread["b2"] == "" || len(report.Wrong) > 0 || len(report.Degraded) > 0 {
				t.Errorf("the report is %+v", report)
			}
			d.wantAsBefore()
		})
	}
	t.Run("now and then", func(t *testing.T) {
		t.Parallel()
		d := newDisks(t, 2)
		d.fill()
		failed := false
		d.hurtBlobs("b2", func(ctx context.Context) (err error) {
			if !failed {
				failed, err = true, syscall.EIO
			}
			return err
		})
		if report := d.repair(); report.Findings != 0 || len(report.Unread) > 0 || !failed {
			t.Errorf("the report is %+v", report)
		}
		d.wantAsBefore()
		d.wantInSync("b1", "b2")
	})
}

// A record that was put right stays so, whatever its blob is: one that cannot be judged says
// nothing about who was repaired.
func TestRepairOfARecordWhoseBlobCannotBeJudged(t *testing.T) {
	t.Parallel()
	d := newDisks(t, 3)
	m := d.fill()
	d.rot(1, blobRecord, 3, "#")
	d.hurtBlobs("b3", func(context.Context) error { return syscall.EIO })
	report, err := m.Verify(t.Context(), raidstorage.VerifyOptions{Repair: true})
	if err != nil || report.Repaired != 1 || report.Findings != 1 || len(report.Degraded) > 0 {
		t.Errorf("the report is %+v, %v", report, err)
	}
	d.hurtBlobs("b3", func(context.Context) error { return nil })
	d.wantAsBefore()
	d.wantInSync("b1", "b2", "b3")
}

// Nor does a blob go unnoticed that differs when the data have been put right, and of which
// no copy has a majority.
func TestRepairOfARecordTellsOfItsBlob(t *testing.T) {
	t.Parallel()
	d := newDisks(t, 3)
	m := d.fill()
	d.rot(1, blobRecord, 3, "#")
	d.rewriteBlob(1, "what the blob hXlds")
	d.rewriteBlob(2, "what the blob hYlds")
	report, err := m.Verify(t.Context(), raidstorage.VerifyOptions{Repair: true})
	told := 0
	for _, f := range report.Listed {
		if strings.Contains(f.Detail, "no copy of the blob") && !f.Wrong {
			told++
		}
	}
	if err != nil || report.Repaired != 1 || told != 3 || len(report.Degraded) > 0 {
		t.Errorf("the report is %+v, %v", report, err)
	}
	d.wantInSync("b1", "b2", "b3")
}

// hurtBlobs makes opening blobs of a backend fail as err says.
func (d *disks) hurtBlobs(name string, err func(context.Context) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.blobErrors[name] = err
}

// What cannot be mended is degraded, with the reason.
func TestRepairOfOtherStoragesDegrades(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		m := w.start()
		w.fill(m, 10)
		m.Close()
		w.forge(1, 5, func(txn *storagetest.LogTransaction) { txn.Records[0].Data += " rotten" })
		m = w.start()
		report := verify(t, m, raidstorage.VerifyOptions{Repair: true})
		if report.Repaired != 0 || !slices.Equal(report.Degraded, []string{"b2"}) {
			t.Errorf("the report is %+v", report)
		}
		w.waitState(m, "b2", raidstorage.StateFailed)
		if _, reason := state(m, "b2"); !strings.Contains(reason, "it was not repaired") || !strings.Contains(reason, "replace it by an empty one") {
			t.Errorf("the reason is %s", reason)
		}
		w.wantInSync("b1", "b3")
	})
}

// KeepAll only tells.
func TestRepairIsNotForReportsOnly(t *testing.T) {
	t.Parallel()
	d := newDisks(t, 3)
	d.fill()
	d.rot(1, "another object", 3, "#")
	report := verify(t, d.m, raidstorage.VerifyOptions{Blobs: true, Repair: true, KeepAll: true})
	if report.Repaired != 0 || report.Wrong["b2"] == 0 || len(report.Degraded) > 0 || len(d.seen["b2"].Calls()) == 0 {
		t.Errorf("the report is %+v", report)
	}
	for _, c := range d.seen["b2"].Calls() {
		if c.Call == storagetest.CallMend {
			t.Error("it was mended")
		}
	}
	d.wantInSync("b1", "b2", "b3")
}

// A repair that hangs costs its backend, not the mirror; and when it goes on after the
// backend was opened again it writes nothing any more.
func TestRepairOfAnOldSessionWritesNothing(t *testing.T) {
	t.Parallel()
	d := newDisks(t, 3)
	d.cfg.Timeouts.Vote, d.cfg.Timeouts.Open = 3*time.Second, 5*time.Second
	m := d.fill()
	d.rot(1, "another object", 3, "#")
	old := d.seen["b2"]
	old.Inject(storagetest.Fault{Call: storagetest.CallMend, Kind: storagetest.HangHard})
	report := d.repair()
	if report.Repaired != 0 || len(report.Listed) == 0 {
		t.Errorf("the report is %+v", report)
	}
	if _, err := commit(m, 9, storagetest.Pickled("it goes on")); err != nil {
		t.Fatal(err)
	}
	hurt := d.all(1)
	d.m.Close() // gives up the old session
	second := open(t, d.cfg)
	old.Release()
	if err := old.WaitIdle(t.Context(), storagetest.CallMend); err != nil {
		t.Fatal(err)
	}
	mends := 0
	for _, c := range old.Calls() {
		if c.Call != storagetest.CallMend {
			continue
		}
		mends++
		if !errors.Is(c.Err, raidstorage.ErrClosed) {
			t.Errorf("the old repair ended with %v", c.Err)
		}
	}
	if mends == 0 {
		t.Error("there was no old repair")
	}
	if !bytes.Equal(hurt[d.file(1)], d.all(1)[d.file(1)]) {
		t.Error("the old repair has written")
	}
	second.Close()
}

// The scrub repairs while there are commits and packs, and they while it repairs.
func TestScrubRepairsWhileTheDatabaseIsUsed(t *testing.T) {
	t.Parallel()
	d := newDisks(t, 3)
	d.cfg.Scrub = raidstorage.Scrub{Interval: time.Millisecond, BytesPerSecond: 1 << 30, Repair: true}
	d.cfg.Timeouts.PackSettle = time.Millisecond
	m := d.fill()
	var users sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	for i := range raidstorage.OID(3) {
		users.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				if _, err := commit(m, 10+i, storagetest.Pickled(fmt.Sprint("user ", n))); err != nil {
					t.Errorf("commit: %v", err)
					return
				}
			}
		})
	}
	users.Go(func() {
		for ctx.Err() == nil {
			if err := m.Pack(ctx, raidstorage.PackOptions{Through: d.tids[0], NoWait: true}); err != nil && ctx.Err() == nil {
				t.Errorf("pack: %v", err)
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(300 * time.Millisecond): // else the scrub only gives way
			}
		}
	})
	events := m.Watch(ctx)
	repaired := func() {
		late := time.After(20 * time.Second)
		for {
			select {
			case e, ok := <-events:
				if ok && e.Kind == raidstorage.EventRepair {
					return
				}
				if ok {
					continue
				}
			case <-late:
			}
			st := m.Status()
			t.Fatalf("the repair does not come: %+v, the last run: %+v, backends: %+v", st.Scrub, st.Scrub.Last, st.Backends)
		}
	}
	words := []string{"another object", "a third object", "the second revision"}
	for i, word := range words {
		d.rot(i, word, 2, "#")
		repaired()
	}
	stop()
	users.Wait()
	d.wantInSync("b1", "b2", "b3")
	m.Close()
	for i := range d.dirs {
		report, err := filestorage.Check(t.Context(), d.file(i), filestorage.InspectOptions{})
		if err != nil || report.Findings != 0 {
			t.Errorf("check of %s: %+v %v", name(i), report, err)
		}
		for _, word := range words {
			if !bytes.Contains(d.all(i)[d.file(i)], []byte(word)) {
				t.Errorf("%s lacks %q", name(i), word)
			}
		}
	}
}
