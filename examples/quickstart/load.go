package main

import (
	"context"
	"errors"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// load copies a Data.fs, whoever wrote it, into the mirror: every transaction with
// its tid, metadata and records as they are.
func (d *demo) load(ctx context.Context) (err error) {
	source, err := filestorage.Open(ctx, d.db, filestorage.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	var n, done, size int64
	if _, size, err = source.Size(ctx); err != nil {
		return err
	}
	for txn, err := range source.Iterate(ctx, 0, raidstorage.MaxTID) {
		if err != nil {
			return err
		}
		if err := restore(ctx, d.mirror, txn); err != nil {
			return err
		}
		n++
		done += txn.Size
		// The number of transactions is not known, but how far the file was read is.
		d.screen.progress("load", n, n*max(size-done, 0)/max(done, 1))
	}
	d.screen.say("%d transactions of %s were loaded.", n, d.db)
	return nil
}

// restore appends txn to a storage as it is.
func restore(ctx context.Context, to raidstorage.Storage, txn *raidstorage.Transaction) error {
	t, err := to.Begin(ctx, txn.Meta)
	if err != nil {
		return err
	}
	for rec, err := range txn.Records {
		if err == nil {
			err = t.Restore(ctx, rec)
		}
		if err != nil {
			return errors.Join(err, t.Abort(ctx))
		}
	}
	if _, err := t.Vote(ctx); err != nil {
		return err
	}
	_, err = t.Finish(ctx)
	return err
}
