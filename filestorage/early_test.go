package filestorage_test

import (
	"context"
	"errors"
	"syscall"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// What was voted is on its way to the disk before Finish is called, which then waits
// for one sync only.
func TestFinishWaitsForOneSyncAfterAnEarlyOne(t *testing.T) {
	t.Parallel()
	s, g, first := gatedWith(t, filestorage.Options{SyncEarly: true})
	before := g.syncs.Load()
	a, _ := voted(t, s, 1, first, "a")
	<-g.reached
	g.pass <- nil
	done := finishLater(t, a)
	<-g.reached // the status
	g.pass <- nil
	if got := <-done; got.err != nil {
		t.Fatal(got.err)
	}
	if n := g.syncs.Load() - before; n != 2 || current(t, s, 1) != "a" {
		t.Errorf("%d syncs, object 1 is %q", n, current(t, s, 1))
	}
}

// A Finish that comes while the early sync is under way waits for that one, and those
// behind it in the queue are not taken for synced.
func TestOthersQueueBehindAnEarlySync(t *testing.T) {
	t.Parallel()
	s, g, first := gatedWith(t, filestorage.Options{SyncEarly: true})
	before := g.syncs.Load()
	a, _ := voted(t, s, 1, first, "a")
	<-g.reached
	aDone := finishLater(t, a)
	wantQueued(t, s, 1)
	b, _ := voted(t, s, 2, 0, "b")
	bDone := finishLater(t, b)
	wantQueued(t, s, 2)
	g.pass <- nil // the early one
	<-g.reached
	g.open.Store(true)
	g.pass <- nil
	for _, done := range []<-chan finished{aDone, bDone} {
		if got := <-done; got.err != nil {
			t.Error(got.err)
		}
	}
	if n := g.syncs.Load() - before; n < 3 {
		t.Errorf("%d syncs: the status of b was written before its data was synced", n)
	}
}

func TestAFailedEarlySyncFailsTheTransaction(t *testing.T) {
	t.Parallel()
	for _, queued := range []bool{false, true} {
		s, g, first := gatedWith(t, filestorage.Options{SyncEarly: true})
		want := mustDump(t, s)
		a, _ := voted(t, s, 1, first, "a")
		<-g.reached
		var done <-chan finished
		if queued {
			done = finishLater(t, a)
			wantQueued(t, s, 1)
		}
		g.open.Store(true)
		g.pass <- syscall.EIO
		if !queued {
			wantReadOnly(t, s)
			done = finishLater(t, a)
		}
		if err := (<-done).err; !errors.Is(wantErr[*raidstorage.OutcomeUnknownError](t, err), syscall.EIO) && queued {
			t.Errorf("%v does not say why", err)
		}
		wantReadOnly(t, s)
		_ = s.Close()
		if r := openFor(t, s.Name(), filestorage.Options{}); mustDump(t, r) != want || r.Repaired() != nil {
			t.Errorf("after reopening, repaired %+v:\n%s", r.Repaired(), mustDump(t, r))
		}
	}
}

// wantReadOnly waits until the storage has noticed that it must not be written to.
func wantReadOnly(t *testing.T, s *filestorage.Storage) {
	t.Helper()
	for t.Context().Err() == nil {
		txn, err := s.Begin(t.Context(), raidstorage.Meta{})
		if err != nil {
			wantErr[*raidstorage.ReadOnlyError](t, err)
			return
		}
		_ = txn.Abort(t.Context())
	}
	t.Fatal("it stays writable")
}

// The end of the file is not cut off under a sync, nor given to another transaction.
func TestAbortWaitsForTheEarlySync(t *testing.T) {
	t.Parallel()
	s, g, first := gatedWith(t, filestorage.Options{SyncEarly: true})
	want := mustDump(t, s)
	a, _ := voted(t, s, 1, first, "a")
	<-g.reached
	aborted := make(chan error, 1)
	go func() { aborted <- a.Abort(context.Background()) }()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := begin(t, s, raidstorage.Meta{}).Vote(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Vote = %v, want Canceled", err)
	}
	select {
	case <-aborted:
		t.Error("the transaction is aborted while it is synced")
	default:
	}
	g.open.Store(true)
	g.pass <- nil
	if err := <-aborted; err != nil {
		t.Fatal(err)
	}
	if got := mustDump(t, s); got != want {
		t.Errorf("after the abort:\n%s", got)
	}
	put(t, s, 2, "it goes on")
}

// The goroutine of an early sync may get to run when the transaction is through, and a
// pack is closing the file: a sync of that would fail, and nothing could be written any
// more.
func TestALateEarlySyncTouchesNothing(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(raidstorage.Txn) error{
		"finished": func(txn raidstorage.Txn) error { _, err := txn.Finish(t.Context()); return err },
		"aborted":  func(txn raidstorage.Txn) error { return txn.Abort(t.Context()) },
	} {
		s, g, first := gatedWith(t, filestorage.Options{})
		g.open.Store(true)
		a, _ := voted(t, s, 1, first, "a")
		late := filestorage.LateEarlySync(s, a)
		if err := end(a); err != nil {
			t.Fatal(err)
		}
		before := g.syncs.Load()
		late()
		if n := g.syncs.Load() - before; n != 0 {
			t.Errorf("%s: %d syncs of a file that may be closed", name, n)
		}
	}
}
