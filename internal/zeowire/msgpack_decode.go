package zeowire

import (
	"encoding/binary"
	"math"
	"unicode/utf8"
)

// unpacker reads MessagePack values.
type unpacker struct {
	d        *Decoder
	body     []byte
	pos      int
	maxDepth int
	left     int // values that may still come
	promised int // values that the containers under way still need
	leftData int // bytes of text and bytes that may still come
}

func (d *Decoder) unpackAll(body []byte) (Value, error) {
	u := unpacker{
		d: d, body: body, maxDepth: d.depthLimit(), promised: 1,
		left: orDefault(d.MaxItems, defaultItems), leftData: orDefault(d.MaxBytes, defaultBytes),
	}
	v, err := u.value(0)
	if err == nil && u.pos != len(body) {
		err = d.fail(u.pos, "bytes after the value")
	}
	return v, err
}

func (u *unpacker) value(depth int) (Value, error) {
	start := u.pos
	u.promised--
	if u.left--; u.left < 0 {
		return Value{}, u.d.fail(start, "too many values")
	}
	b, err := u.take(1)
	if err != nil {
		return Value{}, err
	}
	switch code := b[0]; {
	case code < mpFixMap:
		return Int(int64(code)), nil
	case code >= mpNegative:
		return Int(int64(int8(code))), nil
	case code < mpFixArray:
		return u.container(KindDict, uint32(code&15), start, depth)
	case code < mpFixText:
		return u.container(KindTuple, uint32(code&15), start, depth)
	case code < mpNil:
		return u.data(KindText, uint32(code&31), start)
	default:
		return u.coded(code, start, depth)
	}
}

// coded reads the value that follows a code of a whole byte.
func (u *unpacker) coded(code byte, start, depth int) (Value, error) {
	size := 0 // of the number after the code
	switch code {
	case mpNil:
		return None(), nil
	case mpFalse, mpTrue:
		return Bool(code == mpTrue), nil
	case mpBin8, mpText8, mpUint8, mpInt8:
		size = 1
	case mpBin16, mpText16, mpUint16, mpInt16, mpArray16, mpMap16:
		size = 2
	case mpBin32, mpText32, mpUint32, mpInt32, mpArray32, mpMap32, mpFloat32:
		size = 4
	case mpUint64, mpInt64, mpFloat64:
		size = 8
	default: // extension types among them: ZEO has none
		return Value{}, u.d.fail(start, "a type that messages do not have")
	}
	b, err := u.take(size)
	if err != nil {
		return Value{}, err
	}
	n := bigEndian(b)
	switch code {
	case mpBin8, mpBin16, mpBin32:
		return u.data(KindBytes, uint32(n), start)
	case mpText8, mpText16, mpText32:
		return u.data(KindText, uint32(n), start)
	case mpArray16, mpArray32:
		return u.container(KindTuple, uint32(n), start, depth)
	case mpMap16, mpMap32:
		return u.container(KindDict, uint32(n), start, depth)
	case mpFloat32:
		return Float(float64(math.Float32frombits(uint32(n)))), nil
	case mpFloat64:
		return Value{kind: KindFloat, num: n}, nil
	case mpInt8:
		return Int(int64(int8(n))), nil
	case mpInt16:
		return Int(int64(int16(n))), nil
	case mpInt32:
		return Int(int64(int32(n))), nil
	case mpUint64:
		if n > math.MaxInt64 {
			return Value{}, u.d.fail(start, "an int of more than 64 bits")
		}
	}
	return Int(int64(n)), nil
}

// container reads the items of an array or a map, whose count was n.
func (u *unpacker) container(kind Kind, count uint32, start, depth int) (Value, error) {
	n := int64(count)
	if kind == KindDict {
		n *= 2
	}
	// Every value has at least a byte. So what all containers under way promise costs
	// no more memory than the message is worth, however they are nested.
	if n+int64(u.promised) > int64(len(u.body)-u.pos) {
		return Value{}, u.d.fail(start, "more values than bytes")
	}
	if n+int64(u.promised) > int64(u.left) {
		return Value{}, u.d.fail(start, "too many values")
	}
	if depth >= u.maxDepth {
		return Value{}, u.d.fail(start, "nested too deep")
	}
	u.promised += int(n)
	items := u.d.room(int(n))
	for i := range items {
		at := u.pos
		v, err := u.value(depth + 1)
		if err != nil {
			return Value{}, err
		}
		if kind == KindDict && i%2 == 0 && !v.hashable() {
			return Value{}, u.d.fail(at, "a key of a dict that cannot be one")
		}
		items[i] = v
	}
	return Value{kind: kind, items: items}, nil
}

func (u *unpacker) data(kind Kind, n uint32, start int) (Value, error) {
	if int64(n) > int64(u.leftData) {
		return Value{}, u.d.fail(start, "too many bytes")
	}
	b, err := u.take(int(n))
	if err != nil {
		return Value{}, err
	}
	u.leftData -= len(b)
	if kind == KindText && !validText(b, false) {
		return Value{}, u.d.fail(start, "a text that is not UTF-8")
	}
	return Value{kind: kind, data: b}, nil
}

func (u *unpacker) take(n int) ([]byte, error) {
	if n > len(u.body)-u.pos {
		return nil, u.d.fail(u.pos, "the message is cut off")
	}
	b := u.body[u.pos : u.pos+n : u.pos+n]
	u.pos += n
	return b, nil
}

func bigEndian(b []byte) uint64 {
	switch len(b) {
	case 1:
		return uint64(b[0])
	case 2:
		return uint64(binary.BigEndian.Uint16(b))
	case 4:
		return uint64(binary.BigEndian.Uint32(b))
	}
	return binary.BigEndian.Uint64(b)
}

// validText tells whether b is UTF-8; with surrogates, it may have lone ones in it,
// three bytes each, as Python's pickles have.
func validText(b []byte, surrogates bool) bool {
	if utf8.Valid(b) {
		return true
	}
	if !surrogates {
		return false
	}
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n == 1 {
			if len(b) < 3 || b[0] != 0xed || b[1]&0xe0 != 0xa0 || b[2]&0xc0 != 0x80 {
				return false
			}
			n = 3
		}
		b = b[n:]
	}
	return true
}
