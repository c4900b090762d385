package config

import (
	"errors"
	"io"
	"log/slog"
)

// LogOutput are the open files of a log.
type LogOutput struct {
	files []*rotatingFile
}

// Logger opens the destinations of the log. The caller closes them when nothing is
// logged any more. stdout and stderr are what STDOUT and STDERR mean.
func (l Log) Logger(stdout, stderr io.Writer) (*slog.Logger, *LogOutput, error) {
	files := l.Files
	if len(files) == 0 {
		files = []LogFile{{Path: "STDERR", Level: allLevels}}
	}
	out := &LogOutput{}
	var handlers []slog.Handler
	for _, f := range files {
		w := stderr
		switch {
		case f.Path == "STDOUT":
			w = stdout
		case !f.Standard():
			file, err := openRotating(f)
			if err != nil {
				return nil, nil, errors.Join(err, out.Close())
			}
			out.files = append(out.files, file)
			w = file
		}
		opts := &slog.HandlerOptions{Level: max(l.Level, f.Level)}
		if f.JSON {
			handlers = append(handlers, slog.NewJSONHandler(w, opts))
		} else {
			handlers = append(handlers, slog.NewTextHandler(w, opts))
		}
	}
	if len(handlers) == 1 {
		return slog.New(handlers[0]), out, nil
	}
	return slog.New(slog.NewMultiHandler(handlers...)), out, nil
}

// Reopen opens the files again, after somebody has renamed them.
func (o *LogOutput) Reopen() error {
	var errs []error
	for _, f := range o.files {
		errs = append(errs, f.reopen())
	}
	return errors.Join(errs...)
}

// Close closes the files; what is logged later is lost.
func (o *LogOutput) Close() error {
	var errs []error
	for _, f := range o.files {
		errs = append(errs, f.close())
	}
	return errors.Join(errs...)
}
