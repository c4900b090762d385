package zeoserver

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"time"

	"github.com/zeoraid/raidstorage"
)

// Config says what a Server serves. A zero field stands for its default.
type Config struct {
	// Storages are what clients name when they register, at least one. The caller
	// closes them, after the Server.
	Storages map[string]raidstorage.Storage
	// ReadOnly refuses connections that want to write.
	ReadOnly bool
	// InvalidationQueueSize is how many of the last transactions are remembered, so
	// that clients that come back learn what changed. Default 100.
	InvalidationQueueSize int
	// InvalidationAge is how old the last transaction that a client has seen may be,
	// if the queue does not reach so far back, to look up in the storage what
	// changed. 0: it is not looked up.
	InvalidationAge time.Duration
	// TransactionTimeout is how long a client may hold the commit lock after its
	// vote; then its connection is closed. 0: no limit.
	TransactionTimeout time.Duration
	// ClientConflictResolution has clients resolve conflicts.
	ClientConflictResolution bool
	// Msgpack prefers MessagePack. Clients choose, all the same.
	Msgpack bool

	// MaxFrameBytes is the longest message taken of a registered client. Default
	// 256 MiB.
	MaxFrameBytes int64
	// MaxConnections is the number of connections above which new ones are closed at
	// once. Default 4096.
	MaxConnections int
	// MaxInFlight is how many loads of one connection run at a time. Default 64.
	MaxInFlight int
	// SendBufferBytes is how much may wait to be sent to one client. One that reads
	// so slowly that invalidations exceed it is dropped. Default 16 MiB.
	SendBufferBytes int
	// StageMemoryBytes is how much of a transaction's data waits in memory for the
	// vote; what is more goes to a temporary file. Default 8 MiB.
	StageMemoryBytes int64
	// HandshakeTimeout is the time from connecting to registering. Default 30 s.
	HandshakeTimeout time.Duration
	// WriteTimeout is how long a client may take no byte of what is sent to it before
	// it is dropped. Default 2 minutes.
	WriteTimeout time.Duration
	// TempDir is for large transactions and blobs. Default os.TempDir.
	TempDir string

	// Logger is for what happens; nil: nothing is logged.
	Logger *slog.Logger
	// Clock tells the time, for status, log and invalidation age. Default time.Now.
	Clock func() time.Time
}

const (
	defaultQueueSize        = 100
	defaultMaxFrame         = 256 << 20
	defaultMaxConnections   = 4096
	defaultMaxInFlight      = 64
	defaultSendBuffer       = 16 << 20
	defaultStageMemory      = 8 << 20
	defaultHandshakeTimeout = 30 * time.Second
	defaultWriteTimeout     = 2 * time.Minute
)

// Validate returns all that is wrong with the configuration, as joined
// *raidstorage.InvalidErrors.
func (c *Config) Validate() error {
	var errs []error
	wrong := func(format string, args ...any) {
		errs = append(errs, &raidstorage.InvalidError{Op: "zeoserver config", Reason: fmt.Sprintf(format, args...)})
	}
	if len(c.Storages) == 0 {
		wrong("Storages is empty")
	}
	for name, s := range c.Storages {
		if s == nil {
			wrong("storage %q is nil", name)
		}
	}
	for name, v := range map[string]int64{
		"InvalidationQueueSize": int64(c.InvalidationQueueSize), "InvalidationAge": int64(c.InvalidationAge),
		"TransactionTimeout": int64(c.TransactionTimeout), "MaxFrameBytes": c.MaxFrameBytes,
		"MaxConnections": int64(c.MaxConnections), "MaxInFlight": int64(c.MaxInFlight),
		"SendBufferBytes": int64(c.SendBufferBytes), "StageMemoryBytes": c.StageMemoryBytes,
		"HandshakeTimeout": int64(c.HandshakeTimeout), "WriteTimeout": int64(c.WriteTimeout),
	} {
		if v < 0 {
			wrong("%s is negative", name)
		}
	}
	return errors.Join(errs...)
}

// withDefaults returns a copy with nothing left to choose.
func (c Config) withDefaults() Config {
	c.Storages = maps.Clone(c.Storages)
	c.InvalidationQueueSize = orDefault(c.InvalidationQueueSize, defaultQueueSize)
	c.MaxFrameBytes = orDefault(c.MaxFrameBytes, defaultMaxFrame)
	c.MaxConnections = orDefault(c.MaxConnections, defaultMaxConnections)
	c.MaxInFlight = orDefault(c.MaxInFlight, defaultMaxInFlight)
	c.SendBufferBytes = orDefault(c.SendBufferBytes, defaultSendBuffer)
	c.StageMemoryBytes = orDefault(c.StageMemoryBytes, defaultStageMemory)
	c.HandshakeTimeout = orDefault(c.HandshakeTimeout, defaultHandshakeTimeout)
	c.WriteTimeout = orDefault(c.WriteTimeout, defaultWriteTimeout)
	c.TempDir = orDefault(c.TempDir, os.TempDir())
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	return c
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}
