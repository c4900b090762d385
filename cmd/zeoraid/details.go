package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/admin"
)

// historyShown is how many of a backend's latest changes details shows.
const historyShown = 8

func (e env) details(ctx context.Context, args []string) int {
	set := e.flags("zeoraid details", "", "Tells all about the mirrors of a running server: how each backend is, since when, why, and\nwhat can be done.\n"+healthUsage)
	return e.health(ctx, set, args, "details", func(st *admin.Status) {
		d := details{w: tabwriter.NewWriter(e.stdout, 0, 8, 2, ' ', 0), now: st.Time}
		for _, m := range st.Mirrors {
			d.mirror(m)
		}
		for _, s := range st.Servers {
			d.served(s)
		}
		d.w.Flush() // an output that cannot be written is nobody's to tell
	})
}

// details writes facts in two columns.
type details struct {
	w   *tabwriter.Writer
	now time.Time // of the server
}

// head begins a paragraph.
func (d details) head(format string, args ...any) {
	d.w.Flush() // columns are aligned by paragraph
	fmt.Fprintf(d.w, format+"\n", args...)
}

// fact writes a line, or nothing if there is no value.
func (d details) fact(name, format string, args ...any) {
	if value := fmt.Sprintf(format, args...); value != "" {
		fmt.Fprintf(d.w, "  %s\t%s\n", name, value)
	}
}

func (d details) mirror(m admin.Mirror) {
	d.head("mirror %s: %s", m.Name, m.Condition)
	d.fact("why", "%s", m.Reason)
	d.fact("last transaction", "%s", transaction(m.LastTID))
	d.fact("write quorum", "%d of %s", m.WriteQuorum, counted(int64(len(fullOnes(m))), "backend", "backends"))
	r := m.Membership
	d.fact("membership", "epoch %d since %s: %s", r.Epoch, moment(r.Time), r.Reason)
	d.fact("in sync", "%s", strings.Join(r.InSync, ", "))
	d.fact("disabled", "%s", strings.Join(r.Disabled, ", "))
	d.fact("to be packed", "%s", strings.Join(r.Unpacked, ", "))
	d.fact("damaged", "%s", strings.Join(r.Damaged, ", "))
	if r.PackHorizon != 0 {
		d.fact("packed to", "%s", transaction(r.PackHorizon))
	}
	if p := m.Pack; p != nil {
		d.fact("pack", "%s %s, since %s, to %s", p.Phase, p.Reason, moment(p.Started), transaction(p.Through))
	}
	if c := m.CatchUp; c.Backend != "" {
		d.fact("catching up", "%v", &c)
	}
	d.scrub(m.Scrub)
	for _, b := range m.Backends {
		d.backend(b)
	}
}

// scrub tells of the verification in the background.
func (d details) scrub(s *admin.Scrub) {
	if s == nil {
		return
	}
	switch r := s.Running; {
	case r == nil:
		d.fact("verification", "the next one at %s", moment(s.Next))
	case s.Waits != "":
		d.fact("verification", "%s, waits for a %s", compared(r), s.Waits)
	default:
		d.fact("verification", "%s, since %s", compared(r), moment(s.Started))
	}
	if r := s.Last; r != nil {
		d.fact("last one", "%s, ended %s", compared(&r.Verify), moment(r.Ended))
		d.fact("degraded", "%s", strings.Join(r.Degraded, ", "))
		d.fact("kept", "%s", r.Kept)
		for _, name := range slices.Sorted(maps.Keys(r.Unread)) {
			d.fact("not compared", "%s: %s", name, r.Unread[name])
		}
		name := "found"
		for _, f := range r.Listed[:min(len(r.Listed), historyShown)] {
			d.fact(name, "%s", f.Text)
			name = ""
		}
	}
}

func compared(v *admin.Verify) string {
	text := fmt.Sprintf("%s: %s, %s, %d bytes compared, %s", v.Phase, counted(v.Transactions, "transaction", "transactions"),
		counted(v.Objects, "object", "objects"), v.Bytes, counted(v.Findings, "finding", "findings"))
	if v.Repaired > 0 {
		text += fmt.Sprintf(", %d of them repaired", v.Repaired)
	}
	return text
}

func (d details) backend(b admin.Backend) {
	d.head("backend %s: %s", b.Name, b.State)
	if b.Role != b.Configured {
		d.fact("role", "%s, configured as %s", b.Role, b.Configured)
	} else if b.Role != raidstorage.RoleFull.String() {
		d.fact("role", "%s", b.Role)
	}
	d.fact("since", "%s (%v)", moment(b.Since), max(0, d.now.Sub(b.Since)).Round(time.Second))
	d.fact("why", "%s", b.Reason)
	d.fact("hint", "%s", b.Hint)
	d.fact("last transaction", "%s", transaction(b.LastTID))
	if b.State != raidstorage.StateInSync.String() && b.State != raidstorage.StateStandby.String() {
		d.fact("lag", "%s", behind(b))
	}
	d.fact("counters", "%s (%d failed), %s, %s", counted(b.Counters.Loads, "load", "loads"), b.Counters.LoadErrors,
		counted(b.Counters.Commits, "commit", "commits"), counted(b.Counters.Faults, "fault", "faults"))
	if n := b.Counters.Repairs; n > 0 {
		d.fact("repairs", "%d; what was there is kept, see the history", n)
	}
	if b.Latency > 0 {
		d.fact("latency", "%v", b.Latency)
	}
	if r := b.Recovery; r != nil {
		d.fact("recovery", "%s", recoveryText(r))
	}
	name := "history"
	for _, c := range b.History[max(0, len(b.History)-historyShown):] {
		d.fact(name, "%s %s -> %s: %s", moment(c.Time), c.From, c.To, c.Reason)
		name = ""
	}
}

func recoveryText(r *admin.Recovery) string {
	text := fmt.Sprintf("%s, since %s, %s, %d bytes copied", r.Phase, moment(r.Started), counted(r.Transactions, "transaction", "transactions"), r.Bytes)
	if r.TransactionsToDo >= 0 {
		text += fmt.Sprintf(", %d transactions to do", r.TransactionsToDo)
	}
	if r.Left > 0 {
		text += fmt.Sprintf(", %v left", r.Left.Round(time.Second))
	}
	return text
}

func (d details) served(s admin.Served) {
	d.head("storage %s, served to ZEO clients", s.Name)
	d.fact("clients", "%d", s.Connections)
	d.fact("last transaction", "%s", transaction(s.LastTID))
	d.fact("counters", "%s, %s, %s, %s, %s", counted(s.Loads, "load", "loads"), counted(s.Stores, "store", "stores"),
		counted(s.Commits, "commit", "commits"), counted(s.Aborts, "abort", "aborts"), counted(s.Conflicts, "conflict", "conflicts"))
	d.fact("commit lock", "%s", d.lock(s))
}

func (d details) lock(s admin.Served) string {
	if s.LockedSince.IsZero() {
		return "free"
	}
	return fmt.Sprintf("held for %v, %s", max(0, d.now.Sub(s.LockedSince)).Round(time.Millisecond), counted(int64(s.Waiting), "vote waits", "votes wait"))
}

// transaction is a tid and its time.
func transaction(t admin.TID) string {
	if t == 0 {
		return "none"
	}
	return fmt.Sprintf("%v (%s)", t, moment(raidstorage.TID(t).Time()))
}

func moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 MST") }
