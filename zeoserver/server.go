package zeoserver

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// maxPacks is how many packs may run that no client waits for.
const maxPacks = 4

var errBusy = errors.New("too many packs are under way")

// Server serves the storages of a Config. Its methods may be called from any
// goroutine.
type Server struct {
	cfg    Config             // immutable
	served map[string]*served // immutable
	start  time.Time
	dead   context.Context // ends with the server: packs
	kill   context.CancelFunc

	mu        sync.Mutex // guards the fields below
	listeners map[net.Listener]bool
	conns     map[*conn]bool
	stopping  bool // no more listeners and connections
	packs     int  // that nobody waits for
	group     sync.WaitGroup
}

// New returns a server that serves nothing yet. It reads the last transactions of
// each storage. *raidstorage.InvalidErrors, joined, for what is wrong with cfg; else
// errors of a storage. Close it, also if it has never served.
func New(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg.withDefaults(), served: make(map[string]*served),
		listeners: make(map[net.Listener]bool), conns: make(map[*conn]bool),
	}
	s.start = s.cfg.Clock()
	s.dead, s.kill = context.WithCancel(context.Background())
	for name, storage := range s.cfg.Storages {
		st, err := serveStorage(context.Background(), name, storage, &s.cfg)
		if err != nil {
			s.kill()
			s.unsubscribe()
			return nil, err
		}
		s.served[name] = st
	}
	return s, nil
}

func (s *Server) unsubscribe() {
	for _, st := range s.served {
		st.stop()
	}
}

// Serve accepts connections on l until Shutdown or Close, which close l; then it
// returns nil. It may run for several listeners. For TLS l is one of tls.NewListener.
// Other errors are those of l.
func (s *Server) Serve(l net.Listener) error {
	if !s.addListener(l) {
		l.Close()
		return nil
	}
	defer s.removeListener(l)
	var pause time.Duration
	for {
		nc, err := l.Accept()
		if err == nil {
			pause = 0
			s.admit(nc)
			continue
		}
		if s.isStopping() {
			return nil
		}
		var temporary interface{ Temporary() bool }
		if !errors.As(err, &temporary) || !temporary.Temporary() {
			return err
		}
		// Out of file descriptors, mostly: others will be closed.
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		s.cfg.Logger.Warn("cannot accept a connection", "err", err)
		if !s.pause(pause) {
			return nil
		}
	}
}

// pause waits; false means that the server stops.
func (s *Server) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.dead.Done():
		return false
	}
}

func (s *Server) addListener(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	s.listeners[l] = true
	return true
}

func (s *Server) removeListener(l net.Listener) {
	l.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
}

func (s *Server) isStopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopping
}

// admit starts a connection, or closes it when there are too many.
func (s *Server) admit(nc net.Conn) {
	keepAlive(nc)
	c := newConn(s, nc)
	s.mu.Lock()
	if s.stopping || len(s.conns) >= s.cfg.MaxConnections {
		full := !s.stopping
		s.mu.Unlock()
		c.close(errServerClosed)
		if full {
			s.cfg.Logger.Warn("client dropped", "client", nc.RemoteAddr().String(), "reason", "too many connections")
		}
		return
	}
	s.conns[c] = true
	s.group.Go(func() {
		c.serve()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, c)
	})
	s.mu.Unlock()
}

// keepAlive has the system find out that a client is gone.
func keepAlive(nc net.Conn) {
	if t, ok := nc.(interface{ NetConn() net.Conn }); ok {
		nc = t.NetConn()
	}
	if t, ok := nc.(*net.TCPConn); ok {
		t.SetKeepAlive(true)
		t.SetNoDelay(true)
	}
}

func (s *Server) announcement() zeowire.Encoding {
	if s.cfg.Msgpack {
		return zeowire.Msgpack
	}
	return zeowire.Pickle
}

// Shutdown stops accepting, lets transactions that have voted or are voting end, as
// long as ctx lasts, closes all connections and waits until nothing is left running.
// ctx's error says that some were aborted.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop(true)
	done := make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() {
		s.group.Wait()
		close(done)
	})
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = ctx.Err()
		s.stop(false)
	}
	wait.Wait()
	s.unsubscribe()
	return err
}

// Close closes listeners and connections at once, and waits until nothing is left
// running. Transactions that have not begun to finish are aborted.
func (s *Server) Close() error {
	s.stop(false)
	s.group.Wait()
	s.unsubscribe()
	return nil
}

// flushTime is how long Shutdown waits for a client that does not read its last answers.
const flushTime = 2 * time.Second

// stop closes the listeners and the connections; with wait, those that are committing
// are left to themselves until they have done so.
func (s *Server) stop(wait bool) {
	s.kill()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = true
	for l := range s.listeners {
		l.Close()
	}
	for c := range s.conns {
		switch {
		case !wait:
			c.close(errServerClosed)
		case c.committing.Load() == 0:
			c.closeAfterFlush(errServerClosed) // it may have committed a moment ago
			time.AfterFunc(flushTime, c.cut)
		}
	}
}

// Status returns the state of each storage, by name.
func (s *Server) Status() map[string]Status {
	all := make(map[string]Status, len(s.served))
	for name, st := range s.served {
		all[name] = st.status(s)
	}
	return all
}
