package storagetest_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// openFaulty returns a faulty storage with object 1, and the memory storage below.
func openFaulty(t testing.TB) (*storagetest.FaultyStorage, *memstorage.Storage) {
	inner := memstorage.New("memory")
	f := storagetest.Faulty(inner)
	t.Cleanup(func() {
		f.Clear()
		if err := f.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	storagetest.Commit(t, f, map[raidstorage.OID]string{1: "one"})
	return f, inner
}

// voted returns a transaction that stores object 2 and has voted.
func voted(t *testing.T, f *storagetest.FaultyStorage) raidstorage.Txn {
	t.Helper()
	txn, err := f.Begin(t.Context(), raidstorage.Meta{})
	if err != nil {
		t.Fatal(err)
	}
	if err := txn.Store(t.Context(), 2, 0, []byte("two")); err != nil {
		t.Fatal(err)
	}
	if _, err := txn.Vote(t.Context()); err != nil {
		t.Fatal(err)
	}
	return txn
}

func wantCount(t *testing.T, s raidstorage.Storage, want int) {
	t.Helper()
	log, err := storagetest.Log(t.Context(), s)
	if err != nil || len(log) != want {
		t.Errorf("the log has %d transactions, %v; want %d", len(log), err, want)
	}
}

func TestWithoutFaultsFaultyConforms(t *testing.T) {
	t.Parallel()
	inner := map[string]storagetest.Fixture{"whole": memory(), "plain": plainFixture()}
	for name, f := range inner {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storagetest.Run(t, faultyFixture(f))
		})
	}
}

// faultyFixture wraps the storages of f.
func faultyFixture(f storagetest.Fixture) storagetest.Fixture {
	wrapped := f
	open := func(s raidstorage.Storage) raidstorage.Storage { return &faultyOver{storagetest.Faulty(s), s} }
	wrapped.Open = func(t testing.TB) raidstorage.Storage { return open(f.Open(t)) }
	wrapped.Reopen = func(t testing.TB, s raidstorage.Storage) raidstorage.Storage {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		return open(f.Reopen(t, s.(*faultyOver).inner))
	}
	wrapped.Second = func(t testing.TB, s raidstorage.Storage) raidstorage.Storage {
		return open(f.Second(t, s.(*faultyOver).inner))
	}
	return wrapped
}

// faultyOver remembers what the faulty storage wraps.
type faultyOver struct {
	*storagetest.FaultyStorage
	inner raidstorage.Storage
}

// plain is a storage without any optional interface.
type plain struct {
	raidstorage.Storage
	inner *memstorage.Storage
}

type plainTxn struct{ raidstorage.Txn }

func (p plain) Begin(ctx context.Context, meta raidstorage.Meta) (raidstorage.Txn, error) {
	txn, err := p.Storage.Begin(ctx, meta)
	if err != nil {
		return nil, err
	}
	return plainTxn{txn}, nil
}

func (p plainTxn) Restore(ctx context.Context, rec raidstorage.Record) error {
	if rec.OpenBlob != nil {
		return &raidstorage.UnsupportedError{Capability: "BlobTxn"}
	}
	return p.Txn.Restore(ctx, rec)
}

func plainFixture() storagetest.Fixture {
	wrap := func(s *memstorage.Storage) raidstorage.Storage { return plain{s, s} }
	return storagetest.Fixture{
		Open: func(testing.TB) raidstorage.Storage { return wrap(memstorage.New("plain")) },
		Reopen: func(t testing.TB, s raidstorage.Storage) raidstorage.Storage {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return wrap(s.(plain).inner.Another("again"))
		},
	}
}

func TestAFaultHitsTheCallsThatItNames(t *testing.T) {
	t.Parallel()
	f, _ := openFaulty(t)
	mine := errors.New("mine")
	f.Inject(storagetest.Fault{Call: storagetest.CallLoad, After: 1, Times: 2, Err: mine})
	var failed []bool
	for range 5 {
		if _, err := f.LastTID(t.Context()); err != nil {
			t.Errorf("LastTID: %v", err)
		}
		_, err := f.LoadBefore(t.Context(), 1, raidstorage.MaxTID)
		if err != nil && !errors.Is(err, mine) {
			t.Errorf("LoadBefore: %v", err)
		}
		failed = append(failed, err != nil)
	}
	if diff := cmp.Diff([]bool{false, true, true, false, false}, failed); diff != "" {
		t.Errorf("the wrong calls failed (-want +got):\n%s", diff)
	}
	if f.Fired() != 2 {
		t.Errorf("Fired = %d, want 2", f.Fired())
	}
}

func TestChanceIsReproducedBySeed(t *testing.T) {
	t.Parallel()
	run := func(seed uint64) (hits []bool) {
		f, _ := openFaulty(t)
		f.Inject(storagetest.Fault{Call: storagetest.CallLastTID, Chance: 0.3, Seed: seed})
		for range 200 {
			_, err := f.LastTID(t.Context())
			hits = append(hits, err != nil)
		}
		if n := f.Fired(); n < 30 || n > 90 {
			t.Errorf("seed %d: %d of 200 calls were hit with chance 0.3", seed, n)
		}
		return hits
	}
	if diff := cmp.Diff(run(7), run(7)); diff != "" {
		t.Errorf("the same seed gives other faults:\n%s", diff)
	}
	if cmp.Equal(run(7), run(8)) {
		t.Errorf("two seeds give the same faults")
	}
}

func TestEachCallOfAWorkloadCanFail(t *testing.T) {
	t.Parallel()
	n := 0
	for ; ; n++ {
		f, inner := openFaulty(t)
		f.Inject(storagetest.FailCall(n))
		err := func() error {
			txn, err := f.Begin(t.Context(), raidstorage.Meta{})
			if err != nil {
				return err
			}
			defer func() { _ = txn.Abort(t.Context()) }()
			if err := txn.Store(t.Context(), 2, 0, []byte("two")); err != nil {
				return err
			}
			if _, err := txn.Vote(t.Context()); err != nil {
				return err
			}
			_, err = txn.Finish(t.Context())
			return err
		}()
		if f.Fired() == 0 {
			break
		}
		// Call 4 is the abort after finish, whose error nobody looks at.
		if n < 4 && !errors.Is(err, storagetest.ErrInjected) || n == 4 && err != nil {
			t.Errorf("with call %d failing the workload returns %v", n, err)
		}
		if n < 4 {
			wantCount(t, inner, 1)
		}
		storagetest.Commit(t, inner, map[raidstorage.OID]string{3: "the lock is free"})
	}
	if n != 5 {
		t.Errorf("the workload has %d calls, want 5", n)
	}
}

func TestLostRepliesLeaveTheEffect(t *testing.T) {
	t.Parallel()
	f, inner := openFaulty(t)
	var at []int
	f.Inject(storagetest.Fault{Call: storagetest.CallFinish, Kind: storagetest.LoseReply, Hook: func() {
		log, _ := storagetest.Log(context.Background(), inner)
		at = append(at, len(log))
	}})
	txn := voted(t, f)
	if _, err := txn.Finish(t.Context()); !errors.Is(err, storagetest.ErrInjected) {
		t.Errorf("Finish returned %v", err)
	}
	wantCount(t, inner, 2)
	if diff := cmp.Diff([]int{2}, at); diff != "" {
		t.Errorf("the hook saw logs of other lengths:\n%s", diff)
	}
	f.Clear()
	f.Inject(storagetest.Fault{Call: storagetest.CallVote, Kind: storagetest.LoseReply})
	txn, err := f.Begin(t.Context(), raidstorage.Meta{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := txn.Vote(t.Context()); !errors.Is(err, storagetest.ErrInjected) {
		t.Errorf("Vote returned %v", err)
	}
	storagetest.Commit(t, inner, map[raidstorage.OID]string{3: "the lock is free"})
}

func TestCorruptAnswersDiffer(t *testing.T) {
	t.Parallel()
	f, inner := openFaulty(t)
	f.Inject(storagetest.Fault{Kind: storagetest.Corrupt, Call: storagetest.CallLoad},
		storagetest.Fault{Kind: storagetest.Corrupt, Call: storagetest.CallNext},
		storagetest.Fault{Kind: storagetest.Corrupt, Call: storagetest.CallVote},
		storagetest.Fault{Kind: storagetest.Corrupt, Call: storagetest.CallFinish},
		storagetest.Fault{Kind: storagetest.Corrupt, Call: storagetest.CallOpenBlob})
	rev, err := f.LoadBefore(t.Context(), 1, raidstorage.MaxTID)
	if err != nil || string(rev.Data) == "one" || len(rev.Data) != 3 {
		t.Errorf("LoadBefore = %q, %v", rev.Data, err)
	}
	log, err := storagetest.Log(t.Context(), f)
	if err != nil || log[0].Records[0].Data == "one" {
		t.Errorf("the log is %v, %v", log, err)
	}
	if good, _ := inner.LoadBefore(t.Context(), 1, raidstorage.MaxTID); string(good.Data) != "one" {
		t.Errorf("the storage itself has %q now", good.Data)
	}
	last, _ := inner.LastTID(t.Context())
	txn, err := f.Begin(t.Context(), raidstorage.Meta{})
	if err != nil {
		t.Fatal(err)
	}
	if err := raidstorage.StoreBlob(t.Context(), txn, 2, 0, []byte("x"), strings.NewReader("blob")); err != nil {
		t.Fatal(err)
	}
	if vote, err := txn.Vote(t.Context()); err != nil || vote.Last == last {
		t.Errorf("Vote.Last = %v, %v", vote.Last, err)
	}
	tid, err := txn.Finish(t.Context())
	if now, _ := inner.LastTID(t.Context()); err != nil || tid == now {
		t.Errorf("Finish = %v, %v; the storage has %v", tid, err, now)
	}
	blob, err := f.OpenBlob(t.Context(), 2, tid-1)
	if err != nil {
		t.Fatal(err)
	}
	if data, err := io.ReadAll(blob); err != nil || string(data) == "blob" || len(data) != 4 {
		t.Errorf("the blob is %q, %v", data, err)
	}
	if err := blob.Close(); err != nil {
		t.Error(err)
	}
}

func TestACutConnectionAbortsVotedTransactions(t *testing.T) {
	t.Parallel()
	f, inner := openFaulty(t)
	txn := voted(t, f)
	f.CutOff()
	storagetest.Commit(t, inner, map[raidstorage.OID]string{3: "the lock is free"})
	if _, err := txn.Finish(t.Context()); !errors.Is(err, storagetest.ErrInjected) {
		t.Errorf("Finish returned %v", err)
	}
	if _, err := f.LastTID(t.Context()); !errors.Is(err, storagetest.ErrInjected) {
		t.Errorf("LastTID returned %v", err)
	}
	f.Reconnect()
	if _, err := txn.Finish(t.Context()); !errors.Is(err, storagetest.ErrInjected) {
		t.Errorf("Finish of a transaction of the lost connection returned %v", err)
	}
	wantCount(t, f, 2)
	storagetest.Commit(t, f, map[raidstorage.OID]string{2: "after"})
}

func TestACutConnectionInterruptsCallsUnderWay(t *testing.T) {
	t.Parallel()
	f, inner := openFaulty(t)
	holder := voted(t, storagetest.Faulty(inner))
	txn, err := f.Begin(t.Context(), raidstorage.Meta{})
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() { _, err := txn.Vote(t.Context()); result <- err }()
	if err := f.WaitFor(t.Context(), storagetest.CallVote, 2); err != nil {
		t.Fatal(err)
	}
	f.CutOff()
	if err := <-result; !errors.Is(err, storagetest.ErrInjected) {
		t.Errorf("Vote returned %v", err)
	}
	if _, err := holder.Finish(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestHangsEndAsTheyShould(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		kind    storagetest.Kind
		release bool
		want    error
	}{
		{"a hang ends with its context", storagetest.Hang, false, context.DeadlineExceeded},
		{"a hang goes on when released", storagetest.Hang, true, nil},
		{"a hard hang ignores its context", storagetest.HangHard, true, context.DeadlineExceeded},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f, _ := openFaulty(t)
				f.Inject(storagetest.Fault{Call: storagetest.CallLastTID, Kind: c.kind})
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				result := make(chan error, 1)
				go func() { _, err := f.LastTID(ctx); result <- err }()
				if err := f.WaitFor(t.Context(), storagetest.CallLastTID, 1); err != nil {
					t.Fatal(err)
				}
				if c.kind == storagetest.HangHard {
					<-ctx.Done()
					synctest.Wait()
					select {
					case err := <-result:
						t.Fatalf("the hard hang ended with %v", err)
					default:
					}
				}
				if c.release {
					f.Release()
				}
				if err := <-result; !errors.Is(err, c.want) {
					t.Errorf("LastTID returned %v, want %v", err, c.want)
				}
			})
		})
	}
}

func TestADelayTakesItsTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, _ := openFaulty(t)
		f.Inject(storagetest.Fault{Call: storagetest.CallLoad, Kind: storagetest.Observe, Delay: time.Hour})
		start := time.Now()
		if _, err := f.LoadBefore(t.Context(), 1, raidstorage.MaxTID); err != nil || time.Since(start) != time.Hour {
			t.Errorf("LoadBefore returned %v after %v", err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start = time.Now()
		_, err := f.LoadBefore(ctx, 1, raidstorage.MaxTID)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Minute {
			t.Errorf("LoadBefore returned %v after %v", err, time.Since(start))
		}
	})
}

func TestLostInvalidationsAreNotTold(t *testing.T) {
	t.Parallel()
	f, inner := openFaulty(t)
	told := make(chan raidstorage.TID, 10)
	defer f.Subscribe(func(inv raidstorage.Invalidation) { told <- inv.TID })()
	f.Inject(storagetest.Fault{Call: storagetest.CallNotify, Times: 1})
	other := inner.Another("other")
	defer func() { _ = other.Close() }()
	storagetest.Commit(t, other, map[raidstorage.OID]string{5: "lost"})
	want := storagetest.Commit(t, other, map[raidstorage.OID]string{5: "told"})
	if got := <-told; got != want {
		t.Errorf("told of %v, want %v", got, want)
	}
}

func TestCallsAreRecorded(t *testing.T) {
	t.Parallel()
	f, _ := openFaulty(t)
	seen := len(f.Calls())
	f.Inject(storagetest.Fault{Call: storagetest.CallStore, Times: 1})
	txn, err := f.Begin(t.Context(), raidstorage.Meta{})
	if err != nil {
		t.Fatal(err)
	}
	if err := txn.Store(t.Context(), 4, 9, []byte("x")); err == nil {
		t.Error("Store did not fail")
	}
	if err := txn.Abort(t.Context()); err != nil {
		t.Error(err)
	}
	calls := f.Calls()[seen:]
	if len(calls) != 3 || calls[1].Call != storagetest.CallStore || calls[1].OID != 4 || calls[1].TID != 9 ||
		!errors.Is(calls[1].Err, storagetest.ErrInjected) || calls[1].Fault != "fail store, 1 times" || calls[1].N != seen+1 {
		t.Errorf("the calls are %v", calls)
	}
}
