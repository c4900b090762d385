package main

import (
	"context"
	"fmt"
	"math"

	"github.com/zeoraid/raidstorage/filestorage"
)

func (e env) fsCheck(ctx context.Context, args []string) int {
	var common fsFlags
	set := e.flags("zeoraid fs check", "FILE...", "Tells what is wrong with FileStorages: structure, pointers, index files, pickles,\n"+
		"references to objects that are not there; and, as warnings, blob files that belong to\n"+
		"nothing and temporary files that were left. Files are only read, and may be in use.\n"+
		"Exit status: 0 nothing is wrong, warnings aside, 2 something is, 3 that could not be told.")
	common.register(set)
	live := set.Bool("live", false, "the file may be in use: an unfinished transaction at its end is no finding, nor are temporary files")
	blobs := set.String("blob-dir", "", "the directory of the blobs of the one FILE; without it they are not looked for")
	if status, ok := e.parse(set, args, 1, math.MaxInt); !ok {
		return status
	}
	if *blobs != "" && set.NArg() > 1 { // the blobs of one would belong to nothing in the others
		set.Usage()
		return exitUnknown
	}
	status := exitClean
	for _, path := range set.Args() {
		if ctx.Err() != nil {
			return worse(status, exitUnknown)
		}
		r := e.results(path, common.json)
		p := e.progress(path, common.quiet)
		report, err := filestorage.Check(ctx, path, filestorage.InspectOptions{
			Found: r.found, Progress: p.update, Opaque: common.opaque, Live: *live, BlobDir: *blobs,
		})
		p.end()
		status = worse(status, r.end(report, err, checkVerdict))
	}
	return status
}

func checkVerdict(r *filestorage.Report) string {
	text := fmt.Sprintf("%s, %s, %d bytes: ", contents(r), counted(r.Objects, "object", "objects"), r.Size)
	if r.Findings == 0 {
		text += "clean"
	} else {
		text += counted(r.Findings, "finding", "findings")
	}
	if r.Warnings > 0 {
		text += ", " + counted(r.Warnings, "warning", "warnings")
	}
	return text
}
