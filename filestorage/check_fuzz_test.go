package filestorage_test

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// seeds are files that are damaged in all the ways that the tests know.
func seeds(f *testing.F) {
	f.Helper()
	for _, d := range damages() {
		if d.do != nil {
			b := golden(f, "tree.fs")
			f.Add(d.do(b, placesOf(b))) // its damage stays in the copy only
		}
	}
	for _, name := range []string{"undone.fs", "packed.fs"} {
		f.Add(golden(f, name))
	}
}

// FuzzCheck reads any bytes as a file. Check and Dump must come to an end, agree on
// what there is, and find something where Open does.
func FuzzCheck(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "Data.fs")
		write(t, path, content)
		all, report := check(t, path, filestorage.InspectOptions{})
		dumped, err := filestorage.Dump(t.Context(), path, io.Discard, filestorage.InspectOptions{JSON: true})
		if err != nil {
			t.Fatal(err)
		}
		if report.LostBytes > dumped.LostBytes || dumped.LostBytes > int64(len(content)) || report.Transactions > dumped.Transactions {
			t.Errorf("Check: %+v, Dump: %+v", report, dumped)
		}
		s, err := filestorage.Open(t.Context(), path, filestorage.Options{ReadOnly: true})
		if err != nil {
			if len(all) == 0 {
				t.Errorf("no findings, and Open says %v", err)
			}
			return
		}
		defer s.Close()
		if _, err := dump(t.Context(), s); err != nil && len(all) == 0 {
			t.Errorf("no findings, and reading all says %v", err)
		}
	})
}

// FuzzRecover recovers any bytes. The result must be clean, and its copy the same.
func FuzzRecover(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "Data.fs")
		write(t, path, content)
		for _, opts := range []filestorage.InspectOptions{{}, {WholeOnly: true}, {Opaque: true}} {
			fresh, all, _, err := salvage(t, path, opts)
			if err != nil {
				if _, ok := errors.AsType[*raidstorage.InvalidError](err); !ok {
					t.Fatal(err)
				}
				continue
			}
			after, report := check(t, fresh, filestorage.InspectOptions{Opaque: opts.Opaque})
			for _, found := range after {
				if found.Kind != "dangling" {
					t.Errorf("%+v: the new file has %+v", opts, found)
				}
			}
			s := openFor(t, fresh, filestorage.Options{ReadOnly: true})
			if diff := cmp.Diff(len(transactionsIn(t, s)), int(report.Transactions)); diff != "" {
				t.Errorf("transactions (-Open +Check): %s", diff)
			}
			again, more, _, err := salvage(t, fresh, opts)
			if err != nil || len(more) > 0 || !bytes.Equal(read(t, again), read(t, fresh)) {
				t.Errorf("%+v: recovering the new file: %v, %v; the first time: %v", opts, more, err, all)
			}
		}
	})
}

func transactionsIn(t testing.TB, s raidstorage.Storage) (tids []raidstorage.TID) {
	t.Helper()
	for txn, err := range s.Iterate(t.Context(), 0, raidstorage.MaxTID) {
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range txn.Records {
			if err != nil {
				t.Fatal(err)
			}
		}
		tids = append(tids, txn.TID)
	}
	return tids
}
