package zeoclient

import (
	"context"
	"math"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// Pack implements raidstorage.Packer, by the server's own pack. Whether it collects
// garbage is the server's setting and nothing that a client can ask for: without GC
// Pack is a *raidstorage.UnsupportedError, as the server would collect all the same;
// and so it is with opts.Decided.
//
// The server is given a time, which is a little less exact than a tid: transactions
// within half a microsecond after opts.Through may be taken as before it.
//
// It takes as long as the server does, and ends early only with ctx, which does not
// stop the server.
func (s *Storage) Pack(ctx context.Context, opts raidstorage.PackOptions) error {
	leave, c, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	switch {
	case opts.Decided:
		return &raidstorage.UnsupportedError{Storage: s.Name(), Capability: "GarbageFinder"}
	case !opts.GC:
		return &raidstorage.UnsupportedError{Storage: s.Name(), Capability: "Packer without garbage collection"}
	}
	k := c.newCall(zeowire.Pack, nil)
	k.then = func(error) { s.cache.clear() }
	k.kept = true // it is cleared whenever the answer comes
	if err := c.start(ctx, k, zeowire.Float(packTime(opts.Through)), zeowire.Bool(true)); err != nil {
		return err
	}
	return c.mapped(k.name, c.waitLong(ctx, k))
}

// packTime returns the smallest time, in seconds since 1970, that every server turns
// into a tid that is not before through. Servers round it in their own ways, so that it
// is aimed at the tid after through.
func packTime(through raidstorage.TID) float64 {
	through++
	at := through.Time()
	t := float64(at.Unix()) + float64(at.Nanosecond())/1e9
	for stamp(t) >= through {
		t = math.Nextafter(t, math.Inf(-1))
	}
	for stamp(t) < through {
		t = math.Nextafter(t, math.Inf(1))
	}
	return t
}

// stamp does what ZODB's storages do with a pack time: the whole minutes, and the
// seconds of the minute as a float.
func stamp(t float64) raidstorage.TID {
	minute := time.Unix(int64(math.Floor(t)), 0).UTC().Truncate(time.Minute)
	const unit = 60.0 / 65536 / 65536
	seconds := math.Mod(t, 60)
	if seconds < 0 {
		seconds += 60 // as Python does before 1970
	}
	return raidstorage.TIDFromTime(minute) + raidstorage.TID(seconds/unit)
}
