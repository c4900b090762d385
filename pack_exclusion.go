package raidstorage

import (
	"context"
	"fmt"
	"time"
)

// BusyError says that a pack or a recovery is going on, with which another one must
// not run (rule V6).
type BusyError struct {
	Op     string // what was refused
	Holder string // "pack", or the backends being recovered
	Reason string // what it does
	Since  time.Time
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("%s: %s is going on since %s: %s", e.Op, e.Holder, e.Since.Format(time.RFC3339), e.Reason)
}

// exclusion keeps packs and recoveries apart (V6): recoveries run beside each other,
// a pack runs alone. A pack that waits lets no further recovery begin, so that it
// gets its turn. All fields are guarded by Mirror.mu.
type exclusion struct {
	pack       *PackProgress // replaced, never changed in place; nil: no pack runs or waits
	recovering map[string]time.Time
	changed    chan struct{} // closed when one of them ends; nil if nobody waits
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

// packBusyLocked says that a pack is in the way, nil if none is.
func (x *exclusion) packBusyLocked(op string) *BusyError {
	if x.pack == nil {
		return nil
	}
	return &BusyError{Op: op, Holder: "pack", Reason: x.pack.String(), Since: x.pack.Started}
}

// recoveryBusyLocked says that recoveries are in the way, nil if none is.
func (x *exclusion) recoveryBusyLocked(op string) *BusyError {
	var busy *BusyError
	for name, since := range x.recovering {
		if busy == nil || since.Before(busy.Since) {
			busy = &BusyError{Op: op, Holder: "recovery", Reason: "backend " + name + " is being recovered", Since: since}
		}
	}
	return busy
}

// exclusive begins a pack: when it returns nil no recovery runs and none begins until
// end is called.
func (x *exclusion) exclusive(ctx context.Context, m *Mirror, progress *PackProgress, noWait bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		busy := x.packBusyLocked("pack")
		if busy == nil {
			busy = x.recoveryBusyLocked("pack")
		}
		if busy == nil {
			x.pack = progress
			return nil
		}
		if noWait {
			return busy
		}
		mine := false
		if x.pack == nil { // announce it
			waiting := *progress
			waiting.Reason = busy.Reason
			x.pack, mine = &waiting, true
			m.tell(Event{Kind: EventPack, Time: m.now(), Condition: m.conditionLocked(), Pack: x.pack})
		}
		changed := x.waitLocked()
		m.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		m.mu.Lock()
		if mine {
			x.pack = nil
		}
		if err := ctx.Err(); err != nil {
			x.wakeLocked()
			return err
		}
	}
}

// end ends a pack and lets recoveries begin.
func (x *exclusion) end(m *Mirror) {
	m.mu.Lock()
	defer m.mu.Unlock()
	x.pack = nil
	x.wakeLocked()
	for _, b := range m.backends {
		b.wake()
	}
}

// enterRecoveryLocked begins a recovery, or says what is in the way. The caller holds
// Mirror.mu.
func (x *exclusion) enterRecoveryLocked(name string, now time.Time) error {
	if busy := x.packBusyLocked("recover " + name); busy != nil {
		return busy
	}
	if x.recovering == nil {
		x.recovering = make(map[string]time.Time)
	}
	x.recovering[name] = now
	return nil
}

func (x *exclusion) leaveRecoveryLocked(name string) {
	delete(x.recovering, name)
	x.wakeLocked()
}
