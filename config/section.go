package config

import (
	"fmt"
	"slices"
	"time"
)

// section takes the keys and sections of a node, one after the other; what has not
// been asked for when end is called is unknown. So what is known is said once.
type section struct {
	*node
	l     *loader
	warn  *faults
	known []string // keys that were asked for
	types []string // section types, likewise
	taken map[*node]bool
}

func (b *builder) section(n *node) *section {
	return &section{node: n, l: b.l, warn: &b.warnings, taken: make(map[*node]bool)}
}

// title is what messages call the section.
func (s *section) title() string {
	if s.typ == "" {
		return "the file"
	}
	if s.name == "" {
		return "<" + quoteName(s.typ) + ">"
	}
	return "<" + quoteName(s.typ) + " " + quoteName(s.name) + ">"
}

func (s *section) fault(pos Pos, format string, args ...any) {
	s.l.faults.add(pos, fmt.Sprintf(format, args...), "")
}

// all returns the entries of a key.
func (s *section) all(key string) []entry {
	s.known = append(s.known, key)
	var found []entry
	for _, e := range s.keys {
		if e.key == key {
			found = append(found, e)
		}
	}
	return found
}

// one returns the entry of a key that may be there once.
func (s *section) one(key string) (entry, bool) {
	found := s.all(key)
	if len(found) == 0 {
		return entry{}, false
	}
	for _, e := range found[1:] {
		s.fault(e.pos, "%s stands in %s twice, first in line %d", key, s.title(), found[0].pos.Line)
	}
	return found[0], !found[0].bad
}

// require reports a missing key.
func (s *section) require(key string) {
	if !slices.ContainsFunc(s.keys, func(e entry) bool { return e.key == key }) {
		s.fault(s.pos, "%s needs the key %s", s.title(), key)
	}
}

// read sets field to the value of a key, if it is there.
func read[T any](s *section, key string, field *T, parse func(string) (T, error)) (Pos, bool) {
	e, ok := s.one(key)
	if !ok {
		return e.pos, false
	}
	v, err := parse(e.value)
	if err != nil {
		s.fault(e.pos, "%s: %v", key, err)
		return e.pos, false
	}
	*field = v
	return e.pos, true
}

func (s *section) text(key string, field *string) (Pos, bool) {
	return read(s, key, field, parseText)
}

func (s *section) path(key string, field *string) (Pos, bool) {
	return read(s, key, field, s.l.parsePath)
}

func (s *section) boolean(key string, field *bool) (Pos, bool) {
	return read(s, key, field, parseBool)
}

// integer reads an integer within bounds, both inclusive.
func (s *section) integer(key string, field *int, low, high int64) {
	read(s, key, field, func(text string) (int, error) {
		n, err := parseInt(text)
		if err != nil {
			return 0, err
		}
		return int(n), within(n, low, high)
	})
}

// bytes reads a size within bounds, both inclusive.
func (s *section) bytes(key string, field *int64, low, high int64) {
	read(s, key, field, func(text string) (int64, error) {
		n, err := parseBytes(text)
		if err != nil {
			return 0, err
		}
		return n, within(n, low, high)
	})
}

// duration reads a duration within bounds, both inclusive.
func (s *section) duration(key string, field *time.Duration, parse func(string) (time.Duration, error), low, high time.Duration) (Pos, bool) {
	return read(s, key, field, func(text string) (time.Duration, error) {
		d, err := parse(text)
		if err == nil && (d < low || d > high) {
			err = fmt.Errorf("%v is not between %v and %v", d, low, high)
		}
		return d, err
	})
}

func within(n, low, high int64) error {
	if n < low || n > high {
		return fmt.Errorf("%d is not between %d and %d", n, low, high)
	}
	return nil
}

// refuse reports a key of ZEO's that is not for us.
func (s *section) refuse(key, why string) {
	for _, e := range s.all(key) {
		s.fault(e.pos, "%s: %s", key, why)
	}
}

// ignore warns of a key that has no effect. check, if it is not nil, is its datatype.
func (s *section) ignore(key, why string, check func(string) error) {
	e, ok := s.one(key)
	if !ok {
		return
	}
	if check != nil {
		if err := check(e.value); err != nil {
			s.fault(e.pos, "%s: %v", key, err)
			return
		}
	}
	s.warn.add(e.pos, key+" has no effect: "+why, "")
}

func isBool(text string) error              { _, err := parseBool(text); return err }
func isInt(text string) error               { _, err := parseInt(text); return err }
func isBytes(text string) error             { _, err := parseBytes(text); return err }
func parseText(text string) (string, error) { return text, nil }

// sections returns the sections of the given types, in the file's order.
func (s *section) sections(types ...string) []*node {
	s.types = append(s.types, types...)
	var found []*node
	for _, n := range s.subs {
		if slices.Contains(types, n.typ) {
			found = append(found, n)
			s.taken[n] = true
		}
	}
	return found
}

// only returns the one section of the given types, nil if there is none.
func (s *section) only(types ...string) *node {
	found := s.sections(types...)
	if len(found) == 0 {
		return nil
	}
	for _, n := range found[1:] {
		s.fault(n.pos, "%s has two sections <%s>, the first in line %d", s.title(), quoteName(n.typ), found[0].pos.Line)
	}
	return found[0]
}

// end reports what is unknown, and names that stand for two things.
func (s *section) end() {
	for _, e := range s.keys {
		if !slices.Contains(s.known, e.key) {
			s.l.faults.unknown(e.pos, fmt.Sprintf("unknown key %s in %s", quote(e.key), s.title()), e.key, s.known)
		}
	}
	names := make(map[string]*node)
	for _, n := range s.subs {
		if !s.taken[n] {
			s.l.faults.unknown(n.pos, fmt.Sprintf("unknown section <%s> in %s", quoteName(n.typ), s.title()), n.typ, s.types)
			continue
		}
		if n.name == "" {
			continue
		}
		if slices.Contains(s.known, n.name) {
			s.fault(n.pos, "a section must not be named like the key %s", n.name)
		}
		if first := names[n.name]; first != nil {
			s.fault(n.pos, "two sections are named %s, the first in line %d", quote(n.name), first.pos.Line)
			continue
		}
		names[n.name] = n
	}
}
