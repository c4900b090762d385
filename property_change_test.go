package raidstorage_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/memstorage"
)

// Random histories with changes of the configuration among their steps. The disks are
// those of the configuration in force, or of the one that the next start takes: after a
// crash in the middle of a change that is the old or the new one.

// propChangeSteps are done now and then instead of another step.
var propChangeSteps = []func(*propRun, *rand.Rand){(*propRun).reconfigure, (*propRun).reconfigure, (*propRun).restartElsewhere}

// propSetup is a configuration.
type propSetup struct {
	disks  []*propDisk
	spares []*propDisk
	write  int
	start  int
	policy raidstorage.ReadPolicy
}

func (r *propRun) setup() propSetup {
	return propSetup{disks: slices.Clone(r.disks), spares: slices.Clone(r.spares),
		write: r.cfg.WriteQuorum, start: r.cfg.StartQuorum, policy: r.cfg.ReadPolicy}
}

func (r *propRun) take(s propSetup) {
	r.disks, r.spares = s.disks, s.spares
	r.cfg.WriteQuorum, r.cfg.StartQuorum, r.cfg.ReadPolicy = s.write, s.start, s.policy
}

// names tells a setup in a line.
func (s propSetup) String() string {
	var names []string
	for _, d := range s.disks {
		names = append(names, d.identity())
	}
	return fmt.Sprintf("%v, quorums %d and %d, policy %v", names, s.write, s.start, s.policy)
}

// vary makes another configuration of the present one.
func (r *propRun) vary(rng *rand.Rand) propSetup {
	s := r.setup()
	for range 1 + rng.IntN(2) {
		switch i := rng.IntN(len(s.disks)); {
		case rng.IntN(3) == 0 && len(s.spares) > 0:
			k := rng.IntN(len(s.spares))
			s.disks = slices.Insert(s.disks, i, s.spares[k])
			s.spares = slices.Delete(s.spares, k, k+1)
		case rng.IntN(3) == 0 && len(s.disks) > 1:
			s.spares = append(s.spares, s.disks[i])
			s.disks = slices.Delete(s.disks, i, i+1)
		case rng.IntN(2) == 0: // by a disk of the same name, empty or a copy
			old := s.disks[i]
			old.mu.Lock()
			d := &propDisk{name: old.name, version: r.newVersion(), store: memstorage.New(old.name)}
			if rng.IntN(4) == 0 {
				d.store = old.store
			}
			old.mu.Unlock()
			s.disks[i] = d
			r.past = append(r.past, old, d)
		default:
			s.policy = raidstorage.ReadPolicy(rng.IntN(3))
		}
	}
	s.write = min(s.write, len(s.disks))
	if rng.IntN(3) == 0 {
		s.write = 1 + rng.IntN(len(s.disks))
	}
	s.start = 1 + rng.IntN(s.write)
	return s
}

// every returns all disks that any mirror of the history may have opened.
func (r *propRun) every() []*propDisk {
	return slices.Concat(r.disks, r.spares, r.past)
}

func (r *propRun) newVersion() int { r.versions++; return r.versions }

// reconfigure changes the configuration of the mirror that runs.
func (r *propRun) reconfigure(rng *rand.Rand) {
	if !r.running() {
		return
	}
	m := r.m.(*raidstorage.Mirror)
	old, s := r.setup(), r.vary(rng)
	c := m.Settings()
	c.Backends = nil
	for _, d := range s.disks {
		b := raidstorage.Backend{Name: d.name, Identity: d.identity()}
		if !slices.Contains(old.disks, d) {
			b = r.backendOn(r.gen, d)
		}
		c.Backends = append(c.Backends, b)
	}
	c.WriteQuorum, c.StartQuorum, c.ReadPolicy, c.NoWait = s.write, s.start, s.policy, rng.IntN(2) == 0
	if rng.IntN(4) == 0 { // the register fails, perhaps in the middle of it
		r.registerFault(rng)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	before := r.reg.record()
	r.note("change to %v", s)
	err := m.Change(ctx, c)
	r.note("      %v", propShort(err))
	switch {
	case err == nil:
		r.take(s)
	case r.gen.killed():
		r.other = &s // the next start may take either
	default:
		if got := m.Settings(); got.WriteQuorum != old.write || got.StartQuorum != old.start || len(got.Backends) != len(old.disks) {
			r.failf("Change says %w, and the settings are %+v", err, got)
		}
		var unavailable *raidstorage.UnavailableError
		var busy *raidstorage.BusyError
		if r.calm && !errors.As(err, &unavailable) && !errors.As(err, &busy) {
			r.failf("Change to %v, while all is well and the record %v: %w", s, before.InSync, err)
		}
	}
	propSettle()
	if err == nil && !r.gen.killed() {
		for _, d := range s.disks {
			if !slices.Contains(old.disks, d) && slices.Contains(before.InSync, d.name) && r.cfg.AutoRecover == raidstorage.AutoRecoverOff &&
				slices.Contains(r.reg.record().InSync, d.name) {
				r.failf("%s was replaced, and is in the record %v", d.name, r.reg.record().InSync)
			}
		}
	}
}

// restartElsewhere kills the mirror in the middle of a change, or before it.
func (r *propRun) restartElsewhere(rng *rand.Rand) {
	if !r.running() {
		return
	}
	r.calm = false
	gen := r.gen
	if rng.IntN(3) > 0 {
		r.reg.mu.Lock()
		stored := rng.IntN(2) == 0
		r.reg.onChange = func() bool { gen.kill(); return stored }
		r.reg.mu.Unlock()
		r.reconfigure(rng)
		r.reg.mu.Lock()
		r.reg.onChange = nil
		r.reg.mu.Unlock()
	}
	if r.running() {
		r.crash()
	}
	if other := r.other; other != nil && rng.IntN(2) == 0 {
		r.note("      the next start takes %v", *other)
		r.take(*other)
	}
	r.other = nil
}

// isChange tells whether a record is written by a change.
func isChange(next raidstorage.Membership) bool { return strings.HasPrefix(next.Reason, "change: ") }

func TestPropertyChanges(t *testing.T) {
	t.Parallel()
	lies := propLies{changes: true}
	if seed, ok := propEnv(t, "RAIDSTORAGE_SEED"); ok {
		lies.logs, lies.alone = true, true
		trace, err := propPlay(t, seed, propPlan(seed), lies)
		t.Logf("the whole history:\n%s\n%v", strings.Join(trace, "\n"), err)
		if err != nil {
			t.Fail()
		}
		return
	}
	count, first := uint64(200), uint64(1)
	if n, ok := propEnv(t, "RAIDSTORAGE_HISTORIES"); ok {
		count, first = n, uint64(time.Now().UnixNano())/1e6*1e6
	}
	changed := 0
	for seed := first; seed < first+count && !t.Failed(); seed++ {
		trace, err := propPlay(t, seed, propPlan(seed), lies)
		if err != nil {
			t.Errorf("RAIDSTORAGE_SEED=%d: %v\n%s", seed, err, strings.Join(trace, "\n"))
		}
		for i, line := range trace {
			if strings.HasPrefix(line, "change to ") && i+1 < len(trace) && strings.TrimSpace(trace[i+1]) == "ok" {
				changed++
			}
		}
	}
	t.Logf("%d histories from RAIDSTORAGE_SEED=%d on, %d changes made", count, first, changed)
	if changed < int(count)/4 {
		t.Errorf("only %d changes were made", changed)
	}
}
