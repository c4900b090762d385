package pickleref

import (
	"bytes"
	"encoding/binary"
	"strconv"

	"github.com/zeoraid/raidstorage"
)

// kind is what the machine knows about a value.
type kind uint8

const (
	kindOpaque       kind = iota // anything else; also "nothing" in an unused memo slot
	kindBytes                    // record[start:end]; bytes, or a Python 2 string
	kindText                     // record[start:end]; UTF-8
	kindScratchBytes             // scratch[start:end], likewise
	kindScratchText
	kindTuple  // nodes[start] has its first two items; other tuples are opaque
	kindGlobal // nodes[start] has module and name
	kindList
)

// value is a symbolic Python object. It is small, as a hostile record can make one
// with each byte.
type value struct {
	kind       kind
	set        bool // in the memo: the slot is in use
	start, end uint32
}

func (v value) isText() bool { return v.kind >= kindBytes && v.kind <= kindScratchText }

// node has the items that matter of a tuple, or a global's module and name.
type node struct{ first, second value }

const (
	// maxRecord bounds a record, so that offsets in it and in scratch fit in 32 bits.
	maxRecord = 1 << 30
	// maxStack bounds the values, and the marks, on the stack. Picklers write
	// lists and dictionaries in batches of 1000, so only tuples and deep nesting
	// make more.
	maxStack = 1 << 22
	// maxScratch is the longest string that is decoded into scratch. Oids and names
	// of classes are shorter; longer ones are opaque.
	maxScratch = 1 << 10
)

// machine runs pickles. It is used for one record.
type machine struct {
	record  []byte
	pos     int // where to read on
	op      int // offset of the current opcode
	stack   []value
	marks   []uint32 // heights of the stack
	memo    []value
	memoLen uint32 // used slots
	nodes   []node
	scratch []byte
	refs    []raidstorage.OID
	anyID   bool // persistent ids are not looked at

	// First places of the slices above: enough for usual records.
	stack0 [48]value
	marks0 [16]uint32
	memo0  [48]value
	nodes0 [24]node
}

func (m *machine) init(record []byte) error {
	if len(record) > maxRecord {
		return &Error{Reason: "the record is too long"}
	}
	m.record = record
	m.stack, m.marks = m.stack0[:0], m.marks0[:0]
	m.memo, m.nodes = m.memo0[:0], m.nodes0[:0]
	return nil
}

// reuse is init for a machine that has run before: it keeps its memory.
func (m *machine) reuse(record []byte) error {
	if len(record) > maxRecord {
		return &Error{Reason: "the record is too long"}
	}
	m.record = record
	m.stack, m.marks, m.memo = m.stack[:0], m.marks[:0], m.memo[:0]
	m.nodes, m.scratch = m.nodes[:0], m.scratch[:0]
	return nil
}

func (m *machine) fail(reason string) *Error { return &Error{Offset: m.op, Reason: reason} }

// run runs one pickle and returns its value. The memo stays, as ZODB writes both
// pickles of a record with one memo.
func (m *machine) run() (value, error) {
	m.stack, m.marks = m.stack[:0], m.marks[:0]
	for {
		m.sprint()
		m.op = m.pos
		if m.pos >= len(m.record) {
			return value{}, m.fail("the record ends within a pickle")
		}
		op := m.record[m.pos]
		m.pos++
		arg, err := m.argument(op)
		if err != nil {
			return value{}, err
		}
		if op == opStop {
			v, ok := m.pop()
			if !ok {
				return value{}, m.fail("a pickle without a value")
			}
			return v, nil
		}
		if err := m.step(op, arg); err != nil {
			return value{}, err
		}
	}
}

// span is a part of the record.
type span struct{ start, end int }

// argument reads what follows the opcode: for counted arguments their content, for
// others their bytes, for GLOBAL and INST both lines with the newline between.
func (m *machine) argument(op byte) (span, error) {
	switch layoutOf(op) {
	case layoutNone:
		return span{}, nil
	case layoutFixed1:
		return m.take(1)
	case layoutFixed2:
		return m.take(2)
	case layoutFixed4:
		return m.take(4)
	case layoutFixed8:
		return m.take(8)
	case layoutCounted1:
		return m.counted(1)
	case layoutCounted4:
		return m.counted(4)
	case layoutCounted8:
		return m.counted(8)
	case layoutLine:
		return m.line()
	case layoutTwoLines:
		first, err := m.line()
		if err != nil {
			return span{}, err
		}
		second, err := m.line()
		return span{first.start, second.end}, err
	}
	return span{}, m.fail("unknown opcode " + strconv.Quote(string(rune(op))))
}

func (m *machine) take(n int) (span, error) {
	if n > len(m.record)-m.pos {
		return span{}, m.fail("the record ends within an argument")
	}
	s := span{m.pos, m.pos + n}
	m.pos = s.end
	return s, nil
}

func (m *machine) counted(width int) (span, error) {
	s, err := m.take(width)
	if err != nil {
		return span{}, err
	}
	n := m.number(s)
	if n > maxRecord {
		return span{}, m.fail("a length beyond all bounds")
	}
	return m.take(int(n))
}

// number reads a little-endian number of up to 8 bytes.
func (m *machine) number(s span) uint64 {
	var b [8]byte
	copy(b[:], m.record[s.start:s.end])
	return binary.LittleEndian.Uint64(b[:])
}

func (m *machine) line() (span, error) {
	n := bytes.IndexByte(m.record[m.pos:], '\n')
	if n < 0 {
		return span{}, m.fail("the record ends within a line")
	}
	s := span{m.pos, m.pos + n}
	m.pos = s.end + 1
	return s, nil
}

// push pushes a value.
func (m *machine) push(v value) error {
	if len(m.stack) >= maxStack {
		return m.fail("too many values on the stack")
	}
	v.set = false
	m.stack = append(m.stack, v)
	return nil
}

// floor is the height below which the innermost mark forbids to pop.
func (m *machine) floor() int {
	if n := len(m.marks); n > 0 {
		return int(m.marks[n-1])
	}
	return 0
}

func (m *machine) pop() (value, bool) {
	n := len(m.stack)
	if n <= m.floor() {
		return value{}, false
	}
	v := m.stack[n-1]
	m.stack = m.stack[:n-1]
	return v, true
}

// drop pops n values and tells whether there were as many.
func (m *machine) drop(n int) bool {
	if len(m.stack)-n < m.floor() {
		return false
	}
	m.stack = m.stack[:len(m.stack)-n]
	return true
}

// popMark removes the innermost mark and returns the values above it, which are
// valid until the next push.
func (m *machine) popMark() ([]value, error) {
	n := len(m.marks)
	if n == 0 {
		return nil, m.fail("no mark on the stack")
	}
	height := m.marks[n-1]
	m.marks = m.marks[:n-1]
	items := m.stack[height:]
	m.stack = m.stack[:height]
	return items, nil
}

// put stores the top of the stack in the memo.
func (m *machine) put(index uint64) error {
	n := len(m.stack)
	if n <= m.floor() {
		return m.fail("nothing to memoize")
	}
	// Picklers number the memo from 0 or 1, and each entry takes a byte or more, so
	// greater indexes are not theirs.
	if index > uint64(len(m.record)) {
		return m.fail("a memo index beyond all bounds")
	}
	for uint64(len(m.memo)) <= index {
		m.memo = append(m.memo, value{})
	}
	if !m.memo[index].set {
		m.memoLen++
	}
	m.memo[index] = m.stack[n-1]
	m.memo[index].set = true
	return nil
}

func (m *machine) get(index uint64) error {
	if index >= uint64(len(m.memo)) || !m.memo[index].set {
		return m.fail("an unknown memo index")
	}
	return m.push(m.memo[index])
}

// tuple returns the value of a tuple. Only one whose first item is known is worth
// a node.
func (m *machine) tuple(items []value) value {
	if len(items) == 0 || items[0].kind == kindOpaque || items[0].kind == kindList {
		return value{}
	}
	n := node{first: items[0]}
	if len(items) > 1 {
		n.second = items[1]
	}
	return m.node(kindTuple, n)
}

func (m *machine) node(k kind, n node) value {
	m.nodes = append(m.nodes, n)
	return value{kind: k, start: uint32(len(m.nodes) - 1)}
}

// text returns the content of a bytes or text value.
func (m *machine) text(v value) []byte {
	switch v.kind {
	case kindBytes, kindText:
		return m.record[v.start:v.end]
	case kindScratchBytes, kindScratchText:
		return m.scratch[v.start:v.end]
	}
	return nil
}

func (m *machine) isGlobal(v value, module, name string) bool {
	if v.kind != kindGlobal {
		return false
	}
	n := m.nodes[v.start]
	return string(m.text(n.first)) == module && string(m.text(n.second)) == name
}
