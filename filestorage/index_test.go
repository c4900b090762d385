package filestorage_test

import (
	"bytes"
	"maps"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"pgregory.net/rapid"
)

// genEntries makes index entries that are dense in places, as oids are.
func genEntries(t *rapid.T) map[uint64]int64 {
	entries := map[uint64]int64{}
	for range rapid.IntRange(0, 20).Draw(t, "runs") {
		base := rapid.Uint64().Draw(t, "base") >> rapid.IntRange(0, 63).Draw(t, "shift")
		for i := range rapid.Uint64Range(0, 600).Draw(t, "length") {
			entries[base+i] = rapid.Int64Range(27, 1<<40).Draw(t, "pos")
		}
	}
	return entries
}

func TestIndexFilesComeBackAsTheyWere(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want, end := genEntries(t), rapid.Int64Range(1<<40+1, 1<<48-1).Draw(t, "end")
		var b bytes.Buffer
		if err := filestorage.WriteIndex(&b, want, end); err != nil {
			t.Fatal(err)
		}
		got, gotEnd, err := filestorage.ReadIndex(bytes.NewReader(b.Bytes()), int64(b.Len()))
		if err != nil || gotEnd != end || !maps.Equal(got, want) {
			t.Fatalf("got %d entries up to %d (%v), want %d up to %d", len(got), gotEnd, err, len(want), end)
		}
	})
}

func TestIndexEndsOfAllWidths(t *testing.T) {
	t.Parallel()
	for shift := range 46 {
		for _, end := range []int64{4<<shift - 1, 4 << shift, 4<<shift + 1} {
			if end < 4 {
				continue
			}
			var b bytes.Buffer
			if err := filestorage.WriteIndex(&b, nil, end); err != nil {
				t.Fatal(err)
			}
			if _, got, err := filestorage.ReadIndex(&b, int64(b.Len())); err != nil || got != end {
				t.Errorf("end %d comes back as %d (%v)", end, got, err)
			}
		}
	}
}

// The index in memory against a map.
func TestIndexAgreesWithAMap(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		x, model := filestorage.NewIndex(), map[raidstorage.OID]int64{}
		shift := rapid.SampledFrom([]int{0, 4, 6, 40}).Draw(t, "shift") // few or many of a page
		for range rapid.IntRange(0, 3000).Draw(t, "steps") {
			oid := raidstorage.OID(rapid.Uint64Range(0, 5000).Draw(t, "oid")) << shift
			if rapid.IntRange(0, 3).Draw(t, "what") == 0 {
				x.Remove(oid)
				delete(model, oid)
				continue
			}
			pos := rapid.Int64Range(1, 1<<48-1).Draw(t, "pos")
			x.Set(oid, pos)
			model[oid] = pos
		}
		for oid := range raidstorage.OID(5001) {
			oid <<= shift
			if got := x.Get(oid); got != model[oid] {
				t.Fatalf("oid %v is at %d, want %d", oid, got, model[oid])
			}
		}
		from := raidstorage.OID(rapid.Uint64Range(0, 5000).Draw(t, "from")) << shift
		all, last := 0, from
		for oid, pos := range x.From(from) {
			if oid < last || model[oid] != pos {
				t.Fatalf("oid %v at %d after %v, want %d", oid, pos, last, model[oid])
			}
			all, last = all+1, oid
		}
		for oid := range model {
			if oid >= from {
				all--
			}
		}
		if all != 0 || x.Len() != len(model) {
			t.Fatalf("%d entries too many, %d in all, want %d", all, x.Len(), len(model))
		}
	})
}

func FuzzIndex(f *testing.F) {
	f.Add(golden(f, "packed.fs.index"))
	f.Add(golden(f, "undone.fs.index"))
	// Protocol 1, as Python 2 wrote it, and a bucket that claims more than there is.
	f.Add([]byte("M\xff\x01.(U\x06\x00\x00\x00\x00\x00\x00U\x08\x00\x01\x00\x00\x00\x00\x00\x1bt.N."))
	f.Add([]byte("\x80\x03K\x7f.\x80\x03C\x06\x00\x00\x00\x00\x00\x00B\x00\x00\x08\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, end, err := filestorage.ReadIndex(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		for oid, pos := range entries {
			if pos < 27 || pos >= end {
				t.Fatalf("oid %x is at %d, the end at %d", oid, pos, end)
			}
		}
		var again bytes.Buffer
		if err := filestorage.WriteIndex(&again, entries, end); err != nil {
			t.Fatal(err)
		}
		back, _, err := filestorage.ReadIndex(&again, int64(again.Len()))
		if err != nil || !maps.Equal(back, entries) {
			t.Fatalf("written and read again it differs: %v", err)
		}
	})
}
