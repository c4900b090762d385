package zeowire

import (
	"encoding/binary"
	"strconv"

	"github.com/zeoraid/raidstorage"
)

// ID identifies a call, so that its reply finds it. It is opaque to the server, which
// echoes it: most clients number their calls, and use (oid, tid) for loadBefore. An ID
// is comparable, for use as a key. The zero ID is the int 0, which async calls have.
type ID struct {
	kind idKind
	n, m uint64
	rest string // another value, as a pickle
}

type idKind uint8

const (
	idInt  idKind = iota // n
	idPair               // n and m, 8 bytes each, in a tuple
	idRest               // rest
)

// KeepAliveID is the id of the messages that clients send now and then to keep the
// connection open. They are ignored and never answered.
const KeepAliveID = -1

// IntID is the id of a numbered call.
func IntID(n int64) ID { return ID{n: uint64(n)} }

// LoadID is the id that ZEO's client gives to a loadBefore call.
func LoadID(oid raidstorage.OID, tid raidstorage.TID) ID {
	return ID{kind: idPair, n: uint64(oid), m: uint64(tid)}
}

// Int returns the number, if it is one.
func (id ID) Int() (int64, bool) { return int64(id.n), id.kind == idInt }

// String returns it for people.
func (id ID) String() string {
	switch id.kind {
	case idInt:
		return strconv.FormatInt(int64(id.n), 10)
	case idPair:
		return "(" + raidstorage.OID(id.n).String() + ", " + raidstorage.TID(id.m).String() + ")"
	}
	return id.value().String()
}

// maxIDBytes bounds ids that are neither ints nor pairs: nobody sends such.
const maxIDBytes = 1 << 10

// idOf makes an ID of its decoded value.
func idOf(v Value) (ID, bool) {
	if v.kind == KindInt {
		return ID{n: v.num}, true
	}
	if v.kind == KindTuple && len(v.items) == 2 {
		oid, ok1 := v.items[0].OID()
		tid, ok2 := v.items[1].TID()
		if ok1 && ok2 {
			return LoadID(oid, tid), true
		}
	}
	if !v.hashable() {
		return ID{}, false
	}
	rest, err := AppendPickle(nil, v)
	if err != nil || len(rest) > maxIDBytes {
		return ID{}, false
	}
	return ID{kind: idRest, rest: string(rest)}, true
}

// value is what idOf was given.
func (id ID) value() Value {
	switch id.kind {
	case idInt:
		return Int(int64(id.n))
	case idPair:
		return Tuple(OID(raidstorage.OID(id.n)), TID(raidstorage.TID(id.m)))
	}
	v, err := (&Decoder{Encoding: Pickle}).Value([]byte(id.rest))
	if err != nil {
		return None() // cannot be: idOf wrote it
	}
	return v
}

// Flag is the second item of a message.
type Flag uint8

const (
	Sync  Flag = 0 // a call that wants a reply; in a reply: its value
	Async Flag = 1 // a call without reply
	Error Flag = 2 // a reply that is an exception
)

// Message is a call or a reply.
type Message struct {
	ID   ID
	Flag Flag
	Name string // of the method, or Reply
	// Args is a call's tuple of arguments, a reply's value, or with Error the pair of
	// an exception's class path and state.
	Args Value
}

// Reply is the name of replies.
const Reply = ".reply"

// Call makes a call that wants a reply.
func Call(id ID, name string, args ...Value) Message {
	return Message{ID: id, Name: name, Args: Tuple(args...)}
}

// AsyncCall makes a call without reply.
func AsyncCall(name string, args ...Value) Message {
	return Message{Flag: Async, Name: name, Args: Tuple(args...)}
}

// ValueReply makes the reply to a call that succeeded.
func ValueReply(id ID, v Value) Message { return Message{ID: id, Name: Reply, Args: v} }

// ErrorReply makes the reply to a call that failed.
func ErrorReply(id ID, e *Exception) Message {
	return Message{ID: id, Flag: Error, Name: Reply, Args: Tuple(Text(e.Class), e.State())}
}

// KeepAlive makes the message that clients send now and then.
func KeepAlive() Message { return Message{ID: IntID(KeepAliveID), Name: Reply} }

// IsReply tells replies from calls.
func (m Message) IsReply() bool { return m.Name == Reply }

// Exception returns the exception that an error reply carries; it shares m's memory.
func (m Message) Exception() (*Exception, bool) {
	if m.Flag != Error || !m.IsReply() {
		return nil, false
	}
	return exceptionOf(m.Args)
}

// messageOf makes a Message of the decoded 4-tuple. The text says what is wrong.
func messageOf(items []Value) (Message, string) {
	if len(items) != 4 {
		return Message{}, "a message is a tuple of 4"
	}
	id, ok := idOf(items[0])
	if !ok {
		return Message{}, "an id that cannot be one"
	}
	flag, ok := items[1].Int()
	if !ok || flag < int64(Sync) || flag > int64(Error) {
		return Message{}, "a flag that is neither of False, True and 2"
	}
	if items[2].kind != KindText || len(items[2].data) > maxName {
		return Message{}, "the name is no short text"
	}
	m := Message{ID: id, Flag: Flag(flag), Name: methodName(items[2].data), Args: items[3]}
	if !m.IsReply() {
		if _, ok := m.Args.Items(); !ok {
			return Message{}, "the arguments are no tuple"
		}
	}
	return m, ""
}

// Decoder decodes messages; Encoding must be set, other fields may. It is used by one
// goroutine at a time.
type Decoder struct {
	Encoding Encoding
	// Limits of a message: 0 stands for the default.
	MaxDepth int // of containers in each other; 64, at most 1000
	MaxItems int // values in all, those that a memo repeats counted each time; 1<<20
	MaxBytes int // of texts and bytes in all, likewise; 1<<30

	arena  []Value // where items of the last message are
	pickle pickleMachine
}

const (
	defaultDepth = 64
	maximumDepth = 1000
	defaultItems = 1 << 20
	defaultBytes = 1 << 30
	keepArena    = 1 << 10 // items of the last message, above which the memory is not reused
)

// Message decodes the body of a frame. Args share the body's memory and the
// decoder's: they are valid until the next call of the decoder, unless Keep is
// called, or each is cloned. *DecodeError if it is no message.
func (d *Decoder) Message(body []byte) (Message, error) {
	v, err := d.Value(body)
	if err != nil {
		return Message{}, err
	}
	items, ok := v.Items()
	if !ok {
		return Message{}, d.fail(0, "a message is a tuple of 4")
	}
	m, reason := messageOf(items)
	if reason != "" {
		return Message{}, d.fail(0, reason)
	}
	return m, nil
}

// Value decodes a single value, such as the pickle of a transaction's extension. What
// follows it is an error. Memory is shared as Message says.
func (d *Decoder) Value(body []byte) (Value, error) {
	if cap(d.arena) > keepArena {
		d.arena = nil
	}
	d.arena = d.arena[:0]
	switch d.Encoding {
	case Pickle:
		return d.unpickle(body)
	case Msgpack:
		return d.unpackAll(body)
	}
	return Value{}, d.fail(0, "no such encoding")
}

// Keep leaves the values of the last message to the caller: the decoder will not
// overwrite them. The frame they share is another matter, see FrameReader.Keep.
func (d *Decoder) Keep() { d.arena = nil }

func (d *Decoder) fail(offset int, reason string) error {
	return &DecodeError{Encoding: d.Encoding, Offset: offset, Reason: reason}
}

// room returns n Values of the arena, as a slice that cannot grow into others.
func (d *Decoder) room(n int) []Value {
	if n == 0 {
		return nil
	}
	if cap(d.arena)-len(d.arena) < n {
		// Slices of the old one stay valid.
		d.arena = make([]Value, 0, max(n, min(2*cap(d.arena), keepArena), 32))
	}
	start := len(d.arena)
	d.arena = d.arena[:start+n]
	return d.arena[start : start+n : start+n]
}

func orDefault(n, def int) int {
	if n <= 0 {
		return def
	}
	return n
}

func (d *Decoder) depthLimit() int { return min(orDefault(d.MaxDepth, defaultDepth), maximumDepth) }

// oidBytes appends 8 bytes without an allocation.
func oidBytes(dst []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(dst, v) }
