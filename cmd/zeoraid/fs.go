package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"

	"github.com/zeoraid/raidstorage/filestorage"
)

// fs is the verb for FileStorages.
func (e env) fs(ctx context.Context, args []string) int {
	return e.dispatch(ctx, "zeoraid fs", args, []verb{
		{"check", "tell what is wrong with files", e.fsCheck},
		{"dump", "show what is in files", e.fsDump},
		{"recover", "copy what can be read of a damaged file", e.fsRecover},
	})
}

// fsFlags are the flags that the verbs have in common.
type fsFlags struct {
	json, quiet, opaque bool
}

func (f *fsFlags) register(set *flag.FlagSet) {
	set.BoolVar(&f.json, "json", false, "write one JSON object a line")
	set.BoolVar(&f.quiet, "quiet", false, "show no progress")
	set.BoolVar(&f.opaque, "opaque", false, "the data of records are not pickles: do not look into them")
}

// finding is a line of JSON: a filestorage.Finding, with the file's name.
type finding struct {
	Type    string `json:"type"`
	File    string `json:"file"`
	Kind    string `json:"kind"`
	Offset  int64  `json:"offset"`
	Length  int64  `json:"length,omitempty"`
	TID     string `json:"tid,omitempty"`
	OID     string `json:"oid,omitempty"`
	Warning bool   `json:"warning,omitempty"`
	Text    string `json:"text"`
}

// summary is the last line for a file in JSON.
type summary struct {
	Type         string `json:"type"`
	File         string `json:"file"`
	Size         int64  `json:"size"`
	Transactions int64  `json:"transactions"`
	Records      int64  `json:"records"`
	Objects      int64  `json:"objects"`
	Findings     int64  `json:"findings"`
	Warnings     int64  `json:"warnings,omitempty"`
	LostBytes    int64  `json:"lost_bytes"`
	Blobs        int64  `json:"blobs,omitempty"`
	Error        string `json:"error,omitempty"`
	Hint         string `json:"hint,omitempty"`
}

// results writes what is found in one file. A bufio.Writer keeps its error for Flush.
type results struct {
	env
	out  *bufio.Writer
	file string
	json bool
}

func (e env) results(file string, json bool) *results {
	return &results{env: e, out: bufio.NewWriter(e.stdout), file: file, json: json}
}

// found writes a finding.
func (r *results) found(f filestorage.Finding) {
	l := finding{Type: "finding", File: r.file, Kind: f.Kind, Offset: f.Offset, Length: f.Length, Warning: f.Warning, Text: f.Text}
	if f.TID != 0 {
		l.TID = f.TID.String()
	}
	if f.Object {
		l.OID = f.OID.String()
	}
	if r.json {
		r.line(l)
		return
	}
	fmt.Fprintf(r.out, "%s: %s", r.file, f.Kind)
	if f.Warning {
		fmt.Fprint(r.out, ", a warning")
	}
	if f.Offset >= 0 {
		fmt.Fprintf(r.out, " at %d", f.Offset)
	}
	if f.Length > 0 {
		fmt.Fprintf(r.out, " (%d bytes)", f.Length)
	}
	if l.OID != "" {
		fmt.Fprintf(r.out, ", oid %s", l.OID)
	}
	if l.TID != "" {
		fmt.Fprintf(r.out, ", tid %s", l.TID)
	}
	fmt.Fprintf(r.out, ": %s\n", f.Text)
}

func (r *results) line(v any) {
	b, err := json.Marshal(v)
	if err != nil { // strings and numbers: it cannot be
		b = fmt.Appendf(nil, "%q", err.Error())
	}
	_, _ = r.out.Write(append(b, '\n')) // Flush tells
}

// end writes the last line for the file, and what went wrong, and returns the exit
// status. verdict is what the text says of a report.
func (r *results) end(report *filestorage.Report, err error, verdict func(*filestorage.Report) string) int {
	if report == nil {
		report = &filestorage.Report{}
	}
	switch {
	case r.json:
		s := summary{
			Type: "report", File: r.file, Size: report.Size, Transactions: report.Transactions, Records: report.Records,
			Objects: report.Objects, Findings: report.Findings, Warnings: report.Warnings,
			LostBytes: report.LostBytes, Blobs: report.Blobs, Hint: hint(err),
		}
		if err != nil {
			s.Error = err.Error()
		}
		r.line(s)
	case err == nil && verdict != nil:
		fmt.Fprintf(r.out, "%s: %s\n", r.file, verdict(report))
	}
	err = errors.Join(err, r.out.Flush())
	if err != nil {
		fmt.Fprintf(r.stderr, "%s: %v\n", r.file, err)
		if h := hint(err); h != "" {
			fmt.Fprintf(r.stderr, "hint: %s\n", h)
		}
	}
	switch {
	case report.Findings > 0: // whatever else may be
		return exitFindings
	case err != nil:
		return exitUnknown
	}
	return exitClean
}

// worse returns the status for two files: that something is wrong outweighs that one
// could not be looked at.
func worse(a, b int) int {
	if a == exitFindings || b == exitFindings {
		return exitFindings
	}
	return max(a, b)
}

// hint returns what an operator can do about err, "" if that is not known.
func hint(err error) string {
	_, locked := errors.AsType[*filestorage.LockedError](err)
	switch {
	case locked:
		return "end the process that has the file open, and try again"
	case errors.Is(err, fs.ErrNotExist):
		return "look whether the path is right"
	case errors.Is(err, fs.ErrPermission):
		return "run it as the user who owns the file"
	case errors.Is(err, context.Canceled):
		return "it was interrupted; nothing was changed"
	}
	return ""
}

// counted returns n with its noun.
func counted(n int64, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

// contents says how much is in a file.
func contents(r *filestorage.Report) string {
	return fmt.Sprintf("%s, %s", counted(r.Transactions, "transaction", "transactions"), counted(r.Records, "record", "records"))
}
