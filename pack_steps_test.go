package raidstorage_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// K2: what is linked again while the backends prepare, at any step before they switch,
// stays on all alike.
func TestK2GarbageLinkedAgainBeforeTheSwitchStaysEverywhere(t *testing.T) {
	t.Parallel()
	for _, at := range []struct {
		backend string
		call    storagetest.Call
	}{
		{"b1", storagetest.CallStagePack}, {"b2", storagetest.CallStagePack}, {"b3", storagetest.CallStagePack},
		{"b1", storagetest.CallCatchUp}, {"b3", storagetest.CallCatchUp}, {"b1", storagetest.CallRelinked},
	} {
		t.Run(fmt.Sprint(at.backend, " ", at.call), func(t *testing.T) {
			scenario(t, 3, func(t *testing.T, w *world) {
				m := w.start()
				through := w.tree(m)[2]
				w.mustCommit(m, 20, storagetest.Pickled("later garbage"))
				w.observe(at.backend, at.call, func() { w.mustCommit(m, 0, storagetest.Pickled("root", 1, 10)) })
				mustPack(t, m, through)
				for _, s := range w.mem.stores {
					wantData(t, s, 10, storagetest.Pickled("garbage", 11))
					wantData(t, s, 11, storagetest.Pickled("below garbage"))
				}
				w.wantEqual("b1", "b2", "b3")
				w.wantInSync("b1", "b2", "b3")
				w.wantPacked(through)
			})
		})
	}
}

// lastMoment does something when the commit slot is held and the rest is not read yet,
// and before the switch.
type lastMoment struct {
	*storagetest.FaultyStorage
	meanwhile func()
}

func (s lastMoment) StagePack(ctx context.Context, opts raidstorage.PackOptions) (raidstorage.StagedPack, error) {
	staged, err := s.FaultyStorage.StagePack(ctx, opts)
	return lastMomentPack{staged, s.meanwhile}, err
}

type lastMomentPack struct {
	raidstorage.StagedPack
	meanwhile func()
}

func (s lastMomentPack) Relinked(ctx context.Context, after raidstorage.TID, decide func(context.Context) error) ([]raidstorage.OID, error) {
	return s.StagedPack.Relinked(ctx, after, func(ctx context.Context) error {
		defer s.meanwhile()
		return decide(ctx)
	})
}

// K2: from the decision to the switch no commit gets in between, so that one which links
// garbage then finds it gone on all.
func TestK2NoCommitBetweenTheDecisionAndTheSwitch(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		var m *raidstorage.Mirror
		committed := make(chan raidstorage.TID, 1)
		for i := range w.cfg.Backends {
			open := w.cfg.Backends[i].Open
			w.cfg.Backends[i].Open = func(ctx context.Context) (raidstorage.Storage, error) {
				s, err := open(ctx)
				if err != nil {
					return nil, err
				}
				return lastMoment{s.(*storagetest.FaultyStorage), func() {
					go func() { committed <- w.mustCommit(m, 0, storagetest.Pickled("root", 1, 10)) }()
					synctest.Wait()
				}}, nil
			}
		}
		m = w.start()
		through := w.tree(m)[2]
		var cut raidstorage.TID
		for _, b := range []string{"b1", "b2"} {
			w.observe(b, storagetest.CallSwitch, func() {
				if len(committed) > 0 {
					t.Error("a commit went through before the switch")
				}
			})
		}
		w.observe("b1", storagetest.CallEndPack, func() { cut = m.Status().Pack.Cut })
		mustPack(t, m, through)
		if tid := <-committed; tid <= cut {
			t.Errorf("commit %v is not later than the cut %v", tid, cut)
		}
		for _, s := range w.mem.stores {
			wantData(t, s, 10, "")
		}
		w.wantEqual("b1", "b2")
	})
}

// Garbage that is linked again whenever the backends have prepared ends the pack, with
// nothing changed.
func TestPackEndsWhenGarbageIsLinkedAgainAndAgain(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		var refs []raidstorage.OID
		for oid := raidstorage.OID(100); oid < 110; oid++ {
			w.mustCommit(m, oid, storagetest.Pickled("garbage"))
		}
		through := w.tree(m)[2]
		w.backend("b1").Inject(storagetest.Fault{Call: storagetest.CallRelinked, Kind: storagetest.Observe, Hook: func() {
			refs = append(refs, raidstorage.OID(100+len(refs)))
			w.mustCommit(m, 0, storagetest.Pickled("root", append(refs, 1)...))
		}})
		epoch := w.record().Epoch
		err := m.Pack(t.Context(), raidstorage.PackOptions{Through: through, GC: true})
		if i := wantErr[*raidstorage.InvalidError](t, "Pack", err); !strings.Contains(i.Reason, "again and again") {
			t.Errorf("it says %v", err)
		}
		if r := w.record(); r.Epoch != epoch {
			t.Errorf("the record was changed: %s", r.Reason)
		}
		wantData(t, m, 10, storagetest.Pickled("garbage", 11))
		w.backend("b1").Clear()
		mustPack(t, m, through)
		wantData(t, m, 10, "")
		for _, oid := range refs {
			wantData(t, m, oid, storagetest.Pickled("garbage"))
		}
		w.wantEqual("b1", "b2")
	})
}

// A backend that does not answer whether it has switched is dropped after a deadline, and
// recovered; commits wait no longer.
func TestBackendThatHangsInTheSwitchIsDropped(t *testing.T) {
	for _, kind := range []storagetest.Kind{storagetest.HangHard, storagetest.Hang, storagetest.LoseReply} {
		t.Run(kind.String(), func(t *testing.T) {
			scenario(t, 3, func(t *testing.T, w *world) {
				w.cfg.AutoRecover = raidstorage.AutoRecoverOn
				m := w.start()
				through := w.tree(m)[2]
				b2 := w.backend("b2")
				b2.Inject(storagetest.Fault{Call: storagetest.CallSwitch, Kind: kind, Times: 1})
				begun, waited := time.Now(), time.Duration(0)
				w.observe("b1", storagetest.CallEndPack, func() { waited = time.Since(begun) })
				err := m.Pack(t.Context(), raidstorage.PackOptions{Through: through, GC: true})
				if b := wantErr[*raidstorage.BackendError](t, "Pack", err); b.Backend != "b2" {
					t.Errorf("the error is %v", err)
				}
				if waited > finishTimeout+5*time.Second {
					t.Errorf("commits waited %v", waited)
				}
				w.mustCommit(m, 1, storagetest.Pickled("goes on"))
				b2.Release()
				w.waitState(m, "b2", raidstorage.StateInSync)
				w.wantInSync("b1", "b2", "b3")
				if err := m.Pack(t.Context(), raidstorage.PackOptions{Through: through, GC: true}); err != nil {
					t.Errorf("the next pack: %v", err)
				}
				w.wantPacked(through)
				w.wantEqual("b1", "b2", "b3")
			})
		})
	}
}

// A backend that cannot prepare is reported and stays unpacked; if none can nothing has
// happened.
func TestBackendThatCannotPrepareIsReported(t *testing.T) {
	for _, call := range []storagetest.Call{storagetest.CallStagePack, storagetest.CallCatchUp, storagetest.CallRelinked} {
		t.Run(string(call), func(t *testing.T) {
			scenario(t, 2, func(t *testing.T, w *world) {
				m := w.start()
				through := w.tree(m)[2]
				epoch := w.record().Epoch
				for _, b := range []string{"b1", "b2"} {
					w.backend(b).Inject(storagetest.Fault{Call: call, Times: 1})
				}
				err := m.Pack(t.Context(), raidstorage.PackOptions{Through: through, GC: true})
				if !errors.Is(err, storagetest.ErrInjected) || w.record().Epoch != epoch {
					t.Errorf("none could prepare: %v, at epoch %d, which was %d", err, w.record().Epoch, epoch)
				}
				wantData(t, m, 10, storagetest.Pickled("garbage", 11))
				w.backend("b1").Inject(storagetest.Fault{Call: call, Times: 1})
				err = m.Pack(t.Context(), raidstorage.PackOptions{Through: through, GC: true})
				if b := wantErr[*raidstorage.BackendError](t, "Pack", err); b.Backend != "b1" || !errors.Is(err, storagetest.ErrInjected) {
					t.Errorf("b1 could not prepare: %v", err)
				}
				if r := w.record(); len(r.Unpacked) != 1 || r.Unpacked[0] != "b1" || r.Lock != nil {
					t.Errorf("unpacked are %v, lock %v", r.Unpacked, r.Lock)
				}
				wantData(t, w.mem.stores[1], 10, "")
				mustPack(t, m, through)
				w.wantPacked(through)
				w.wantEqual("b1", "b2")
			})
		})
	}
}

// What was prepared in files is removed when the pack does not come to its cut.
func TestPreparedFilesAreRemoved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := raidstorage.Config{Membership: new(raidstorage.MemoryRegister)}
	faulty := map[string]*storagetest.FaultyStorage{}
	var opening sync.Mutex
	for _, name := range []string{"b1", "b2"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o777); err != nil {
			t.Fatal(err)
		}
		cfg.Backends = append(cfg.Backends, raidstorage.Backend{Name: name, Open: func(ctx context.Context) (raidstorage.Storage, error) {
			s, err := filestorage.Open(ctx, filepath.Join(dir, name, "Data.fs"), filestorage.Options{Durability: filestorage.NoSync})
			if err != nil {
				return nil, err
			}
			opening.Lock() // all are opened at the same time
			defer opening.Unlock()
			faulty[name] = storagetest.Faulty(s)
			return faulty[name], nil
		}})
	}
	prepared := func() []string {
		files, err := filepath.Glob(filepath.Join(dir, "*", "Data.fs.pack*"))
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	m, err := raidstorage.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t}
	through := w.tree(m)[2]
	for name, cause := range map[string]func(cancel context.CancelFunc){
		"cancelled": func(cancel context.CancelFunc) { cancel() },
		"failed":    func(context.CancelFunc) {},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		fault := storagetest.Fault{Call: storagetest.CallCatchUp, Times: 1, Hook: func() {
			if len(prepared()) != 2 {
				t.Errorf("%s: prepared are %v", name, prepared())
			}
		}}
		faulty["b1"].Inject(fault)
		fault.Hook = func() { cause(cancel) }
		faulty["b2"].Inject(fault)
		if err := m.Pack(ctx, raidstorage.PackOptions{Through: through, GC: true}); err == nil {
			t.Errorf("%s: the pack succeeded", name)
		}
		cancel()
		if left := prepared(); len(left) > 0 {
			t.Errorf("%s: left over are %v", name, left)
		}
	}
	// While the mirror closes, too.
	var closed error
	done := make(chan struct{})
	faulty["b2"].Inject(storagetest.Fault{Call: storagetest.CallCatchUp, Kind: storagetest.Hang, Times: 1, Hook: func() {}})
	go func() {
		defer close(done)
		closed = m.Pack(t.Context(), raidstorage.PackOptions{Through: through, GC: true})
	}()
	if err := faulty["b2"].WaitFor(t.Context(), storagetest.CallCatchUp, 3); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	<-done
	if !errors.Is(closed, raidstorage.ErrClosed) || len(prepared()) > 0 {
		t.Errorf("after Close the pack returned %v, and left %v", closed, prepared())
	}
}
