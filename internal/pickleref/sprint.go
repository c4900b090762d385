package pickleref

import (
	"encoding/binary"

	"github.com/zeoraid/raidstorage"
)

// sprint runs the opcodes that nearly all of a record consists of, as step does, but
// in one loop. It stops before the first one that is another, or that needs more
// room, or with which something is wrong: run lets step do that one.
func (m *machine) sprint() {
	rec, pos, stack, floor := m.record, m.pos, m.stack, m.floor()
	defer func() { m.pos, m.stack = pos, stack }()
	for pos < len(rec) {
		n, length := len(stack), 1
		switch op := rec[pos]; op {
		case opBinPut, opMemoize:
			index := int(m.memoLen)
			if op == opBinPut {
				if length = 2; len(rec)-pos < length {
					return
				}
				index = int(rec[pos+1])
			}
			if n <= floor || !m.quickPut(index, stack[n-1]) {
				return
			}
		case opBinGet:
			length = 2
			if len(rec)-pos < length || int(rec[pos+1]) >= len(m.memo) || !m.memo[rec[pos+1]].set || n == cap(stack) {
				return
			}
			stack = append(stack, m.memo[rec[pos+1]])
			stack[n].set = false
		case opMark:
			if len(m.marks) == cap(m.marks) || len(m.marks) >= maxStack {
				return
			}
			floor = n
			m.marks = append(m.marks, uint32(n))
		case opTuple2:
			if n-2 < floor {
				return
			}
			stack[n-2] = m.tuple(stack[n-2:])
			stack = stack[:n-1]
		case opBinPersID:
			if n-1 < floor || !m.quickReference(stack[n-1]) {
				return
			}
			stack[n-1] = value{}
		case opAppend, opBuild:
			if n-1 <= floor {
				return
			}
			stack = stack[:n-1]
		case opSetItem:
			if n-2 <= floor {
				return
			}
			stack = stack[:n-2]
		default:
			var v value
			if v, length = literal(rec, pos); length == 0 || n == cap(stack) || n >= maxStack {
				return
			}
			stack = append(stack, v)
		}
		pos += length
	}
}

// quickPut is put for an index that is in use or the next one.
func (m *machine) quickPut(index int, v value) bool {
	v.set = true
	switch {
	case index > len(m.memo):
		return false
	case index == len(m.memo):
		m.memo = append(m.memo, v)
		m.memoLen++
		return true
	case !m.memo[index].set:
		m.memoLen++
	}
	m.memo[index] = v
	return true
}

// quickReference notes a reference of one of the usual forms.
func (m *machine) quickReference(id value) bool {
	if id.kind == kindTuple {
		id = m.nodes[id.start].first
	}
	if id.kind != kindBytes || id.end-id.start != 8 {
		return false
	}
	m.refs = append(m.refs, raidstorage.OID(binary.BigEndian.Uint64(m.record[id.start:])))
	return true
}

// literal returns the value that the opcode at pos pushes and the length of the
// opcode with its argument, 0 if it is another opcode or incomplete.
func literal(rec []byte, pos int) (v value, length int) {
	left := len(rec) - pos
	switch op := rec[pos]; op {
	case opNone, opNewTrue, opNewFalse, opEmptyDict, opEmptySet, opEmptyTuple:
		length = 1
	case opEmptyList:
		v.kind, length = kindList, 1
	case opBinInt1:
		length = 2
	case opBinInt2:
		length = 3
	case opBinInt:
		length = 5
	case opBinFloat:
		length = 9
	case opShortBinBytes, opShortBinString, opShortBinUnicode:
		if left < 2 {
			return v, 0
		}
		length = 2 + int(rec[pos+1])
		v = value{kind: kindBytes, start: uint32(pos + 2), end: uint32(pos + length)}
		if op == opShortBinUnicode {
			v.kind = kindText
		}
	case opBinBytes, opBinString, opBinUnicode:
		if left < 5 {
			return v, 0
		}
		n := binary.LittleEndian.Uint32(rec[pos+1:])
		if n > maxRecord {
			return v, 0
		}
		length = 5 + int(n)
		v = value{kind: kindBytes, start: uint32(pos + 5), end: uint32(pos + length)}
		if op == opBinUnicode {
			v.kind = kindText
		}
	}
	if left < length {
		return value{}, 0
	}
	return v, length
}
