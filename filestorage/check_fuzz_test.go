package filestorage_test

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// small returns a small file with a bit of everything: the fuzzer is slow on large ones.
func small(f *testing.F) []byte {
	f.Helper()
	record := func(state string) string { return "\x80\x03cx\nY\nq\x00.\x80\x03" + state + "." }
	s := openFor(f, filepath.Join(f.TempDir(), "Data.fs"), filestorage.Options{Durability: filestorage.NoSync})
	put(f, s, 2, record("N"))
	put(f, s, 0, record("C\x08\x00\x00\x00\x00\x00\x00\x00\x02Q"))
	undoTxn(f, s, put(f, s, 2, record("K\x01")))
	commit(f, s, raidstorage.Meta{User: []byte("u"), Description: []byte("nothing")}, func(raidstorage.Txn) error { return nil })
	undoTxn(f, s, put(f, s, 3, record("K\x02")))
	return read(f, s.Name())
}

// seeds are small files with damage in each field.
func seeds(f *testing.F) {
	f.Helper()
	b := small(f)
	p := placesOf(b)
	f.Add(b)
	f.Add(b[:len(b)-20])
	f.Add(append(bytes.Clone(b), b[p.txn[2]:]...))
	for n := 1; n < len(p.txn)-1; n++ {
		for at := 1; at < 23; at += 4 {
			c := bytes.Clone(b)
			c[p.txn[n]+at] ^= 0x12
			f.Add(c)
		}
		for _, rec := range p.records[n] {
			for at := 3; at < 50; at += 4 {
				c := bytes.Clone(b)
				c[rec+at] ^= 3
				f.Add(c)
			}
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
	f.Fuzz(recoverAny)
}

func recoverAny(t *testing.T, content []byte) {
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
				t.Errorf("%+v: the new file has %+v; the damaged one %v", opts, found, all)
			}
		}
		s := openFor(t, fresh, filestorage.Options{ReadOnly: true})
		if n := len(transactionsIn(t, s)); int64(n) != report.Transactions {
			t.Errorf("%d transactions, and Check counts %d", n, report.Transactions)
		}
		again, more, _, err := salvage(t, fresh, opts)
		if err != nil || len(more) > 0 || !bytes.Equal(read(t, again), read(t, fresh)) {
			t.Errorf("%+v: recovering the new file: %v, %v; the first time: %v", opts, more, err, all)
		}
	}
}

var randomSeed = flag.Uint64("check.seed", 0, "seed of TestRandomDamage; 0 for one from the clock")

// TestRandomDamage damages a file in random places.
func TestRandomDamage(t *testing.T) {
	t.Parallel()
	seed := *randomSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-check.seed=%d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	whole := golden(t, "tree.fs")
	for range 100 {
		b := bytes.Clone(whole)
		for range 1 + r.IntN(4) {
			at := r.IntN(len(b) - 600)
			switch r.IntN(5) {
			case 0:
				b[at] ^= 1 << r.IntN(8)
			case 1:
				clear(b[at/512*512:][:512])
			case 2:
				b = slices.Delete(b, at, at+1+r.IntN(500))
			case 3:
				b = slices.Insert(b, at, b[at/2:at/2+r.IntN(300)]...)
			case 4:
				b = b[:len(b)-r.IntN(2000)]
			}
		}
		recoverAny(t, b)
		if t.Failed() {
			return
		}
	}
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
