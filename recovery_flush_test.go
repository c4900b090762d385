package raidstorage_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/memstorage"
)

// deferring is a storage whose deferred transactions are not durable before Flush.
type deferring struct {
	raidstorage.Storage
	volatile atomic.Int64
	flushes  atomic.Int64
	broken   atomic.Bool
}

func (d *deferring) Begin(ctx context.Context, meta raidstorage.Meta) (raidstorage.Txn, error) {
	txn, err := d.Storage.Begin(ctx, meta)
	if err != nil || !meta.Deferred {
		return txn, err
	}
	return &deferredTxn{txn, d}, nil
}

func (d *deferring) Flush(context.Context) error {
	if d.broken.Load() {
		return errors.New("the disk is gone")
	}
	d.flushes.Add(1)
	d.volatile.Store(0)
	return nil
}

type deferredTxn struct {
	raidstorage.Txn
	d *deferring
}

func (t *deferredTxn) Finish(ctx context.Context) (raidstorage.TID, error) {
	t.d.volatile.Add(1)
	return t.Txn.Finish(ctx)
}

// deferring makes a backend one whose present and later connections are the returned one's.
func (w *world) deferring(i int) *deferring {
	d := &deferring{}
	w.cfg.Backends[i].Open = func(context.Context) (raidstorage.Storage, error) {
		d.Storage = w.mem.stores[i].Another(name(i))
		return d, nil
	}
	return d
}

// V4: a backend that joins has on its disk what was copied, before the record says so; a
// recovery does not wait for the disk more often than that takes.
func TestV4WhatWasCopiedIsDurableBeforeTheRecordNamesTheBackend(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		target := w.deferring(1)
		m := w.start()
		for n := range raidstorage.OID(1500) { // several chunks
			w.mustCommit(m, n, "data")
		}
		if err := m.Disable(t.Context(), "b2", "new disk"); err != nil {
			t.Fatal(err)
		}
		w.mem.stores[1] = memstorage.New("b2")
		named := false
		w.reg.on(func(next raidstorage.Membership) registerFault {
			if slices.Contains(next.InSync, "b2") {
				named = true
				if n := target.volatile.Load(); n > 0 {
					t.Errorf("the record names b2, and %d transactions are not durable there", n)
				}
			}
			return registerWorks
		})
		if err := m.Recover(t.Context(), "b2"); err != nil {
			t.Fatal(err)
		}
		if n := target.flushes.Load(); !named || n > 3 {
			t.Errorf("the record named b2: %v; it was flushed %d times", named, n)
		}
		w.wantEqual("b1", "b2")
	})
}

// What cannot be made durable is not taken in.
func TestV4ABackendThatCannotFlushIsNotTakenIn(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		target := w.deferring(1)
		m := w.start()
		w.mustCommit(m, 1, "data")
		if err := m.Disable(t.Context(), "b2", "new disk"); err != nil {
			t.Fatal(err)
		}
		w.mem.stores[1] = memstorage.New("b2")
		target.broken.Store(true)
		if err := m.Recover(t.Context(), "b2"); err == nil {
			t.Error("the recovery succeeded")
		}
		w.wantInSync("b1")
	})
}
