package filestorage_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// A transaction whose records are all gone is a sound part of the file.
func TestTheFileIsSoundWhenItsLastTransactionIsEmpty(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "Data.fs")
	s := openFor(t, path, filestorage.Options{})
	put(t, s, 0, storagetest.Pickled("root"))
	last := put(t, s, 1, storagetest.Pickled("garbage"))
	if err := s.Pack(t.Context(), raidstorage.PackOptions{Through: last, Decided: true, Garbage: []raidstorage.OID{1}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	report, err := filestorage.Check(t.Context(), path, filestorage.InspectOptions{})
	if err != nil || report.Findings != 0 {
		t.Errorf("the check says %+v, %v", report, err)
	}
	s = openFor(t, path, filestorage.Options{})
	if got, err := s.LastTID(t.Context()); got != last || err != nil {
		t.Errorf("LastTID = %v, %v, want %v", got, err, last)
	}
	put(t, s, 1, storagetest.Pickled("goes on"))
}

// What another storage decided is dropped, though a transaction that was committed
// meanwhile, or repeats it, would spare it.
func TestDecidedGarbageIsNotSparedByALaterLink(t *testing.T) {
	t.Parallel()
	s := temp(t)
	put(t, s, 0, storagetest.Pickled("root", 1))
	put(t, s, 1, storagetest.Pickled("child"))
	cut := put(t, s, 0, storagetest.Pickled("root without a child"))
	hooked(s, func() { undoTxn(t, s, cut) })
	if err := s.Pack(t.Context(), raidstorage.PackOptions{Through: cut, Decided: true, Garbage: []raidstorage.OID{1}}); err != nil {
		t.Fatal(err)
	}
	if got := current(t, s, 0); got != storagetest.Pickled("root", 1) {
		t.Errorf("the root is %q", got)
	}
	_, err := s.LoadBefore(t.Context(), 1, raidstorage.MaxTID)
	wantErr[*raidstorage.NotFoundError](t, err)
}

// Memory and file decide alike, and make the same log of the decision.
func TestMemoryAndFileDecideAlike(t *testing.T) {
	t.Parallel()
	mem, file := memstorage.New("memory"), temp(t)
	both := []raidstorage.Storage{mem, file}
	tid := raidstorage.TID(1 << 40)
	write := func(objects map[raidstorage.OID]string) raidstorage.TID {
		tid++
		for _, s := range both {
			commit(t, s, raidstorage.Meta{TID: tid}, func(txn raidstorage.Txn) (err error) {
				for oid, data := range objects {
					err = errors.Join(err, txn.Store(t.Context(), oid, serialOf(t, s, oid), []byte(data)))
				}
				return err
			})
		}
		return tid
	}
	undo := func(which raidstorage.TID) {
		tid++
		for _, s := range both {
			commit(t, s, raidstorage.Meta{TID: tid}, func(txn raidstorage.Txn) error { return raidstorage.Undo(t.Context(), txn, which) })
		}
	}
	write(map[raidstorage.OID]string{0: storagetest.Pickled("root", 1, 5), 1: storagetest.Pickled("child", 2), 2: storagetest.Pickled("grandchild")})
	write(map[raidstorage.OID]string{3: storagetest.Pickled("garbage", 4), 4: storagetest.Pickled("below garbage"), 5: storagetest.Pickled("leaf")})
	unlink := write(map[raidstorage.OID]string{0: storagetest.Pickled("root"), 3: storagetest.Pickled("garbage again", 4)})
	through := write(map[raidstorage.OID]string{1: storagetest.Pickled("unlinked child", 2)})
	write(map[raidstorage.OID]string{3: storagetest.Pickled("written again later")})
	undo(unlink + 1) // a later record that repeats an earlier one
	decide := func(context.Context) error { return nil }
	inMemory, err := mem.FindGarbage(t.Context(), through, decide)
	if err != nil {
		t.Fatal(err)
	}
	inFile, err := file.FindGarbage(t.Context(), through, decide)
	if err != nil || !slices.Equal(inMemory, inFile) || len(inFile) == 0 {
		t.Fatalf("in memory %v is garbage, in the file %v, %v", inMemory, inFile, err)
	}
	for _, s := range both {
		finder, err := raidstorage.Can[raidstorage.GarbageFinder](s)
		if err == nil {
			err = finder.Pack(t.Context(), raidstorage.PackOptions{Through: through, Decided: true, Garbage: inFile})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if m, f := mustDump(t, mem), mustDump(t, file); m != f {
		t.Errorf("memory:\n%s\nfile:\n%s", m, f)
	}
}
