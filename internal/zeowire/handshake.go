package zeowire

import "bytes"

// Encoding is how messages are written; its value is the letter in the handshake.
type Encoding byte

const (
	Pickle  Encoding = 'Z' // pickle, protocol 3
	Msgpack Encoding = 'M' // MessagePack
)

// String returns the encoding's name for people.
func (e Encoding) String() string {
	switch e {
	case Pickle:
		return "pickle"
	case Msgpack:
		return "msgpack"
	}
	return "unknown"
}

// MaxHandshake is a limit for the first frame of a connection, in bytes.
const MaxHandshake = 64

const protocolVersion = "5"

// Handshake returns the body of a first frame: "Z5" or "M5". A server announces
// with it, a client answers with it.
func (e Encoding) Handshake() []byte { return append([]byte{byte(e)}, protocolVersion...) }

// ParseAnnouncement reads the first frame of a server. It returns the encoding that
// the server prefers; the client may answer with the other one, and the answer
// decides. Later versions than 5 are taken, as the client's answer says 5: what is
// compared is the text, as ZEO does. Otherwise *HandshakeError.
func ParseAnnouncement(body []byte) (Encoding, error) {
	enc, version, ok := splitHandshake(body)
	if !ok || version < protocolVersion {
		return 0, handshakeError(body)
	}
	return enc, nil
}

// Answer is what a client says first.
type Answer struct {
	Encoding Encoding // of all further frames, in both directions
	// RUOK asks for the server's status instead: one frame with a JSON object, then
	// the server closes.
	RUOK bool
}

// RUOK returns the body of the first frame of a client that asks for the status.
func RUOK() []byte { return []byte("ruok") }

// ParseAnswer reads the first frame of a client: Z5, M5 or ruok. Anything else is a
// *HandshakeError, upon which servers close.
func ParseAnswer(body []byte) (Answer, error) {
	if bytes.Equal(body, RUOK()) {
		return Answer{RUOK: true}, nil
	}
	enc, version, ok := splitHandshake(body)
	if !ok || version != protocolVersion {
		return Answer{}, handshakeError(body)
	}
	return Answer{Encoding: enc}, nil
}

func splitHandshake(body []byte) (enc Encoding, version string, ok bool) {
	if len(body) < 2 || len(body) > MaxHandshake {
		return 0, "", false
	}
	enc = Encoding(body[0])
	return enc, string(body[1:]), enc == Pickle || enc == Msgpack
}

func handshakeError(body []byte) error {
	return &HandshakeError{Received: bytes.Clone(body[:min(len(body), MaxHandshake)])}
}
