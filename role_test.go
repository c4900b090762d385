package raidstorage_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

const (
	full  = raidstorage.RoleFull
	async = raidstorage.RoleAsync
	spare = raidstorage.RoleSpare
)

// wantRole checks what a backend is and what it is configured as, in the status and in
// the record.
func (w *world) wantRole(m *raidstorage.Mirror, name string, configured, actual raidstorage.Role) {
	w.t.Helper()
	b := status(w.t, m, name)
	if b.Configured != configured || b.Role != actual {
		w.t.Errorf("%s is %v and configured as %v, want %v and %v", name, b.Role, b.Configured, actual, configured)
	}
	r := w.record()
	if got := r.Roles[name]; got.Configured != configured || got.Actual != actual {
		w.t.Errorf("by the record %s is %+v, want %v, and %v", name, got, configured, actual)
	}
	for _, in := range r.InSync {
		if r.Roles[in].Actual != full {
			w.t.Errorf("in sync is %s, which is %v", in, r.Roles[in].Actual)
		}
	}
}

func TestQuorumsCountFullBackendsOnly(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		roles  string // f, a, s
		quorum int
		want   string // "" or part of the error
	}{
		{roles: "f", quorum: 1},
		{roles: "fa", quorum: 1},
		{roles: "ffaaass", quorum: 1},
		{roles: "fffa", quorum: 2},
		{roles: "ffffas", quorum: 3},
		{roles: "a", want: "no backend has the role full"},
		{roles: "as", want: "no backend has the role full"},
	} {
		scenarioIn(t, len(c.roles), func(t *testing.T, w *world) {
			for i, r := range c.roles {
				w.cfg.Backends[i].Role = map[rune]raidstorage.Role{'f': full, 'a': async, 's': spare}[r]
			}
			if c.want != "" {
				_, err := raidstorage.Open(t.Context(), w.cfg)
				if e := wantErr[*raidstorage.InvalidError](t, "Open", err); !strings.Contains(e.Reason, c.want) {
					t.Errorf("%s: %v", c.roles, err)
				}
				return
			}
			m := w.start()
			if got := m.Settings().WriteQuorum; got != c.quorum {
				t.Errorf("%s: the default quorum is %d, want %d", c.roles, got, c.quorum)
			}
			w.mustCommit(m, 1, "x")
			m.Close()
			w.cfg.WriteQuorum = strings.Count(c.roles, "f") + 1
			_, err := raidstorage.Open(t.Context(), w.cfg)
			wantErr[*raidstorage.InvalidError](t, c.roles+" with a quorum of more than the full ones", err)
		})
	}
	for _, wrong := range []raidstorage.Backend{{Role: 3}, {Role: -1}, {Bandwidth: -1}} {
		w := newWorld(t, 2)
		w.cfg.Backends[1].Role, w.cfg.Backends[1].Bandwidth = wrong.Role, wrong.Bandwidth
		if err := w.cfg.Validate(); err == nil {
			t.Errorf("%+v is valid", wrong)
		}
	}
}

// The record's role stands until another one is configured than when it was written.
func TestRolesOfTheRecordAndOfTheConfiguration(t *testing.T) {
	t.Parallel()
	const none = raidstorage.Role(9)
	for _, c := range []struct {
		configured, recorded raidstorage.Role // at the first start, and changed to while it ran
		now                  raidstorage.Role // configured at the next one
		want                 raidstorage.Role
	}{
		{full, none, full, full},
		{async, none, async, async},
		{async, full, async, full},  // promoted, and stays so
		{full, async, full, async},  // demoted, and stays so
		{async, full, full, full},   // the configuration follows
		{async, full, spare, spare}, // and decides anew
		{full, async, async, async},
		{full, none, async, async},
		{full, none, spare, spare},
		{async, none, full, full},
		{spare, full, async, async},
	} {
		scenarioIn(t, 3, func(t *testing.T, w *world) {
			what := fmt.Sprintf("configured %v, then %v, configured %v", c.configured, c.recorded, c.now)
			w.cfg.Backends[2].Role = c.configured
			w.cfg.AutoRecover = raidstorage.AutoRecoverOn
			m := w.start()
			w.fill(m, 10)
			synctest.Wait()
			var err error
			switch {
			case c.recorded == full:
				err = m.Promote(t.Context(), "b3")
			case c.recorded == async:
				err = m.Demote(t.Context(), "b3")
			}
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			w.mustCommit(m, 1, "x")
			w.crash(m)
			w.cfg.Backends[2].Role = c.now
			m = w.start()
			w.wantRole(m, "b3", c.now, c.want)
			w.mustCommit(m, 1, "y")
			time.Sleep(time.Minute)
			switch c.want {
			case full:
				w.wantInSync("b1", "b2", "b3")
				w.wantEqual("b1", "b2", "b3")
			case async:
				w.wantInSync("b1", "b2")
				w.wantEqual("b1", "b2", "b3")
			case spare:
				w.wantInSync("b1", "b2")
				if s, _ := state(m, "b3"); s != raidstorage.StateStandby {
					t.Errorf("%s: it is %v", what, s)
				}
			}
			if c := m.Status().Condition; c != raidstorage.Optimal {
				t.Errorf("%s: the mirror is %v", what, c)
			}
			m.Close()
		})
	}
}

// A start that would leave nothing in sync because of new roles is refused, and Force
// makes an asynchronous copy the one to go on from.
func TestAStartWithoutAnyFullOneInSyncIsRefused(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.cfg.Backends[1].Role = async
		m := w.start()
		w.fill(m, 10)
		synctest.Wait()
		m.Close()
		w.cfg.Backends[0].Role, w.cfg.Backends[1].Role = async, full
		_, err := raidstorage.Open(t.Context(), w.cfg)
		e := wantErr[*raidstorage.StartError](t, "Open", err)
		if !strings.Contains(e.Backends["b1"], "now configured as async") {
			t.Errorf("the error is %v", err)
		}
		// The site of b1 has burnt down.
		w.cfg.Backends[0].Role, w.cfg.Backends[1].Role = full, async
		w.setDown(true, "b1")
		_, err = raidstorage.Open(t.Context(), w.cfg)
		e = wantErr[*raidstorage.StartError](t, "Open", err)
		if !strings.Contains(e.Backends["b2"], "async") {
			t.Errorf("the error is %v", err)
		}
		w.cfg.Force = []string{"b2"}
		m = w.start()
		w.wantInSync("b2")
		w.wantRole(m, "b2", async, full)
		w.mustCommit(m, 1, "on the copy")
		m.Close()
		w.cfg.Force = nil
		m = w.start()
		wantData(t, m, 1, "on the copy")
	})
}

// Records from before there were roles are read, and are as configured.
func TestRecordsWithoutRoles(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		old := `{"epoch":7,"mirror":"m","members":["b1","b2","b3"],"in_sync":["b1","b2","b3"],"reason":"b3 recovered","time":"2026-01-01T00:00:00Z"}`
		var record raidstorage.Membership
		if err := json.Unmarshal([]byte(old), &record); err != nil {
			t.Fatal(err)
		}
		for record.Epoch = range uint64(7) { // as a register has got there
			record.Epoch++
			if err := w.reg.CompareAndSet(t.Context(), record); err != nil {
				t.Fatal(err)
			}
		}
		m := w.start()
		w.wantInSync("b1", "b2", "b3")
		m.Close()
		record = w.record()
		text, err := json.Marshal(record)
		if err != nil || strings.Contains(string(text), "role") {
			t.Errorf("the record of full backends is %s, %v", text, err)
		}
		w.cfg.Backends[2].Role = async
		m = w.start()
		w.wantInSync("b1", "b2")
		w.wantRole(m, "b3", async, async)
		text, err = json.Marshal(w.record())
		var back raidstorage.Membership
		if err != nil || json.Unmarshal(text, &back) != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(w.record(), back); diff != "" {
			t.Errorf("the record as JSON (-want +got):\n%s", diff)
		}
		var role raidstorage.Role
		wantErr[*raidstorage.InvalidError](t, "a word that is no role", role.UnmarshalText([]byte("primary")))
	})
}

func TestPromote(t *testing.T) {
	following(t, 2, func(t *testing.T, w *world, name string) {
		m := w.start()
		w.fill(m, 20)
		synctest.Wait()
		if err := m.Promote(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		w.wantInSync("b1", "b2", "b3")
		w.wantRole(m, name, async, full)
		w.mustCommit(m, 1, "on three")
		w.wantEqual("b1", "b2", "b3")
		if err := m.Promote(t.Context(), name); err != nil {
			t.Errorf("once more: %v", err)
		}
		// It is all that is left, and what is acknowledged then is not lost.
		w.setDown(true, "b1", "b2")
		w.backend("b1").CutOff()
		w.backend("b2").CutOff()
		w.mustCommit(m, 1, "on the promoted one alone")
		w.wantInSync("b3")
		w.crash(m)
		m = w.start()
		wantData(t, m, 1, "on the promoted one alone")
		w.setDown(false, "b1", "b2")
		for _, name := range []string{"b1", "b2"} {
			if err := m.Recover(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
		w.wantEqual("b1", "b2", "b3")
		if err := m.Demote(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		w.wantRole(m, name, async, async)
		w.mustCommit(m, 1, "on two")
		synctest.Wait()
		w.wantEqual("b1", "b2", "b3")
		w.wantInSync("b1", "b2")
	})
}

// A member that is promoted counts from the change of the record on, and not before.
func TestAPromotionIsOneChangeOfTheRecord(t *testing.T) {
	following(t, 2, func(t *testing.T, w *world, name string) {
		m := w.start()
		w.fill(m, 20)
		synctest.Wait()
		w.reg.on(func(next raidstorage.Membership) registerFault {
			if (next.Roles[name].Actual == full) != slices.Contains(next.InSync, name) {
				t.Errorf("a record in between: roles %v, in sync %v", next.Roles, next.InSync)
			}
			return registerWorks
		})
		if err := m.Promote(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		if err := m.Demote(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	})
}

// A change of role that is not confirmed leaves everything as it was, however the
// register failed, and whatever comes late.
func TestAChangeOfRoleThatIsNotConfirmed(t *testing.T) {
	t.Parallel()
	for _, fault := range []registerFault{registerFails, registerLosesReply, registerIsLate} {
		for _, promote := range []bool{true, false} {
			scenarioIn(t, 3, func(t *testing.T, w *world) {
				w.cfg.Backends[2].Role = async
				m := w.start()
				w.fill(m, 20)
				synctest.Wait()
				change, from, inSync := m.Promote, async, []string{"b1", "b2"}
				if !promote {
					if err := m.Promote(t.Context(), "b3"); err != nil {
						t.Fatal(err)
					}
					change, from, inSync = m.Demote, full, []string{"b1", "b2", "b3"}
				}
				hit := false
				w.reg.on(func(next raidstorage.Membership) registerFault {
					if !hit && (next.Roles["b3"].Actual == full) == promote {
						hit = true
						return fault
					}
					return registerWorks
				})
				wantErr[*raidstorage.UnavailableError](t, "the change", change(t.Context(), "b3"))
				if !hit {
					t.Fatal("the register was not asked")
				}
				w.reg.deliver()
				w.wantInSync(inSync...)
				w.wantRole(m, "b3", async, from)
				w.mustCommit(m, 1, "afterwards")
				time.Sleep(time.Minute)
				w.wantEqual("b1", "b2", "b3")
				w.wantInSync(inSync...)
				if r := m.Status().Condition; r != raidstorage.Optimal {
					t.Errorf("the mirror is %v", r)
				}
				if err := change(t.Context(), "b3"); err != nil {
					t.Errorf("the next time: %v", err)
				}
				w.wantRole(m, "b3", async, map[bool]raidstorage.Role{true: full, false: async}[promote])
				m.Close()
			})
		}
	}
}

// Where the process dies over the change, or the record cannot be written back, either
// role is whole.
func TestAProcessThatDiesOverAChangeOfRole(t *testing.T) {
	t.Parallel()
	for _, promote := range []bool{true, false} {
		scenarioIn(t, 3, func(t *testing.T, w *world) {
			w.cfg.Backends[2].Role = async
			m := w.start()
			w.fill(m, 20)
			synctest.Wait()
			change, to := m.Promote, full
			if !promote {
				if err := m.Promote(t.Context(), "b3"); err != nil {
					t.Fatal(err)
				}
				change, to = m.Demote, async
			}
			w.reg.on(func(next raidstorage.Membership) registerFault {
				if (next.Roles["b3"].Actual == full) == promote {
					return registerDies
				}
				return registerWorks
			})
			if err := change(t.Context(), "b3"); err == nil {
				t.Error("it is told to be done")
			}
			if _, err := commit(m, 1, "while the register is dead"); err == nil {
				t.Error("a commit went on before the record was settled")
			}
			w.crash(m)
			m = w.start()
			w.wantRole(m, "b3", async, to)
			w.mustCommit(m, 1, "afterwards")
			time.Sleep(time.Minute)
			w.wantEqual("b1", "b2", "b3")
			m.Close()
		})
	}
}

func TestDemoteIsRefusedThatWouldLeaveTooFew(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.cfg.WriteQuorum = 2
		m := w.start()
		w.fill(m, 10)
		if err := m.Demote(t.Context(), "b3"); err != nil {
			t.Fatal(err)
		}
		e := wantErr[*raidstorage.UnavailableError](t, "Demote", m.Demote(t.Context(), "b2"))
		if e.Need != 2 {
			t.Errorf("%v", e)
		}
		if err := m.SetQuorum(t.Context(), 1, 1); err != nil {
			t.Fatal(err)
		}
		// b1 has died, and nobody has noticed: b2 would be all.
		w.setDown(true, "b1")
		w.backend("b1").CutOff()
		e = wantErr[*raidstorage.UnavailableError](t, "Demote of the last one", m.Demote(t.Context(), "b2"))
		if e.InSync != 0 {
			t.Errorf("%v", e)
		}
		w.wantRole(m, "b2", full, full)
		w.mustCommit(m, 1, "on b2")
		w.wantInSync("b2")
		w.setDown(false, "b1")
		if err := m.Recover(t.Context(), "b1"); err != nil {
			t.Fatal(err)
		}
		if err := m.Demote(t.Context(), "b2"); err != nil {
			t.Fatal(err)
		}
		e = wantErr[*raidstorage.UnavailableError](t, "Demote of the only full one", m.Demote(t.Context(), "b1"))
		if e.Need != 1 {
			t.Errorf("%v", e)
		}
		w.mustCommit(m, 1, "on b1")
		synctest.Wait()
		w.wantEqual("b1", "b2", "b3")
		wantErr[*raidstorage.InvalidError](t, "Demote of nobody", m.Demote(t.Context(), "b9"))
		wantErr[*raidstorage.InvalidError](t, "Promote of nobody", m.Promote(t.Context(), "b9"))
	})
}

// A change of the configuration knows roles: those that come and go, and others for those
// that stay.
func TestChangeOfRoles(t *testing.T) {
	changing(t, 2, 2, func(t *testing.T, w *world, m *raidstorage.Mirror) {
		follower := w.all[2]
		follower.Role = async
		if err := m.Add(t.Context(), follower); err != nil {
			t.Fatal(err)
		}
		w.waitState(m, "b3", raidstorage.StateFollowing)
		synctest.Wait()
		w.wantEqual("b1", "b2", "b3")
		w.wantInSync("b1", "b2")
		if r := w.record(); len(r.New) > 0 {
			t.Errorf("new are still %v", r.New)
		}
		reRole := func(name string, role raidstorage.Role) error {
			c := m.Settings()
			c.Backends[slices.IndexFunc(c.Backends, func(b raidstorage.Backend) bool { return b.Name == name })].Role = role
			diff, err := m.Plan(c)
			if err == nil && !strings.Contains(diff.String(), "role of backend "+name+" from") {
				t.Errorf("the difference is %v", diff)
			}
			return m.Change(t.Context(), c)
		}
		if err := reRole("b3", full); err != nil {
			t.Fatal(err)
		}
		w.wantInSync("b1", "b2") // not before it was recovered
		if err := m.Recover(t.Context(), "b3"); err != nil {
			t.Fatal(err)
		}
		w.wantInSync("b1", "b2", "b3")
		w.wantRole(m, "b3", full, full)
		if err := reRole("b1", async); err != nil {
			t.Fatal(err)
		}
		w.wantRole(m, "b1", async, async)
		w.wantInSync("b2", "b3")
		w.mustCommit(m, 1, "b1 follows")
		synctest.Wait()
		w.wantEqual("b1", "b2", "b3")
		if err := reRole("b2", spare); err != nil {
			t.Fatal(err)
		}
		w.wantInSync("b3")
		wantErr[*raidstorage.InvalidError](t, "no full one", reRole("b3", async))
		// Promoted by hand, and the configuration says so afterwards.
		if err := m.Promote(t.Context(), "b1"); err != nil {
			t.Fatal(err)
		}
		w.wantRole(m, "b1", async, full)
		if err := m.Change(t.Context(), m.Settings()); err != nil { // nothing new
			t.Fatal(err)
		}
		w.wantRole(m, "b1", async, full)
		if err := reRole("b1", full); err != nil {
			t.Fatal(err)
		}
		w.wantRole(m, "b1", full, full)
		w.wantInSync("b1", "b3")
		if err := m.Remove(t.Context(), "b2"); err != nil {
			t.Fatal(err)
		}
		members(t, m, "b1", "b3")
		w.mustCommit(m, 1, "in the end")
		w.wantEqual("b1", "b3")
	})
}

// A change that takes the role of the last one in sync is refused.
func TestAChangeOfRolesThatLeavesTooFewIsRefused(t *testing.T) {
	changing(t, 2, 1, func(t *testing.T, w *world, m *raidstorage.Mirror) {
		w.setDown(true, "b2")
		w.backend("b2").CutOff()
		w.mustCommit(m, 1, "on b1")
		c := m.Settings()
		c.Backends[0].Role = async
		_, err := m.Plan(c)
		wantErr[*raidstorage.UnavailableError](t, "Plan", err)
		wantErr[*raidstorage.UnavailableError](t, "Change", m.Change(t.Context(), c))
		w.wantRole(m, "b1", full, full)
		w.wantInSync("b1")
		w.mustCommit(m, 1, "on b1 still")
	})
}

// A change that is not confirmed does not change roles either.
func TestAChangeOfRolesThatIsNotConfirmed(t *testing.T) {
	changing(t, 3, 0, func(t *testing.T, w *world, m *raidstorage.Mirror) {
		for _, fault := range []registerFault{registerFails, registerLosesReply, registerIsLate} {
			hit := false
			w.reg.on(func(next raidstorage.Membership) registerFault {
				if !hit && next.Roles["b3"].Actual == async {
					hit = true
					return fault
				}
				return registerWorks
			})
			c := m.Settings()
			c.Backends[2].Role = async
			wantErr[*raidstorage.UnavailableError](t, "Change", m.Change(t.Context(), c))
			w.reg.deliver()
			w.mustCommit(m, 1, "x")
			w.wantRole(m, "b3", full, full)
			w.wantInSync("b1", "b2", "b3")
		}
		w.wantEqual("b1", "b2", "b3")
	})
}

// Promoting a backend that hangs ends with the caller's patience, and changes nothing.
func TestPromotionOfABackendThatHangs(t *testing.T) {
	following(t, 2, func(t *testing.T, w *world, name string) {
		m := w.start()
		w.fill(m, 5)
		synctest.Wait()
		w.backend(name).Inject(storagetest.Fault{Call: storagetest.CallVote, Kind: storagetest.Hang})
		began := time.Now()
		err := m.Promote(t.Context(), name)
		if took := time.Since(began); err == nil || took > time.Minute {
			t.Errorf("Promote: %v after %v", err, took)
		}
		w.wantRole(m, name, async, async)
		w.mustCommit(m, 1, "without it")
		w.wantInSync("b1", "b2")
		w.waitState(m, name, raidstorage.StateFollowing)
		synctest.Wait()
		w.wantEqual("b1", name)
	})
}
