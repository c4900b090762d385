package raidstorage

// What a backend is to its mirror. The role that counts is the one in the membership
// record, beside the configured one: Promote, Demote and spares change it, and it stays
// over restarts. A configuration that says another role than when the record was
// written wins, at a start and in a Change: then the operator has decided anew.

import (
	"fmt"
	"slices"
)

// Role is what a backend is to its mirror.
type Role int

const (
	// RoleFull takes part in every commit while it is in sync, serves reads and counts
	// for the quorums.
	RoleFull Role = iota
	// RoleAsync follows the log of the others. It is never waited for and never counts:
	// a copy that is far away, or slow. Reads ask for it by name, see Mirror.Stale.
	RoleAsync
	// RoleSpare does nothing until it takes the place of a full one that is out, see
	// Config.SpareAfter, or is promoted. Its storage is closed, and what it holds does not
	// count.
	RoleSpare
)

var roleNames = [...]string{"full", "async", "spare"}

// String returns the word that configurations, records and tools have.
func (r Role) String() string {
	if r < 0 || int(r) >= len(roleNames) {
		return fmt.Sprintf("Role(%d)", int(r))
	}
	return roleNames[r]
}

// MarshalText makes JSON show the word.
func (r Role) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads what MarshalText wrote. Errors: *InvalidError.
func (r *Role) UnmarshalText(text []byte) error {
	i := slices.Index(roleNames[:], string(text))
	if i < 0 {
		return &InvalidError{Op: "role", Reason: fmt.Sprintf("%.40q is none; roles are full, async and spare", text)}
	}
	*r = Role(i)
	return nil
}

// MemberRole is a member's role as configured, and as it is.
type MemberRole struct {
	Configured Role `json:"configured"`
	Actual     Role `json:"actual"`
}

// plain tells whether the record need not mention it.
func (r MemberRole) plain() bool { return r == MemberRole{} }

// assumeRoles gives each backend the role that the record has for it, if the
// configuration is still the one that the record knows. Nothing runs beside it.
func (m *Mirror) assumeRoles(record Membership) {
	for _, b := range m.backends {
		if known, ok := record.Roles[b.cfg.Name]; ok && known.Configured == b.role.Configured {
			b.role.Actual = known.Actual
		}
	}
}

// rolesOf returns the roles as the record has them.
func rolesOf(backends []*backend, changed map[*backend]MemberRole) map[string]MemberRole {
	var roles map[string]MemberRole
	for _, b := range backends {
		role, ok := changed[b]
		if !ok {
			role = b.role
		}
		if role.plain() {
			continue
		}
		if roles == nil {
			roles = make(map[string]MemberRole)
		}
		roles[b.cfg.Name] = role
	}
	return roles
}

// isFull tells whether the record has a member take part in commits.
func (m Membership) isFull(name string) bool { return m.Roles[name].Actual == RoleFull }

// full returns those whose role is full. The commit slot, or mu, is held.
func (m *Mirror) full() []*backend {
	return slices.DeleteFunc(slices.Clone(m.backends), func(b *backend) bool { return b.role.Actual != RoleFull })
}

// roleOf returns what b is now.
func (m *Mirror) roleOf(b *backend) Role {
	m.mu.Lock()
	defer m.mu.Unlock()
	return b.role.Actual
}
