package wrap

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/zeoraid/raidstorage"
)

// A compressed record is its length before, as a varint, and a deflate stream. Equal
// records give equal bytes, so that undo, which compares records, works as ever.

// maxRecord bounds the memory that a damaged length can take, in bytes.
const maxRecord = 1 << 28

// pack compresses data. Nil, a deletion, stays nil, and empty data stays as it is:
// the inner storage refuses it.
func (c *Compressed) pack(data []byte) ([]byte, error) {
	if len(data) == 0 {
		return data, nil
	}
	if len(data) > maxRecord {
		return nil, &raidstorage.InvalidError{Op: "store", Reason: fmt.Sprintf("a record of %d bytes", len(data))}
	}
	var out bytes.Buffer
	out.Write(binary.AppendUvarint(nil, uint64(len(data))))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flate.Reset(&out)
	if _, err := c.flate.Write(data); err != nil {
		return nil, err
	}
	if err := c.flate.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// unpack is the reverse of pack. What cannot be unpacked is a *CorruptError: a
// failure of the backend, on which a mirror takes it out and reads another one.
func (c *Compressed) unpack(oid raidstorage.OID, tid raidstorage.TID, packed []byte) ([]byte, error) {
	if len(packed) == 0 {
		return packed, nil
	}
	corrupt := func(reason string) error {
		return &raidstorage.CorruptError{Storage: c.Name(), Offset: -1, OID: oid, TID: tid, Reason: reason}
	}
	length, n := binary.Uvarint(packed)
	if n <= 0 || length == 0 || length > maxRecord {
		return nil, corrupt("the length of the record is wrong")
	}
	r := flate.NewReader(bytes.NewReader(packed[n:]))
	var data bytes.Buffer // grows with what there is, not with what the length promises
	if m, err := io.Copy(&data, io.LimitReader(r, int64(length)+1)); err != nil {
		return nil, corrupt("the record cannot be decompressed: " + err.Error())
	} else if m != int64(length) {
		return nil, corrupt("the record has another length than it says")
	}
	return data.Bytes(), nil
}
