// Package netio writes to connections without waiting. Handing bytes to a goroutine that
// writes costs more than writing them, but who has something else to do, or writes for
// many, must not wait for a peer that does not read. So they write what the system takes
// at once, and leave only the rest to a goroutine that may wait.
package netio

import (
	"net"
	"syscall"
)

// Direct writes to a connection what the system takes at once. It is used by one
// goroutine at a time, and while nobody else writes to the connection.
type Direct struct {
	raw  syscall.RawConn
	call func(fd uintptr) bool // write, once
	b    []byte
	n    int
	err  error
}

// New returns a Direct for nc, nil if there is none for its kind: TLS, or a pipe.
func New(nc net.Conn) *Direct {
	switch nc.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		return nil
	}
	raw, err := nc.(syscall.Conn).SyscallConn()
	if err != nil || !supported {
		return nil
	}
	d := &Direct{raw: raw}
	d.call = d.write
	return d
}

// TryWrite writes b, or as much of its beginning as the system takes now, and returns
// how much that was. An error is that of the connection. A write deadline that is over
// is one, too: who sets one removes it again.
func (d *Direct) TryWrite(b []byte) (int, error) {
	d.b, d.n, d.err = b, 0, nil
	err := d.raw.Write(d.call)
	d.b = nil
	if err == nil {
		err = d.err
	}
	return d.n, err
}

// write is called with the descriptor, which does not block. It never wants to be called
// again.
func (d *Direct) write(fd uintptr) bool {
	for d.n < len(d.b) {
		n, err := write(fd, d.b[d.n:])
		if err == nil && n > 0 {
			d.n += n
			continue
		}
		if full, again := verdict(err); again {
			continue
		} else if err != nil && !full {
			d.err = err
		}
		return true
	}
	return true
}
