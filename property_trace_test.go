package raidstorage_test

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
)

// propTrace tells what happened in a history, and the first thing that was wrong.
type propTrace struct {
	err error // set with traceMu held; read by the history's own goroutine

	traceMu sync.Mutex // guards trace, which a watchdog may read
	trace   []string
}

// Write makes the mirror's log a part of the trace.
func (r *propTrace) Write(line []byte) (int, error) {
	r.note("      | %s", strings.TrimSpace(string(line)))
	return len(line), nil
}

// logger is a mirror's, for the trace.
func (r *propTrace) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(r, &slog.HandlerOptions{Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.String("at", a.Value.Time().Format("04:05.000"))
			}
			return a
		}}))
}

func (r *propTrace) note(format string, args ...any) {
	r.traceMu.Lock()
	defer r.traceMu.Unlock()
	r.noteLocked(format, args...)
}

func (r *propTrace) noteLocked(format string, args ...any) {
	r.trace = append(r.trace, fmt.Sprintf(format, args...))
}

func (r *propTrace) soFar() []string {
	r.traceMu.Lock()
	defer r.traceMu.Unlock()
	return slices.Clone(r.trace)
}

// failf records the first thing that is wrong.
func (r *propTrace) failf(format string, args ...any) {
	r.traceMu.Lock()
	defer r.traceMu.Unlock()
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
		r.noteLocked("WRONG: %v", r.err)
	}
}

// failed tells whether anything was wrong, also beside other goroutines.
func (r *propTrace) failed() bool {
	r.traceMu.Lock()
	defer r.traceMu.Unlock()
	return r.err != nil
}

// propShort makes an error fit into a line of the trace.
func propShort(err error) string {
	if err == nil {
		return "ok"
	}
	s := strings.Join(strings.Fields(err.Error()), " ")
	return fmt.Sprintf("%T %.300s", err, s)
}
