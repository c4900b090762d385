package zeowire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
)

const (
	// frameHeader is the length before each body.
	frameHeader = 4
	// maxFrameLength is what the header can say.
	maxFrameLength = 1<<32 - 1
	// firstRead is how much is allocated for a frame before any of it has arrived.
	firstRead = 64 << 10
	// keepBuffer is the largest buffer that is kept for the next frame: one big blob
	// chunk or record must not cost memory as long as the connection lives.
	keepBuffer = 1 << 20
)

// FrameReader reads frames. It is used by one goroutine at a time.
type FrameReader struct {
	r      io.Reader
	limit  int64
	header [frameHeader]byte
	buf    []byte
}

// NewFrameReader returns a reader of r, which should be buffered, as each frame takes
// two reads or more. A body longer than limit bytes is a *FrameError; 0 means as long
// as the header can say.
func NewFrameReader(r io.Reader, limit int64) *FrameReader {
	f := &FrameReader{r: r}
	f.SetLimit(limit)
	return f
}

// SetLimit changes the limit for the next frames: a handshake is short, a peer that
// has not registered may be trusted less.
func (f *FrameReader) SetLimit(limit int64) {
	if limit <= 0 || limit > maxFrameLength {
		limit = maxFrameLength
	}
	f.limit = limit
}

// Next returns the body of the next frame, which may be empty. It is valid until the
// next call, unless Keep is called. io.EOF means that the stream ended between two
// frames, io.ErrUnexpectedEOF within one. Memory grows with what has arrived, not
// with what the header promises.
func (f *FrameReader) Next() ([]byte, error) {
	if _, err := io.ReadFull(f.r, f.header[:]); err != nil {
		return nil, err
	}
	length := int64(binary.BigEndian.Uint32(f.header[:]))
	if length > f.limit {
		return nil, &FrameError{Length: length, Limit: f.limit}
	}
	if cap(f.buf) > keepBuffer && length <= keepBuffer {
		f.buf = nil
	}
	if int64(cap(f.buf)) < length && length <= firstRead {
		f.buf = make([]byte, 0, max(length, 512))
	}
	if err := f.fill(length); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return f.buf, nil
}

// fill reads length bytes into buf.
func (f *FrameReader) fill(length int64) error {
	buf := f.buf[:0]
	for int64(len(buf)) < length {
		if len(buf) == cap(buf) {
			// At most twice what is there, and never more than the frame needs.
			grown := make([]byte, len(buf), min(length, max(firstRead, 2*int64(len(buf)))))
			copy(grown, buf)
			buf = grown
		}
		n := min(length, int64(cap(buf)))
		if _, err := io.ReadFull(f.r, buf[len(buf):n]); err != nil {
			f.buf = buf[:0]
			return err
		}
		buf = buf[:n]
	}
	f.buf = buf
	return nil
}

// FrameBuffered tells whether a whole frame is in the buffer of r, which a FrameReader
// reads: then Next does not wait for the network.
func FrameBuffered(r *bufio.Reader) bool {
	if r.Buffered() < frameHeader {
		return false
	}
	header, err := r.Peek(frameHeader)
	return err == nil && int64(r.Buffered()-frameHeader) >= int64(binary.BigEndian.Uint32(header))
}

// Keep leaves the last frame to the caller: the reader will not overwrite it.
func (f *FrameReader) Keep() { f.buf = nil }

// BeginFrame appends the place of a frame's length to dst. The caller appends the
// body, and then calls EndFrame with the length that dst had before.
func BeginFrame(dst []byte) []byte { return append(dst, 0, 0, 0, 0) }

// EndFrame writes the length of the frame that begins at dst[start] and ends at the
// end of dst. A *FrameError when it is longer than a header can say.
func EndFrame(dst []byte, start int) error {
	length := int64(len(dst) - start - frameHeader)
	if length > maxFrameLength {
		return &FrameError{Length: length, Limit: maxFrameLength}
	}
	binary.BigEndian.PutUint32(dst[start:], uint32(length))
	return nil
}
