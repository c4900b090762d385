package config

import (
	"fmt"
	"log/slog"
	"math"
)

// log reads an <eventlog>.
func (b *builder) log(n *node) Log {
	s := b.section(n)
	defer s.end()
	var v Log
	read(s, "level", &v.Level, parseLevel)
	for _, n := range s.sections("logfile") {
		v.Files = append(v.Files, b.logFile(n))
	}
	for _, n := range s.sections("syslog", "win32-eventlog", "http-logger", "email-notifier") {
		s.fault(n.pos, "<%s> is not supported: log to a <logfile>, or to STDERR and let the service manager pass it on", n.typ)
	}
	return v
}

func (b *builder) logFile(n *node) LogFile {
	s := b.section(n)
	defer s.end()
	v := LogFile{Level: allLevels}
	s.require("path")
	read(s, "path", &v.Path, b.l.parsePlainPath)
	read(s, "level", &v.Level, parseLevel)
	var format string
	if pos, ok := s.text("format", &format); ok {
		switch lower(format) {
		case "json":
			v.JSON = true
		case "text":
		default:
			b.warnings.add(pos, "format has no effect: it is text or json", "")
		}
	}
	for _, key := range []string{"dateformat", "style", "formatter", "encoding"} {
		s.ignore(key, "times are in RFC 3339, text is in UTF-8", nil)
	}
	s.ignore("arbitrary-fields", "format is text or json", isBool)
	s.ignore("delay", "the file is opened at the start", isBool)
	b.rotation(s, &v)
	return v
}

// rotation reads when a log file is begun anew, with the rules of ZConfig's logger.
func (b *builder) rotation(s *section, v *LogFile) {
	var when string
	var interval int
	s.bytes("max-size", &v.MaxBytes, 0, math.MaxInt64)
	s.integer("old-files", &v.OldFiles, 0, 10_000)
	pos, given := s.text("when", &when)
	s.integer("interval", &interval, 0, math.MaxInt32)
	if given && when != "" {
		b.warnings.add(pos, "when has no effect: rotate by max-size, or with logrotate", "")
	}
	rotated := v.MaxBytes > 0 || v.OldFiles > 0 || when != "" || interval > 0
	switch {
	case !rotated:
	case v.Standard() && v.Path != "":
		s.fault(s.pos, "%s: %s cannot be rotated", s.title(), v.Path)
	case v.OldFiles == 0:
		s.fault(s.pos, "%s: a log that is rotated needs the key old-files", s.title())
	case v.MaxBytes > 0 && when != "":
		s.fault(s.pos, "%s: give max-size or when, not both", s.title())
	case v.MaxBytes == 0 && when == "":
		s.fault(s.pos, "%s: old-files needs the key max-size", s.title())
	}
}

// allLevels is lower than every level that is logged.
const allLevels = slog.LevelDebug - 4

// parseLevel reads the level of a Python logger, a word or a number from 0 to 50.
func parseLevel(text string) (slog.Level, error) {
	levels := map[string]int64{
		"critical": 50, "fatal": 50, "error": 40, "warn": 30, "warning": 30, "info": 20,
		"blather": 15, "debug": 10, "trace": 5, "all": 1, "notset": 0,
	}
	n, ok := levels[lower(text)]
	if !ok {
		var err error
		if n, err = parseInt(text); err != nil {
			words := []string{"critical", "error", "warning", "info", "blather", "debug", "trace", "all"}
			return 0, fmt.Errorf("%s is no level; %s", quote(text), suggest(text, words))
		}
		if err := within(n, 0, 50); err != nil {
			return 0, err
		}
	}
	// info is 20 there and 0 here, a step between words 10 and 4.
	return max(allLevels, slog.Level((n-20)*4/10)), nil
}
