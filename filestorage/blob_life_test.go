package filestorage_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

func TestOpenRemovesOnlyOurTemporaryBlobs(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "Data.fs")
	mkdir(t, path+".blobs/tmp")
	for _, name := range []string{".layout", "tmp/raidstorage-12.tmp", "tmp/BUCq1w2", "tmp/raidstorage-x"} {
		write(t, filepath.Join(path+".blobs", name), []byte("bushy"))
	}
	openBlobs(t, path, filestorage.Options{})
	want := []string{".layout", "tmp/BUCq1w2", "tmp/raidstorage-x"}
	if diff := cmp.Diff(filesIn(t, path+".blobs"), want); diff != "" {
		t.Error(diff)
	}
}

// However a transaction ends without being committed, no file stays.
func TestWhatIsNotCommittedLeavesNoBlob(t *testing.T) {
	t.Parallel()
	vote := func(t *testing.T, txn raidstorage.Txn) {
		if _, err := txn.Vote(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for name, end := range map[string]func(*testing.T, *filestorage.Storage, raidstorage.Txn){
		"abort":            func(t *testing.T, _ *filestorage.Storage, txn raidstorage.Txn) { mustAbort(t, txn) },
		"abort after vote": func(t *testing.T, _ *filestorage.Storage, txn raidstorage.Txn) { vote(t, txn); mustAbort(t, txn) },
		"close":            func(*testing.T, *filestorage.Storage, raidstorage.Txn) {},
		"close after vote": func(t *testing.T, _ *filestorage.Storage, txn raidstorage.Txn) { vote(t, txn) },
		"failed vote": func(t *testing.T, s *filestorage.Storage, txn raidstorage.Txn) {
			put(t, s, 2, "later")
			if err := txn.CheckCurrent(t.Context(), 2, 1); err != nil {
				t.Fatal(err)
			}
			_, err := txn.Vote(t.Context())
			wantErr[*raidstorage.ReadConflictError](t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, dir := tempBlobs(t, filestorage.Options{})
			kept := putBlob(t, s, 1, "one")
			put(t, s, 2, "two")
			putBlob(t, s, 3, "three")
			undoable := putBlob(t, s, 3, "tre")
			want := filesIn(t, dir)
			txn := begin(t, s, raidstorage.Meta{})
			for _, content := range []string{"replaced", "never"} {
				err := raidstorage.StoreBlob(t.Context(), txn, 1, kept, []byte(blobRecord), strings.NewReader(content))
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := raidstorage.Undo(t.Context(), txn, undoable); err != nil {
				t.Fatal(err)
			}
			end(t, s, txn)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(filesIn(t, dir), want); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func mustAbort(t testing.TB, txn raidstorage.Txn) {
	t.Helper()
	if err := txn.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestTheLastBlobOfAnObjectCounts(t *testing.T) {
	t.Parallel()
	s, dir := tempBlobs(t, filestorage.Options{})
	tid := commit(t, s, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
		return errors.Join(
			raidstorage.StoreBlob(t.Context(), txn, 1, 0, []byte(blobRecord), strings.NewReader("first")),
			raidstorage.StoreBlob(t.Context(), txn, 1, 0, []byte(blobRecord), strings.NewReader("last")),
			raidstorage.StoreBlob(t.Context(), txn, 2, 0, []byte(blobRecord), strings.NewReader("replaced")),
			txn.Store(t.Context(), 2, 0, []byte("no blob")))
	})
	wantBlob(t, s, 1, tid, "last")
	wantNoBlob(t, s, 2, tid)
	if diff := cmp.Diff(filesIn(t, dir), []string{".layout", bushyPath(1, tid)}); diff != "" {
		t.Error(diff)
	}
}

// openers returns for each record of the log what opening its blob gives.
func openers(t testing.TB, s *filestorage.Storage) (all []string) {
	t.Helper()
	for txn, err := range s.Iterate(t.Context(), 0, raidstorage.MaxTID) {
		if err != nil {
			t.Fatal(err)
		}
		for rec, err := range txn.Records {
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, opened(t, rec))
		}
	}
	return all
}

func opened(t testing.TB, rec raidstorage.Record) string {
	t.Helper()
	if rec.OpenBlob == nil {
		return "-"
	}
	content, err := readAll(rec.OpenBlob(t.Context()))
	if missing, ok := errors.AsType[*raidstorage.NotFoundError](err); ok && missing.OID == rec.OID && missing.Serial == rec.TID {
		return "missing"
	}
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestIterationOpensBlobsAndTellsOfMissingOnes(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(testing.TB, string){"bushy": func(testing.TB, string) {}, "lawn": lawn} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "Data.fs")
			prepare(t, path+".blobs")
			s := openBlobs(t, path, filestorage.Options{Durability: filestorage.NoSync})
			putBlob(t, s, 1, "one")
			put(t, s, 2, "plain")
			put(t, s, 1<<40, "far")
			commit(t, s, raidstorage.Meta{}, func(txn raidstorage.Txn) error { // not the class of a blob
				return raidstorage.StoreBlob(t.Context(), txn, 3, 0, []byte("any"), strings.NewReader("three"))
			})
			lost := putBlob(t, s, 4, "four")
			lostPath, err := s.BlobPath(t.Context(), 4, lost)
			if err := errors.Join(err, os.Remove(lostPath)); err != nil {
				t.Fatal(err)
			}
			undone := undoTxn(t, s, putBlob(t, s, 1, "uno"))
			if diff := cmp.Diff(openers(t, s), []string{"one", "-", "-", "three", "missing", "uno", "one"}); diff != "" {
				t.Error(diff)
			}
			var current []string
			for rec, err := range s.CurrentRecords(t.Context(), 0) {
				if err != nil {
					t.Fatal(err)
				}
				current = append(current, opened(t, rec))
			}
			if diff := cmp.Diff(current, []string{"one", "-", "three", "missing", "-"}); diff != "" {
				t.Error(diff)
			}
			wantBlob(t, s, 1, undone, "one")
			wantNoBlob(t, s, 4, lost)
			changed := putBlob(t, s, 4, "quattro")
			txn := begin(t, s, raidstorage.Meta{})
			if err := raidstorage.Undo(t.Context(), txn, changed); err != nil {
				t.Fatal(err)
			}
			_, err = txn.Vote(t.Context())
			if refused := wantErr[*raidstorage.UndoError](t, err); refused.TID != changed || refused.OID != 4 {
				t.Errorf("undo to a missing blob: %v", refused)
			}
		})
	}
}

// A file of a transaction that was never committed is not seen, and does not become
// part of one that has its tid.
func TestBlobsThatACrashLeftAreNotSeen(t *testing.T) {
	t.Parallel()
	s, dir := tempBlobs(t, filestorage.Options{})
	first := putBlob(t, s, 1, "one")
	put(t, s, 2, "plain")
	later := first + 1<<40
	for _, oid := range []byte{1, 2, 3} {
		name := filepath.Join(dir, bushyPath(oid, later))
		mkdir(t, filepath.Dir(name))
		write(t, name, []byte("orphan"))
		wantNoBlob(t, s, raidstorage.OID(oid), later)
	}
	commit(t, s, raidstorage.Meta{TID: later}, func(txn raidstorage.Txn) error {
		return errors.Join(
			txn.Restore(t.Context(), raidstorage.Record{OID: 1, TID: later, Data: []byte(blobRecord), OpenBlob: blobOf("right")}),
			txn.Restore(t.Context(), raidstorage.Record{OID: 2, TID: later, Data: []byte("plain")}))
	})
	if diff := cmp.Diff(openers(t, s), []string{"one", "-", "right", "-"}); diff != "" {
		t.Error(diff)
	}
	wantNoBlob(t, s, 3, later)
}

// What is remembered of the directory, so as not to ask for each record's file, knows of
// the blobs that came since, and survives neither a new open nor hides a lawn's.
func TestOrphansOfObjectsThatGotABlobMeanwhileAreNotSeen(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(testing.TB, string){"bushy": func(testing.TB, string) {}, "lawn": lawn} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "Data.fs")
			prepare(t, path+".blobs")
			s := openBlobs(t, path, filestorage.Options{})
			restore := func(oid raidstorage.OID, tid raidstorage.TID) {
				t.Helper()
				commit(t, s, raidstorage.Meta{TID: tid}, func(txn raidstorage.Txn) error {
					return txn.Restore(t.Context(), raidstorage.Record{OID: oid, TID: tid, Data: []byte("plain")})
				})
			}
			orphan := func(oid raidstorage.OID, tid raidstorage.TID) {
				t.Helper()
				folder, err := s.BlobFolder(oid)
				if err != nil {
					t.Fatal(err)
				}
				write(t, filepath.Join(folder, filepath.Base(bushyPath(byte(oid), tid))), []byte("orphan"))
			}
			first := put(t, s, 9, "plain")
			restore(1, first+1<<20) // no object of this stretch has a directory
			first = putBlob(t, s, 2, "two")
			putBlob(t, s, 3, "three")
			for i, oid := range []raidstorage.OID{2, 3} {
				later := first + raidstorage.TID(i+1)<<40
				orphan(oid, later)
				restore(oid, later)
				wantNoBlob(t, s, oid, later)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = openBlobs(t, path, filestorage.Options{})
			later := first + 3<<40
			orphan(2, later)
			restore(2, later)
			wantNoBlob(t, s, 2, later)
		})
	}
}

// A directory that is not there for a moment, as a mount is gone, is not taken for one
// without blobs from then on.
func TestOrphansUnderAMountThatWasGoneAreNotSeen(t *testing.T) {
	t.Parallel()
	s, dir := tempBlobs(t, filestorage.Options{})
	first := put(t, s, 1, "plain")
	later := first + 1<<40
	orphan := filepath.Join(dir, bushyPath(1, later))
	mkdir(t, filepath.Dir(orphan))
	write(t, orphan, []byte("orphan"))
	move := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	restore := func(oid raidstorage.OID, tid raidstorage.TID) {
		t.Helper()
		commit(t, s, raidstorage.Meta{TID: tid}, func(txn raidstorage.Txn) error {
			return txn.Restore(t.Context(), raidstorage.Record{OID: oid, TID: tid, Data: []byte("plain")})
		})
	}
	move(dir, dir+".gone")
	restore(2, later-1)
	move(dir+".gone", dir)
	restore(1, later)
	wantNoBlob(t, s, 1, later)
}

// A listing of the objects remembers which of them have a directory, and sees the blobs that
// come while it goes on.
func TestCurrentRecordsSeeBlobsThatComeMeanwhile(t *testing.T) {
	t.Parallel()
	s, _ := tempBlobs(t, filestorage.Options{})
	const objects, at = 20, 15 // so many that the directory is looked at
	want := slices.Repeat([]string{"-"}, objects)
	for oid := range raidstorage.OID(objects) {
		put(t, s, oid, "plain")
	}
	var got []string
	for rec, err := range s.CurrentRecords(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, opened(t, rec)); rec.OID != at-1 {
			continue
		}
		serial := serialOf(t, s, at) // of a class that does not tell
		commit(t, s, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
			return raidstorage.StoreBlob(t.Context(), txn, at, serial, []byte("plain"), strings.NewReader("later"))
		})
	}
	if want[at] = "later"; !cmp.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// So does it see one that is mended meanwhile, where there was not even a directory.
func TestCurrentRecordsSeeBlobsThatAreMendedMeanwhile(t *testing.T) {
	t.Parallel()
	s, dir := tempBlobs(t, filestorage.Options{})
	const objects, at = 20, 15
	for oid := range raidstorage.OID(objects) {
		tid := commit(t, s, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
			if oid != at {
				return txn.Store(t.Context(), oid, 0, []byte("plain"))
			}
			return raidstorage.StoreBlob(t.Context(), txn, oid, 0, []byte("plain"), strings.NewReader("blob"))
		})
		if oid == at {
			if err := os.RemoveAll(filepath.Dir(filepath.Join(dir, bushyPath(at, tid)))); err != nil {
				t.Fatal(err)
			}
		}
	}
	lost := serialOf(t, s, at)
	got := ""
	for rec, err := range s.CurrentRecords(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		switch rec.OID {
		case at - 1:
			staged, err := s.StageBlob(t.Context(), at, lost, blobSum(t, "blob"), strings.NewReader("blob"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := staged.Place(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
		case at:
			got = opened(t, rec)
		}
	}
	if got != "blob" {
		t.Errorf("the mended blob is %q", got)
	}
}

func TestTruncationKeepsTheBlobsBesideWhatItCuts(t *testing.T) {
	t.Parallel()
	s, dir := tempBlobs(t, filestorage.Options{})
	first := putBlob(t, s, 1, "one")
	second := putBlob(t, s, 1, "two")
	last := undoTxn(t, s, putBlob(t, s, 2, "other"))
	if err := s.TruncateAfter(t.Context(), first, last); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(filesIn(t, dir), []string{".layout", bushyPath(1, first)}); diff != "" {
		t.Error(diff)
	}
	wantNoBlob(t, s, 1, second)
	kept := openBlobs(t, s.Name()+".tr0", filestorage.Options{})
	if diff := cmp.Diff(openers(t, kept), []string{"two", "other", "-"}); diff != "" {
		t.Error(diff)
	}
	for txn, err := range kept.Iterate(t.Context(), 0, raidstorage.MaxTID) { // and back again
		if err != nil {
			t.Fatal(err)
		}
		commit(t, s, txn.Meta, func(to raidstorage.Txn) error {
			for rec, err := range txn.Records {
				if err := errors.Join(err, to.Restore(t.Context(), rec)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	wantBlob(t, s, 1, second, "two")
}

func TestPackMovesBlobsToTheOldDirectoryOrRemovesThem(t *testing.T) {
	t.Parallel()
	for _, drop := range []bool{false, true} {
		s, dir := tempBlobs(t, filestorage.Options{PackDropOld: drop})
		putBlob(t, s, 0, "root")
		first := putBlob(t, s, 1, "one")
		garbage := putBlob(t, s, 2, "garbage")
		second := putBlob(t, s, 1, "two")
		undoTxn(t, s, putBlob(t, s, 1, "three"))
		foreign := bushyPath(9, first) // belongs to no transaction of this database
		mkdir(t, filepath.Dir(filepath.Join(dir, foreign)))
		write(t, filepath.Join(dir, foreign), []byte("?"))
		before := filesIn(t, dir)
		open, err := s.OpenBlob(t.Context(), 2, garbage)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Pack(t.Context(), raidstorage.PackOptions{Through: second, GC: true}); err != nil {
			t.Fatal(err)
		}
		if got, err := readAll(open, nil); got != "garbage" {
			t.Errorf("a blob that was open reads %q, %v", got, err)
		}
		gone := []string{bushyPath(1, first), bushyPath(2, garbage)}
		want := slices.DeleteFunc(slices.Clone(before), func(name string) bool { return slices.Contains(gone, name) })
		if diff := cmp.Diff(filesIn(t, dir), want); diff != "" {
			t.Errorf("drop %v: %s", drop, diff)
		}
		if _, err := os.Stat(filepath.Join(dir, filepath.Dir(gone[1]))); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the directory of garbage is there: %v", err)
		}
		if drop {
			if _, err := os.Stat(dir + ".old"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("there is an old directory: %v", err)
			}
			continue
		}
		old := slices.DeleteFunc(before, func(name string) bool { return name == foreign })
		if diff := cmp.Diff(filesIn(t, dir+".old"), old); diff != "" {
			t.Error(diff)
		}
	}
}
