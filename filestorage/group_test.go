package filestorage_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// gate is a file whose syncs wait, and may fail.
type gate struct {
	filestorage.File
	open    atomic.Bool
	reached chan struct{} // gets one for each sync that waits
	pass    chan error    // what it returns
	syncs   atomic.Int64
}

func (g *gate) Sync() error {
	g.syncs.Add(1)
	if g.open.Load() {
		return g.File.Sync()
	}
	g.reached <- struct{}{}
	if err := <-g.pass; err != nil {
		return err
	}
	return g.File.Sync()
}

// gated returns a storage with object 1 in it; after that, syncs wait.
func gated(t *testing.T) (*filestorage.Storage, *gate, raidstorage.TID) {
	t.Helper()
	return gatedWith(t, filestorage.Options{})
}

func gatedWith(t *testing.T, opts filestorage.Options) (*filestorage.Storage, *gate, raidstorage.TID) {
	t.Helper()
	g := &gate{reached: make(chan struct{}), pass: make(chan error)}
	g.open.Store(true)
	s, err := filestorage.OpenWith(t.Context(), filepath.Join(t.TempDir(), "Data.fs"), opts, func(f filestorage.File) filestorage.File {
		g.File = f
		return g
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.open.Store(true)
		_ = s.Close() // it may have been closed
	})
	tid := put(t, s, 1, "one")
	g.open.Store(false)
	return s, g, tid
}

func voted(t *testing.T, s raidstorage.Storage, oid raidstorage.OID, serial raidstorage.TID, data string) (raidstorage.Txn, raidstorage.Vote) {
	t.Helper()
	txn := begin(t, s, raidstorage.Meta{})
	if err := txn.Store(t.Context(), oid, serial, []byte(data)); err != nil {
		t.Fatal(err)
	}
	vote, err := txn.Vote(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return txn, vote
}

// finished is what Finish returned.
type finished struct {
	tid raidstorage.TID
	err error
}

func finishLater(t *testing.T, txn raidstorage.Txn) <-chan finished {
	t.Helper()
	c := make(chan finished, 1)
	go func() {
		tid, err := txn.Finish(context.Background())
		c <- finished{tid, err}
	}()
	return c
}

func TestAVoteOverlapsTheSyncBefore(t *testing.T) {
	t.Parallel()
	s, g, first := gated(t)
	a, _ := voted(t, s, 1, first, "a")
	aDone := finishLater(t, a)
	<-g.reached // the data of a
	b, vote := voted(t, s, 2, 0, "b")
	if got := current(t, s, 1); got != "one" {
		t.Errorf("object 1 is %q before it is durable", got)
	}
	// LastTID must be the same all the time that b has the lock, so it waits for a.
	last := make(chan raidstorage.TID, 1)
	go func() {
		tid, err := s.LastTID(context.Background())
		if err != nil {
			t.Error(err)
		}
		last <- tid
	}()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.LastTID(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("LastTID = %v, want Canceled", err)
	}
	g.pass <- nil
	<-g.reached // the status of a
	select {
	case <-aDone:
		t.Error("a is finished before its status is durable")
	default:
	}
	g.open.Store(true)
	g.pass <- nil
	got := <-aDone
	if got.err != nil || got.tid != vote.Last {
		t.Errorf("a is %v (%v), b's Vote.Last %v", got.tid, got.err, vote.Last)
	}
	if tid := <-last; tid != vote.Last {
		t.Errorf("LastTID = %v, want Vote.Last %v", tid, vote.Last)
	}
	if _, err := b.Finish(t.Context()); err != nil {
		t.Error(err)
	}
	if a, b := current(t, s, 1), current(t, s, 2); a != "a" || b != "b" {
		t.Errorf("objects are %q and %q", a, b)
	}
}

func TestAQueuedTransactionIsCurrentForTheNextVote(t *testing.T) {
	t.Parallel()
	s, g, first := gated(t)
	a, _ := voted(t, s, 1, first, "a")
	aDone := finishLater(t, a)
	<-g.reached
	late := begin(t, s, raidstorage.Meta{})
	if err := late.Store(t.Context(), 1, first, []byte("late")); err != nil {
		t.Fatal(err)
	}
	_, err := late.Vote(t.Context())
	conflict := wantErr[*raidstorage.ConflictError](t, err)
	c, vote := voted(t, s, 1, conflict.Committed, "c")
	if vote.Last != conflict.Committed {
		t.Errorf("Vote.Last is %v, the conflict was with %v", vote.Last, conflict.Committed)
	}
	if err := c.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
	d, _ := voted(t, s, 1, conflict.Committed, "d")
	dDone := finishLater(t, d)
	g.open.Store(true)
	g.pass <- nil
	if got := <-aDone; got.err != nil || got.tid != conflict.Committed {
		t.Errorf("a is %v (%v)", got.tid, got.err)
	}
	if got := <-dDone; got.err != nil {
		t.Error(got.err)
	}
	if got := current(t, s, 1); got != "d" {
		t.Errorf("object 1 is %q", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if r := openFor(t, s.Name(), filestorage.Options{}); r.Repaired() != nil || current(t, r, 1) != "d" {
		t.Errorf("after reopening: %q, repaired %+v", current(t, r, 1), r.Repaired())
	}
}

// All transactions of the queue fail with the sync, whether for their data or their
// status, and the one that has voted. The file ends with what was durable.
func TestAFailedSyncFailsAllThatWait(t *testing.T) {
	t.Parallel()
	for rounds := range 2 {
		s, g, first := gated(t)
		want, size := mustDump(t, s), len(read(t, s.Name()))
		a, _ := voted(t, s, 1, first, "a")
		done := []<-chan finished{finishLater(t, a)}
		<-g.reached
		if rounds > 0 {
			g.pass <- nil
			<-g.reached
		}
		for oid := raidstorage.OID(2); oid < 5; oid++ {
			txn, _ := voted(t, s, oid, 0, "b")
			done = append(done, finishLater(t, txn))
			wantQueued(t, s, len(done))
		}
		last, _ := voted(t, s, 9, 0, "voted")
		g.open.Store(true)
		g.pass <- syscall.EIO
		for _, c := range done {
			unknown := wantErr[*raidstorage.OutcomeUnknownError](t, (<-c).err)
			if !errors.Is(unknown, syscall.EIO) {
				t.Errorf("%v does not say why", unknown)
			}
		}
		_, err := last.Finish(t.Context())
		wantErr[*raidstorage.OutcomeUnknownError](t, err)
		_, err = s.Begin(t.Context(), raidstorage.Meta{})
		if refused := wantErr[*raidstorage.ReadOnlyError](t, err); !strings.Contains(refused.Reason, "input/output") {
			t.Errorf("%v does not say why", refused)
		}
		if got := mustDump(t, s); got != want {
			t.Errorf("what failed shows:\n%s", got)
		}
		if got := len(read(t, s.Name())); got != size {
			t.Errorf("the file has %d bytes, want %d", got, size)
		}
		_ = s.Close()
		r := openFor(t, s.Name(), filestorage.Options{})
		if got := mustDump(t, r); got != want || r.Repaired() != nil {
			t.Errorf("after reopening, repaired %+v:\n%s", r.Repaired(), got)
		}
		put(t, r, 1, "it goes on")
	}
}

// wantQueued waits until n transactions are in the queue.
func wantQueued(t *testing.T, s *filestorage.Storage, n int) {
	t.Helper()
	for filestorage.Queued(s) < n {
		runtime.Gosched()
		if t.Context().Err() != nil {
			t.Fatal("they do not come")
		}
	}
}

func TestManyCommittersShareSyncs(t *testing.T) {
	t.Parallel()
	s, g, _ := gated(t)
	g.open.Store(true)
	before := g.syncs.Load()
	const committers, each = 16, 20
	var wg sync.WaitGroup
	for i := range committers {
		wg.Go(func() {
			var serial raidstorage.TID
			for n := range each {
				txn, err := s.Begin(context.Background(), raidstorage.Meta{})
				if err == nil {
					err = txn.Store(context.Background(), raidstorage.OID(100+i), serial, fmt.Append(nil, n))
				}
				if err == nil {
					_, err = txn.Vote(context.Background())
				}
				if err == nil {
					serial, err = txn.Finish(context.Background())
				}
				if err != nil {
					t.Error(err)
					return
				}
				rev, err := s.LoadBefore(context.Background(), raidstorage.OID(100+i), raidstorage.MaxTID)
				if err != nil || rev.Serial != serial {
					t.Errorf("%v is read as %v (%v)", serial, rev.Serial, err)
				}
			}
		})
	}
	wg.Wait()
	if syncs := g.syncs.Load() - before; syncs >= committers*each {
		t.Errorf("%d syncs for %d transactions", syncs, committers*each)
	}
	n := 0
	for _, err := range s.Iterate(t.Context(), 0, raidstorage.MaxTID) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != committers*each+1 {
		t.Errorf("%d transactions", n)
	}
}

// Deferred transactions are read before they are durable, with their own status.
func TestDeferredTransactionsAreDurableAfterFlush(t *testing.T) {
	t.Parallel()
	s, g, _ := gated(t)
	tid := raidstorage.TID(1) << 60
	for i := range raidstorage.TID(5) {
		status := raidstorage.StatusPacked
		if i > 2 {
			status = raidstorage.StatusNormal
		}
		meta := raidstorage.Meta{TID: tid + i, Status: status, Deferred: true}
		commit(t, s, meta, func(txn raidstorage.Txn) error { // no sync waits
			return txn.Restore(t.Context(), raidstorage.Record{OID: 5, TID: tid + i, Data: fmt.Append(nil, i)})
		})
	}
	want := mustDump(t, s)
	if last, err := s.LastTID(t.Context()); err != nil || last != tid+4 {
		t.Errorf("the last is %v (%v)", last, err)
	}
	infos, err := s.History(t.Context(), 5, 10)
	if err != nil || len(infos) != 5 || infos[0].Status != raidstorage.StatusNormal || infos[4].Status != raidstorage.StatusPacked {
		t.Errorf("the history is %+v (%v)", infos, err)
	}
	g.open.Store(true)
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	crashed := filepath.Join(t.TempDir(), "Data.fs")
	write(t, crashed, read(t, s.Name()))
	r := openFor(t, crashed, filestorage.Options{})
	if got := mustDump(t, r); got != want || r.Repaired() != nil {
		t.Errorf("after Flush there is, repaired %+v,\n%s\nwant\n%s", r.Repaired(), got, want)
	}
}
