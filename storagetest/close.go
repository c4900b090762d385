package storagetest

import (
	"context"
	"errors"
	"slices"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
)

func closeRules() []rule {
	return subject("close", needs{},
		rule{name: "every method of a closed storage returns ErrClosed", run: func(e *env) {
			e.commit(objs(1, "a"))
			e.must("Close", e.s.Close())
			for name, call := range storageCalls(e, e.s) {
				if err := call(e.ctx); !errors.Is(err, raidstorage.ErrClosed) {
					e.Errorf("%s after Close returned %v", name, err)
				}
			}
			if e.s.Name() == "" {
				e.Errorf("a closed storage has lost its name")
			}
		}},
		rule{name: "closing again does nothing", run: func(e *env) {
			e.must("Close", e.s.Close())
			e.must("Close again", e.s.Close())
			e.must("Close at the same time", together(4, func(int) error { return e.s.Close() }))
		}},
		rule{name: "open transactions end with the storage", run: func(e *env) {
			staged := e.staged(objs(1, "a"))
			voted, _ := e.voted(objs(2, "b"))
			e.must("Close", e.s.Close())
			for name, txn := range map[string]raidstorage.Txn{"staged": staged, "voted": voted} {
				_, err := txn.Vote(e.ctx)
				e.wantOver(name+": Vote", err)
				_, err = txn.Finish(e.ctx)
				e.wantOver(name+": Finish", err)
				e.wantOver(name+": Store", txn.Store(e.ctx, 3, 0, []byte("c")))
				if err := txn.Abort(e.ctx); err != nil {
					e.wantOver(name+": Abort", err)
				}
			}
		}},
		rule{name: "a vote that waits for the lock ends when the storage is closed", run: func(e *env) {
			e.voted(objs(1, "a"))
			votes := e.voteLater(func() context.Context { return e.ctx }, e.staged(objs(2, "b")))
			e.must("Close", e.s.Close())
			select {
			case got := <-votes:
				e.wantOver("Vote", got.err)
			case <-e.ctx.Done():
				e.Fatalf("Vote still waits after Close")
			}
		}},
		rule{name: "calls under way and Close get along", run: func(e *env) {
			e.commit(objs(1, "a"))
			e.must("calls while closing", together(8, func(i int) error {
				if i == 0 {
					return e.s.Close()
				}
				for {
					if _, err := transact(e.ctx, e.s, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
						_, err := e.s.LoadBefore(e.ctx, 1, raidstorage.MaxTID)
						return err
					}); err != nil {
						return overOr(err)
					}
				}
			}))
		}},
		rule{name: "an iteration under way ends when the storage is closed", run: func(e *env) {
			for range 3 {
				e.commit(objs(1, "x"))
			}
			var last error
			n := 0
			for _, err := range e.s.Iterate(e.ctx, 0, raidstorage.MaxTID) {
				if n++; n == 1 {
					// Close waits for calls under way: it must not be called from one.
					closing := make(chan error, 1)
					go func() { closing <- e.s.Close() }()
					e.Cleanup(func() { <-closing })
					continue
				}
				last = err
			}
			if last != nil && !errors.Is(last, raidstorage.ErrClosed) {
				e.Errorf("Iterate ended with %v, want ErrClosed or all transactions", last)
			}
		}},
	)
}

// wantOver checks the error of a call on a transaction that Close has ended.
func (e *env) wantOver(what string, err error) {
	e.Helper()
	if err == nil || overOr(err) != nil {
		e.Errorf("%s after Close returned %v, want ErrClosed or *TxnStateError", what, err)
	}
}

// overOr returns nil for the errors of a closed storage, others as they are.
func overOr(err error) error {
	if _, ended := errors.AsType[*raidstorage.TxnStateError](err); ended || errors.Is(err, raidstorage.ErrClosed) {
		return nil
	}
	return err
}

func reopenRules() []rule {
	return slices.Concat(
		subject("reopen", needs{reopen: true},
			rule{name: "everything is as it was", run: func(e *env) {
				e.restoreSample()
				tid := e.commit(map[raidstorage.OID]string{1: "a6", 7: "g"})
				want := e.log(e.s)
				for range 2 {
					e.reopen()
					if diff := cmp.Diff(want, e.log(e.s)); diff != "" {
						e.Fatalf("the log differs (-want +got):\n%s", diff)
					}
					e.wantLast(tid)
					e.wantLoad(1, raidstorage.MaxTID, "a6", tid, 0)
					e.wantLoad(1, testTID(2)+1, "a2", testTID(2), testTID(3))
					e.wantNotFound(2, raidstorage.MaxTID)
					e.wantNotFound(4, raidstorage.MaxTID)
				}
			}},
			rule{name: "commits go on with later tids and known serials", run: func(e *env) {
				first := e.commit(objs(1, "a"))
				e.reopen()
				txn := e.begin(raidstorage.Meta{})
				e.must("Store", txn.Store(e.ctx, 1, 0, []byte("b")))
				e.wantConflict(txn, 1, first, 0)
				if second := e.commit(objs(1, "b")); second <= first {
					e.Errorf("tid %v follows %v", second, first)
				}
			}},
			rule{name: "new oids are greater than every stored one", run: func(e *env) {
				e.commit(map[raidstorage.OID]string{5: "e", 1 << 33: "far away"})
				e.reopen()
				if got := e.newOIDs(1)[0]; got <= 1<<33 {
					e.Errorf("NewOIDs returned %v, though %v is stored", got, raidstorage.OID(1<<33))
				}
			}},
			rule{name: "what was not finished is gone", run: func(e *env) {
				first := e.commit(objs(1, "a"))
				e.staged(objs(2, "staged"))
				e.voted(objs(3, "voted"))
				e.reopen()
				e.wantUntouched(first, 2)
				e.wantNotFound(3, raidstorage.MaxTID)
				if n := len(e.log(e.s)); n != 1 {
					e.Errorf("the log has %d transactions, want 1", n)
				}
			}},
		),
		subject("read-only", needs{readOnly: true},
			rule{name: "reads work and changes are refused", run: func(e *env) {
				tid := e.commit(objs(1, "a"))
				e.s = e.closing(e.f.ReadOnly(e.TB, e.s))
				e.wantLoad(1, raidstorage.MaxTID, "a", tid, 0)
				e.wantLast(tid)
				if n := len(e.log(e.s)); n != 1 {
					e.Errorf("the log has %d transactions, want 1", n)
				}
				_, err := e.s.NewOIDs(e.ctx, 1)
				wantErr[*raidstorage.ReadOnlyError](e, "NewOIDs", err)
				txn, err := e.s.Begin(e.ctx, raidstorage.Meta{})
				if err == nil {
					_ = txn.Abort(context.WithoutCancel(e.ctx))
				}
				wantErr[*raidstorage.ReadOnlyError](e, "Begin", err)
			}},
		))
}
