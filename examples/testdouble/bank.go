// Package testdouble shows how to test code that uses a storage, without a disk and
// with every fault that a real one could have. The code under test is this file: it
// moves money between accounts, and must not do it twice or by half. The test gives
// it a mirror of in-memory storages that fail on demand.
package testdouble

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/zeoraid/raidstorage"
)

// attempts bounds how often a transfer is tried again after a conflict.
const attempts = 10

// Balance returns what is on an account. *raidstorage.NotFoundError if there is none.
func Balance(ctx context.Context, s raidstorage.Storage, account raidstorage.OID) (uint64, error) {
	rev, err := s.LoadBefore(ctx, account, raidstorage.MaxTID)
	if err != nil {
		return 0, err
	}
	return decode(rev.Data)
}

// Transfer moves an amount from one account to another, both of which must exist,
// and does so once or not at all. An error that is an *raidstorage.OutcomeUnknownError
// says that this could not be found out.
func Transfer(ctx context.Context, s raidstorage.Storage, from, to raidstorage.OID, amount uint64) error {
	var err error
	for range attempts {
		err = transferOnce(ctx, s, from, to, amount)
		if unknown, ok := errors.AsType[*raidstorage.OutcomeUnknownError](err); ok {
			return resolve(ctx, s, from, unknown)
		}
		if _, conflict := errors.AsType[*raidstorage.ConflictError](err); !conflict {
			return err
		}
	}
	return fmt.Errorf("%d attempts: %w", attempts, err)
}

func transferOnce(ctx context.Context, s raidstorage.Storage, from, to raidstorage.OID, amount uint64) error {
	txn, err := s.Begin(ctx, raidstorage.Meta{Description: []byte("transfer")})
	if err != nil {
		return err
	}
	defer txn.Abort(context.WithoutCancel(ctx)) // has no effect after Finish
	if err := change(ctx, s, txn, from, -int64(amount)); err != nil {
		return err
	}
	if err := change(ctx, s, txn, to, int64(amount)); err != nil {
		return err
	}
	if _, err := txn.Vote(ctx); err != nil {
		return err
	}
	_, err = txn.Finish(ctx)
	return err
}

func change(ctx context.Context, s raidstorage.Storage, txn raidstorage.Txn, account raidstorage.OID, by int64) error {
	rev, err := s.LoadBefore(ctx, account, raidstorage.MaxTID)
	if err != nil {
		return err
	}
	balance, err := decode(rev.Data)
	if err != nil {
		return err
	}
	if by < 0 && balance < uint64(-by) {
		return fmt.Errorf("account %v has %d, not %d", account, balance, -by)
	}
	return txn.Store(ctx, account, rev.Serial, encode(balance+uint64(by)))
}

// resolve finds out whether a transfer happened. A mirror settles what is unknown
// before the next vote, so one is asked for first; then the revision is there or not.
func resolve(ctx context.Context, s raidstorage.Storage, account raidstorage.OID, unknown *raidstorage.OutcomeUnknownError) error {
	txn, err := s.Begin(ctx, raidstorage.Meta{})
	if err != nil {
		return errors.Join(unknown, err)
	}
	_, err = txn.Vote(ctx)
	if err := errors.Join(err, txn.Abort(context.WithoutCancel(ctx))); err != nil {
		return errors.Join(unknown, err)
	}
	_, err = raidstorage.LoadSerial(ctx, s, account, unknown.TID)
	if _, ok := errors.AsType[*raidstorage.NotFoundError](err); ok {
		return fmt.Errorf("the transfer did not happen: %w", unknown.Err)
	}
	return err
}

func encode(balance uint64) []byte { return binary.BigEndian.AppendUint64(nil, balance) }

func decode(record []byte) (uint64, error) {
	if len(record) != 8 {
		return 0, fmt.Errorf("%d bytes are no account", len(record))
	}
	return binary.BigEndian.Uint64(record), nil
}
