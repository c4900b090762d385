package main

import (
	"context"
	"fmt"

	"github.com/zeoraid/raidstorage/admin"
)

func (e env) verify(ctx context.Context, args []string) int {
	var f controlFlags
	set := e.flags("zeoraid verify", "", "Has the server compare what the backends in sync hold, and waits for it. Those that the\n"+
		"others tell to be wrong are degraded.\n"+
		"Exit status: 0 they hold the same, now, 2 they do not or it failed, 3 the server cannot be reached,\n"+
		"wrong usage.")
	f.register(set)
	var q admin.Request
	set.BoolVar(&q.Blobs, "blobs", false, "compare the contents of blobs too")
	set.BoolVar(&q.Repair, "repair", false, "put right in place what is known to be wrong, in native file storages")
	set.BoolVar(&q.KeepAll, "keep-all", false, "only tell: degrade and repair nobody")
	rate := set.Int64("rate", 0, "compare at most so many `MIB` per second; 0 for no bound")
	set.BoolVar(&f.quiet, "quiet", false, "show no progress")
	if _, status, ok := e.parseMixed(set, args, 0, 0); !ok {
		return status
	}
	if *rate < 0 || *rate > 1<<40 {
		fmt.Fprintln(e.stderr, "zeoraid verify: -rate must be 0 or more, in MiB")
		return exitUnknown
	}
	q.BytesPerSecond = *rate << 20
	return e.operate(ctx, &f, admin.OpVerify, q)
}
