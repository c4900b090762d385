package raidstorage_test

import (
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// A server pickles the extension anew, so two equal logs may differ in its bytes:
// no divergence, at the first start and in a recovery.
func TestExtensionPickledAnewIsNoDivergence(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		for i, pickle := range []string{"}q\x00.", "\x80\x03}q\x00."} {
			for n, data := range []string{"one", "two"} {
				storagetest.Transact(t, w.mem.stores[i], raidstorage.Meta{TID: raidstorage.TID(n+1) << 32, Extension: []byte(pickle)},
					func(txn raidstorage.Txn) error {
						return txn.Store(t.Context(), 1, raidstorage.TID(n)<<32, []byte(data))
					})
			}
		}
		m := w.start()
		w.wantInSync("b1", "b2")
		if err := m.Disable(t.Context(), "b2", "test"); err != nil {
			t.Fatal(err)
		}
		w.mustCommit(m, 1, "three")
		if err := m.RecoverWith(t.Context(), "b2", raidstorage.RecoverOptions{Full: true}); err != nil {
			t.Fatal(err)
		}
		w.wantInSync("b1", "b2")
	})
}

// What a transaction says of itself counts all the same.
func TestOtherDescriptionIsADivergence(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		for i, description := range []string{"this", "that"} {
			w.mem.stores[i] = memstorage.New(name(i))
			storagetest.Transact(t, w.mem.stores[i], raidstorage.Meta{TID: 1 << 32, Description: []byte(description)},
				func(txn raidstorage.Txn) error { return txn.Store(t.Context(), 1, 0, []byte("same")) })
		}
		if m, err := raidstorage.Open(t.Context(), w.cfg); err == nil {
			m.Close()
			t.Fatal("two databases were taken for one")
		}
	})
}
