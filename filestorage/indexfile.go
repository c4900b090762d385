package filestorage

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/zeoraid/raidstorage"
)

// The index file is a series of pickles, as ZODB/fsIndex.py's save writes them:
// the position up to which the index is complete, then for each 6-byte prefix of
// oids a pair of the prefix and a byte string, then None. The byte string holds the
// 2-byte ends of the oids, in order, and after them their 6-byte positions.
//
// Only the few opcodes that this shape needs are understood; nothing is executed
// and nothing is allocated that the file does not fill.
const (
	opProto       = 0x80
	opLong1       = 0x8a
	opTuple2      = 0x86
	opStop        = '.'
	opNone        = 'N'
	opBinInt      = 'J'
	opBinInt1     = 'K'
	opBinInt2     = 'M'
	opShortBytes  = 'C'
	opBytes       = 'B'
	opShortString = 'U' // Python 2
	opString      = 'T' // Python 2

	prefixLen   = 6
	suffixLen   = 2
	bucketBits  = 8 * suffixLen
	bucketEntry = suffixLen + posBytes
	maxBucket   = (1 << bucketBits) * bucketEntry
)

// errIndex says that an index file is not usable; it is rebuilt then.
var errIndex = errors.New("not an index of this file")

// writeIndex writes the entries, in the order of oids, of an index that is complete up
// to position end.
func writeIndex(w io.Writer, entries iter.Seq[entry], end int64) error {
	b := bufio.NewWriterSize(w, 64<<10)
	scratch := appendPickledInt([]byte{opProto, 3}, end)
	b.Write(append(scratch, opStop)) // a bufio.Writer keeps the error for Flush
	var bucket []entry
	for e := range entries {
		if len(bucket) > 0 && bucket[0].oid>>bucketBits != e.oid>>bucketBits {
			scratch = appendBucket(scratch[:0], bucket)
			b.Write(scratch)
			bucket = bucket[:0]
		}
		bucket = append(bucket, e)
	}
	if len(bucket) > 0 {
		b.Write(appendBucket(scratch[:0], bucket))
	}
	b.Write([]byte{opProto, 3, opNone, opStop})
	return b.Flush()
}

func appendPickledInt(b []byte, v int64) []byte {
	switch {
	case v < 1<<8:
		return append(b, opBinInt1, byte(v))
	case v < 1<<16:
		return binary.LittleEndian.AppendUint16(append(b, opBinInt2), uint16(v))
	case v < 1<<31:
		return binary.LittleEndian.AppendUint32(append(b, opBinInt), uint32(v))
	}
	var le [8]byte
	binary.LittleEndian.PutUint64(le[:], uint64(v))
	n := 8
	for le[n-1] == 0 && le[n-2] < 0x80 { // as short as keeps the sign bit clear
		n--
	}
	return append(append(b, opLong1, byte(n)), le[:n]...)
}

// appendBucket appends the pickle of one bucket; all its oids have one prefix.
func appendBucket(b []byte, bucket []entry) []byte {
	prefix := bucket[0].oid.Bytes()
	b = append(b, opProto, 3, opShortBytes, prefixLen)
	b = append(b, prefix[:prefixLen]...)
	if n := len(bucket) * bucketEntry; n < 256 {
		b = append(b, opShortBytes, byte(n))
	} else {
		b = binary.LittleEndian.AppendUint32(append(b, opBytes), uint32(n))
	}
	for _, e := range bucket {
		b = binary.BigEndian.AppendUint16(b, uint16(e.oid))
	}
	for _, e := range bucket {
		at := len(b)
		b = append(b, make([]byte, posBytes)...)
		putPos(b[at:], e.pos)
	}
	return append(b, opTuple2, opStop)
}

// readIndex reads an index file of size bytes. It returns the index and the
// position up to which it is complete. Each position is checked to be one before
// that. Any error says that the file is of no use.
func readIndex(r io.Reader, size int64) (*index, int64, error) {
	p := &indexReader{r: bufio.NewReaderSize(r, 64<<10), left: size}
	end, err := p.position()
	if err != nil {
		return nil, 0, err
	}
	x := newIndex()
	for {
		prefix, entries, err := p.bucket()
		if err != nil {
			return nil, 0, err
		}
		if prefix == nil {
			return x, end, nil
		}
		var wide [8]byte
		copy(wide[:], prefix)
		base := raidstorage.OID(binary.BigEndian.Uint64(wide[:]))
		suffixes, positions := entries[:len(entries)/bucketEntry*suffixLen], entries[len(entries)/bucketEntry*suffixLen:]
		inOrder := x.count == 0 || base > x.highest
		if !inOrder || !x.addBucket(base, suffixes, positions, firstRecordPos, end-1) {
			return nil, 0, fmt.Errorf("%w: the entries at oid %v are not in order", errIndex, base)
		}
	}
}

// indexReader reads the opcodes of an index file.
type indexReader struct {
	r    *bufio.Reader
	left int64  // bytes that can still come
	buf  []byte // of the last byte string, reused
}

func (p *indexReader) byte() (byte, error) {
	p.left--
	return p.r.ReadByte()
}

func (p *indexReader) expect(want ...byte) error {
	for _, w := range want {
		if b, err := p.byte(); err != nil || b != w {
			return fmt.Errorf("%w: opcode %#x instead of %#x (%v)", errIndex, b, w, err)
		}
	}
	return nil
}

// little reads an unsigned little-endian number of n ≤ 8 bytes.
func (p *indexReader) little(n int) (uint64, error) {
	var v uint64
	for i := range n {
		b, err := p.byte()
		if err != nil {
			return 0, err
		}
		v |= uint64(b) << (8 * i)
	}
	return v, nil
}

// proto reads the beginning of a pickle, up to its first operation.
func (p *indexReader) proto() (byte, error) {
	op, err := p.byte()
	if err != nil || op != opProto {
		return op, err // protocols 0 and 1 have no header
	}
	if _, err := p.byte(); err != nil {
		return 0, err
	}
	return p.byte()
}

// position reads the pickled number that the file begins with.
func (p *indexReader) position() (int64, error) {
	op, err := p.proto()
	if err != nil {
		return 0, err
	}
	width := 0
	switch op {
	case opBinInt1:
		width = 1
	case opBinInt2:
		width = 2
	case opBinInt:
		width = 4
	case opLong1:
		n, err := p.byte()
		if err != nil || n < 1 || n > 8 {
			return 0, fmt.Errorf("%w: number of %d bytes", errIndex, n)
		}
		width = int(n)
	default:
		return 0, fmt.Errorf("%w: opcode %#x instead of a number", errIndex, op)
	}
	v, err := p.little(width)
	if err != nil {
		return 0, err
	}
	if v < magicLen || v > maxPos {
		return 0, fmt.Errorf("%w: position %d", errIndex, v)
	}
	return int64(v), p.expect(opStop)
}

// bucket reads a pair of prefix and entries, valid until the next call, or the
// final None: a nil prefix.
func (p *indexReader) bucket() (prefix, entries []byte, err error) {
	op, err := p.proto()
	if err != nil {
		return nil, nil, err
	}
	if op == opNone {
		return nil, nil, p.expect(opStop)
	}
	short, err := p.bytes(op, prefixLen)
	if err != nil {
		return nil, nil, err
	}
	if len(short) != prefixLen {
		return nil, nil, fmt.Errorf("%w: prefix of %d bytes", errIndex, len(short))
	}
	prefix = append(make([]byte, 0, prefixLen), short...) // the buffer is reused below
	if op, err = p.byte(); err != nil {
		return nil, nil, err
	}
	entries, err = p.bytes(op, maxBucket)
	if err != nil {
		return nil, nil, err
	}
	if len(entries) == 0 || len(entries)%bucketEntry != 0 {
		return nil, nil, fmt.Errorf("%w: bucket of %d bytes", errIndex, len(entries))
	}
	return prefix, entries, p.expect(opTuple2, opStop)
}

// bytes reads the byte string that op begins, of at most maxBytes.
func (p *indexReader) bytes(op byte, maxBytes int) ([]byte, error) {
	width := 4
	switch op {
	case opShortBytes, opShortString:
		width = 1
	case opBytes, opString:
	default:
		return nil, fmt.Errorf("%w: opcode %#x instead of a byte string", errIndex, op)
	}
	n, err := p.little(width)
	if err != nil {
		return nil, err
	}
	if n > uint64(maxBytes) || int64(n) > p.left {
		return nil, fmt.Errorf("%w: byte string of %d bytes", errIndex, n)
	}
	if uint64(cap(p.buf)) < n {
		p.buf = make([]byte, n)
	}
	p.left -= int64(n)
	_, err = io.ReadFull(p.r, p.buf[:n])
	return p.buf[:n], err
}
