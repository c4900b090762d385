//go:build interop

package interop_test

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// data is the record of an object: its fields, and filling of a random length.
func (w *soakWriter) data(fields string, refs ...raidstorage.OID) []byte {
	size := w.random.IntN(1000)
	if w.random.IntN(50) == 0 {
		size = w.random.IntN(60_000)
	}
	fill := strings.Repeat(string(rune('a'+w.random.IntN(26))), size)
	return []byte(storagetest.Pickled(fmt.Sprintf("soak writer=%d number=%d %s|%s", w.index, w.number, fields, fill), refs...))
}

var soakField = regexp.MustCompile(`(writer|number|count|child|blob|childs|blobs)=(\d+) `)

// soakNumber returns a field of a record that a writer made.
func soakNumber(data []byte, name string) (int, bool) {
	_, text, _ := bytes.Cut(data, []byte("soak "))
	fields, _, _ := bytes.Cut(text, []byte("|"))
	for _, m := range soakField.FindAllSubmatch(fields, -1) {
		if string(m[1]) == name {
			n, err := strconv.Atoi(string(m[2]))
			return n, err == nil
		}
	}
	return 0, false
}

func soakBlob(writer, number int) []byte {
	return bytes.Repeat([]byte(fmt.Sprintf("blob %d of writer %d; ", number, writer)), 1+number%500)
}

// blobRecord makes a record that of a blob, which Python goes by.
func blobRecord(data []byte) []byte {
	_, state, _ := bytes.Cut(data, []byte("PersistentMapping\n."))
	return append([]byte("\x80\x03cZODB.blob\nBlob\n."), state...)
}

// soakOIDs reads what soak.py prints.
func soakOIDs(t *testing.T, text string) []raidstorage.OID {
	t.Helper()
	var oids []raidstorage.OID
	for _, word := range strings.Fields(text) {
		n, err := strconv.ParseUint(word, 10, 64)
		if err != nil {
			t.Fatalf("soak.py: %v: %s", err, text)
		}
		oids = append(oids, raidstorage.OID(n))
	}
	return oids
}
