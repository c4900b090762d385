package config

import (
	"errors"
)

// Options of Load.
type Options struct {
	// Getenv looks a variable of $(NAME) up; nil means os.LookupEnv.
	Getenv func(name string) (value string, ok bool)
}

// Load reads the file at path. An *Error tells everything that is wrong with it.
func Load(path string, opts Options) (*Config, error) {
	_ = opts
	return nil, &Error{Faults: []Fault{{Pos: Pos{File: path}, Message: "reading files is under way"}}, Err: errors.ErrUnsupported}
}
