package zeoclient

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/zeoraid/raidstorage"
)

// Options says which server's storage Open opens, and how. Zero fields stand for
// the defaults.
type Options struct {
	// Addresses of the server, at least one: "host:port", or the path of a Unix
	// socket, which has a slash in it. They are tried in turn.
	Addresses []string
	// Storage is the name of the storage at the server; "1" if empty.
	Storage string
	// ReadOnly opens the storage for reading only. ReadOnlyFallback does so only
	// where, and as long as, no server lets us write.
	ReadOnly, ReadOnlyFallback bool
	// TLS is the configuration for encrypted connections; nil: plain. Without a
	// ServerName the host of the address is verified.
	TLS *tls.Config
	// DialTimeout bounds the setting up of a connection, handshake and registration
	// included: 10 s.
	DialTimeout time.Duration
	// CallTimeout bounds every call: 30 s. A vote counts as one call with its wait for
	// the server's commit lock; Pack may take as long as its context lets it, while
	// the server answers pings.
	CallTimeout time.Duration
	// CacheBytes bounds the cache of revisions in memory; 0: none.
	CacheBytes int64
	// MaxFrameBytes bounds a message of the server, and so the records: 256 MiB.
	MaxFrameBytes int64
	// TempDir is where blobs are kept on their way; os.TempDir() if empty.
	TempDir string
	// SharedBlobDir is the server's own blob directory, as this machine sees it: blobs are
	// read and put there instead of being sent, as with shared-blob-dir of ZEO's client.
	// Server and client need the right to write there, and the right to read what the
	// other one writes. Empty: they are sent.
	SharedBlobDir string
	// Label is shown in the server's log, where it is not empty.
	Label string
	// Name is what Storage.Name returns; the address and the storage's name if empty.
	Name string
	// Logger is told of connections made and lost; nil: nobody.
	Logger *slog.Logger

	writableAgain time.Duration // how often a read-only fallback looks for a writable server
	parting       time.Duration // how long a server may take to close its end
}

const (
	defaultDialTimeout = 10 * time.Second
	defaultCallTimeout = 30 * time.Second
	defaultMaxFrame    = 256 << 20
	writableAgain      = 30 * time.Second
	parting            = time.Second
)

// Validate returns all that is wrong with the options, as *raidstorage.InvalidErrors.
func (o Options) Validate() error {
	var errs []error
	wrong := func(reason string) {
		errs = append(errs, &raidstorage.InvalidError{Op: "zeoclient options", Reason: reason})
	}
	if len(o.Addresses) == 0 {
		wrong("no address")
	}
	for _, address := range o.Addresses {
		if address == "" {
			wrong("an empty address")
		}
	}
	if o.DialTimeout < 0 || o.CallTimeout < 0 {
		wrong("a negative timeout")
	}
	if o.CacheBytes < 0 || o.MaxFrameBytes < 0 {
		wrong("a negative size")
	}
	if o.ReadOnly && o.ReadOnlyFallback {
		wrong("both ReadOnly and ReadOnlyFallback")
	}
	return errors.Join(errs...)
}

// withDefaults returns a copy with the defaults filled in.
func (o Options) withDefaults() Options {
	o.Addresses = slices.Clone(o.Addresses)
	if o.Storage == "" {
		o.Storage = "1"
	}
	if o.DialTimeout == 0 {
		o.DialTimeout = defaultDialTimeout
	}
	if o.CallTimeout == 0 {
		o.CallTimeout = defaultCallTimeout
	}
	if o.MaxFrameBytes == 0 {
		o.MaxFrameBytes = defaultMaxFrame
	}
	if o.writableAgain == 0 {
		o.writableAgain = writableAgain
	}
	if o.parting == 0 {
		o.parting = parting
	}
	if o.Name == "" {
		o.Name = strings.Join(o.Addresses, ",") + "/" + o.Storage
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.TLS != nil {
		o.TLS = o.TLS.Clone()
	}
	return o
}
