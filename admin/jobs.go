package admin

import (
	"context"

	"github.com/zeoraid/raidstorage"
)

// jobKey names an operation: one of each runs at a time.
type jobKey struct {
	op              Op
	mirror, backend string
}

// job is an operation under way.
type job struct {
	key      jobKey
	asked    Request
	progress chan Message // of a verification: the latest one
	done     chan struct{}
	// Set before done is closed.
	err    error
	report *Report
	// difference is of a reload.
	difference []string
	estimate   *Estimate // of a pack's dry run
}

// start begins a job that ends with ctx and with Shutdown, or returns the one of the
// same key that is under way, joined then. run sets the job's result.
func (s *Server) start(ctx context.Context, key jobKey, asked Request, run func(ctx context.Context, j *job)) (j *job, joined bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return nil, false, raidstorage.ErrClosed
	}
	if j := s.jobs[key]; j != nil {
		return j, true, nil
	}
	j = &job{key: key, asked: asked, progress: make(chan Message, 1), done: make(chan struct{})}
	s.jobs[key] = j
	s.running.Go(func() {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(s.ctx, cancel)()
		run(ctx, j)
		s.mu.Lock()
		delete(s.jobs, key)
		s.mu.Unlock()
		s.logEnd(j)
		close(j.done)
	})
	return j, false, nil
}

// tell replaces the message that the follower of j gets next.
func (j *job) tell(m Message) {
	for {
		select {
		case j.progress <- m:
			return
		default:
		}
		select { // it was not taken: forget it
		case <-j.progress:
		default:
		}
	}
}

func (s *Server) allJobs() []*job {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*job, 0, len(s.jobs))
	for _, j := range s.jobs {
		all = append(all, j)
	}
	return all
}

func (s *Server) logEnd(j *job) {
	l := s.cfg.Logger.With("op", string(j.key.op), "mirror", j.key.mirror)
	if j.key.backend != "" {
		l = l.With("backend", j.key.backend)
	}
	if j.err != nil {
		l.Warn("control: not done", "err", j.err)
		return
	}
	l.Info("control: done")
}
