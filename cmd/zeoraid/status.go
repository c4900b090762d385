package main

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/admin"
)

// healthUsage is what status and details have in common.
const healthUsage = "Exit status: 0 optimal, 1 recovering, 2 degraded or failed, 3 that cannot be told: the server\n" +
	"cannot be reached or has no mirror, wrong usage."

func (e env) status(ctx context.Context, args []string) int {
	set := e.flags("zeoraid status", "", "Tells in one line how the mirrors of a running server are, for monitoring.\n"+healthUsage)
	return e.health(ctx, set, args, "status", func(st *admin.Status) { fmt.Fprintln(e.stdout, summaryLine(st)) })
}

// health asks for the status, shows it, and returns the exit status that the mirrors'
// conditions mean.
func (e env) health(ctx context.Context, set *flag.FlagSet, args []string, verb string, show func(*admin.Status)) int {
	var f controlFlags
	f.register(set)
	if _, status, ok := e.parseMixed(set, args, 0, 0); !ok {
		return status
	}
	st, err := f.client().Status(ctx)
	if err == nil && (f.mirror != "" || len(st.Mirrors) == 0) {
		var m *admin.Mirror
		if m, err = f.choose(st); err == nil {
			st.Mirrors = []admin.Mirror{*m}
		}
	}
	if err != nil {
		if !f.json { // monitoring shows the first line of the output
			fmt.Fprintf(e.stdout, "unknown: %s\n", plain(oneLine(err)))
		}
		return e.unknown(&f, verb, err)
	}
	if f.json {
		e.line(st)
	} else {
		show(st)
	}
	return conditionStatus(worst(st.Mirrors))
}

// severity orders the conditions; words that are not known are the worst.
func severity(condition string) int {
	order := []string{raidstorage.Optimal.String(), raidstorage.Recovering.String(), raidstorage.Degraded.String(), raidstorage.Failed.String()}
	if i := slices.Index(order, condition); i >= 0 {
		return i
	}
	return len(order)
}

func worst(mirrors []admin.Mirror) string {
	condition := raidstorage.Optimal.String()
	for _, m := range mirrors {
		if severity(m.Condition) > severity(condition) {
			condition = m.Condition
		}
	}
	return condition
}

func conditionStatus(condition string) int {
	switch severity(condition) {
	case 0:
		return exitClean
	case 1:
		return exitRecovering
	case 2, 3:
		return exitFindings
	}
	return exitUnknown
}

// summaryLine is one line as Nagios takes it: the text, a bar, and the numbers.
func summaryLine(st *admin.Status) string {
	var texts, numbers []string
	for _, m := range st.Mirrors {
		inSync, full := 0, fullOnes(m)
		for _, b := range full {
			if b.State == raidstorage.StateInSync.String() {
				inSync++
			}
		}
		text := fmt.Sprintf("mirror %s: %d of %s in sync", m.Name, inSync, counted(int64(len(full)), "backend", "backends"))
		if len(st.Mirrors) > 1 {
			text = fmt.Sprintf("mirror %s is %s: %d of %s in sync", m.Name, m.Condition, inSync, counted(int64(len(full)), "backend", "backends"))
		}
		for _, b := range m.Backends {
			if b.State != raidstorage.StateInSync.String() {
				text += fmt.Sprintf(", %s %s", b.Name, b.State)
			}
			if b.Role == raidstorage.RoleAsync.String() {
				text += ", " + behind(b)
			}
		}
		if m.Reason != "" {
			text += " (" + m.Reason + ")"
		}
		texts = append(texts, plain(text))
		numbers = append(numbers, fmt.Sprintf("'%s_in_sync'=%d;;;0;%d", label(m.Name), inSync, len(full)))
		for _, b := range m.Backends {
			if b.Role == raidstorage.RoleAsync.String() {
				numbers = append(numbers, fmt.Sprintf("'%s_%s_lag'=%.3fs", label(m.Name), label(b.Name), b.Lag.Seconds()))
			}
		}
	}
	return worst(st.Mirrors) + ": " + strings.Join(texts, "; ") + " | " + strings.Join(numbers, " ")
}

// fullOnes returns the backends that count.
func fullOnes(m admin.Mirror) []admin.Backend {
	return slices.DeleteFunc(slices.Clone(m.Backends), func(b admin.Backend) bool { return b.Role != raidstorage.RoleFull.String() })
}

// behind tells how much a backend lacks.
func behind(b admin.Backend) string {
	text := "an unknown number of transactions"
	if b.LagTransactions >= 0 {
		text = counted(b.LagTransactions, "transaction", "transactions")
	}
	if b.LagBytes > 0 {
		text += fmt.Sprintf(", %.1f MiB", mib(b.LagBytes))
	}
	return fmt.Sprintf("%s, %v behind", text, b.Lag.Round(time.Millisecond))
}

// plain keeps what it says out of the numbers, which a bar begins.
func plain(s string) string { return strings.ReplaceAll(s, "|", "/") }

// label is a name as the numbers take it.
func label(s string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("'=| ", r) {
			return '_'
		}
		return r
	}, s)
}
