package filestorage_test

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// Somebody cuts the file while it is mapped: reading a page behind its end is a
// SIGBUS, which must be an error of one load and not the end of the process; and the
// rest of the last page, which reads as zeros, must not be taken for data.
func TestAFileCutByOthersGivesErrors(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "Data.fs")
	s, err := filestorage.Open(t.Context(), path, filestorage.Options{Durability: filestorage.NoSync})
	if err != nil {
		t.Fatal(err)
	}
	const objects, size = 1000, 777
	fill(t, s, objects, 10, size)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	content := read(t, path)
	for _, cut := range []int{len(content) / 2, len(content)/2&^0xfff + 1, len(content)/2&^0xfff + 0xfff, 5000, 4} {
		write(t, path, content)
		s := openFor(t, path, filestorage.Options{ReadOnly: true})
		if mapped := filestorage.Mapped(s); mapped != (runtime.GOOS == "linux" || runtime.GOOS == "darwin" || runtime.GOOS == "freebsd") {
			t.Fatalf("mapped: %v", mapped)
		}
		want := bytes.Repeat([]byte{'x'}, size)
		check := func() (wrong int) {
			for oid := raidstorage.OID(1); oid <= objects; oid++ {
				rev, err := s.LoadBefore(t.Context(), oid, raidstorage.MaxTID)
				switch {
				case err != nil && raidstorage.Classify(err) == raidstorage.ClassFailure:
					wrong++
				case err != nil:
					t.Fatalf("cut at %d: object %v: %v", cut, oid, err)
				case !bytes.Equal(rev.Data, want):
					t.Fatalf("cut at %d: object %v is %q", cut, oid, rev.Data)
				}
			}
			return wrong
		}
		if wrong := check(); wrong > 0 {
			t.Errorf("%d objects cannot be read", wrong)
		}
		if err := os.Truncate(path, int64(cut)); err != nil {
			t.Fatal(err)
		}
		// A record of this size takes 819 bytes, a transaction 31 more.
		if wrong := check(); wrong < (len(content)-cut)/(size+42+4) || wrong > (len(content)-cut)/(size+42)+1 {
			t.Errorf("cut at %d of %d: %d objects cannot be read", cut, len(content), wrong)
		}
	}
}

func TestALoadAllocatesOnce(t *testing.T) {
	s := temp(t)
	for _, size := range []int{1, 300, 5000} {
		put(t, s, 1, string(bytes.Repeat([]byte{'x'}, size)))
		ctx := t.Context()
		n := testing.AllocsPerRun(1000, func() {
			if _, err := s.LoadBefore(ctx, 1, raidstorage.MaxTID); err != nil {
				t.Error(err)
			}
		})
		if n > 1 && !raceEnabled {
			t.Errorf("%d bytes: %v allocations", size, n)
		}
	}
}

// Data that ends with a 0, or is all 0, is no pickle, but must be right too.
func TestDataMayEndWithZero(t *testing.T) {
	t.Parallel()
	s := temp(t)
	for i, data := range []string{"\x00", "a\x00", string(make([]byte, 5000)), string(make([]byte, 100))} {
		put(t, s, raidstorage.OID(i), data)
		if got := current(t, s, raidstorage.OID(i)); got != data {
			t.Errorf("%q is read as %q", data, got)
		}
	}
}

// The file outgrows its mapping, which is short here.
func TestAMappingGrowsWithTheFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "Data.fs")
	s := openFor(t, path, filestorage.Options{Durability: filestorage.NoSync})
	filestorage.ShortenMapping(s, 5000)
	fill(t, s, 100, 1, 1000)
	for oid := raidstorage.OID(1); oid <= 100; oid++ {
		if got := current(t, s, oid); len(got) != 1000 {
			t.Errorf("object %v has %d bytes", oid, len(got))
		}
	}
}
