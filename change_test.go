package raidstorage_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// What Change changes must be read where it is changed, not from the Config of the start.
func TestWhatChangesIsNotReadFromTheStart(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	stale := regexp.MustCompile(`\bm\.cfg\.(WriteQuorum|StartQuorum|ReadPolicy|Timeouts|Backends)\b`)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(string(text), "\n") {
			if found := stale.FindString(line); found != "" && !strings.HasSuffix(file, "_test.go") && !strings.Contains(line, "range m.cfg.Backends") {
				t.Errorf("%s:%d: %s is what the mirror was opened with; use tuned or backends", file, i+1, found)
			}
		}
	}
}

// changing runs f in a bubble, over a mirror with data on the first n of more disks.
func changing(t *testing.T, n, more int, f func(t *testing.T, w *world, m *raidstorage.Mirror)) {
	t.Helper()
	t.Parallel()
	changingIn(t, n, more, f)
}

func changingIn(t *testing.T, n, more int, f func(t *testing.T, w *world, m *raidstorage.Mirror)) {
	t.Helper()
	scenarioIn(t, n+more, func(t *testing.T, w *world) {
		w.all = w.cfg.Backends
		w.cfg.Backends = w.all[:n:n]
		m := w.start()
		w.fill(m, 20)
		f(t, w, m)
	})
}

// only is the settings of m with these backends, those that are new with their opener.
func (w *world) only(m *raidstorage.Mirror, names ...string) raidstorage.Change {
	c := m.Settings()
	present := c.Backends
	c.Backends = nil
	for _, name := range names {
		b := raidstorage.Backend{Name: name}
		if !slices.ContainsFunc(present, func(p raidstorage.Backend) bool { return p.Name == name }) {
			b.Open = w.all[slices.IndexFunc(w.all, func(a raidstorage.Backend) bool { return a.Name == name })].Open
		}
		c.Backends = append(c.Backends, b)
	}
	return c
}

// copyLog copies everything.
func copyLog(t *testing.T, from, to raidstorage.Storage) {
	t.Helper()
	for txn, err := range from.Iterate(t.Context(), 1, raidstorage.MaxTID) {
		if err != nil {
			t.Fatal(err)
		}
		storagetest.Transact(t, to, txn.Meta, func(copied raidstorage.Txn) error {
			for rec, err := range txn.Records {
				if err = errors.Join(err, copied.Restore(t.Context(), rec)); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// members checks the configured backends, in order.
func members(t *testing.T, m *raidstorage.Mirror, names ...string) {
	t.Helper()
	var got []string
	for _, b := range m.Status().Backends {
		got = append(got, b.Name)
	}
	if !slices.Equal(got, names) {
		t.Errorf("members are %v, want %v", got, names)
	}
}

func TestAnAddedBackendCountsOnlyWhenItWasRecovered(t *testing.T) {
	changing(t, 2, 1, func(t *testing.T, w *world, m *raidstorage.Mirror) {
		if err := m.Add(t.Context(), w.all[2]); err != nil {
			t.Fatal(err)
		}
		members(t, m, "b1", "b2", "b3")
		w.wantInSync("b1", "b2")
		if s, _ := state(m, "b3"); s != raidstorage.StateFailed {
			t.Errorf("b3 is %v", s)
		}
		if r := w.record(); !slices.Equal(r.New, []string{"b3"}) || !slices.Equal(r.Members, []string{"b1", "b2", "b3"}) {
			t.Errorf("record is %+v", r)
		}
		w.mustCommit(m, 1, "without b3")
		if err := m.Recover(t.Context(), "b3"); err != nil {
			t.Fatal(err)
		}
		w.mustCommit(m, 1, "with b3")
		w.wantInSync("b1", "b2", "b3")
		w.wantEqual("b1", "b2", "b3")
		if r := w.record(); len(r.New) > 0 {
			t.Errorf("new are %v", r.New)
		}
	})
}

func TestAnAddedBackendIsRecoveredByItself(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.cfg.AutoRecover = raidstorage.AutoRecoverOn
		w.all = w.cfg.Backends
		w.cfg.Backends = w.all[:2:2]
		m := w.start()
		w.fill(m, 50)
		if err := m.Add(t.Context(), w.all[2]); err != nil {
			t.Fatal(err)
		}
		w.waitState(m, "b3", raidstorage.StateInSync)
		w.wantEqual("b1", "b2", "b3")
	})
}

// A storage with the right end and a wrong beginning must not come in by its looks.
func TestAnAddedBackendIsComparedAsAWhole(t *testing.T) {
	for _, how := range []string{"added", "configured before a start"} {
		t.Run(how, func(t *testing.T) {
			changing(t, 2, 1, func(t *testing.T, w *world, m *raidstorage.Mirror) {
				copyLog(t, w.mem.stores[0].Another("source"), w.mem.stores[2].Another("target"))
				w.forge(2, 3, func(txn *storagetest.LogTransaction) { txn.Description = "forged" })
				if how == "added" {
					if err := m.Add(t.Context(), w.all[2]); err != nil {
						t.Fatal(err)
					}
				} else {
					w.crash(m)
					w.cfg.Backends = w.all
					m = w.start()
				}
				wantErr[*raidstorage.DivergedError](t, "Recover", m.Recover(t.Context(), "b3"))
				w.wantInSync("b1", "b2")
			})
		})
	}
}

func TestARemovedBackendLeavesTheRecordFirstAndIsClosed(t *testing.T) {
	changing(t, 3, 0, func(t *testing.T, w *world, m *raidstorage.Mirror) {
		gone := w.backend("b2")
		inRecord := true
		w.observe("b2", storagetest.CallClose, func() { inRecord = slices.Contains(w.record().InSync, "b2") })
		if err := m.Remove(t.Context(), "b2"); err != nil {
			t.Fatal(err)
		}
		if inRecord {
			t.Error("it was closed while the record named it, or not at all")
		}
		if _, err := gone.LastTID(t.Context()); !errors.Is(err, raidstorage.ErrClosed) {
			t.Errorf("the storage says %v", err)
		}
		members(t, m, "b1", "b3")
		w.wantInSync("b1", "b3")
		w.mustCommit(m, 1, "x")
		if s := m.Status(); s.Condition != raidstorage.Optimal {
			t.Errorf("the mirror is %v: %s", s.Condition, s.Reason)
		}
		wantErr[*raidstorage.InvalidError](t, "Recover", m.Recover(t.Context(), "b2"))
		wantErr[*raidstorage.InvalidError](t, "Disable", m.Disable(t.Context(), "b2", "x"))
		wantErr[*raidstorage.InvalidError](t, "Remove", m.Remove(t.Context(), "b2"))
	})
}

func TestAReplacedBackendIsNotTrusted(t *testing.T) {
	for _, what := range []string{"empty", "copy", "another name"} {
		t.Run(what, func(t *testing.T) {
			changing(t, 2, 0, func(t *testing.T, w *world, m *raidstorage.Mirror) {
				old, name := w.backend("b2"), "b2"
				store := memstorage.New("new")
				if what == "copy" {
					copyLog(t, w.mem.stores[1].Another("source"), store.Another("target"))
				}
				if what == "another name" {
					name = "b9"
				}
				err := m.Replace(t.Context(), "b2", raidstorage.Backend{Name: name, Open: func(context.Context) (raidstorage.Storage, error) {
					if _, err := old.LastTID(context.Background()); what != "another name" && !errors.Is(err, raidstorage.ErrClosed) {
						t.Errorf("opened before the old one was closed: %v", err)
					}
					return store.Another("new"), nil
				}})
				if err != nil {
					t.Fatal(err)
				}
				w.wantInSync("b1")
				members(t, m, "b1", name)
				w.mustCommit(m, 1, "one copy")
				if err := m.Recover(t.Context(), name); err != nil {
					t.Fatal(err)
				}
				w.wantInSync("b1", name)
				w.mustCommit(m, 1, "two copies")
				got, err := storagetest.Log(t.Context(), store.Another("log"))
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(w.log("b1"), got); diff != "" {
					t.Errorf("b1 and the new one differ:\n%s", diff)
				}
			})
		})
	}
}

func TestAChangeThatWouldLeaveTooFewIsRefusedWhole(t *testing.T) {
	t.Parallel()
	for what, test := range map[string]struct {
		quorum int
		change func(w *world, m *raidstorage.Mirror) raidstorage.Change
	}{
		"the only one in sync is removed": {1, func(w *world, m *raidstorage.Mirror) raidstorage.Change {
			return w.only(m, "b3", "b4")
		}},
		"write quorum is above those in sync": {1, func(w *world, m *raidstorage.Mirror) raidstorage.Change {
			c := w.only(m, "b1", "b2", "b3", "b4")
			c.WriteQuorum = 3
			return c
		}},
		"start quorum is above those in sync": {1, func(w *world, m *raidstorage.Mirror) raidstorage.Change {
			c := w.only(m, "b1", "b2", "b3")
			c.StartQuorum = 3
			return c
		}},
		"one of the write quorum is removed": {2, func(w *world, m *raidstorage.Mirror) raidstorage.Change {
			return w.only(m, "b1", "b3", "b4")
		}},
		"one of the write quorum is replaced": {2, func(w *world, m *raidstorage.Mirror) raidstorage.Change {
			c := m.Settings()
			c.Backends[1].Open = w.all[3].Open
			return c
		}},
		"the default quorum of five": {2, func(w *world, m *raidstorage.Mirror) raidstorage.Change {
			c := w.only(m, "b1", "b2", "b3", "b4", "b5")
			c.WriteQuorum, c.StartQuorum = 0, 0
			return c
		}},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			scenarioIn(t, 5, func(t *testing.T, w *world) {
				w.all = w.cfg.Backends
				w.cfg.Backends = w.all[:2:2]
				w.cfg.WriteQuorum = test.quorum
				m := w.start()
				w.fill(m, 10)
				before, record := m.Settings(), w.record()
				c := test.change(w, m)
				_, err := m.Plan(c)
				wantErr[*raidstorage.UnavailableError](t, "Plan", err)
				e := wantErr[*raidstorage.UnavailableError](t, "Change", m.Change(t.Context(), c))
				if !strings.Contains(e.Error(), "too few would be in sync") {
					t.Errorf("the reason is %q", e)
				}
				if diff := cmp.Diff(before, m.Settings()); diff != "" {
					t.Errorf("the settings changed:\n%s", diff)
				}
				if got := w.record(); got.Epoch != record.Epoch {
					t.Errorf("the record changed: %s", got.Reason)
				}
				w.mustCommit(m, 1, "as before")
				w.wantEqual("b1", "b2")
			})
		})
	}
}

// One that does not answer is not there, whatever the state said.
func TestThoseThatStayAreAskedUnderTheirLocks(t *testing.T) {
	changing(t, 3, 0, func(t *testing.T, w *world, m *raidstorage.Mirror) {
		c := w.only(m, "b1", "b2")
		c.WriteQuorum, c.StartQuorum = 2, 2
		w.backend("b2").CutOff()
		wantErr[*raidstorage.UnavailableError](t, "Change", m.Change(t.Context(), c))
		members(t, m, "b1", "b2", "b3")
		w.mustCommit(m, 1, "x")
		w.wantEqual("b1", "b3")
	})
}

func TestAnInvalidChangeIsRefusedAtOnce(t *testing.T) {
	changing(t, 2, 0, func(t *testing.T, w *world, m *raidstorage.Mirror) {
		for what, change := range map[string]func(c *raidstorage.Change){
			"none":     func(c *raidstorage.Change) { c.Backends = nil },
			"twice":    func(c *raidstorage.Change) { c.Backends = append(c.Backends, c.Backends[0]) },
			"no open":  func(c *raidstorage.Change) { c.Backends = append(c.Backends, raidstorage.Backend{Name: "b9"}) },
			"quorum":   func(c *raidstorage.Change) { c.WriteQuorum = 3 },
			"policy":   func(c *raidstorage.Change) { c.ReadPolicy = 99 },
			"timeouts": func(c *raidstorage.Change) { c.Timeouts.Vote = -1 },
		} {
			c := m.Settings()
			change(&c)
			_, err := m.Plan(c)
			wantErr[*raidstorage.InvalidError](t, what, err)
			wantErr[*raidstorage.InvalidError](t, what, m.Change(t.Context(), c))
		}
		wantErr[*raidstorage.InvalidError](t, "Add", m.Add(t.Context(), w.all[0]))
		wantErr[*raidstorage.InvalidError](t, "Replace", m.Replace(t.Context(), "b1", raidstorage.Backend{}))
		m.Close()
		if err := m.SetQuorum(t.Context(), 1, 1); !errors.Is(err, raidstorage.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

// Plan and the events say the same, and the settings are used.
func TestADifferenceIsToldBeforeAndAfter(t *testing.T) {
	changing(t, 3, 1, func(t *testing.T, w *world, m *raidstorage.Mirror) {
		c := w.only(m, "b4", "b3", "b1")
		c.ReadPolicy, c.StartQuorum, c.Timeouts.Vote = raidstorage.PrimaryFirst, 1, time.Second
		d, err := m.Plan(c)
		if err != nil {
			t.Fatal(err)
		}
		want := "add backend b4; remove backend b2, which is in sync; order backends as b4, b3, b1; " +
			"start quorum from 2 to 1; read policy from round robin to primary first; vote timeout from 10s to 1s"
		if d.String() != want {
			t.Errorf("the difference is %q, want %q", d, want)
		}
		members(t, m, "b1", "b2", "b3")
		events := m.Watch(t.Context())
		if err := m.Change(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		for e := range events {
			if e.Kind == raidstorage.EventChange {
				if e.Reason != want || !strings.Contains(e.String(), want) {
					t.Errorf("the event says %q", e)
				}
				break
			}
		}
		if d, err := m.Plan(c); err != nil || d.Settings != nil || d.Order != nil {
			t.Errorf("afterwards the difference is %v, %v", d, err)
		}
		loads := func(name string) int64 {
			for _, b := range m.Status().Backends {
				if b.Name == name {
					return b.Counters.Loads
				}
			}
			return -1
		}
		before := loads("b1")
		for range 10 {
			wantData(t, m, 1, string(w.mustLoad(m, 1)))
		}
		if after := loads("b1"); after != before {
			t.Errorf("b1 had %d loads more, although b3 is the first one in sync", after-before)
		}
		if err := m.Change(t.Context(), m.Settings()); err != nil {
			t.Errorf("nothing changes, and Change says %v", err)
		}
	})
}

func (w *world) mustLoad(m raidstorage.Storage, oid raidstorage.OID) []byte {
	w.t.Helper()
	rev, err := m.LoadBefore(w.t.Context(), oid, raidstorage.MaxTID)
	if err != nil {
		w.t.Fatal(err)
	}
	return rev.Data
}

func TestQuorumHoldsFromTheNextCommitOn(t *testing.T) {
	changing(t, 3, 0, func(t *testing.T, w *world, m *raidstorage.Mirror) {
		if err := m.SetQuorum(t.Context(), 3, 1); err != nil {
			t.Fatal(err)
		}
		w.backend("b2").CutOff()
		_, err := commit(m, 1, "refused")
		wantErr[*raidstorage.UnavailableError](t, "commit", err)
		// A lower one is the way out, also of a change that could not be made before.
		if err := m.SetQuorum(t.Context(), 2, 1); err != nil {
			t.Fatal(err)
		}
		w.mustCommit(m, 1, "accepted")
		w.wantInSync("b1", "b3")
		w.wantEqual("b1", "b3")
	})
}

// A mirror that waits for a dead backend, as StartQuorum says, can be told not to.
func TestALowerStartQuorumIsAWayOut(t *testing.T) {
	changing(t, 2, 0, func(t *testing.T, w *world, m *raidstorage.Mirror) {
		if err := m.SetQuorum(t.Context(), 2, 2); err != nil {
			t.Fatal(err)
		}
		w.setDown(true, "b2")
		w.backend("b2").CutOff()
		_, err := commit(m, 1, "refused")
		wantErr[*raidstorage.UnavailableError](t, "commit", err)
		<-time.After(time.Minute)
		w.wantInSync("b1", "b2")
		c := w.only(m, "b1")
		c.WriteQuorum, c.StartQuorum = 1, 1
		if err := m.Change(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		w.wantInSync("b1")
		w.mustCommit(m, 1, "accepted")
	})
}

// A dead backend may go though those that stay are too few already: nothing gets worse.
func TestWhatTakesNoneOutIsNotRefusedForTooFew(t *testing.T) {
	changing(t, 3, 1, func(t *testing.T, w *world, m *raidstorage.Mirror) {
		w.setDown(true, "b2", "b3")
		if err := m.SetQuorum(t.Context(), 2, 1); err != nil {
			t.Fatal(err)
		}
		w.backend("b2").CutOff()
		w.backend("b3").CutOff()
		_, err := commit(m, 1, "refused")
		wantErr[*raidstorage.UnavailableError](t, "commit", err)
		w.waitState(m, "b2", raidstorage.StateFailed)
		w.waitState(m, "b3", raidstorage.StateFailed)
		if err := m.Replace(t.Context(), "b3", w.all[3]); err != nil {
			t.Fatal(err)
		}
		if err := m.Recover(t.Context(), "b4"); err != nil {
			t.Fatal(err)
		}
		w.mustCommit(m, 1, "accepted")
		w.wantInSync("b1", "b4")
	})
}

func TestChangeAndPackExcludeEachOther(t *testing.T) {
	changing(t, 3, 0, func(t *testing.T, w *world, m *raidstorage.Mirror) {
		last, _ := m.LastTID(t.Context())
		w.backend("b1").Inject(storagetest.Fault{Call: storagetest.CallStagePack, Kind: storagetest.Hang, Times: 1})
		packed := make(chan error, 1)
		go func() { packed <- m.Pack(t.Context(), raidstorage.PackOptions{Through: last}) }()
		w.backend("b1").WaitFor(t.Context(), storagetest.CallStagePack, 1)
		c := w.only(m, "b1", "b3")
		c.NoWait = true
		busy := wantErr[*raidstorage.BusyError](t, "Change", m.Change(t.Context(), c))
		if busy.Holder != "pack" {
			t.Errorf("it says %v", busy)
		}
		changed := make(chan error, 1)
		go func() { changed <- m.Remove(t.Context(), "b2") }()
		<-time.After(time.Minute)
		members(t, m, "b1", "b2", "b3")
		w.backend("b1").Release()
		if err := errors.Join(<-packed, <-changed); err != nil {
			t.Fatal(err)
		}
		members(t, m, "b1", "b3")
		w.mustCommit(m, 1, "x")
	})
}

func TestChangeAndRecoveryExcludeEachOther(t *testing.T) {
	changing(t, 3, 1, func(t *testing.T, w *world, m *raidstorage.Mirror) {
		if err := m.Disable(t.Context(), "b3", "x"); err != nil {
			t.Fatal(err)
		}
		w.fill(m, 20)
		w.onNextOpen(func(name string, f *storagetest.FaultyStorage) {
			f.Inject(storagetest.Fault{Call: storagetest.CallRestore, Kind: storagetest.Hang, Times: 1})
		})
		recovered := make(chan error, 1)
		go func() { recovered <- m.Recover(t.Context(), "b3") }()
		w.waitState(m, "b3", raidstorage.StateRecovering)
		w.backend("b3").WaitFor(t.Context(), storagetest.CallRestore, 1)
		c := w.only(m, "b1", "b2", "b3", "b4")
		c.NoWait = true
		wantErr[*raidstorage.BusyError](t, "Change", m.Change(t.Context(), c))
		changed := make(chan error, 1)
		go func() { changed <- m.Add(t.Context(), w.all[3]) }()
		w.backend("b3").Release()
		if err := errors.Join(<-recovered, <-changed); err != nil {
			t.Fatal(err)
		}
		w.wantInSync("b1", "b2", "b3")
	})
}

// A recovery of what leaves is not waited for.
func TestRemovingEndsTheRecoveryOfThatBackend(t *testing.T) {
	t.Parallel()
	for _, noWait := range []bool{false, true} {
		t.Run(fmt.Sprint("no wait ", noWait), func(t *testing.T) { removingEndsTheRecovery(t, noWait) })
	}
}

func removingEndsTheRecovery(t *testing.T, noWait bool) {
	changing(t, 3, 0, func(t *testing.T, w *world, m *raidstorage.Mirror) {
		if err := m.Disable(t.Context(), "b3", "x"); err != nil {
			t.Fatal(err)
		}
		w.fill(m, 20)
		w.onNextOpen(func(name string, f *storagetest.FaultyStorage) {
			f.Inject(storagetest.Fault{Call: storagetest.CallRestore, Kind: storagetest.Hang})
		})
		recovered := make(chan error, 1)
		go func() { recovered <- m.Recover(t.Context(), "b3") }()
		w.waitState(m, "b3", raidstorage.StateRecovering)
		w.backend("b3").WaitFor(t.Context(), storagetest.CallRestore, 1)
		began := time.Now()
		c := w.only(m, "b1", "b2")
		c.NoWait = noWait
		if err := m.Change(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(began); waited > 0 {
			t.Errorf("it waited %v, as if the recovery had failed by itself", waited)
		}
		if err := <-recovered; err == nil {
			t.Error("the recovery says that it succeeded")
		}
		members(t, m, "b1", "b2")
		w.wantInSync("b1", "b2")
	})
}
