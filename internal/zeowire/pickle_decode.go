package zeowire

import (
	"encoding/binary"
	"math"
)

// The decoder is a stack machine, as pickles want it. Lists, dicts and exceptions are
// built step by step, and the memo may refer to them meanwhile; they become Values,
// and are closed, when they are first put into something. So nothing can contain
// itself. What a memo repeats is shared, but counted each time: a small pickle that
// stands for a huge value is refused before anybody walks through it.

// pickleMachine is the state for one pickle; its memory is used again.
type pickleMachine struct {
	d        *Decoder
	body     []byte
	pos      int
	op       int // offset of the current opcode
	maxDepth int
	maxItems int
	maxBytes int
	work     int // what was moved about, see add
	called   int // pairs of which dicts were made, see callDict
	stack    []entry
	marks    []int // heights of the stack
	memo     map[uint64]entry
	objects  []object
}

// entry is a value on the stack or in the memo.
type entry struct {
	v      Value
	object int32 // 1 + index of what is still being built, which v is not then
	cost   cost
}

// cost is how large a value is, written out in full.
type cost struct {
	depth, items, bytes int
}

// object is a list, dict, exception or prefix that is being built.
type object struct {
	v      Value
	cost   cost
	closed bool
}

func (d *Decoder) unpickle(body []byte) (Value, error) {
	m := &d.pickle
	m.d, m.body, m.pos, m.op, m.work, m.called = d, body, 0, 0, 0, 0
	m.maxDepth = d.depthLimit()
	m.maxItems = orDefault(d.MaxItems, defaultItems)
	m.maxBytes = orDefault(d.MaxBytes, defaultBytes)
	v, err := m.run()
	m.release()
	if err == nil && m.pos != len(body) {
		err = d.fail(m.pos, "bytes after the pickle")
	}
	if err != nil {
		return Value{}, err
	}
	return v, nil
}

// keepStack is how many entries are kept for the next pickle. They are cleared, or they
// would hold on to the frames of old messages.
const keepStack = 128

// release forgets the pickle, and memory that only a large one needs.
func (m *pickleMachine) release() {
	m.body = nil
	if cap(m.stack) > keepStack || cap(m.marks) > keepStack {
		m.stack, m.marks = nil, nil
	}
	if len(m.memo) > keepStack {
		m.memo = nil
	}
	if cap(m.objects) > keepStack {
		m.objects = nil
	}
	clear(m.stack[:cap(m.stack)])
	clear(m.objects)
	clear(m.memo)
	m.stack, m.marks, m.objects = m.stack[:0], m.marks[:0], m.objects[:0]
}

func (m *pickleMachine) fail(reason string) error { return m.d.fail(m.op, reason) }

func (m *pickleMachine) run() (Value, error) {
	for {
		m.op = m.pos
		b, err := m.take(1)
		if err != nil {
			return Value{}, err
		}
		if b[0] == opStop {
			break
		}
		if err := m.step(b[0]); err != nil {
			return Value{}, err
		}
	}
	e, err := m.pop()
	if err != nil {
		return Value{}, err
	}
	e, err = m.use(e)
	if err == nil && e.v.hasGlobal() {
		err = m.fail("a class where a value should be")
	}
	return e.v, err
}

// step does one opcode; the groups are in the order of how frequent they are.
func (m *pickleMachine) step(op byte) error {
	switch op {
	case opShortBinBytes, opBinBytes, opBinBytes8:
		return m.counted(KindBytes, sizeOfCount(op))
	case opBinUnicode, opShortBinUnicode, opBinUnicode8:
		return m.counted(KindText, sizeOfCount(op))
	case opMark:
		if len(m.marks) >= m.maxItems {
			return m.fail("too many marks")
		}
		m.marks = append(m.marks, len(m.stack))
		return nil
	case opEmptyTuple:
		return m.tuple(0)
	case opTuple1, opTuple2, opTuple3:
		return m.tuple(int(op-opTuple1) + 1)
	case opNone:
		return m.push(None())
	case opNewTrue, opNewFalse:
		return m.push(Bool(op == opNewTrue))
	case opBinInt, opBinInt1, opBinInt2, opLong1, opLong4, opBinFloat:
		return m.number(op)
	case opTuple, opList, opDict, opPopMark:
		return m.fromMark(op)
	case opEmptyList:
		return m.build(Value{kind: KindList})
	case opEmptyDict:
		return m.build(Value{kind: KindDict})
	case opAppend, opAppends, opSetItem, opSetItems:
		return m.extend(op)
	case opGet, opBinGet, opLongBinGet, opPut, opBinPut, opLongBinPut, opMemoize:
		return m.remember(op)
	case opGlobal, opStackGlobal, opReduce, opNewObj, opBuild:
		return m.class(op)
	case opInt, opLong, opFloat, opString, opUnicode, opBinString, opShortBinString:
		return m.old(op)
	case opProto, opFrame, opPop, opDup:
		return m.administer(op)
	}
	return m.fail("an opcode that messages do not have")
}

// sizeOfCount returns how many bytes the count of a text or bytes opcode has.
func sizeOfCount(op byte) int {
	switch op {
	case opShortBinBytes, opShortBinUnicode, opShortBinString:
		return 1
	case opBinBytes8, opBinUnicode8:
		return 8
	}
	return 4
}

// take returns the next n bytes of the pickle.
func (m *pickleMachine) take(n int) ([]byte, error) {
	if n > len(m.body)-m.pos {
		return nil, m.fail("the pickle is cut off")
	}
	b := m.body[m.pos : m.pos+n : m.pos+n]
	m.pos += n
	return b, nil
}

// takeCounted returns as many bytes as the count before them says.
func (m *pickleMachine) takeCounted(size int) ([]byte, error) {
	b, err := m.take(size)
	if err != nil {
		return nil, err
	}
	n := littleEndian(b)
	if n > uint64(len(m.body)-m.pos) {
		return nil, m.fail("the pickle is cut off")
	}
	return m.take(int(n))
}

func (m *pickleMachine) counted(kind Kind, size int) error {
	b, err := m.takeCounted(size)
	if err != nil {
		return err
	}
	if kind == KindText && !validText(b, true) {
		return m.fail("a text that is not UTF-8")
	}
	return m.push(Value{kind: kind, data: b})
}

func (m *pickleMachine) number(op byte) error {
	size := 1
	switch op {
	case opBinInt2:
		size = 2
	case opBinInt:
		size = 4
	case opBinFloat:
		size = 8
	case opLong1:
		return m.long(1)
	case opLong4:
		return m.long(4)
	}
	b, err := m.take(size)
	if err != nil {
		return err
	}
	switch op {
	case opBinInt:
		return m.push(Int(int64(int32(littleEndian(b)))))
	case opBinFloat:
		return m.push(Value{kind: KindFloat, num: binary.BigEndian.Uint64(b)})
	}
	return m.push(Int(int64(littleEndian(b))))
}

// long reads an int in two's complement, of at most 64 bits.
func (m *pickleMachine) long(size int) error {
	b, err := m.takeCounted(size)
	if err != nil {
		return err
	}
	if len(b) > 8 {
		return m.fail("an int of more than 64 bits")
	}
	shift := 64 - 8*len(b)
	return m.push(Int(int64(littleEndian(b)<<shift) >> shift))
}

func littleEndian(b []byte) (n uint64) {
	for i, x := range b {
		n |= uint64(x) << (8 * i)
	}
	return n
}

func (m *pickleMachine) administer(op byte) error {
	switch op {
	case opProto:
		b, err := m.take(1)
		if err == nil && b[0] > maxProtocol {
			err = m.fail("a later protocol than 4")
		}
		return err
	case opFrame:
		b, err := m.take(8)
		if err == nil && littleEndian(b) > uint64(len(m.body)-m.pos) {
			err = m.fail("the pickle is cut off")
		}
		return err
	case opPop:
		if n := len(m.marks); n > 0 && m.marks[n-1] == len(m.stack) {
			m.marks = m.marks[:n-1]
			return nil
		}
		_, err := m.pop()
		return err
	}
	e, err := m.top()
	if err != nil {
		return err
	}
	return m.pushEntry(*e)
}

// push puts a value on the stack that contains no other.
func (m *pickleMachine) push(v Value) error {
	return m.pushEntry(entry{v: v, cost: cost{items: 1, bytes: len(v.data)}})
}

func (m *pickleMachine) pushEntry(e entry) error {
	if len(m.stack) >= m.maxItems {
		return m.fail("too many values")
	}
	if e.cost.bytes > m.maxBytes {
		return m.fail("too many bytes")
	}
	m.stack = append(m.stack, e)
	return nil
}

// top returns the last entry of the stack, above the last mark.
func (m *pickleMachine) top() (*entry, error) {
	floor := 0
	if n := len(m.marks); n > 0 {
		floor = m.marks[n-1]
	}
	if len(m.stack) <= floor {
		return nil, m.fail("the stack is empty")
	}
	return &m.stack[len(m.stack)-1], nil
}

func (m *pickleMachine) pop() (entry, error) {
	e, err := m.top()
	if err != nil {
		return entry{}, err
	}
	popped := *e
	m.stack = m.stack[:len(m.stack)-1]
	return popped, nil
}

// popMark returns the height of the last mark and removes the mark, not the entries.
func (m *pickleMachine) popMark() (int, error) {
	n := len(m.marks)
	if n == 0 {
		return 0, m.fail("there is no mark")
	}
	height := m.marks[n-1]
	m.marks = m.marks[:n-1]
	return height, nil
}

// remember does what concerns the memo.
func (m *pickleMachine) remember(op byte) error {
	var key uint64
	switch op {
	case opMemoize:
		key = uint64(len(m.memo))
	case opGet, opPut:
		line, err := m.line()
		if err != nil {
			return err
		}
		n, ok := decimal(line)
		if !ok || n < 0 || n > math.MaxUint32 {
			return m.fail("a number of the memo that is none")
		}
		key = uint64(n)
	default:
		size := 1
		if op == opLongBinGet || op == opLongBinPut {
			size = 4
		}
		b, err := m.take(size)
		if err != nil {
			return err
		}
		key = littleEndian(b)
	}
	if op == opGet || op == opBinGet || op == opLongBinGet {
		e, ok := m.memo[key]
		if !ok {
			return m.fail("the memo has no such number")
		}
		return m.pushEntry(e)
	}
	e, err := m.top()
	if err != nil {
		return err
	}
	if m.memo == nil {
		m.memo = make(map[uint64]entry)
	}
	if len(m.memo) >= m.maxItems {
		return m.fail("too many values in the memo")
	}
	m.memo[key] = *e
	return nil
}
