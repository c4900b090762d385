package main

import (
	"context"

	"github.com/zeoraid/raidstorage/admin"
)

func (e env) recover(ctx context.Context, args []string) int {
	var f controlFlags
	set := e.flags("zeoraid recover", "NAME", "Has the server bring the backend NAME back: it gets what it lacks and takes part again.\n"+
		"Without -wait it ends when the recovery goes on by itself; the recovery goes on also if\n"+
		"this command is interrupted.\n"+
		"Exit status: 0 the recovery has begun, with -wait the backend is in sync; 2 it was refused\n"+
		"or failed; 3 the server cannot be reached, wrong usage.")
	f.register(set)
	var q admin.Request
	set.BoolVar(&q.Wait, "wait", false, "wait until the backend is in sync or has failed")
	set.BoolVar(&q.Rollback, "rollback", false, "cut off transactions that only this backend has; its storage keeps them beside it")
	set.BoolVar(&q.Full, "full", false, "compare the whole history, not only its end")
	set.BoolVar(&f.quiet, "quiet", false, "show no progress")
	rest, status, ok := e.parseMixed(set, args, 1, 1)
	if !ok {
		return status
	}
	q.Backend = rest[0]
	return e.operate(ctx, &f, admin.OpRecover, q)
}
