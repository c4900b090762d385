package pickleref

import (
	"bytes"
	"encoding/binary"
	"strconv"
	"unicode/utf8"

	"github.com/zeoraid/raidstorage"
)

// maxProtocol is the highest pickle protocol there is.
const maxProtocol = 5

// step does what an opcode other than STOP does.
func (m *machine) step(op byte, arg span) error {
	switch op {
	case opProto:
		if m.record[arg.start] > maxProtocol {
			return m.fail("an unknown pickle protocol")
		}
	case opFrame, opReadOnlyBuffer:
	case opMark:
		if len(m.marks) >= maxStack {
			return m.fail("too many marks on the stack")
		}
		m.marks = append(m.marks, uint32(len(m.stack)))

	case opNone, opNewTrue, opNewFalse, opInt, opLong, opFloat, opBinInt, opBinInt1, opBinInt2, opBinFloat,
		opLong1, opLong4, opExt1, opExt2, opExt4, opEmptyDict, opEmptySet, opEmptyTuple, opByteArray8:
		return m.push(value{})
	case opBinBytes, opShortBinBytes, opBinBytes8, opBinString, opShortBinString:
		return m.push(value{kind: kindBytes, start: uint32(arg.start), end: uint32(arg.end)})
	case opBinUnicode, opShortBinUnicode, opBinUnicode8:
		return m.push(value{kind: kindText, start: uint32(arg.start), end: uint32(arg.end)})
	case opString:
		return m.push(m.unquote(m.record[arg.start:arg.end]))
	case opUnicode:
		return m.push(m.unescapeUnicode(m.record[arg.start:arg.end]))
	case opEmptyList:
		return m.push(value{kind: kindList})

	case opPop:
		return m.popOrMark()
	case opDup:
		return m.replace(1, func(top []value) value { return top[0] }, true)
	case opAppend, opBuild:
		return m.shrink(1)
	case opSetItem:
		return m.shrink(2)
	case opAppends, opSetItems, opAddItems: // onto what is below the mark
		if _, err := m.popMark(); err != nil {
			return err
		}
		return m.shrink(0)
	case opPopMark:
		_, err := m.popMark()
		return err
	case opNewObj:
		return m.replace(2, opaque, false)
	case opNewObjEx:
		return m.replace(3, opaque, false)
	case opTuple1, opTuple2, opTuple3:
		return m.replace(int(op-opTuple1)+1, m.tuple, false)
	case opReduce:
		return m.replace(2, m.call, false)
	case opStackGlobal:
		return m.replace(2, m.stackGlobal, false)
	case opTuple, opList, opDict, opFrozenSet, opObj, opInst:
		return m.collect(op)
	case opGlobal:
		return m.push(m.global(arg))

	case opPersID, opBinPersID:
		return m.persistent(op, arg)
	case opGet, opPut, opBinGet, opBinPut, opLongBinGet, opLongBinPut, opMemoize:
		return m.memoStep(op, arg)
	case opNextBuffer:
		return m.fail("an out-of-band buffer")
	}
	return nil
}

func opaque([]value) value { return value{} }

// popOrMark is POP: it removes a mark where that is on top.
func (m *machine) popOrMark() error {
	if n := len(m.marks); n > 0 && int(m.marks[n-1]) == len(m.stack) {
		m.marks = m.marks[:n-1]
		return nil
	}
	if !m.drop(1) {
		return m.fail("too few values on the stack")
	}
	return nil
}

// shrink pops n values that go into the one below, which must be there.
func (m *machine) shrink(n int) error {
	if len(m.stack)-n <= m.floor() {
		return m.fail("too few values on the stack")
	}
	m.drop(n)
	return nil
}

// replace makes one value of the upper n, which it pops unless they are to be kept.
func (m *machine) replace(n int, result func([]value) value, keep bool) error {
	if len(m.stack)-n < m.floor() {
		return m.fail("too few values on the stack")
	}
	v := result(m.stack[len(m.stack)-n:])
	if !keep {
		m.drop(n)
	}
	return m.push(v)
}

// collect makes one value of those above the mark.
func (m *machine) collect(op byte) error {
	items, err := m.popMark()
	if err != nil {
		return err
	}
	switch op {
	case opTuple:
		return m.push(m.tuple(items))
	case opList:
		return m.push(value{kind: kindList})
	case opObj:
		if len(items) == 0 {
			return m.fail("an object without a class")
		}
	}
	return m.push(value{})
}

func (m *machine) memoStep(op byte, arg span) error {
	index := uint64(m.memoLen) // for MEMOIZE
	switch op {
	case opGet, opPut:
		var err error
		if index, err = strconv.ParseUint(string(m.record[arg.start:arg.end]), 10, 32); err != nil {
			return m.fail("a memo index that is no number")
		}
	case opMemoize:
	default:
		index = m.number(arg)
	}
	switch op {
	case opGet, opBinGet, opLongBinGet:
		return m.get(index)
	}
	return m.put(index)
}

// global returns the global whose two lines are arg.
func (m *machine) global(arg span) value {
	lf := arg.start + bytes.IndexByte(m.record[arg.start:arg.end], '\n')
	return m.node(kindGlobal, node{
		first:  value{kind: kindText, start: uint32(arg.start), end: uint32(lf)},
		second: value{kind: kindText, start: uint32(lf + 1), end: uint32(arg.end)},
	})
}

func (m *machine) stackGlobal(names []value) value {
	if !names[0].isText() || !names[1].isText() {
		return value{}
	}
	return m.node(kindGlobal, node{names[0], names[1]})
}

// call is REDUCE. One function's result matters: _codecs.encode(text, 'latin1'),
// which stands for bytes where protocol 2 or lower was written by Python 3.
func (m *machine) call(items []value) value {
	if items[1].kind != kindTuple || !m.isGlobal(items[0], "_codecs", "encode") {
		return value{}
	}
	args := m.nodes[items[1].start]
	if codec := string(m.text(args.second)); codec != "latin1" && codec != "latin-1" {
		return value{}
	}
	text := m.text(args.first)
	if len(text) > 2*8 { // UTF-8 takes two bytes at most for what could be one of an oid
		return value{}
	}
	latin, ok := appendLatin1(nil, text)
	if !ok {
		return value{}
	}
	return m.keep(kindScratchBytes, latin)
}

// keep puts a decoded string into scratch.
func (m *machine) keep(k kind, content []byte) value {
	start := len(m.scratch)
	m.scratch = append(m.scratch, content...)
	return value{kind: k, start: uint32(start), end: uint32(len(m.scratch))}
}

// appendLatin1 appends text, UTF-8, in Latin-1; false if it does not fit in that.
func appendLatin1(dst, text []byte) ([]byte, bool) {
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		if r > 0xff || r == utf8.RuneError && n < 2 {
			return dst, false
		}
		dst, text = append(dst, byte(r)), text[n:]
	}
	return dst, true
}

// persistent takes a persistent id, notes it if it is a strong reference of this
// database, and pushes the object that it stands for.
func (m *machine) persistent(op byte, arg span) error {
	id := value{kind: kindBytes, start: uint32(arg.start), end: uint32(arg.end)} // PERSID's line
	if op == opBinPersID {
		var ok bool
		if id, ok = m.pop(); !ok {
			return m.fail("too few values on the stack")
		}
	}
	if m.anyID || id.kind == kindList { // weak, or of another database
		return m.push(value{})
	}
	if id.kind == kindTuple {
		id = m.nodes[id.start].first
	}
	if !id.isText() {
		return m.fail("a persistent id of an unknown form")
	}
	oid := m.text(id)
	if id.kind == kindText || id.kind == kindScratchText {
		var buf [8]byte
		latin, ok := appendLatin1(buf[:0], oid[:min(len(oid), 17)])
		if !ok {
			return m.fail("a persistent id that is no bytes")
		}
		oid = latin
	}
	if len(oid) != 8 {
		return m.fail("an oid that has not 8 bytes")
	}
	m.refs = append(m.refs, raidstorage.OID(binary.BigEndian.Uint64(oid)))
	return m.push(value{})
}
