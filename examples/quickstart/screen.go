package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/zeoraid/raidstorage"
)

// screen writes lines with the time since the start, and below them a progress bar
// if it is a terminal. It may be used from several goroutines.
type screen struct {
	start    time.Time
	terminal bool

	mu  sync.Mutex // guards the fields below; held while a line is written, so that lines stay whole
	out io.Writer
	bar bool      // the last line is a bar
	bat time.Time // when the last bar was shown
}

func newScreen(out io.Writer) *screen {
	s := &screen{start: time.Now(), out: out}
	if f, ok := out.(*os.File); ok {
		info, err := f.Stat()
		s.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return s
}

// say writes a line; an empty one has no time.
func (s *screen) say(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	if line != "" {
		line = fmt.Sprintf("%5.2f s  %s", time.Since(s.start).Seconds(), line)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bar {
		fmt.Fprint(s.out, "\r\x1b[K")
		s.bar = false
	}
	fmt.Fprintln(s.out, line)
}

// plainEvery is the shortest time between two progress lines on what is no terminal.
const plainEvery = time.Second / 2

// progress shows how far a recovery or a load is.
func (s *screen) progress(what string, done, todo int64) {
	const width = 24
	full := 0
	if all := done + max(todo, 0); all > 0 && todo >= 0 {
		full = int(width * done / all)
	}
	line := fmt.Sprintf("         %s [%s%s] %d of %d transactions", what,
		strings.Repeat("#", full), strings.Repeat(".", width-full), done, done+max(todo, 0))
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.terminal:
		fmt.Fprintf(s.out, "\r\x1b[K%s", line)
		s.bar = true
	case time.Since(s.bat) > plainEvery:
		s.bat = time.Now()
		fmt.Fprintln(s.out, line)
	}
}

// watcher shows a mirror's events, and knows the states that it has shown, so that
// the story goes on when its reader has seen why.
type watcher struct {
	stop func() // ends the watching and waits for its end

	mu      sync.Mutex // guards the fields below
	states  map[string]raidstorage.State
	changed chan struct{} // closed and replaced at each event
}

func (d *demo) watch(ctx context.Context) *watcher {
	ctx, cancel := context.WithCancel(ctx)
	w := &watcher{states: make(map[string]raidstorage.State), changed: make(chan struct{})}
	events := d.mirror.Watch(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		for e := range events { // until ctx ends or the mirror closes
			if e.Kind == raidstorage.EventRecovery {
				d.screen.progress("recovery of "+e.Backend, e.Recovery.Transactions, e.Recovery.TransactionsToDo)
			} else {
				d.screen.say("  %v", e)
			}
			w.mu.Lock()
			if e.Kind == raidstorage.EventState {
				w.states[e.Backend] = e.To
			}
			close(w.changed)
			w.changed = make(chan struct{})
			w.mu.Unlock()
		}
	})
	w.stop = func() {
		cancel()
		watching.Wait()
	}
	return w
}

// waitFor waits until it was shown that a backend is in a state.
func (w *watcher) waitFor(ctx context.Context, name string, state raidstorage.State) error {
	const atMost = 30 * time.Second
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	for {
		w.mu.Lock()
		now, shown := w.states[name]
		changed := w.changed
		w.mu.Unlock()
		if shown && now == state {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("backend %s is %v and not %v: %w", name, now, state, ctx.Err())
		}
	}
}
