package config

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/zeoclient"
)

// Opened is what Config.Open opened.
type Opened struct {
	// Storages are what to serve, by name, mirrors included.
	Storages map[string]raidstorage.Storage
	// Mirrors are those of Storages that are mirrors, by name.
	Mirrors map[string]*raidstorage.Mirror

	order []raidstorage.Storage
}

// Open opens all storages, or none. ctx bounds the opening. logger, nil for none, gets
// the state changes. Errors: those of the storages, and *raidstorage.InvalidError for a
// Config that Load would not make.
func (c *Config) Open(ctx context.Context, logger *slog.Logger) (*Opened, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	o := &Opened{
		Storages: make(map[string]raidstorage.Storage),
		Mirrors:  make(map[string]*raidstorage.Mirror),
	}
	for _, v := range c.Storages {
		s, err := o.open(ctx, v, logger.With("storage", v.Name))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("storage %s: %w", v.Name, err), o.Close())
		}
		o.Storages[v.Name] = s
		o.order = append(o.order, s)
		if m, ok := s.(*raidstorage.Mirror); ok {
			o.Mirrors[v.Name] = m
		}
	}
	return o, nil
}

func (o *Opened) open(ctx context.Context, v Storage, logger *slog.Logger) (raidstorage.Storage, error) {
	if _, twice := o.Storages[v.Name]; twice {
		return nil, &raidstorage.InvalidError{Op: "configuration", Reason: "two storages have this name"}
	}
	if client, ok := v.Kind.(*ZEOClient); ok {
		return client.openWaiting(ctx, logger)
	}
	open, err := opener(v, logger)
	if err != nil {
		return nil, err
	}
	return open(ctx)
}

// Close closes all storages, the last one first, and returns all errors.
func (o *Opened) Close() error {
	var errs []error
	for i := len(o.order) - 1; i >= 0; i-- {
		errs = append(errs, o.order[i].Close())
	}
	return errors.Join(errs...)
}

// opener returns what opens a storage, for the first time or again.
func opener(v Storage, logger *slog.Logger) (func(context.Context) (raidstorage.Storage, error), error) {
	switch k := v.Kind.(type) {
	case *FileStorage:
		return func(ctx context.Context) (raidstorage.Storage, error) { return k.open(ctx, logger) }, nil
	case *MemStorage:
		base := memstorage.New(v.Name) // the data outlives each handle
		return func(context.Context) (raidstorage.Storage, error) { return base.Another(v.Name), nil }, nil
	case *ZEOClient:
		return func(ctx context.Context) (raidstorage.Storage, error) { return k.open(ctx, logger) }, nil
	case *Mirror:
		cfg, err := k.config(v.Name, logger)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context) (raidstorage.Storage, error) {
			m, err := raidstorage.Open(ctx, cfg)
			if err != nil {
				return nil, err // not a nil *Mirror
			}
			return m, nil
		}, nil
	}
	return nil, &raidstorage.InvalidError{Op: "configuration", Reason: fmt.Sprintf("storage %s has no kind", v.Name)}
}

func (f *FileStorage) open(ctx context.Context, logger *slog.Logger) (raidstorage.Storage, error) {
	if f.MakeDirs {
		if err := os.MkdirAll(filepath.Dir(f.Path), 0o755); err != nil {
			return nil, err
		}
		if f.BlobDir != "" {
			if err := os.MkdirAll(filepath.Dir(f.BlobDir), 0o755); err != nil {
				return nil, err
			}
		}
	}
	s, err := filestorage.Open(ctx, f.Path, filestorage.Options{
		ReadOnly: f.ReadOnly, BlobDir: f.BlobDir, PackDropOld: !f.PackKeepOld, SyncEarly: true, Logger: logger,
	})
	if err != nil {
		return nil, err
	}
	if !f.PackGC {
		return keepGarbage{s}, nil
	}
	return s, nil
}

// keepGarbage is a file storage with pack-gc false: whoever packs it, what cannot be
// reached stays, as other databases may refer to it.
type keepGarbage struct{ *filestorage.Storage }

var _ raidstorage.StagedPacker = keepGarbage{}

// Pack implements raidstorage.Packer.
func (k keepGarbage) Pack(ctx context.Context, opts raidstorage.PackOptions) error {
	if err := k.refuse(opts); err != nil {
		return err
	}
	opts.GC = false
	return k.Storage.Pack(ctx, opts)
}

// StagePack implements raidstorage.StagedPacker.
func (k keepGarbage) StagePack(ctx context.Context, opts raidstorage.PackOptions) (raidstorage.StagedPack, error) {
	if err := k.refuse(opts); err != nil {
		return nil, err
	}
	return k.Storage.StagePack(ctx, opts)
}

// EstimatePack implements raidstorage.PackEstimator.
func (k keepGarbage) EstimatePack(ctx context.Context, opts raidstorage.PackOptions) (raidstorage.PackEstimate, error) {
	if err := k.refuse(opts); err != nil {
		return raidstorage.PackEstimate{}, err
	}
	opts.GC = false
	return k.Storage.EstimatePack(ctx, opts)
}

func (k keepGarbage) refuse(opts raidstorage.PackOptions) error {
	if opts.Decided && len(opts.Garbage) > 0 {
		return &raidstorage.InvalidError{Op: "pack", Reason: "pack-gc is off for " + k.Name()}
	}
	return nil
}

// FindGarbage implements raidstorage.GarbageFinder: there is none, so that a mirror of
// such storages drops none either.
func (k keepGarbage) FindGarbage(ctx context.Context, _ raidstorage.TID, decide func(context.Context) error) ([]raidstorage.OID, error) {
	return nil, decide(ctx)
}

// FindKept implements raidstorage.KeptFinder: as there is no garbage, nothing is kept from
// being it.
func (k keepGarbage) FindKept(ctx context.Context, _ raidstorage.TID, decide func(context.Context) error) (garbage, kept []raidstorage.OID, err error) {
	return nil, nil, decide(ctx)
}

func (z *ZEOClient) open(ctx context.Context, logger *slog.Logger) (raidstorage.Storage, error) {
	opts := zeoclient.Options{
		Storage: z.Storage, ReadOnly: z.ReadOnly, ReadOnlyFallback: z.ReadOnlyFallback,
		CacheBytes: z.CacheBytes, Label: z.Label, SharedBlobDir: z.SharedBlobDir, Logger: logger,
	}
	for _, a := range z.Servers {
		opts.Addresses = append(opts.Addresses, a.String())
	}
	if z.TLS != nil {
		var err error
		if opts.TLS, err = z.TLS.config(false); err != nil {
			return nil, fmt.Errorf("ssl: %w", err)
		}
	}
	s, err := zeoclient.Open(ctx, opts)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// clientPause is between two attempts to reach a server that is waited for.
const clientPause = 500 * time.Millisecond

// openWaiting opens a client that is served itself: it waits for the server as long as
// the configuration says. A member of a mirror does not: the mirror does without it.
func (z *ZEOClient) openWaiting(ctx context.Context, logger *slog.Logger) (raidstorage.Storage, error) {
	if !z.Wait {
		return z.open(ctx, logger)
	}
	wait := time.NewTimer(z.WaitTimeout)
	defer wait.Stop()
	for {
		s, err := z.open(ctx, logger)
		if err == nil || final(err) {
			return s, err
		}
		logger.Warn("waiting for the server", "err", err)
		pause := time.NewTimer(clientPause)
		select {
		case <-pause.C:
		case <-wait.C:
			pause.Stop()
			return nil, err
		case <-ctx.Done():
			pause.Stop()
			return nil, errors.Join(ctx.Err(), err)
		}
	}
}

// final tells whether waiting for a server makes no sense.
func final(err error) bool {
	_, invalid := errors.AsType[*raidstorage.InvalidError](err)
	_, readOnly := errors.AsType[*raidstorage.ReadOnlyError](err)
	return invalid || readOnly
}

func (m *Mirror) config(name string, logger *slog.Logger) (raidstorage.Config, error) {
	cfg := raidstorage.Config{
		Name: name, StateDir: m.StateDir, WriteQuorum: m.WriteQuorum, StartQuorum: m.StartQuorum,
		ReadPolicy: m.ReadPolicy, Timeouts: m.Timeouts, CatchUp: m.CatchUp, SpareAfter: m.SpareAfter, Scrub: m.Scrub, Force: m.Force, Logger: logger,
		CompareBytesPerSecond: m.CompareBytesPerSecond,
	}
	if !m.AutoRecover {
		cfg.AutoRecover = raidstorage.AutoRecoverOff
	}
	for _, v := range m.Members {
		open, err := opener(v, logger.With("backend", v.Name))
		if err != nil {
			return cfg, err
		}
		cfg.Backends = append(cfg.Backends, raidstorage.Backend{Name: v.Name, Open: open, Identity: identity(v, m.StateDir),
			Role: v.Role, Bandwidth: v.Bandwidth})
	}
	return cfg, nil
}
