package raidstorage

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// tuning is the part of a Config, besides the backends, that Change changes.
type tuning struct {
	WriteQuorum, StartQuorum int
	ReadPolicy               ReadPolicy
	Timeouts                 Timeouts
}

// tuning returns that part of a configuration with all defaults.
func (c Config) tuning() *tuning {
	return &tuning{WriteQuorum: c.WriteQuorum, StartQuorum: c.StartQuorum, ReadPolicy: c.ReadPolicy, Timeouts: c.Timeouts}
}

// tuned returns the tuning in force. It changes only while the commit slot is held.
func (m *Mirror) tuned() *tuning { return m.tuning.Load() }

var readPolicyNames = [...]string{"round robin", "least latency", "primary first"}

// String returns the words that tools show.
func (p ReadPolicy) String() string {
	if p < 0 || int(p) >= len(readPolicyNames) {
		return fmt.Sprintf("ReadPolicy(%d)", int(p))
	}
	return readPolicyNames[p]
}

// Difference is what a Change changes. Names of backends are in the wanted order.
type Difference struct {
	Added    []string `json:"added,omitempty"`
	Removed  []string `json:"removed,omitempty"`
	Replaced []string `json:"replaced,omitempty"` // the same name with another storage
	// Order is the new order of all backends, if those that stay are in another one.
	Order    []string        `json:"order,omitempty"`
	Settings []SettingChange `json:"settings,omitempty"`
	// Roles are the changes of what backends that stay are configured as.
	Roles []SettingChange `json:"roles,omitempty"`
	// Leaving names the backends that are in sync and leave it, or cease to be full: copies
	// that are there now and will not count.
	Leaving []string `json:"leaving,omitempty"`
}

// SettingChange is one setting that changes, in words.
type SettingChange struct {
	Name string `json:"name"`
	From string `json:"from"`
	To   string `json:"to"`
}

// Empty tells whether nothing changes.
func (d Difference) Empty() bool { return len(d.Lines()) == 0 }

// members tells whether backends come or go.
func (d Difference) members() bool {
	return len(d.Added)+len(d.Removed)+len(d.Replaced)+len(d.Roles) > 0
}

// Lines tells the difference, one thing a line.
func (d Difference) Lines() []string {
	var lines []string
	tell := func(what string, names []string) {
		for _, name := range names {
			line := what + " backend " + name
			if slices.Contains(d.Leaving, name) {
				line += ", which is in sync"
			}
			lines = append(lines, line)
		}
	}
	tell("add", d.Added)
	tell("remove", d.Removed)
	tell("replace", d.Replaced)
	if len(d.Order) > 0 {
		lines = append(lines, "order backends as "+strings.Join(d.Order, ", "))
	}
	for _, r := range d.Roles {
		line := fmt.Sprintf("role of backend %s from %s to %s", r.Name, r.From, r.To)
		if slices.Contains(d.Leaving, r.Name) {
			line += ", which is in sync"
		}
		lines = append(lines, line)
	}
	for _, s := range d.Settings {
		lines = append(lines, fmt.Sprintf("%s from %s to %s", s.Name, s.From, s.To))
	}
	return lines
}

// String tells the difference in one line.
func (d Difference) String() string {
	if d.Empty() {
		return "no difference"
	}
	return strings.Join(d.Lines(), "; ")
}

// changePlan is what a Change leads to.
type changePlan struct {
	diff     Difference
	tuning   *tuning
	backends []*backend              // all members afterwards
	fresh    []*backend              // those of them that were not there
	gone     []*backend              // those that leave, the replaced ones too
	roles    map[*backend]MemberRole // of those that stay and are configured as something else
	rates    map[*backend]int64      // the new bandwidths of those that stay
}

// planLocked compares c with what is in force. It begins nothing. The caller holds m.mu.
func (m *Mirror) planLocked(c Change) (*changePlan, error) {
	cfg := m.cfg
	cfg.Backends = slices.Clone(c.Backends)
	cfg.WriteQuorum, cfg.StartQuorum, cfg.ReadPolicy, cfg.Timeouts = c.WriteQuorum, c.StartQuorum, c.ReadPolicy, c.Timeouts
	cfg.Force = nil
	present := make(map[string]*backend)
	for _, b := range m.backends {
		present[b.cfg.Name] = b
	}
	for i, b := range cfg.Backends {
		if old := present[b.Name]; b.Open == nil && old != nil {
			cfg.Backends[i].Open = old.cfg.Open // for Validate
		}
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	p := &changePlan{tuning: cfg.withDefaults().tuning(), roles: make(map[*backend]MemberRole), rates: make(map[*backend]int64)}
	for _, b := range c.Backends {
		old := present[b.Name]
		if old != nil && b.Open == nil {
			p.backends = append(p.backends, old)
			p.stays(old, b)
			continue
		}
		fresh := newBackend(b, m.now(), "it was added and holds nothing that counts until it is recovered")
		if old == nil {
			p.diff.Added = append(p.diff.Added, b.Name)
		} else {
			p.diff.Replaced = append(p.diff.Replaced, b.Name)
			p.gone = append(p.gone, old)
			fresh.replaces = old
			fresh.reason = "its storage was replaced, and the new one holds nothing that counts until it is recovered"
		}
		p.backends, p.fresh = append(p.backends, fresh), append(p.fresh, fresh)
	}
	for _, b := range m.backends {
		if !slices.ContainsFunc(c.Backends, func(w Backend) bool { return w.Name == b.cfg.Name }) {
			p.diff.Removed = append(p.diff.Removed, b.cfg.Name)
			p.gone = append(p.gone, b)
		}
	}
	p.leaving(m.shown)
	p.diff.Order = m.orderLocked(p.backends)
	p.diff.Settings = append(p.diff.Settings, differences(*m.tuned(), *p.tuning)...)
	return p, nil
}

// stays notes what changes of a backend that stays. mu is held.
func (p *changePlan) stays(old *backend, wanted Backend) {
	if from := old.role.Configured; from != wanted.Role {
		p.roles[old] = MemberRole{Configured: wanted.Role, Actual: wanted.Role}
		p.diff.Roles = append(p.diff.Roles, SettingChange{old.cfg.Name, from.String(), wanted.Role.String()})
	}
	if old.bandwidth != wanted.Bandwidth {
		p.rates[old] = wanted.Bandwidth
		p.diff.Settings = append(p.diff.Settings, SettingChange{"bandwidth of backend " + old.cfg.Name,
			fmt.Sprint(old.bandwidth), fmt.Sprint(wanted.Bandwidth)})
	}
}

// ceases lists those that go, and those that stay and will not be full.
func (p *changePlan) ceases() []*backend {
	all := slices.Clone(p.gone)
	for b, role := range p.roles {
		if role.Actual != RoleFull {
			all = append(all, b)
		}
	}
	return all
}

// leaving lists those that go, or cease to be full, and are in sync by the record.
func (p *changePlan) leaving(record Membership) {
	p.diff.Leaving = nil
	for _, b := range p.ceases() {
		if slices.Contains(record.InSync, b.cfg.Name) {
			p.diff.Leaving = append(p.diff.Leaving, b.cfg.Name)
		}
	}
}

// orderLocked returns the names of wanted if those that are there now have another
// order among themselves.
func (m *Mirror) orderLocked(wanted []*backend) []string {
	index := func(name string) int {
		return slices.IndexFunc(m.backends, func(b *backend) bool { return b.cfg.Name == name })
	}
	names := make([]string, len(wanted))
	last, moved := -1, false
	for i, b := range wanted {
		names[i] = b.cfg.Name
		if at := index(b.cfg.Name); at >= 0 {
			moved = moved || at < last
			last = at
		}
	}
	if !moved {
		return nil
	}
	return names
}

// differences lists the settings that differ.
func differences(from, to tuning) []SettingChange {
	var all []SettingChange
	note := func(name string, from, to any) {
		if from != to {
			all = append(all, SettingChange{name, fmt.Sprint(from), fmt.Sprint(to)})
		}
	}
	note("write quorum", from.WriteQuorum, to.WriteQuorum)
	note("start quorum", from.StartQuorum, to.StartQuorum)
	note("read policy", from.ReadPolicy, to.ReadPolicy)
	for _, t := range []struct {
		name     string
		from, to time.Duration
	}{
		{"open", from.Timeouts.Open, to.Timeouts.Open},
		{"vote", from.Timeouts.Vote, to.Timeouts.Vote},
		{"finish", from.Timeouts.Finish, to.Timeouts.Finish},
		{"read", from.Timeouts.Read, to.Timeouts.Read},
		{"register", from.Timeouts.Register, to.Timeouts.Register},
		{"pack settle", from.Timeouts.PackSettle, to.Timeouts.PackSettle},
		{"pack", from.Timeouts.Pack, to.Timeouts.Pack},
	} {
		note(t.name+" timeout", t.from, t.to)
	}
	return all
}

// need is how many backends in sync must stay, and whether the change is one that must
// look: one which takes none out, and asks for no more than before, makes nothing worse,
// and may be the way out of too few.
func (p *changePlan) need(now *tuning) (n int, look bool) {
	t := p.tuning
	return max(1, t.WriteQuorum, t.StartQuorum),
		len(p.diff.Leaving) > 0 || t.WriteQuorum > now.WriteQuorum || t.StartQuorum > now.StartQuorum
}

// stayingLocked counts the backends in sync that answer and stay. The caller holds m.mu.
func (m *Mirror) stayingLocked(p *changePlan) (n int) {
	ceases := p.ceases()
	for _, b := range p.backends {
		if !slices.Contains(ceases, b) && b.state == StateInSync && b.session != nil && !b.session.dead.Load() {
			n++
		}
	}
	return n
}

// checkLocked refuses a plan that would leave too few, as far as that is known.
func (m *Mirror) checkLocked(p *changePlan) error {
	need, look := p.need(m.tuned())
	if n := m.stayingLocked(p); look && n < need {
		return tooFew(p, n, need, nil)
	}
	return nil
}

func tooFew(p *changePlan, n, need int, err error) error {
	reason := fmt.Errorf("refused: after the change (%v) too few would be in sync", p.diff)
	if err != nil {
		reason = fmt.Errorf("%w: %w", reason, err)
	}
	return &UnavailableError{InSync: n, Need: need, Err: reason}
}
