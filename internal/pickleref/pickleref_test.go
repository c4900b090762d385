package pickleref

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
)

// golden is a line of testdata/records.txt, which testdata/make.py writes.
type golden struct {
	name, class string
	oids        []raidstorage.OID
	blob        bool
	record      []byte
}

func readGolden(t testing.TB) []golden {
	t.Helper()
	content, err := os.ReadFile("testdata/records.txt")
	if err != nil {
		t.Fatal(err)
	}
	var all []golden
	for line := range strings.Lines(string(content)) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		g := golden{name: fields[0], class: fields[2], blob: fields[3] == "blob"}
		for shown := range strings.SplitSeq(fields[1], ",") {
			if shown == "" {
				continue
			}
			oid, err := raidstorage.ParseOID(shown)
			if err != nil {
				t.Fatal(err)
			}
			g.oids = append(g.oids, oid)
		}
		if g.record, err = hex.DecodeString(fields[4]); err != nil {
			t.Fatal(err)
		}
		all = append(all, g)
	}
	return all
}

func TestRecordsAreReadAsZODBReadsThem(t *testing.T) {
	t.Parallel()
	for _, g := range readGolden(t) {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			oids, err := References(nil, g.record)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(oids, g.oids); diff != "" {
				t.Errorf("references (-got +want):\n%s", diff)
			}
			module, name, err := Class(g.record)
			if err != nil || module+" "+name != g.class {
				t.Errorf("class %s %s, error %v, instead of %s", module, name, err, g.class)
			}
			if blob := IsBlob(g.record); blob != g.blob {
				t.Errorf("blob: %v", blob)
			}
		})
	}
}

func TestOidsInOldSpellings(t *testing.T) {
	t.Parallel()
	const class = "cmodule\nName\n."
	const want = raidstorage.OID(0x0001027fff410a5c)
	for name, state := range map[string]string{
		"STRING":                        `S'\x00\x01\x02\x7f\xffA\n\\'` + "\nQ.",
		"STRING in double quotes":       `S"\x00\x01\x02\x7f\xffA\n\\"` + "\nQ.",
		"BINSTRING":                     "T\x08\x00\x00\x00\x00\x01\x02\x7f\xffA\n\\Q.",
		"SHORT_BINSTRING":               "U\x08\x00\x01\x02\x7f\xffA\n\\Q.",
		"UNICODE":                       `V\u0000\u0001\u0002\u007f` + "\xff" + `A\u000a\u005c` + "\nQ.",
		"BINUNICODE":                    "X\x09\x00\x00\x00\x00\x01\x02\x7f\xc3\xbfA\n\\Q.",
		"SHORT_BINUNICODE":              "\x8c\x09\x00\x01\x02\x7f\xc3\xbfA\n\\Q.",
		"a call of _codecs.encode":      "c_codecs\nencode\nX\x09\x00\x00\x00\x00\x01\x02\x7f\xc3\xbfA\n\\X\x06\x00\x00\x00latin1\x86RQ.",
		"the same with STACK_GLOBAL":    "\x8c\x07_codecs\x8c\x06encode\x93\x8c\x09\x00\x01\x02\x7f\xc3\xbfA\n\\\x8c\x06latin1\x86RQ.",
		"a tuple with a memoized class": "(U\x08\x00\x01\x02\x7f\xffA\n\\q\x01cm\nC\nq\x02tQ.",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			oids, err := References(nil, []byte(class+state))
			if err != nil || len(oids) != 1 || oids[0] != want {
				t.Fatalf("%v, error %v, instead of %v", oids, err, want)
			}
		})
	}
}

func TestMalformedRecordsAreErrorsThatSayWhere(t *testing.T) {
	t.Parallel()
	for record, offset := range map[string]int{
		"":                      0,
		"N.":                    2, // no second pickle
		"N.N":                   3, // no STOP
		".":                     0, // nothing to return
		"N.\xff.":               2, // no opcode
		"N.\x80\x06N.":          2, // a later protocol
		"N.a.":                  2, // too few values
		"N.(a.":                 3, // a mark is in the way
		"N.t.":                  2, // no mark
		"N.h\x07.":              2, // nothing there
		"N.Nr\xff\xff\xff\xff.": 3, // far too high
		"N.B\xff\xff\xff\x7fN.": 2, // longer than the record
		"N.\x8e" + "\xff\xff\xff\xff\xff\xff\xff\xffN.": 2,
		"N.Pfive5\n.":                       2,  // an oid of 5 bytes
		"N.NQ.":                             3,  // None as persistent id
		"N.K\x01Q.":                         4,  // a number as persistent id
		"N.)Q.":                             3,  // an empty tuple as persistent id
		"N.U\x07sevenbyQ.":                  11, // an oid of 7 bytes
		"N.X\x03\x00\x00\x00\xe2\x82\xacQ.": 10, // a euro sign is no byte
		"N.Sno quotes\nQ.":                  13,
		"N.\x97.":                           2,
	} {
		_, err := References(nil, []byte(record))
		malformed, ok := errors.AsType[*Error](err)
		if !ok || malformed.Offset != offset {
			t.Errorf("%q: %v instead of an error at offset %d", record, err, offset)
		}
	}
}

func TestReferencesAppends(t *testing.T) {
	t.Parallel()
	oids, err := References([]raidstorage.OID{7}, []byte("N.U\x08\x00\x00\x00\x00\x00\x00\x00\x09Q."))
	if diff := cmp.Diff(oids, []raidstorage.OID{7, 9}); diff != "" || err != nil {
		t.Fatalf("error %v, (-got +want):\n%s", err, diff)
	}
}

// FuzzReferences checks that no input makes the machine panic, run away or return
// anything but references or an *Error.
func FuzzReferences(f *testing.F) {
	for _, g := range readGolden(f) {
		f.Add(g.record)
	}
	f.Fuzz(func(t *testing.T, record []byte) {
		oids, err := References(nil, record)
		var s Scanner
		for range 2 {
			again, againErr := s.References(nil, record)
			if !slices.Equal(again, oids) || fmt.Sprint(againErr) != fmt.Sprint(err) {
				t.Fatalf("a scanner finds %v, %v instead of %v, %v", again, againErr, oids, err)
			}
		}
		if _, ok := errors.AsType[*Error](err); err != nil && !ok {
			t.Fatalf("error of another type: %v", err)
		}
		if len(oids) > len(record) {
			t.Fatalf("%d references in %d bytes", len(oids), len(record))
		}
		module, name, err := Class(record)
		if IsBlob(record) && (err != nil || module != "ZODB.blob" || name != "Blob") {
			t.Fatalf("a blob of class %q %q, error %v", module, name, err)
		}
	})
}

func BenchmarkReferences(b *testing.B) {
	for _, g := range readGolden(b) {
		if g.name != "written, root" {
			continue
		}
		dst := make([]raidstorage.OID, 0, len(g.oids))
		b.SetBytes(int64(len(g.record)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := References(dst, g.record); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkScanner(b *testing.B) {
	for _, g := range readGolden(b) {
		if g.name != "written, root" {
			continue
		}
		var s Scanner
		dst := make([]raidstorage.OID, 0, len(g.oids))
		b.SetBytes(int64(len(g.record)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.References(dst, g.record); err != nil {
				b.Fatal(err)
			}
		}
	}
}
