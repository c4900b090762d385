package zeoserver_test

import (
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/zeoserver"
)

// pipes is a listener whose connections are pipes.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case nc := <-p.conns:
		return nc, nil
	case <-p.closed:
		return nil, errors.New("closed")
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// The answer to a finish that waits for its client to read, as all do with TLS for a
// moment, is sent before Shutdown closes the connection.
func TestShutdownSendsTheAnswerOfACommitBefore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := memstorage.New("mem")
		defer s.Close()
		srv, err := zeoserver.New(zeoserver.Config{
			Storages: map[string]raidstorage.Storage{"1": s}, TempDir: t.TempDir(), Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		served := make(chan error, 1)
		go func() { served <- srv.Serve(l) }()
		ours, theirs := net.Pipe()
		l.conns <- theirs
		c := shakeHands(t, ours, zeowire.Pickle)
		c.must("register", zeowire.Text("1"), zeowire.Bool(false))
		c.stage(1, write{1, 0, "x"})
		c.must("vote", number(1))
		id := c.begin("tpc_finish", number(1))
		synctest.Wait() // it has committed, and is about to send the answer
		done := make(chan error, 1)
		go func() { done <- srv.Shutdown(t.Context()) }()
		synctest.Wait()
		if _, exception := c.wait(id); exception != nil {
			t.Errorf("tpc_finish: %v", exception)
		}
		c.closed()
		if err := errors.Join(<-done, <-served); err != nil {
			t.Error(err)
		}
	})
}
