package zeoclient

import (
	"bufio"
	"bytes"
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// A connection has two goroutines. The writer writes what callers cannot write at once
// themselves, see write.go. The reader decodes messages and completes calls. What must
// happen in the order of the server's messages (the cache, the notifications, the
// last tid seen) happens in the reader: a reply is taken there, not by its caller.

const (
	// ownFrame is the length from which on a reply's frame is kept, instead of the
	// data in it being copied.
	ownFrame = 32 << 10
)

// call is a request that waits for its reply.
type call struct {
	id   int64
	name string
	// take reads the reply, in the reader's goroutine: it must not wait. What it is
	// given is valid during the call only, see conn.own. nil: any reply will do.
	take func(zeowire.Value) error
	// then is called after take, or with the server's exception, likewise. May be nil.
	then func(error)
	// kept calls stay known when their caller gives up: their reply needs an answer.
	kept bool
	sent bool // the caller's
	// queues says that the server may let the call wait for others' transactions.
	queues bool
	// heard is how many frames had come when it was made.
	heard uint64

	done chan struct{} // closed when err is set; nil for a startedLoad
	err  error         // an *exceptionError, or the connection's end
	load *startedLoad  // what this is the call of, if it is one
}

// conn is one connection. It never comes back once it has failed.
type conn struct {
	server   string
	nc       net.Conn
	raw      net.Conn // nc without its TLS: closing that does not wait
	encoding zeowire.Encoding
	timeout  time.Duration // of calls and writes
	parting  time.Duration // how long close waits for the server
	events   sink          // called by the reader
	readOnly bool          // registered so; immutable once connected
	info     serverInfo    // likewise

	claimed raidstorage.TID // what the server answered to register; immutable once connected
	before  raidstorage.TID // what earlier connections had told of; likewise
	phantom atomic.Uint64   // a last tid of the server that its log does not have, 0: none
	end     atomic.Uint64   // where the log ends then; set before phantom

	ids   atomic.Int64
	heard atomic.Uint64 // frames received
	infos atomic.Int64  // messages with sizes that finishes of ours will cause
	seen  atomic.Uint64 // the greatest tid of the reader's stream; set by the reader only
	kept  bool          // the current frame is left to take; the reader's
	epoch uint64        // of the cache, when the connection was made; the reader's
	// early is the last transaction that the server told of before it answered register;
	// the reader's, as is registered.
	early      raidstorage.TID
	registered bool
	in         *bufio.Reader            // what the reader reads
	unflushed  []raidstorage.LoadAnswer // answered, see startload.go; the reader's

	mu        sync.Mutex // guards the fields below
	calls     map[int64]*call
	downloads map[blobKey]*download
	output                  // see write.go
	watchdog  *time.Timer   // of started loads; nil: there are none
	idle      chan struct{} // closed when no call waits any more; nil: nobody wants to know
	err       error         // why it ended

	wake chan struct{} // one slot: there is something for the writer
	done chan struct{} // closed when err is set
	wg   sync.WaitGroup
}

// sink is told what a connection's reader sees, in its order.
type sink interface {
	invalidated(c *conn, tid raidstorage.TID, oids []raidstorage.OID)
	packed() // perhaps
}

// newCall makes a call; send sends it.
func (c *conn) newCall(name string, take func(zeowire.Value) error) *call {
	return &call{id: c.ids.Add(1), name: name, take: take, heard: c.heard.Load(), done: make(chan struct{})}
}

// wait waits for a call that was sent, at most the connection's timeout.
func (c *conn) wait(ctx context.Context, k *call) error {
	timer := time.NewTimer(c.timeout)
	defer timer.Stop()
	select {
	case <-k.done:
		return k.err
	case <-ctx.Done():
		c.forget(k)
		return ctx.Err()
	case <-timer.C:
	}
	c.forget(k)
	err := &TimeoutError{Server: c.server, Call: k.name, After: c.timeout}
	if c.heard.Load() == k.heard && !k.queues {
		c.fail(err) // not a word since then: it is dead, and others need not find out again
	}
	return err
}

// waitLong is wait without a timeout: the server must only answer pings meanwhile.
func (c *conn) waitLong(ctx context.Context, k *call) error {
	ticker := time.NewTicker(c.timeout)
	defer ticker.Stop()
	for {
		select {
		case <-k.done:
			return k.err
		case <-ctx.Done():
			c.forget(k)
			return ctx.Err()
		case <-ticker.C:
		}
		if _, err := request(ctx, c, zeowire.Ping, func(zeowire.Value) (struct{}, error) { return struct{}{}, nil }); err != nil {
			c.forget(k)
			return err
		}
	}
}

// forget drops the reply of a call when it comes.
func (c *conn) forget(k *call) {
	if k.kept {
		return
	}
	c.mu.Lock()
	c.removeLocked(k.id)
	c.mu.Unlock()
}

func (c *conn) removeLocked(id int64) {
	delete(c.calls, id)
	if c.idle != nil && len(c.calls) == 0 {
		close(c.idle)
		c.idle = nil
	}
}

// drain waits until the calls under way have ended, at most the connection's timeout
// and until one of the channels is closed.
func (c *conn) drain(closes, lost <-chan struct{}) {
	c.mu.Lock()
	if c.err != nil || len(c.calls) == 0 {
		c.mu.Unlock()
		return
	}
	idle := make(chan struct{})
	c.idle = idle
	c.mu.Unlock()
	timer := time.NewTimer(c.timeout)
	defer timer.Stop()
	select {
	case <-idle:
	case <-c.done:
	case <-timer.C:
	case <-closes:
	case <-lost:
	}
}

// request makes a call and returns what take makes of its reply.
func request[T any](ctx context.Context, c *conn, name string, take func(zeowire.Value) (T, error), args ...zeowire.Value) (T, error) {
	var reply, none T
	k := c.newCall(name, func(v zeowire.Value) (err error) {
		reply, err = take(v)
		return err
	})
	if err := c.start(ctx, k, args...); err != nil {
		return none, err
	}
	if err := c.wait(ctx, k); err != nil {
		return none, err
	}
	return reply, nil
}

// start sends a single call.
func (c *conn) start(ctx context.Context, k *call, args ...zeowire.Value) error {
	return c.send(ctx, func(w *zeowire.Writer) error {
		return w.Message(zeowire.Call(zeowire.IntID(k.id), k.name, args...))
	}, k)
}

// own returns b for the caller of take to keep.
func (c *conn) own(b []byte) []byte {
	if c.kept {
		return b
	}
	return bytes.Clone(b)
}
