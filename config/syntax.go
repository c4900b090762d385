package config

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The line syntax is that of ZConfig 4.3 (its cfgparser.py), which this file must not
// be cleverer than: comments are whole lines, section headers are not substituted,
// names of sections and types are in lower case whatever the file has, and what an
// included file opens it must close. New is that reading goes on after a fault, so
// that all are told at once.

// node is a section as it stands in the file; the root is the file itself.
type node struct {
	typ, name string // in lower case; name is empty for none
	pos       Pos
	keys      []entry
	subs      []*node
}

// entry is a key with its value, substituted.
type entry struct {
	key   string // in lower case
	value string
	pos   Pos
	bad   bool // the value could not be substituted, which was reported
}

// maxDepth is how deep sections may be nested: each level costs stack later. No real
// file needs more than four.
const maxDepth = 32

// parser reads one file into the section in which it is included.
type parser struct {
	loader *loader
	file   string
	line   int
	outer  int      // how many sections the including files have open
	chain  []string // the files that are being read, this one last: absolute paths
	stack  []*node  // the open sections; the first was not opened by this file
	stop   bool     // a fault after which going on makes no sense
}

func (p *parser) pos() Pos { return Pos{File: p.file, Line: p.line} }

func (p *parser) fault(format string, args ...any) {
	p.loader.faults.add(p.pos(), fmt.Sprintf(format, args...), "")
}

func (p *parser) top() *node { return p.stack[len(p.stack)-1] }

// parse reads text, the contents of the file.
func (p *parser) parse(text string) {
	if p.stop = !p.check(text); p.stop {
		return
	}
	for line := range strings.Lines(text) {
		p.line++
		p.parseLine(strip(line))
		if p.stop {
			return
		}
	}
	for _, open := range p.stack[1:] {
		p.loader.faults.add(open.pos, fmt.Sprintf("section <%s> is not closed", quoteName(open.typ)), "")
	}
}

// check refuses what is no text for ZConfig.
func (p *parser) check(text string) bool {
	p.line = 1
	if strings.HasPrefix(text, "\ufeff") {
		p.fault("the file begins with a byte order mark; remove it")
		return false
	}
	if !utf8.ValidString(text) {
		valid := text[:firstInvalid(text)]
		p.line += strings.Count(valid, "\n")
		p.fault("the file is not in UTF-8")
		return false
	}
	p.line = 0
	return true
}

func firstInvalid(text string) int {
	for i, r := range text {
		if r == utf8.RuneError {
			if _, size := utf8.DecodeRuneInString(text[i:]); size == 1 {
				return i
			}
		}
	}
	return len(text)
}

func (p *parser) parseLine(line string) {
	switch {
	case line == "" || line[0] == '#':
	case strings.HasPrefix(line, "</"):
		if !strings.HasSuffix(line, ">") {
			p.fault("malformed section end: no \">\" at the end of the line")
			return
		}
		p.endSection(lower(rstrip(line[2 : len(line)-1])))
	case line[0] == '<':
		if !strings.HasSuffix(line, ">") {
			p.fault("malformed section start: no \">\" at the end of the line")
			return
		}
		p.startSection(line[1 : len(line)-1])
	case line[0] == '%':
		p.directive(line[1:])
	default:
		p.keyValue(line)
	}
}

// startSection reads what stands between "<" and ">".
func (p *parser) startSection(header string) {
	header, empty := strings.CutSuffix(header, "/")
	typ, rest := cutName(rstrip(header))
	name, tail := cutName(lstrip(rest))
	if typ == "" || tail != "" || rest != "" && lstrip(rest) == rest {
		p.fault("malformed section header; it is <type> or <type name>")
		typ = "" // whatever it is, its end will come
	}
	if p.outer+len(p.stack) > maxDepth {
		p.fault("more than %d sections in each other", maxDepth)
		p.stop = true
		return
	}
	n := &node{typ: lower(typ), name: lower(name), pos: p.pos()}
	if n.typ != "" {
		p.top().subs = append(p.top().subs, n)
	}
	if !empty {
		p.stack = append(p.stack, n)
	}
}

// endSection closes the innermost section, or, after a fault, the one that is meant.
func (p *parser) endSection(typ string) {
	if len(p.stack) == 1 {
		p.fault("</%s> closes no section", quoteName(typ))
		return
	}
	open := p.top()
	if open.typ == typ || open.typ == "" {
		p.stack = p.stack[:len(p.stack)-1]
		return
	}
	p.fault("</%s> does not close <%s> of line %d", quoteName(typ), quoteName(open.typ), open.pos.Line)
	for i := len(p.stack) - 1; i > 0; i-- {
		if p.stack[i].typ == typ {
			p.stack = p.stack[:i]
			return
		}
	}
}

func (p *parser) keyValue(line string) {
	key, rest := cutName(line)
	if key == "" {
		p.fault("malformed line: neither key nor section")
		return
	}
	if !isBasicKey(key) {
		p.fault("%s is no key: a key is made of letters, digits, '-', '.' and '_'", quote(key))
		return
	}
	value, err := p.loader.substitute(lstrip(rest))
	if err != nil {
		p.fault("%s: %v", lower(key), err)
	}
	n := p.top()
	n.keys = append(n.keys, entry{key: lower(key), value: value, pos: p.pos(), bad: err != nil})
}

// directive reads what follows a "%".
func (p *parser) directive(line string) {
	name, rest := cutName(line)
	arg := lstrip(rest)
	var run func(string)
	switch name {
	case "define":
		run = p.define
	case "include":
		run = p.include
	case "import":
		run = p.importPackage
	case "":
		p.fault("malformed directive")
		return
	default:
		p.loader.faults.unknown(p.pos(), "unknown directive %"+quoteName(name), name, []string{"define", "import", "include"})
		return
	}
	if arg == "" {
		p.fault("%%%s needs an argument", name)
		return
	}
	run(arg)
}

func (p *parser) define(arg string) {
	name, raw := arg, ""
	if i := strings.IndexFunc(arg, isSpace); i >= 0 {
		name, raw = arg[:i], lstrip(arg[i:])
	}
	name = lower(name)
	defines := p.loader.defines
	// ZConfig compares the text of the second definition with the value of the first.
	if old, ok := defines[name]; ok && old != raw {
		p.fault("%s is defined already, as %s", quote(name), quote(old))
		return
	}
	if n := nameLength(name); n == 0 || n != len(name) {
		p.fault("%%define: %s is no name: a name is made of letters, digits and '_'", quote(name))
		return
	}
	value, err := p.loader.substitute(raw)
	if err != nil {
		p.fault("%%define %s: %v", name, err)
		value = "" // so that its use is no second fault
	}
	defines[name] = value
}

// importPackage accepts the packages whose sections are known; they are known without
// being imported, too.
func (p *parser) importPackage(arg string) {
	name, err := p.loader.substitute(arg)
	if err != nil {
		p.fault("%%import: %v", err)
		return
	}
	known := []string{"gocept.zeoraid", "ZEO", "ZODB", "zdaemon", "ZConfig.components.logger"}
	if slices.Contains(known, name) {
		return
	}
	p.loader.faults.unknown(p.pos(), fmt.Sprintf("%%import of the unknown package %s", quote(name)), name, known)
}

// cutName splits after the longest beginning without space and parentheses: ZConfig's
// names of keys, sections and types.
func cutName(s string) (name, rest string) {
	i := strings.IndexFunc(s, func(r rune) bool { return isSpace(r) || r == '(' || r == ')' })
	if i < 0 {
		return s, ""
	}
	return s[:i], s[i:]
}

// isBasicKey tells whether s is of ZConfig's datatype basic-key.
func isBasicKey(s string) bool {
	for i, r := range []byte(s) {
		letter := 'a' <= r|0x20 && r|0x20 <= 'z'
		if !letter && (i == 0 || !('0' <= r && r <= '9' || r == '-' || r == '.' || r == '_')) {
			return false
		}
	}
	return s != ""
}

// isSpace is Python's idea of white space: Unicode's and the four separators of ASCII.
func isSpace(r rune) bool { return unicode.IsSpace(r) || 0x1c <= r && r <= 0x1f }

func strip(s string) string  { return strings.TrimFunc(s, isSpace) }
func lstrip(s string) string { return strings.TrimLeftFunc(s, isSpace) }
func rstrip(s string) string { return strings.TrimRightFunc(s, isSpace) }
func lower(s string) string  { return strings.ToLower(s) }
