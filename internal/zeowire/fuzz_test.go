package zeowire_test

import (
	"bytes"
	"testing"

	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// fuzzDecode: whatever decodes can be written, and read again as the same.
func fuzzDecode(f *testing.F, enc zeowire.Encoding) {
	for _, g := range goldens(f) {
		if g.encoding == enc && len(g.body) < 2000 {
			f.Add(g.body)
		}
	}
	for _, b := range bombs() {
		if b.encoding == enc && len(b.body) < 2000 {
			f.Add([]byte(b.body + "."))
		}
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		d := zeowire.Decoder{Encoding: enc, MaxItems: 1 << 12, MaxBytes: 1 << 16}
		v, err := d.Value(body)
		if err != nil {
			wantError[*zeowire.DecodeError](t, err)
			return
		}
		again, err := (&zeowire.Decoder{Encoding: enc, MaxDepth: 200}).Value(encode(t, enc, v))
		if err != nil {
			t.Fatalf("%v: %v", v, err)
		}
		if !v.Equal(again) {
			t.Errorf("%v became %v", v, again)
		}
		_, _ = d.Message(body)
	})
}

func FuzzPickle(f *testing.F) { fuzzDecode(f, zeowire.Pickle) }

func FuzzMsgpack(f *testing.F) { fuzzDecode(f, zeowire.Msgpack) }

func FuzzFrame(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02Z5\x00\x00\x00\x00"))
	f.Add([]byte("\x40\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := zeowire.NewFrameReader(bytes.NewReader(stream), 1<<16)
		var w zeowire.Writer
		for {
			body, err := r.Next()
			if err != nil {
				break
			}
			if err := w.Raw(body); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.HasPrefix(stream, w.Bytes()) {
			t.Errorf("%q was read as %q", stream, w.Bytes())
		}
	})
}
