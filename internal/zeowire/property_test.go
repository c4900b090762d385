package zeowire_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// values generates Values nested at most depth deep. In what both encodings carry
// there are no lists, as MessagePack makes them tuples.
func values(depth int, lists bool) *rapid.Generator[zeowire.Value] {
	return rapid.Custom(func(t *rapid.T) zeowire.Value {
		kinds := 6
		if depth > 0 {
			kinds = 8
		}
		if depth > 0 && lists {
			kinds = 10
		}
		items := func() []zeowire.Value { return rapid.SliceOfN(values(depth-1, lists), 0, 20).Draw(t, "items") }
		switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
		case 1:
			return zeowire.Bool(rapid.Bool().Draw(t, "bool"))
		case 2:
			return zeowire.Int(rapid.Int64().Draw(t, "int"))
		case 3:
			return zeowire.Float(rapid.Float64().Draw(t, "float"))
		case 4:
			return zeowire.Text(rapid.String().Draw(t, "text"))
		case 5:
			return zeowire.Bytes(rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "bytes"))
		case 6:
			return zeowire.Tuple(items()...)
		case 7:
			var entries []zeowire.Pair
			for _, v := range items() {
				entries = append(entries, zeowire.Entry(rapid.String().Draw(t, "key"), v))
			}
			return zeowire.Dict(entries...)
		case 8:
			return zeowire.List(items()...)
		case 9:
			return zeowire.NewException("builtins.ValueError", items()...).Value()
		}
		return zeowire.None()
	})
}

func TestRandomMessagesCrossTheWire(t *testing.T) {
	t.Parallel()
	for _, enc := range encodings() {
		d := zeowire.Decoder{Encoding: enc}
		rapid.Check(t, func(t *rapid.T) {
			v := values(3, enc == zeowire.Pickle).Draw(t, "value")
			want := zeowire.ValueReply(zeowire.IntID(rapid.Int64().Draw(t, "id")), v)
			w := zeowire.Writer{Encoding: enc}
			if err := w.Message(want); err != nil {
				t.Fatal(err)
			}
			got, err := d.Message(w.Bytes()[4:])
			if err != nil {
				t.Fatal(err)
			}
			if got.ID != want.ID || got.Flag != want.Flag || got.Name != want.Name || !got.Args.Equal(want.Args) {
				t.Errorf("%v became %v", want, got)
			}
		})
	}
}
