package zeoclient

import (
	"errors"
	"io"
	"time"

	"github.com/zeoraid/raidstorage"
)

// A connection that has failed is closed at once. One that is not needed any more ends
// gently: its calls end, the server is told that nothing more comes, and what it still
// sends is read to the end, within a second. If it were closed while the server sends,
// sizes after a pack for example, the system would reset it, which Python's server logs
// as an error; and operators look at errors.

// failure returns why the connection ended, nil if it has not.
func (c *conn) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// fail ends the connection and all its calls.
func (c *conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failLocked(err)
}

func (c *conn) failLocked(err error) {
	if c.endLocked(err) {
		_ = c.raw.Close() // it is over anyway, and err says why
	}
}

// endLocked ends all calls. False means that the connection has ended before.
func (c *conn) endLocked(err error) bool {
	if c.err != nil {
		return false
	}
	if v, ok := errors.AsType[violation](err); ok {
		err = &ProtocolError{Server: c.server, Reason: string(v)}
	}
	if _, typed := errors.AsType[*ProtocolError](err); !typed && !errors.Is(err, raidstorage.ErrClosed) {
		err = &DisconnectedError{Server: c.server, Err: err}
	}
	c.err = err
	var loads []*startedLoad
	for _, k := range c.calls {
		if k.load != nil {
			loads = append(loads, k.load)
			continue
		}
		k.err = err
		close(k.done)
	}
	if len(loads) > 0 {
		c.wg.Go(func() { endLoads(loads, err) })
	}
	if c.watchdog != nil {
		c.watchdog.Stop()
	}
	for _, d := range c.downloads {
		d.end(err)
	}
	c.calls, c.downloads = nil, nil
	close(c.done)
	return true
}

// over tells whether the connection has ended.
func (c *conn) over() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// spawn runs f in a goroutine that close waits for, unless the connection has ended.
func (c *conn) spawn(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return false
	}
	c.wg.Go(f)
	return true
}

// close ends the connection gently and waits for its goroutines. It may be called again,
// and after fail.
func (c *conn) close(err error) {
	c.mu.Lock()
	first := c.endLocked(err)
	c.mu.Unlock()
	if first {
		limit := time.AfterFunc(c.parting, func() { _ = c.raw.Close() })
		defer limit.Stop()
		half, ok := c.nc.(interface{ CloseWrite() error }) // of TLS, too: it says goodbye
		if !ok || half.CloseWrite() != nil {
			_ = c.raw.Close()
		}
	}
	c.wg.Wait() // the reader's end is that of what the server sends
	_ = c.raw.Close()
}

// discard reads what the server still sends, for the reader of a connection that ends.
func (c *conn) discard() {
	_, _ = io.Copy(io.Discard, c.nc) // close bounds it
}
