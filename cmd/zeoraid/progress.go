package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/zeoraid/raidstorage/admin"
)

// How often progress is shown.
const (
	onTerminal = 200 * time.Millisecond
	elsewhere  = 5 * time.Second
)

// progress shows how far long work has come: on a terminal in a line that is written
// over, elsewhere in a line every few seconds.
type progress struct {
	env
	name  string
	quiet bool
	start time.Time
	shown time.Time // when it was shown last
	drawn bool      // there is a line on the terminal
	first admin.TID // the first transaction that a verification told of
}

func (e env) progress(name string, quiet bool) *progress {
	now := e.now()
	return &progress{env: e, name: name, quiet: quiet, start: now, shown: now}
}

// update takes note of how far the work has come, in bytes.
func (p *progress) update(done, total int64) {
	if total <= 0 {
		return
	}
	p.show(func() string {
		return fmt.Sprintf("%s: %d%% of %d MiB, %.0f MiB/s", p.name, done*100/total, total>>20, mib(done)/p.now().Sub(p.start).Seconds())
	})
}

// show shows a line, unless that was done a moment ago.
func (p *progress) show(line func() string) {
	pause := elsewhere
	if p.terminal {
		pause = onTerminal
	}
	now := p.now()
	if p.quiet || now.Sub(p.shown) < pause {
		return
	}
	p.shown = now
	if p.terminal {
		p.drawn = true
		fmt.Fprintf(p.stderr, "\r\x1b[K%s", line())
		return
	}
	fmt.Fprintln(p.stderr, line())
}

// end clears the line on the terminal.
func (p *progress) end() {
	if p.drawn {
		fmt.Fprint(p.stderr, "\r\x1b[K")
		p.drawn = false
	}
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// isTerminal tells whether people look at w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
