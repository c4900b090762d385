package zeoclient

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// TestCloseHearsTheServerOut closes a storage while the server has much to send: the
// server sees the end of what the client sends, none of its writes fails, and Close has
// waited for the end. The transaction that is voting, and the call under way, end at once.
func TestCloseHearsTheServerOut(t *testing.T) {
	t.Parallel()
	f := startFake(t)
	type parting struct{ read, write error }
	parted := make(chan parting, 1)
	callEnded := make(chan error, 1)
	asked := make(chan struct{})
	chunk := string(make([]byte, 64<<10))
	f.atEnd = func(c *fakeConn, err error) {
		p := parting{read: err, write: <-callEnded}
		if errors.Is(p.write, raidstorage.ErrClosed) {
			p.write = nil
		}
		for range 100 { // more than the system takes without somebody who reads
			if p.write == nil {
				c.w.Reset()
				_ = c.w.Message(zeowire.AsyncCall(zeowire.Info, zeowire.Text(chunk)))
				_, p.write = c.nc.Write(c.w.Bytes())
			}
		}
		parted <- p
	}
	f.setHook(func(_ *fakeConn, m zeowire.Message) bool {
		if m.Name == zeowire.LastTransaction {
			close(asked)
			return true
		}
		return false
	})
	s, err := Open(bounded(t), Options{Addresses: []string{f.address}, parting: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := s.LastTID(bounded(t))
		callEnded <- err
	}()
	<-asked
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	select {
	case p := <-parted:
		if p.read != io.EOF || p.write != nil {
			t.Errorf("the server read %v, and its writes ended with %v", p.read, p.write)
		}
	default:
		t.Error("Close did not wait for what the server sends")
	}
}

// TestCloseDoesNotWaitForEver closes a storage whose server does not close its end.
func TestCloseDoesNotWaitForEver(t *testing.T) {
	t.Parallel()
	f := startFake(t)
	left := make(chan struct{})
	defer close(left)
	f.atEnd = func(*fakeConn, error) { <-left }
	s, err := Open(bounded(t), Options{Addresses: []string{f.address}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	closed := make(chan error, 2)
	for range 2 { // both wait
		go func() { closed <- s.Close() }()
	}
	for range 2 {
		select {
		case err := <-closed:
			if err != nil {
				t.Error(err)
			}
		case <-ctx.Done():
			t.Fatal("Close waits for the server")
		}
	}
}
