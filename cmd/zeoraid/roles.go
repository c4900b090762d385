package main

import (
	"context"

	"github.com/zeoraid/raidstorage/admin"
)

func (e env) promote(ctx context.Context, args []string) int {
	var f controlFlags
	set := e.flags("zeoraid promote", "NAME", "Has the server make the asynchronous or spare backend NAME a full one, also over restarts:\n"+
		"it is recovered, and from then on commits wait for it and it counts.\n"+
		"Without -wait it ends when the recovery goes on by itself.\n"+
		"Exit status: 0 the recovery has begun, with -wait the backend is full; 2 it was refused or\n"+
		"failed; 3 the server cannot be reached, wrong usage.")
	f.register(set)
	var q admin.Request
	set.BoolVar(&q.Wait, "wait", false, "wait until the backend is full or that has failed")
	set.BoolVar(&f.quiet, "quiet", false, "show no progress")
	rest, status, ok := e.parseMixed(set, args, 1, 1)
	if !ok {
		return status
	}
	q.Backend = rest[0]
	return e.operate(ctx, &f, admin.OpPromote, q)
}

func (e env) demote(ctx context.Context, args []string) int {
	var f controlFlags
	set := e.flags("zeoraid demote", "NAME", "Has the server make the full backend NAME an asynchronous one, or a spare if it is\n"+
		"configured as that, also over restarts: commits wait for it no more, and it counts for\n"+
		"nothing.\n"+
		"Exit status: 0 it is done, 2 that was refused, 3 the server cannot be reached, wrong usage.")
	f.register(set)
	rest, status, ok := e.parseMixed(set, args, 1, 1)
	if !ok {
		return status
	}
	return e.operate(ctx, &f, admin.OpDemote, admin.Request{Backend: rest[0]})
}
