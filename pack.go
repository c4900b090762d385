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

	// Decided makes Pack of a GarbageFinder drop exactly the objects in Garbage, as
	// they were at Through, instead of finding out itself: nothing that was written
	// since spares one. GC is ignored. The last transaction up to Through stays, even
	// if it loses all its records, so that LastTID does not go back, here or after a
	// restart. Storages with equal logs then have equal current records. Others than
	// a GarbageFinder refuse it.
	Decided bool
	Garbage []OID // in ascending order; only read, until Pack returns
}

// GarbageFinder is a Packer that tells what is garbage without dropping it, and
// that packs by what another one has told: see PackOptions.Decided. With it a mirror
// decides once for all backends (rule K2).
type GarbageFinder interface {
	Packer
	// FindGarbage returns the objects, in ascending order, that Pack with GC would
	// drop: those which were there at through and could be reached neither then from
	// the root object, nor from a record written later. When it has read nearly
	// everything it calls decide, once, and from there on it reads only what was
	// finished until decide returned: if transactions are kept from finishing until
	// FindGarbage has returned, its answer holds for that moment. An error of decide
	// ends it. Errors as of Pack.
	FindGarbage(ctx context.Context, through TID, decide func(context.Context) error) ([]OID, error)
}
