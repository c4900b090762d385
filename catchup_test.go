package raidstorage_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/zeoraid/raidstorage"
)

// The controller in scripts: one event a line, and who goes on because of it.
func TestCatchUpController(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"without a recovery nothing waits": `
			asks 1 1000000 -> 1
			asks 2 1 -> 2`,
		"each byte committed is paid for by two recovered": `
			copies b 100
			asks 1 10
			copied b 19
			copied b 1 -> 1
			asks 2 10
			asks 3 10
			copied b 20 -> 2
			copied b 20 -> 3`,
		"credit does not lapse": `
			copies b 100
			copied b 100
			asks 1 25 -> 1
			asks 2 25 -> 2
			asks 3 1`,
		"a small commit does not overtake a large one": `
			copies b 100
			asks 1 100
			asks 2 1
			copied b 199
			copied b 1 -> 1
			copied b 2 -> 2`,
		"the end of the recovery lets all go on": `
			copies b 100
			asks 1 100
			asks 2 1
			stops b -> 1 2
			asks 3 1 -> 3`,
		"near its end nothing waits": `
			copies b 6
			asks 1 10
			copied b 1
			copied b 1
			copied b 1 -> 1
			asks 2 10
			copied b 1 -> 2
			commits 1
			commits 2`,
		"how much is left may be unknown": `
			copies b -1
			asks 1 10
			copied b 1
			copied b 1
			copied b 17
			copied b 1 -> 1`,
		"those under way are still to be copied": `
			copies b 100
			copied b 100
			asks 1 10 -> 1
			asks 2 10 -> 2
			copies b 2
			asks 3 50
			commits 1
			copies b 2 -> 3`,
		"the slowest of several recoveries counts": `
			copies b 100
			copies c 100
			asks 1 10
			copied b 1000
			slowest c
			copied c 20 -> 1
			slowest c
			asks 2 10
			stops c -> 2
			slowest b`,
		"what expires is owed": `
			copies b 100
			asks 1 10
			asks 2 10
			expires 1
			copied b 39
			copied b 1 -> 2`,
		"what expires out of order leaves the others in line": `
			copies b 100
			asks 1 10
			asks 2 10
			asks 3 1
			expires 2
			copied b 40 -> 1
			copied b 2 -> 3`,
		"what is given up while it waits owes nothing": `
			copies b 100
			asks 1 100
			asks 2 10
			copied b 20
			withdraws 1 -> 2`,
		"what aborts is paid back": `
			copies b 100
			copied b 20
			asks 1 10 -> 1
			asks 2 10
			withdraws 1 -> 2`,
		"what aborts is not paid back to a recovery that began later": `
			copies b 100
			copied b 20
			asks 1 10 -> 1
			stops b
			copies b 100
			asks 2 10
			withdraws 1
			copied b 19
			copied b 1 -> 2`,
		"a recovery that begins anew has no credit and no debt": `
			copies b 100
			copied b 20
			asks 1 100
			expires 1
			stops b
			copies b 100
			asks 2 10
			copied b 19
			copied b 1 -> 2`,
		"more of the same recovery keeps credit and debt": `
			copies b 100
			copied b 20
			copies b 50
			asks 1 10 -> 1
			asks 2 10
			copies b 50
			copied b 20 -> 2`,
		"what turns out to be larger owes more": `
			copies b 100
			copied b 20
			asks 1 10 -> 1
			grows 1 5
			asks 2 10
			copied b 29
			copied b 1 -> 2`,
		"an event of a recovery that is not known means nothing": `
			copied x 100
			stops x
			asks 1 10 -> 1`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := raidstorage.NewController(2)
			for line := range strings.Lines(strings.TrimSpace(script)) {
				line = strings.TrimSpace(line)
				event, want, _ := strings.Cut(line, " -> ")
				if got := play(t, c, event); got != want {
					t.Fatalf("%q: got %q", line, got)
				}
			}
		})
	}
}

// play gives the controller the event of one line.
func play(t *testing.T, c *raidstorage.Controller, event string) string {
	what, rest, _ := strings.Cut(event, " ")
	var name string
	var n int
	var bytes int64
	switch what {
	case "copies", "copied":
		fmt.Sscan(rest, &name, &bytes)
	case "stops", "slowest":
		name = rest
	default:
		fmt.Sscan(rest, &n, &bytes)
	}
	var open []int
	switch what {
	case "copies":
		open = c.Copies(name, bytes)
	case "copied":
		open = c.Copied(name, bytes)
	case "stops":
		open = c.Stops(name)
	case "slowest":
		if got := c.Slowest(); got != name {
			t.Fatalf("the slowest is %q, want %q", got, name)
		}
	case "asks":
		open = c.Asks(n, bytes)
	case "withdraws":
		open = c.Withdraws(n)
	case "grows":
		c.Grows(n, bytes)
	case "commits":
		c.Commits(n)
	case "expires":
		if !c.Expires(n) {
			t.Fatalf("%d does not wait", n)
		}
	default:
		t.Fatalf("unknown event %q", event)
	}
	return strings.Trim(fmt.Sprint(open), "[]")
}

// Whatever happens: what was let through is paid for by every recovery, as far as it
// did not expire; nothing waits that is paid for; the order is kept; no one is lost.
func TestCatchUpControllerNeverLetsThroughWhatIsNotPaid(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		ratio := rapid.Float64Range(1.01, 10).Draw(t, "ratio")
		m := &controllerModel{t: t, c: raidstorage.NewController(ratio), ratio: ratio, copied: map[string]float64{}, committed: map[string]float64{}, size: map[int]int64{}, through: map[int][]string{}}
		for range rapid.IntRange(1, 200).Draw(t, "events") {
			m.event(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name"), rapid.Int64Range(1, 1000).Draw(t, "bytes"))
		}
		for name := range m.copied {
			delete(m.copied, name)
			m.check(m.c.Stops(name))
		}
		if len(m.waiting) > 0 {
			t.Fatalf("%v wait without a recovery", m.waiting)
		}
	})
}

// controllerModel says the same in another way: recoveries with an unknown amount to
// do, in a map, and everything counted anew.
type controllerModel struct {
	t                 *rapid.T
	c                 *raidstorage.Controller
	ratio             float64
	copied, committed map[string]float64
	size              map[int]int64
	through           map[int][]string // whom each one under way was charged to
	waiting           []int
	next              int
}

func (m *controllerModel) event(name string, bytes int64) {
	_, copies := m.copied[name]
	pick := func(from []int) int { return rapid.SampledFrom(from).Draw(m.t, "commit") }
	var underWay []int
	for n := range m.through {
		underWay = append(underWay, n)
	}
	slices.Sort(underWay)
	switch what := rapid.SampledFrom([]string{"copies", "copied", "copied", "copied", "stops", "asks", "asks", "expires", "withdraws", "aborts", "commits"}).Draw(m.t, "event"); {
	case what == "copies":
		if !copies {
			m.copied[name], m.committed[name] = 0, 0
			for n := range m.through {
				m.through[n] = slices.DeleteFunc(m.through[n], func(other string) bool { return other == name })
			}
		}
		m.check(m.c.Copies(name, -1))
	case what == "copied" && copies:
		m.copied[name] += float64(bytes)
		m.check(m.c.Copied(name, bytes))
	case what == "stops":
		delete(m.copied, name)
		m.check(m.c.Stops(name))
	case what == "asks":
		m.next++
		m.size[m.next] = bytes
		m.waiting = append(m.waiting, m.next)
		m.check(m.c.Asks(m.next, bytes))
	case what == "expires" && len(m.waiting) > 0:
		n := pick(m.waiting)
		if !m.c.Expires(n) {
			m.t.Fatalf("%d has been let through", n)
		}
		m.charge(n)
		m.check(m.c.Copied("none", 0))
	case what == "withdraws" && len(m.waiting) > 0:
		n := pick(m.waiting)
		m.waiting = slices.DeleteFunc(m.waiting, func(other int) bool { return other == n })
		m.check(m.c.Withdraws(n))
	case what == "aborts" && len(underWay) > 0:
		n := pick(underWay)
		for _, name := range m.through[n] {
			m.committed[name] -= float64(m.size[n])
		}
		delete(m.through, n)
		m.check(m.c.Withdraws(n))
	case what == "commits" && len(underWay) > 0:
		n := pick(underWay)
		delete(m.through, n)
		m.c.Commits(n)
	}
}

func (m *controllerModel) pays(n int) bool {
	for name := range m.copied {
		if m.copied[name] < m.ratio*(m.committed[name]+float64(m.size[n])) {
			return false
		}
	}
	return true
}

func (m *controllerModel) charge(n int) {
	m.through[n] = []string{}
	for name := range m.copied {
		m.committed[name] += float64(m.size[n])
		m.through[n] = append(m.through[n], name)
	}
	m.waiting = slices.DeleteFunc(m.waiting, func(other int) bool { return other == n })
}

// check compares who goes on with who is to.
func (m *controllerModel) check(open []int) {
	for _, n := range open {
		if len(m.waiting) == 0 || m.waiting[0] != n || !m.pays(n) {
			m.t.Fatalf("%d goes on; waiting %v, copied %v, committed %v, ratio %v", n, m.waiting, m.copied, m.committed, m.ratio)
		}
		m.charge(n)
	}
	if len(m.waiting) > 0 && m.pays(m.waiting[0]) {
		m.t.Fatalf("%v wait, though it is paid for: copied %v, committed %v, ratio %v", m.waiting, m.copied, m.committed, m.ratio)
	}
}
