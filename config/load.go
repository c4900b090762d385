package config

import (
	"errors"
	"os"
)

// Options of Load.
type Options struct {
	// Getenv looks a variable of $(NAME) up; nil means os.LookupEnv. HOME, for "~", and
	// ZEO_MSGPACK are asked for, too.
	Getenv func(name string) (value string, ok bool)
}

// Load reads the file at path, and those that it includes: at most 256 files and 1 MiB
// together. It reads certificates, to check them, but opens no storage. Relative paths
// in the file are relative to the working directory, as in ZEO; only those of %include
// and the default of state-dir are relative to the file. An *Error tells everything
// that is wrong; where the file cannot be read it wraps the cause.
func Load(path string, opts Options) (*Config, error) {
	l := &loader{getenv: opts.Getenv, defines: make(map[string]string)}
	if l.getenv == nil {
		l.getenv = os.LookupEnv
	}
	text, err := l.read(path)
	if err != nil {
		var pathError *os.PathError
		message := err.Error()
		if errors.As(err, &pathError) {
			message = pathError.Err.Error()
		}
		return nil, &Error{Faults: []Fault{{Pos: Pos{File: path}, Message: message}}, Err: err}
	}
	root := &node{pos: Pos{File: path, Line: 1}}
	p := &parser{loader: l, file: path, chain: []string{absolute(path)}, stack: []*node{root}}
	p.parse(text)
	b := &builder{l: l, config: &Config{Path: path}, claims: make(map[string]Pos)}
	if !p.stop {
		b.build(root)
	}
	if len(l.faults.all) > 0 {
		return nil, &Error{Faults: l.faults.sorted()}
	}
	b.config.Warnings = b.warnings.sorted()
	return b.config, nil
}
