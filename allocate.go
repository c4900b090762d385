package raidstorage

import (
	"context"
	"fmt"
	"math"
	"sync/atomic"
	"time"
)

// tidStep is how far ahead of the clock tids are reserved: one write of the
// register for the commits of ten seconds. After a restart the first tids may
// therefore lie up to this far in the future.
const tidStep = TID(10 * (1 << 32) / 60)

// tidGap keeps the tids of a mirror apart: a ZEO server is told to pack by a time in
// seconds, a float that is exact to a quarter of a microsecond, and must take no
// transaction for older than the pack time that is later. 1 µs, rounded up.
const tidGap = TID(1<<32)/60_000_000 + 1

// tidSource gives out tids, each once in the life of the mirror: what it gives lies
// in a range that was reserved in the register before (rule C2), so neither a
// restart nor a clock that was set back repeats one.
type tidSource struct {
	m    *Mirror
	last TID // the last one given; guarded by the commit slot
	mark TID // reserved up to and including it
}

// next returns a tid that is tidGap later than every one given and than last. The
// caller holds the commit slot.
func (t *tidSource) next(ctx context.Context, last TID) (TID, error) {
	tid := NextTID(t.m.cfg.Clock(), max(last, t.last)+tidGap-1)
	if tid > t.mark {
		from, err := t.m.reserve(ctx, Marks{TID: tid}, Marks{TID: tidStep})
		if err != nil {
			return 0, err
		}
		tid = max(tid, from.TID+tidGap)
		t.mark = from.TID + tidStep
	}
	t.last = tid
	return tid, nil
}

// claim makes sure that an explicit tid, chosen by the caller, is never given out.
func (t *tidSource) claim(ctx context.Context, tid TID) error {
	if tid > t.mark {
		// Up to the clock's reading too, so that a load of old transactions does not
		// write the register for each.
		floor := max(tid, TIDFromTime(t.m.cfg.Clock()))
		from, err := t.m.reserve(ctx, Marks{TID: floor}, Marks{TID: tidStep})
		if err != nil {
			return err
		}
		t.mark = from.TID + tidStep
	}
	t.last = max(t.last, tid)
	return nil
}

func (m *Mirror) reserve(ctx context.Context, floor, step Marks) (Marks, error) {
	ctx, cancel := context.WithTimeout(ctx, m.tuned().Timeouts.Register)
	defer cancel()
	return m.register.Reserve(ctx, floor, step)
}

// oidStep is how many oids are reserved at a time.
const oidStep = 4096

// oidSource gives out oids, each once in the life of the mirror (rule C8). It needs
// no backend: ranges come from the register, above every member's.
type oidSource struct {
	m     *Mirror
	slot  chan struct{} // one slot, held across the register
	next  OID           // guarded by slot, as mark is
	mark  OID
	floor atomic.Uint64 // the highest oid known to be stored or given out by a backend
}

// raise keeps the source above oid.
func (o *oidSource) raise(oid OID) {
	for {
		have := o.floor.Load()
		if uint64(oid) <= have || o.floor.CompareAndSwap(have, uint64(oid)) {
			return
		}
	}
}

func (o *oidSource) take(ctx context.Context, n int) ([]OID, error) {
	select {
	case o.slot <- struct{}{}:
		defer func() { <-o.slot }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	oids := make([]OID, 0, n)
	for len(oids) < n {
		if floor := OID(o.floor.Load()); o.next <= floor {
			if floor >= math.MaxUint64-2*oidStep {
				return nil, &InvalidError{Op: "new oids", Reason: fmt.Sprintf("object %v is stored: there are none above it", floor)}
			}
			o.next = floor + 1
		}
		if o.next > o.mark {
			step := OID(max(oidStep, n))
			from, err := o.m.reserve(ctx, Marks{OID: o.next - 1}, Marks{OID: step})
			if err != nil {
				return nil, err
			}
			o.next, o.mark = from.OID+1, from.OID+step
			continue // the floor may have risen meanwhile
		}
		oids = append(oids, o.next)
		o.next++
	}
	return oids, nil
}

// NewOIDs implements Storage. An oid is never given out twice, whichever backends
// come and go.
func (m *Mirror) NewOIDs(ctx context.Context, n int) ([]OID, error) {
	if n < 1 {
		return nil, &InvalidError{Op: "new oids", Reason: "fewer than one asked for"}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	v := m.view.Load()
	if v.closed {
		return nil, ErrClosed
	}
	if len(v.sessions) == 0 {
		return nil, &UnavailableError{Need: 1}
	}
	return m.oids.take(ctx, n)
}

// now is the mirror's clock.
func (m *Mirror) now() time.Time { return m.cfg.Clock() }
