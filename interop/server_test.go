//go:build interop

package interop_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/zeoserver"
)

// serverSpec is what suite.py tells of a server's configuration.
type serverSpec struct {
	Address                  string                 `json:"address"` // "host:port", port 0: any; a path if Unix
	Unix                     bool                   `json:"unix"`
	ReadOnly                 bool                   `json:"read_only"`
	ClientConflictResolution bool                   `json:"client_conflict_resolution"`
	Msgpack                  bool                   `json:"msgpack"`
	InvalidationQueueSize    int                    `json:"invalidation_queue_size"`
	InvalidationAge          float64                `json:"invalidation_age"`    // seconds
	TransactionTimeout       float64                `json:"transaction_timeout"` // seconds
	TLS                      *tlsSpec               `json:"tls"`
	Storages                 map[string]storageSpec `json:"storages"`
}

// tlsSpec names the files of a <ssl> section.
type tlsSpec struct {
	Certificate  string `json:"certificate"`
	Key          string `json:"key"`
	Authenticate string `json:"authenticate"`
}

// server is a running server of ours with the storages that it serves.
type server struct {
	address  string
	zeo      *zeoserver.Server
	storages map[string]raidstorage.Storage
	served   chan error
	closed   atomic.Bool
}

type opener func(ctx context.Context, name string, spec storageSpec) (raidstorage.Storage, error)

// startServer opens the storages and serves them at the address.
func startServer(ctx context.Context, spec serverSpec, open opener) (_ *server, err error) {
	s := &server{storages: make(map[string]raidstorage.Storage), served: make(chan error, 1)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.closeStorages())
		}
	}()
	readOnly := spec.ReadOnly
	for name, storage := range spec.Storages {
		if s.storages[name], err = open(ctx, name, storage); err != nil {
			delete(s.storages, name)
			return nil, fmt.Errorf("open storage %s: %w", name, err)
		}
		readOnly = readOnly || storage.ReadOnly
	}
	cfg := zeoserver.Config{
		Storages:                 s.storages,
		ReadOnly:                 readOnly,
		InvalidationQueueSize:    spec.InvalidationQueueSize,
		InvalidationAge:          seconds(spec.InvalidationAge),
		TransactionTimeout:       seconds(spec.TransactionTimeout),
		ClientConflictResolution: spec.ClientConflictResolution,
		Msgpack:                  spec.Msgpack,
		Logger:                   logger(),
	}
	if s.zeo, err = zeoserver.New(cfg); err != nil {
		return nil, err
	}
	l, err := listen(spec)
	if err != nil {
		return nil, errors.Join(err, s.zeo.Close())
	}
	s.address = l.Addr().String()
	go func() { s.served <- s.zeo.Serve(l) }()
	return s, nil
}

// logger writes what our servers log to standard error, where a failed test shows it,
// if the environment asks for it.
func logger() *slog.Logger {
	if os.Getenv("RAIDSTORAGE_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// close ends the server, waits for it, and closes the storages. Later calls do nothing.
func (s *server) close() error {
	if s.closed.Swap(true) {
		return nil
	}
	err := s.zeo.Close()
	select {
	case <-s.served:
	case <-time.After(10 * time.Second):
		err = errors.Join(err, errors.New("Serve has not returned 10 s after Close"))
	}
	return errors.Join(err, s.closeStorages())
}

func (s *server) closeStorages() error {
	var all []error
	for name, storage := range s.storages {
		if err := storage.Close(); err != nil {
			all = append(all, fmt.Errorf("close storage %s: %w", name, err))
		}
	}
	return errors.Join(all...)
}

func listen(spec serverSpec) (net.Listener, error) {
	network := "tcp"
	if spec.Unix {
		network = "unix"
	}
	l, err := net.Listen(network, spec.Address)
	if err != nil || spec.TLS == nil {
		return l, err
	}
	certificate, err := tls.LoadX509KeyPair(spec.TLS.Certificate, spec.TLS.Key)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	cfg := &tls.Config{Certificates: []tls.Certificate{certificate}}
	if spec.TLS.Authenticate != "" {
		pem, err := os.ReadFile(spec.TLS.Authenticate)
		if err != nil {
			return nil, errors.Join(err, l.Close())
		}
		cfg.ClientCAs = x509.NewCertPool()
		if !cfg.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, errors.Join(fmt.Errorf("%s: no certificates", spec.TLS.Authenticate), l.Close())
		}
		cfg.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return tls.NewListener(l, cfg), nil
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
