package zeowire_test

import (
	"strings"
	"testing"

	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// TestDictsThatACallMakes reads what Python's pickle makes of a class
//
//	class ext(dict):
//	    def __reduce__(self): return dict, (tuple(self.items()),)
//
// and of those with a list instead, with no argument, and with more items beside; ZODB's
// own tests have such an extension. The first line of each is how ZEO's encoder('Z5')
// writes it, the others are of pickle.dumps with protocols 0, 2 and 4.
func TestDictsThatACallMakes(t *testing.T) {
	t.Parallel()
	foo := zeowire.Entry("foo", zeowire.Int(1))
	a, b := zeowire.Entry("a", zeowire.Int(1)), zeowire.Entry("b", zeowire.Tuple(zeowire.Int(2), zeowire.None()))
	for body, want := range map[string]zeowire.Value{
		"\x80\x03cbuiltins\ndict\nX\x03\x00\x00\x00fooK\x01\x86\x85\x85R.":                                                                        zeowire.Dict(foo),
		"c__builtin__\ndict\np0\n(((Vfoo\np1\nI1\ntp2\ntp3\ntp4\nRp5\n.":                                                                          zeowire.Dict(foo),
		"\x80\x02c__builtin__\ndict\nq\x00X\x03\x00\x00\x00fooq\x01K\x01\x86q\x02\x85q\x03\x85q\x04Rq\x05.":                                       zeowire.Dict(foo),
		"\x80\x04\x95%\x00\x00\x00\x00\x00\x00\x00\x8c\x08builtins\x94\x8c\x04dict\x94\x93\x94\x8c\x03foo\x94K\x01\x86\x94\x85\x94\x85\x94R\x94.": zeowire.Dict(foo),
		"\x80\x03cbuiltins\ndict\n](X\x03\x00\x00\x00fooK\x01\x86X\x03\x00\x00\x00bar]C\x01xa\x86e\x85R.":                                         zeowire.Dict(foo, zeowire.Entry("bar", zeowire.List(zeowire.Bytes([]byte("x"))))),
		"\x80\x03cbuiltins\ndict\n)R.":     zeowire.Dict(),
		"c__builtin__\ndict\np0\n(tRp1\n.": zeowire.Dict(),
		"\x80\x03cbuiltins\ndict\n)\x85R.": zeowire.Dict(),
		"\x80\x03cbuiltins\ndict\n]X\x01\x00\x00\x00aK\x01\x86a\x85RX\x01\x00\x00\x00bK\x02N\x86s.":                                                                       zeowire.Dict(a, b),
		"c__builtin__\ndict\np0\n((lp1\n(Va\np2\nI1\ntp3\natp4\nRp5\nVb\np6\n(I2\nNtp7\ns.":                                                                               zeowire.Dict(a, b),
		"\x80\x04\x95.\x00\x00\x00\x00\x00\x00\x00\x8c\x08builtins\x94\x8c\x04dict\x94\x93\x94]\x94\x8c\x01a\x94K\x01\x86\x94a\x85\x94R\x94\x8c\x01b\x94K\x02N\x86\x94s.": zeowire.Dict(a, b),
	} {
		d := zeowire.Decoder{Encoding: zeowire.Pickle}
		if got, err := d.Value([]byte(body)); err != nil || !got.Equal(want) {
			t.Errorf("%q is %v, %v, want %v", body, got, err, want)
		}
	}
	// It counts as no deeper than the same dict written out.
	d := zeowire.Decoder{Encoding: zeowire.Pickle, MaxDepth: 4}
	if _, err := d.Value([]byte("cbuiltins\ndict\nVa\nN\x86\x85\x85R\x85\x85\x85.")); err != nil {
		t.Error(err)
	}
}

// TestCallsOfDictThatAreRefused has what only dict itself could say, and what would
// cost more than its pickle has bytes.
func TestCallsOfDictThatAreRefused(t *testing.T) {
	t.Parallel()
	dict := "cbuiltins\ndict\n"
	pairs := "(" + strings.Repeat("h\x00", 1000) + "tq\x010"
	for what, body := range map[string]string{
		"the class":                     dict + ".",
		"the class in a tuple":          dict + "\x85.",
		"a text":                        dict + "Vab\n\x85R.",
		"a number":                      dict + "K\x01\x85R.",
		"a dict":                        dict + "}\x85R.",
		"two arguments":                 dict + "))\x86R.",
		"arguments that are no tuple":   dict + "]R.",
		"no pair":                       dict + "N\x85\x85R.",
		"a text as a pair":              dict + "Vab\n\x85\x85R.",
		"a single":                      dict + "N\x85\x85\x85R.",
		"a triple":                      dict + "NNN\x87\x85\x85R.",
		"a list as a key":               dict + "]N\x86\x85\x85R.",
		"a class as a key":              dict + dict + "N\x86\x85\x85R.",
		"a class as a value":            dict + "N" + dict + "\x86\x85\x85R.",
		"no call, but __new__":          dict + ")\x81.",
		"a state":                       dict + ")R}b.",
		"another class of the builtins": "cbuiltins\nlist\n)R.",
		"a class called so":             "ccollections\ndict\n)R.",
		"itself":                        "]q\x00" + dict + "h\x00\x85RVk\nh\x00s0h\x00Na.", // the list is closed
		"the same pairs many times":     "NN\x86q\x000" + pairs + strings.Repeat(dict+"h\x01\x85R0", 1000) + "N.",
	} {
		d := zeowire.Decoder{Encoding: zeowire.Pickle}
		if v, err := d.Value([]byte(body)); err == nil {
			t.Errorf("dict of %s is %v", what, v)
		} else {
			wantError[*zeowire.DecodeError](t, err)
		}
	}
	for what, d := range map[string]zeowire.Decoder{
		"depth": {MaxDepth: 2}, "items": {MaxItems: 5}, "bytes": {MaxBytes: 5},
	} {
		d.Encoding = zeowire.Pickle
		if v, err := d.Value([]byte(dict + "Vabcdef\n]N\x85a\x86\x85\x85R.")); err == nil {
			t.Errorf("beyond the limit of %s there is %v", what, v)
		}
	}
}
