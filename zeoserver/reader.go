package zeoserver

import (
	"bufio"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// How calls are read.
//
// One goroutine of a connection is its reader. It runs loads itself, and writes their
// replies, all at once, when no other call is in its buffer: waking another goroutine
// costs more than a load from a file. But a load may take long, and so may a write to
// a client that does not read, and neither may hold up the calls behind it: votes,
// pings, loads of other objects. So a watchdog looks at the reader while it is busy,
// and when it sees it at the same thing twice, another goroutine goes on reading. The
// late one ends with what it is at: a reply needs no reader.
//
// A storage that can begin a load and answer later, a raidstorage.LoadStarter, is asked to:
// then nobody waits, see startload.go. Nobody watches it, as it does not wait.
//
// From another storage that takes a while for each load, because it is far away, say, several
// objects are loaded at the same time, each in a goroutine of its own, for a number of
// loads; then the reader tries again.

const (
	// watchTick is how often the watchdog looks: what is late is so after two ticks
	// at most.
	watchTick = 2 * time.Millisecond
	// slowLoad is a load so slow that the next ones run beside the reader: it is some
	// times what waking a goroutine costs. It is minBeside loads then, twice as many
	// each time that the try after them is slow, too, and at most maxBeside.
	slowLoad  = 100 * time.Microsecond
	minBeside = 32
	maxBeside = 4096
)

// errHandedOver ends a reader that was late: another one goes on.
var errHandedOver = errors.New("another goroutine reads")

// reader is what belongs to the reader, and is handed over with the reading.
type reader struct {
	in         *bufio.Reader
	frames     *zeowire.FrameReader
	decoder    zeowire.Decoder
	registered bool
	beside     int                      // how many of the next loads run beside the reader
	lastBeside int                      // how many these were at the last slow load, 0 after a quick one
	unsent     bool                     // replies are in the outbox that the writer was not told of
	held       []raidstorage.LoadSender // of loads that were begun and are to be sent
}

// hold has the load sent with those that are read after it.
func (r *reader) hold(held raidstorage.LoadSender) {
	if held != nil && !slices.Contains(r.held, held) {
		r.held = append(r.held, held)
	}
}

// sendHeld sends the loads that are held back.
func (r *reader) sendHeld() {
	for len(r.held) > 0 {
		n := len(r.held) - 1
		held := r.held[n]
		r.held[n] = nil
		r.held = r.held[:n] // first, as it may panic
		held.SendLoads()
	}
}

// slow has the next loads run beside the reader.
func (r *reader) slow() {
	r.lastBeside = min(max(2*r.lastBeside, minBeside), maxBeside)
	r.beside = r.lastBeside
}

// watch is how the reader's watchdog sees that it is late.
type watch struct {
	turn  atomic.Uint64 // goes up when the reader begins what may take long, to an odd number, and when it ends it
	armed atomic.Bool   // the timer runs
	timer *time.Timer
	seen  uint64 // turn at the last look; the timer's own
}

// enter is called by the reader before what may take long.
func (w *watch) enter() uint64 {
	turn := w.turn.Add(1)
	if !w.armed.Load() {
		w.arm()
	}
	return turn
}

func (w *watch) arm() {
	if w.armed.CompareAndSwap(false, true) {
		w.timer.Reset(watchTick)
	}
}

// leave ends what enter began. False means that another goroutine reads now.
func (w *watch) leave(turn uint64) bool { return w.turn.CompareAndSwap(turn, turn+1) }

// look is the watchdog. It rests when it has seen nothing new.
func (c *conn) look() {
	w := &c.watch
	turn := w.turn.Load()
	if turn != w.seen {
		w.seen = turn
		w.timer.Reset(watchTick)
		return
	}
	late := turn%2 == 1 && w.leave(turn)
	w.armed.Store(false)
	if late {
		c.handOver()
	} else if w.turn.Load() != turn {
		w.arm()
	}
}

// handOver starts another reader. The late one is in the group or is serve itself, which
// waits for the end of the last one.
func (c *conn) handOver() {
	c.r.slow()
	c.wakeWriter()
	c.group.Go(func() {
		if err := c.readCalls(); !errors.Is(err, errHandedOver) {
			c.endReading(err)
			close(c.readEnd)
		}
	})
}

// readCalls reads calls until the connection ends, or another goroutine reads.
func (c *conn) readCalls() (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.logger().Error("bug: a method panicked", "reason", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = errors.New("a method failed")
		}
		if !errors.Is(err, errHandedOver) {
			defer c.guard(zeowire.LoadBefore)
			c.r.sendHeld()
		}
	}()
	for {
		if (c.r.unsent || len(c.r.held) > 0) && !zeowire.FrameBuffered(c.r.in) {
			c.r.sendHeld()
			if c.r.unsent {
				if err := c.flush(); err != nil {
					return err
				}
			}
		}
		body, err := c.r.frames.Next()
		if err != nil {
			return err
		}
		m, err := c.r.decoder.Message(body)
		if err != nil {
			return err
		}
		if n, ok := m.ID.Int(); ok && n == zeowire.KeepAliveID {
			continue
		}
		if m.Name != zeowire.LoadBefore { // other calls may wait
			c.r.sendHeld()
			if c.r.unsent {
				c.wakeWriter()
			}
		}
		if err := c.dispatch(m); err != nil {
			return err
		}
		if !c.r.registered && c.store != nil {
			c.r.registered = true
			c.r.frames.SetLimit(c.srv.cfg.MaxFrameBytes)
			c.r.decoder = zeowire.Decoder{Encoding: c.encoding}
			if err := c.nc.SetReadDeadline(time.Time{}); err != nil {
				return err
			}
		}
	}
}

// wakeWriter has the writer send what the reader has left unsent.
func (c *conn) wakeWriter() {
	c.r.unsent = false
	c.out.wake()
}

// flush sends what the reader has left unsent.
func (c *conn) flush() error {
	c.r.unsent = false
	turn := c.watch.enter()
	err := c.out.flush(c.nc, c.srv.cfg.WriteTimeout)
	late := !c.watch.leave(turn)
	if err != nil {
		c.close(c.writeError(err))
	}
	if late {
		return errHandedOver
	}
	return err
}

// loadHere starts a load, or runs it, in the reader's goroutine.
func (c *conn) loadHere(k call, oid raidstorage.OID, before raidstorage.TID) error {
	if held, begun := c.startLoad(k, oid, before); begun {
		c.r.hold(held)
		return nil
	}
	c.r.sendHeld()
	if c.r.beside > 0 {
		c.loadBeside(k, oid, before)
		return nil
	}
	start := time.Now()
	turn := c.watch.enter()
	c.guardedLoad(k, oid, before, true)
	if !c.watch.leave(turn) {
		c.out.wake()
		return errHandedOver
	}
	c.r.unsent = true
	if time.Since(start) > slowLoad {
		c.r.slow()
	} else {
		c.r.lastBeside = 0
	}
	return nil
}
