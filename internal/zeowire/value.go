package zeowire

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/zeoraid/raidstorage"
)

// Kind is the type of a Value.
type Kind uint8

// The kinds, with their Python types.
const (
	KindNone      Kind = iota // None
	KindBool                  // bool
	KindInt                   // int, 64 bits
	KindFloat                 // float
	KindText                  // str: UTF-8; a pickle may also have lone surrogates in it
	KindBytes                 // bytes
	KindTuple                 // tuple; MessagePack makes every list one
	KindList                  // list
	KindDict                  // dict
	KindException             // an exception, as data
	KindPrefix                // ZopeUndo.Prefix.Prefix, in undoInfo's specification
	kindGlobal                // a name in a pickle; only within the decoder
)

// Value is what messages consist of. The zero Value is None. Values are not changed
// once made: copies share their memory, and Text and Bytes of a decoded one share
// the frame.
type Value struct {
	kind  Kind
	num   uint64  // bool, int or the float's bits
	data  []byte  // text, bytes; an exception's class; a prefix's path
	items []Value // dict: keys and values by turns; exception: args and attributes
}

// None is the Value None.
func None() Value { return Value{} }

// Bool makes a bool.
func Bool(b bool) Value {
	if b {
		return Value{kind: KindBool, num: 1}
	}
	return Value{kind: KindBool}
}

// Int makes an int.
func Int(n int64) Value { return Value{kind: KindInt, num: uint64(n)} }

// Float makes a float.
func Float(f float64) Value { return Value{kind: KindFloat, num: math.Float64bits(f)} }

// Text makes a str of UTF-8.
func Text(s string) Value { return Value{kind: KindText, data: []byte(s)} }

// Bytes makes a bytes object that shares b; nil is the empty one.
func Bytes(b []byte) Value { return Value{kind: KindBytes, data: b} }

// OID makes the 8 bytes of an oid.
func OID(oid raidstorage.OID) Value { b := oid.Bytes(); return Bytes(b[:]) }

// TID makes the 8 bytes of a tid.
func TID(tid raidstorage.TID) Value { b := tid.Bytes(); return Bytes(b[:]) }

// Tuple makes a tuple that shares items.
func Tuple(items ...Value) Value { return Value{kind: KindTuple, items: items} }

// List makes a list that shares items.
func List(items ...Value) Value { return Value{kind: KindList, items: items} }

// Pair is an entry of a dict.
type Pair struct{ Key, Value Value }

// Entry makes a dict's entry with a text key, as most have.
func Entry(key string, v Value) Pair { return Pair{Key: Text(key), Value: v} }

// Dict makes a dict of entries, in their order.
func Dict(entries ...Pair) Value {
	items := make([]Value, 0, 2*len(entries))
	for _, e := range entries {
		items = append(items, e.Key, e.Value)
	}
	return Value{kind: KindDict, items: items}
}

// Prefix makes a ZopeUndo.Prefix, which equals all paths that begin with path. Only
// the pickle encoding can carry it.
func Prefix(path string) Value { return Value{kind: KindPrefix, data: []byte(path)} }

// Kind returns the type.
func (v Value) Kind() Kind { return v.kind }

// IsNone tells whether it is None.
func (v Value) IsNone() bool { return v.kind == KindNone }

// Bool returns a bool. Like Python it takes the ints 0 and 1 for bools too.
func (v Value) Bool() (b, ok bool) {
	ok = v.kind == KindBool || v.kind == KindInt && v.num <= 1
	return ok && v.num == 1, ok
}

// Int returns an int; a bool is one too, as in Python.
func (v Value) Int() (int64, bool) {
	if v.kind != KindInt && v.kind != KindBool {
		return 0, false
	}
	return int64(v.num), true
}

// Float returns a float or, as Python does, an int as one.
func (v Value) Float() (float64, bool) {
	if v.kind == KindFloat {
		return math.Float64frombits(v.num), true
	}
	n, ok := v.Int()
	return float64(n), ok
}

// Text returns a copy of a str.
func (v Value) Text() (string, bool) {
	if v.kind != KindText {
		return "", false
	}
	return string(v.data), true
}

// Bytes returns a bytes object, never nil if ok. It is shared.
func (v Value) Bytes() (b []byte, ok bool) {
	if v.kind != KindBytes {
		return nil, false
	}
	if v.data == nil {
		return []byte{}, true
	}
	return v.data, true
}

// OID returns the oid that 8 bytes are.
func (v Value) OID() (raidstorage.OID, bool) {
	if v.kind != KindBytes || len(v.data) != 8 {
		return 0, false
	}
	oid, err := raidstorage.OIDFromBytes(v.data)
	return oid, err == nil
}

// TID returns the tid that 8 bytes are.
func (v Value) TID() (raidstorage.TID, bool) {
	oid, ok := v.OID()
	return raidstorage.TID(oid), ok
}

// Items returns the items of a tuple or list, which are shared: the encodings cannot
// tell these two apart.
func (v Value) Items() ([]Value, bool) {
	if v.kind != KindTuple && v.kind != KindList {
		return nil, false
	}
	return v.items, true
}

// Pairs returns the keys and values of a dict by turns, in the order that they were
// written. They are shared. A key may occur twice; then the last one counts.
func (v Value) Pairs() ([]Value, bool) {
	if v.kind != KindDict {
		return nil, false
	}
	return v.items, true
}

// Get returns what a dict has for a text key.
func (v Value) Get(key string) (Value, bool) {
	if v.kind != KindDict {
		return Value{}, false
	}
	for i := len(v.items) - 2; i >= 0; i -= 2 {
		if k := v.items[i]; k.kind == KindText && string(k.data) == key {
			return v.items[i+1], true
		}
	}
	return Value{}, false
}

// PrefixPath returns the path of a Prefix.
func (v Value) PrefixPath() (string, bool) {
	if v.kind != KindPrefix {
		return "", false
	}
	return string(v.data), true
}

// hashable tells whether Python would take it for a key of a dict.
func (v Value) hashable() bool {
	switch v.kind {
	case KindTuple:
		for _, item := range v.items {
			if !item.hashable() {
				return false
			}
		}
		return true
	case KindList, KindDict, KindException, KindPrefix, kindGlobal:
		return false
	}
	return true
}

// Equal tells whether two Values have the same types and contents. Dicts are
// compared in the order of their keys, floats by their bits.
func (v Value) Equal(w Value) bool {
	if v.kind != w.kind || v.num != w.num || len(v.items) != len(w.items) || !bytes.Equal(v.data, w.data) {
		return false
	}
	for i := range v.items {
		if !v.items[i].Equal(w.items[i]) {
			return false
		}
	}
	return true
}

// Clone returns a Value that shares no memory with v.
func (v Value) Clone() Value {
	v.data = bytes.Clone(v.data)
	if v.items != nil {
		items := make([]Value, len(v.items))
		for i, item := range v.items {
			items[i] = item.Clone()
		}
		v.items = items
	}
	return v
}

// String returns it in about Python's notation, for people.
func (v Value) String() string {
	var b strings.Builder
	v.write(&b)
	return b.String()
}

func (v Value) write(b *strings.Builder) {
	switch v.kind {
	case KindNone:
		b.WriteString("None")
	case KindBool:
		b.WriteString([]string{"False", "True"}[v.num&1])
	case KindInt:
		b.WriteString(strconv.FormatInt(int64(v.num), 10))
	case KindFloat:
		fmt.Fprintf(b, "%v", math.Float64frombits(v.num))
	case KindText, kindGlobal:
		fmt.Fprintf(b, "%q", v.data)
	case KindBytes:
		fmt.Fprintf(b, "b%q", v.data)
	case KindPrefix:
		fmt.Fprintf(b, "Prefix(%q)", v.data)
	case KindException:
		fmt.Fprintf(b, "%s%v%v", v.data, v.items[0], v.items[1])
	case KindTuple:
		writeItems(b, "(", ")", v.items, 0)
	case KindList:
		writeItems(b, "[", "]", v.items, 0)
	case KindDict:
		writeItems(b, "{", "}", v.items, 1)
	}
}

// writeItems writes items with commas, or with a colon after each key.
func writeItems(b *strings.Builder, open, end string, items []Value, colons int) {
	b.WriteString(open)
	for i, item := range items {
		item.write(b)
		switch {
		case i&1 < colons:
			b.WriteString(": ")
		case i < len(items)-1:
			b.WriteString(", ")
		}
	}
	b.WriteString(end)
}
