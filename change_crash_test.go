package raidstorage_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// Whatever the register does to the one change of the record, the configuration is the
// old one after an error, with all that were in sync, and nothing comes later.
func TestAfterAnErrorTheOldConfigurationIsInForce(t *testing.T) {
	t.Parallel()
	for _, fault := range []registerFault{registerFails, registerLosesReply, registerIsLate} {
		for _, times := range []int{1, 2, 3} {
			t.Run(fmt.Sprintf("%d, %d times", fault, times), func(t *testing.T) {
				t.Parallel()
				changingIn(t, 3, 1, func(t *testing.T, w *world, m *raidstorage.Mirror) {
					before := m.Settings()
					left := times
					w.reg.on(func(raidstorage.Membership) registerFault {
						if left--; left >= 0 {
							return fault
						}
						return registerWorks
					})
					c := w.only(m, "b4", "b1")
					c.WriteQuorum, c.StartQuorum, c.ReadPolicy = 1, 1, raidstorage.PrimaryFirst
					wantErr[*raidstorage.UnavailableError](t, "Change", m.Change(t.Context(), c))
					if diff := cmp.Diff(before, m.Settings()); diff != "" {
						t.Errorf("the settings changed:\n%s", diff)
					}
					<-time.After(time.Hour)
					for _, err := range w.reg.deliver() {
						wantErr[*raidstorage.EpochError](t, "what is late", err)
					}
					if times == 1 { // the register is back at once: nobody has left
						w.wantInSync("b1", "b2", "b3")
					}
					for _, name := range []string{"b2", "b3"} {
						if err := m.Recover(t.Context(), name); err != nil {
							t.Fatal(err)
						}
					}
					w.mustCommit(m, 1, "x")
					w.wantInSync("b1", "b2", "b3")
					w.wantEqual("b1", "b2", "b3")
					if r := w.record(); !slices.Equal(r.Members, []string{"b1", "b2", "b3"}) || len(r.New) > 0 {
						t.Errorf("the record is %+v", r)
					}
					if err := m.Change(t.Context(), c); err != nil { // at last
						t.Fatal(err)
					}
					w.wantInSync("b1")
				})
			})
		}
	}
}

// The process dies before, in the middle of, or after the change of the record; either
// configuration opens then, and has every acknowledged transaction.
func TestAfterACrashEitherConfigurationOpens(t *testing.T) {
	t.Parallel()
	changes := map[string][]string{"add": {"b1", "b2", "b3", "b4"}, "remove": {"b1", "b3"}, "replace": {"b1", "b2", "b3"}, "both": {"b4", "b3", "b1"}}
	for kind, names := range changes {
		for _, when := range []string{"before", "reply lost", "after", "recovered"} {
			for _, config := range []string{"old", "new"} {
				t.Run(fmt.Sprintf("%s, %s, %s", kind, when, config), func(t *testing.T) {
					t.Parallel()
					scenarioIn(t, 4, func(t *testing.T, w *world) {
						for i := range w.cfg.Backends {
							w.cfg.Backends[i].Identity = "disk " + name(i)
						}
						w.all = w.cfg.Backends
						w.cfg.Backends = w.all[:3:3]
						m := w.start()
						w.fill(m, 20)
						c := w.only(m, names...)
						wanted := make([]raidstorage.Backend, 0, len(names))
						for i, name := range names {
							all := slices.IndexFunc(w.all, func(a raidstorage.Backend) bool { return a.Name == name })
							c.Backends[i].Identity = w.all[all].Identity
							if kind == "replace" && name == "b2" { // by another disk, which is empty
								c.Backends[i].Open, c.Backends[i].Identity = w.opener(3), "another disk"
								wanted = append(wanted, c.Backends[i])
								continue
							}
							wanted = append(wanted, w.all[all])
						}
						w.reg.on(func(next raidstorage.Membership) registerFault {
							if !strings.HasPrefix(next.Reason, "change: ") || when == "after" || when == "recovered" {
								return registerWorks
							}
							if when == "before" {
								w.reg.dead = true // the register's lock is held here
								return registerFails
							}
							return registerDies
						})
						err := m.Change(t.Context(), c)
						if (err == nil) != (when == "after" || when == "recovered") {
							t.Fatalf("Change: %v", err)
						}
						if err == nil {
							w.mustCommit(m, 1, "after")
						}
						if when == "recovered" {
							for _, name := range names {
								if err := m.Recover(t.Context(), name); err != nil {
									t.Fatal(err)
								}
							}
							w.mustCommit(m, 1, "recovered")
						}
						want := w.log("b1")
						w.crash(m)
						if config == "new" {
							w.cfg.Backends = wanted
						}
						m = w.start()
						got, err := storagetest.Log(t.Context(), m)
						if err != nil {
							t.Fatal(err)
						}
						if diff := cmp.Diff(want, got); diff != "" {
							t.Errorf("after the restart the log is another one:\n%s", diff)
						}
						for _, b := range w.cfg.Backends {
							if err := m.Recover(t.Context(), b.Name); err != nil {
								t.Errorf("recover %s: %v", b.Name, err)
							}
						}
						w.mustCommit(m, 1, "restarted")
						if s := m.Status(); s.Condition != raidstorage.Optimal {
							t.Errorf("the mirror is %v: %s", s.Condition, s.Reason)
						}
					})
				})
			}
		}
	}
}

// With the identities in the record, an exchanged storage is not trusted for its name.
func TestAnExchangedStorageIsNotTrustedAtAStart(t *testing.T) {
	t.Parallel()
	for _, moved := range []int{1, 2} {
		t.Run(fmt.Sprint(moved, " of 2"), func(t *testing.T) {
			scenario(t, 3, func(t *testing.T, w *world) {
				w.cfg.Backends = w.cfg.Backends[:2]
				for i := range w.cfg.Backends {
					w.cfg.Backends[i].Identity = "old place of " + name(i)
				}
				m := w.start()
				w.fill(m, 20)
				w.crash(m)
				if moved == 1 {
					w.cfg.Backends[1].Open, w.cfg.Backends[1].Identity = w.opener(2), "new place"
					w.setDown(true, "b1")
					_, err := raidstorage.Open(t.Context(), w.cfg)
					wantErr[*raidstorage.StartError](t, "Open with the exchanged one alone", err)
					w.setDown(false, "b1")
					m = w.start()
					w.wantInSync("b1")
					if err := m.Recover(t.Context(), "b2"); err != nil {
						t.Fatal(err)
					}
				} else { // the database has moved as a whole, which an operator has to say
					for i := range w.cfg.Backends {
						w.cfg.Backends[i].Identity = "new place of " + name(i)
					}
					_, err := raidstorage.Open(t.Context(), w.cfg)
					wantErr[*raidstorage.StartError](t, "Open after a move", err)
					w.cfg.Force = []string{"b1", "b2"}
					m = w.start()
				}
				w.wantInSync("b1", "b2")
				w.mustCommit(m, 1, "x")
			})
		})
	}
}

// Writers and readers do not notice changes but by waiting.
func TestCommitsAndReadsGoOnDuringChanges(t *testing.T) {
	scenario(t, 5, func(t *testing.T, w *world) {
		w.all = w.cfg.Backends
		w.cfg.Backends = w.all[:3:3]
		w.cfg.AutoRecover = raidstorage.AutoRecoverOn
		m := w.start()
		w.fill(m, 20)
		ctx, stop := context.WithCancel(t.Context())
		var clients sync.WaitGroup
		var mu sync.Mutex
		acknowledged := map[raidstorage.TID]string{}
		for i := range 4 {
			clients.Go(func() {
				oid := raidstorage.OID(1000 + i)
				for n := 0; ctx.Err() == nil; n++ {
					data := fmt.Sprintf("%d of %d", n, i)
					tid, err := commit(m, oid, data)
					if err != nil {
						t.Errorf("commit %s: %v", data, err)
						return
					}
					mu.Lock()
					acknowledged[tid] = data
					mu.Unlock()
					wantData(t, m, oid, data)
					<-time.After(time.Millisecond)
				}
			})
		}
		sets := [][]string{{"b1", "b2", "b3", "b4"}, {"b1", "b4", "b3"}, {"b5", "b4", "b3"}, {"b5", "b4", "b3", "b1", "b2"}, {"b2", "b1"}, {"b1", "b2", "b3"}}
		for range 3 {
			for i, names := range sets {
				c := w.only(m, names...)
				c.WriteQuorum, c.StartQuorum, c.ReadPolicy = 1, 1, raidstorage.ReadPolicy(i%3)
				if err := m.Change(t.Context(), c); err != nil {
					t.Fatal(err)
				}
				for _, name := range names {
					w.waitState(m, name, raidstorage.StateInSync)
				}
				<-time.After(10 * time.Millisecond)
			}
		}
		stop()
		clients.Wait()
		log := w.wantEqual("b1", "b2", "b3")
		for _, txn := range log {
			if acknowledged[txn.TID] == txn.Description {
				delete(acknowledged, txn.TID)
			}
		}
		if len(acknowledged) > 0 {
			t.Errorf("%d acknowledged transactions are lost", len(acknowledged))
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
}

// Two changes at once: one after the other, each as a whole.
func TestChangesComeOneAfterTheOther(t *testing.T) {
	changing(t, 2, 3, func(t *testing.T, w *world, m *raidstorage.Mirror) {
		var all sync.WaitGroup
		for i := 2; i < 5; i++ {
			all.Go(func() {
				if err := m.Add(t.Context(), w.all[i]); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if n := len(m.Status().Backends); n != 5 {
			t.Errorf("%d backends", n)
		}
	})
}
