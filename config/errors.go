package config

import (
	"fmt"
	"strings"
)

// Fault is one thing that is wrong in a file.
type Fault struct {
	Pos
	Message string
	// Hint says what was probably meant, empty if nothing comes to mind.
	Hint string
}

// String tells the fault in one line, as "file:line: message; hint".
func (f Fault) String() string {
	s := f.Message
	if f.Line > 0 {
		s = fmt.Sprintf("%s:%d: %s", f.File, f.Line, s)
	} else if f.File != "" {
		s = f.File + ": " + s
	}
	if f.Hint != "" {
		s += "; " + f.Hint
	}
	return s
}

// Error is all that is wrong with a configuration, in the order of the file.
type Error struct {
	Faults []Fault // at least one
	// Err is the cause, where a file could not be read.
	Err error
}

// Error has one line for each fault.
func (e *Error) Error() string {
	lines := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

func (e *Error) Unwrap() error { return e.Err }
