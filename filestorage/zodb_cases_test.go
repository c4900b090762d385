package filestorage_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// Here are the cases of ZODB's own storage tests that no rule and no other test covers;
// testdata/zodb-tests.txt names for each of its cases what does.

// wantGone checks that oid cannot be loaded.
func wantGone(t testing.TB, s raidstorage.Storage, oid raidstorage.OID) {
	t.Helper()
	_, err := s.LoadBefore(t.Context(), oid, raidstorage.MaxTID)
	wantErr[*raidstorage.NotFoundError](t, err)
}

func wantCurrent(t testing.TB, s raidstorage.Storage, oid raidstorage.OID, want string) {
	t.Helper()
	if got := current(t, s, oid); got != want {
		t.Errorf("object %v is %q, want %q", oid, got, want)
	}
}

// After an undone change the object has the data that it was created with, so that its
// creation can be undone too, as can the undo.
func TestACreationCanBeUndoneAfterItsChanges(t *testing.T) {
	t.Parallel()
	s := temp(t)
	created := put(t, s, 1, "eleven")
	undo := undoTxn(t, s, put(t, s, 1, "twelve"))
	wantCurrent(t, s, 1, "eleven")
	gone := undoTxn(t, s, created)
	wantGone(t, s, 1)
	undoTxn(t, s, gone)
	wantCurrent(t, s, 1, "eleven")
	undoTxn(t, s, undo)
	wantCurrent(t, s, 1, "twelve")
}

func TestAnUndoneCreationIsIteratedWithoutData(t *testing.T) {
	t.Parallel()
	s := temp(t)
	created := put(t, s, 1, "one")
	gone := undoTxn(t, s, created)
	n := 0
	for txn, err := range s.Iterate(t.Context(), gone, raidstorage.MaxTID) {
		if err != nil {
			t.Fatal(err)
		}
		for rec, err := range txn.Records {
			if n++; err != nil || rec.OID != 1 || rec.TID != gone || rec.Data != nil {
				t.Errorf("%+v, %v", rec, err)
			}
		}
	}
	if n != 1 {
		t.Errorf("%d records", n)
	}
}

func TestUndoingTheLastUndoAgainAndAgainAndPackingToEachTime(t *testing.T) {
	t.Parallel()
	s := temp(t)
	put(t, s, 0, storagetest.Pickled("root", 1, 2))
	put(t, s, 1, storagetest.Pickled("first"))
	put(t, s, 2, storagetest.Pickled("other"))
	last := put(t, s, 1, storagetest.Pickled("second"))
	var times []raidstorage.TID
	for i := range 10 {
		last = undoTxn(t, s, last)
		times = append(times, last)
		wantCurrent(t, s, 1, storagetest.Pickled([]string{"first", "second"}[i%2]))
	}
	for _, through := range times {
		pack(t, s, through, true)
		wantCurrent(t, s, 1, storagetest.Pickled("second"))
		wantCurrent(t, s, 2, storagetest.Pickled("other"))
	}
}

// What the root does not refer to at the pack time, but does again after an undo, stays.
func TestPackingToTimesAroundAnUndoneDeletion(t *testing.T) {
	t.Parallel()
	s := temp(t)
	all := func() {
		t.Helper()
		wantCurrent(t, s, 0, storagetest.Pickled("root", 1, 2, 3))
		for oid := range raidstorage.OID(3) {
			wantCurrent(t, s, oid+1, storagetest.Pickled("child"))
		}
	}
	for oid := range raidstorage.OID(3) {
		put(t, s, oid+1, storagetest.Pickled("child"))
	}
	created := put(t, s, 0, storagetest.Pickled("root", 1, 2, 3))
	deleted := put(t, s, 0, storagetest.Pickled("root", 1, 3))
	undone := undoTxn(t, s, deleted)
	all()
	for _, through := range []raidstorage.TID{created, deleted, undone} {
		pack(t, s, through, true)
		all()
	}
}

// The objects that were written after the pack time are not collected although only
// an undo links them to the root again.
func TestAnUnlinkingAfterThePackTimeCanBeUndone(t *testing.T) {
	t.Parallel()
	s := temp(t)
	put(t, s, 0, storagetest.Pickled("root", 1))
	put(t, s, 2, storagetest.Pickled("two"))
	through := put(t, s, 1, storagetest.Pickled("one", 2))
	put(t, s, 3, storagetest.Pickled("three"))
	put(t, s, 2, storagetest.Pickled("two", 3))
	unlinked := put(t, s, 1, storagetest.Pickled("one", 3))
	pack(t, s, through, true)
	undoTxn(t, s, unlinked)
	wantCurrent(t, s, 1, storagetest.Pickled("one", 2))
	wantCurrent(t, s, 2, storagetest.Pickled("two", 3))
	wantCurrent(t, s, 3, storagetest.Pickled("three"))
}

func TestACopyIsPackedLikeTheOriginal(t *testing.T) {
	t.Parallel()
	s, to := temp(t), temp(t)
	put(t, s, 0, storagetest.Pickled("root"))
	put(t, s, 1, storagetest.Pickled("one", 2))
	put(t, s, 2, storagetest.Pickled("two"))
	put(t, s, 0, storagetest.Pickled("root", 1))
	last := put(t, s, 0, storagetest.Pickled("root"))
	copyAll(t, s, to)
	pack(t, s, last, true)
	pack(t, to, last, true)
	wantGone(t, to, 1)
	wantGone(t, to, 2)
	if diff := cmp.Diff(mustDump(t, to), mustDump(t, s)); diff != "" {
		t.Errorf("(-copy +original):\n%s", diff)
	}
}

// Two transactions undone at once, a change, and its undo, which repeats what an undo
// repeats: all of it can be copied.
func TestAnUndoOfAChangeAfterAnUndoOfSeveralIsCopied(t *testing.T) {
	t.Parallel()
	s, to := temp(t), temp(t)
	put(t, s, 1, "zero")
	put(t, s, 2, "zero")
	one := commit(t, s, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
		if err := txn.Store(t.Context(), 2, serialOf(t, s, 2), []byte("one")); err != nil {
			return err
		}
		return txn.Store(t.Context(), 1, serialOf(t, s, 1), []byte("one"))
	})
	two := put(t, s, 1, "two")
	commit(t, s, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
		if err := raidstorage.Undo(t.Context(), txn, two); err != nil {
			return err
		}
		return raidstorage.Undo(t.Context(), txn, one)
	})
	undoTxn(t, s, put(t, s, 1, "three"))
	wantCurrent(t, s, 1, "zero")
	copyAll(t, s, to)
	if diff := cmp.Diff(mustDump(t, to), mustDump(t, s)); diff != "" {
		t.Errorf("(-copy +original):\n%s", diff)
	}
	wantCurrent(t, to, 1, "zero")
	wantCurrent(t, to, 2, "zero")
}

// The second of two tids that follow each other directly replaces the first.
func TestTIDsThatFollowEachOtherDirectly(t *testing.T) {
	t.Parallel()
	s := temp(t)
	const first = 1 << 58
	for i := range raidstorage.TID(3) {
		commit(t, s, raidstorage.Meta{TID: first + i}, func(txn raidstorage.Txn) error {
			return txn.Store(t.Context(), 1, serialOf(t, s, 1), []byte{'a' + byte(i)})
		})
	}
	for i := range raidstorage.TID(3) {
		rev, err := s.LoadBefore(t.Context(), 1, first+i+1)
		next := first + i + 1
		if i == 2 {
			next = 0
		}
		if want := (raidstorage.Revision{Data: []byte{'a' + byte(i)}, Serial: first + i, Next: next}); err != nil || !cmp.Equal(rev, want) {
			t.Errorf("%+v, %v, want %+v", rev, err, want)
		}
	}
}

// What an aborted transaction wrote where the next one is now must not be read.
func TestAnAbortedTransactionIsNotReadInPlaceOfTheNext(t *testing.T) {
	t.Parallel()
	s := temp(t)
	serial := put(t, s, 0, "new")
	txn := begin(t, s, raidstorage.Meta{})
	if err := txn.Store(t.Context(), 0, serial, []byte("foo")); err != nil {
		t.Fatal(err)
	}
	if _, err := txn.Vote(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantCurrent(t, s, 0, "new")
	mustAbort(t, txn)
	put(t, s, 0, "bar")
	wantCurrent(t, s, 0, "bar")
}

// The two lengths of a transaction differ, which opening does not notice, since the
// index covers it: the pack does, and nothing is lost.
func TestAPackOfADamagedFileFailsAndChangesNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "Data.fs")
	s := openFor(t, path, filestorage.Options{Durability: filestorage.NoSync})
	put(t, s, 0, storagetest.Pickled("root"))
	through := put(t, s, 0, storagetest.Pickled("again"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openFor(t, path, filestorage.Options{Durability: filestorage.NoSync})
	b := read(t, path)
	at := len(b) - 8
	binary.BigEndian.PutUint64(b[at:], binary.BigEndian.Uint64(b[at:])-1)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(b[at:], int64(at))
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	wantErr[*raidstorage.CorruptError](t, s.Pack(t.Context(), raidstorage.PackOptions{Through: through, GC: true}))
	wantCurrent(t, s, 0, storagetest.Pickled("again"))
	if !bytes.Equal(read(t, path), b) {
		t.Error("the pack changed the file")
	}
	if _, err := os.Stat(path + ".pack"); err == nil {
		t.Error("the pack left its file")
	}
}

// ZEO servers have written two records of a blob in one transaction.
func TestPackKeepsABlobWithTwoRecordsInOneTransaction(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "Data.fs")
	s := openBlobs(t, path, filestorage.Options{Durability: filestorage.NoSync})
	put(t, s, 0, storagetest.Pickled("root", 1))
	tid := commit(t, s, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
		if err := txn.Store(t.Context(), 2, 0, []byte(blobRecord)); err != nil {
			return err
		}
		return raidstorage.StoreBlob(t.Context(), txn, 1, 0, []byte(blobRecord), strings.NewReader("content"))
	})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// The record of object 2 becomes another one of object 1.
	two := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, 2), uint64(tid))
	one := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, 1), uint64(tid))
	b := read(t, path)
	if bytes.Count(b, two) != 1 {
		t.Fatalf("%d records of object 2", bytes.Count(b, two))
	}
	write(t, path, bytes.Replace(b, two, one, 1))
	if err := os.Remove(path + ".index"); err != nil {
		t.Fatal(err)
	}
	s = openBlobs(t, path, filestorage.Options{Durability: filestorage.NoSync})
	wantBlob(t, s, 1, tid, "content")
	pack(t, s, tid, true)
	wantBlob(t, s, 1, tid, "content")
	wantCurrent(t, s, 1, blobRecord)
}

// A blob that is open can be read to its end although a pack removes or moves it.
func TestABlobCanBeReadWhileAPackRemovesIt(t *testing.T) {
	t.Parallel()
	for _, drop := range []bool{false, true} {
		s, _ := tempBlobs(t, filestorage.Options{Durability: filestorage.NoSync, PackDropOld: drop})
		put(t, s, 0, storagetest.Pickled("root", 1))
		first, last := putBlob(t, s, 1, "first"), putBlob(t, s, 1, "last")
		removed, err := s.OpenBlob(t.Context(), 1, first)
		if err != nil {
			t.Fatal(err)
		}
		kept, err := s.OpenBlob(t.Context(), 1, last)
		if err != nil {
			t.Fatal(err)
		}
		pack(t, s, last, true)
		if text, err := readAll(removed, nil); err != nil || text != "first" {
			t.Errorf("the removed blob is %q, %v", text, err)
		}
		if text, err := readAll(kept, nil); err != nil || text != "last" {
			t.Errorf("the other blob is %q, %v", text, err)
		}
		wantNoBlob(t, s, 1, first)
		wantBlob(t, s, 1, last, "last")
	}
}

// An undone creation leaves no blob, and undoing that brings the blob back; so with
// changes.
func TestUndoAndRedoOfABlob(t *testing.T) {
	t.Parallel()
	s, _ := tempBlobs(t, filestorage.Options{Durability: filestorage.NoSync})
	created := putBlob(t, s, 1, "content")
	gone := undoTxn(t, s, created)
	wantGone(t, s, 1)
	wantNoBlob(t, s, 1, gone)
	back := undoTxn(t, s, gone)
	wantBlob(t, s, 1, back, "content")
	wantBlob(t, s, 1, created, "content")
	undo := undoTxn(t, s, putBlob(t, s, 1, "changed"))
	wantBlob(t, s, 1, undo, "content")
	wantBlob(t, s, 1, undoTxn(t, s, undo), "changed")
}

// Of the future nothing is known, so all that is current stays, and can be changed.
func TestPackToATimeInTheFuture(t *testing.T) {
	t.Parallel()
	s := temp(t)
	put(t, s, 0, storagetest.Pickled("root", 1))
	old := put(t, s, 1, storagetest.Pickled("first"))
	last := put(t, s, 1, storagetest.Pickled("second"))
	pack(t, s, last+1<<44, true) // some days
	wantCurrent(t, s, 1, storagetest.Pickled("second"))
	if _, err := raidstorage.LoadSerial(t.Context(), s, 1, old); err == nil {
		t.Error("the old revision is there")
	}
	put(t, s, 1, storagetest.Pickled("third"))
	wantCurrent(t, s, 1, storagetest.Pickled("third"))
}
