package storagetest

import (
	"context"
	"errors"

	"github.com/zeoraid/raidstorage"
)

func contextRules() []rule {
	return subject("context", needs{},
		rule{name: "no method starts under an ended context", run: func(e *env) {
			serial := e.commit(objs(1, "a"))
			ctx, cancel := context.WithCancel(e.ctx)
			cancel()
			for name, call := range storageCalls(e, e.s) {
				if err := call(ctx); !errors.Is(err, context.Canceled) {
					e.Errorf("%s under a cancelled context returned %v", name, err)
				}
			}
			e.wantLoad(1, raidstorage.MaxTID, "a", serial, 0)
			e.wantUntouched(serial, 2)
		}},
		rule{name: "a vote under an ended context takes no lock", run: func(e *env) {
			ctx, cancel := context.WithCancel(e.ctx)
			cancel()
			txn := e.staged(objs(1, "a"))
			if _, err := txn.Vote(ctx); !errors.Is(err, context.Canceled) {
				e.Errorf("Vote returned %v", err)
			}
			e.wantUntouched(0, 1)
			_, err := txn.Finish(e.ctx)
			wantErr[*raidstorage.TxnStateError](e, "Finish", err)
		}},
		rule{name: "a finish under an ended context commits as a whole or not at all", run: func(e *env) {
			ctx, cancel := context.WithCancel(e.ctx)
			cancel()
			txn, _ := e.voted(map[raidstorage.OID]string{1: "a", 2: "b"})
			tid, err := txn.Finish(ctx)
			e.abort(txn)
			e.wantLockFree()
			_, errA := e.s.LoadBefore(e.ctx, 1, raidstorage.MaxTID)
			_, errB := e.s.LoadBefore(e.ctx, 2, raidstorage.MaxTID)
			if (errA == nil) != (errB == nil) {
				e.Errorf("half of the transaction is there: %v, %v", errA, errB)
			}
			if err == nil && errA != nil {
				e.Errorf("Finish returned %v, but the transaction is not there: %v", tid, errA)
			}
		}},
		rule{name: "an iteration stops when its context ends", run: func(e *env) {
			for range 5 {
				e.commit(objs(1, "x"))
			}
			ctx, cancel := context.WithCancel(e.ctx)
			defer cancel()
			n, last := 0, error(nil)
			for _, err := range e.s.Iterate(ctx, 0, raidstorage.MaxTID) {
				n, last = n+1, err
				cancel()
			}
			if n != 2 || !errors.Is(last, context.Canceled) {
				e.Errorf("after %d steps Iterate ended with %v, want the context's error after 2", n, last)
			}
			e.wantLockFree()
		}},
		rule{name: "a transaction outlives the context that it began with", run: func(e *env) {
			ctx, cancel := context.WithCancel(e.ctx)
			txn, err := e.s.Begin(ctx, raidstorage.Meta{})
			cancel()
			e.must("Begin", err)
			e.must("Store", txn.Store(e.ctx, 1, 0, []byte("a")))
			_, err = txn.Vote(e.ctx)
			e.must("Vote", err)
			e.finish(txn)
			e.wantCurrent(1, "a")
		}},
	)
}

// storageCalls returns a call of each method of the storage that takes a context,
// by name. None of them changes anything that a test could see afterwards.
func storageCalls(e *env, s raidstorage.Storage) map[string]func(context.Context) error {
	calls := map[string]func(context.Context) error{
		"LoadBefore": func(ctx context.Context) error { _, err := s.LoadBefore(ctx, 1, raidstorage.MaxTID); return err },
		"LastTID":    func(ctx context.Context) error { _, err := s.LastTID(ctx); return err },
		"NewOIDs":    func(ctx context.Context) error { _, err := s.NewOIDs(ctx, 1); return err },
		"Begin":      func(ctx context.Context) error { _, err := s.Begin(ctx, raidstorage.Meta{}); return err },
		"Iterate":    func(ctx context.Context) error { _, err := Log(ctx, s); return err },
	}
	if c, ok := s.(raidstorage.Undoer); ok && e.f.Capabilities.Has(Undoer) {
		calls["UndoLog"] = func(ctx context.Context) error { _, err := c.UndoLog(ctx, 0, 1, nil); return err }
	}
	if c, ok := s.(raidstorage.Historian); ok && e.f.Capabilities.Has(Historian) {
		calls["History"] = func(ctx context.Context) error { _, err := c.History(ctx, 1, 1); return err }
	}
	if c, ok := s.(raidstorage.Packer); ok && e.f.Capabilities.Has(Packer) {
		calls["Pack"] = func(ctx context.Context) error { return c.Pack(ctx, raidstorage.PackOptions{Through: testTID(1)}) }
	}
	if c, ok := s.(raidstorage.BlobLoader); ok && e.f.Capabilities.Has(BlobLoader) {
		calls["OpenBlob"] = func(ctx context.Context) error { _, err := readBlob(c.OpenBlob(ctx, 1, testTID(1))); return err }
	}
	if c, ok := s.(raidstorage.Truncater); ok && e.f.Capabilities.Has(Truncater) {
		calls["TruncateAfter"] = func(ctx context.Context) error { return c.TruncateAfter(ctx, testTID(1), testTID(1)) }
	}
	if c, ok := s.(raidstorage.Sizer); ok && e.f.Capabilities.Has(Sizer) {
		calls["Size"] = func(ctx context.Context) error { _, _, err := c.Size(ctx); return err }
	}
	if c, ok := s.(raidstorage.RecordIterator); ok && e.f.Capabilities.Has(RecordIterator) {
		calls["CurrentRecords"] = func(ctx context.Context) error {
			for _, err := range c.CurrentRecords(ctx, 0) {
				if err != nil {
					return err
				}
			}
			return nil
		}
	}
	return calls
}
