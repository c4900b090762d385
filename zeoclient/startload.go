package zeoclient

import (
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// Loads that are begun and answered later, by the reader: nobody waits for them, so that
// a load wakes no goroutine but those that read. Each is answered once: by the server's
// reply, by the end of the connection, or by watchLoads, when it has taken too long.

// maxUnflushed is how many answers are given before those who got them may send them.
const maxUnflushed = 64

// maxHeld is how many bytes of loads wait for SendLoads.
const maxHeld = 16 << 10

// startedLoad is a load that will be answered.
type startedLoad struct {
	call
	s      *Storage
	c      *conn
	oid    raidstorage.OID
	before raidstorage.TID
	to     raidstorage.LoadAnswer
	since  time.Time
	found  raidstorage.Revision
	later  bool
}

var _ raidstorage.LoadStarter = (*Storage)(nil)

// StartLoad implements raidstorage.LoadStarter. It begins nothing while there is no
// connection, while much waits to be sent, and for what is in the cache. The answer
// comes within CallTimeout.
func (s *Storage) StartLoad(oid raidstorage.OID, before raidstorage.TID, to raidstorage.LoadAnswer) (raidstorage.LoadSender, bool) {
	before = min(before, raidstorage.MaxTID)
	s.mu.Lock()
	c := s.conn
	if s.isClosed {
		c = nil
	}
	s.mu.Unlock()
	if c == nil {
		return nil, false
	}
	if _, ok := s.cache.get(oid, before); ok {
		return nil, false // LoadBefore finds it, too
	}
	l := &startedLoad{s: s, c: c, oid: oid, before: before, to: to, since: time.Now()}
	l.call = call{id: c.ids.Add(1), name: zeowire.LoadBefore, heard: c.heard.Load(), load: l}
	s.cache.begin(oid)
	if !c.startLoad(l) {
		s.cache.end(oid)
		return nil, false
	}
	return c, true
}

// SendLoads implements raidstorage.LoadSender.
func (c *conn) SendLoads() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pushLocked()
}

// startLoad queues the call, if there is room. It is sent by SendLoads, with the next
// call, or when there are many.
func (c *conn) startLoad(l *startedLoad) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || c.out.Len() > maxWaiting || c.out.LoadBefore(zeowire.IntID(l.id), l.oid, l.before) != nil {
		return false
	}
	c.calls[l.id] = &l.call
	if c.watchdog == nil {
		c.watchdog = time.AfterFunc(c.timeout, c.watchLoads)
	}
	if c.out.Len() >= maxHeld {
		c.pushLocked()
	}
	return true
}

// take reads the reply, in the reader.
func (l *startedLoad) take(v zeowire.Value) (err error) {
	l.found, l.later, err = l.s.loaded(l.c, l.oid, l.before, v)
	return err
}

// done answers. It is called once, without locks.
func (l *startedLoad) done(err error) {
	l.s.cache.end(l.oid)
	l.to.Loaded(l.s.answer(l.c, l.oid, l.found, l.later, err))
}

// answered notes an answer of the reader's; they are flushed together.
func (c *conn) answered(to raidstorage.LoadAnswer) {
	c.unflushed = append(c.unflushed, to)
}

// flushAnswers has the answers sent which the reader has given.
func (c *conn) flushAnswers() {
	for _, to := range c.unflushed {
		to.Flush()
	}
	clear(c.unflushed)
	c.unflushed = c.unflushed[:0]
}

// endLoads answers loads whose connection has ended, or which are too late.
func endLoads(loads []*startedLoad, err error) {
	for _, l := range loads {
		l.done(err)
		l.to.Flush()
	}
}

// watchLoads ends loads that have taken too long, and the connection if not a word was
// heard meanwhile. It is the watchdog's, who rests when no loads are left.
func (c *conn) watchLoads() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	var late []*startedLoad
	silent := false
	next := time.Duration(-1)
	for _, k := range c.calls {
		if k.load == nil {
			continue
		}
		left := c.timeout - time.Since(k.load.since)
		if left <= 0 {
			late = append(late, k.load)
			silent = silent || c.heard.Load() == k.heard
		} else if next < 0 || left < next {
			next = left
		}
	}
	for _, l := range late {
		c.removeLocked(l.id)
	}
	if next < 0 {
		c.watchdog = nil
	} else {
		c.watchdog.Reset(next)
	}
	err := &TimeoutError{Server: c.server, Call: zeowire.LoadBefore, After: c.timeout}
	if len(late) > 0 {
		c.wg.Go(func() { endLoads(late, err) }) // close waits for it
	}
	if silent {
		c.failLocked(err)
	}
}
