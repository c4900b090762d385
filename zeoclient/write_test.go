package zeoclient

import (
	"bufio"
	"encoding/binary"
	"errors"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage/internal/netio"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// writingTo returns a connection that is only written to, and its peer.
func writingTo(t *testing.T, timeout time.Duration) (*conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	nc, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c := &conn{
		server: "peer", nc: nc, raw: nc, timeout: timeout, calls: map[int64]*call{},
		output: output{out: &zeowire.Writer{}, spare: &zeowire.Writer{}, direct: netio.New(nc)},
		wake:   make(chan struct{}, 1), done: make(chan struct{}),
	}
	c.wg.Go(c.write)
	t.Cleanup(func() {
		_ = peer.Close()
		c.close(errors.New("over"))
	})
	return c, peer
}

// TestFramesOfManyCallersArriveWhole has callers send frames of all sizes, more than the
// system takes, to a peer that reads by fits and starts.
func TestFramesOfManyCallersArriveWhole(t *testing.T) {
	t.Parallel()
	c, peer := writingTo(t, time.Minute)
	const callers, frames = 8, 300
	var work sync.WaitGroup
	for n := range callers {
		work.Go(func() {
			for i := range frames {
				body := make([]byte, 8+(i*i*(n+1))%40_000)
				binary.BigEndian.PutUint32(body, uint32(n))
				binary.BigEndian.PutUint32(body[4:], uint32(i))
				if err := c.send(bounded(t), func(w *zeowire.Writer) error { return w.Raw(body) }); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	in := zeowire.NewFrameReader(bufio.NewReader(peer), 0)
	var next [callers]uint32
	for total := range callers * frames {
		body, err := in.Next()
		if err != nil {
			t.Fatal(err)
		}
		n, i := binary.BigEndian.Uint32(body), binary.BigEndian.Uint32(body[4:])
		if want := 8 + (int(i)*int(i)*(int(n)+1))%40_000; n >= callers || i != next[n] || len(body) != want {
			t.Fatalf("frame %d is %d of caller %d with %d bytes", total, i, n, len(body))
		}
		next[n]++
	}
	work.Wait()
}

// TestAPeerThatDoesNotReadHoldsUpNobodyForEver: callers that must not wait do not, others
// wait until there is room or the deadline ends the connection.
func TestAPeerThatDoesNotReadHoldsUpNobodyForEver(t *testing.T) {
	t.Parallel()
	c, _ := writingTo(t, 10*time.Second)
	body := make([]byte, 1<<20)
	for range 8 { // does not wait, however much there is
		if err := c.post(func(w *zeowire.Writer) error { return w.Raw(body) }); err != nil {
			t.Fatal(err)
		}
	}
	err := c.send(bounded(t), func(w *zeowire.Writer) error { return w.Raw(body) })
	if _, lost := errors.AsType[*DisconnectedError](err); !lost {
		t.Errorf("send ended with %v", err)
	}
}
