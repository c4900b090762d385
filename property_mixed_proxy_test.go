package raidstorage_test

import (
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// badProxy passes bytes between a client and a server, in pieces of any size, as badly
// as it is told to: late, not at all, or only up to somewhere in a frame.
type badProxy struct {
	listener net.Listener
	group    sync.WaitGroup
	ended    chan struct{} // closed by close

	mu     sync.Mutex // guards the fields below
	rng    *rand.Rand
	target string // "": the server is away
	delay  time.Duration
	left   int           // bytes until all connections are cut; -1: never
	stuck  chan struct{} // closed when bytes go on; nil: they do
	conns  map[net.Conn]bool
}

func newBadProxy(t testing.TB, seed uint64) *badProxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &badProxy{listener: l, ended: make(chan struct{}), rng: rand.New(rand.NewPCG(seed, 0xbad)), left: -1, conns: map[net.Conn]bool{}}
	p.group.Go(p.accept)
	return p
}

func (p *badProxy) address() string { return p.listener.Addr().String() }

func (p *badProxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		target := p.target
		p.mu.Unlock()
		if target == "" {
			client.Close()
			continue
		}
		p.group.Go(func() {
			network := "tcp"
			if strings.Contains(target, "/") {
				network = "unix"
			}
			server, err := net.DialTimeout(network, target, 5*time.Second)
			if err != nil {
				client.Close()
				return
			}
			p.mu.Lock()
			p.conns[client], p.conns[server] = true, true
			p.mu.Unlock()
			p.group.Go(func() { p.pump(server, client) })
			p.pump(client, server)
		})
	}
}

// pump passes on what comes from one side until either side ends.
func (p *badProxy) pump(from, to net.Conn) {
	defer func() {
		p.mu.Lock()
		delete(p.conns, from)
		p.mu.Unlock()
		from.Close()
		to.Close()
	}()
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		for data := buf[:n]; len(data) > 0; {
			piece, pass := p.piece(len(data))
			if !pass {
				return
			}
			if _, err := to.Write(data[:piece]); err != nil {
				return
			}
			data = data[piece:]
		}
		if err != nil {
			return
		}
	}
}

// piece waits as long as it is to be and tells how many of n bytes are passed on now.
func (p *badProxy) piece(n int) (piece int, pass bool) {
	p.mu.Lock()
	delay, stuck := p.delay, p.stuck
	p.mu.Unlock()
	if stuck != nil {
		select {
		case <-stuck:
		case <-p.ended:
			return 0, false
		}
	}
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-p.ended:
			return 0, false
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rng.IntN(4) == 0 {
		n = 1 + p.rng.IntN(n)
	}
	if p.left < 0 {
		return n, true
	}
	if p.left == 0 {
		p.left = -1
		p.cutLocked()
		return 0, false
	}
	n = min(n, p.left)
	p.left -= n
	return n, true
}

func (p *badProxy) cutLocked() {
	for c := range p.conns {
		c.Close()
	}
}

// cut ends all connections.
func (p *badProxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cutLocked()
}

// cutAfter ends all connections when some more bytes have passed.
func (p *badProxy) cutAfter(bytes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = bytes
}

// slow delays each piece.
func (p *badProxy) slow(delay time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = delay
}

// stick makes bytes stay where they are, or go on.
func (p *badProxy) stick(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case on && p.stuck == nil:
		p.stuck = make(chan struct{})
	case !on && p.stuck != nil:
		close(p.stuck)
		p.stuck = nil
	}
}

// to says where connections go from now on; "": nowhere, and those that are there end.
func (p *badProxy) to(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
	if target == "" {
		p.cutLocked()
	}
}

// heal ends all that is bad.
func (p *badProxy) heal() {
	p.stick(false)
	p.slow(0)
	p.cutAfter(-1)
}

func (p *badProxy) close() {
	p.listener.Close()
	close(p.ended)
	p.cut()
	p.group.Wait()
}
