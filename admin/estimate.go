package admin

import (
	"context"
	"fmt"

	"github.com/zeoraid/raidstorage"
)

// Estimate is a raidstorage.PackEstimate: what a pack would drop.
type Estimate struct {
	Through       TID             `json:"through"`
	Objects       int64           `json:"objects"`
	ObjectBytes   int64           `json:"object_bytes"`
	Revisions     int64           `json:"revisions"`
	RevisionBytes int64           `json:"revision_bytes"`
	Bytes         int64           `json:"bytes"`   // by which a backend would become smaller
	Classes       []EstimateClass `json:"classes"` // those with the most bytes first
}

// EstimateClass is a raidstorage.PackClass.
type EstimateClass struct {
	Class     string `json:"class"`
	Objects   int64  `json:"objects"`
	Revisions int64  `json:"revisions"`
	Bytes     int64  `json:"bytes"`
}

// String tells the sums in one line.
func (e *Estimate) String() string {
	return fmt.Sprintf("a pack to %v would drop %d garbage objects and %d revisions; a backend would become %d bytes smaller; nothing was changed",
		e.Through, e.Objects, e.Revisions, e.Bytes)
}

func estimateOf(p raidstorage.PackEstimate) *Estimate {
	e := &Estimate{
		Through: TID(p.Through), Objects: p.Objects, ObjectBytes: p.ObjectBytes,
		Revisions: p.Revisions, RevisionBytes: p.RevisionBytes, Bytes: p.Bytes, Classes: []EstimateClass{},
	}
	for _, c := range p.Classes {
		e.Classes = append(e.Classes, EstimateClass{oneLine(c.Class), c.Objects, c.Revisions, c.Bytes})
	}
	return e
}

// estimate answers a pack's dry run, which ends with its client.
func (s *Server) estimate(q *request, opts raidstorage.PackOptions) {
	j, ok := q.begin(q.ctx, func(ctx context.Context, j *job) {
		var p raidstorage.PackEstimate
		if p, j.err = q.mirror.EstimatePack(ctx, opts); j.err == nil {
			j.estimate = estimateOf(p)
		}
	})
	if ok {
		q.follow(j, nil, nil, "")
	}
}
