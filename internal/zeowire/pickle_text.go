package zeowire

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf8"
)

// This file has what Python 2 and protocol 0 write: numbers and texts in lines.

// line returns the bytes up to the next newline, which it skips.
func (m *pickleMachine) line() ([]byte, error) {
	n := bytes.IndexByte(m.body[m.pos:], '\n')
	if n < 0 {
		return nil, m.fail("the pickle is cut off")
	}
	b := m.body[m.pos : m.pos+n : m.pos+n]
	m.pos += n + 1
	return b, nil
}

// old does the opcodes that newer protocols have others for.
func (m *pickleMachine) old(op byte) error {
	if op == opBinString || op == opShortBinString {
		b, err := m.takeCounted(sizeOfCount(op))
		if err != nil {
			return err
		}
		return m.ascii(b)
	}
	line, err := m.line()
	if err != nil {
		return err
	}
	switch op {
	case opInt:
		if s := string(line); s == "00" || s == "01" {
			return m.push(Bool(s == "01"))
		}
		return m.decimal(line)
	case opLong:
		return m.decimal(bytes.TrimSuffix(line, []byte("L")))
	case opFloat:
		f, err := strconv.ParseFloat(string(line), 64)
		if err != nil {
			return m.fail("a float that is none")
		}
		return m.push(Float(f))
	case opUnicode:
		text, ok := unescapeUnicode(line)
		if !ok {
			return m.fail("a text that is none")
		}
		return m.push(Value{kind: KindText, data: text})
	}
	text, ok := unquote(line)
	if !ok {
		return m.fail("a string that is none")
	}
	return m.ascii(text)
}

// ascii pushes a Python 2 string. It may be text or bytes; ZEO takes it for text, and
// closes the connection if it is not ASCII.
func (m *pickleMachine) ascii(b []byte) error {
	for _, c := range b {
		if c >= utf8.RuneSelf {
			return m.fail("a Python 2 string that is not ASCII")
		}
	}
	return m.push(Value{kind: KindText, data: b})
}

func (m *pickleMachine) decimal(line []byte) error {
	n, ok := decimal(line)
	if !ok {
		return m.fail("an int that is none, or of more than 64 bits")
	}
	return m.push(Int(n))
}

func decimal(line []byte) (int64, bool) {
	n, err := strconv.ParseInt(string(line), 10, 64)
	return n, err == nil
}

// unescapeUnicode decodes Python's raw-unicode-escape: Latin-1 with \u and \U.
func unescapeUnicode(line []byte) ([]byte, bool) {
	text := make([]byte, 0, len(line))
	for i := 0; i < len(line); i++ {
		digits := 0
		if line[i] == '\\' && i+1 < len(line) {
			switch line[i+1] {
			case 'u':
				digits = 4
			case 'U':
				digits = 8
			}
		}
		if digits == 0 {
			text = utf8.AppendRune(text, rune(line[i]))
			continue
		}
		if i+2+digits > len(line) {
			return nil, false
		}
		r, err := strconv.ParseUint(string(line[i+2:i+2+digits]), 16, 32)
		if err != nil || r > utf8.MaxRune {
			return nil, false
		}
		text = appendRune(text, rune(r))
		i += 1 + digits
	}
	return text, true
}

// appendRune is utf8.AppendRune, with lone surrogates as Python writes them.
func appendRune(text []byte, r rune) []byte {
	if r >= 0xd800 && r <= 0xdfff {
		return append(text, 0xed, byte(r>>6)&0x3f|0x80, byte(r)&0x3f|0x80)
	}
	return utf8.AppendRune(text, r)
}

// unquote decodes a string literal of Python 2.
func unquote(line []byte) ([]byte, bool) {
	line = bytes.TrimSpace(line)
	n := len(line)
	if n < 2 || line[0] != line[n-1] || line[0] != '\'' && line[0] != '"' {
		return nil, false
	}
	line = line[1 : n-1]
	text := make([]byte, 0, len(line))
	for i := 0; i < len(line); i++ {
		if line[i] != '\\' {
			text = append(text, line[i])
			continue
		}
		if i++; i >= len(line) {
			return nil, false
		}
		if line[i] == 'x' {
			if i+2 >= len(line) {
				return nil, false
			}
			c, err := strconv.ParseUint(string(line[i+1:i+3]), 16, 8)
			if err != nil {
				return nil, false
			}
			text = append(text, byte(c))
			i += 2
			continue
		}
		at := strings.IndexByte(`\'"nrtabfv`, line[i])
		if at < 0 { // Python writes no others
			return nil, false
		}
		text = append(text, "\\'\"\n\r\t\a\b\f\v"[at])
	}
	return text, true
}
