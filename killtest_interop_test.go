//go:build interop

package raidstorage_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// pythonDigest has Python's FileStorage check a file as fstest does, read it, and
// print whether it used the index, how many transactions and records there are, and
// the digest of digestOf's lines.
const pythonDigest = `
import hashlib, sys
from ZODB.FileStorage import FileStorage
from ZODB.POSException import POSKeyError
from ZODB.scripts.fstest import check
from ZODB.utils import p64, u64

path = sys.argv[1]
check(path)
fs = FileStorage(path, read_only=True)
h = hashlib.sha256()
transactions = records = 0
oids = set()
for t in fs.iterator():
    transactions += 1
    h.update(b'T %s %s %s %s\n' % (t.tid.hex().encode(), t.user.hex().encode(), t.description.hex().encode(),
                                   t.extension_bytes.hex().encode()))
    for r in t:
        records += 1
        oids.add(r.oid)
        data = b'-' if r.data is None else hashlib.sha256(r.data).hexdigest().encode()
        h.update(b'R %s %s %s\n' % (r.oid.hex().encode(), r.tid.hex().encode(), data))
for oid in sorted(oids):
    try:
        data, serial, end = fs.loadBefore(oid, p64((1 << 63) - 1))
        now = b'%s %s' % (serial.hex().encode(), hashlib.sha256(data).hexdigest().encode())
    except POSKeyError:
        now = b'-'
    h.update(b'C %s %s\n' % (oid.hex().encode(), now))
print('index', bool(fs._used_index))
print(transactions, records, len(oids), h.hexdigest())
fs.close()
`

// TestKilledMirrorsFilesOpenInPython kills as TestKilledMirror does, then has Python
// read the three files, with the index and without it.
func TestKilledMirrorsFilesOpenInPython(t *testing.T) {
	t.Parallel()
	k := killRounds(t)
	k.checkEnd()
	for i := range 3 {
		path := killFile(k.dir, i)
		want := digestOf(t, path)
		for _, withIndex := range []string{"True", "False"} {
			if withIndex == "False" {
				if err := os.Remove(path + ".index"); err != nil {
					t.Fatal(err) // Close has saved it
				}
			}
			got := runPython(t, pythonDigest, path)
			if got != "index "+withIndex+"\n"+want {
				t.Errorf("%s: Python reads\n%s, Go reads\n%s (index %s)", path, got, want, withIndex)
			}
		}
		t.Logf("%s: %s", name(i), want)
	}
}

// TestMirrorsFilesKilledInPacksOpenInPython has Python read the two files of mirrors
// that were killed while they packed.
func TestMirrorsFilesKilledInPacksOpenInPython(t *testing.T) {
	t.Parallel()
	dir := killPackRounds(t)
	for i := range 2 {
		path := killFile(dir, i)
		if want, got := digestOf(t, path), runPython(t, pythonDigest, path); got != "index True\n"+want {
			t.Errorf("%s: Python reads\n%s, Go reads\n%s", path, got, want)
		}
	}
}

// digestOf is what pythonDigest prints, made by Go.
func digestOf(t *testing.T, path string) string {
	t.Helper()
	ctx := t.Context()
	s, err := filestorage.Open(ctx, path, filestorage.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	h := sha256.New()
	transactions, records := 0, 0
	oids := make(map[raidstorage.OID]bool)
	for txn, err := range s.Iterate(ctx, 0, raidstorage.MaxTID) {
		if err != nil {
			t.Fatal(err)
		}
		transactions++
		fmt.Fprintf(h, "T %v %x %x %x\n", txn.TID, txn.User, txn.Description, txn.Extension)
		for r, err := range txn.Records {
			if err != nil {
				t.Fatal(err)
			}
			records++
			oids[r.OID] = true
			fmt.Fprintf(h, "R %v %v %s\n", r.OID, r.TID, hexDigest(r.Data))
		}
	}
	for _, oid := range slices.Sorted(maps.Keys(oids)) {
		rev, err := s.LoadBefore(ctx, oid, raidstorage.MaxTID)
		if _, gone := errors.AsType[*raidstorage.NotFoundError](err); gone {
			fmt.Fprintf(h, "C %v -\n", oid)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(h, "C %v %v %s\n", oid, rev.Serial, hexDigest(rev.Data))
	}
	return fmt.Sprintf("%d %d %d %x\n", transactions, records, len(oids), h.Sum(nil))
}

func hexDigest(data []byte) string {
	if data == nil {
		return "-"
	}
	return fmt.Sprintf("%x", sha256.Sum256(data))
}

// runPython runs a program with the interpreter that has ZODB, and returns what it
// printed.
func runPython(t *testing.T, program string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), killDeadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, python(t), append([]string{"-"}, args...)...)
	cmd.Stdin = strings.NewReader(program)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("python: %v\n%s", err, &stderr)
	}
	return string(out)
}
