package raidstorage_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// A mirror that closes while a change writes its record closes the storages that leave,
// although their supervisors have ended.
func TestCloseDuringAChangeClosesWhatLeaves(t *testing.T) {
	changing(t, 3, 1, func(t *testing.T, w *world, m *raidstorage.Mirror) {
		removed, replaced := w.backend("b2"), w.backend("b3")
		closed := make(chan error, 1)
		w.reg.on(func(next raidstorage.Membership) registerFault {
			if strings.HasPrefix(next.Reason, "change: ") {
				go func() { closed <- m.Close() }()
				<-time.After(time.Second) // simulated: Close waits for the commit slot
			}
			return registerWorks
		})
		c := w.only(m, "b1", "b3")
		c.Backends[1].Open = w.all[3].Open
		c.WriteQuorum, c.StartQuorum = 1, 1
		if err := m.Change(t.Context(), c); !errors.Is(err, raidstorage.ErrClosed) {
			t.Errorf("Change: %v", err)
		}
		if err := <-closed; err != nil {
			t.Error(err)
		}
		for _, s := range []*storagetest.FaultyStorage{removed, replaced} {
			if _, err := s.LastTID(t.Context()); !errors.Is(err, raidstorage.ErrClosed) {
				t.Errorf("a storage was left open: %v", err)
			}
		}
	})
}

// The record turns out to name the backend that leaves, and nobody else that answers:
// its recovery was stored and not confirmed.
func TestWhoTurnsOutToBeTheOnlyOneInSyncDoesNotLeave(t *testing.T) {
	changing(t, 2, 0, func(t *testing.T, w *world, m *raidstorage.Mirror) {
		if err := m.Disable(t.Context(), "b2", "x"); err != nil {
			t.Fatal(err)
		}
		w.mustCommit(m, 1, "y")
		w.reg.on(func(next raidstorage.Membership) registerFault {
			switch next.Reason {
			case "b2 is not disabled any more":
				return registerWorks
			case "b2 recovered":
				w.setDown(true, "b2") // not opened again for now
				return registerLosesReply
			}
			return registerFails
		})
		if err := m.Recover(t.Context(), "b2"); err == nil {
			t.Fatal("the recovery says that it succeeded")
		}
		w.setDown(false, "b2")
		w.reg.on(func(raidstorage.Membership) registerFault {
			w.reg.fault = nil // the register's lock is held here
			wantErr[*raidstorage.BusyError](t, "Recover", m.RecoverWith(t.Context(), "b2", raidstorage.RecoverOptions{NoWait: true}))
			w.backend("b1").CutOff()
			w.setDown(true, "b1")
			return registerWorks
		})
		wantErr[*raidstorage.UnavailableError](t, "Remove", m.Remove(t.Context(), "b2"))
		if r := w.record(); len(r.InSync) == 0 || !slices.Contains(r.Members, "b2") {
			t.Errorf("the record is %+v", r)
		}
		wantData(t, m, 1, "y")
	})
}

// Names that were exchanged, the configuration from before a change, a storage that
// never was a member: none of them is trusted for the name of the only one in sync.
func TestTheNameOfTheOnlyOneInSyncIsNotEnough(t *testing.T) {
	for what, after := range map[string][]int{"exchanged": {1, 0}, "back from before": {0, 1}, "empty": {3, 1}} {
		t.Run(what, func(t *testing.T) {
			scenario(t, 4, func(t *testing.T, w *world) {
				disk := func(as string, i int) raidstorage.Backend {
					return raidstorage.Backend{Name: as, Open: w.opener(i), Identity: "disk " + name(i)}
				}
				w.cfg.Backends = []raidstorage.Backend{disk("b1", 0), disk("b2", 1)}
				m := w.start()
				w.fill(m, 20)
				if what == "back from before" {
					if err := m.Replace(t.Context(), "b1", disk("b1", 2)); err != nil {
						t.Fatal(err)
					}
					if err := m.Recover(t.Context(), "b1"); err != nil {
						t.Fatal(err)
					}
				}
				if err := m.Disable(t.Context(), "b2", "x"); err != nil {
					t.Fatal(err)
				}
				w.mustCommit(m, 1, "acknowledged")
				w.crash(m)
				good := w.cfg.Backends
				if what == "back from before" {
					good = []raidstorage.Backend{disk("b1", 2), disk("b2", 1)}
				}
				w.cfg.Backends = []raidstorage.Backend{disk("b1", after[0]), disk("b2", after[1])}
				m, err := raidstorage.Open(t.Context(), w.cfg)
				if err == nil {
					t.Cleanup(func() { m.Close() })
				}
				e := wantErr[*raidstorage.StartError](t, "Open", err)
				if !strings.Contains(err.Error(), "and was disk") {
					t.Errorf("it does not tell why: %v; %v", err, e)
				}
				w.cfg.Backends = good
				m = w.start()
				wantData(t, m, 1, "acknowledged")
			})
		})
	}
}

// A backend out of sync whose storage was exchanged is compared as a whole.
func TestAnExchangedStorageOutOfSyncIsComparedAsAWhole(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		for i := range w.cfg.Backends {
			w.cfg.Backends[i].Identity = "disk " + name(i)
		}
		all := w.cfg.Backends
		w.cfg.Backends = all[:2:2]
		m := w.start()
		w.fill(m, 20)
		if err := m.Disable(t.Context(), "b2", "x"); err != nil {
			t.Fatal(err)
		}
		w.crash(m)
		copyLog(t, w.mem.stores[0].Another("source"), w.mem.stores[2].Another("target"))
		w.forge(2, 3, func(txn *storagetest.LogTransaction) { txn.Description = "forged" })
		w.cfg.Backends = []raidstorage.Backend{all[0], {Name: "b2", Open: all[2].Open, Identity: all[2].Identity}}
		m = w.start()
		wantErr[*raidstorage.DivergedError](t, "Recover", m.Recover(t.Context(), "b2"))
		w.wantInSync("b1")
	})
}

// Changes, recoveries, packs, commits, switched-off backends and a Close at any moment:
// nothing hangs, nothing is lost, every storage that was opened is closed.
func TestChangesAmongEverythingElse(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			scenarioIn(t, 5, func(t *testing.T, w *world) { changesAmongEverythingElse(t, w, seed) })
		})
	}
}

func changesAmongEverythingElse(t *testing.T, w *world, seed uint64) {
	w.all = w.cfg.Backends
	var opened []*storagetest.FaultyStorage
	for i := range w.all {
		open := w.opener(i)
		w.all[i].Open = func(ctx context.Context) (raidstorage.Storage, error) {
			s, err := open(ctx)
			if err == nil {
				w.mu.Lock()
				opened = append(opened, s.(*storagetest.FaultyStorage))
				w.mu.Unlock()
			}
			return s, err
		}
	}
	w.cfg.Backends, w.cfg.AutoRecover = w.all[:3:3], raidstorage.AutoRecoverOn
	m := w.start()
	w.fill(m, 10)
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	var mu sync.Mutex
	acknowledged, commits := map[raidstorage.OID]int{}, 0
	worker := func(id uint64, step func(rng *rand.Rand)) {
		all.Go(func() {
			for rng := rand.New(rand.NewPCG(seed, id)); ctx.Err() == nil; {
				step(rng)
				<-time.After(time.Duration(rng.IntN(3000)) * time.Millisecond)
			}
		})
	}
	for id := range uint64(3) {
		n := 0
		worker(id, func(*rand.Rand) {
			n++
			if _, err := commit(m, raidstorage.OID(1000+id), fmt.Sprint(n)); err == nil {
				mu.Lock()
				acknowledged[raidstorage.OID(1000+id)] = n
				commits++
				mu.Unlock()
			}
		})
	}
	for id := uint64(10); id < 13; id++ {
		worker(id, func(rng *rand.Rand) {
			limited, cancel := context.WithTimeout(ctx, time.Duration(rng.IntN(10000))*time.Millisecond)
			defer cancel()
			c := m.Settings()
			c.NoWait = rng.IntN(2) == 0
			spare := w.all[rng.IntN(len(w.all))]
			at := slices.IndexFunc(c.Backends, func(b raidstorage.Backend) bool { return b.Name == spare.Name })
			switch k := rng.IntN(len(c.Backends)); {
			case at < 0:
				c.Backends = slices.Insert(c.Backends, k, spare)
			case rng.IntN(4) == 0:
				c.Backends[at] = spare // anew
			case len(c.Backends) > 1:
				c.Backends = slices.Delete(c.Backends, at, at+1)
			}
			c.WriteQuorum = 1 + rng.IntN(min(2, len(c.Backends)))
			c.StartQuorum = 1
			m.Change(limited, c)
		})
	}
	faults := rand.New(rand.NewPCG(seed, 99)) // guarded by the register's lock
	w.reg.on(func(raidstorage.Membership) registerFault {
		if faults.IntN(8) > 0 {
			return registerWorks
		}
		return []registerFault{registerFails, registerLosesReply, registerIsLate}[faults.IntN(3)]
	})
	worker(24, func(*rand.Rand) { w.reg.deliver() })
	worker(20, func(rng *rand.Rand) {
		last, _ := m.LastTID(ctx)
		m.Pack(ctx, raidstorage.PackOptions{Through: last - 1<<32})
	})
	worker(21, func(rng *rand.Rand) { m.Recover(ctx, name(rng.IntN(5))) })
	worker(22, func(rng *rand.Rand) {
		m.Verify(ctx, raidstorage.VerifyOptions{})
		if f := w.backend(name(rng.IntN(5))); f != nil && rng.IntN(2) == 0 {
			f.CutOff()
		}
	})
	worker(23, func(rng *rand.Rand) { m.LoadBefore(ctx, raidstorage.OID(1000+rng.IntN(3)), raidstorage.MaxTID) })
	<-time.After(2 * time.Minute)
	if seed%2 == 0 { // Close in the middle of it
		if err := m.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	stop()
	all.Wait()
	m.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range opened {
		if _, err := s.LastTID(t.Context()); err == nil {
			t.Errorf("a storage of %s was left open", s.Name())
		}
	}
	if commits < 20 {
		t.Errorf("only %d commits", commits)
	}
	for _, in := range w.record().InSync {
		disk := w.mem.stores[in[1]-'1'].Another("check")
		for id, last := range acknowledged {
			rev, err := disk.LoadBefore(t.Context(), id, raidstorage.MaxTID)
			var n int
			if _, scanErr := fmt.Sscan(string(rev.Data), &n); err != nil || scanErr != nil || n < last {
				t.Errorf("%s has %q of %v, and %d was acknowledged (%v)", in, rev.Data, id, last, err)
			}
		}
	}
}
