package filestorage_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// Somebody cuts the file during an iteration, which reads the mapping: it ends with an
// error, and what it yielded before is right. Without the check for that, the rest of
// the page with the cut would be yielded as zeros.
func TestAFileCutDuringAnIterationGivesAnError(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "Data.fs")
	s, err := filestorage.Open(t.Context(), path, filestorage.Options{Durability: filestorage.NoSync})
	if err != nil {
		t.Fatal(err)
	}
	const objects, size = 400, 1777
	fill(t, s, objects, 1, size)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	content, want := read(t, path), bytes.Repeat([]byte{'x'}, size)
	for cut := len(content) / 2; cut < len(content)/2+3*4096; cut += 211 {
		write(t, path, content)
		s := openFor(t, path, filestorage.Options{ReadOnly: true})
		n, failed := 0, error(nil)
		for txn, err := range s.Iterate(t.Context(), 0, raidstorage.MaxTID) {
			if failed = err; err != nil {
				break
			}
			for rec, err := range txn.Records {
				if failed = err; err != nil {
					break
				}
				if !bytes.Equal(rec.Data, want) {
					t.Fatalf("cut at %d: record %d is %q", cut, n, rec.Data)
				}
				if n++; n == 100 {
					if err := os.Truncate(path, int64(cut)); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		if most := cut / (size + 42); failed == nil || raidstorage.Classify(failed) != raidstorage.ClassFailure || n > most || n < cut/(size+100)-1 {
			t.Errorf("cut at %d: %d records, %v", cut, n, failed)
		}
	}
}

// What is committed after the file was mapped, beyond the mapping too, is iterated.
func TestIterationBeyondTheMapping(t *testing.T) {
	t.Parallel()
	s := temp(t)
	filestorage.ShortenMapping(s, 5000)
	fill(t, s, 100, 3, 1000)
	for range 2 {
		n := 0
		for txn, err := range s.Iterate(t.Context(), 0, raidstorage.MaxTID) {
			if err != nil {
				t.Fatal(err)
			}
			for rec, err := range txn.Records {
				if err != nil || len(rec.Data) != 1000 {
					t.Fatalf("object %v: %d bytes, %v", rec.OID, len(rec.Data), err)
				}
				n++
			}
		}
		if n != 100 {
			t.Errorf("%d records", n)
		}
	}
}
