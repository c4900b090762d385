package raidstorage

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
)

// Config says what a mirror is made of. The zero value of each field but Backends
// is its default.
type Config struct {
	// Name names the mirror for people; default "mirror".
	Name string

	// Backends are the members, at least one, each with a unique name.
	Backends []Backend

	// WriteQuorum is the smallest number of durable copies that a commit may be
	// acknowledged with. Default: 1 for one or two backends whose Role is RoleFull, else a
	// majority of those.
	WriteQuorum int

	// StartQuorum is the smallest number of in-sync backends to go on with when the
	// others fail outside a commit: at start-up, on reads, after an unknown outcome.
	// With fewer nothing is served. Default: WriteQuorum. 1 chooses availability of
	// reads over copies.
	StartQuorum int

	// ReadPolicy chooses the backend of each read.
	ReadPolicy ReadPolicy

	// StateDir is the directory of the membership record and the marks, for a
	// FileRegister. Membership is another Register instead of it; the caller closes
	// that. One of the two must be set: without a record a restart could not tell
	// which backends are whole.
	StateDir   string
	Membership Register

	// Force names the backends to trust when Open refuses because those in sync
	// are unreachable: they become the in-sync set, as they are. Transactions that
	// only others hold are given up. It is logged and written into the record.
	Force []string

	Timeouts Timeouts

	// AutoRecover tells whether backends that failed are opened again, and
	// recovered, without being asked.
	AutoRecover AutoRecover
	// RetryMin and RetryMax bound the exponentially growing pause between attempts
	// to open or recover a failed backend; defaults 1 s and 2 min.
	RetryMin, RetryMax time.Duration

	// SpareAfter is how long a full backend may be out of sync before a spare takes its
	// place, if AutoRecover is on; default 10 min. The two exchange their roles in the
	// record: the spare counts when it is recovered, and the other one is a spare until
	// it is promoted. One that an operator has disabled is not replaced.
	SpareAfter time.Duration

	// CatchUp slows commits while a backend is recovered, as far as that is needed.
	CatchUp CatchUp

	// Scrub has the backends compared in the background.
	Scrub Scrub

	// CompareBytesPerSecond bounds how much record data the comparison after a pack
	// reads, counted once for all backends; 0: as fast as it goes.
	CompareBytesPerSecond int64

	// SpoolBytes is how much of one transaction's data is kept in memory until it
	// votes; the rest waits in a temporary file. Default 32 MiB.
	SpoolBytes int64
	// TempDir is where spooled data and blobs wait; default os.TempDir().
	TempDir string

	// Clock is where tids and timestamps come from; default time.Now. Deadlines
	// use the time package.
	Clock func() time.Time
	// Logger gets each state change; nil discards.
	Logger *slog.Logger
}

// Backend is one member of a mirror, as configured.
type Backend struct {
	// Name is the backend's identity in the membership record.
	Name string
	// Open opens the storage. It is called at start-up and after each failure, when
	// the earlier storage has been closed, with a deadline.
	Open func(context.Context) (Storage, error)
	// Identity, if it is not empty, tells this storage from another one of the same
	// name: a path, an address. At a start a backend whose identity is not the one that
	// the record has is not trusted, and recovered. A database that has moved as a whole
	// is opened with Force.
	Identity string
	// Role is what the backend is to the mirror; default RoleFull. At least one must be
	// that. A role that Promote, Demote or a spare's swap gave it stays over restarts,
	// until another Role is configured than before.
	Role Role
	// Bandwidth bounds how fast a RoleAsync backend is written to, in bytes a second; 0
	// for no bound.
	Bandwidth int64
}

// Timeouts bound what a mirror waits for. A backend that exceeds one is dropped.
// 0 means the default.
type Timeouts struct {
	Open     time.Duration // opening and closing a backend; default 30 s
	Vote     time.Duration // begin, stores and vote; default 30 s
	Finish   time.Duration // finish or abort; default 30 s
	Read     time.Duration // one read; default 10 s
	Register time.Duration // one operation of the Register; default 10 s
	// PackSettle is how long commits wait when backends that decide themselves what is
	// garbage, such as ZEO servers, were told to pack: they must have begun by then
	// (rule K3). Default 1 s. It drops nobody.
	PackSettle time.Duration
	// Pack is for one backend's part of a pack: finding the garbage, or packing. A
	// backend that takes longer stays unpacked, and is reported. Default 24 h. It drops
	// nobody.
	Pack time.Duration
}

// ReadPolicy chooses the backend of each read among those that are in sync.
type ReadPolicy int

const (
	// RoundRobin takes the backends in turn.
	RoundRobin ReadPolicy = iota
	// LeastLatency takes the backend that answered fastest lately, and now and then
	// another, so as to know.
	LeastLatency
	// PrimaryFirst takes the first in Config.Backends that is in sync.
	PrimaryFirst
)

// AutoRecover is a choice with a default.
type AutoRecover int

const (
	// AutoRecoverOn is the default.
	AutoRecoverOn AutoRecover = iota
	// AutoRecoverOff leaves failed backends alone until Recover is called.
	AutoRecoverOff
)

// Validate reports everything that is wrong with the configuration, as
// *InvalidError.
func (c Config) Validate() error {
	var wrong []string
	fault := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if len(c.Backends) == 0 {
		fault("no backends")
	}
	names := make(map[string]bool)
	full := 0
	for i, b := range c.Backends {
		switch {
		case b.Name == "":
			fault("backend %d has no name", i)
		case names[b.Name]:
			fault("two backends are named %q", b.Name)
		}
		if b.Open == nil {
			fault("backend %q has no Open", b.Name)
		}
		if b.Role < RoleFull || b.Role > RoleSpare {
			fault("backend %q has the unknown %v", b.Name, b.Role)
		}
		if b.Bandwidth < 0 {
			fault("backend %q has a negative Bandwidth", b.Name)
		}
		if b.Role == RoleFull {
			full++
		}
		names[b.Name] = true
	}
	if full == 0 && len(c.Backends) > 0 {
		fault("no backend has the role full")
	}
	for what, n := range map[string]int{"WriteQuorum": c.WriteQuorum, "StartQuorum": c.StartQuorum} {
		if n < 0 || n > max(full, 1) {
			fault("%s %d with %d backends", what, n, full)
		}
	}
	if c.ReadPolicy < RoundRobin || c.ReadPolicy > PrimaryFirst {
		fault("unknown ReadPolicy %d", c.ReadPolicy)
	}
	if (c.StateDir == "") == (c.Membership == nil) {
		fault("exactly one of StateDir and Membership must be set")
	}
	for _, name := range c.Force {
		if !names[name] {
			fault("Force names an unknown backend %q", name)
		}
	}
	t := c.Timeouts
	if min(t.Open, t.Vote, t.Finish, t.Read, t.Register, t.PackSettle, t.Pack, c.SpareAfter, c.RetryMin, c.RetryMax, c.Scrub.Interval) < 0 ||
		min(c.SpoolBytes, c.CompareBytesPerSecond, c.Scrub.BytesPerSecond) < 0 {
		fault("a negative duration or size")
	}
	if f := c.CatchUp.fault(); f != "" {
		fault("%s", f)
	}
	if wrong == nil {
		return nil
	}
	slices.Sort(wrong)
	return &InvalidError{Op: "configuration", Reason: strings.Join(wrong, "; ")}
}

// withDefaults returns a copy with every default filled in.
func (c Config) withDefaults() Config {
	c.Backends = slices.Clone(c.Backends)
	c.Force = slices.Clone(c.Force)
	fill(&c.Name, "mirror")
	n := 0
	for _, b := range c.Backends {
		if b.Role == RoleFull {
			n++
		}
	}
	if n <= 2 {
		fill(&c.WriteQuorum, 1)
	}
	fill(&c.WriteQuorum, n/2+1)
	fill(&c.StartQuorum, c.WriteQuorum)
	fill(&c.Timeouts.Open, 30*time.Second)
	fill(&c.Timeouts.Vote, 30*time.Second)
	fill(&c.Timeouts.Finish, 30*time.Second)
	fill(&c.Timeouts.Read, 10*time.Second)
	fill(&c.Timeouts.Register, 10*time.Second)
	fill(&c.Timeouts.PackSettle, time.Second)
	fill(&c.Timeouts.Pack, 24*time.Hour)
	fill(&c.RetryMin, time.Second)
	fill(&c.RetryMax, max(2*time.Minute, c.RetryMin))
	fill(&c.SpareAfter, 10*time.Minute)
	fill(&c.CatchUp.Ratio, defaultCatchUpRatio)
	fill(&c.CatchUp.MaxDelay, defaultCatchUpMaxDelay)
	fill(&c.Scrub.BytesPerSecond, defaultScrubRate)
	fill(&c.SpoolBytes, 32<<20)
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func fill[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
