package zeowire

import (
	"encoding/binary"
	"math"

	"github.com/zeoraid/raidstorage"
)

// Writer builds frames, any number of them one after the other, in a buffer that is
// used again. Its hot methods allocate nothing once the buffer is large enough. The
// zero Writer with an Encoding is ready; it is used by one goroutine at a time.
type Writer struct {
	Encoding Encoding
	buf      []byte
}

// Bytes returns the frames since the last Reset, to be written at once. They are valid
// until the next call.
func (w *Writer) Bytes() []byte { return w.buf }

// Len returns how many bytes these are.
func (w *Writer) Len() int { return len(w.buf) }

// Reset drops the frames, and the buffer too if one large frame has blown it up.
func (w *Writer) Reset() {
	if cap(w.buf) > keepBuffer {
		w.buf = nil
	}
	w.buf = w.buf[:0]
}

// Take returns the frames since the last Reset and leaves them to the caller.
func (w *Writer) Take() []byte {
	b := w.buf
	w.buf = nil
	return b
}

// Raw appends a frame with this body, such as a handshake.
func (w *Writer) Raw(body []byte) error {
	return w.frame(append(BeginFrame(w.buf), body...), nil)
}

// Message appends a message. *EncodeError if it has a Value that the encoding cannot
// hold, *FrameError if it is too long; then there is no new frame, and the ones before
// it are as they were.
func (w *Writer) Message(m Message) error {
	dst := BeginFrame(w.buf)
	switch w.Encoding {
	case Pickle:
		return w.frame(appendPickleMessage(dst, m))
	case Msgpack:
		return w.frame(appendMsgpackMessage(dst, m))
	}
	return &EncodeError{Encoding: w.Encoding, Reason: "no such encoding"}
}

// frame keeps dst, which has a new frame at the end of buf, unless err says otherwise.
func (w *Writer) frame(dst []byte, err error) error {
	if err == nil {
		err = EndFrame(dst, len(w.buf))
	}
	if err != nil {
		return err
	}
	w.buf = dst
	return nil
}

// LoadBefore appends the call loadBefore(oid, tid), tid being exclusive.
func (w *Writer) LoadBefore(id ID, oid raidstorage.OID, tid raidstorage.TID) error {
	p := w.begin(4)
	p.id(id)
	p.bool(false)
	p.text(LoadBefore)
	p.tuple(2)
	p.eight(uint64(oid))
	p.eight(uint64(tid))
	p.endTuple(2)
	return w.end(&p)
}

// LoadReply appends the reply to loadBefore: the record with its serial, and the tid
// of the next revision, 0 if the record is current.
func (w *Writer) LoadReply(id ID, data []byte, serial, end raidstorage.TID) error {
	if int64(len(data)) > maxFrameLength {
		return &FrameError{Length: int64(len(data)), Limit: maxFrameLength}
	}
	p := w.begin(4)
	p.id(id)
	p.small(byte(Sync))
	p.text(Reply)
	p.tuple(3)
	p.bytes(data)
	p.eight(uint64(serial))
	if end == 0 {
		p.none()
	} else {
		p.eight(uint64(end))
	}
	p.endTuple(3)
	return w.end(&p)
}

// StoreA appends the async call storea(oid, serial, data, txn), serial being the
// revision that was read, 0 for a new object.
func (w *Writer) StoreA(oid raidstorage.OID, serial raidstorage.TID, data []byte, txn int64) error {
	if int64(len(data)) > maxFrameLength {
		return &FrameError{Length: int64(len(data)), Limit: maxFrameLength}
	}
	p := w.begin(4)
	p.small(0)
	p.bool(true)
	p.text(StoreA)
	p.tuple(4)
	p.eight(uint64(oid))
	p.eight(uint64(serial))
	p.bytes(data)
	p.int(txn)
	p.endTuple(4)
	return w.end(&p)
}

// InvalidateTransaction appends the async call invalidateTransaction(tid, oids).
func (w *Writer) InvalidateTransaction(tid raidstorage.TID, oids []raidstorage.OID) error {
	if int64(len(oids)) > math.MaxUint32/10 { // each takes 10 bytes
		return &FrameError{Length: 10 * int64(len(oids)), Limit: maxFrameLength}
	}
	p := w.begin(4)
	p.small(0)
	p.bool(true)
	p.text(InvalidateTransaction)
	p.tuple(2)
	p.eight(uint64(tid))
	p.oids(oids)
	p.endTuple(2)
	return w.end(&p)
}

// appender appends the parts of a message whose form is known, in either encoding. It
// is a value on the stack, so that nothing is allocated.
type appender struct {
	dst    []byte
	pickle bool
	err    error
}

// begin begins a frame and the tuple of n items that the message is.
func (w *Writer) begin(n int) appender {
	p := appender{dst: BeginFrame(w.buf), pickle: w.Encoding == Pickle}
	if !p.pickle && w.Encoding != Msgpack {
		p.err = &EncodeError{Encoding: w.Encoding, Reason: "no such encoding"}
	}
	if p.pickle {
		p.dst = append(p.dst, opProto, 3)
	}
	p.tuple(n)
	return p
}

func (w *Writer) end(p *appender) error {
	p.endTuple(4)
	if p.pickle {
		p.dst = append(p.dst, opStop)
	}
	return w.frame(p.dst, p.err)
}

func (p *appender) tuple(n int) {
	if p.pickle {
		if n > 3 {
			p.dst = append(p.dst, opMark)
		}
		return
	}
	p.dst = appendMsgpackArrayHeader(p.dst, n)
}

func (p *appender) endTuple(n int) {
	switch {
	case !p.pickle:
	case n > 3:
		p.dst = append(p.dst, opTuple)
	default: // never empty here
		p.dst = append(p.dst, opTuple1-1+byte(n))
	}
}

func (p *appender) id(id ID) {
	if p.pickle {
		e := pickleEncoder{dst: p.dst}
		e.id(id)
		p.dst = e.dst
		return
	}
	e := msgpackEncoder{dst: p.dst}
	e.id(id)
	p.dst = e.dst
	if e.reason != "" {
		p.err = &EncodeError{Encoding: Msgpack, Reason: e.reason}
	}
}

func (p *appender) none() {
	if p.pickle {
		p.dst = append(p.dst, opNone)
		return
	}
	p.dst = append(p.dst, mpNil)
}

func (p *appender) bool(b bool) {
	switch {
	case p.pickle && b:
		p.dst = append(p.dst, opNewTrue)
	case p.pickle:
		p.dst = append(p.dst, opNewFalse)
	case b:
		p.dst = append(p.dst, mpTrue)
	default:
		p.dst = append(p.dst, mpFalse)
	}
}

// small appends an int below 128.
func (p *appender) small(n byte) {
	if p.pickle {
		p.dst = append(p.dst, opBinInt1)
	}
	p.dst = append(p.dst, n)
}

func (p *appender) int(n int64) {
	if p.pickle {
		p.dst = appendPickleInt(p.dst, n)
		return
	}
	p.dst = appendMsgpackInt(p.dst, n)
}

func (p *appender) text(s string) {
	if p.pickle {
		p.dst = appendPickleText(p.dst, s)
		return
	}
	p.dst = appendMsgpackText(p.dst, s)
}

func (p *appender) bytes(b []byte) {
	if p.pickle {
		p.dst = appendPickleBytesHeader(p.dst, len(b))
	} else {
		p.dst = appendMsgpackBytesHeader(p.dst, len(b))
	}
	p.dst = append(p.dst, b...)
}

// eight appends an oid or a tid.
func (p *appender) eight(v uint64) {
	if p.pickle {
		p.dst = append(p.dst, opShortBinBytes, 8)
	} else {
		p.dst = append(p.dst, mpBin8, 8)
	}
	p.dst = binary.BigEndian.AppendUint64(p.dst, v)
}

// oids appends a list of oids.
func (p *appender) oids(oids []raidstorage.OID) {
	if !p.pickle {
		p.dst = appendMsgpackArrayHeader(p.dst, len(oids))
		for _, oid := range oids {
			p.eight(uint64(oid))
		}
		return
	}
	p.dst = append(p.dst, opEmptyList)
	if len(oids) == 1 {
		p.eight(uint64(oids[0]))
		p.dst = append(p.dst, opAppend)
		return
	}
	for len(oids) > 0 {
		n := min(len(oids), batch)
		p.dst = append(p.dst, opMark)
		for _, oid := range oids[:n] {
			p.eight(uint64(oid))
		}
		p.dst = append(p.dst, opAppends)
		oids = oids[n:]
	}
}
