package config

import (
	"context"
	"errors"
	"log/slog"

	"github.com/zeoraid/raidstorage"
)

// Opened is what Config.Open opened.
type Opened struct {
	// Storages are what to serve, by name, mirrors included.
	Storages map[string]raidstorage.Storage
	// Mirrors are those of Storages that are mirrors, by name.
	Mirrors map[string]*raidstorage.Mirror
}

// Open opens all storages, or none. ctx bounds the opening. logger, nil for none, gets
// the state changes of mirrors.
func (c *Config) Open(ctx context.Context, logger *slog.Logger) (*Opened, error) {
	_, _ = ctx, logger
	return nil, errors.ErrUnsupported
}

// Close closes all storages, and returns the first error.
func (o *Opened) Close() error { return nil }
