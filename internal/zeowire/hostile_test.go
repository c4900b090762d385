package zeowire_test

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage/internal/zeowire"
)

func TestEveryGoldenMessageCutOffIsAnError(t *testing.T) {
	t.Parallel()
	for _, g := range goldens(t) {
		d := zeowire.Decoder{Encoding: g.encoding}
		step := 1 + len(g.body)/200 // each byte of the short ones
		for n := 0; n < len(g.body); n += step {
			_, err := d.Value(g.body[:n])
			wantError[*zeowire.DecodeError](t, err)
		}
		_, err := d.Value(append(bytes.Clone(g.body), 0))
		wantError[*zeowire.DecodeError](t, err)
	}
}

// bomb is a message that wants to cost more than it may.
type bomb struct {
	name     string
	encoding zeowire.Encoding
	body     string
}

func bombs() []bomb {
	z, m := zeowire.Pickle, zeowire.Msgpack
	laughs := ")q\x00" // each tuple has the one before three times
	for range 40 {
		laughs += "h\x00h\x00h\x00\x87q\x00"
	}
	bigLaughs := "B\x00\x00\x10\x00" + strings.Repeat("x", 1<<20) + "q\x00" // 1 MiB, 3000 times
	bigLaughs += "(" + strings.Repeat("h\x00", 3000) + "t"
	again := "(" + strings.Repeat("N", 100000) + "tq\x000" // put into something and thrown away, over and over
	again += strings.Repeat("h\x00\x850", 100000) + "N"
	dicts := "NN\x86q\x000(" + strings.Repeat("h\x00", 10000) + "tq\x010" + strings.Repeat("cbuiltins\ndict\nh\x01\x85R0", 3000) + "N"
	return []bomb{
		{"nested tuples", z, strings.Repeat(")", 1) + strings.Repeat("\x85", 1<<20)},
		{"nested lists", z, strings.Repeat("]", 1<<20) + strings.Repeat("a", 1<<20)},
		{"nested marks", z, strings.Repeat("(", 1<<21)},
		{"many Nones", z, strings.Repeat("N", 1<<21)},
		{"many lists", z, strings.Repeat("]0", 1<<21)},
		{"a billion laughs", z, laughs},
		{"the same bytes many times", z, bigLaughs},
		{"work for nothing", z, again},
		{"the same dict made many times", z, dicts},
		{"dups of dups", z, "]" + strings.Repeat("2", 1<<21)},
		{"a list in itself", z, "]q\x00h\x00a"},
		{"a list in itself, marked", z, "]q\x00(h\x00Ne"},
		{"a list in a tuple in itself", z, "]q\x00h\x00\x85a"},
		{"a dict in itself", z, "}q\x00X\x01\x00\x00\x00kh\x00s"},
		{"a list changed after use", z, "]q\x00\x850h\x00Na"},
		{"huge bytes", z, "B\xff\xff\xff\xffx"},
		{"huge bytes of protocol 4", z, "\x8e\xff\xff\xff\xff\xff\xff\xff\xffx"},
		{"huge text of protocol 4", z, "\x8d\xff\xff\xff\xff\xff\xff\xff\x7fx"},
		{"huge frame of protocol 4", z, "\x95\xff\xff\xff\xff\xff\xff\xff\xffN"},
		{"huge int", z, "\x8a\xff" + strings.Repeat("x", 255)},
		{"huge int of 4 GiB", z, "\x8b\xff\xff\xff\xff"},
		{"huge decimal int", z, "L" + strings.Repeat("9", 1<<20) + "L\n"},
		{"huge memo number", z, "Nr\xff\xff\xff\xffj\xfe\xff\xff\xff"},
		{"nested arrays", m, strings.Repeat("\x91", 1<<20) + "\xc0"},
		{"nested maps", m, strings.Repeat("\x81\xc0", 1<<20) + "\xc0"},
		{"huge array", m, "\xdd\xff\xff\xff\xff\xc0"},
		{"huge map", m, "\xdf\xff\xff\xff\xff\xc0\xc0"},
		{"huge arrays nested", m, strings.Repeat("\xdd\x00\x0f\x00\x00", 60) + strings.Repeat("\xc0", 1<<20)},
		{"huge bin", m, "\xc6\xff\xff\xff\xffx"},
		{"huge text", m, "\xdb\xff\xff\xff\xffx"},
		{"many nils", m, "\xdd\x00\x20\x00\x00" + strings.Repeat("\xc0", 1<<21)},
	}
}

// TestBombsAreRefusedCheaply is not parallel: it counts the memory of all.
func TestBombsAreRefusedCheaply(t *testing.T) {
	for _, b := range bombs() {
		body := b.body
		if b.encoding == zeowire.Pickle {
			body += "."
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		d := zeowire.Decoder{Encoding: b.encoding}
		_, err := d.Value([]byte(body))
		took := time.Since(start)
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("%s: no error", b.name)
			continue
		}
		wantError[*zeowire.DecodeError](t, err)
		// A list being built has 200 bytes; what slices left behind as they grew counts too.
		if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20+1300*uint64(min(len(body), 1<<20)) {
			t.Errorf("%s: %d bytes for a message of %d", b.name, n, len(body))
		}
		if took > 20*time.Second {
			t.Errorf("%s: %v", b.name, took)
		}
	}
}

func TestLimitsOfADecoder(t *testing.T) {
	t.Parallel()
	value := zeowire.List(zeowire.Tuple(zeowire.Text("abc"), zeowire.Bytes([]byte("de"))), zeowire.None())
	for _, enc := range encodings() {
		body := encode(t, enc, value)
		for _, d := range []*zeowire.Decoder{
			{Encoding: enc}, {Encoding: enc, MaxDepth: 2, MaxItems: 5, MaxBytes: 5},
		} {
			if _, err := d.Value(body); err != nil {
				t.Errorf("%v: %v", enc, err)
			}
		}
		for _, d := range []*zeowire.Decoder{
			{Encoding: enc, MaxDepth: 1}, {Encoding: enc, MaxItems: 4}, {Encoding: enc, MaxBytes: 4},
		} {
			_, err := d.Value(body)
			wantError[*zeowire.DecodeError](t, err)
		}
	}
	_, err := (&zeowire.Decoder{}).Value(nil)
	wantError[*zeowire.DecodeError](t, err)
}

func encode(t testing.TB, enc zeowire.Encoding, v zeowire.Value) []byte {
	t.Helper()
	f := zeowire.AppendPickle
	if enc == zeowire.Msgpack {
		f = zeowire.AppendMsgpack
	}
	body, err := f(nil, v)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// TestPicklesThatAreNoData: nothing but exceptions and prefixes may be named.
func TestPicklesThatAreNoData(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		"cos\nsystem\nX\x02\x00\x00\x00ls\x85R.",
		"cbuiltins\neval\nX\x01\x00\x00\x001\x85R.",
		"cbuiltins\ngetattr\n.",
		"cbuiltins\nValueError\n.",                           // a class, not an exception
		"cbuiltins\nValueError\n\x85.",                       // in a tuple
		"]cbuiltins\nValueError\na.",                         // in a list
		"cbuiltins\nValueError\n\x85\x85.",                   // deeper
		"cbuiltins\nValueError\ncbuiltins\nKeyError\n\x85R.", // among the args
		"cbuiltins\nValueError\n]R.",                         // args that are no tuple
		"cbuiltins\nValueError\n(R.",
		"cbuiltins\nValueError\n)RNb.", // a state that is no dict
		"cbuiltins\nValueError\n)R\x85}b.",
		"NN\x86R.", "N)R.", ")}b.", "]}b.",
		"cZODB.POSException\n_recon\n)R.",
		"cZODB.POSException\n_recon\nN}\x86R.",
		"cZODB.POSException\n_recon\ncZopeUndo.Prefix\nPrefix\n}\x86R.",
		"cZopeUndo.Prefix\nPrefix\n)\x81}b.",
		"cZopeUndo.Prefix\nPrefix\nN\x85R.",
		"ccopy_reg\n_reconstructor\ncbuiltins\nValueError\nc__builtin__\nobject\nN\x87R.",
		"cbuiltins\nobject\n)\x81.",
		"cbuil tins\nValueError\n.", "c\n\n.", "cbuiltins\n" + strings.Repeat("x", 300) + "Error\n)R.",
		"NN\x93.", "X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93.",
		"P1\n.", "NQ.", "\x82\x01.", "i__main__\nA\n.", "(o.", "\x8f.", "\x80\x05N.", "\xff.",
		".", "0.", "2.", "\x85.", "t.", "l.", "d.", "(Nd.", "e.", "]Ne.", "Na.", "NNs.", "]NNs.", "}NNNu.",
		"](a.", "}(Ns.", "](Na.", "q\x00.", "h\x00.", "1.", "g1\n.", "Np-1\n.", "Npx\n.", "}(Nu.", "}]Ns.", "}]\x85Ns.",
		"Ix\n.", "I1", "Fx\n.", "Sx\n.", "S'\n.", "S'\\q'\n.", "S'\\x1'\n.", "S'\\xff'\n.", "U\x01\xff.", "Lx\n.",
		"V\\u12\n.", "V\\uzzzz\n.", "V\\U00110000\n.", "X\x01\x00\x00\x00\xff.", "X\x03\x00\x00\x00\xed\xa0.",
		"\x8a\x09123456789.", "I9223372036854775808\n.",
	} {
		d := zeowire.Decoder{Encoding: zeowire.Pickle}
		if v, err := d.Value([]byte(body)); err == nil {
			t.Errorf("%q is %v", body, v)
		} else {
			wantError[*zeowire.DecodeError](t, err)
		}
	}
}

func TestMsgpackThatIsNoData(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		"", "\xc1", "\xc7\x01\x01x", "\xd4\x01x", "\xd6\xff\x00\x00\x00\x00", "\xc9\x00\x00\x00\x01\x01x", "\xa1\xff",
		"\xa3\xed\xa0\x80", "\x81\x80\xc0", "\x81\x91\x80\xc0", "\xcf\xff\xff\xff\xff\xff\xff\xff\xff", "\xc0\xc0",
	} {
		d := zeowire.Decoder{Encoding: zeowire.Msgpack}
		if v, err := d.Value([]byte(body)); err == nil {
			t.Errorf("%q is %v", body, v)
		} else {
			wantError[*zeowire.DecodeError](t, err)
		}
	}
}

func TestValuesThatAreNoMessages(t *testing.T) {
	t.Parallel()
	n, name, args := zeowire.Int(1), zeowire.Text("vote"), zeowire.Tuple()
	no := zeowire.Bool(false)
	for _, v := range []zeowire.Value{
		zeowire.None(), zeowire.Tuple(), zeowire.Tuple(n, no, name), zeowire.Tuple(n, no, name, args, args),
		zeowire.Tuple(n, zeowire.Int(3), name, args), zeowire.Tuple(n, zeowire.Int(-1), name, args),
		zeowire.Tuple(n, zeowire.None(), name, args), zeowire.Tuple(n, no, n, args),
		zeowire.Tuple(n, no, zeowire.Bytes([]byte("vote")), args), zeowire.Tuple(n, no, name, n),
		zeowire.Tuple(n, no, name, zeowire.Dict()), zeowire.Tuple(zeowire.Dict(), no, name, args),
		zeowire.Tuple(zeowire.Text(strings.Repeat("i", 2000)), no, name, args),
		zeowire.Tuple(n, no, zeowire.Text(strings.Repeat("n", 300)), args),
	} {
		for _, enc := range encodings() {
			m, err := (&zeowire.Decoder{Encoding: enc}).Message(encode(t, enc, v))
			if err == nil {
				t.Errorf("%v is %v", v, m)
			} else {
				wantError[*zeowire.DecodeError](t, err)
			}
		}
	}
}

// TestAGigabyteHeaderWithinAMessage: counts do not allocate.
func TestAGigabyteHeaderWithinAMessage(t *testing.T) {
	t.Parallel()
	for _, code := range []byte{0xc6, 0xdb, 0xdd, 0xdf} {
		body := binary.BigEndian.AppendUint32([]byte{0x94, 1, 0xc2, 0xa1, 'x', code}, 1<<30)
		_, err := (&zeowire.Decoder{Encoding: zeowire.Msgpack}).Message(body)
		wantError[*zeowire.DecodeError](t, err)
	}
}
