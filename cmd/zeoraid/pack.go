package main

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/zeoraid/raidstorage/admin"
)

func (e env) pack(ctx context.Context, args []string) int {
	var f controlFlags
	set := e.flags("zeoraid pack", "", "Has the server drop old revisions, and objects that cannot be reached, from all backends\n"+
		"alike, and waits for it. The pack goes on also if this command is interrupted.\n"+
		"With -dry-run it only tells what would go, by class.\n"+
		"Exit status: 0 packed, or told what would go, 2 that was refused or failed, 3 the server cannot be reached, wrong usage.")
	f.register(set)
	var q admin.Request
	set.IntVar(&q.Days, "days", 0, "keep what was current during the last so many days")
	set.BoolVar(&q.NoGC, "no-gc", false, "keep objects that cannot be reached")
	set.Int64Var(&q.BytesPerSecond, "rate", 0, "compare at most so many `BYTES` per second afterwards; 0: as configured")
	set.BoolVar(&q.DryRun, "dry-run", false, "only tell what would go")
	set.BoolVar(&f.quiet, "quiet", false, "show no progress")
	if _, status, ok := e.parseMixed(set, args, 0, 0); !ok {
		return status
	}
	if q.BytesPerSecond < 0 {
		fmt.Fprintln(e.stderr, "zeoraid pack: -rate must be 0 or more, in bytes")
		return exitUnknown
	}
	return e.operate(ctx, &f, admin.OpPack, q)
}

// estimate writes what a pack would drop, as a table.
func (e env) estimate(est *admin.Estimate) {
	t := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "garbage\trevisions\tbytes\t  class")
	for _, c := range est.Classes {
		fmt.Fprintf(t, "%d\t%d\t%d\t  %s\n", c.Objects, c.Revisions, c.Bytes, c.Class)
	}
	fmt.Fprintf(t, "%d\t%d\t%d\t  all\n", est.Objects, est.Revisions, est.ObjectBytes+est.RevisionBytes)
	t.Flush() // an output that cannot be written is nobody's to tell
}
