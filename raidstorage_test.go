package raidstorage_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// mirrorCapabilities are those of a mirror over storages that can do everything.
const mirrorCapabilities = storagetest.All &^ storagetest.Truncater &^ storagetest.StagedPacker

// memories are in-memory databases that outlive the mirrors over them, as disks do.
type memories struct {
	register raidstorage.MemoryRegister
	stores   []*memstorage.Storage
}

func newMemories(n int) *memories {
	m := &memories{}
	for i := range n {
		m.stores = append(m.stores, memstorage.New(name(i)))
	}
	return m
}

// name names the backend of index i: b1, b2, ...
func name(i int) string { return fmt.Sprintf("b%d", i+1) }

func (m *memories) config() raidstorage.Config {
	cfg := raidstorage.Config{Membership: &m.register}
	for i, s := range m.stores {
		cfg.Backends = append(cfg.Backends, raidstorage.Backend{Name: name(i),
			Open: func(context.Context) (raidstorage.Storage, error) { return s.Another(name(i)), nil }})
	}
	return cfg
}

func open(t testing.TB, cfg raidstorage.Config) *raidstorage.Mirror {
	t.Helper()
	m, err := raidstorage.Open(t.Context(), cfg)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return m
}

// TestMirrorConforms runs the conformance suite over mirrors of one, two and three
// backends: a mirror is a storage like any other.
func TestMirrorConforms(t *testing.T) {
	t.Parallel()
	for n := 1; n <= 3; n++ {
		t.Run(fmt.Sprintf("%d backends", n), func(t *testing.T) {
			t.Parallel()
			under := make(map[raidstorage.Storage]*memories)
			var mu sync.Mutex
			start := func(t testing.TB, mem *memories) raidstorage.Storage {
				m := open(t, mem.config())
				mu.Lock()
				defer mu.Unlock()
				under[m] = mem
				return m
			}
			of := func(s raidstorage.Storage) *memories {
				mu.Lock()
				defer mu.Unlock()
				return under[s]
			}
			storagetest.Run(t, storagetest.Fixture{
				Open: func(t testing.TB) raidstorage.Storage { return start(t, newMemories(n)) },
				Reopen: func(t testing.TB, s raidstorage.Storage) raidstorage.Storage {
					if err := s.Close(); err != nil {
						t.Errorf("Close: %v", err)
					}
					return start(t, of(s))
				},
				Second:       func(_ testing.TB, s raidstorage.Storage) raidstorage.Storage { return of(s).another() },
				Capabilities: mirrorCapabilities,
			})
		})
	}
}

// TestMirrorOfMirrorsConforms: a mirror may be a backend.
func TestMirrorOfMirrorsConforms(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	under := make(map[raidstorage.Storage]*memories)
	storagetest.Run(t, storagetest.Fixture{
		Open: func(t testing.TB) raidstorage.Storage {
			inner := newMemories(2)
			s := open(t, mirrorOf(inner))
			mu.Lock()
			defer mu.Unlock()
			under[s] = inner
			return s
		},
		Second: func(_ testing.TB, s raidstorage.Storage) raidstorage.Storage {
			mu.Lock()
			defer mu.Unlock()
			return under[s].another()
		},
		Capabilities: mirrorCapabilities,
	})
}

func mirrorOf(inner *memories) raidstorage.Config {
	return raidstorage.Config{Membership: &raidstorage.MemoryRegister{}, Backends: []raidstorage.Backend{{Name: "m1",
		Open: func(ctx context.Context) (raidstorage.Storage, error) { return raidstorage.Open(ctx, inner.config()) }}}}
}

// another returns a handle of someone who writes to all databases behind the
// mirror's back, in lock step: as another front-end does.
func (m *memories) another() raidstorage.Storage {
	s := &lockstep{Storage: m.stores[0].Another("another")}
	for _, rest := range m.stores[1:] {
		s.rest = append(s.rest, rest.Another("another"))
	}
	return s
}

type lockstep struct {
	*memstorage.Storage // reads and notifications
	rest                []*memstorage.Storage
}

type lockstepTxn struct {
	raidstorage.Txn
	rest []raidstorage.Txn
}

func (s *lockstep) Begin(ctx context.Context, meta raidstorage.Meta) (raidstorage.Txn, error) {
	last, err := s.LastTID(ctx)
	if err != nil {
		return nil, err
	}
	if meta.TID == 0 {
		meta.TID = raidstorage.NextTID(time.Now(), last)
	}
	first, err := s.Storage.Begin(ctx, meta)
	t := &lockstepTxn{Txn: first}
	for _, rest := range s.rest {
		txn, e := rest.Begin(ctx, meta)
		t.rest, err = append(t.rest, txn), errors.Join(err, e)
	}
	return t, err
}

func (t *lockstepTxn) Store(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID, data []byte) error {
	err := t.Txn.Store(ctx, oid, serial, data)
	for _, rest := range t.rest {
		err = errors.Join(err, rest.Store(ctx, oid, serial, data))
	}
	return err
}

func (t *lockstepTxn) Delete(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID) error {
	err := t.Txn.Delete(ctx, oid, serial)
	for _, rest := range t.rest {
		err = errors.Join(err, rest.Delete(ctx, oid, serial))
	}
	return err
}

func (t *lockstepTxn) Vote(ctx context.Context) (raidstorage.Vote, error) {
	v, err := t.Txn.Vote(ctx)
	for _, rest := range t.rest {
		_, e := rest.Vote(ctx)
		err = errors.Join(err, e)
	}
	return v, err
}

func (t *lockstepTxn) Finish(ctx context.Context) (raidstorage.TID, error) {
	tid, err := t.Txn.Finish(ctx)
	for _, rest := range t.rest {
		_, e := rest.Finish(ctx)
		err = errors.Join(err, e)
	}
	return tid, err
}

func (t *lockstepTxn) Abort(ctx context.Context) error {
	err := t.Txn.Abort(ctx)
	for _, rest := range t.rest {
		err = errors.Join(err, rest.Abort(ctx))
	}
	return err
}
