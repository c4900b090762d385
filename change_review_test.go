package raidstorage_test

import (
	"errors"
	"slices"
	"strings"
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
			if next.Reason == "b2 recovered" {
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
