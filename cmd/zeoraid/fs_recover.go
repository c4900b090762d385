package main

import (
	"context"
	"fmt"

	"github.com/zeoraid/raidstorage/filestorage"
)

func (e env) fsRecover(ctx context.Context, args []string) int {
	var common fsFlags
	set := e.flags("zeoraid fs recover", "DAMAGED FRESH", "Copies what can be read of the FileStorage DAMAGED to a new one, FRESH, and tells what\n"+
		"is wrong and what was lost. DAMAGED is only read. A record whose blob is missing is\n"+
		"copied without it.\n"+
		"Exit status: 0 nothing was lost or wrong, 2 something was, 3 it could not be done.")
	common.register(set)
	whole := set.Bool("whole", false, "leave damaged transactions out, instead of copying their readable records")
	blobs := set.String("blob-dir", "", "the directory of the blobs of DAMAGED; without it they are not looked for")
	freshBlobs := set.String("fresh-blob-dir", "", "the directory, not there yet, for the blobs of FRESH; with -blob-dir")
	if status, ok := e.parse(set, args, 2, 2); !ok {
		return status
	}
	r := e.results(set.Arg(0), common.json)
	p := e.progress(set.Arg(0), common.quiet)
	report, err := filestorage.Recover(ctx, set.Arg(0), set.Arg(1), filestorage.InspectOptions{
		Found: r.found, Progress: p.update, Opaque: common.opaque, WholeOnly: *whole,
		BlobDir: *blobs, FreshBlobDir: *freshBlobs,
	})
	p.end()
	status := r.end(report, err, func(report *filestorage.Report) string {
		copied := contents(report)
		if *freshBlobs != "" {
			copied += ", " + counted(report.Blobs, "blob", "blobs")
		}
		return fmt.Sprintf("%s copied to %s; %s, %s lost", copied, set.Arg(1),
			counted(report.Findings, "finding", "findings"), counted(report.LostBytes, "byte", "bytes"))
	})
	if err != nil {
		return exitUnknown // there is no new file
	}
	return status
}
