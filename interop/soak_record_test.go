//go:build interop

package interop_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// soakRecord keeps what happened: counts, the longest times in which nothing was
// committed, and the last events. All may use it.
type soakRecord struct {
	begun time.Time
	acks  atomic.Int64 // of our writers

	mu      sync.Mutex // guards the fields below
	last    time.Time  // acknowledgement
	counts  map[string]int
	longest map[string]time.Duration // standstill, by kind of fault
	long    []soakGap                // those that may be too long
	active  []*soakWindow
	closed  []*soakWindow // since the last acknowledgement
	events  []string      // the last ones
}

// soakWindow is the time of a fault and its consequences.
type soakWindow struct {
	record *soakRecord
	kind   string
	begun  time.Time
}

// soakGap is a time in which nothing was committed.
type soakGap struct {
	kind     string
	from, to time.Time
}

const soakJournal = 400

func newSoakRecord() *soakRecord {
	now := time.Now()
	return &soakRecord{begun: now, last: now, counts: make(map[string]int), longest: make(map[string]time.Duration)}
}

// count counts something.
func (r *soakRecord) count(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts[what]++
}

// note keeps an event.
func (r *soakRecord) note(kind, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.noteLocked(kind, format, args...)
}

func (r *soakRecord) noteLocked(kind, format string, args ...any) {
	now := time.Now()
	r.events = append(r.events, fmt.Sprintf("%s %7.3f %s: %.2000s", now.UTC().Format("15:04:05.000"), now.Sub(r.begun).Seconds(), kind, fmt.Sprintf(format, args...)))
	if len(r.events) > 2*soakJournal {
		r.events = slices.Delete(r.events, 0, soakJournal)
	}
}

func (r *soakRecord) journal() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.events, "\n")
}

// open begins a window: commits that stand still in it do so because of kind.
func (r *soakRecord) open(kind string) *soakWindow {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := &soakWindow{record: r, kind: kind, begun: time.Now()}
	r.active = append(r.active, w)
	r.noteLocked(kind, "begins")
	return w
}

// begin begins to count standstills.
func (r *soakRecord) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last, r.long = time.Now(), nil
	clear(r.longest)
}

func (w *soakWindow) close() {
	r := w.record
	r.mu.Lock()
	defer r.mu.Unlock()
	r.active = slices.DeleteFunc(r.active, func(o *soakWindow) bool { return o == w })
	r.closed = append(r.closed, w)
	r.noteLocked(w.kind, "is over after %v", time.Since(w.begun).Round(time.Millisecond))
}

// acknowledged notes a commit.
func (r *soakRecord) acknowledged() {
	r.acks.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	gap := now.Sub(r.last)
	windows := slices.Concat(r.active, r.closed)
	kinds := make(map[string]bool)
	for _, w := range windows {
		kinds[w.kind] = true
	}
	if len(kinds) == 0 {
		kinds["no fault"] = true
	}
	for kind := range kinds {
		r.longest[kind] = max(r.longest[kind], gap)
		if gap > soakStandstill {
			r.long = append(r.long, soakGap{kind, r.last, now})
		}
	}
	if gap > soakDeadline/2 {
		r.noteLocked("standstill", "%v, %v", gap.Round(time.Millisecond), slices.Sorted(maps.Keys(kinds)))
	}
	r.last, r.closed = now, r.closed[:0]
}

// standstills returns the longest ones by kind.
func (r *soakRecord) standstills() map[string]time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.longest)
}

// gaps returns the standstills that may be too long.
func (r *soakRecord) gaps() []soakGap {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.long)
}

// report tells what was done.
func (s *soak) report() string {
	var b strings.Builder
	longest := s.record.standstills()
	total := 0
	for _, n := range s.faults {
		total += n
	}
	fmt.Fprintf(&b, "%d faults in %v; how many of each kind, and the longest time in which commits stood still then:\n", total, time.Since(s.record.begun).Round(time.Second))
	for _, kind := range slices.Sorted(maps.Keys(longest)) {
		fmt.Fprintf(&b, "  %-22s %4d  %8v\n", kind, s.faults[kind], longest[kind].Round(time.Millisecond))
	}
	s.record.mu.Lock()
	defer s.record.mu.Unlock()
	fmt.Fprintf(&b, "counts:")
	for _, what := range slices.Sorted(maps.Keys(s.record.counts)) {
		fmt.Fprintf(&b, " %s %d,", what, s.record.counts[what])
	}
	return strings.TrimSuffix(b.String(), ",")
}
