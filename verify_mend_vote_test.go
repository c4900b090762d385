package raidstorage_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/storagetest"
	"github.com/zeoraid/raidstorage/zeoclient"
	"github.com/zeoraid/raidstorage/zeoserver"
)

// wantUnchanged checks that not a byte of what any database held has changed since it was
// hurt.
func (d *disks) wantUnchanged() {
	d.t.Helper()
	for i, files := range d.good {
		now := d.all(i)
		for path, b := range files {
			if !strings.HasPrefix(string(now[path]), string(b)) || strings.HasSuffix(path, ".blob") && len(now[path]) != len(b) {
				d.t.Errorf("%s was changed", path)
			}
		}
	}
}

// hurtBy hurts the disks, and remembers what they hold then.
func (d *disks) hurtBy(do func()) {
	do()
	for i := range d.dirs {
		d.good[i] = d.all(i)
	}
}

func (d *disks) disable(name string) {
	if err := d.m.Disable(context.Background(), name, "meanwhile"); err != nil {
		d.t.Error(err)
	}
}

func (d *disks) wantDamaged(names ...string) {
	d.t.Helper()
	r, err := d.reg.Load(d.t.Context())
	if err != nil || !slices.Equal(r.Damaged, names) {
		d.t.Errorf("damaged are %v (%v), want %v", r.Damaged, err, names)
	}
}

// onIterate runs f once, before the iteration of a backend that is the n-th one, from 1, to
// begin at a transaction.
func (d *disks) onIterate(name string, tid raidstorage.TID, n int, f func()) {
	seen := d.seen[name]
	var done atomic.Bool
	seen.Inject(storagetest.Fault{Call: storagetest.CallIterate, Kind: storagetest.Observe, Hook: func() {
		count := 0
		for _, c := range seen.Calls() {
			if c.Call == storagetest.CallIterate && c.TID == tid {
				count++
			}
		}
		if count >= n && done.CompareAndSwap(false, true) {
			f()
		}
	}})
}

// A good member that drops out between the comparison and the repair must not make the
// damaged copy the one that most hold: the good copy would be overwritten.
func TestRepairCountsThoseWhoDropOutMeanwhile(t *testing.T) {
	t.Parallel()
	t.Run("record", func(t *testing.T) {
		t.Parallel()
		d := newDisks(t, 4)
		d.fill()
		d.hurtBy(func() {
			d.rot(2, "another object", 3, "#")
			d.rot(3, "another object", 3, "#")
		})
		dropped := false
		d.onIterate("b4", d.tids[3], 1, func() { dropped = true; d.disable("b1") })
		if report := d.repair(); report.Repaired != 0 || report.Findings == 0 || len(report.Degraded) > 0 {
			t.Errorf("the report is %+v", report)
		}
		if !dropped {
			t.Error("b1 did not drop out")
		}
		d.wantUnchanged()
		d.wantInSync("b2", "b3", "b4")
	})
	t.Run("blob", func(t *testing.T) {
		t.Parallel()
		d := newDisks(t, 4)
		d.fill()
		d.hurtBy(func() {
			d.rewriteBlob(2, "what the blob hXlds")
			d.rewriteBlob(3, "what the blob hXlds")
		})
		n := 0
		d.hurtBlobs("b4", func(context.Context) error {
			if n++; n == 3 { // the others have been read, and voted
				d.disable("b1")
			}
			return nil
		})
		if report := d.repair(); report.Repaired != 0 || report.Findings == 0 || len(report.Degraded) > 0 {
			t.Errorf("the report is %+v", report)
		}
		if n < 3 {
			t.Error("b1 did not drop out")
		}
		d.wantUnchanged()
		d.wantInSync("b2", "b3", "b4")
	})
}

// Two of three are a majority; when one of them has dropped out they are none.
func TestRepairNeedsTheMajorityAtThatMoment(t *testing.T) {
	t.Parallel()
	t.Run("record", func(t *testing.T) {
		t.Parallel()
		d := newDisks(t, 3)
		d.cfg.WriteQuorum = 1
		d.fill()
		d.hurtBy(func() { d.rot(1, "another object", 3, "#") })
		d.onIterate("b3", d.tids[3], 1, func() { d.disable("b1") })
		if report := d.repair(); report.Repaired != 0 || report.Findings == 0 {
			t.Errorf("the report is %+v", report)
		}
		d.wantUnchanged()
	})
	for _, gone := range []string{"b1", "b3"} { // the source of the copy, and another voter
		t.Run("blob, without "+gone, func(t *testing.T) {
			t.Parallel()
			d := newDisks(t, 3)
			d.cfg.WriteQuorum = 1
			d.fill()
			d.hurtBy(func() { d.rewriteBlob(1, "what the blob hXlds") })
			d.seen["b2"].Inject(storagetest.Fault{Call: storagetest.CallStageBlob, Kind: storagetest.Observe, Hook: func() { d.disable(gone) }})
			report := d.repair()
			if report.Repaired != 0 || report.Findings != 1 || len(report.Degraded) > 0 || !strings.Contains(report.Listed[0].Detail, "nothing is changed") {
				t.Errorf("the report is %+v", report)
			}
			d.wantUnchanged()
		})
	}
	for i, voter := range []int{0, 1, 2, 0} {
		members := 3 + i/3*2 // the last one: four of five voted, but the source is another one now
		t.Run(fmt.Sprintf("blob, of %d, of which the file of %s has changed since", members, name(voter)), func(t *testing.T) {
			t.Parallel()
			d := newDisks(t, members)
			d.fill()
			d.rewriteBlob(1, "what the blob hXlds")
			d.seen["b2"].Inject(storagetest.Fault{Call: storagetest.CallStageBlob, Kind: storagetest.Observe, Hook: func() {
				d.hurtBy(func() { d.rewriteBlob(voter, "what the blob hZlds") })
			}})
			report := d.repair()
			if report.Repaired != 0 || report.Findings != 1 {
				t.Errorf("the report is %+v", report)
			}
			d.wantUnchanged()
		})
	}
}

// When not all can be asked again nothing is repaired, and the finding stays.
func TestFindingsStayWhenNotAllAnswerAgain(t *testing.T) {
	t.Parallel()
	for what, hurt := range map[string]func(d *disks){
		"record": func(d *disks) { d.rot(1, "first revision", 3, "#") },
		"blob":   func(d *disks) { d.rewriteBlob(1, "what the blob hXlds") },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			d := newDisks(t, 3)
			d.fill()
			d.hurtBy(func() { hurt(d) })
			tid := d.tids[1]
			if what == "blob" {
				tid = d.tids[5]
			}
			d.onIterate("b3", tid, 1, func() {
				d.seen["b3"].Clear()
				d.seen["b3"].Inject(storagetest.Fault{Call: storagetest.CallIterate, Times: 1})
			})
			if report := d.repair(); report.Repaired != 0 || report.Findings != 1 || report.Wrong["b2"] != 1 || !slices.Equal(report.Degraded, []string{"b2"}) {
				t.Errorf("the report is %+v", report)
			}
			d.wantUnchanged()
		})
	}
}

// What pickles tell counts for a mirror of two only: a third one may know better.
func TestRepairOfTwoWaitsForTheThird(t *testing.T) {
	t.Parallel()
	d := newDisks(t, 3)
	d.cfg.WriteQuorum = 1
	d.fill()
	d.disable("b3")
	d.hurtBy(func() { d.rot(1, "textX\x0e\x00\x00\x00another object", 4, "\xff") })
	if report := d.repair(); report.Repaired != 0 || report.Findings == 0 || len(report.Degraded) > 0 {
		t.Errorf("the report is %+v", report)
	}
	d.wantUnchanged()
	d.wantInSync("b1", "b2")
}

// Most hold the same damage, as it was copied: that is not right about a sound one.
func TestRepairOfASoundCopyByBrokenOnesChangesNothing(t *testing.T) {
	t.Parallel()
	d := newDisks(t, 3)
	d.cfg.WriteQuorum = 1
	d.fill()
	d.hurtBy(func() {
		for i := range 2 {
			d.rot(i, "textX\x12\x00\x00\x00the first", 4, "\xff")
		}
	})
	if report := d.repair(); report.Repaired != 0 || report.Findings == 0 || len(report.Degraded) > 0 {
		t.Errorf("the report is %+v", report)
	}
	d.wantUnchanged()
	d.wantInSync("b1", "b2", "b3")
}

// A file that is missing is copied from a majority only: else the one copy would count
// twice ever after. Who lacks it is degraded, but never the last good one.
func TestRepairOfAMissingBlobNeedsAMajority(t *testing.T) {
	t.Parallel()
	for members, gone := range map[int][]int{2: {1}, 3: {1, 2}} {
		d := newDisks(t, members)
		d.fill()
		d.hurtBy(func() {
			for _, i := range gone {
				if err := os.Remove(d.blob(i)); err != nil {
					t.Fatal(err)
				}
			}
		})
		report := d.repair()
		if report.Repaired != 0 || report.Findings != int64(len(gone)) || slices.Contains(report.Degraded, "b1") {
			t.Errorf("%d: the report is %+v", members, report)
		}
		for _, i := range gone {
			if _, err := os.Stat(filepath.Join(d.dirs[i], "blobs", "damaged")); err == nil {
				t.Errorf("%d: something was kept", members)
			}
		}
		d.wantUnchanged()
	}
}

// A repair that fails leaves the mark of damage, whatever becomes of the backend: it is not
// taken for sound when it was opened again.
func TestFailedRepairsLeaveTheirMark(t *testing.T) {
	t.Parallel()
	for kind, fault := range map[string]storagetest.Fault{
		"fails":             {Kind: storagetest.Fail},
		"fails afterwards":  {Kind: storagetest.LoseReply},
		"loses its backend": {Kind: storagetest.Disconnect},
		"refuses":           {Kind: storagetest.Fail, Err: &raidstorage.InvalidError{Op: "mend", Reason: "no"}},
	} {
		fault.Call = storagetest.CallMend
		for what, do := range map[string]func(d *disks){
			"record": func(d *disks) { d.rot(1, "another object", 3, "#") },
			"blob":   func(d *disks) { d.rewriteBlob(1, "what the blob hXlds") },
		} {
			t.Run(what+" "+kind, func(t *testing.T) {
				t.Parallel()
				d := newDisks(t, 3)
				d.fill()
				do(d)
				d.seen["b2"].Inject(fault)
				report := d.repair()
				if report.Repaired != 0 || !slices.Equal(report.Degraded, []string{"b2"}) || len(report.Listed) == 0 || report.Listed[0].Repaired ||
					!strings.Contains(report.Listed[0].Detail, "it was not repaired") {
					t.Errorf("the report is %+v", report)
				}
				d.wantDamaged("b2")
				d.wantInSync("b1", "b3")
			})
			t.Run(what+" "+kind+", and too few others stay", func(t *testing.T) {
				t.Parallel()
				d := newDisks(t, 3)
				d.cfg.WriteQuorum = 3
				d.fill()
				do(d)
				d.seen["b2"].Inject(fault)
				report, err := d.m.Verify(t.Context(), raidstorage.VerifyOptions{Blobs: true, Repair: true})
				if err != nil && fault.Kind != storagetest.Disconnect { // then there is no quorum at first
					t.Error(err)
				}
				if report.Repaired != 0 || len(report.Degraded) > 0 || err == nil && report.Kept == "" || len(report.Listed) == 0 || !report.Listed[0].Wrong {
					t.Errorf("the report is %+v", report)
				}
				d.wantDamaged("b2")
			})
		}
	}
}

// A storage that is busy, as with the dry run of a pack, has not failed to be repaired: its
// backend is treated as if nothing were to be repaired.
func TestRepairOfABusyStorageLeavesNoMark(t *testing.T) {
	t.Parallel()
	d := newDisks(t, 3)
	d.cfg.WriteQuorum = 3
	d.fill()
	d.rot(1, "another object", 3, "#")
	d.seen["b2"].Inject(storagetest.Fault{Call: storagetest.CallMend, Kind: storagetest.Fail, Err: &raidstorage.BusyError{Op: "mend", Holder: "pack"}, Times: 2})
	report := d.repair()
	if report.Repaired != 0 || report.Kept == "" || report.Wrong["b2"] == 0 {
		t.Errorf("the report is %+v", report)
	}
	if damaged := d.m.Status().Membership.Damaged; len(damaged) > 0 {
		t.Errorf("by the record %v are damaged", damaged)
	}
	if report := d.repair(); report.Repaired != 1 || report.Findings != 1 {
		t.Errorf("later the report is %+v", report)
	}
	d.wantAsBefore()
}

// A blob that hangs costs its deadline and holds up no commit.
func TestRepairOfBlobsHasADeadline(t *testing.T) {
	t.Parallel()
	d := newDisks(t, 3)
	d.cfg.Timeouts.Read = 2 * time.Second
	m := d.fill()
	d.hurtBy(func() { d.rewriteBlob(1, "what the blob hXlds") })
	n := 0
	d.hurtBlobs("b1", func(ctx context.Context) error {
		if n++; n != 4 { // the copy is made
			return nil
		}
		for i := range raidstorage.OID(5) {
			if _, err := commit(m, 20+i, storagetest.Pickled("meanwhile")); err != nil {
				t.Error(err)
			}
		}
		<-ctx.Done()
		return ctx.Err()
	})
	begun := time.Now()
	report := d.repair()
	if took := time.Since(begun); took > 20*time.Second || report.Repaired != 0 || !slices.Equal(report.Degraded, []string{"b2"}) || n != 4 {
		t.Errorf("after %v and %d reads the report is %+v", took, n, report)
	}
	d.wantDamaged("b2")
}

// A header that is damaged after the logs were compared: an index that was right is not
// moved back, and the sound one is not degraded.
func TestDamageAfterTheComparisonOfLogs(t *testing.T) {
	t.Parallel()
	d := newDisks(t, 2)
	d.fill()
	var once sync.Once
	d.seen["b2"].Inject(storagetest.Fault{Call: storagetest.CallCurrentRecords, Kind: storagetest.Observe, Hook: func() {
		once.Do(func() { d.hurtBy(func() { d.header(1, storagetest.Pickled("the second revision", 3), 5) }) })
	}})
	report := d.repair()
	if report.Repaired != 0 || report.Findings == 0 || slices.Contains(report.Degraded, "b1") {
		t.Errorf("the report is %+v", report)
	}
	d.wantUnchanged()
	if r, err := d.reg.Load(t.Context()); err != nil || !slices.Contains(r.InSync, "b1") || len(r.Damaged) > 1 {
		t.Errorf("the record is %+v (%v)", r, err)
	}
}

// The scrub and Verify repair only if they are told to.
func TestWhoRepairs(t *testing.T) {
	t.Parallel()
	for _, off := range []bool{false, true} {
		d := newDisks(t, 3)
		d.cfg.Scrub = raidstorage.Scrub{Interval: time.Hour, Repair: !off}
		d.cfg.Scrub.Interval = time.Millisecond
		d.fill()
		d.rot(1, "another object", 3, "#")
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		for e := range d.m.Watch(ctx) {
			if s := scrub(t, d.m); e.Kind == raidstorage.EventScrub && s.Findings > 0 {
				break
			}
		}
		s := scrub(t, d.m)
		if s.Findings == 0 || (s.Repaired > 0) == off || s.Repair == off {
			t.Errorf("off %v: %+v", off, s)
		}
		if off {
			d.wantInSync("b1", "b3")
		} else {
			d.wantInSync("b1", "b2", "b3")
			d.wantAsBefore()
		}
		d.m.Close()
	}
	d := newDisks(t, 3)
	d.fill()
	d.hurtBy(func() { d.rot(1, "another object", 3, "#") })
	if report := verify(t, d.m, raidstorage.VerifyOptions{Blobs: true}); report.Repaired != 0 || !slices.Equal(report.Degraded, []string{"b2"}) {
		t.Errorf("Verify: %+v", report)
	}
	d.wantUnchanged()
}

// served makes a disk one behind a ZEO server of ours.
func (d *disks) served(i int) {
	d.t.Helper()
	dir := d.dirs[i]
	s, err := filestorage.Open(d.t.Context(), d.file(i), filestorage.Options{BlobDir: filepath.Join(dir, "blobs"), Durability: filestorage.NoSync})
	if err != nil {
		d.t.Fatal(err)
	}
	server, err := zeoserver.New(zeoserver.Config{Storages: map[string]raidstorage.Storage{"1": s}, TempDir: d.t.TempDir()})
	if err != nil {
		d.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		d.t.Fatal(err)
	}
	var group sync.WaitGroup
	group.Go(func() { _ = server.Serve(l) }) // until the end
	d.t.Cleanup(func() {
		_ = server.Close() // what it does for clients ends in errors, for them
		_ = s.Close()
		group.Wait()
	})
	d.cfg.Backends[i].Open = func(ctx context.Context) (raidstorage.Storage, error) {
		c, err := zeoclient.Open(ctx, zeoclient.Options{Addresses: []string{l.Addr().String()}})
		if err != nil {
			return nil, err
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.open[name(i)] = s
		return c, nil
	}
}

// A ZEO server votes, and is not repaired but degraded.
func TestRepairWithAZEOMember(t *testing.T) {
	t.Parallel()
	for what, hurt := range map[string]func(d *disks, i int){
		"record":                func(d *disks, i int) { d.rot(i, "another object", 3, "#") },
		"blob":                  func(d *disks, i int) { d.rewriteBlob(i, "what the blob hXlds") },
		"a pickle that is none": func(d *disks, i int) { d.rot(i, "textX\x0e\x00\x00\x00another object", 4, "\xff") },
	} {
		for _, members := range []int{2, 3} {
			if members == 2 && !strings.Contains(what, "pickle") {
				continue
			}
			t.Run(fmt.Sprintf("%s, %d members", what, members), func(t *testing.T) {
				t.Parallel()
				t.Run("of a file", func(t *testing.T) {
					d := newDisks(t, members)
					d.served(members - 1)
					d.fill()
					hurt(d, 0)
					if report := d.repair(); report.Repaired != 1 || report.Findings != 1 {
						t.Errorf("the report is %+v", report)
					}
					d.wantAsBefore()
					d.wantInSync([]string{"b1", "b2", "b3"}[:members]...)
					d.m.Close()
				})
				t.Run("of the server", func(t *testing.T) {
					d := newDisks(t, members)
					d.served(members - 1)
					d.fill()
					d.hurtBy(func() { hurt(d, members-1) })
					report := d.repair()
					if report.Repaired != 0 || !slices.Equal(report.Degraded, []string{name(members - 1)}) || !strings.Contains(report.Listed[0].Detail, "replace it by an empty one") {
						t.Errorf("the report is %+v", report)
					}
					d.wantUnchanged()
					d.wantDamaged(name(members - 1))
					d.m.Close()
				})
			})
		}
	}
}
