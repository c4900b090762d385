package zeoclient

import (
	"context"
	"time"

	"github.com/zeoraid/raidstorage/internal/netio"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// How frames are written. Callers append theirs to out. If nobody writes just now, the
// caller writes all there is, as far as the system takes it without waiting; else who
// writes goes on with it. So many calls at the same time share a write, a single one has
// no other goroutine to wake, and no caller waits for a server that does not read. What
// the system does not take is left to the writer, a goroutine, with a deadline.

const (
	// maxWaiting is how many bytes may wait to be written before callers do.
	maxWaiting = 4 << 20
	// maxTurns is how often a caller writes for others, too, before the writer does.
	maxTurns = 4
	// keepAlive is how often an idle connection says something, so that firewalls do
	// not forget it; ZEO's client does the same.
	keepAlive = time.Minute
)

// output is what conn.mu guards of a connection's writing.
type output struct {
	out    *zeowire.Writer // what nobody has taken yet
	spare  *zeowire.Writer // nil while somebody writes
	rest   *zeowire.Writer // what the writer is to go on with; spare is nil then
	sent   int             // bytes of rest that are written
	room   chan struct{}   // closed when out was taken; nil: nobody waits
	direct *netio.Direct   // of who writes; nil: only the writer can
}

// send sends the frames that fill encodes, all at once, and waits for the replies of
// calls from then on. It waits while too much is queued already.
func (c *conn) send(ctx context.Context, fill func(*zeowire.Writer) error, calls ...*call) error {
	for {
		c.mu.Lock()
		if c.err != nil {
			defer c.mu.Unlock()
			return c.err
		}
		if c.out.Len() <= maxWaiting {
			break
		}
		if c.room == nil {
			c.room = make(chan struct{})
		}
		room := c.room
		c.mu.Unlock()
		select {
		case <-room:
		case <-c.done: // nobody makes room any more
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	defer c.mu.Unlock()
	return c.queueLocked(fill, calls)
}

// post is send for the reader and others who must not wait: it is for few bytes.
func (c *conn) post(fill func(*zeowire.Writer) error, calls ...*call) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	return c.queueLocked(fill, calls)
}

func (c *conn) queueLocked(fill func(*zeowire.Writer) error, calls []*call) error {
	before := c.out.Len()
	if err := fill(c.out); err != nil {
		if c.out.Len() != before { // half of it is queued already
			c.failLocked(err)
		}
		return err
	}
	for _, k := range calls {
		c.calls[k.id] = k
		k.sent = true
	}
	c.pushLocked()
	return nil
}

// pushLocked writes what is queued, if nobody else does. It does not wait, and gives mu
// up while it writes.
func (c *conn) pushLocked() {
	for turn := 0; c.err == nil && c.spare != nil && c.out.Len() > 0; turn++ {
		if c.direct == nil || turn == maxTurns {
			c.wakeWriter()
			return
		}
		w := c.takeLocked()
		c.mu.Unlock()
		n, err := c.direct.TryWrite(w.Bytes())
		c.mu.Lock()
		if err != nil {
			c.failLocked(err)
			return
		}
		if n < w.Len() {
			c.rest, c.sent = w, n
			c.wakeWriter()
			return
		}
		c.writtenLocked(w)
	}
}

// takeLocked takes what is queued; who does writes it.
func (c *conn) takeLocked() *zeowire.Writer {
	w := c.out
	c.out, c.spare = c.spare, nil
	if c.room != nil {
		close(c.room)
		c.room = nil
	}
	return w
}

// writtenLocked gives back what was taken.
func (c *conn) writtenLocked(w *zeowire.Writer) {
	w.Reset()
	c.spare = w
}

func (c *conn) wakeWriter() {
	select {
	case c.wake <- struct{}{}:
	default: // it is going to look anyway
	}
}

// write is the writer's goroutine; it ends with the connection.
func (c *conn) write() {
	ticker := time.NewTicker(keepAlive)
	defer ticker.Stop()
	for {
		select {
		case <-c.done:
			return
		case <-ticker.C:
			_ = c.post(func(w *zeowire.Writer) error { return w.Message(zeowire.KeepAlive()) })
		case <-c.wake:
		}
		if err := c.writeRest(); err != nil {
			c.fail(err)
			return
		}
	}
}

// writeRest writes until nothing is left, unless somebody else does.
func (c *conn) writeRest() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		w, from := c.rest, c.sent
		c.rest, c.sent = nil, 0
		if w == nil {
			if c.spare == nil || c.out.Len() == 0 {
				return nil
			}
			w = c.takeLocked()
		}
		c.mu.Unlock()
		err := c.flush(w.Bytes()[from:])
		c.mu.Lock()
		if err != nil {
			return err
		}
		c.writtenLocked(w)
	}
}

// flush writes within the timeout: a server that does not read for so long is dead. Then
// there is no deadline any more, which pushLocked would run into.
func (c *conn) flush(frames []byte) error {
	if err := c.nc.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
		return err
	}
	if _, err := c.nc.Write(frames); err != nil {
		return err
	}
	return c.nc.SetWriteDeadline(time.Time{})
}
