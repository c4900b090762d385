package raidstorage

import (
	"errors"
	"time"
)

// finishPack makes a pack again that the record says was not finished, because the
// process died: only then is it known that the backends hold the same objects, and
// those that are recovered can be packed as the others. It ends when a pack has come to
// its end, or the mirror closes.
func (m *Mirror) finishPack() {
	var pause time.Duration
	for m.ctx.Err() == nil {
		u := m.unfinished()
		if u == nil {
			return
		}
		err := m.Pack(m.ctx, PackOptions{Through: u.Through, GC: u.GC})
		switch {
		case m.closing():
			return
		case m.unfinished() == nil:
			m.cfg.Logger.Info("the interrupted pack was made again", "tid", u.Through, "err", err)
			return
		case err == nil, isA[*CorruptError](err), isA[*apartError](err), errors.Is(err, errors.ErrUnsupported):
			m.cfg.Logger.Warn("the interrupted pack cannot be made again; pack yourself", "tid", u.Through, "err", err)
			return
		}
		m.cfg.Logger.Info("the interrupted pack cannot be made again yet", "tid", u.Through, "err", err)
		pause = min(max(2*pause, m.cfg.RetryMin), m.cfg.RetryMax)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-m.ctx.Done():
		}
		timer.Stop()
	}
}

func (m *Mirror) unfinished() *UnfinishedPack {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.shown.Unfinished
}

// unpark lets those be recovered again that were refused because they were packed apart
// from the others: a pack may have changed that.
func (m *Mirror) unpark() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range m.backends {
		if b.apart {
			b.apart, b.parked = false, false
			b.wake()
		}
	}
}
