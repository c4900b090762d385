package raidstorage_test

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/storagetest"
	"github.com/zeoraid/raidstorage/zeoclient"
)

// linkSeed makes the link lose segments early on: among the first hundred.
const linkSeed = 3

// linkWorld is a mirror of two files, and of a ZEO server behind a link over the world,
// which follows.
type linkWorld struct {
	t     testing.TB
	link  *farLink
	there string // the server's address, without the link
	cfg   raidstorage.Config
	m     *raidstorage.Mirror
	n     int  // transactions made
	plain bool // without blobs and undo
}

func newLinkWorld(t testing.TB, kind mixedKind) *linkWorld {
	t.Helper()
	dir := t.TempDir()
	server := kind.server(t, dir)
	there, err := server.start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.kill)
	w := &linkWorld{t: t, link: newFarLink(t, linkSeed, there), there: there}
	w.cfg = raidstorage.Config{StateDir: filepath.Join(t.TempDir(), "state"), RetryMin: 50 * time.Millisecond, RetryMax: time.Second, TempDir: dir}
	for i := range 2 {
		near := t.TempDir()
		w.cfg.Backends = append(w.cfg.Backends, raidstorage.Backend{Name: name(i), Open: func(ctx context.Context) (raidstorage.Storage, error) {
			return filestorage.Open(ctx, filepath.Join(near, "Data.fs"), filestorage.Options{Durability: filestorage.NoSync, BlobDir: filepath.Join(near, "blobs")})
		}})
	}
	w.cfg.Backends = append(w.cfg.Backends, raidstorage.Backend{Name: "far", Role: raidstorage.RoleAsync, Open: func(ctx context.Context) (raidstorage.Storage, error) {
		return zeoclient.Open(ctx, zeoclient.Options{Addresses: []string{w.link.address()}, TempDir: dir, CallTimeout: 5 * time.Second})
	}})
	return w
}

func (w *linkWorld) open() {
	w.t.Helper()
	m, err := raidstorage.Open(w.t.Context(), w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.m = m
	w.t.Cleanup(func() { m.Close() })
}

// commit makes one transaction of about size bytes: it changes an object that others
// change, too, and makes one. Every seventh has a blob, every ninth undoes the one before.
func (w *linkWorld) commit(size int) {
	w.t.Helper()
	w.n++
	ctx, id := w.t.Context(), fmt.Sprintf("t%d", w.n)
	shared := raidstorage.OID(w.n % 3)
	serial, last := raidstorage.TID(0), raidstorage.TID(0)
	if rev, err := w.m.LoadBefore(ctx, shared, raidstorage.MaxTID); err == nil {
		serial = rev.Serial
	}
	last, err := w.m.LastTID(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	storagetest.Transact(w.t, w.m, raidstorage.Meta{Description: []byte(id)}, func(txn raidstorage.Txn) error {
		if w.n%9 == 0 && !w.plain {
			return raidstorage.Undo(ctx, txn, last)
		}
		fresh := raidstorage.OID(100 + w.n)
		if err := txn.Store(ctx, shared, serial, []byte(storagetest.Pickled(id, fresh))); err != nil {
			return err
		}
		data := []byte(storagetest.Pickled(strings.Repeat(id, size/len(id))))
		if w.n%7 == 0 && !w.plain {
			record := strings.Replace(storagetest.Pickled(id), "cpersistent.mapping\nPersistentMapping\n", "cZODB.blob\nBlob\n", 1)
			return raidstorage.StoreBlob(ctx, txn, fresh, 0, []byte(record), bytes.NewReader(data))
		}
		return txn.Store(ctx, fresh, 0, data)
	})
}

// far is the server, asked without the link.
func (w *linkWorld) far() []propLogged {
	w.t.Helper()
	s, err := zeoclient.Open(w.t.Context(), zeoclient.Options{Addresses: []string{w.there}})
	if err != nil {
		w.t.Fatal(err)
	}
	return w.logOf(s, true)
}

func (w *linkWorld) logOf(s raidstorage.Storage, closes bool) []propLogged {
	w.t.Helper()
	log, err := propLog(s)
	if err != nil {
		w.t.Fatal(err)
	}
	if closes {
		if err := s.Close(); err != nil {
			w.t.Fatal(err)
		}
	}
	return log
}

// sameLogged tells whether two logs say the same: the ids and tids of transactions, and
// of their records the objects and data, and the blobs.
func sameLogged(t testing.TB, a, b propLogged) bool {
	t.Helper()
	return a.tid == b.tid && a.id == b.id && slices.EqualFunc(a.records, b.records, func(a, b raidstorage.Record) bool {
		if a.OID != b.OID || a.TID != b.TID || !bytes.Equal(a.Data, b.Data) || (a.OpenBlob == nil) != (b.OpenBlob == nil) {
			return false
		}
		if a.OpenBlob == nil {
			return true
		}
		x, errX := readBlob(a.OpenBlob(t.Context()))
		y, errY := readBlob(b.OpenBlob(t.Context()))
		return errX == nil && errY == nil && x == y
	})
}

// wantBeginning checks that the far log is a beginning of the mirror's, in order and
// without anything twice, and returns how many transactions it lacks.
func (w *linkWorld) wantBeginning() (missing int) {
	w.t.Helper()
	far := w.far() // first: the mirror's may grow
	near := w.logOf(w.m, false)
	if len(far) > len(near) || !slices.EqualFunc(far, near[:len(far)], func(a, b propLogged) bool { return sameLogged(w.t, a, b) }) {
		w.t.Fatalf("the far log, of %d transactions, is no beginning of the mirror's, of %d:\n%s\n%s", len(far), len(near), ids(far), ids(near))
	}
	return len(near) - len(far)
}

func ids(log []propLogged) string {
	var ids []string
	for _, l := range log {
		ids = append(ids, l.id+" "+shortTID(l.tid))
	}
	return strings.Join(ids, ", ")
}

func (w *linkWorld) status() raidstorage.BackendStatus {
	for _, b := range w.m.Status().Backends {
		if b.Name == "far" {
			return b
		}
	}
	w.t.Fatal("there is no far backend")
	return raidstorage.BackendStatus{}
}

// await looks at the status until done holds; look is called now and then.
func (w *linkWorld) await(what string, done func(raidstorage.BackendStatus) bool, look func()) {
	w.t.Helper()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(2 * time.Minute); !done(w.status()); <-ticker.C {
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: not in two minutes: %+v", what, w.status())
		}
		if look != nil {
			look()
		}
	}
}

func caughtUp(b raidstorage.BackendStatus) bool {
	return b.State == raidstorage.StateFollowing && b.LagTransactions == 0 && b.LagBytes == 0 && b.Lag == 0
}

// TestFollowingOverALinkAroundTheWorld has a ZEO server follow over a link with a round
// trip of 200 ms that loses 1 % of the segments and is cut now and then.
func TestFollowingOverALinkAroundTheWorld(t *testing.T) {
	t.Parallel()
	for _, kind := range mixedKinds() {
		if kind.server == nil {
			continue
		}
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			const size = 20_000
			w := newLinkWorld(t, kind)
			w.open()
			w.commit(size)
			w.await("following at first", caughtUp, nil)

			// Nothing passes, and commits go on as if there was nobody.
			w.link.freeze(true)
			for range 9 {
				w.commit(size)
			}
			if b := w.status(); b.LagTransactions != 9 || b.LagBytes < 8*size || b.LagBytes > 12*size || b.Lag <= 0 {
				t.Errorf("9 transactions behind, it tells %d transactions, %d bytes, %v", b.LagTransactions, b.LagBytes, b.Lag)
			}
			if missing := w.wantBeginning(); missing != 9 {
				t.Errorf("it lacks %d transactions while nothing passes", missing)
			}

			// It gets them in order, while more are committed, and over a cut in the midst
			// of a transaction.
			w.link.cutAfter(2*size + size/2)
			w.link.freeze(false)
			for range 4 {
				w.commit(size)
			}
			seen, lacked := map[int]bool{}, 13
			w.await("caught up", caughtUp, func() {
				missing := w.wantBeginning()
				if missing > lacked {
					t.Errorf("it lacks %d transactions, and %d before that", missing, lacked)
				}
				seen[missing], lacked = true, missing
			})
			if missing := w.wantBeginning(); missing != 0 || len(seen) < 2 {
				t.Errorf("it lacks %d transactions in the end; on the way there, %v", missing, seen)
			}
			if _, _, cuts := w.link.counts(); cuts != 1 {
				t.Errorf("the link was cut %d times", cuts)
			}

			// It goes on from where it was over a restart of the mirror, too.
			w.link.freeze(true)
			for range 3 {
				w.commit(size)
			}
			_ = w.m.Close() // the far one does not answer
			w.open()
			w.commit(size)
			if s := w.m.Status(); s.Condition != raidstorage.Optimal {
				t.Errorf("without the link the mirror is %v: %s", s.Condition, s.Reason)
			}
			w.link.freeze(false)
			w.await("caught up after a restart", caughtUp, func() { w.wantBeginning() })
			if missing := w.wantBeginning(); missing != 0 {
				t.Errorf("it lacks %d transactions after a restart", missing)
			}

			// Promoted, it is waited for: what is acknowledged is there.
			w.commit(size)
			if err := w.m.Promote(t.Context(), "far"); err != nil {
				t.Fatalf("Promote: %v", err)
			}
			if s := w.m.Status(); s.Condition != raidstorage.Optimal || !slices.Equal(slices.Sorted(slices.Values(s.Membership.InSync)), []string{"b1", "b2", "far"}) {
				t.Errorf("after it was promoted the mirror is %v, with %v in sync", s.Condition, s.Membership.InSync)
			}
			for range 2 {
				w.commit(size)
				if missing := w.wantBeginning(); missing != 0 {
					t.Errorf("it is full, and lacks %d acknowledged transactions", missing)
				}
			}
			segments, lost, _ := w.link.counts()
			t.Logf("%d segments, %d of them lost", segments, lost)
			if lost < 2 {
				t.Errorf("%d of %d segments were lost: that is no test", lost, segments)
			}
			w.wantEqualFiles()
		})
	}
}

// wantEqualFiles closes the mirror and compares all three.
func (w *linkWorld) wantEqualFiles() {
	w.t.Helper()
	if err := w.m.Close(); err != nil {
		w.t.Errorf("Close: %v", err)
	}
	far := w.far()
	if len(far) != w.n {
		w.t.Errorf("the far one has %d transactions, %d were made", len(far), w.n)
	}
	for i := range 2 {
		s, err := w.cfg.Backends[i].Open(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		near := w.logOf(s, true)
		if !slices.EqualFunc(far, near, func(a, b propLogged) bool { return sameLogged(w.t, a, b) }) {
			w.t.Errorf("the far one and %s differ:\n%s\n%s", name(i), ids(far), ids(near))
		}
	}
}
