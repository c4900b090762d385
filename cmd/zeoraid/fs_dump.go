package main

import (
	"context"
	"math"

	"github.com/zeoraid/raidstorage/filestorage"
)

func (e env) fsDump(ctx context.Context, args []string) int {
	var common fsFlags
	set := e.flags("zeoraid fs dump", "FILE...", "Shows the transactions and records of FileStorages, and damage where there is some.\n"+
		"Exit status: 0 nothing is damaged, 2 something is, 3 a file could not be read.")
	common.register(set)
	if status, ok := e.parse(set, args, 1, math.MaxInt); !ok {
		return status
	}
	status := exitClean
	for _, path := range set.Args() {
		if ctx.Err() != nil {
			return worse(status, exitUnknown)
		}
		r := e.results(path, common.json)
		p := e.progress(path, common.quiet)
		report, err := filestorage.Dump(ctx, path, r.out, filestorage.InspectOptions{
			Progress: p.update, Opaque: common.opaque, JSON: common.json,
		})
		p.end()
		status = worse(status, r.end(report, err, nil))
	}
	return status
}
