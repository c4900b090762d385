package zeoserver

import (
	"fmt"
	"unicode/utf8"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// arguments are those of one call, typed. The first wrong one makes err a TypeError;
// what is read then is zero. They share the frame's memory.
type arguments struct {
	items []zeowire.Value
	err   error
}

func (a *arguments) wrong(i int, want string) {
	if a.err == nil {
		a.err = zeowire.NewException(zeowire.ClassTypeError,
			zeowire.Text(fmt.Sprintf("argument %d is not %s", i+1, want)))
	}
}

// at returns argument i, None if it was left out.
func (a *arguments) at(i int) zeowire.Value {
	if i < len(a.items) {
		return a.items[i]
	}
	return zeowire.None()
}

func (a *arguments) has(i int) bool { return !a.at(i).IsNone() }

func (a *arguments) oid(i int) raidstorage.OID {
	v := a.at(i)
	if oid, ok := v.OID(); ok {
		return oid
	}
	n, ok := eightChars(v)
	if !ok {
		a.wrong(i, "an oid")
	}
	return raidstorage.OID(n)
}

func (a *arguments) tid(i int) raidstorage.TID {
	v := a.at(i)
	if tid, ok := v.TID(); ok {
		return tid
	}
	n, ok := eightChars(v)
	if !ok {
		a.wrong(i, "a tid")
	}
	return raidstorage.TID(n)
}

// eightChars reads an oid or tid that is a text of 8 characters, each a byte: code
// that was written for Python 2 has literals of that type.
func eightChars(v zeowire.Value) (n uint64, ok bool) {
	text, ok := v.Text()
	if !ok || utf8.RuneCountInString(text) != 8 {
		return 0, false
	}
	for _, r := range text {
		if r > 0xff {
			return 0, false
		}
		n = n<<8 | uint64(r)
	}
	return n, true
}

// tidOr is a tid, or def for None.
func (a *arguments) tidOr(i int, def raidstorage.TID) raidstorage.TID {
	if !a.has(i) {
		return def
	}
	return a.tid(i)
}

// bytes are bytes, or a text as UTF-8: applications pass both as metadata.
func (a *arguments) bytes(i int) []byte {
	v := a.at(i)
	if b, ok := v.Bytes(); ok {
		return b
	}
	if s, ok := v.Text(); ok {
		return []byte(s)
	}
	a.wrong(i, "bytes")
	return nil
}

func (a *arguments) text(i int) string {
	v := a.at(i)
	if s, ok := v.Text(); ok {
		return s
	}
	if b, ok := v.Bytes(); ok {
		return string(b)
	}
	a.wrong(i, "a text")
	return ""
}

func (a *arguments) int(i int) int64 {
	v, ok := a.at(i).Int()
	if !ok {
		a.wrong(i, "an int")
	}
	return v
}

// intOr is an int, or def if it was left out; None is none.
func (a *arguments) intOr(i int, def int64) int64 {
	if i >= len(a.items) {
		return def
	}
	return a.int(i)
}

// truth is what Python's if says of an argument, of the types that clients send.
func (a *arguments) truth(i int) bool {
	v := a.at(i)
	if b, ok := v.Bool(); ok {
		return b
	}
	if n, ok := v.Int(); ok {
		return n != 0
	}
	if !v.IsNone() {
		a.wrong(i, "a bool")
	}
	return false
}
