package zeoserver

import (
	"context"
	"net"
)

// Server serves the storages of a Config. Its methods may be called from any
// goroutine.
type Server struct {
	cfg Config // immutable
}

// New returns a server that serves nothing yet. It reads the last transactions of
// each storage.
func New(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Server{cfg: cfg.withDefaults()}, nil
}

// Serve accepts connections on l until Shutdown or Close, which close l; then it
// returns nil. It may run for several listeners. For TLS l is one of tls.NewListener.
func (s *Server) Serve(l net.Listener) error { return nil }

// Shutdown stops accepting, lets transactions that have voted or are voting end, as
// long as ctx lasts, closes all connections and waits until nothing is left running.
func (s *Server) Shutdown(ctx context.Context) error { return nil }

// Close closes listeners and connections at once, and waits until nothing is left
// running. Transactions that have not begun to finish are aborted.
func (s *Server) Close() error { return nil }

// Status returns the state of each storage, by name.
func (s *Server) Status() map[string]Status { return nil }
