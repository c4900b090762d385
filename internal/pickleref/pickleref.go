// Package pickleref finds the references in ZODB's object records.
//
// A record is two pickles, one after the other and with one memo: the class (or a
// tuple of class and arguments) and the state. A reference to another persistent
// object is a persistent id, in one of the forms of ZODB.serialize:
//
//	oid                              strong
//	(oid, class)                     strong
//	['w', (oid,)]                    weak
//	['w', (oid, database)]           weak, into another database
//	['m', (database, oid, class)]    into another database
//	['n', (database, oid)]           into another database
//	[oid]                            weak, as old versions wrote it
//
// Only the strong ones keep an object alive within its database; they are what
// ZODB.serialize.referencesf returns and what this package returns. An oid is
// bytes, or a string where an old or a Python 2 pickler wrote it.
//
// No Python object is built: a small machine runs the opcodes of protocols 0 to 5
// on values of which it knows just what references and class names need.
package pickleref

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/zeoraid/raidstorage"
)

// Error says that a record is not two well-formed pickles, or has a persistent id
// of unknown form.
type Error struct {
	Offset int // of the opcode in the record, in bytes
	Reason string
}

func (e *Error) Error() string {
	return fmt.Sprintf("pickle at offset %d: %s", e.Offset, e.Reason)
}

// References appends to dst the oids that record refers to strongly, in the order
// of the pickle, an oid as often as it occurs, and returns the extended slice. On
// an *Error the slice is as far as it came. Memory is bounded by a small multiple
// of the record's length. What follows the second pickle is ignored, as ZODB does.
func References(dst []raidstorage.OID, record []byte) ([]raidstorage.OID, error) {
	var m machine
	if err := m.init(record); err != nil {
		return dst, err
	}
	m.refs = dst
	for range 2 { // class and state
		if _, err := m.run(); err != nil {
			return m.refs, err
		}
	}
	return m.refs, nil
}

// Class returns the module and the name of the class of record's object. *Error if
// the class pickle is malformed, or if it is a reference to a persistent class.
func Class(record []byte) (module, name string, err error) {
	var m machine
	if err := m.init(record); err != nil {
		return "", "", err
	}
	v, err := m.run()
	if err != nil {
		return "", "", err
	}
	if v.kind == kindTuple { // (class, arguments)
		v = m.nodes[v.start].first
	}
	if v.kind == kindGlobal || v.kind == kindTuple { // or (module, name)
		n := m.nodes[v.start]
		if n.first.isText() && n.second.isText() {
			return string(m.text(n.first)), string(m.text(n.second)), nil
		}
	}
	return "", "", &Error{Offset: 0, Reason: "the class is not given by its name"}
}

// Limits of ClassName.
const (
	// MaxClassPickle is how many bytes of a record ClassName looks at.
	MaxClassPickle = 4 << 10
	maxClassName   = 256
)

// ClassName returns the class of record's object for people, as module.name, "" if the
// record does not tell, or if that is no name: longer than 256 bytes, not UTF-8, or
// with characters that cannot be shown. The beginning of a record is enough, see
// MaxClassPickle.
func ClassName(record []byte) string {
	module, name, err := Class(record[:min(len(record), MaxClassPickle)])
	if err != nil || module == "" || name == "" || len(module)+1+len(name) > maxClassName {
		return ""
	}
	class := module + "." + name
	if !utf8.ValidString(class) || strings.ContainsFunc(class, func(r rune) bool { return !unicode.IsGraphic(r) }) {
		return ""
	}
	return class
}

// IsBlob tells whether record is that of a blob, by the rule of
// ZODB.blob.is_blob_record: its class is ZODB.blob.Blob, without arguments. A
// malformed record is none.
func IsBlob(record []byte) bool {
	if !bytes.Contains(record, []byte("ZODB.blob")) { // nearly all: spare them the machine
		return false
	}
	var m machine
	if m.init(record) != nil {
		return false
	}
	v, err := m.run()
	return err == nil && m.isGlobal(v, "ZODB.blob", "Blob")
}

// Check looks whether record is two pickles, and returns how many bytes follow them. A
// persistent id may have any form. An *Error says that it cannot be two pickles.
func Check(record []byte) (rest int, err error) {
	var m machine
	if err := m.init(record); err != nil {
		return 0, err
	}
	m.anyID = true
	for range 2 { // class and state
		if _, err := m.run(); err != nil {
			return 0, err
		}
	}
	return len(record) - m.pos, nil
}
