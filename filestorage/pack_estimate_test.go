package filestorage_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// estimated is what the tests of estimates need of a storage.
type estimated interface {
	raidstorage.Storage
	raidstorage.PackEstimator
	raidstorage.GarbageFinder
	raidstorage.Sizer
}

// measured is what a storage holds, for comparing before and after a pack.
type measured struct {
	objects, records, size int64
	early                  map[raidstorage.OID]bool // objects with a record up to the pack time that is data
}

func measure(t *testing.T, s estimated, through raidstorage.TID) measured {
	t.Helper()
	m := measured{early: map[raidstorage.OID]bool{}}
	for txn, err := range s.Iterate(t.Context(), 0, raidstorage.MaxTID) {
		if err != nil {
			t.Fatal(err)
		}
		for rec, err := range txn.Records {
			if err != nil {
				t.Fatal(err)
			}
			m.records++
			if rec.TID <= through {
				m.early[rec.OID] = rec.Data != nil
			}
		}
	}
	var err error
	if m.objects, m.size, err = s.Size(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f, ok := s.(*filestorage.Storage); ok {
		info, err := os.Stat(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		m.size = info.Size()
	}
	return m
}

// randomHistory commits the same to all, and returns the tids.
func randomHistory(t *testing.T, r *rand.Rand, all []estimated) (tids []raidstorage.TID) {
	t.Helper()
	try := func(s estimated, tid raidstorage.TID, stage func(raidstorage.Txn) error) bool {
		txn, err := s.Begin(t.Context(), raidstorage.Meta{TID: tid, Description: []byte(strings.Repeat("d", int(tid%9)))})
		if err != nil {
			t.Fatal(err)
		}
		defer txn.Abort(t.Context())
		if err = stage(txn); err == nil {
			if _, err = txn.Vote(t.Context()); err == nil {
				_, err = txn.Finish(t.Context())
			}
		}
		return err == nil
	}
	tid := raidstorage.TID(1 << 40)
	for range 12 + r.IntN(25) {
		tid++
		undone := raidstorage.TID(0)
		if len(tids) > 1 && r.IntN(3) == 0 {
			undone = tids[max(1, len(tids)-1-r.IntN(3))]
		}
		removed := raidstorage.OID(0)
		if r.IntN(6) == 0 {
			removed = raidstorage.OID(1 + r.IntN(6))
		}
		objects := map[raidstorage.OID]string{}
		for range 1 + r.IntN(3) {
			oid := raidstorage.OID(r.IntN(7))
			if len(tids) == 0 {
				oid = 0
			}
			var refs []raidstorage.OID
			for range r.IntN(3) {
				refs = append(refs, raidstorage.OID(1+r.IntN(6)))
			}
			objects[oid] = storagetest.Pickled(strings.Repeat("x", r.IntN(300))+fmt.Sprint(tid), refs...)
		}
		done := 0
		for _, s := range all {
			if try(s, tid, func(txn raidstorage.Txn) (err error) {
				switch {
				case undone != 0:
					return raidstorage.Undo(t.Context(), txn, undone)
				case removed != 0:
					return txn.Delete(t.Context(), removed, serialOf(t, s, removed))
				}
				for oid, data := range objects {
					if err == nil {
						err = txn.Store(t.Context(), oid, serialOf(t, s, oid), []byte(data))
					}
				}
				return err
			}) {
				done++
			}
		}
		if done == len(all) {
			tids = append(tids, tid)
		} else if done > 0 {
			t.Fatal("the storages do not agree")
		}
	}
	return tids
}

// What the estimate tells is what the next pack drops, record for record and byte for byte.
func TestEstimateIsWhatThePackDrops(t *testing.T) {
	t.Parallel()
	var objects, revisions, grown int64
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		mem, file := memstorage.New("memory"), temp(t)
		both := []estimated{mem, file}
		tids := randomHistory(t, r, both)
		for round := range 2 {
			opts := raidstorage.PackOptions{Through: tids[r.IntN(len(tids))], GC: r.IntN(3) > 0}
			decided := r.IntN(2) == 0
			for _, s := range both {
				o := opts
				if decided && opts.GC {
					o.Decided = true
					var err error
					if o.Garbage, err = s.FindGarbage(t.Context(), o.Through, func(context.Context) error { return nil }); err != nil {
						t.Fatal(err)
					}
				}
				before := measure(t, s, o.Through)
				e, err := s.EstimatePack(t.Context(), o)
				if err != nil {
					t.Fatal(err)
				}
				if again := measure(t, s, o.Through); !cmp.Equal(before, again, cmp.AllowUnexported(measured{})) {
					t.Fatalf("seed %d: the estimate changed the storage", seed)
				}
				if err := s.Pack(t.Context(), o); err != nil {
					t.Fatal(err)
				}
				after := measure(t, s, o.Through)
				var gone int64
				for oid, data := range before.early {
					if _, left := after.early[oid]; data && !left {
						gone++
					}
				}
				if e.Objects != gone || e.Objects+e.Revisions != before.records-after.records || e.Bytes != before.size-after.size {
					t.Fatalf("seed %d, round %d, %T, %+v: %d, %d, %d: the estimate is so, but %d objects, %d records and %d bytes have gone",
						seed, round, s, o, e.Objects, e.Objects+e.Revisions, e.Bytes, gone, before.records-after.records, before.size-after.size)
				}
				if data := e.ObjectBytes + e.RevisionBytes; e.Bytes < 0 {
					grown++
				} else if data < 0 || e.Objects+e.Revisions == 0 && data != 0 {
					t.Fatalf("seed %d: %+v", seed, e)
				}
				var sum raidstorage.PackClass
				for _, c := range e.Classes {
					sum.Objects, sum.Revisions, sum.Bytes = sum.Objects+c.Objects, sum.Revisions+c.Revisions, sum.Bytes+c.Bytes
				}
				if sum.Objects != e.Objects || sum.Revisions != e.Revisions || sum.Bytes != e.ObjectBytes+e.RevisionBytes {
					t.Fatalf("seed %d: the classes add up to %+v, not to %+v", seed, sum, e)
				}
				objects, revisions = objects+e.Objects, revisions+e.Revisions
			}
		}
		mem.Close()
	}
	t.Logf("%d objects, %d revisions, %d times larger", objects, revisions, grown)
	if objects == 0 || revisions == 0 {
		t.Error("the histories had nothing to drop")
	}
}

// Classes are told of records as ZODB writes them, and nothing is believed of others.
func TestEstimateTellsTheClasses(t *testing.T) {
	t.Parallel()
	const blob = "\x80\x03cZODB.blob\nBlob\n.\x80\x03N."
	for _, s := range []estimated{memstorage.New("memory"), temp(t)} {
		put := func(oid raidstorage.OID, data string) raidstorage.TID {
			return commit(t, s, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
				return txn.Store(t.Context(), oid, serialOf(t, s, oid), []byte(data))
			})
		}
		put(0, storagetest.Pickled("the root as it was"))
		put(0, storagetest.Pickled("root"))
		put(1, blob)
		put(2, blob)
		put(3, "\x80\x03cm\n\x1b[2J\n.N.")                              // would clear a terminal
		put(4, "\x80\x03X\xff\xff\xff\xff no such length")              // ends too early
		put(5, "no pickle")                                             //
		put(6, "\x80\x03c"+strings.Repeat("long", 1<<20)+"\nName\n.N.") // no name of a class
		removed := put(7, storagetest.Pickled("removed"))
		commit(t, s, raidstorage.Meta{}, func(txn raidstorage.Txn) error { return txn.Delete(t.Context(), 7, removed) })
		through := put(8, storagetest.Pickled("garbage, but kept as the last one"))
		e, err := s.EstimatePack(t.Context(), raidstorage.PackOptions{Through: through, Decided: true, Garbage: []raidstorage.OID{1, 2, 3, 4, 5, 6}})
		if err != nil {
			t.Fatal(err)
		}
		for i := range e.Classes {
			e.Classes[i].Bytes = min(e.Classes[i].Bytes, 1000)
		}
		mapping := int64(len(storagetest.Pickled("the root as it was")) + len(storagetest.Pickled("removed")))
		want := []raidstorage.PackClass{
			{Class: raidstorage.PackClassUnknown, Objects: 4, Bytes: 1000},
			{Class: "persistent.mapping.PersistentMapping", Revisions: 2, Bytes: mapping},
			{Class: "ZODB.blob.Blob", Objects: 2, Bytes: int64(2 * len(blob))},
			{Class: raidstorage.PackClassDeletion, Revisions: 1},
		}
		if diff := cmp.Diff(want, e.Classes); diff != "" {
			t.Errorf("%T (-want +got):\n%s", s, diff)
		}
		if e.Objects != 6 || e.Revisions != 3 {
			t.Errorf("%T: %+v", s, e)
		}
	}
}

// A file of Python's.
func TestEstimateOfAFileOfPython(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "Data.fs")
	b, err := os.ReadFile("testdata/tree.fs")
	if err == nil {
		err = os.WriteFile(path, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := openFor(t, path, filestorage.Options{})
	last, err := s.LastTID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	opts := raidstorage.PackOptions{Through: last, Decided: true}
	for rec, err := range s.CurrentRecords(t.Context(), 1) {
		if err != nil {
			t.Fatal(err)
		}
		opts.Garbage = append(opts.Garbage, rec.OID)
	}
	e, err := s.EstimatePack(t.Context(), opts)
	if err != nil || e.Objects+e.Revisions == 0 {
		t.Fatalf("%+v, %v", e, err)
	}
	before := measure(t, s, last)
	if err := s.Pack(t.Context(), opts); err != nil {
		t.Fatal(err)
	}
	if after := measure(t, s, last); e.Objects+e.Revisions != before.records-after.records || e.Bytes != before.size-after.size {
		t.Errorf("%+v, but %d records and %d bytes have gone", e, before.records-after.records, before.size-after.size)
	}
	if !slices.ContainsFunc(e.Classes, func(c raidstorage.PackClass) bool { return strings.HasPrefix(c.Class, "persistent.") }) {
		t.Errorf("the classes are %+v", e.Classes)
	}
}
