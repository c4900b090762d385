package raidstorage_test

import (
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// What a link over the world is to an application on top of TCP: every byte arrives, in
// order, half a round trip later. A segment that was lost arrives when it was sent again,
// and what was sent after it waits for that. Bandwidth and the windows of TCP are not
// modelled.
const (
	farRoundTrip = 200 * time.Millisecond
	farResend    = farRoundTrip + 200*time.Millisecond // doubled each time in a row
	farSegment   = 1460
	farLoss      = 0.01
	farWindow    = 4096 // segments on their way, then the sender waits
)

// farLink passes bytes between clients and a server that is far away.
type farLink struct {
	listener  net.Listener
	roundTrip time.Duration
	group     sync.WaitGroup
	ended     chan struct{} // closed by close

	mu       sync.Mutex // guards the fields below
	rng      *rand.Rand
	target   string
	left     int           // bytes to the server until all connections are cut; -1: never
	frozen   chan struct{} // closed when bytes go on; nil: they do
	conns    map[net.Conn]bool
	segments int
	lost     int
	cuts     int
}

func newFarLink(t testing.TB, seed uint64, target string) *farLink {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &farLink{listener: l, roundTrip: farRoundTrip, ended: make(chan struct{}), rng: rand.New(rand.NewPCG(seed, 0xfa2)),
		target: target, left: -1, conns: map[net.Conn]bool{}}
	p.group.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

func (p *farLink) address() string { return p.listener.Addr().String() }

func (p *farLink) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.group.Go(func() { p.serve(client) })
	}
}

func (p *farLink) serve(client net.Conn) {
	if !p.add(client) || !p.sleep(p.roundTrip) { // a connection takes one
		client.Close()
		return
	}
	network := "tcp"
	if strings.Contains(p.target, "/") {
		network = "unix"
	}
	server, err := net.DialTimeout(network, p.target, 5*time.Second)
	if err != nil {
		client.Close()
		return
	}
	if !p.add(server) {
		client.Close()
		server.Close()
		return
	}
	p.group.Go(func() { p.carry(client, server, true) })
	p.carry(server, client, false)
}

func (p *farLink) add(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.ended:
		return false
	default:
	}
	p.conns[c] = true
	return true
}

// segment is a piece of what was sent, and when it is there.
type segment struct {
	data []byte
	due  time.Time
}

// carry is one direction of a connection, until either side ends. What is on its way when
// a connection is cut is lost; where one side ends properly it arrives.
func (p *farLink) carry(from, to net.Conn, toServer bool) {
	way := make(chan segment, farWindow)
	p.group.Go(func() {
		defer func() {
			p.mu.Lock()
			delete(p.conns, to)
			p.mu.Unlock()
			to.Close()
			from.Close()
			for range way { // the sender may wait for room
			}
		}()
		for s := range way {
			if !p.sleep(time.Until(s.due)) || !p.thawed() || !p.passes(len(s.data), toServer) {
				return
			}
			if _, err := to.Write(s.data); err != nil {
				return
			}
		}
	})
	defer close(way)
	var due time.Time
	for {
		data := make([]byte, farSegment)
		n, err := from.Read(data)
		if n > 0 {
			if at := time.Now().Add(p.roundTrip/2 + p.delay()); at.After(due) {
				due = at
			}
			way <- segment{data[:n], due}
		}
		if err != nil {
			return
		}
	}
}

// delay counts a segment and returns by how much losses delay it.
func (p *farLink) delay() (late time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.segments++
	for resend := farResend; p.rng.Float64() < farLoss; resend *= 2 {
		p.lost++
		late += resend
	}
	return late
}

func (p *farLink) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-p.ended:
		return false
	}
}

// thawed waits while nothing passes; false at the end.
func (p *farLink) thawed() bool {
	p.mu.Lock()
	frozen := p.frozen
	p.mu.Unlock()
	if frozen == nil {
		return true
	}
	select {
	case <-frozen:
		return true
	case <-p.ended:
		return false
	}
}

// passes tells whether n bytes arrive.
func (p *farLink) passes(n int, toServer bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left < 0 || !toServer {
		return true
	}
	if p.left -= n; p.left > 0 {
		return true
	}
	p.left = -1
	p.cutLocked()
	return false
}

func (p *farLink) cutLocked() {
	p.cuts++
	for c := range p.conns {
		c.Close()
	}
	clear(p.conns)
}

// cutAfter ends all connections when so many more bytes have come to the server.
func (p *farLink) cutAfter(bytes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = bytes
}

// freeze keeps everything where it is, or lets it go on.
func (p *farLink) freeze(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case on && p.frozen == nil:
		p.frozen = make(chan struct{})
	case !on && p.frozen != nil:
		close(p.frozen)
		p.frozen = nil
	}
}

// counts returns how many segments were sent, how many were lost, and how often the
// link was cut.
func (p *farLink) counts() (segments, lost, cuts int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.segments, p.lost, p.cuts
}

func (p *farLink) close() {
	p.listener.Close()
	p.mu.Lock()
	close(p.ended)
	p.cutLocked()
	p.mu.Unlock()
	p.group.Wait()
}
