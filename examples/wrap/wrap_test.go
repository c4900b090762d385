package wrap_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/examples/wrap"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// passedOn are the optional interfaces that a Compressed has if the storage below
// it has them.
const passedOn = storagetest.Undoer | storagetest.Historian | storagetest.Notifier | storagetest.Truncater

// TestCompressedConforms runs the whole contract over the wrapper: this is all that
// a storage of your own needs, too.
func TestCompressedConforms(t *testing.T) {
	t.Parallel()
	type pair struct {
		*wrap.Compressed
		memory *memstorage.Storage
	}
	over := func(m *memstorage.Storage) raidstorage.Storage { return &pair{wrap.Compress(m), m} }
	storagetest.Run(t, storagetest.Fixture{
		Open: func(testing.TB) raidstorage.Storage { return over(memstorage.New("mem")) },
		Reopen: func(t testing.TB, s raidstorage.Storage) raidstorage.Storage {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return over(s.(*pair).memory.Another("mem"))
		},
		Second: func(_ testing.TB, s raidstorage.Storage) raidstorage.Storage {
			return over(s.(*pair).memory.Another("second"))
		},
		Capabilities: passedOn,
	})
}

func TestCompressedOffersWhatIsBelow(t *testing.T) {
	t.Parallel()
	// A mirror cannot pack nor truncate, and it undoes only if its backends do.
	mirror := open(t, memstorage.New("a"), memstorage.New("b"))
	if got, want := storagetest.CapabilitiesOf(wrap.Compress(mirror)), passedOn&^storagetest.Truncater; got != want {
		t.Errorf("over a mirror: %v, want %v", got, want)
	}
	if _, err := raidstorage.Can[raidstorage.Packer](wrap.Compress(memstorage.New("c"))); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("pack over compressed records: %v", err)
	}
}

// TestCompressedBackendMirrorsAPlainOne shows why the wrapper stands between mirror
// and backend: the mirror compares records, not what is stored.
func TestCompressedBackendMirrorsAPlainOne(t *testing.T) {
	t.Parallel()
	plain, packed := memstorage.New("plain"), memstorage.New("packed")
	mirror := open(t, plain, wrap.Compress(packed))
	for i := range 20 {
		store(t, mirror, raidstorage.OID(i%3), strings.Repeat(fmt.Sprint(i), 1000))
	}
	if c := mirror.Status().Condition; c != raidstorage.Optimal {
		t.Errorf("the mirror is %v: %s", c, mirror.Status().Reason)
	}
	if diff := cmp.Diff(log(t, plain), log(t, wrap.Compress(packed))); diff != "" {
		t.Errorf("the logs differ (-plain +compressed):\n%s", diff)
	}
	small, large := size(t, packed), size(t, plain)
	if small > large/2 {
		t.Errorf("compressed: %d bytes, plain: %d", small, large)
	}
}

func TestDamagedRecordsAreSeen(t *testing.T) {
	t.Parallel()
	inner := storagetest.Faulty(memstorage.New("mem"))
	s := wrap.Compress(inner)
	store(t, s, 1, strings.Repeat("text ", 100))
	store(t, inner, 2, "\x05") // a length, and nothing behind it
	store(t, inner, 3, strings.Repeat("\xff", 20))
	for _, oid := range []raidstorage.OID{2, 3} {
		_, err := s.LoadBefore(t.Context(), oid, raidstorage.MaxTID)
		if _, ok := errors.AsType[*raidstorage.CorruptError](err); !ok {
			t.Errorf("object %v: %v, want a CorruptError", oid, err)
		}
	}
	if _, err := s.LoadBefore(t.Context(), 1, raidstorage.MaxTID); err != nil {
		t.Error(err)
	}
}

// open opens a mirror over storages that stay open by themselves.
func open(t *testing.T, storages ...raidstorage.Storage) *raidstorage.Mirror {
	t.Helper()
	cfg := raidstorage.Config{Membership: &raidstorage.MemoryRegister{}}
	for i, s := range storages {
		cfg.Backends = append(cfg.Backends, raidstorage.Backend{
			Name: fmt.Sprint("b", i+1),
			Open: func(context.Context) (raidstorage.Storage, error) { return s, nil },
		})
	}
	m, err := raidstorage.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// store sets an object, whatever it was before.
func store(t *testing.T, s raidstorage.Storage, oid raidstorage.OID, data string) {
	t.Helper()
	ctx := t.Context()
	rev, err := s.LoadBefore(ctx, oid, raidstorage.MaxTID)
	if _, ok := errors.AsType[*raidstorage.NotFoundError](err); err != nil && !ok {
		t.Fatal(err)
	}
	txn, err := s.Begin(ctx, raidstorage.Meta{})
	if err != nil {
		t.Fatal(err)
	}
	if err := txn.Store(ctx, oid, rev.Serial, []byte(data)); err != nil {
		t.Fatal(err)
	}
	if _, err := txn.Vote(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := txn.Finish(ctx); err != nil {
		t.Fatal(err)
	}
}

func log(t *testing.T, s raidstorage.Storage) []storagetest.LogTransaction {
	t.Helper()
	l, err := storagetest.Log(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func size(t *testing.T, s raidstorage.Sizer) int64 {
	t.Helper()
	_, bytes, err := s.Size(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}
