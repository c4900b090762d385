package filestorage

import (
	"encoding/binary"
	"fmt"

	"github.com/zeoraid/raidstorage"
)

// The format of ZODB/FileStorage/format.py. A file is 4 bytes of magic and then
// transactions, one after the other, all numbers big-endian:
//
//	transaction   tid 8, length 8, status 1, lengths of user, description and
//	              extension 2 each, user, description, extension, records,
//	              length again 8 (so that one can walk backwards)
//	record        oid 8, tid 8, position of the object's previous record 8,
//	              position of the transaction 8, zero 2 (once a version's length),
//	              length of the data 8, data; with length 0 instead of data the
//	              position of the record that holds it, 0 for an object deleted or
//	              whose creation was undone
//
// The length of a transaction does not count its last 8 bytes. This file knows
// bytes only: it does no I/O.
const (
	magicLen        = 4
	magic           = "FS30" // what Python 3 writes and reads
	magicPython2    = "FS21" // what Python 2 wrote: the same, but for the pickles in it
	txnHeaderLen    = 23
	recordHeaderLen = 42
	trailerLen      = 8
	pointerLen      = 8
	minTxnLen       = txnHeaderLen + trailerLen
	maxTxnHeaderLen = txnHeaderLen + 3*raidstorage.MaxMetaBytes
	firstRecordPos  = magicLen + txnHeaderLen
	statusOffset    = 16 // of the status byte in a transaction
)

// Statuses that only the file knows: raidstorage.TxnStatus has the others.
const (
	// statusCheckpoint marks a transaction that has voted but not finished.
	statusCheckpoint = raidstorage.TxnStatus('c')
	// statusUndone marks a transaction that ancient ZODBs undid in place: all
	// readers pass over it.
	statusUndone = raidstorage.TxnStatus('u')
)

// flaw is a place where the bytes are not what the format says.
type flaw struct {
	pos    int64
	oid    raidstorage.OID
	tid    raidstorage.TID
	reason string
	// tear is true if a write that never ended explains it: bytes that are missing
	// or were never written. Else written bytes have changed.
	tear bool
}

func (f *flaw) Error() string { return fmt.Sprintf("at offset %d: %s", f.pos, f.reason) }

// txnHeader is the fixed part of a transaction, with its place.
type txnHeader struct {
	pos                      int64
	tid                      raidstorage.TID
	length                   int64 // without the trailer
	status                   raidstorage.TxnStatus
	userLen, descLen, extLen int
}

// headerLen is where the records begin, from the beginning of the transaction.
func (h txnHeader) headerLen() int64 {
	return txnHeaderLen + int64(h.userLen) + int64(h.descLen) + int64(h.extLen)
}

func (h txnHeader) records() int64 { return h.pos + h.headerLen() }
func (h txnHeader) end() int64     { return h.pos + h.length }
func (h txnHeader) next() int64    { return h.pos + h.length + trailerLen }

// parseTxnHeader reads the header at pos from b, of at least txnHeaderLen bytes.
// The transaction must end at or before fileEnd.
func parseTxnHeader(b []byte, pos, fileEnd int64) (txnHeader, *flaw) {
	h := txnHeader{
		pos:     pos,
		tid:     raidstorage.TID(binary.BigEndian.Uint64(b)),
		status:  raidstorage.TxnStatus(b[statusOffset]),
		userLen: int(binary.BigEndian.Uint16(b[17:])),
		descLen: int(binary.BigEndian.Uint16(b[19:])),
		extLen:  int(binary.BigEndian.Uint16(b[21:])),
	}
	length := binary.BigEndian.Uint64(b[8:])
	switch {
	case length > uint64(fileEnd) || pos+int64(length)+trailerLen > fileEnd:
		return h, &flaw{pos: pos, tid: h.tid, tear: true, reason: "transaction extends beyond the end of the file"}
	case int64(length) < h.headerLen():
		return h, &flaw{pos: pos, tid: h.tid, tear: true, reason: "transaction is shorter than its header"}
	}
	h.length = int64(length)
	if h.tid == 0 || h.tid > raidstorage.MaxTID {
		return h, &flaw{pos: pos, tid: h.tid, reason: "transaction id is not one"}
	}
	switch h.status {
	case raidstorage.StatusNormal, raidstorage.StatusPacked, statusUndone, statusCheckpoint:
		return h, nil
	}
	return h, &flaw{pos: pos, tid: h.tid, reason: fmt.Sprintf("transaction status is %q", byte(h.status))}
}

// appendTxnHeader appends the header and the metadata of a transaction.
func appendTxnHeader(b []byte, status raidstorage.TxnStatus, length int64, meta *raidstorage.Meta) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(meta.TID))
	b = binary.BigEndian.AppendUint64(b, uint64(length))
	b = append(b, byte(status))
	b = binary.BigEndian.AppendUint16(b, uint16(len(meta.User)))
	b = binary.BigEndian.AppendUint16(b, uint16(len(meta.Description)))
	b = binary.BigEndian.AppendUint16(b, uint16(len(meta.Extension)))
	b = append(b, meta.User...)
	b = append(b, meta.Description...)
	return append(b, meta.Extension...)
}

// recordHeader is a record without its data, with its place.
type recordHeader struct {
	pos  int64
	oid  raidstorage.OID
	tid  raidstorage.TID
	prev int64 // position of the object's previous record, 0 for none
	txn  int64 // position of the transaction
	size int64 // of the data, 0 if there is a back pointer instead
	back int64 // position of the record with the data, 0 if there is none
}

// length is that of the whole record.
func (h recordHeader) length() int64 {
	if h.size == 0 {
		return recordHeaderLen + pointerLen
	}
	return recordHeaderLen + h.size
}

func (h recordHeader) data() int64 { return h.pos + recordHeaderLen }
func (h recordHeader) next() int64 { return h.pos + h.length() }

// maxRecordHeaderLen is the most that parseRecordHeader looks at.
const maxRecordHeaderLen = recordHeaderLen + pointerLen

// parseRecordHeader reads the header at pos, and the back pointer if there is one,
// from b. The record must end at or before end. Pointers must point backwards,
// which also makes every chain of them end.
func parseRecordHeader(b []byte, pos, end int64) (recordHeader, *flaw) {
	if len(b) < recordHeaderLen || pos+recordHeaderLen+1 > end {
		return recordHeader{pos: pos}, &flaw{pos: pos, reason: "record header exceeds its transaction"}
	}
	h := recordHeader{
		pos: pos,
		oid: raidstorage.OID(binary.BigEndian.Uint64(b)),
		tid: raidstorage.TID(binary.BigEndian.Uint64(b[8:])),
	}
	prev, txn := binary.BigEndian.Uint64(b[16:]), binary.BigEndian.Uint64(b[24:])
	version, size := binary.BigEndian.Uint16(b[32:]), binary.BigEndian.Uint64(b[34:])
	bad := func(reason string) (recordHeader, *flaw) {
		return h, &flaw{pos: pos, oid: h.oid, tid: h.tid, reason: reason}
	}
	switch {
	case version != 0:
		return bad("record belongs to a version, which ZODB has not had since 3.9")
	case !pointsBack(prev, pos):
		return bad("pointer to the previous record does not point to an earlier record")
	case txn < magicLen || txn > uint64(pos)-txnHeaderLen:
		return bad("record does not point to its transaction")
	case size > uint64(end-pos-recordHeaderLen):
		return bad("record exceeds its transaction")
	}
	h.prev, h.txn, h.size = int64(prev), int64(txn), int64(size)
	if size != 0 {
		return h, nil
	}
	if len(b) < maxRecordHeaderLen || pos+maxRecordHeaderLen > end {
		return bad("record exceeds its transaction")
	}
	back := binary.BigEndian.Uint64(b[recordHeaderLen:])
	if !pointsBack(back, pos) {
		return bad("back pointer does not point to an earlier record")
	}
	h.back = int64(back)
	return h, nil
}

// pointsBack tells whether p is 0 or can be an earlier record than the one at pos.
func pointsBack(p uint64, pos int64) bool {
	return p == 0 || p >= firstRecordPos && p < uint64(pos) && p+recordHeaderLen < uint64(pos)
}

// appendRecordHeader appends the header of h and, if there is no data, the pointer.
func appendRecordHeader(b []byte, h *recordHeader) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(h.oid))
	b = binary.BigEndian.AppendUint64(b, uint64(h.tid))
	b = binary.BigEndian.AppendUint64(b, uint64(h.prev))
	b = binary.BigEndian.AppendUint64(b, uint64(h.txn))
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint64(b, uint64(h.size))
	if h.size == 0 {
		b = binary.BigEndian.AppendUint64(b, uint64(h.back))
	}
	return b
}

// appendLength appends the trailer of a transaction.
func appendLength(b []byte, length int64) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(length))
}
