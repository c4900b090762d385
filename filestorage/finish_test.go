package filestorage_test

import (
	"context"
	"errors"
	"math"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// started votes on data for oid and starts the finish.
func started(t *testing.T, s raidstorage.Storage, oid raidstorage.OID, data string) (wait func(context.Context) error, vote raidstorage.Vote) {
	t.Helper()
	txn, vote := voted(t, s, oid, 0, data)
	wait, err := txn.(raidstorage.FinishStarter).StartFinish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, again := errors.AsType[*raidstorage.TxnStateError](second(txn.Finish(t.Context()))); !again {
		t.Error("it can be finished again")
	}
	if err := txn.Abort(t.Context()); err != nil {
		t.Error(err)
	}
	return wait, vote
}

func second[T any](_ T, err error) error { return err }

// Whoever waits for the last of those that were started makes all of them durable.
func TestStartedFinishesShareTheirSyncs(t *testing.T) {
	t.Parallel()
	s, g, _ := gated(t)
	before := g.syncs.Load()
	one, vote1 := started(t, s, 2, "a")
	two, vote2 := started(t, s, 3, "b")
	three, vote3 := started(t, s, 4, "c")
	if !(vote1.Last < vote2.Last && vote2.Last < vote3.Last) {
		t.Errorf("the votes are after %v, %v, %v", vote1.Last, vote2.Last, vote3.Last)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- three(context.Background()) }()
	<-g.reached
	go func() { done <- one(ctx) }()
	cancel() // ends only that wait
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
	if _, err := s.LoadBefore(t.Context(), 2, raidstorage.MaxTID); err == nil {
		t.Error("object 2 is there before it is durable")
	}
	g.pass <- nil
	<-g.reached // the statuses
	g.pass <- nil
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := two(t.Context()); err != nil {
		t.Error(err)
	}
	if n := g.syncs.Load() - before; n != 2 {
		t.Errorf("%d syncs, want 2", n)
	}
	for oid, want := range map[raidstorage.OID]string{2: "a", 3: "b", 4: "c"} {
		if got := current(t, s, oid); got != want {
			t.Errorf("object %v is %q, want %q", oid, got, want)
		}
	}
}

// A sync that fails fails all that were started, and no later vote builds on them.
func TestAFailedSyncFailsAllThatWereStarted(t *testing.T) {
	t.Parallel()
	s, g, first := gated(t)
	one, _ := started(t, s, 2, "a")
	two, _ := started(t, s, 3, "b")
	done := make(chan error)
	go func() { done <- one(context.Background()) }()
	<-g.reached
	three, _ := voted(t, s, 4, 0, "c")
	g.pass <- syscall.EIO
	for _, err := range []error{<-done, two(t.Context())} {
		if unknown, ok := errors.AsType[*raidstorage.OutcomeUnknownError](err); !ok || !errors.Is(unknown.Err, syscall.EIO) {
			t.Errorf("got %v, want an unknown outcome because of EIO", err)
		}
	}
	if _, err := three.(raidstorage.FinishStarter).StartFinish(t.Context()); err == nil {
		t.Error("a finish starts after one that failed")
	}
	g.open.Store(true)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	r := openFor(t, s.Name(), filestorage.Options{})
	if last, err := r.LastTID(t.Context()); err != nil || last != first {
		t.Errorf("the last one is %v (%v), want %v", last, err, first)
	}
}

// Close makes durable what was started and nobody waits for.
func TestCloseEndsStartedFinishes(t *testing.T) {
	t.Parallel()
	s, g, _ := gated(t)
	one, _ := started(t, s, 2, "a")
	two, _ := started(t, s, 3, "b")
	g.open.Store(true)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, wait := range []func(context.Context) error{two, one} {
		if err := wait(t.Context()); err != nil {
			t.Error(err)
		}
	}
	r := openFor(t, s.Name(), filestorage.Options{})
	if got := current(t, r, 3); got != "b" || r.Repaired() != nil {
		t.Errorf("object 3 is %q, repaired: %v", got, r.Repaired())
	}
}

// One that was started before another one found the disk failing is ended by Close, too:
// whoever waits for it is not left alone.
func TestCloseEndsStartedFinishesOfAFailedStorage(t *testing.T) {
	t.Parallel()
	failing := &filestorage.FailingFile{At: math.MaxInt64, Err: syscall.EIO, Once: true}
	s, err := filestorage.OpenWith(t.Context(), filepath.Join(t.TempDir(), "Data.fs"), filestorage.Options{}, func(f filestorage.File) filestorage.File {
		failing.File = f
		return failing
	})
	if err != nil {
		t.Fatal(err)
	}
	wait, _ := started(t, s, 2, "a")
	failing.FailNext()
	txn := begin(t, s, raidstorage.Meta{})
	if err := txn.Store(t.Context(), 3, 0, []byte("b")); err != nil {
		t.Fatal(err)
	}
	if _, err := txn.Vote(t.Context()); !errors.Is(err, syscall.EIO) {
		t.Fatalf("Vote = %v, want EIO", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := wait(ctx); err != nil {
		t.Errorf("the first one: %v", err)
	}
	r := openFor(t, s.Name(), filestorage.Options{})
	if got := current(t, r, 2); got != "a" {
		t.Errorf("object 2 is %q", got)
	}
}
