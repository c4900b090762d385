package zeowire

import (
	"encoding/binary"
	"math"
	"strings"
)

// batch is how many items of a list or dict Python writes at a time.
const batch = 1000

// AppendPickle appends v to dst as Python's ZEO pickles: protocol 3, without a memo.
// *EncodeError when v is nested too deep.
func AppendPickle(dst []byte, v Value) ([]byte, error) {
	e := pickleEncoder{dst: append(dst, opProto, 3)}
	e.value(v, 0)
	if e.reason != "" {
		return dst, &EncodeError{Encoding: Pickle, Reason: e.reason}
	}
	return append(e.dst, opStop), nil
}

func appendPickleMessage(dst []byte, m Message) ([]byte, error) {
	e := pickleEncoder{dst: append(dst, opProto, 3, opMark)}
	e.id(m.ID)
	switch {
	case m.IsReply():
		e.dst = append(e.dst, opBinInt1, byte(m.Flag))
	case m.Flag == Sync:
		e.dst = append(e.dst, opNewFalse)
	default:
		e.dst = append(e.dst, opNewTrue)
	}
	e.dst = appendPickleText(e.dst, m.Name)
	e.value(m.Args, 1)
	if e.reason != "" {
		return dst, &EncodeError{Encoding: Pickle, Reason: e.reason}
	}
	return append(e.dst, opTuple, opStop), nil
}

// pickleEncoder appends values to dst, until there is a reason to give up.
type pickleEncoder struct {
	dst    []byte
	reason string
}

func (e *pickleEncoder) id(id ID) {
	switch id.kind {
	case idInt:
		e.dst = appendPickleInt(e.dst, int64(id.n))
	case idPair:
		e.dst = appendPickle8(e.dst, id.n)
		e.dst = append(appendPickle8(e.dst, id.m), opTuple2)
	default:
		e.value(id.value(), 1)
	}
}

func (e *pickleEncoder) value(v Value, depth int) {
	if depth > maximumDepth {
		e.reason = "nested too deep"
		return
	}
	switch v.kind {
	case KindNone:
		e.dst = append(e.dst, opNone)
	case KindBool:
		e.dst = append(e.dst, opNewFalse-byte(v.num&1))
	case KindInt:
		e.dst = appendPickleInt(e.dst, int64(v.num))
	case KindFloat:
		e.dst = binary.BigEndian.AppendUint64(append(e.dst, opBinFloat), v.num)
	case KindText, KindBytes:
		e.counted(v)
	case KindTuple:
		e.tuple(v.items, depth)
	case KindList:
		e.dst = append(e.dst, opEmptyList)
		e.batches(v.items, 1, opAppend, opAppends, depth)
	case KindDict:
		e.dst = append(e.dst, opEmptyDict)
		e.batches(v.items, 2, opSetItem, opSetItems, depth)
	case KindException:
		e.exception(v, depth)
	case KindPrefix:
		e.prefix(string(v.data), depth)
	default:
		e.reason = "a value that cannot be sent"
	}
}

func (e *pickleEncoder) counted(v Value) {
	switch {
	case len(v.data) > math.MaxUint32:
		e.reason = "a text or bytes of 4 GiB or more"
	case v.kind == KindText:
		e.dst = append(appendPickleTextHeader(e.dst, len(v.data)), v.data...)
	default:
		e.dst = append(appendPickleBytesHeader(e.dst, len(v.data)), v.data...)
	}
}

func (e *pickleEncoder) tuple(items []Value, depth int) {
	if len(items) == 0 {
		e.dst = append(e.dst, opEmptyTuple)
		return
	}
	if len(items) > 3 {
		e.dst = append(e.dst, opMark)
	}
	for _, item := range items {
		e.value(item, depth+1)
	}
	if len(items) > 3 {
		e.dst = append(e.dst, opTuple)
		return
	}
	e.dst = append(e.dst, opTuple1-1+byte(len(items)))
}

// batches writes the items of a list, or the keys and values of a dict, as Python
// does: many at a time, but a single one without a mark.
func (e *pickleEncoder) batches(items []Value, per int, one, many byte, depth int) {
	if len(items) == per {
		for _, item := range items {
			e.value(item, depth+1)
		}
		e.dst = append(e.dst, one)
		return
	}
	for len(items) > 0 {
		n := min(len(items), batch*per)
		e.dst = append(e.dst, opMark)
		for _, item := range items[:n] {
			e.value(item, depth+1)
		}
		e.dst = append(e.dst, many)
		items = items[n:]
	}
}

// exception writes what pickling the object gives: ZODB's classes have a function
// that sets the state, Python's own are called with their args.
func (e *pickleEncoder) exception(v Value, depth int) {
	class, args, attrs := string(v.data), v.items[0], v.items[1]
	module, name, ok := cutClass(class)
	if !ok || strings.ContainsAny(class, "\n\r") {
		e.reason = "an exception class without a module"
		return
	}
	if module == posModule {
		state := append(attrs.items[:len(attrs.items):len(attrs.items)], Text("args"), args)
		e.global(posModule, "_recon")
		e.global(module, name)
		e.value(Value{kind: KindDict, items: state}, depth+1)
		e.dst = append(e.dst, opTuple2, opReduce)
		return
	}
	e.global(module, name)
	e.value(args, depth+1)
	e.dst = append(e.dst, opReduce)
	if len(attrs.items) > 0 {
		e.value(attrs, depth+1)
		e.dst = append(e.dst, opBuild)
	}
}

func (e *pickleEncoder) prefix(path string, depth int) {
	var parts []Value
	for part := range strings.SplitSeq(path, "/") {
		parts = append(parts, Text(part))
	}
	e.global(prefixModule, prefixName)
	e.dst = append(e.dst, opEmptyTuple, opNewObj)
	e.value(Dict(Entry("length", Int(int64(len(parts)))), Entry("path", List(parts...))), depth+1)
	e.dst = append(e.dst, opBuild)
}

func (e *pickleEncoder) global(module, name string) {
	e.dst = append(e.dst, opGlobal)
	e.dst = append(append(e.dst, module...), '\n')
	e.dst = append(append(e.dst, name...), '\n')
}

// cutClass splits a dotted path at its last dot.
func cutClass(path string) (module, name string, ok bool) {
	i := strings.LastIndexByte(path, '.')
	if i <= 0 || i == len(path)-1 {
		return "", "", false
	}
	return path[:i], path[i+1:], true
}

func appendPickleInt(dst []byte, n int64) []byte {
	switch {
	case n >= 0 && n <= math.MaxUint8:
		return append(dst, opBinInt1, byte(n))
	case n >= 0 && n <= math.MaxUint16:
		return binary.LittleEndian.AppendUint16(append(dst, opBinInt2), uint16(n))
	case n >= math.MinInt32 && n <= math.MaxInt32:
		return binary.LittleEndian.AppendUint32(append(dst, opBinInt), uint32(n))
	}
	size := 8 // as few bytes of two's complement as hold it
	for size > 1 && n == n<<(72-8*size)>>(72-8*size) {
		size--
	}
	dst = append(dst, opLong1, byte(size))
	for i := range size {
		dst = append(dst, byte(n>>(8*i)))
	}
	return dst
}

func appendPickleTextHeader(dst []byte, n int) []byte {
	return binary.LittleEndian.AppendUint32(append(dst, opBinUnicode), uint32(n))
}

func appendPickleText(dst []byte, s string) []byte {
	return append(appendPickleTextHeader(dst, len(s)), s...)
}

func appendPickleBytesHeader(dst []byte, n int) []byte {
	if n <= math.MaxUint8 {
		return append(dst, opShortBinBytes, byte(n))
	}
	return binary.LittleEndian.AppendUint32(append(dst, opBinBytes), uint32(n))
}

// appendPickle8 writes an oid or a tid.
func appendPickle8(dst []byte, v uint64) []byte {
	return oidBytes(append(dst, opShortBinBytes, 8), v)
}
