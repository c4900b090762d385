package zeowire

import (
	"encoding/binary"
	"math"
)

// AppendMsgpack appends v to dst as Python's ZEO writes MessagePack: bin for bytes,
// str for text, arrays for tuples and lists, and for an exception the pair of class
// path and state. *EncodeError when v is nested too deep or has what MessagePack has
// no place for.
func AppendMsgpack(dst []byte, v Value) ([]byte, error) {
	e := msgpackEncoder{dst: dst}
	e.value(v, 0)
	if e.reason != "" {
		return dst, &EncodeError{Encoding: Msgpack, Reason: e.reason}
	}
	return e.dst, nil
}

func appendMsgpackMessage(dst []byte, m Message) ([]byte, error) {
	e := msgpackEncoder{dst: append(dst, mpFixArray|4)}
	e.id(m.ID)
	switch {
	case m.IsReply():
		e.dst = append(e.dst, byte(m.Flag))
	case m.Flag == Sync:
		e.dst = append(e.dst, mpFalse)
	default:
		e.dst = append(e.dst, mpTrue)
	}
	e.dst = appendMsgpackText(e.dst, m.Name)
	e.value(m.Args, 1)
	if e.reason != "" {
		return dst, &EncodeError{Encoding: Msgpack, Reason: e.reason}
	}
	return e.dst, nil
}

// The first bytes of MessagePack values. Those named Fix have a number in their low
// bits.
const (
	mpFixMap   = 0x80
	mpFixArray = 0x90
	mpFixText  = 0xa0
	mpNil      = 0xc0
	mpFalse    = 0xc2
	mpTrue     = 0xc3
	mpBin8     = 0xc4
	mpBin16    = 0xc5
	mpBin32    = 0xc6
	mpFloat32  = 0xca
	mpFloat64  = 0xcb
	mpUint8    = 0xcc
	mpUint16   = 0xcd
	mpUint32   = 0xce
	mpUint64   = 0xcf
	mpInt8     = 0xd0
	mpInt16    = 0xd1
	mpInt32    = 0xd2
	mpInt64    = 0xd3
	mpText8    = 0xd9
	mpText16   = 0xda
	mpText32   = 0xdb
	mpArray16  = 0xdc
	mpArray32  = 0xdd
	mpMap16    = 0xde
	mpMap32    = 0xdf
	mpNegative = 0xe0
)

type msgpackEncoder struct {
	dst    []byte
	reason string
}

func (e *msgpackEncoder) id(id ID) {
	switch id.kind {
	case idInt:
		e.dst = appendMsgpackInt(e.dst, int64(id.n))
	case idPair:
		e.dst = appendMsgpack8(append(e.dst, mpFixArray|2), id.n)
		e.dst = appendMsgpack8(e.dst, id.m)
	default:
		e.value(id.value(), 1)
	}
}

func (e *msgpackEncoder) value(v Value, depth int) {
	if depth > maximumDepth {
		e.reason = "nested too deep"
		return
	}
	if len(v.data) > math.MaxUint32 || len(v.items)/2 > math.MaxUint32 {
		e.reason = "a value of 4 GiB or more"
		return
	}
	switch v.kind {
	case KindNone:
		e.dst = append(e.dst, mpNil)
	case KindBool:
		e.dst = append(e.dst, mpFalse+byte(v.num&1))
	case KindInt:
		e.dst = appendMsgpackInt(e.dst, int64(v.num))
	case KindFloat:
		e.dst = binary.BigEndian.AppendUint64(append(e.dst, mpFloat64), v.num)
	case KindText:
		if !validText(v.data, false) {
			e.reason = "a text that is not UTF-8"
			return
		}
		e.dst = append(appendMsgpackTextHeader(e.dst, len(v.data)), v.data...)
	case KindBytes:
		e.dst = append(appendMsgpackBytesHeader(e.dst, len(v.data)), v.data...)
	case KindTuple, KindList:
		e.dst = appendMsgpackArrayHeader(e.dst, len(v.items))
		e.items(v.items, depth)
	case KindDict:
		e.dst = appendHeader(e.dst, len(v.items)/2, mpFixMap, mpMap16, mpMap32)
		e.items(v.items, depth)
	case KindException:
		state := v.items[1]
		if len(state.items) == 0 {
			state = v.items[0]
		}
		e.dst = appendMsgpackText(append(e.dst, mpFixArray|2), string(v.data))
		e.value(state, depth+1)
	default:
		e.reason = "a value that MessagePack cannot hold"
	}
}

func (e *msgpackEncoder) items(items []Value, depth int) {
	for _, item := range items {
		e.value(item, depth+1)
	}
}

func appendMsgpackInt(dst []byte, n int64) []byte {
	switch {
	case n >= 0:
		return appendMsgpackUint(dst, uint64(n))
	case n >= -32:
		return append(dst, byte(n))
	case n >= math.MinInt8:
		return append(dst, mpInt8, byte(n))
	case n >= math.MinInt16:
		return binary.BigEndian.AppendUint16(append(dst, mpInt16), uint16(n))
	case n >= math.MinInt32:
		return binary.BigEndian.AppendUint32(append(dst, mpInt32), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, mpInt64), uint64(n))
}

func appendMsgpackUint(dst []byte, n uint64) []byte {
	switch {
	case n < mpFixMap:
		return append(dst, byte(n))
	case n <= math.MaxUint8:
		return append(dst, mpUint8, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(dst, mpUint16), uint16(n))
	case n <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(dst, mpUint32), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, mpUint64), n)
}

// appendHeader writes a count: in the low 4 bits of fix, or after one of the others.
func appendHeader(dst []byte, n int, fix, code16, code32 byte) []byte {
	switch {
	case n < 16:
		return append(dst, fix|byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(dst, code16), uint16(n))
	}
	return binary.BigEndian.AppendUint32(append(dst, code32), uint32(n))
}

func appendMsgpackArrayHeader(dst []byte, n int) []byte {
	return appendHeader(dst, n, mpFixArray, mpArray16, mpArray32)
}

func appendMsgpackTextHeader(dst []byte, n int) []byte {
	switch {
	case n < 32:
		return append(dst, mpFixText|byte(n))
	case n <= math.MaxUint8:
		return append(dst, mpText8, byte(n))
	}
	return appendHeader(dst, n, mpFixText, mpText16, mpText32)
}

func appendMsgpackText(dst []byte, s string) []byte {
	return append(appendMsgpackTextHeader(dst, len(s)), s...)
}

func appendMsgpackBytesHeader(dst []byte, n int) []byte {
	if n <= math.MaxUint8 {
		return append(dst, mpBin8, byte(n))
	}
	return appendHeader(dst, n, mpBin8, mpBin16, mpBin32)
}

// appendMsgpack8 writes an oid or a tid.
func appendMsgpack8(dst []byte, v uint64) []byte {
	return oidBytes(append(dst, mpBin8, 8), v)
}
