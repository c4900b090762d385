package zeoserver

import "context"

// laneLength is how many calls wait in a lane before the reader waits.
const laneLength = 256

// lane runs calls one after the other, in the order in which they came, in a
// goroutine that starts with the first one and ends with the connection.
type lane struct {
	c       *conn
	started bool // the reader's own
	jobs    chan laneJob
}

type laneJob struct {
	method string
	run    func()
}

func (l *lane) init(c *conn) { l.c = c }

// add queues a call; it is for the reader.
func (l *lane) add(method string, run func()) error {
	if !l.started {
		l.started = true
		l.jobs = make(chan laneJob, laneLength)
		l.c.group.Go(l.work)
	}
	select {
	case l.jobs <- laneJob{method, run}:
		return nil
	case <-l.c.dead.Done():
		return context.Cause(l.c.dead)
	}
}

func (l *lane) work() {
	for {
		select {
		case job := <-l.jobs:
			l.do(job)
		case <-l.c.dead.Done():
			return
		}
	}
}

func (l *lane) do(job laneJob) {
	defer l.c.guard(job.method)
	job.run()
}
