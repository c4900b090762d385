package zeowire

import "fmt"

// FrameError says that a frame is longer than the limit. The stream cannot be used
// any further.
type FrameError struct {
	Length int64 // in bytes, as announced, or as it would be
	Limit  int64
}

func (e *FrameError) Error() string {
	return fmt.Sprintf("zeowire: a frame of %d bytes, at most %d are allowed", e.Length, e.Limit)
}

// HandshakeError says that the peer's first frame is none of this protocol.
type HandshakeError struct {
	Received []byte // its beginning
}

func (e *HandshakeError) Error() string {
	return fmt.Sprintf("zeowire: %q is no handshake of protocol 5", e.Received)
}

// DecodeError says that a frame holds no message that we understand.
type DecodeError struct {
	Encoding Encoding
	Offset   int // in the frame's body
	Reason   string
}

func (e *DecodeError) Error() string {
	return fmt.Sprintf("zeowire: %v message, offset %d: %s", e.Encoding, e.Offset, e.Reason)
}

// EncodeError says that a Value cannot be sent in an encoding, or is nested deeper
// than any peer reads.
type EncodeError struct {
	Encoding Encoding
	Reason   string
}

func (e *EncodeError) Error() string {
	return fmt.Sprintf("zeowire: %v message: %s", e.Encoding, e.Reason)
}
