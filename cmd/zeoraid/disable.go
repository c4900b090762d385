package main

import (
	"context"

	"github.com/zeoraid/raidstorage/admin"
)

func (e env) disable(ctx context.Context, args []string) int {
	var f controlFlags
	set := e.flags("zeoraid disable", "NAME", "Has the server take the backend NAME out of the mirror until it is recovered, also over\n"+
		"restarts: nothing is asked of it any more, and its storage is closed.\n"+
		"Exit status: 0 it is disabled, 2 that was refused, 3 the server cannot be reached, wrong usage.")
	f.register(set)
	var q admin.Request
	set.StringVar(&q.Reason, "reason", "", "`TEXT` for the membership record and the log")
	rest, status, ok := e.parseMixed(set, args, 1, 1)
	if !ok {
		return status
	}
	q.Backend = rest[0]
	return e.operate(ctx, &f, admin.OpDisable, q)
}
