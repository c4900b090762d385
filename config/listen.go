package config

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/zeoraid/raidstorage/zeoserver"
)

// ZEO returns the settings for zeoserver.New. The caller adds Storages and Logger.
func (s Server) ZEO() zeoserver.Config {
	return zeoserver.Config{
		ReadOnly:                 s.ReadOnly,
		InvalidationQueueSize:    s.InvalidationQueueSize,
		InvalidationAge:          s.InvalidationAge,
		TransactionTimeout:       s.TransactionTimeout,
		ClientConflictResolution: s.ClientConflictResolution,
		Msgpack:                  s.Msgpack,
	}
}

// Listen opens a listener for each of Addresses, with TLS if there is an <ssl>
// section, or none. The caller closes them. A Unix socket that a process left behind
// is replaced; one that somebody listens on is an error.
func (s Server) Listen(ctx context.Context) ([]net.Listener, error) {
	var secure *tls.Config
	if s.TLS != nil {
		var err error
		if secure, err = s.TLS.config(true); err != nil {
			return nil, fmt.Errorf("ssl: %w", err)
		}
	}
	var all []net.Listener
	for _, a := range s.Addresses {
		l, err := a.Listen(ctx)
		if err != nil {
			for _, l := range all {
				err = errors.Join(err, l.Close())
			}
			return nil, err
		}
		if secure != nil {
			l = tls.NewListener(l, secure)
		}
		all = append(all, l)
	}
	return all, nil
}

// Listen listens on one address, without TLS. A Unix socket that a process left behind
// is replaced.
func (a Address) Listen(ctx context.Context) (net.Listener, error) {
	if a.Path != "" {
		if err := removeStale(ctx, a.Path); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", a.Path, err)
		}
	}
	var lc net.ListenConfig
	return lc.Listen(ctx, a.Network(), a.String())
}

// removeStale removes a socket on which nobody listens.
func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("there is a file of that name, which is no socket")
	}
	d := net.Dialer{Timeout: 5 * time.Second}
	conn, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		return errors.Join(errors.New("address already in use"), conn.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err // such as no permission: somebody else's socket
	}
	return os.Remove(path)
}
