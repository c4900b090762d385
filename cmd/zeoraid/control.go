package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"strings"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/admin"
)

// exitRecovering says that a mirror is neither optimal nor degraded for long.
const exitRecovering = 1

// patience is the default of how long the server may say nothing.
const patience = 10 * time.Second

// controlFlags are the flags of the verbs that talk to a running server.
type controlFlags struct {
	url, mirror string
	json, quiet bool
	timeout     time.Duration
}

func (f *controlFlags) register(set *flag.FlagSet) {
	set.StringVar(&f.url, "admin", admin.DefaultURL, "the `URL` of the server's control")
	set.StringVar(&f.mirror, "mirror", "", "the mirror's `NAME`, if the server has several")
	set.BoolVar(&f.json, "json", false, "write JSON, one object a line")
	set.DurationVar(&f.timeout, "timeout", patience, "how long the server may say nothing")
}

func (f *controlFlags) client() admin.Client {
	return admin.Client{URL: f.url, Patience: f.timeout}
}

// parseMixed is parse for verbs whose flags may stand before and after the other
// arguments, which it returns.
func (e env) parseMixed(set *flag.FlagSet, args []string, least, most int) (rest []string, status int, ok bool) {
	for {
		if status, ok := e.parse(set, args, 0, len(args)); !ok {
			return nil, status, false
		}
		left := set.Args()
		if read := len(args) - len(left); len(left) == 0 || read > 0 && args[read-1] == "--" {
			rest = append(rest, left...)
			break
		}
		rest, args = append(rest, left[0]), left[1:]
	}
	if len(rest) < least || len(rest) > most {
		set.Usage()
		return nil, exitUnknown, false
	}
	return rest, 0, true
}

// choose returns the mirror that a verb is about.
func (f *controlFlags) choose(st *admin.Status) (*admin.Mirror, error) {
	var names []string
	for i := range st.Mirrors {
		if st.Mirrors[i].Name == f.mirror || f.mirror == "" && len(st.Mirrors) == 1 {
			return &st.Mirrors[i], nil
		}
		names = append(names, st.Mirrors[i].Name)
	}
	switch {
	case len(names) == 0:
		return nil, errors.New("the server has no mirror")
	case f.mirror == "":
		return nil, fmt.Errorf("the server has several mirrors, choose one with -mirror: %s", strings.Join(names, ", "))
	}
	return nil, fmt.Errorf("the server has no mirror %q, but %s", f.mirror, strings.Join(names, ", "))
}

// operate has the server do something and shows how far it is. It returns the exit
// status.
func (e env) operate(ctx context.Context, f *controlFlags, op admin.Op, q admin.Request) int {
	client := f.client()
	st, err := client.Status(ctx)
	if err != nil {
		return e.unknown(f, string(op), err)
	}
	m, err := f.choose(st)
	if err != nil {
		return e.unknown(f, string(op), err)
	}
	p := e.progress(strings.TrimSpace(string(op)+" "+q.Backend), f.quiet || f.json)
	end, err := client.Do(ctx, m.Name, op, q, func(msg admin.Message) {
		if f.json {
			e.line(msg)
			return
		}
		p.message(msg)
	})
	p.end()
	if err != nil {
		if ctx.Err() != nil && op != admin.OpVerify {
			err = fmt.Errorf("interrupted; what was begun goes on: %w", err)
		}
		return e.unknown(f, string(op), err)
	}
	if !f.json {
		e.verdict(op, end)
	}
	switch {
	case end.Failure == nil:
		return exitClean
	case end.Failure.Kind == admin.KindInvalid:
		return exitUnknown // wrong usage, though only the server could tell
	}
	return exitFindings
}

// verdict writes what came of an operation.
func (e env) verdict(op admin.Op, end *admin.Message) {
	if r := end.Report; r != nil {
		for _, finding := range r.Listed {
			fmt.Fprintln(e.stdout, finding.Text)
		}
		if more := r.Findings - int64(len(r.Listed)); more > 0 {
			fmt.Fprintf(e.stdout, "and %s\n", counted(more, "finding more", "findings more"))
		}
		fmt.Fprintf(e.stdout, "%s and %s of %s compared\n", counted(r.Transactions, "transaction", "transactions"),
			counted(r.Objects, "object", "objects"), counted(int64(len(r.Backends)), "backend", "backends"))
	}
	if end.Estimate != nil {
		e.estimate(end.Estimate)
	}
	if end.Failure == nil {
		fmt.Fprintf(e.stdout, "%s: %s\n", op, end.Text)
		return
	}
	fmt.Fprintf(e.stderr, "zeoraid %s: %s\n", op, end.Failure.Text)
	if end.Failure.Hint != "" {
		fmt.Fprintf(e.stderr, "hint: %s\n", end.Failure.Hint)
	}
}

// unknown tells that nothing can be told, and returns the exit status for that.
func (e env) unknown(f *controlFlags, verb string, err error) int {
	hint := ""
	if _, ok := errors.AsType[*admin.UnreachableError](err); ok {
		hint = "see whether zeoraid serve runs, and give its control's address with -admin"
	}
	if f.json {
		e.line(failed{Failure: admin.Failure{Kind: "unknown", Text: oneLine(err), Hint: hint}})
		return exitUnknown
	}
	fmt.Fprintf(e.stderr, "zeoraid %s: %s\n", verb, oneLine(err))
	if hint != "" {
		fmt.Fprintf(e.stderr, "hint: %s\n", hint)
	}
	return exitUnknown
}

// failed is the line of JSON where there is no other.
type failed struct {
	Failure admin.Failure `json:"failure"`
}

// line writes an object of JSON. An output that cannot be written is nobody's to tell.
func (e env) line(v any) { json.NewEncoder(e.stdout).Encode(v) }

// barWidth is the width of the bar on a terminal.
const barWidth = 30

// message shows a line of the server's.
func (p *progress) message(m admin.Message) {
	switch {
	case m.Type == admin.TypeBegin && m.Joined:
		fmt.Fprintf(p.stderr, "%s: it was begun already\n", p.name)
	case m.Type == admin.TypeProgress:
		p.show(func() string { return p.name + ": " + p.describe(m) })
	}
}

// describe says how far it is: with a bar where that is known, and people look.
func (p *progress) describe(m admin.Message) string {
	text := m.Text
	if r := m.Recovery; r != nil && r.BytesToDo >= 0 && r.Bytes+r.BytesToDo > 0 {
		total := r.Bytes + r.BytesToDo
		text = fmt.Sprintf("%d%% of %.1f MiB, %.1f MiB/s", r.Bytes*100/total, mib(total), r.Rate/(1<<20))
		if r.Left > 0 {
			text += fmt.Sprintf(", %v left", r.Left.Round(time.Second))
		}
	}
	if done, known := p.share(m); known && p.terminal {
		n := int(min(barWidth, max(0, done*barWidth)))
		text = "[" + strings.Repeat("#", n) + strings.Repeat(".", barWidth-n) + "] " + text
	}
	return text
}

// share tells which part of the work is done. A recovery goes by bytes. A verification
// goes by the time that the compared transactions span, and is half done when it has
// come to the objects, whose number is not known. A pack goes by its steps, the backends
// that are packed among them.
func (p *progress) share(m admin.Message) (done float64, known bool) {
	switch {
	case m.Recovery != nil:
		total := m.Recovery.Bytes + m.Recovery.BytesToDo
		return float64(m.Recovery.Bytes) / float64(total), m.Recovery.BytesToDo >= 0 && total > 0
	case m.Verify != nil && m.Verify.Phase == string(raidstorage.VerifyObjects):
		return 0.5, true
	case m.Verify != nil && m.Verify.TID != 0:
		if p.first == 0 {
			p.first = m.Verify.TID
		}
		span := float64(m.Verify.Through - p.first)
		return float64(m.Verify.TID-p.first) / span / 2, span > 0
	case m.Pack != nil:
		through := float64(len(m.Pack.Packed) + len(m.Pack.Failed))
		switch raidstorage.PackPhase(m.Pack.Phase) {
		case raidstorage.PackPacking:
			return (1 + through/(through+1)) / 3, true
		case raidstorage.PackComparing:
			return 2.0 / 3, true
		}
		return 0, true
	}
	return 0, false
}
