//go:build interop

package interop_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// control hands out servers to the tests in Python: testdata/suite.py asks it, one
// connection for each request. All servers are ended with the test.
type control struct {
	kind    kind
	msgpack bool   // announce MessagePack in all servers
	dir     string // for membership records of mirrors in memory

	ctx      context.Context // ends with the test; requests have no other
	listener net.Listener
	wg       sync.WaitGroup

	mu      sync.Mutex // guards the fields below
	last    int
	servers map[int]*server
	memory  memory
}

// request is one line from suite.py.
type request struct {
	Op     string     `json:"op"` // start, stop
	ID     int        `json:"id"`
	Server serverSpec `json:"server"`
}

// answer is the line that a request gets.
type answer struct {
	ID      int    `json:"id"`
	Address string `json:"address,omitempty"`
	Error   string `json:"error,omitempty"`
}

// startControl serves requests until the test ends.
func startControl(t *testing.T, k kind, msgpack bool) *control {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	c := &control{kind: k, msgpack: msgpack, dir: t.TempDir(), ctx: ctx, listener: l,
		servers: make(map[int]*server), memory: make(memory)}
	c.wg.Go(c.accept)
	t.Cleanup(func() {
		l.Close()
		cancel()
		c.wg.Wait()
		for id, s := range c.servers {
			if err := s.close(); err != nil {
				t.Errorf("server %d: %v", id, err)
			}
		}
	})
	return c
}

func (c *control) port() int { return c.listener.Addr().(*net.TCPAddr).Port }

func (c *control) accept() {
	for {
		conn, err := c.listener.Accept()
		if err != nil {
			return
		}
		c.wg.Go(func() {
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(time.Minute))
			c.serve(conn)
		})
	}
}

func (c *control) serve(conn net.Conn) {
	var r request
	line, err := bufio.NewReader(conn).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &r)
	}
	var a answer
	if err == nil {
		a, err = c.do(r)
	}
	if err != nil {
		a.Error = err.Error()
	}
	json.NewEncoder(conn).Encode(a) // if it fails the tests know, they wait for it
}

func (c *control) do(r request) (answer, error) {
	switch r.Op {
	case "start":
		r.Server.Msgpack = r.Server.Msgpack || c.msgpack
		// Only clients have the classes to resolve conflicts with. ZEO's own server has them
		// too, and tests count on it. In memory it is as the configuration says.
		r.Server.ClientConflictResolution = r.Server.ClientConflictResolution || c.kind != inMemory
		if address, ok := strings.CutSuffix(r.Server.Address, ":0"); ok && !r.Server.Unix {
			var err error
			if r.Server.Address, err = freeAddressOf(address); err != nil {
				return answer{}, err
			}
		}
		s, err := startServer(c.ctx, r.Server, c.open)
		if err != nil {
			return answer{}, err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.last++
		c.servers[c.last] = s
		return answer{ID: c.last, Address: s.address}, nil
	case "stop":
		c.mu.Lock()
		s := c.servers[r.ID]
		delete(c.servers, r.ID)
		c.mu.Unlock()
		if s == nil {
			return answer{ID: r.ID}, nil // ZEO's tests stop some servers twice
		}
		return answer{ID: r.ID}, s.close()
	}
	return answer{}, errors.New("unknown request " + r.Op)
}
