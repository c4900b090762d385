package pickleref

import (
	"strings"
	"testing"
)

// FuzzClassName: whatever a record holds, the name can be shown and is bounded.
func FuzzClassName(f *testing.F) {
	for _, g := range readGolden(f) {
		f.Add(g.record)
	}
	f.Fuzz(func(t *testing.T, record []byte) {
		name := ClassName(record)
		if len(name) > maxClassName || strings.ContainsAny(name, "\n\r\t\x1b\x00") {
			t.Errorf("%q", name)
		}
	})
}

func TestClassNames(t *testing.T) {
	t.Parallel()
	for _, g := range readGolden(t) {
		// With a state that is longer than what is looked at.
		record := append(append([]byte(nil), g.record...), make([]byte, 2*MaxClassPickle)...)
		if got, want := ClassName(record), strings.Replace(g.class, " ", ".", 1); got != want {
			t.Errorf("%s: %q, want %q", g.name, got, want)
		}
	}
	for name, record := range map[string]string{
		"nothing":      "",
		"no pickle":    "hello",
		"cut off":      "\x80\x03cmodule\nNa",
		"no module":    "\x80\x03c\nName\n.",
		"escape":       "\x80\x03cmodule\n\x1b[2J\n.",
		"not UTF-8":    "\x80\x03cmodule\n\xff\n.",
		"too long":     "\x80\x03cmodule\n" + strings.Repeat("n", maxClassName) + "\n.",
		"endless":      "\x80\x03cmodule\n" + strings.Repeat("n", 1<<20),
		"length a lie": "\x80\x03X\xff\xff\xff\x7fmodule",
		"a call":       "\x80\x03cos\nsystem\nU\x02ls\x85R.",
		"many marks":   strings.Repeat("(", 1<<20),
	} {
		if got := ClassName([]byte(record)); got != "" {
			t.Errorf("%s: %q", name, got)
		}
	}
}
