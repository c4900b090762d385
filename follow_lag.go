package raidstorage

import (
	"context"
	"slices"
)

// lag is how far a backend that follows is behind, counted from what was committed since
// it was known: it lacks transactions + Mirror.committed of them. Mirror.mu guards it.
type lag struct {
	known               bool
	transactions, bytes int64
}

// weigh counts the bytes of a commit, if somebody follows.
func (m *Mirror) weigh(t *mirrorTxn) {
	if slices.ContainsFunc(m.backends, func(b *backend) bool { return b.role.Actual == RoleAsync }) {
		m.weighed.Add(t.weight())
	}
}

// wakeFollowersLocked tells those that follow that there may be more. One that failed
// waits for its next attempt: each commit would be one. The caller holds mu.
func (m *Mirror) wakeFollowersLocked() {
	for _, b := range m.backends {
		if b.role.Actual == RoleAsync && b.state == StateFollowing {
			b.wake()
		}
	}
}

// countLag finds out how far b is behind, as far as that is quick.
func (m *Mirror) countLag(ctx context.Context, b *backend, r *recovery) {
	l := lag{transactions: -m.committed.Load(), bytes: -m.weighed.Load()}
	source, err := r.source()
	ctx, cancel := context.WithTimeout(ctx, countFor)
	defer cancel()
	if err == nil {
		l.known = true
		for txn, err := range source.timely.Iterate(ctx, r.last+1, m.view.Load().last) {
			if err != nil || ctx.Err() != nil {
				l.known = false
				break
			}
			l.transactions++
			l.bytes += txn.Size
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	b.lag = l
}

// caughtUpLocked notes that b has everything, if it has. The caller holds mu.
func (m *Mirror) caughtUpLocked(b *backend) {
	if b.lastTID >= m.view.Load().last {
		b.lag = lag{known: true, transactions: -m.committed.Load(), bytes: -m.weighed.Load()}
	}
}

// lagLocked returns how many transactions, and about how many bytes, b lacks; -1 while
// that is not known.
func (m *Mirror) lagLocked(b *backend, last TID) (transactions, bytes int64) {
	switch {
	case b.lastTID >= last:
		return 0, 0
	case !b.lag.known:
		return -1, -1
	}
	return max(1, b.lag.transactions+m.committed.Load()), max(0, b.lag.bytes+m.weighed.Load())
}
