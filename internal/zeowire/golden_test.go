package zeowire_test

import (
	"bufio"
	"compress/zlib"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// golden is a message that ZEO's own code has made; testdata/make.py says how.
type golden struct {
	name     string
	encoding zeowire.Encoding
	body     []byte
	text     string
}

func goldens(t testing.TB) []golden {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", "messages.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []golden
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var line struct{ Name, Encoding, Frame, Text string }
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		body, err := hex.DecodeString(line.Frame)
		if err != nil {
			body = inflate(t, line.Frame)
		}
		all = append(all, golden{line.Name, zeowire.Encoding(line.Encoding[0]), body, line.Text})
	}
	if err := lines.Err(); err != nil || len(all) < 200 {
		t.Fatalf("%d golden messages, %v", len(all), err)
	}
	return all
}

func inflate(t testing.TB, text string) []byte {
	t.Helper()
	r, err := zlib.NewReader(base64.NewDecoder(base64.StdEncoding, strings.NewReader(text)))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// pythonText writes v as make.py does.
func pythonText(v zeowire.Value) string {
	var b strings.Builder
	writePython(&b, v)
	if b.Len() > 3000 {
		return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(b.String())))
	}
	return b.String()
}

func writePython(b *strings.Builder, v zeowire.Value) {
	list := func(name string, items []zeowire.Value) {
		b.WriteString(name + "(")
		for i, item := range items {
			if i > 0 {
				b.WriteString(" ")
			}
			writePython(b, item)
		}
		b.WriteString(")")
	}
	switch v.Kind() {
	case zeowire.KindFloat:
		f, _ := v.Float()
		fmt.Fprintf(b, "float(%016x)", math.Float64bits(f))
	case zeowire.KindText:
		s, _ := v.Text()
		fmt.Fprintf(b, "str(%x)", s)
	case zeowire.KindBytes:
		s, _ := v.Bytes()
		fmt.Fprintf(b, "bytes(%x)", s)
	case zeowire.KindPrefix:
		s, _ := v.PrefixPath()
		fmt.Fprintf(b, "prefix(%x)", s)
	case zeowire.KindTuple, zeowire.KindList:
		items, _ := v.Items()
		list(map[zeowire.Kind]string{zeowire.KindTuple: "tuple", zeowire.KindList: "list"}[v.Kind()], items)
	case zeowire.KindDict:
		items, _ := v.Pairs()
		b.WriteString("dict(")
		for i := 0; i < len(items); i += 2 {
			if i > 0 {
				b.WriteString(" ")
			}
			writePython(b, items[i])
			b.WriteString("=")
			writePython(b, items[i+1])
		}
		b.WriteString(")")
	case zeowire.KindException:
		e, _ := v.Exception()
		b.WriteString("exception(" + e.Class + " ")
		writePython(b, e.Args)
		b.WriteString(" ")
		writePython(b, e.Attrs)
		b.WriteString(")")
	default:
		b.WriteString(v.String()) // None, bool, int: as Python writes them
	}
}

func TestGoldenMessagesMeanWhatZEOMeant(t *testing.T) {
	t.Parallel()
	decoders := map[zeowire.Encoding]*zeowire.Decoder{
		zeowire.Pickle: {Encoding: zeowire.Pickle}, zeowire.Msgpack: {Encoding: zeowire.Msgpack},
	}
	for _, g := range goldens(t) {
		v, err := decoders[g.encoding].Value(g.body)
		if err != nil {
			t.Errorf("%s: %v", g.name, err)
			continue
		}
		if got := pythonText(v); got != g.text {
			t.Errorf("%s, %v:\n%.300s, ZEO has\n%.300s", g.name, g.encoding, got, g.text)
		}
		if g.encoding == zeowire.Pickle {
			checkSame(t, g, zeowire.AppendPickle, v)
		} else {
			checkSame(t, g, zeowire.AppendMsgpack, v)
		}
	}
}

// checkSame: a value is written byte for byte as ZEO writes it.
func checkSame(t *testing.T, g golden, encode func([]byte, zeowire.Value) ([]byte, error), v zeowire.Value) {
	t.Helper()
	got, err := encode(nil, v)
	if err != nil {
		t.Errorf("%s: %v", g.name, err)
	}
	if string(got) != string(g.body) {
		t.Errorf("%s, %v: written again it is\n%.300q, ZEO writes\n%.300q", g.name, g.encoding, got, g.body)
	}
}

func TestGoldenMessagesAreWrittenAgainAsZEOWritesThem(t *testing.T) {
	t.Parallel()
	for _, g := range goldens(t) {
		d := zeowire.Decoder{Encoding: g.encoding}
		m, err := d.Message(g.body)
		if err != nil {
			t.Errorf("%s: %v", g.name, err)
			continue
		}
		w := zeowire.Writer{Encoding: g.encoding}
		if err := w.Message(m); err != nil {
			t.Errorf("%s: %v", g.name, err)
			continue
		}
		if got := string(w.Bytes()[4:]); got != string(g.body) {
			t.Errorf("%s, %v:\n%.300q, ZEO writes\n%.300q", g.name, g.encoding, got, g.body)
		}
	}
}
