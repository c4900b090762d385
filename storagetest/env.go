package storagetest

import (
	"context"
	"errors"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
)

// env is what a case works with: its test, a new empty storage, and a context that
// ends when what must happen did not. Its methods fail the test and must be called
// from the test's goroutine.
type env struct {
	testing.TB
	f       Fixture
	timeout time.Duration
	ctx     context.Context // ends after timeout
	s       raidstorage.Storage
}

// open opens one more empty storage and closes it at the end.
func (e *env) open() raidstorage.Storage {
	e.Helper()
	return e.closing(e.f.Open(e.TB))
}

// reopen closes e.s and opens its data again.
func (e *env) reopen() {
	e.Helper()
	e.s = e.closing(e.f.Reopen(e.TB, e.s))
}

func (e *env) closing(s raidstorage.Storage) raidstorage.Storage {
	e.Cleanup(func() {
		if err := s.Close(); err != nil && !e.Failed() {
			e.Errorf("Close: %v", err)
		}
	})
	return s
}

func (e *env) must(what string, err error) {
	e.Helper()
	if err != nil {
		e.Fatalf("%s: %v", what, err)
	}
}

// begin begins a transaction that is aborted at the end, if it is still open.
func (e *env) begin(meta raidstorage.Meta) raidstorage.Txn {
	e.Helper()
	txn, err := e.s.Begin(e.ctx, meta)
	e.must("Begin", err)
	e.Cleanup(func() { _ = txn.Abort(context.WithoutCancel(e.ctx)) })
	return txn
}

// staged begins a transaction and stages objects in it, see stage.
func (e *env) staged(objects map[raidstorage.OID]string) raidstorage.Txn {
	e.Helper()
	txn := e.begin(raidstorage.Meta{})
	e.must("Store", stage(e.ctx, e.s, txn, objects))
	return txn
}

// voted is staged and a vote, so that the transaction holds the commit lock.
func (e *env) voted(objects map[raidstorage.OID]string) (raidstorage.Txn, raidstorage.Vote) {
	e.Helper()
	txn := e.staged(objects)
	vote, err := txn.Vote(e.ctx)
	e.must("Vote", err)
	return txn, vote
}

func (e *env) finish(txn raidstorage.Txn) raidstorage.TID {
	e.Helper()
	tid, err := txn.Finish(e.ctx)
	e.must("Finish", err)
	return tid
}

func (e *env) abort(txn raidstorage.Txn) {
	e.Helper()
	e.must("Abort", txn.Abort(e.ctx))
}

func (e *env) commit(objects map[raidstorage.OID]string) raidstorage.TID {
	e.Helper()
	return e.transact(raidstorage.Meta{}, func(txn raidstorage.Txn) error {
		return stage(e.ctx, e.s, txn, objects)
	})
}

// transact commits what fill stages.
func (e *env) transact(meta raidstorage.Meta, fill func(raidstorage.Txn) error) raidstorage.TID {
	e.Helper()
	tid, err := transact(e.ctx, e.s, meta, fill)
	e.must("commit", err)
	return tid
}

// delete commits the deletion of oid at its current revision serial.
func (e *env) delete(oid raidstorage.OID, serial raidstorage.TID) raidstorage.TID {
	e.Helper()
	return e.transact(raidstorage.Meta{}, func(txn raidstorage.Txn) error {
		return txn.Delete(e.ctx, oid, serial)
	})
}

func (e *env) lastTID() raidstorage.TID {
	e.Helper()
	tid, err := e.s.LastTID(e.ctx)
	e.must("LastTID", err)
	return tid
}

// wantLast checks the last tid.
func (e *env) wantLast(want raidstorage.TID) {
	e.Helper()
	if got := e.lastTID(); got != want {
		e.Fatalf("LastTID = %v, want %v", got, want)
	}
}

// wantLoad checks a whole revision.
func (e *env) wantLoad(oid raidstorage.OID, before raidstorage.TID, data string, serial, next raidstorage.TID) {
	e.Helper()
	rev, err := e.s.LoadBefore(e.ctx, oid, before)
	if err != nil {
		e.Fatalf("LoadBefore(%v, %v): %v", oid, before, err)
	}
	if string(rev.Data) != data || rev.Serial != serial || rev.Next != next {
		e.Fatalf("LoadBefore(%v, %v) = %q serial %v next %v, want %q serial %v next %v",
			oid, before, rev.Data, rev.Serial, rev.Next, data, serial, next)
	}
}

// wantCurrent checks the current revision's data.
func (e *env) wantCurrent(oid raidstorage.OID, data string) {
	e.Helper()
	rev, err := e.s.LoadBefore(e.ctx, oid, raidstorage.MaxTID)
	if err != nil {
		e.Fatalf("LoadBefore(%v): %v", oid, err)
	}
	if string(rev.Data) != data || rev.Next != 0 {
		e.Fatalf("LoadBefore(%v) = %q next %v, want the current revision %q", oid, rev.Data, rev.Next, data)
	}
}

// wantNotFound checks that oid has no revision before the tid.
func (e *env) wantNotFound(oid raidstorage.OID, before raidstorage.TID) *raidstorage.NotFoundError {
	e.Helper()
	rev, err := e.s.LoadBefore(e.ctx, oid, before)
	if err == nil {
		e.Fatalf("LoadBefore(%v, %v) = %q serial %v, want *NotFoundError", oid, before, rev.Data, rev.Serial)
	}
	notFound := wantErr[*raidstorage.NotFoundError](e, "LoadBefore", err)
	if notFound.OID != oid {
		e.Fatalf("LoadBefore(%v) returns a *NotFoundError about %v", oid, notFound.OID)
	}
	return notFound
}

// wantLockFree proves that nobody holds the commit lock: an empty transaction can
// vote. It leaves no trace.
func (e *env) wantLockFree() {
	e.Helper()
	txn := e.begin(raidstorage.Meta{})
	if _, err := txn.Vote(e.ctx); err != nil {
		e.Fatalf("the commit lock is not free: Vote of an empty transaction: %v", err)
	}
	e.abort(txn)
}

// wantUntouched checks that storage and lock are as they were when last was the
// last tid, and that oid was never stored.
func (e *env) wantUntouched(last raidstorage.TID, oid raidstorage.OID) {
	e.Helper()
	e.wantLockFree()
	e.wantLast(last)
	e.wantNotFound(oid, raidstorage.MaxTID)
}

// failedVote votes and expects an error of type E, which must have freed the lock.
func failedVote[E error](e *env, txn raidstorage.Txn) E {
	e.Helper()
	_, err := txn.Vote(e.ctx)
	got := wantErr[E](e, "Vote", err)
	e.wantLockFree()
	return got
}

// refused expects an error of type E from a staging call, which returned stageErr,
// or else from the vote: the contract leaves it to the storage when to look.
func refused[E error](e *env, txn raidstorage.Txn, stageErr error) E {
	e.Helper()
	err := stageErr
	if err == nil {
		_, err = txn.Vote(e.ctx)
	}
	got := wantErr[E](e, "staging and voting", err)
	e.abort(txn)
	e.wantLockFree()
	return got
}

// wantErr fails unless err is of type E, which it returns.
func wantErr[E error](t testing.TB, what string, err error) E {
	t.Helper()
	got, ok := errors.AsType[E](err)
	if !ok {
		t.Fatalf("%s: got error %v (%T), want %v", what, err, err, reflect.TypeFor[E]())
	}
	return got
}

// together runs n goroutines and returns all their errors when all have ended.
func together(n int, run func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = run(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// objs is one object, for short calls.
func objs(oid raidstorage.OID, data string) map[raidstorage.OID]string {
	return map[raidstorage.OID]string{oid: data}
}
