package netio_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage/internal/netio"
)

// pair returns both ends of a connection.
func pair(t *testing.T, network string) (net.Conn, net.Conn) {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "s")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		nc, err := l.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- nc
	}()
	a, err := net.Dial(network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b := <-accepted
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

// TestAPeerThatDoesNotRead: nobody waits for it, what was taken arrives in order, and the
// rest can be written by other means, and then directly again.
func TestAPeerThatDoesNotRead(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"tcp", "unix"} {
		a, b := pair(t, network)
		d := netio.New(a)
		if d == nil {
			t.Fatalf("nothing for %s", network)
		}
		sent := make([]byte, 32<<20)
		for i := range sent {
			sent[i] = byte(i / 251)
		}
		n, err := d.TryWrite(sent)
		if err != nil || n == 0 || n >= len(sent) {
			t.Fatalf("%s: TryWrite = %d, %v", network, n, err)
		}
		if more, err := d.TryWrite(sent[n:]); err != nil || more == len(sent)-n {
			t.Errorf("%s: once more %d, %v", network, more, err)
		} else {
			n += more
		}
		got := make(chan []byte, 1)
		go func() {
			all, err := io.ReadAll(b)
			if err != nil {
				t.Error(err)
			}
			got <- all
		}()
		if err := a.SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Write(sent[n:]); err != nil {
			t.Fatal(err)
		}
		if err := a.SetWriteDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		for left := []byte("end"); len(left) > 0; { // the last write may have filled the buffer again
			n, err := d.TryWrite(left)
			if err != nil || time.Since(begun) > time.Minute {
				t.Fatalf("%s: TryWrite = %d, %v", network, n, err)
			}
			left = left[n:]
			runtime.Gosched()
		}
		_ = a.Close()
		if all := <-got; !bytes.Equal(all, append(sent, "end"...)) {
			t.Errorf("%s: %d bytes arrived of %d, or other ones", network, len(all), len(sent)+3)
		}
		if n, err := d.TryWrite([]byte("x")); n != 0 || !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: after Close: %d, %v", network, n, err)
		}
	}
}

func TestAPeerThatIsGone(t *testing.T) {
	t.Parallel()
	a, b := pair(t, "unix")
	d := netio.New(a)
	_ = b.Close()
	if _, err := d.TryWrite([]byte("x")); err == nil {
		t.Error("no error")
	}
	if err := a.SetWriteDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if n, err := d.TryWrite([]byte("x")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the deadline: %d, %v", n, err)
	}
}

func TestWhatHasNoDirectWay(t *testing.T) {
	t.Parallel()
	a, b := net.Pipe()
	defer b.Close()
	if netio.New(a) != nil || netio.New(tls.Client(a, &tls.Config{})) != nil {
		t.Error("there is one")
	}
}

func TestWritesDoNotAllocate(t *testing.T) {
	a, b := pair(t, "tcp")
	go func() { _, _ = io.Copy(io.Discard, b) }()
	d := netio.New(a)
	message := []byte("message")
	if n := testing.AllocsPerRun(100, func() {
		if _, err := d.TryWrite(message); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
