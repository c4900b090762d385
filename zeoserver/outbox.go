package zeoserver

import (
	"errors"
	"net"
	"runtime"
	"sync"
	"time"

	"github.com/zeoraid/raidstorage/internal/netio"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// errSlow drops a client that does not read what is sent to it.
var errSlow = errors.New("the client does not read what is sent to it")

// writeStep is how many bytes a client must take within the write timeout.
const writeStep = 256 << 10

// outbox is what waits to be sent on one connection. Everybody appends whole frames; one
// goroutine takes all there is and writes it at once: the writer, which may wait for the
// client, or whoever has brought replies, as far as the system takes it without waiting. Those who can wait, the
// answers to what the client asked for, wait for room; what cannot wait, such as
// invalidations, fails the connection when there is too much.
type outbox struct {
	limit  int           // bytes, of what waits and what is being written
	direct *netio.Direct // of who writes; nil: only those who may wait can write
	cut    func()        // ends the connection of a client that is too slow; it takes no locks

	mu      sync.Mutex // guards the fields below; never held while writing
	more    sync.Cond  // there is something to write, or the end
	room    sync.Cond  // something was written, or the end
	queue   *zeowire.Writer
	spare   *zeowire.Writer // nil while somebody writes
	rest    *zeowire.Writer // what the writer is to go on with; spare is nil then
	sent    int             // bytes of rest that are written
	writing int             // bytes that were taken for writing
	waiters int             // of room
	ended   bool
	slow    bool
	recent  recent
}

func (o *outbox) init(limit int, direct *netio.Direct, cut func()) {
	o.limit, o.direct, o.cut = limit, direct, cut
	o.more.L, o.room.L = &o.mu, &o.mu
	// Handshakes are raw frames, the same in both encodings.
	o.queue = &zeowire.Writer{Encoding: zeowire.Pickle}
	o.spare = &zeowire.Writer{Encoding: zeowire.Pickle}
}

func (o *outbox) setEncoding(e zeowire.Encoding) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.queue.Encoding = e
	if o.spare != nil {
		o.spare.Encoding = e
	} // else the writer has it, and takes over the encoding of the queue when it is done
}

// send appends what encode writes, without waiting. False means that the connection
// has ended, or must end since the client is too slow.
func (o *outbox) send(encode func(w *zeowire.Writer) error) (bool, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.sendLocked(encode)
}

func (o *outbox) sendLocked(encode func(w *zeowire.Writer) error) (bool, error) {
	if !o.openLocked() {
		return false, nil
	}
	err := encode(o.queue)
	o.more.Signal()
	return true, err
}

// sendUnflushed is send for one who calls flushDirect soon.
func (o *outbox) sendUnflushed(encode func(w *zeowire.Writer) error) (bool, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.openLocked() {
		return false, nil
	}
	return true, encode(o.queue)
}

// openLocked tells whether more may be appended.
func (o *outbox) openLocked() bool {
	if o.ended {
		return false
	}
	if o.queue.Len()+o.writing > o.limit {
		o.slow = true
		o.endLocked()
		o.cut() // the writer may be waiting for the client
		return false
	}
	return true
}

// lockForRoom locks mu when no more than most bytes wait, or the connection has ended.
func (o *outbox) lockForRoom(most int) {
	o.mu.Lock()
	for !o.ended && o.queue.Len()+o.writing > most {
		o.more.Signal() // the reader may have left it unsent
		o.waiters++
		o.room.Wait()
		o.waiters--
	}
}

// forAnswers is how much may wait before an answer that can wait: the rest of the
// limit is for what cannot.
func (o *outbox) forAnswers() int { return o.limit / 4 }

// sendWhenRoom is send for those who can wait until no more than most bytes do.
func (o *outbox) sendWhenRoom(most int, encode func(w *zeowire.Writer) error) (bool, error) {
	o.lockForRoom(min(most, o.forAnswers()))
	defer o.mu.Unlock()
	return o.sendLocked(encode)
}

// end stops taking more. The writer writes what is there, and ends.
func (o *outbox) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.endLocked()
}

func (o *outbox) endLocked() {
	o.ended = true
	o.more.Broadcast()
	o.room.Broadcast()
}

// wake has the writer send what is there.
func (o *outbox) wake() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.more.Signal()
}

// write is the writer: it returns after end, or when the client cannot be written to.
func (o *outbox) write(nc net.Conn, timeout time.Duration) error {
	for {
		w, from := o.take()
		if w == nil {
			return nil
		}
		if err := o.putBack(w, writeAll(nc, w.Bytes()[from:], timeout)); err != nil {
			return err
		}
	}
}

// flush writes what is there, for the reader. What somebody else is about to write, or
// would have to wait for, is left to them.
func (o *outbox) flush(nc net.Conn, timeout time.Duration) error {
	if o.direct != nil {
		return o.flushDirect()
	}
	o.mu.Lock()
	if o.queue.Len() == 0 || o.spare == nil || o.ended {
		o.mu.Unlock()
		return nil
	}
	w := o.takeLocked()
	o.mu.Unlock()
	return o.putBack(w, writeAll(nc, w.Bytes(), timeout))
}

// flushDirect writes what is there as far as that is possible without waiting.
func (o *outbox) flushDirect() error {
	o.mu.Lock()
	if o.queue.Len() == 0 || o.spare == nil || o.ended { // whoever writes goes on with it
		o.mu.Unlock()
		return nil
	}
	if o.direct == nil {
		o.more.Signal()
		o.mu.Unlock()
		return nil
	}
	w := o.takeLocked()
	o.mu.Unlock()
	n, err := o.direct.TryWrite(w.Bytes())
	if err == nil && n < w.Len() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.rest, o.sent = w, n
		o.more.Signal()
		return nil
	}
	return o.putBack(w, err)
}

// putBack gives back what was taken and written.
func (o *outbox) putBack(w *zeowire.Writer, err error) error {
	w.Reset()
	o.mu.Lock()
	defer o.mu.Unlock()
	w.Encoding = o.queue.Encoding
	o.spare, o.writing = w, 0
	if err != nil {
		o.endLocked()
	}
	if o.waiters > 0 {
		o.room.Broadcast()
	}
	if o.queue.Len() > 0 || o.ended {
		o.more.Signal() // if it was not the writer who wrote
	}
	if o.slow {
		return errSlow
	}
	return err
}

// take waits for something to write and takes all of it; nil at the end. The first bytes
// may be written already.
func (o *outbox) take() (w *zeowire.Writer, written int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for waited := false; ; {
		for o.rest == nil && (o.queue.Len() == 0 || o.spare == nil) {
			if o.ended && o.spare != nil {
				return nil, 0
			}
			o.more.Wait()
			waited = true
		}
		if w := o.rest; w != nil {
			o.rest = nil
			return w, o.sent
		}
		if !waited {
			return o.takeLocked(), 0
		}
		// Loads that are running will answer in a moment: their replies share the
		// write, which costs more than all else. Measured: 1.3 times the loads per
		// second with 16 in flight, no difference for one.
		waited = false
		o.mu.Unlock()
		runtime.Gosched()
		o.mu.Lock()
	}
}

func (o *outbox) takeLocked() *zeowire.Writer {
	w := o.queue
	o.queue, o.spare = o.spare, nil
	o.writing = w.Len()
	return w
}

// tooSlow tells whether the client was found too slow.
func (o *outbox) tooSlow() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.slow
}

// writeAll writes b in steps, each with the full time. Then there is no deadline any
// more, which flushDirect would run into.
func writeAll(nc net.Conn, b []byte, timeout time.Duration) error {
	for len(b) > 0 {
		n := min(len(b), writeStep)
		if err := nc.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
			return err
		}
		if _, err := nc.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nc.SetWriteDeadline(time.Time{})
}
