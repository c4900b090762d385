package raidstorage

// The membership record says which backends hold every acknowledged transaction.
// It is the only memory of a mirror besides the backends themselves, and it is
// written before anything relies on it: a backend leaves the record before a
// commit goes on without it, and enters it before a read or a quorum counts on it.
//
// Invariants (replication.md, P1 and M1-M5): InSync is never empty; every change
// raises Epoch by one, compares the epoch of the view on which the decision was
// made, and names its reason; a backend enters only through recovery.

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// Membership is the record of which backends are in sync. Names are those of
// Config.Backends.
type Membership struct {
	Epoch       uint64   `json:"epoch"`  // 0: there is no record yet
	Mirror      string   `json:"mirror"` // identifies the mirror, chosen at its first start
	Members     []string `json:"members"`
	InSync      []string `json:"in_sync"`
	Disabled    []string `json:"disabled,omitempty"`     // taken out by an operator
	Joining     string   `json:"joining,omitempty"`      // rule M3, for several front-ends
	PackHorizon TID      `json:"pack_horizon,omitempty"` // the greatest pack time: no undo at or before it, rules K2, K5
	// Unpacked names the backends that may hold other old revisions and garbage than
	// the rest: they were not there at the last pack, or it failed or was interrupted.
	Unpacked []string `json:"unpacked,omitempty"`
	// Damaged names the backends that a verification found to be wrong: they are
	// compared as a whole before they are taken back.
	Damaged []string `json:"damaged,omitempty"`
	// New names the members that no recovery has compared yet: they are compared as a
	// whole, too.
	New []string `json:"new,omitempty"`
	// Roles are those of the members that are, or are configured as, something else than
	// RoleFull. InSync holds full ones only.
	Roles map[string]MemberRole `json:"roles,omitempty"`
	// Identities are Backend.Identity of the members that have one.
	Identities map[string]string `json:"identities,omitempty"`
	Lock       *RecordLock       `json:"lock,omitempty"` // rule V6; never changed in place
	// Unfinished is a pack that has made its cut and has not come to its end: the next
	// start makes it again. Never changed in place.
	Unfinished *UnfinishedPack `json:"unfinished_pack,omitempty"`
	Reason     string          `json:"reason"`
	Time       time.Time       `json:"time"`
}

// UnfinishedPack says how to make a pack again.
type UnfinishedPack struct {
	Through TID  `json:"through"`
	GC      bool `json:"gc"`
}

// RecordLock says who is packing. A front-end that is alone removes what its dead
// predecessor left.
type RecordLock struct {
	Holder string    `json:"holder"`
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
}

// next returns the record that a change of m for reason starts from.
func (m Membership) next(now time.Time, reason string) Membership {
	m.Epoch++
	m.Members = slices.Clone(m.Members)
	m.InSync = slices.Clone(m.InSync)
	m.Disabled = slices.Clone(m.Disabled)
	m.Unpacked = slices.Clone(m.Unpacked)
	m.Damaged = slices.Clone(m.Damaged)
	m.New = slices.Clone(m.New)
	m.Identities = maps.Clone(m.Identities)
	m.Roles = maps.Clone(m.Roles)
	m.Joining = ""
	m.Reason = reason
	m.Time = now.UTC()
	return m
}

// fit makes backends the members, with their roles, or those in changed. What the record
// does not know is new, and nothing about it is trusted; what is not full is not in sync.
func (m *Membership) fit(backends []*backend, changed map[*backend]MemberRole) {
	m.Roles = rolesOf(backends, changed)
	m.InSync = slices.DeleteFunc(m.InSync, func(name string) bool { return !m.isFull(name) })
	names := make([]string, len(backends))
	known := m.Identities
	m.Identities = nil
	for i, b := range backends {
		name := b.cfg.Name
		names[i] = name
		if b.cfg.Identity != "" {
			if m.Identities == nil {
				m.Identities = make(map[string]string)
			}
			m.Identities[name] = b.cfg.Identity
		}
		exchanged := known[name] != "" && b.cfg.Identity != "" && known[name] != b.cfg.Identity
		if (exchanged || !slices.Contains(m.Members, name)) && !slices.Contains(m.New, name) {
			m.New = append(m.New, name)
		}
	}
	m.New = slices.DeleteFunc(m.New, func(name string) bool {
		return !slices.Contains(names, name) || slices.Contains(m.InSync, name)
	})
	m.Members = names
}

// uneven tells whether backends in sync may hold different old revisions and garbage.
func (m Membership) uneven() bool {
	return m.Lock != nil || slices.ContainsFunc(m.InSync, func(name string) bool { return slices.Contains(m.Unpacked, name) })
}

// Marks are what a mirror has handed out, or may have: no tid and no oid up to
// them is ever given again.
type Marks struct {
	TID TID `json:"tid"`
	OID OID `json:"oid"`
}

// Register keeps a Membership and Marks with compare-and-set: in a file for a
// mirror with one front-end, in a service such as etcd for several. It must be
// linearizable, and durable when it answers. All methods obey their context; a
// mirror adds a deadline. It may be used from several goroutines.
type Register interface {
	// Load returns the stored record, the zero Membership when there is none.
	Load(ctx context.Context) (Membership, error)

	// CompareAndSet stores next if the stored record's epoch is next.Epoch-1, else
	// it returns *EpochError and stores nothing. After any other error next may
	// have been stored, or be stored later; the mirror then moves the epoch on.
	CompareAndSet(ctx context.Context, next Membership) error

	// Reserve raises each mark by step, counted from the greater of the stored mark
	// and floor, and returns what it counted from: what lies above it, up to and
	// including the raised mark, now belongs to the caller alone.
	Reserve(ctx context.Context, floor, step Marks) (from Marks, err error)
}

// EpochError says that a membership record was changed by someone else: nothing
// was stored.
type EpochError struct {
	Want, Have uint64
}

func (e *EpochError) Error() string {
	return fmt.Sprintf("membership record has epoch %d, not %d", e.Have, e.Want)
}

// reserve is the arithmetic of Register.Reserve.
func (m Marks) reserve(floor, step Marks) (from, raised Marks) {
	from = Marks{TID: max(m.TID, floor.TID), OID: max(m.OID, floor.OID)}
	return from, Marks{TID: from.TID + step.TID, OID: from.OID + step.OID}
}

// MemoryRegister is a Register that lives as long as the process, for tests and
// scratch mirrors. The zero value is ready to use.
type MemoryRegister struct {
	mu     sync.Mutex // guards the fields below
	record Membership
	marks  Marks
}

var _ Register = (*MemoryRegister)(nil)

// Load implements Register.
func (r *MemoryRegister) Load(ctx context.Context) (Membership, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.record, ctx.Err()
}

// CompareAndSet implements Register.
func (r *MemoryRegister) CompareAndSet(ctx context.Context, next Membership) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.record.Epoch != next.Epoch-1 {
		return &EpochError{Want: next.Epoch - 1, Have: r.record.Epoch}
	}
	r.record = next
	return nil
}

// Reserve implements Register.
func (r *MemoryRegister) Reserve(ctx context.Context, floor, step Marks) (Marks, error) {
	if err := ctx.Err(); err != nil {
		return Marks{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	from, raised := r.marks.reserve(floor, step)
	r.marks = raised
	return from, nil
}
