package loadgen

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// conn is one client's connection, used by one goroutine.
type conn struct {
	net     net.Conn
	in      *bufio.Reader
	frames  *zeowire.FrameReader
	decoder zeowire.Decoder
	out     zeowire.Writer
	calls   int64 // the ids given out

	operations int64
	latencies  []time.Duration // of the first maxLatencies operations
}

// maxLatencies bounds the memory for percentiles.
const maxLatencies = 1 << 20

// buffer is what is read from the network at once, in bytes.
const buffer = 64 << 10

// dial connects and registers. The whole life of the connection is bounded.
func dial(ctx context.Context, target Target, life time.Duration) (*conn, error) {
	network := "tcp"
	if strings.Contains(target.Address, "/") {
		network = "unix"
	}
	d := net.Dialer{Timeout: grace}
	nc, err := d.DialContext(ctx, network, target.Address)
	if err != nil {
		return nil, err
	}
	c := &conn{net: nc, in: bufio.NewReaderSize(nc, buffer)}
	c.frames = zeowire.NewFrameReader(c.in, 64<<20)
	if err := c.register(target, time.Now().Add(life)); err != nil {
		nc.Close()
		return nil, fmt.Errorf("%s: %w", target.Address, err)
	}
	return c, nil
}

func (c *conn) register(target Target, until time.Time) error {
	if err := c.net.SetDeadline(until); err != nil {
		return err
	}
	body, err := c.frames.Next()
	if err != nil {
		return err
	}
	encoding, err := zeowire.ParseAnnouncement(body)
	if err != nil {
		return err
	}
	if target.Encoding != 0 {
		encoding = target.Encoding
	}
	c.decoder.Encoding, c.out.Encoding = encoding, encoding
	if err := c.out.Raw(encoding.Handshake()); err != nil {
		return err
	}
	_, err = c.call(zeowire.Register, zeowire.Text(target.Storage), zeowire.Bool(false))
	return err
}

func (c *conn) close() { c.net.Close() }

// flush sends what was written.
func (c *conn) flush() error {
	_, err := c.net.Write(c.out.Bytes())
	c.out.Reset()
	return err
}

// call sends what was written and a call, and waits for its reply. The reply's memory
// is valid until the next one is read.
func (c *conn) call(name string, args ...zeowire.Value) (zeowire.Value, error) {
	c.calls++
	id := zeowire.IntID(c.calls)
	if err := c.out.Message(zeowire.Call(id, name, args...)); err != nil {
		return zeowire.Value{}, err
	}
	if err := c.flush(); err != nil {
		return zeowire.Value{}, err
	}
	got, v, err := c.reply()
	if err == nil && got != id {
		err = fmt.Errorf("reply %v, want %v", got, id)
	}
	if err != nil {
		return v, fmt.Errorf("%s: %w", name, err)
	}
	return v, nil
}

// reply reads the next reply; what the server calls in between is not for us.
func (c *conn) reply() (zeowire.ID, zeowire.Value, error) {
	for {
		body, err := c.frames.Next()
		if err != nil {
			return zeowire.ID{}, zeowire.Value{}, err
		}
		m, err := c.decoder.Message(body)
		if err != nil {
			return zeowire.ID{}, zeowire.Value{}, err
		}
		if !m.IsReply() {
			continue
		}
		if e, failed := m.Exception(); failed {
			return m.ID, zeowire.Value{}, e
		}
		return m.ID, m.Args, nil
	}
}

// done counts an operation that began at start.
func (c *conn) done(start, now time.Time) {
	c.operations++
	if len(c.latencies) < maxLatencies {
		c.latencies = append(c.latencies, now.Sub(start))
	}
}
