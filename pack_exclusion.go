package raidstorage

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// BusyError says that a pack, a recovery, a verification or a change of the
// configuration is going on, with which another one must not run (rule V6).
type BusyError struct {
	Op     string // what was refused
	Holder string // what is going on: "pack", "change", or like "recovery of b1"
	Reason string // how far it is, where that is known
	Since  time.Time
}

func (e *BusyError) Error() string {
	msg := fmt.Sprintf("%s: a %s is going on since %s", e.Op, e.Holder, e.Since.Format(time.RFC3339))
	if e.Reason != "" {
		msg += ": " + e.Reason
	}
	return msg
}

// exclusion keeps packs and changes of the configuration apart from each other, and from
// recoveries and verifications (V6): those run beside each other, a pack or a change
// runs alone. One that waits lets none of them begin, so that it gets its turn. All
// fields are guarded by Mirror.mu.
type exclusion struct {
	pack    *PackProgress // replaced, never changed in place; nil: no pack runs or waits
	change  *sharer       // nil: no change runs or waits
	others  map[*sharer]bool
	changed chan struct{} // closed when one of them ends; nil if nobody waits
}

// sharer is a recovery or verification that runs.
type sharer struct {
	what  string
	since time.Time
	of    *backend // that is recovered, nil for what is no recovery
	// giveWay, if not nil, ends it within a moment: it goes on later. It holds up nobody.
	giveWay func()
}

// waitLocked returns a channel that is closed when something ends. The caller holds
// Mirror.mu.
func (x *exclusion) waitLocked() <-chan struct{} {
	if x.changed == nil {
		x.changed = make(chan struct{})
	}
	return x.changed
}

func (x *exclusion) wakeLocked() {
	if x.changed != nil {
		close(x.changed)
		x.changed = nil
	}
}

// packBusyLocked says that a pack or a change is in the way, nil if none is.
func (x *exclusion) packBusyLocked(op string) *BusyError {
	if x.change != nil {
		return &BusyError{Op: op, Holder: x.change.what, Since: x.change.since}
	}
	if x.pack == nil {
		return nil
	}
	return &BusyError{Op: op, Holder: "pack", Reason: x.pack.String(), Since: x.pack.Started}
}

// othersBusyLocked names the oldest of the others that is in the way, nil if none is.
func (x *exclusion) othersBusyLocked(op string) *BusyError {
	var busy *BusyError
	for o := range x.others {
		if busy == nil || o.since.Before(busy.Since) {
			busy = &BusyError{Op: op, Holder: o.what, Since: o.since}
		}
	}
	return busy
}

// exclusive begins a pack: when it returns nil none of the others runs, and none
// begins until end is called.
func (x *exclusion) exclusive(ctx context.Context, m *Mirror, progress *PackProgress, noWait bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		busy := x.packBusyLocked("pack")
		if busy == nil {
			busy = x.othersBusyLocked("pack")
		}
		if busy == nil {
			x.pack = progress
			return nil
		}
		free := x.pack == nil && x.change == nil
		if noWait && !(free && x.onlyEndLocked(nil)) {
			return busy
		}
		mine := false
		if free { // announce it
			waiting := *progress
			waiting.Reason = "a " + busy.Holder
			x.pack, mine = &waiting, true
			m.tell(Event{Kind: EventPack, Time: m.now(), Condition: m.conditionLocked(), Pack: x.pack})
			x.giveWayLocked()
		}
		err := x.awaitLocked(ctx, m)
		if mine {
			x.pack = nil
		}
		if err != nil {
			x.wakeLocked()
			return err
		}
	}
}

// beginChange begins a change of the configuration, as exclusive does a pack. It cancels
// the recoveries of those that leave, and waits for their ends even if noWait is set.
func (x *exclusion) beginChange(ctx context.Context, m *Mirror, noWait bool, gone []*backend) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	me := &sharer{what: "change", since: m.now()}
	for {
		busy := x.packBusyLocked("change")
		if busy == nil {
			busy = x.othersBusyLocked("change")
		}
		if busy == nil {
			x.change = me
			return nil
		}
		mine := x.pack == nil && x.change == nil
		if noWait && !(mine && x.onlyEndLocked(gone)) {
			return busy
		}
		if mine {
			x.change = me
			x.giveWayLocked()
			for _, b := range gone {
				if b.cancelRecovery != nil {
					b.cancelRecovery()
				}
			}
		}
		err := x.awaitLocked(ctx, m)
		if mine {
			x.change = nil
		}
		if err != nil {
			x.wakeLocked()
			return err
		}
	}
}

// onlyEndLocked tells whether all that runs are recoveries of backends, which are
// cancelled, and what gives way.
func (x *exclusion) onlyEndLocked(backends []*backend) bool {
	for o := range x.others {
		if o.giveWay == nil && !slices.Contains(backends, o.of) {
			return false
		}
	}
	return true
}

// giveWayLocked ends those that give way.
func (x *exclusion) giveWayLocked() {
	for o := range x.others {
		if o.giveWay != nil {
			o.giveWay()
		}
	}
}

// yielding begins a verification that gives way, when nothing runs for which it does:
// packs, changes and recoveries. waits is called, with m.mu held, with what it waits for.
func (x *exclusion) yielding(ctx context.Context, m *Mirror, what string, giveWay func(), waits func(holder string)) (*sharer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		busy := x.packBusyLocked(what)
		for o := range x.others {
			if busy == nil && o.of != nil {
				busy = &BusyError{Op: what, Holder: o.what, Since: o.since}
			}
		}
		if busy == nil {
			s, err := x.shareLocked(what, what, m.now())
			if err == nil {
				s.giveWay = giveWay
			}
			return s, err
		}
		waits(busy.Holder)
		if err := x.awaitLocked(ctx, m); err != nil {
			return nil, err
		}
	}
}

// endChange ends a change and lets the others begin.
func (x *exclusion) endChange(m *Mirror) {
	m.mu.Lock()
	defer m.mu.Unlock()
	x.change = nil
	x.wakeLocked()
	for _, b := range m.backends {
		b.wake()
	}
}

// awaitLocked frees Mirror.mu until something ends.
func (x *exclusion) awaitLocked(ctx context.Context, m *Mirror) error {
	changed := x.waitLocked()
	m.mu.Unlock()
	defer m.mu.Lock()
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-m.ctx.Done():
		return ErrClosed
	}
}

// end ends a pack and lets the others begin.
func (x *exclusion) end(m *Mirror) {
	m.mu.Lock()
	defer m.mu.Unlock()
	x.pack = nil
	x.wakeLocked()
	for _, b := range m.backends {
		b.wake()
	}
}

// shareLocked begins a recovery or verification, or says that a pack is in the way.
// The caller holds Mirror.mu.
func (x *exclusion) shareLocked(op, what string, now time.Time) (*sharer, error) {
	if busy := x.packBusyLocked(op); busy != nil {
		return nil, busy
	}
	if x.others == nil {
		x.others = make(map[*sharer]bool)
	}
	s := &sharer{what: what, since: now}
	x.others[s] = true
	return s, nil
}

// share is shareLocked, which waits unless noWait is set.
func (x *exclusion) share(ctx context.Context, m *Mirror, op, what string, noWait bool) (*sharer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		s, err := x.shareLocked(op, what, m.now())
		if err == nil || noWait {
			return s, err
		}
		if err := x.awaitLocked(ctx, m); err != nil {
			return nil, err
		}
	}
}

// leave ends what share began.
func (x *exclusion) leave(m *Mirror, s *sharer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(x.others, s)
	x.wakeLocked()
}
