package config

import (
	"context"
	"errors"
	"net"
)

// Listen opens a listener for each of Addresses, with TLS if there is an <ssl>
// section, or none. The caller closes them. A Unix socket that a process left behind
// is replaced; one that somebody listens on is an error.
func (s Server) Listen(ctx context.Context) ([]net.Listener, error) {
	_ = ctx
	return nil, errors.ErrUnsupported
}
