package zeoclient

import (
	"fmt"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// The extension is a pickled dict in a storage and a dict on the wire. An empty dict
// and none cannot be told apart there: none is handed out for both. What is handed out
// is pickled as zeowire.AppendPickle does, protocol 3 without a memo.

// wireExtension returns the dict of a pickled extension. *raidstorage.InvalidError if
// it is none, or has other values than plain ones.
func wireExtension(pickled []byte) (zeowire.Value, error) {
	if len(pickled) == 0 {
		return zeowire.Dict(), nil
	}
	v, err := (&zeowire.Decoder{Encoding: zeowire.Pickle}).Value(pickled)
	if err != nil {
		return v, &raidstorage.InvalidError{Op: "begin", Reason: "the extension cannot be sent: " + err.Error()}
	}
	if v.Kind() != zeowire.KindDict {
		return v, &raidstorage.InvalidError{Op: "begin", Reason: "the extension is no dict"}
	}
	if !plain(v) {
		return v, &raidstorage.InvalidError{Op: "begin", Reason: "the extension has other values than plain ones"}
	}
	return v.Clone(), nil
}

// plain tells whether both encodings can carry v.
func plain(v zeowire.Value) bool {
	items, _ := v.Items()
	if v.Kind() == zeowire.KindDict {
		items, _ = v.Pairs()
	}
	for _, item := range items {
		if !plain(item) {
			return false
		}
	}
	return v.Kind() != zeowire.KindException && v.Kind() != zeowire.KindPrefix
}

// storedExtension pickles a dict that a server sent.
func storedExtension(v zeowire.Value) ([]byte, error) {
	if v.IsNone() {
		return nil, nil
	}
	pairs, ok := v.Pairs()
	if !ok {
		return nil, violation("an extension that is no dict")
	}
	if len(pairs) == 0 {
		return nil, nil
	}
	pickled, err := zeowire.AppendPickle(nil, v)
	if err != nil {
		return nil, violation("an extension that cannot be pickled")
	}
	return pickled, nil
}

// text returns what may be bytes or a str, as a copy.
func text(v zeowire.Value) ([]byte, bool) {
	if s, ok := v.Text(); ok {
		return []byte(s), true
	}
	b, ok := v.Bytes()
	return append([]byte{}, b...), ok || v.IsNone()
}

// info makes a TxnInfo of an entry of undoLog or history. What it has besides the
// known keys is the extension. tid says where the tid is.
func info(v zeowire.Value, tidKey string, tid func(zeowire.Value) (raidstorage.TID, bool)) (raidstorage.TxnInfo, error) {
	var t raidstorage.TxnInfo
	pairs, ok := v.Pairs()
	if !ok {
		return t, violation("an entry that is no dict")
	}
	var rest []zeowire.Pair
	found := false
	for i := 0; i < len(pairs); i += 2 {
		key, value := pairs[i], pairs[i+1]
		name, _ := key.Text()
		ok := true
		switch name {
		case tidKey:
			t.TID, found = tid(value)
		case "user_name":
			t.User, ok = text(value)
		case "description":
			t.Description, ok = text(value)
		case "size":
			t.Size, ok = value.Int()
		case "time":
		default:
			rest = append(rest, zeowire.Pair{Key: key, Value: value})
		}
		if !ok {
			return t, violation(fmt.Sprintf("an entry with another type of %s", name))
		}
	}
	if !found {
		return t, violation("an entry without a tid")
	}
	t.Status = raidstorage.StatusNormal
	var err error
	t.Extension, err = storedExtension(zeowire.Dict(rest...))
	return t, err
}
