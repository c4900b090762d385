package filestorage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

func temp(t testing.TB) *filestorage.Storage {
	t.Helper()
	return openFor(t, filepath.Join(t.TempDir(), "Data.fs"), filestorage.Options{Durability: filestorage.NoSync})
}

func TestLargeTransactionsGoThroughATemporaryFile(t *testing.T) {
	t.Parallel()
	s := temp(t)
	const size = filestorage.SpillAfter/4 + 1
	large := func(i int) []byte { return bytes.Repeat([]byte{byte('a' + i)}, size) }
	commit(t, s, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
		for i := range 8 {
			if err := txn.Store(t.Context(), raidstorage.OID(i), 0, large(i)); err != nil {
				return err
			}
		}
		return nil
	})
	aborted := begin(t, s, raidstorage.Meta{})
	for i := range 8 {
		if err := aborted.Store(t.Context(), raidstorage.OID(100+i), 0, large(i)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 8 {
		if got := current(t, s, raidstorage.OID(i)); got != string(large(i)) {
			t.Errorf("object %d is wrong: %d bytes", i, len(got))
		}
	}
	for _, err := range s.Iterate(t.Context(), 0, raidstorage.MaxTID) {
		if err != nil {
			t.Fatal(err)
		}
	}
	names, err := os.ReadDir(filepath.Dir(s.Name()))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if !slices.Contains([]string{"Data.fs", "Data.fs.lock", "Data.fs.index", "Data.fs.index.index_tmp"}, name.Name()) {
			t.Errorf("there is %v", name)
		}
	}
}

func TestIterateFindsEachBeginning(t *testing.T) {
	t.Parallel()
	s := temp(t)
	var tids []raidstorage.TID
	for i := range 50 {
		tids = append(tids, put(t, s, raidstorage.OID(i%3), strings.Repeat("x", 1+i*i*7)))
	}
	for i, from := range tids {
		for _, first := range []raidstorage.TID{from - 1, from, from + 1} {
			want := tids[i:]
			if first > from {
				want = tids[i+1:]
			}
			var got []raidstorage.TID
			for txn, err := range s.Iterate(t.Context(), first, raidstorage.MaxTID) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, txn.TID)
			}
			if len(got) != len(want) || len(got) > 0 && got[0] != want[0] {
				t.Errorf("from %v: %d transactions, want %d", first, len(got), len(want))
			}
		}
	}
}

func TestTransactionsCutOffAreKeptAsAStorage(t *testing.T) {
	t.Parallel()
	s := openFor(t, filepath.Join(t.TempDir(), "Data.fs"), filestorage.Options{})
	first := put(t, s, 1, "one")
	second := put(t, s, 1, "two")
	want := mustDump(t, s)
	undone := undoTxn(t, s, second)
	undoTxn(t, s, undone)
	last := put(t, s, 2, "other")
	if err := s.TruncateAfter(t.Context(), second, last); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(mustDump(t, s), want); diff != "" {
		t.Errorf("after the cut (-got +want):\n%s", diff)
	}
	kept := openFor(t, s.Name()+".tr0", filestorage.Options{ReadOnly: true})
	if got := current(t, kept, 1); got != "two" {
		t.Errorf("object 1 is kept as %q, want the data that the undo repeats", got)
	}
	if tid, err := kept.LastTID(t.Context()); err != nil || tid != last {
		t.Errorf("the last one kept is %v (%v), want %v", tid, err, last)
	}
	again := put(t, s, 2, "other")
	if err := s.TruncateAfter(t.Context(), first, again); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.Name() + ".tr1"); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	r := openFor(t, s.Name(), filestorage.Options{})
	if tid, err := r.LastTID(t.Context()); err != nil || tid != first {
		t.Errorf("after reopening the last one is %v (%v), want %v", tid, err, first)
	}
}

// A pack cuts the chain of an object's revisions: what the object was before a
// packed transaction must be looked for.
func TestCuttingIntoPackedTransactionsRebuildsTheIndex(t *testing.T) {
	t.Parallel()
	path := place(t, "packed.fs", "packed.fs.index")
	s := openFor(t, path, filestorage.Options{})
	last, err := s.LastTID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.TruncateAfter(t.Context(), 0x03fb7b0100000000, last); err != nil {
		t.Fatal(err)
	}
	if got := current(t, s, 4); got != "four" {
		t.Errorf("object 4 is %q, want %q", got, "four")
	}
	if objects, _, err := s.Size(t.Context()); err != nil || objects != 1 {
		t.Errorf("%d objects (%v), want 1", objects, err)
	}
}

// Readers and iterators go on while transactions are cut off and others written.
func TestReadsDuringTruncationsAreRight(t *testing.T) {
	t.Parallel()
	s := temp(t)
	first := put(t, s, 1, "stays")
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for ctx.Err() == nil {
				rev, err := s.LoadBefore(context.Background(), 1, raidstorage.MaxTID)
				if err != nil || string(rev.Data) != "stays" && !strings.HasPrefix(string(rev.Data), "goes") {
					t.Errorf("object 1 is %q (%v)", rev.Data, err)
					return
				}
			}
		})
		wg.Go(func() {
			for ctx.Err() == nil {
				_, err := dump(context.Background(), s)
				if _, cut := errors.AsType[*raidstorage.TIDOrderError](err); err != nil && !cut {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range 50 {
		put(t, s, 1, "goes"+strings.Repeat("!", i*100))
		put(t, s, 2, "x")
		last := put(t, s, 1, "goes, too")
		if err := s.TruncateAfter(t.Context(), first, last); err != nil {
			t.Error(err)
		}
	}
	cancel()
	wg.Wait()
}

// One transaction undoes two, newest first: each is judged by what the one before
// made of the object.
func TestOneTransactionUndoesSeveral(t *testing.T) {
	t.Parallel()
	s := temp(t)
	put(t, s, 1, "one")
	a := put(t, s, 1, "a")
	b := put(t, s, 1, "b")
	both := commit(t, s, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
		return errors.Join(raidstorage.Undo(t.Context(), txn, b), raidstorage.Undo(t.Context(), txn, a))
	})
	if got := current(t, s, 1); got != "one" {
		t.Errorf("object 1 is %q, want %q", got, "one")
	}
	undoTxn(t, s, both)
	if got := current(t, s, 1); got != "b" {
		t.Errorf("object 1 is %q, want %q", got, "b")
	}
	_, err := commitErr(t, s, func(txn raidstorage.Txn) error { return raidstorage.Undo(t.Context(), txn, a) })
	if refused := wantErr[*raidstorage.UndoError](t, err); refused.OID != 1 || refused.TID != a {
		t.Errorf("%v, want object 1 and %v", refused, a)
	}
	// The same data again, though not the same record: Python undoes that too.
	put(t, s, 1, "a")
	undoTxn(t, s, a)
	if got := current(t, s, 1); got != "one" {
		t.Errorf("object 1 is %q, want %q", got, "one")
	}
}

func TestCloseAbortsWhatIsVoted(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "Data.fs")
	s := openFor(t, path, filestorage.Options{})
	put(t, s, 1, "one")
	want := read(t, path)
	txn := begin(t, s, raidstorage.Meta{})
	if err := txn.Store(t.Context(), 2, 0, []byte("two")); err != nil {
		t.Fatal(err)
	}
	if _, err := txn.Vote(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := txn.Finish(t.Context()); !errors.Is(err, raidstorage.ErrClosed) {
		t.Errorf("Finish = %v, want ErrClosed", err)
	}
	if !bytes.Equal(read(t, path), want) {
		t.Error("the voted transaction is in the file")
	}
}

// A process that stops between vote and finish leaves status 'c'; the next open
// cuts it off.
func TestAVotedTransactionDoesNotSurviveACrash(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "Data.fs")
	s := openFor(t, path, filestorage.Options{})
	put(t, s, 1, "one")
	want := mustDump(t, s)
	txn := begin(t, s, raidstorage.Meta{})
	if err := txn.Store(t.Context(), 2, 0, []byte("two")); err != nil {
		t.Fatal(err)
	}
	if _, err := txn.Vote(t.Context()); err != nil {
		t.Fatal(err)
	}
	crashed := filepath.Join(t.TempDir(), "Data.fs")
	write(t, crashed, read(t, path))
	r := openFor(t, crashed, filestorage.Options{})
	if got := mustDump(t, r); got != want || r.Repaired() == nil {
		t.Errorf("repaired %+v:\n%s", r.Repaired(), got)
	}
}

func TestOIDsEndSomewhere(t *testing.T) {
	t.Parallel()
	s := temp(t)
	put(t, s, math.MaxUint64, "the last one")
	_, err := s.NewOIDs(t.Context(), 1)
	wantErr[*raidstorage.InvalidError](t, err)
	n := 0
	for r, err := range s.CurrentRecords(t.Context(), math.MaxUint64) {
		if err != nil || r.OID != math.MaxUint64 {
			t.Errorf("%v (%v)", r.OID, err)
		}
		n++
	}
	if n != 1 {
		t.Errorf("%d records, want 1", n)
	}
}

func TestOIDsInAnyOrderAreListedInOrder(t *testing.T) {
	t.Parallel()
	s := temp(t)
	var want []string
	for i := range 600 {
		put(t, s, raidstorage.OID(i*7919%600*100), fmt.Sprint(i))
		want = append(want, raidstorage.OID(i*100).String())
	}
	var got []string
	for r, err := range s.CurrentRecords(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, r.OID.String())
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
}
