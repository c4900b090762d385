package config

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/zeoraid/raidstorage"
)

// Bounds of a mirror's timeouts.
const (
	minTimeout = time.Second
	maxTimeout = 24 * time.Hour

	maxSpareAfter = 100 * 24 * time.Hour
	// maxPackTimeout is for a member's part of a pack, which may be large and slow.
	maxPackTimeout = 30 * 24 * time.Hour
)

// mirror reads a <raidstorage>. scope is the path beside which its state is kept.
func (b *builder) mirror(n *node, scope string) *Mirror {
	s := b.section(n)
	defer s.end()
	v := &Mirror{AutoRecover: true}
	b.roles(s)
	b.stateDir(s, v, scope)
	members := s.sections(storageTypes()...)
	b.mirrors++
	defer func() { b.mirrors-- }()
	for _, m := range members {
		if m.name == "" {
			s.fault(m.pos, "a member of a <raidstorage> must have a name, as in <%s 1>", m.typ)
		}
		v.Members = append(v.Members, b.storage(m, v.StateDir))
	}
	full := 0
	for _, m := range v.Members {
		if m.Role == raidstorage.RoleFull {
			full++
		}
	}
	b.checkMembers(v)
	if len(members) == 0 {
		s.fault(n.pos, "%s has no members; put sections such as <filestorage 1> into it", s.title())
	}
	if len(members) > 0 && full == 0 {
		s.fault(n.pos, "%s has no member with the role full", s.title())
	}
	high := int64(max(full, 1))
	s.integer("write-quorum", &v.WriteQuorum, 1, high)
	s.integer("start-quorum", &v.StartQuorum, 1, high)
	read(s, "read-policy", &v.ReadPolicy, parseReadPolicy)
	s.boolean("auto-recover", &v.AutoRecover)
	s.duration("spare-after", &v.SpareAfter, parseInterval, minTimeout, maxSpareAfter)
	catchUp(s, &v.CatchUp)
	scrub(s, &v.Scrub)
	b.timeouts(s, &v.Timeouts)
	s.duration("pack-timeout", &v.Timeouts.Pack, parseInterval, minTimeout, maxPackTimeout)
	s.bytes("pack-compare-rate", &v.CompareBytesPerSecond, 0, math.MaxInt64)
	var readOnly bool
	if pos, _ := s.boolean("read-only", &readOnly); readOnly {
		s.fault(pos, "read-only: a mirror is always writable; put read-only into <zeo>")
	}
	s.ignore("cluster-mode", "one server runs a mirror", nil)
	s.ignore("fail-mode", "start-quorum and write-quorum say when a mirror stops", nil)
	s.ignore("blob-dir", "the members have blobs of their own", nil)
	s.ignore("shared-blob-dir", "the members have blobs of their own", isBool)
	return v
}

// roles reads what a member is to its mirror.
func (b *builder) roles(s *section) {
	v := b.member
	if b.mirrors == 0 {
		return // these keys are of members only
	}
	read(s, "role", &v.Role, func(text string) (role raidstorage.Role, err error) {
		if err = role.UnmarshalText([]byte(lower(text))); err != nil {
			err = fmt.Errorf("%s is no role; %s", quote(text), suggest(text, []string{"full", "async", "spare"}))
		}
		return role, err
	})
	s.bytes("bandwidth", &v.Bandwidth, 0, math.MaxInt64)
	if v.Bandwidth > 0 && v.Role != raidstorage.RoleAsync {
		s.fault(s.pos, "bandwidth: it is for members with role async")
	}
}

func (b *builder) stateDir(s *section, v *Mirror, scope string) {
	pos, given := read(s, "state-dir", &v.StateDir, b.l.parsePlainPath)
	switch {
	case given && v.StateDir == "":
		s.fault(pos, "state-dir: it is empty")
	case !given:
		dir, ok := stateDir(scope, or(s.name, "1"))
		if !ok {
			s.fault(s.pos, "%s needs the key state-dir: its name is no name for a directory", s.title())
		}
		v.StateDir, pos = dir, s.pos
	}
	b.claim(pos, v.StateDir, "the state directory")
}

// Bounds of catching up. A ratio near 1 hardly ever ends a recovery, a great one lets
// nothing be committed.
const (
	minCatchUpRatio = 1.01
	maxCatchUpRatio = 1000
	minCatchUpDelay = time.Millisecond
)

// catchUp reads how commits are slowed for a recovery. The ratio off turns it off.
func catchUp(s *section, v *raidstorage.CatchUp) {
	read(s, "catch-up-ratio", &v.Ratio, func(text string) (float64, error) {
		if lower(text) == "off" {
			v.Off = true
			return 0, nil
		}
		ratio, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return 0, fmt.Errorf("%s is neither a number nor off", quote(text))
		}
		if !(ratio >= minCatchUpRatio && ratio <= maxCatchUpRatio) {
			return 0, fmt.Errorf("%v is not between %v and %v", ratio, minCatchUpRatio, maxCatchUpRatio)
		}
		return ratio, nil
	})
	s.duration("catch-up-max-delay", &v.MaxDelay, parseInterval, minCatchUpDelay, maxTimeout)
}

// Bounds of the scrub.
const (
	minScrubInterval = time.Minute
	maxScrubInterval = 3650 * 24 * time.Hour
	minScrubRate     = 1 << 10
	maxScrubRate     = 1 << 40
)

// scrub reads how the members are compared in the background. The interval off, or none,
// turns it off.
func scrub(s *section, v *raidstorage.Scrub) {
	s.duration("scrub-interval", &v.Interval, func(text string) (time.Duration, error) {
		if lower(text) == "off" {
			return 0, nil
		}
		d, err := parseInterval(text)
		if err == nil && d < minScrubInterval {
			err = fmt.Errorf("%v is neither at least %v nor off", d, minScrubInterval)
		}
		return d, err
	}, 0, maxScrubInterval)
	s.bytes("scrub-rate", &v.BytesPerSecond, minScrubRate, maxScrubRate)
	s.boolean("scrub-repair", &v.Repair)
}

// timeouts reads the keys of our own, and gocept.zeoraid's timeout for all of them.
func (b *builder) timeouts(s *section, v *raidstorage.Timeouts) {
	var all time.Duration
	s.duration("timeout", &all, parseInterval, minTimeout, maxTimeout)
	*v = raidstorage.Timeouts{Open: all, Vote: all, Finish: all, Read: all}
	for _, k := range []struct {
		key   string
		field *time.Duration
	}{
		{"open-timeout", &v.Open}, {"vote-timeout", &v.Vote}, {"finish-timeout", &v.Finish}, {"read-timeout", &v.Read},
	} {
		s.duration(k.key, k.field, parseInterval, minTimeout, maxTimeout)
	}
}

// checkMembers refuses what a mirror cannot be made of.
func (b *builder) checkMembers(v *Mirror) {
	keep, drop := "", "" // members with pack-gc off, and on
	for _, m := range v.Members {
		fault := func(format string, args ...any) { b.l.faults.add(m.Pos, fmt.Sprintf(format, args...), "") }
		gc := true
		switch k := m.Kind.(type) {
		case *FileStorage:
			if k.ReadOnly {
				fault("member %s: read-only is on, so that it could not follow the others", quote(m.Name))
			}
			gc = k.PackGC
		case *ZEOClient:
			if k.ReadOnly || k.ReadOnlyFallback {
				fault("member %s: read-only or read-only-fallback is on, so that it might not follow the others", quote(m.Name))
			}
			continue // what its server does is not known
		}
		if gc {
			drop = or(drop, m.Name)
		} else {
			keep = or(keep, m.Name)
		}
		// A mirror decides once for all members what is garbage.
		if keep != "" && drop != "" {
			fault("member %s: pack-gc is off for %s and on for %s; it must be the same for all", quote(m.Name), quote(keep), quote(drop))
			return
		}
	}
}

// parsePlainPath takes a path that is made when it does not exist.
func (l *loader) parsePlainPath(text string) (string, error) { return l.expandHome(text), nil }
