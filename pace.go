package raidstorage

import (
	"context"
	"time"
)

// pacer spreads work over the time that a rate wants. It belongs to one goroutine.
type pacer struct {
	rate  int64 // bytes per second, 0 for no bound
	due   time.Time
	began bool
}

func newPacer(rate int64) *pacer { return &pacer{rate: rate} }

// paceStep is the shortest wait: timers are not exact enough for less.
const paceStep = 10 * time.Millisecond

// wait counts bytes and waits until what was counted before them is due. Time in which
// less was done than the rate allows is not made up for.
func (p *pacer) wait(ctx context.Context, bytes int64) error {
	if p.rate <= 0 {
		return nil
	}
	now := time.Now()
	if !p.began || p.due.Before(now) {
		p.began, p.due = true, now
	}
	early := p.due.Sub(now)
	p.due = p.due.Add(time.Duration(float64(bytes) / float64(p.rate) * float64(time.Second)))
	if early < paceStep {
		return nil
	}
	timer := time.NewTimer(early)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
