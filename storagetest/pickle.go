package storagetest

import (
	"strings"

	"github.com/zeoraid/raidstorage"
)

// Pickled returns the record of a persistent mapping as ZODB writes it: the pickle
// of its class and the pickle of its state, which holds text and refers to the
// objects refs, in that order. Packing finds the references there.
func Pickled(text string, refs ...raidstorage.OID) string {
	const class = "cpersistent.mapping\nPersistentMapping\n"
	var b strings.Builder
	b.WriteString("\x80\x03" + class + ".") // PROTO 3, GLOBAL, STOP
	b.WriteString("\x80\x03}")              // PROTO 3, EMPTY_DICT: the state
	b.WriteString(unicode("data") + "}")    // its one key, and a dictionary of the items
	b.WriteString(unicode("text") + unicode(text) + "s")
	for i, ref := range refs {
		oid := ref.Bytes()
		b.WriteString(unicode(string(rune('a' + i%26))))
		b.WriteString("C\x08" + string(oid[:])) // SHORT_BINBYTES
		if i%2 == 0 {
			b.WriteString(class + "\x86") // TUPLE2: (oid, class), the usual reference
		}
		b.WriteString("Qs") // BINPERSID, SETITEM
	}
	b.WriteString("s.") // SETITEM, STOP
	return b.String()
}

// unicode returns the BINUNICODE opcode for s, which must be shorter than 64 KiB.
func unicode(s string) string {
	return "X" + string([]byte{byte(len(s)), byte(len(s) >> 8), 0, 0}) + s
}
