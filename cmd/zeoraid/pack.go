package main

import (
	"context"
	"fmt"

	"github.com/zeoraid/raidstorage/admin"
)

func (e env) pack(ctx context.Context, args []string) int {
	var f controlFlags
	set := e.flags("zeoraid pack", "", "Has the server drop old revisions, and objects that cannot be reached, from all backends\n"+
		"alike, and waits for it. The pack goes on also if this command is interrupted.\n"+
		"Exit status: 0 packed, 2 that was refused or failed, 3 the server cannot be reached, wrong usage.")
	f.register(set)
	var q admin.Request
	set.IntVar(&q.Days, "days", 0, "keep what was current during the last so many days")
	set.BoolVar(&q.NoGC, "no-gc", false, "keep objects that cannot be reached")
	set.Int64Var(&q.BytesPerSecond, "rate", 0, "compare at most so many `BYTES` per second afterwards; 0: as configured")
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
