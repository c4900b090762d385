//go:build interop

package interop_test

import (
	"io"
	"net"
	"sync"
	"testing"
)

// proxy is the network between the mirror and a member's server. It can be cut, so that
// connections are reset and none is made, and it can swallow what is sent, as a network
// does whose other end is gone without a word.
type proxy struct {
	address string // where it listens
	target  string // set before the first connection

	mu    sync.Mutex // guards the fields below
	free  sync.Cond  // held has become false
	held  bool       // nothing passes
	cut   bool       // no connections
	conns map[net.Conn]bool
	wg    sync.WaitGroup
}

func newProxy(t *testing.T) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{address: l.Addr().String(), conns: make(map[net.Conn]bool)}
	p.free.L = &p.mu
	p.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.set(false, true)
		p.wg.Wait()
	})
	return p
}

// set says what the network is like from now on. A cut one resets all connections.
func (p *proxy) set(held, cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held, p.cut = held, cut
	if cut {
		for c := range p.conns {
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
		clear(p.conns)
	}
	p.free.Broadcast()
}

// add keeps a connection, unless the network is cut.
func (p *proxy) add(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut {
		c.Close()
		return false
	}
	p.conns[c] = true
	return true
}

func (p *proxy) remove(c net.Conn) {
	c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

func (p *proxy) serve(client net.Conn) {
	if !p.add(client) {
		return
	}
	defer p.remove(client)
	if !p.pass(client) {
		return
	}
	server, err := net.Dial("tcp", p.target)
	if err != nil || !p.add(server) {
		return
	}
	defer p.remove(server)
	var both sync.WaitGroup
	both.Go(func() { p.copy(server, client) })
	both.Go(func() { p.copy(client, server) })
	both.Wait()
}

// copy forwards until one side ends, and then ends the other one.
func (p *proxy) copy(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if !p.pass(from) {
			return
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			if err != io.EOF {
				to.(*net.TCPConn).SetLinger(0)
			}
			return
		}
	}
}

// pass waits while nothing passes, and tells whether the connection is still there.
func (p *proxy) pass(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.held {
		p.free.Wait()
	}
	return p.conns[c]
}
