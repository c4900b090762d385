package pickleref

import (
	"strconv"
	"unicode/utf8"
)

// unquote decodes STRING's argument, the repr of a Python 2 string. What is too
// long to matter, or malformed, is opaque.
func (m *machine) unquote(repr []byte) value {
	n := len(repr)
	if n < 2 || n > 4*maxScratch || repr[0] != '\'' && repr[0] != '"' || repr[n-1] != repr[0] {
		return value{}
	}
	repr = repr[1 : n-1]
	out := make([]byte, 0, len(repr))
	for len(repr) > 0 {
		c := repr[0]
		if c != '\\' {
			out, repr = append(out, c), repr[1:]
			continue
		}
		decoded, used := unescape(repr)
		if used == 0 {
			return value{}
		}
		out, repr = append(out, decoded), repr[used:]
	}
	return m.keep(kindScratchBytes, out)
}

// unescape decodes the escape sequence that s begins with and returns its length,
// 0 if it is none that repr writes.
func unescape(s []byte) (decoded byte, used int) {
	if len(s) < 2 {
		return 0, 0
	}
	switch c := s[1]; c {
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case '\\', '\'', '"':
		return c, 2
	case 'x':
		if r, used := hexEscape(s, 2); used > 0 {
			return byte(r), used
		}
	}
	return 0, 0
}

// hexEscape decodes a backslash, a letter and digits hex digits.
func hexEscape(s []byte, digits int) (r rune, used int) {
	used = 2 + digits
	if len(s) < used {
		return 0, 0
	}
	v, err := strconv.ParseUint(string(s[2:used]), 16, 32)
	if err != nil || v > utf8.MaxRune {
		return 0, 0
	}
	return rune(v), used
}

// unescapeUnicode decodes UNICODE's argument, raw-unicode-escape: Latin-1 with
// \uXXXX and \UXXXXXXXX.
func (m *machine) unescapeUnicode(raw []byte) value {
	if len(raw) > 4*maxScratch {
		return value{}
	}
	out := make([]byte, 0, len(raw))
	for len(raw) > 0 {
		r, used := rune(raw[0]), 1
		if r == '\\' && len(raw) > 1 {
			digits := 0
			switch raw[1] {
			case 'u':
				digits = 4
			case 'U':
				digits = 8
			}
			if digits > 0 {
				if r, used = hexEscape(raw, digits); used == 0 {
					return value{}
				}
			}
		}
		out, raw = utf8.AppendRune(out, r), raw[used:]
	}
	return m.keep(kindScratchText, out)
}
