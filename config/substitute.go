package config

import (
	"fmt"
	"strings"
)

// Bounds of substitution: definitions that name each other twice would double a value
// with each line.
const (
	maxValue    = 64 << 10 // bytes of one substituted value
	maxExpanded = 16 << 20 // bytes of all of them
)

// substitute replaces $name and ${name} by what was defined, in any case, $(NAME) by
// the environment's, and $$ by $, as ZConfig 4.3 does (its substitution.py). What was
// put in is not looked at again, and there are no defaults: $(NAME|default) is a fault.
func (l *loader) substitute(s string) (string, error) {
	if !strings.Contains(s, "$") {
		return s, nil
	}
	var out strings.Builder
	for s != "" {
		before, after, found := strings.Cut(s, "$")
		out.WriteString(before)
		if !found {
			break
		}
		value, rest, err := l.reference(after)
		if err != nil {
			return "", err
		}
		out.WriteString(value)
		s = rest
		if out.Len()+len(s) > maxValue {
			return "", fmt.Errorf("the value gets longer than %d bytes", maxValue)
		}
	}
	l.expanded += out.Len()
	if l.expanded > maxExpanded {
		return "", fmt.Errorf("all values together get longer than %d bytes", maxExpanded)
	}
	return out.String(), nil
}

// reference evaluates what follows a "$".
func (l *loader) reference(s string) (value, rest string, err error) {
	if s == "" {
		return "", "", fmt.Errorf(`a lone "$" at the end; write "$$" for a dollar sign`)
	}
	if s[0] == '$' {
		return "$", s[1:], nil
	}
	open, end := "", ""
	switch s[0] {
	case '{':
		open, end = "{", "}"
	case '(':
		open, end = "(", ")"
	}
	s = s[len(open):]
	n := nameLength(s)
	if n == 0 {
		return "", "", fmt.Errorf(`no name follows "$%s"; write "$$" for a dollar sign`, open)
	}
	name, rest := s[:n], s[n:]
	rest, closed := strings.CutPrefix(rest, end)
	if !closed {
		return "", "", fmt.Errorf("no %q follows %q", end, "$"+open+name)
	}
	if open == "(" {
		value, ok := l.getenv(name)
		if !ok {
			return "", "", fmt.Errorf("$(%s): the environment has no such variable", quoteName(name))
		}
		return value, rest, nil
	}
	value, ok := l.defines[lower(name)]
	if !ok {
		return "", "", fmt.Errorf("$%s is not defined", quoteName(name))
	}
	return value, rest, nil
}

// nameLength is the length of the name at the beginning of s.
func nameLength(s string) int {
	for i, r := range []byte(s) {
		letter := 'a' <= r|0x20 && r|0x20 <= 'z' || r == '_'
		if !letter && (i == 0 || r < '0' || '9' < r) {
			return i
		}
	}
	return len(s)
}
