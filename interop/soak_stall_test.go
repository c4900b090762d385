//go:build interop

package interop_test

import (
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	stallEvery = 50 * time.Millisecond
	stallLeast = 500 * time.Millisecond // less is a busy machine
)

// stalls are the times in which the machine itself stood still: a byte was not on disk, or a
// timer not over, when it should have been.
type stalls struct {
	mu  sync.Mutex // guards all
	all []stall
}

type stall struct {
	begun time.Time
	late  time.Duration
}

// watch writes a byte to a file of its own in dir, again and again, until done.
func (m *stalls) watch(dir string, done func() bool) error {
	file, err := os.Create(filepath.Join(dir, "stalls"))
	if err != nil {
		return err
	}
	defer file.Close()
	ticker := time.NewTicker(stallEvery)
	defer ticker.Stop()
	for !done() {
		begun := time.Now()
		<-ticker.C
		if _, err := file.WriteAt([]byte{'x'}, 0); err != nil {
			return err
		}
		if err := file.Sync(); err != nil {
			return err
		}
		if late := time.Since(begun) - stallEvery; late > stallLeast {
			m.mu.Lock()
			m.all = append(m.all, stall{begun, late})
			m.mu.Unlock()
		}
	}
	return nil
}

// within returns how long the machine stood still between two times.
func (m *stalls) within(from, to time.Time) (sum time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.all {
		if s.begun.Before(to) && s.begun.Add(stallEvery+s.late).After(from) {
			sum += s.late
		}
	}
	return sum
}
