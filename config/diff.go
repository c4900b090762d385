package config

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/zeoraid/raidstorage"
)

// Difference is what another configuration would change of a server that runs, in
// words, one thing a line.
type Difference struct {
	// Mirror is the name of the mirror that changes, empty if none does.
	Mirror string
	// Changes are what can be changed while the server runs: of the mirror's members,
	// quorums, read policy and timeouts.
	Changes []string
	// Fixed are what cannot, each with the reason.
	Fixed []string
}

// Empty tells whether nothing changes.
func (d Difference) Empty() bool { return len(d.Changes)+len(d.Fixed) == 0 }

// Diff compares two configurations. A member whose section differs in any way is
// replaced: it is opened anew and recovered.
func Diff(old, new *Config) Difference {
	var d Difference
	fixed := func(what string, from, to any, why string) {
		if !reflect.DeepEqual(from, to) {
			d.Fixed = append(d.Fixed, what+": "+why)
		}
	}
	restart := "it changes at a restart only"
	fixed("zeo", old.Server, new.Server, "addresses, TLS and the other settings of the server change at a restart only")
	fixed("eventlog", old.Log, new.Log, restart)
	fixed("admin", old.Admin, new.Admin, restart)
	for _, v := range old.Storages {
		if i := named(new.Storages, v.Name); i < 0 {
			d.Fixed = append(d.Fixed, fmt.Sprintf("storage %s is removed: what is served changes at a restart only", v.Name))
		} else {
			d.storage(v, new.Storages[i])
		}
	}
	for _, v := range new.Storages {
		if named(old.Storages, v.Name) < 0 {
			d.Fixed = append(d.Fixed, fmt.Sprintf("storage %s is added: what is served changes at a restart only", v.Name))
		}
	}
	return d
}

func named(all []Storage, name string) int {
	return slices.IndexFunc(all, func(v Storage) bool { return v.Name == name })
}

// storage compares what is served under one name.
func (d *Difference) storage(old, new Storage) {
	if same(old, new) {
		return
	}
	from, ok := old.Kind.(*Mirror)
	to, both := new.Kind.(*Mirror)
	if !ok || !both {
		d.Fixed = append(d.Fixed, fmt.Sprintf("storage %s: only a <raidstorage> can change while it is served", new.Name))
		return
	}
	before := len(d.Fixed)
	fixed := func(key string, differs bool) {
		if differs {
			d.Fixed = append(d.Fixed, fmt.Sprintf("storage %s: %s changes at a restart only", new.Name, key))
		}
	}
	fixed("state-dir", absolute(from.StateDir) != absolute(to.StateDir))
	fixed("auto-recover", from.AutoRecover != to.AutoRecover)
	fixed("spare-after", from.SpareAfter != to.SpareAfter)
	fixed("catch-up-ratio", from.CatchUp.Ratio != to.CatchUp.Ratio || from.CatchUp.Off != to.CatchUp.Off)
	fixed("catch-up-max-delay", from.CatchUp.MaxDelay != to.CatchUp.MaxDelay)
	fixed("scrub-interval", from.Scrub.Interval != to.Scrub.Interval)
	fixed("scrub-repair", from.Scrub.Repair != to.Scrub.Repair)
	fixed("scrub-rate", from.Scrub.BytesPerSecond != to.Scrub.BytesPerSecond)
	fixed("pack-compare-rate", from.CompareBytesPerSecond != to.CompareBytesPerSecond)
	changes := mirrorChanges(from, to)
	if len(changes) == 0 && len(d.Fixed) == before {
		changes = []string{"order of members"}
	}
	switch {
	case len(changes) == 0:
	case d.Mirror != "" && d.Mirror != new.Name:
		d.Fixed = append(d.Fixed, fmt.Sprintf("storage %s: change %s first; one mirror is changed at a time, so that a failure leaves everything as it was", new.Name, d.Mirror))
	default:
		d.Mirror, d.Changes = new.Name, changes
	}
}

// mirrorChanges tells what can change of a mirror.
func mirrorChanges(from, to *Mirror) []string {
	var all []string
	tell := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	for _, v := range to.Members {
		i := named(from.Members, v.Name)
		switch {
		case i < 0:
			tell("add member %s: %s", v.Name, describe(v))
		case !same(from.Members[i], v):
			tell("replace member %s: %s instead of %s", v.Name, describe(v), describe(from.Members[i]))
		}
		if i < 0 {
			continue
		}
		if was := from.Members[i]; was.Role != v.Role {
			tell("role of member %s: %v instead of %v", v.Name, v.Role, was.Role)
		}
		if was := from.Members[i]; was.Bandwidth != v.Bandwidth {
			tell("bandwidth of member %s: %d instead of %d bytes a second, 0 for no bound", v.Name, v.Bandwidth, was.Bandwidth)
		}
	}
	for _, v := range from.Members {
		if named(to.Members, v.Name) < 0 {
			tell("remove member %s: %s", v.Name, describe(v))
		}
	}
	setting := func(key, from, to string) {
		if from != to {
			tell("%s: %s instead of %s", key, to, from)
		}
	}
	quorum := func(n int) string {
		if n == 0 {
			return "the default"
		}
		return strconv.Itoa(n)
	}
	setting("write-quorum", quorum(from.WriteQuorum), quorum(to.WriteQuorum))
	setting("start-quorum", quorum(from.StartQuorum), quorum(to.StartQuorum))
	setting("read-policy", from.ReadPolicy.String(), to.ReadPolicy.String())
	duration := func(d time.Duration) string {
		if d == 0 {
			return "the default"
		}
		return d.String()
	}
	setting("pack-timeout", duration(from.Timeouts.Pack), duration(to.Timeouts.Pack))
	others := from.Timeouts
	if others.Pack = to.Timeouts.Pack; others != to.Timeouts {
		tell("timeouts: open %v, vote %v, finish %v, read %v; 0s is the default", to.Timeouts.Open, to.Timeouts.Vote, to.Timeouts.Finish, to.Timeouts.Read)
	}
	return all
}

// same compares two storages but for their places in files, and what is for one start.
func same(a, b Storage) bool {
	x, ok := a.Kind.(*Mirror)
	y, both := b.Kind.(*Mirror)
	if !ok || !both {
		return a.Name == b.Name && reflect.DeepEqual(a.Kind, b.Kind)
	}
	p, q := *x, *y
	p.Force, q.Force, p.Members, q.Members = nil, nil, nil, nil
	return a.Name == b.Name && reflect.DeepEqual(p, q) && slices.EqualFunc(x.Members, y.Members, func(a, b Storage) bool {
		return same(a, b) && a.Role == b.Role && a.Bandwidth == b.Bandwidth
	})
}

// identity is a member's raidstorage.Backend.Identity: what tells its storage from
// another one of its name. Paths go from the mirror's state directory, so that a
// database may be moved, or restored, together with its state.
func identity(v Storage, stateDir string) string {
	return describeFrom(v, func(path string) string {
		path = absolute(path)
		if rel, err := filepath.Rel(absolute(stateDir), path); err == nil {
			path = filepath.ToSlash(rel)
		}
		return path
	})
}

// describe tells people what a storage is.
func describe(v Storage) string { return describeFrom(v, absolute) }

func describeFrom(v Storage, show func(path string) string) string {
	switch k := v.Kind.(type) {
	case *FileStorage:
		text := "file " + show(k.Path)
		if k.BlobDir != "" {
			text += " with blobs in " + show(k.BlobDir)
		}
		return text
	case *ZEOClient:
		var servers []string
		for _, a := range k.Servers {
			servers = append(servers, a.String())
		}
		return fmt.Sprintf("storage %s at %s", k.Storage, strings.Join(servers, ", "))
	case *Mirror:
		return "mirror with its state in " + show(k.StateDir)
	}
	return "in memory"
}

// Reload makes the mirrors of o what new says, where old is what they were opened with,
// or changed to last. It is all or nothing: *raidstorage.InvalidError names what cannot
// change while they run; else errors are those of raidstorage.Mirror.Change, which does
// not wait for a pack, a recovery or a verification. With dryRun it only tells. What
// would change is returned in each case.
func (o *Opened) Reload(ctx context.Context, old, new *Config, logger *slog.Logger, dryRun bool) (Difference, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	d := Diff(old, new)
	if len(d.Fixed) > 0 {
		return d, &raidstorage.InvalidError{Op: "reload", Reason: strings.Join(d.Fixed, "; ")}
	}
	if d.Mirror == "" {
		return d, nil
	}
	m := o.Mirrors[d.Mirror]
	from, isMirror := old.Storages[named(old.Storages, d.Mirror)].Kind.(*Mirror)
	to, both := new.Storages[named(new.Storages, d.Mirror)].Kind.(*Mirror)
	if m == nil || !isMirror || !both {
		return d, &raidstorage.InvalidError{Op: "reload", Reason: "mirror " + d.Mirror + " was not opened"}
	}
	c, err := to.change(from, d.Mirror, logger.With("storage", d.Mirror))
	if err != nil {
		return d, err
	}
	if _, err := m.Plan(c); err != nil || dryRun {
		return d, err
	}
	return d, m.Change(ctx, c)
}

// change is what leads from one configuration of a mirror to this one.
func (m *Mirror) change(from *Mirror, name string, logger *slog.Logger) (raidstorage.Change, error) {
	cfg, err := m.config(name, logger)
	if err != nil {
		return raidstorage.Change{}, err
	}
	for i, v := range m.Members {
		if k := named(from.Members, v.Name); k >= 0 && same(from.Members[k], v) {
			cfg.Backends[i].Open = nil // stays as it is
		}
	}
	return raidstorage.Change{Backends: cfg.Backends, WriteQuorum: cfg.WriteQuorum, StartQuorum: cfg.StartQuorum,
		ReadPolicy: cfg.ReadPolicy, Timeouts: cfg.Timeouts, NoWait: true}, nil
}
