package filestorage_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// followed returns a storage, and one that follows it.
func followed(t *testing.T) (w, r *filestorage.Storage) {
	t.Helper()
	w = openFor(t, filepath.Join(t.TempDir(), "Data.fs"), filestorage.Options{Durability: filestorage.NoSync})
	return w, openFor(t, w.Name(), filestorage.Options{ReadOnly: true})
}

func follow(t *testing.T, r *filestorage.Storage) {
	t.Helper()
	if err := r.Follow(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func wantSame(t *testing.T, r, w *filestorage.Storage) {
	t.Helper()
	if diff := cmp.Diff(mustDump(t, r), mustDump(t, w)); diff != "" {
		t.Errorf("the follower (-) is not as the writer (+):\n%s", diff)
	}
}

func TestFollowShowsWhatAWriterAppends(t *testing.T) {
	t.Parallel()
	w, r := followed(t)
	var got []raidstorage.Invalidation
	n, err := raidstorage.Can[raidstorage.Notifier](r)
	if err != nil {
		t.Fatal(err)
	}
	cancel := n.Subscribe(func(inv raidstorage.Invalidation) { got = append(got, inv) })
	follow(t, r)
	a := put(t, w, 1, "one")
	b := commit(t, w, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
		if err := txn.Store(t.Context(), 2, 0, []byte("two")); err != nil {
			return err
		}
		return txn.Store(t.Context(), 3, 0, []byte("three"))
	})
	if last, err := r.LastTID(t.Context()); err != nil || last != 0 {
		t.Errorf("the last is %v (%v) before Follow", last, err)
	}
	follow(t, r)
	wantSame(t, r, w)
	want := []raidstorage.Invalidation{{TID: a, OIDs: []raidstorage.OID{1}}, {TID: b, OIDs: []raidstorage.OID{2, 3}}}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("invalidations (-got +want):\n%s", diff)
	}
	cancel()
	txn, _ := voted(t, w, 1, a, "voted")
	follow(t, r)
	if last, err := r.LastTID(t.Context()); err != nil || last != b {
		t.Errorf("the last is %v (%v), a transaction has only voted", last, err)
	}
	finish2, err := txn.Finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	follow(t, r)
	wantSame(t, r, w)
	if last, err := r.LastTID(t.Context()); err != nil || last != finish2 || len(got) != 2 {
		t.Errorf("the last is %v (%v), %d invalidations", last, err, len(got))
	}
}

func TestOnlyAReadOnlyStorageFollows(t *testing.T) {
	t.Parallel()
	s := temp(t)
	wantErr[*raidstorage.InvalidError](t, s.Follow(t.Context()))
	_, err := raidstorage.Can[raidstorage.Notifier](s)
	wantErr[*raidstorage.UnsupportedError](t, err)
}

// The writer cuts transactions off and commits others, shorter or longer ones.
func TestFollowNoticesACut(t *testing.T) {
	t.Parallel()
	for _, after := range []string{"", "x", "something much longer than what was there before"} {
		w, r := followed(t)
		first := put(t, w, 1, "one")
		last := put(t, w, 1, "two, rather long")
		follow(t, r)
		if err := w.TruncateAfter(t.Context(), first, last); err != nil {
			t.Fatal(err)
		}
		if after != "" {
			put(t, w, 2, after)
		}
		follow(t, r)
		wantSame(t, r, w)
	}
}

// A pack renames another file to the path. Iterators stay at the old one.
func TestFollowNoticesAnotherFile(t *testing.T) {
	t.Parallel()
	w, r := followed(t)
	first := put(t, w, 1, "one")
	second := put(t, w, 2, "two")
	follow(t, r)
	var seen []raidstorage.TID
	for txn, err := range r.Iterate(t.Context(), 0, raidstorage.MaxTID) {
		if err != nil {
			t.Fatal(err)
		}
		if seen = append(seen, txn.TID); len(seen) == 1 {
			other := openFor(t, filepath.Join(t.TempDir(), "Data.fs"), filestorage.Options{Durability: filestorage.NoSync})
			put(t, other, 7, "seven")
			if err := os.Rename(other.Name(), r.Name()); err != nil {
				t.Fatal(err)
			}
			follow(t, r)
			wantSame(t, r, other)
		}
	}
	if diff := cmp.Diff(seen, []raidstorage.TID{first, second}); diff != "" {
		t.Errorf("iterated (-got +want):\n%s", diff)
	}
	if got := current(t, r, 7); got != "seven" {
		t.Errorf("object 7 is %q", got)
	}
}

// Readers, an iterator and the writer all go on while one follows.
func TestFollowWhileOthersReadAndWrite(t *testing.T) {
	t.Parallel()
	w := openFor(t, filepath.Join(t.TempDir(), "Data.fs"), filestorage.Options{})
	r := openFor(t, w.Name(), filestorage.Options{ReadOnly: true})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for committer := range 3 {
		wg.Go(func() {
			for range 30 {
				put(t, w, raidstorage.OID(committer), "some data")
			}
		})
	}
	var readers sync.WaitGroup
	readers.Go(func() {
		for ctx.Err() == nil {
			if err := r.Follow(context.Background()); err != nil {
				t.Error(err)
				return
			}
		}
	})
	readers.Go(func() {
		for ctx.Err() == nil {
			last, err := r.LastTID(context.Background())
			if err != nil {
				t.Error(err)
				return
			}
			n := raidstorage.TID(0)
			for txn, err := range r.Iterate(context.Background(), 0, raidstorage.MaxTID) {
				if err != nil {
					t.Error(err)
					return
				}
				n = txn.TID
			}
			if n < last {
				t.Errorf("iterated to %v, the last was %v", n, last)
			}
		}
	})
	wg.Wait()
	cancel()
	readers.Wait()
	follow(t, r)
	wantSame(t, r, w)
}
