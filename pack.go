package raidstorage

import "context"

// Packer is a storage that can drop what is not needed any more.
type Packer interface {
	// Pack drops the revisions that were not current at opts.Through and, with GC,
	// the objects that were not reachable then from the root object nor from a
	// record written later. Transactions up to opts.Through become StatusPacked.
	// Reads and commits go on. A record whose references cannot be read stops the
	// pack with a *CorruptError that names it, and nothing is dropped. (ZODB: pack.)
	Pack(ctx context.Context, opts PackOptions) error
}

// PackOptions says what Packer.Pack drops.
type PackOptions struct {
	Through TID  // the pack time, inclusive: revisions current at it are kept
	GC      bool // whether to collect objects that cannot be reached
}
