package zeoserver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zeoraid/raidstorage/internal/netio"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// Reasons why a connection ends.
var (
	errServerClosed = errors.New("the server is closing")
	errDisorder     = errors.New("invalidations came out of order; the client must verify its cache")
	errTimeout      = errors.New("transaction timeout")
	errMethod       = errors.New("no such method")
	errAsync        = errors.New("a call without reply failed")
)

// maxUnregistered is the longest message of a client that has not registered.
const maxUnregistered = 4 << 10

// maxEnding is how many transactions of a connection may be waiting for their end,
// each with what it has staged, before the reader waits.
const maxEnding = 16

// conn is one connection. Its reader, see reader.go, reads messages and runs the short
// methods; votes run in goroutines of their own, and what may take long in lanes. A
// writer sends what is in the outbox.
type conn struct {
	srv  *Server
	nc   net.Conn
	out  outbox
	dead context.Context // ends with the connection
	kill context.CancelCauseFunc

	group   sync.WaitGroup // all goroutines of the connection but the first reader
	watch   watch          // of the reader
	readEnd chan struct{}  // closed when the last reader has ended, if it was not the first one
	slots   chan struct{}  // for loads
	ends    chan struct{}  // for transactions that are ending while others begin
	slow    lane           // iteration, history: in order
	blobs   lane           // one blob at a time

	// Set by the reader, before the connection joins the order, and not changed then.
	encoding zeowire.Encoding
	store    *served
	readOnly bool

	// The reader's own.
	r      reader
	txn    *txn
	upload *upload

	iterators  iterators    // the slow lane's own
	label      atomic.Value // string
	committing atomic.Int32 // transactions between vote and end
}

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{
		srv: s, nc: nc, readOnly: s.cfg.ReadOnly, readEnd: make(chan struct{}),
		slots: make(chan struct{}, s.cfg.MaxInFlight), ends: make(chan struct{}, maxEnding),
	}
	c.dead, c.kill = context.WithCancelCause(context.Background())
	c.out.init(s.cfg.SendBufferBytes, netio.New(nc), c.cut)
	c.slow.init(c)
	c.blobs.init(c)
	c.iterators.init()
	c.watch.timer = time.AfterFunc(time.Hour, c.look) // runs when there is something to look at
	c.watch.timer.Stop()
	c.label.Store("")
	return c
}

// close ends the connection soon. It does not wait, and may be called from anywhere;
// the first reason counts.
func (c *conn) close(reason error) {
	c.kill(reason)
	c.out.end()
	c.cut()
}

// closeAfterFlush is close when what is queued was sent.
func (c *conn) closeAfterFlush(reason error) {
	c.kill(reason)
	c.out.end() // the writer goes on to close
}

// cut closes the connection at once: the close of a TLS connection may wait to say
// goodbye, so it closes what is below it.
func (c *conn) cut() {
	if t, ok := c.nc.(interface{ NetConn() net.Conn }); ok {
		t.NetConn().Close()
		return
	}
	c.nc.Close()
}

// serve is the connection's life.
func (c *conn) serve() {
	c.group.Go(c.write)
	if err := c.read(); errors.Is(err, errHandedOver) {
		<-c.readEnd
	} else {
		c.endReading(err)
	}
	c.watch.timer.Stop()
	c.group.Wait()
	c.iterators.close()
	c.upload.discard()
	c.kill(nil)
	c.nc.Close()
	c.logEnd(context.Cause(c.dead))
}

// endReading is for the last reader: nothing more comes from the client, and what it
// holds is given back at once, although loads may still be under way.
func (c *conn) endReading(reason error) {
	switch {
	case errors.Is(reason, errFlush):
		c.out.end() // the writer sends what is there
	case c.out.tooSlow():
		c.close(errSlow)
	default:
		c.close(reason)
	}
	if c.store != nil {
		c.store.order.leave(c)
	}
	c.endTransaction()
}

// errFlush ends a connection after what is queued was sent.
var errFlush = errors.New("the answer is complete")

func (c *conn) write() {
	err := c.out.write(c.nc, c.srv.cfg.WriteTimeout)
	if err == nil {
		err = errFlush
	}
	c.close(c.writeError(err))
}

// flushDirect sends what is in the outbox, as far as that is possible without waiting.
func (c *conn) flushDirect() {
	if err := c.out.flushDirect(); err != nil {
		c.close(c.writeError(err))
	}
}

// writeError is the reason of a connection's end that a write ended with.
func (c *conn) writeError(err error) error {
	if c.out.tooSlow() || errors.Is(err, os.ErrDeadlineExceeded) {
		return errSlow
	}
	return err
}

// spawn runs f in a goroutine that the end of the connection waits for.
func (c *conn) spawn(method string, f func()) {
	c.group.Go(func() {
		defer c.guard(method)
		f()
	})
}

// guard turns a panic, a bug, into the end of this connection only.
func (c *conn) guard(method string) {
	if p := recover(); p != nil {
		c.logger().Error("bug: a method panicked", "method", method, "reason", fmt.Sprint(p), "stack", string(debug.Stack()))
		c.close(fmt.Errorf("%s failed", method))
	}
}

// read does the handshake and reads calls.
func (c *conn) read() error {
	if err := c.nc.SetReadDeadline(time.Now().Add(c.srv.cfg.HandshakeTimeout)); err != nil {
		return err
	}
	c.out.send(func(w *zeowire.Writer) error { return w.Raw(c.srv.announcement().Handshake()) })
	in := bufio.NewReaderSize(c.nc, 16<<10)
	frames := zeowire.NewFrameReader(in, zeowire.MaxHandshake)
	body, err := frames.Next()
	if err != nil {
		return err
	}
	answer, err := zeowire.ParseAnswer(body)
	if err != nil {
		return err
	}
	if answer.RUOK {
		return c.ruok()
	}
	c.encoding = answer.Encoding
	c.out.setEncoding(answer.Encoding)
	frames.SetLimit(maxUnregistered)
	c.r = reader{in: in, frames: frames, decoder: zeowire.Decoder{Encoding: c.encoding, MaxDepth: 16, MaxItems: 100}}
	return c.readCalls()
}

func (c *conn) ruok() error {
	body, err := ruok(c.srv.Status())
	if err != nil {
		return err
	}
	c.out.send(func(w *zeowire.Writer) error { return w.Raw(body) })
	return errFlush
}

// logger names the client. It is made when needed: most connections log little.
func (c *conn) logger() *slog.Logger {
	l := c.srv.cfg.Logger.With("client", c.nc.RemoteAddr().String())
	if label, _ := c.label.Load().(string); label != "" {
		l = l.With("label", label)
	}
	return l
}

func (c *conn) logEnd(reason error) {
	switch {
	case errors.Is(reason, errSlow), errors.Is(reason, errTimeout), errors.Is(reason, errDisorder):
		c.logger().Warn("client dropped", "reason", reason.Error())
	case reason == nil, errors.Is(reason, io.EOF), errors.Is(reason, errServerClosed), errors.Is(reason, context.Canceled), errors.Is(reason, errFlush):
		c.logger().Debug("client disconnected")
	default:
		c.logger().Info("client disconnected", "reason", reason.Error())
	}
}
