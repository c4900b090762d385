// Package wrap shows how to put something of your own between a mirror and a
// backend: here a storage that compresses the records of any other storage.
//
// What to watch for is in this file: which optional interfaces the wrapper can pass
// on, and how it says so. That the result is still a storage as the contract wants
// it is proved in the test, with storagetest.Run.
package wrap

import (
	"compress/flate"
	"context"
	"iter"
	"reflect"
	"sync"

	"github.com/zeoraid/raidstorage"
)

// Compressed is a storage that keeps its records compressed in another storage.
// All methods may be called from any goroutine.
//
// The inner storage is a named field and not embedded: embedding would pass on
// the data of methods that were forgotten here as it is.
type Compressed struct {
	inner raidstorage.Storage

	mu    sync.Mutex    // guards flate
	flate *flate.Writer // used again and again: a new one costs more than a record
}

// Not passed on: Packer, since garbage collection in the inner storage cannot find
// references in compressed records; BlobLoader, since blobs would have to be
// compressed too; Sizer and RecordIterator, to keep the example short. Compressed has
// no methods for them, so that Can refuses them.
var (
	_ raidstorage.Storage   = (*Compressed)(nil)
	_ raidstorage.Wrapper   = (*Compressed)(nil)
	_ raidstorage.Undoer    = (*Compressed)(nil)
	_ raidstorage.Historian = (*Compressed)(nil)
	_ raidstorage.Notifier  = (*Compressed)(nil)
	_ raidstorage.Truncater = (*Compressed)(nil)
)

// Compress returns a storage that keeps its records compressed in inner, which must
// be empty or have been filled by a Compressed. Closing it closes inner.
func Compress(inner raidstorage.Storage) *Compressed {
	w, _ := flate.NewWriter(nil, flate.BestSpeed) // an error would say that the level is unknown
	return &Compressed{inner: inner, flate: w}
}

// Supports implements raidstorage.Wrapper: of the optional interfaces that
// Compressed has methods for, it serves those that the inner storage has.
func (c *Compressed) Supports(capability reflect.Type) bool {
	if capability == reflect.TypeFor[raidstorage.Wrapper]() {
		return true
	}
	return raidstorage.Supports(c.inner, capability)
}

// Name implements raidstorage.Storage.
func (c *Compressed) Name() string { return c.inner.Name() + " (compressed)" }

// LastTID implements raidstorage.Storage.
func (c *Compressed) LastTID(ctx context.Context) (raidstorage.TID, error) {
	return c.inner.LastTID(ctx)
}

// NewOIDs implements raidstorage.Storage.
func (c *Compressed) NewOIDs(ctx context.Context, n int) ([]raidstorage.OID, error) {
	return c.inner.NewOIDs(ctx, n)
}

// Close implements raidstorage.Storage.
func (c *Compressed) Close() error { return c.inner.Close() }

// LoadBefore implements raidstorage.Storage.
func (c *Compressed) LoadBefore(ctx context.Context, oid raidstorage.OID, before raidstorage.TID) (raidstorage.Revision, error) {
	rev, err := c.inner.LoadBefore(ctx, oid, before)
	if err != nil {
		return raidstorage.Revision{}, err
	}
	rev.Data, err = c.unpack(oid, rev.Serial, rev.Data)
	return rev, err
}

// Iterate implements raidstorage.Storage. Recovery and comparison read the log, so
// they see the same records as in a backend that is not compressed.
func (c *Compressed) Iterate(ctx context.Context, from, through raidstorage.TID) iter.Seq2[*raidstorage.Transaction, error] {
	return func(yield func(*raidstorage.Transaction, error) bool) {
		for txn, err := range c.inner.Iterate(ctx, from, through) {
			if err == nil {
				txn = c.transaction(txn)
			}
			if !yield(txn, err) || err != nil {
				return
			}
		}
	}
}

// transaction returns txn with its records as they were before they were compressed.
func (c *Compressed) transaction(txn *raidstorage.Transaction) *raidstorage.Transaction {
	plain := *txn
	plain.Records = func(yield func(raidstorage.Record, error) bool) {
		for rec, err := range txn.Records {
			if err == nil {
				rec.Data, err = c.unpack(rec.OID, rec.TID, rec.Data)
			}
			if !yield(rec, err) || err != nil {
				return
			}
		}
	}
	return &plain
}

// Begin implements raidstorage.Storage. The transaction can undo exactly if the
// inner one can: callers find out by its type.
func (c *Compressed) Begin(ctx context.Context, meta raidstorage.Meta) (raidstorage.Txn, error) {
	inner, err := c.inner.Begin(ctx, meta)
	if err != nil {
		return nil, err
	}
	t := txn{inner, c}
	if u, ok := inner.(raidstorage.UndoTxn); ok {
		return undoTxn{t, u}, nil
	}
	return t, nil
}

// txn is a transaction that does not know undo. Here embedding is right: the methods
// that are passed on have no record, and the interface is closed.
type txn struct {
	raidstorage.Txn
	c *Compressed
}

// Store implements raidstorage.Txn.
func (t txn) Store(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID, data []byte) error {
	packed, err := t.c.pack(data)
	if err != nil {
		return err
	}
	return t.Txn.Store(ctx, oid, serial, packed)
}

// Restore implements raidstorage.Txn.
func (t txn) Restore(ctx context.Context, record raidstorage.Record) (err error) {
	if record.OpenBlob != nil {
		return &raidstorage.UnsupportedError{Capability: "BlobLoader"}
	}
	if record.Data, err = t.c.pack(record.Data); err != nil {
		return err
	}
	return t.Txn.Restore(ctx, record)
}

// undoTxn is a transaction that does. What it undoes is the same, compressed or not.
type undoTxn struct {
	txn
	undoer raidstorage.UndoTxn
}

// Undo implements raidstorage.UndoTxn.
func (t undoTxn) Undo(ctx context.Context, tid raidstorage.TID) error { return t.undoer.Undo(ctx, tid) }
