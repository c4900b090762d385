package admin

import (
	"context"
	"net/http"
	"time"
)

// reloadTime is the longest time for a reload: for a commit under way, and the locks and
// the register of a mirror.
const reloadTime = 5 * time.Minute

// reload asks whoever made the Server.
func (s *Server) reload(q *request) {
	if s.cfg.Reload == nil {
		refuse(q.w, http.StatusNotImplemented, Failure{Kind: KindUnsupported, Text: "this server has no configuration to reload"})
		return
	}
	j, ok := q.begin(s.ctx, func(ctx context.Context, j *job) {
		ctx, cancel := context.WithTimeout(ctx, reloadTime)
		defer cancel()
		j.difference, j.err = s.cfg.Reload(ctx, q.asked.DryRun)
	})
	done := "the new configuration is in force"
	if q.asked.DryRun {
		done = "this would change"
	}
	if ok {
		q.follow(j, nil, nil, done)
	}
}
