package raidstorage_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// flying is a transaction whose finish is under way.
type flying struct {
	vote raidstorage.Vote
	tid  raidstorage.TID
	err  error
	took time.Duration
	done chan struct{}
}

// ended tells whether its committer has an answer.
func (f *flying) ended() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// voteFor votes on a transaction that changes oid from serial.
func voteFor(t *testing.T, m raidstorage.Storage, oid raidstorage.OID, serial raidstorage.TID, data string) (raidstorage.Txn, raidstorage.Vote) {
	t.Helper()
	txn, err := m.Begin(t.Context(), raidstorage.Meta{Description: []byte(data)})
	if err == nil {
		err = txn.Store(t.Context(), oid, serial, []byte(data))
	}
	if err != nil {
		t.Fatal(err)
	}
	vote, err := txn.Vote(t.Context())
	if err != nil {
		t.Fatalf("vote on %q: %v", data, err)
	}
	return txn, vote
}

// finishing finishes in the background.
func finishing(txn raidstorage.Txn, vote raidstorage.Vote) *flying {
	f := &flying{vote: vote, done: make(chan struct{})}
	start := time.Now()
	go func() {
		f.tid, f.err = txn.Finish(context.Background())
		f.took = time.Since(start)
		close(f.done)
	}()
	synctest.Wait()
	return f
}

// fly votes and finishes in the background, for a new object.
func fly(t *testing.T, m raidstorage.Storage, oid raidstorage.OID, data string) *flying {
	t.Helper()
	return finishing(voteFor(t, m, oid, 0, data))
}

func hang(call storagetest.Call) storagetest.Fault {
	return storagetest.Fault{Call: call, Kind: storagetest.Hang}
}

func once(f storagetest.Fault) storagetest.Fault {
	f.Times = 1
	return f
}

func isUnknown(err error) bool {
	_, ok := errors.AsType[*raidstorage.OutcomeUnknownError](err)
	return ok
}

// C1, L2, R1: others vote while a finish is on its way; nobody sees or is told of
// anything before it, and all end in order.
func TestTheNextVoteDoesNotWaitForTheDisk(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		first := w.mustCommit(m, 1, "a")
		w.backend("b2").Inject(once(hang(storagetest.CallAwait)))
		t1 := finishing(voteFor(t, m, 1, first, "b")) // b2 has it, and does not say that it is durable
		t2 := fly(t, m, 2, "c")
		txn3, vote3 := voteFor(t, m, 3, 0, "d")
		if t1.ended() || t2.ended() {
			t.Fatal("acknowledged before a backend in sync has it on its disk, or before an earlier one")
		}
		wantData(t, m, 1, "a")
		wantData(t, m, 2, "")
		rev, err := m.LoadBefore(t.Context(), 1, raidstorage.MaxTID)
		if err != nil || rev.Next != 0 {
			t.Errorf("what is current ends with %v (%v)", rev.Next, err)
		}
		seen := make(chan raidstorage.TID, 1)
		go func() {
			last, _ := m.LastTID(context.Background())
			seen <- last
		}()
		synctest.Wait()
		if len(seen) > 0 {
			t.Error("LastTID answers while a voted transaction holds the commit lock and others are before it")
		}
		w.backend("b2").Release()
		<-t1.done
		<-t2.done
		if t1.err != nil || t2.err != nil || t1.tid >= t2.tid || t2.vote.Last != t1.tid || vote3.Last != t2.tid {
			t.Errorf("got %v, %v, %v, %v after %v; the third vote is after %v", t1.tid, t1.err, t2.tid, t2.err, t2.vote.Last, vote3.Last)
		}
		if last := <-seen; last != vote3.Last {
			t.Errorf("LastTID is %v, the voted transaction's last %v", last, vote3.Last)
		}
		if err := txn3.Abort(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.mustCommit(m, 3, "e")
		wantData(t, m, 1, "b")
		wantData(t, m, 2, "c")
		if n := len(w.wantEqual("b1", "b2")); n != 4 {
			t.Errorf("%d transactions, want 4", n)
		}
	})
}

// L7: a conflict with what is in flight is told when that is visible.
func TestAConflictWaitsForWhatItIsAbout(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		first := w.mustCommit(m, 1, "a")
		w.backend("b2").Inject(once(hang(storagetest.CallAwait)))
		t1 := finishing(voteFor(t, m, 1, first, "b"))
		var conflict error
		done := make(chan struct{})
		go func() {
			defer close(done)
			txn, _ := m.Begin(context.Background(), raidstorage.Meta{})
			_ = txn.Store(context.Background(), 1, first, []byte("c")) // Vote says it
			_, conflict = txn.Vote(context.Background())
		}()
		synctest.Wait()
		select {
		case <-done:
			t.Fatalf("the vote answers %v before what it is about is visible", conflict)
		default:
		}
		w.backend("b2").Release()
		<-done
		<-t1.done
		if c, ok := errors.AsType[*raidstorage.ConflictError](conflict); !ok || c.Committed != t1.tid || c.Read != first {
			t.Errorf("got %v, want a conflict with %v", conflict, t1.tid)
		}
		w.wantInSync("b1", "b2")
		wantData(t, m, 1, "b")
		w.mustCommit(m, 1, "d")
	})
}

// L3, C6: what is behind an unknown outcome is unknown if its finish was started, and
// aborted if not.
func TestWhatIsBehindAnUnknownOutcome(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.cfg.WriteQuorum, w.cfg.StartQuorum = 1, 1
		m := w.start()
		var news []raidstorage.TID
		m.Subscribe(func(inv raidstorage.Invalidation) { news = append(news, inv.TID) })
		w.backend("b2").Inject(once(storagetest.Fault{Call: storagetest.CallAwait, Delay: time.Second}))
		w.reg.on(func(raidstorage.Membership) registerFault { return registerFails })
		t1, t2 := fly(t, m, 1, "a"), fly(t, m, 2, "b")
		txn3, vote3 := voteFor(t, m, 3, 0, "c")
		<-t1.done
		w.reg.on(nil)
		<-t2.done
		if !isUnknown(t1.err) || !isUnknown(t2.err) {
			t.Errorf("got %v and %v, want unknown outcomes", t1.err, t2.err)
		}
		wantData(t, m, 1, "")
		wantData(t, m, 2, "")
		t3 := finishing(txn3, vote3)
		<-t3.done
		if _, ok := errors.AsType[*raidstorage.UnavailableError](t3.err); !ok || isUnknown(t3.err) {
			t.Errorf("got %v, want *UnavailableError: it was not started", t3.err)
		}
		w.mustCommit(m, 4, "d")
		wantData(t, m, 1, "a")
		wantData(t, m, 2, "b")
		wantData(t, m, 3, "")
		if len(news) != 2 || news[0] >= news[1] {
			t.Errorf("told of %v, want the two of unknown outcome", news)
		}
	})
}

// L4: a member that was dropped for one transaction does not count for the next.
func TestADroppedBackendDoesNotCountForTheNextOne(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.cfg.WriteQuorum = 2
		m := w.start()
		fail := storagetest.Fault{Call: storagetest.CallAwait, Delay: time.Second, Times: 1} // both are in flight by then
		w.backend("b2").Inject(fail)
		fail.After = 1
		w.backend("b3").Inject(fail)
		one, two := fly(t, m, 1, "a"), fly(t, m, 2, "b")
		<-one.done
		<-two.done
		if one.err != nil {
			t.Errorf("the first one: %v", one.err)
		}
		if !isUnknown(two.err) {
			t.Errorf("the second one got %v: b1 alone has it, b3 failed, b2 is out of the record", two.err)
		}
	})
}

// L4: a backend that a read has found to fail leaves the record before a transaction is
// acknowledged without it, also one that votes behind others in flight.
func TestAVoteBehindOthersIsNotWithoutABackendOfTheRecord(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		first := w.mustCommit(m, 1, "a")
		w.backend("b1").Inject(once(hang(storagetest.CallAwait)))
		t1 := finishing(voteFor(t, m, 1, first, "b"))
		w.backend("b2").Inject(storagetest.Fault{Call: storagetest.CallLoad})
		for range 2 { // by turns: the second one at the latest asks b2
			wantData(t, m, 1, "a")
		}
		var inSync []string
		var logged int
		acknowledged := make(chan error)
		go func() {
			_, err := commit(m, 2, "c")
			record, _ := w.reg.inner.Load(context.Background())
			inSync, logged = record.InSync, len(w.log("b2"))
			acknowledged <- err
		}()
		synctest.Wait()
		w.backend("b1").Release()
		if err := <-acknowledged; err != nil {
			t.Fatal(err)
		}
		if slices.Contains(inSync, "b2") && logged < 3 {
			t.Errorf("acknowledged with in sync = %v, and b2 has %d transactions", inSync, logged)
		}
		if <-t1.done; t1.err != nil {
			t.Error(t1.err)
		}
	})
}

// L5: a resolve rolls forward all that was in flight, in order.
func TestAllThatWasInFlightIsRolledForward(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg := raidstorage.Config{Membership: &faultyRegister{}, WriteQuorum: 2, StartQuorum: 2, RetryMin: time.Second}
		disks := []*platter{newPlatter("b1", 1), newPlatter("b2", 2)}
		for _, d := range disks {
			cfg.Backends = append(cfg.Backends, raidstorage.Backend{Name: d.name, Open: d.Open})
		}
		m := open(t, cfg)
		var news []raidstorage.TID
		m.Subscribe(func(inv raidstorage.Invalidation) { news = append(news, inv.TID) })
		if _, err := commit(m, 9, "x"); err != nil {
			t.Fatal(err)
		}
		disks[1].mu.Lock()
		disks[1].slowSync, disks[1].failSync, disks[1].keepNothing = time.Second, true, true
		disks[1].mu.Unlock()
		flights := []*flying{fly(t, m, 1, "a"), fly(t, m, 2, "b"), fly(t, m, 3, "c")}
		for _, f := range flights {
			if <-f.done; !isUnknown(f.err) {
				t.Errorf("got %v, want an unknown outcome: b2 has lost it", f.err)
			}
		}
		time.Sleep(time.Minute) // simulated: b2 is opened again
		if _, err := commit(m, 4, "d"); err != nil {
			t.Fatal(err)
		}
		for i, want := range []string{"a", "b", "c", "d"} {
			wantData(t, m, raidstorage.OID(1+i), want)
		}
		first, second := disks[0].tids(), disks[1].tids()
		if len(first) != 5 || !slices.Equal(first, second) {
			t.Errorf("the logs are %v and %v", first, second)
		}
		if !slices.Equal(news, first[1:4]) {
			t.Errorf("told of %v, want %v", news, first[1:4])
		}
		if disks[1].open != 2 {
			t.Errorf("b2 was opened %d times", disks[1].open)
		}
	})
}

// C5: a backend that hangs costs all that are in flight one deadline, and one that has
// voted behind them does not hold them up.
func TestTransactionsInFlightShareTheDeadline(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		b2 := w.backend("b2")
		b2.Inject(storagetest.Fault{Call: storagetest.CallAwait, Kind: storagetest.HangHard})
		t1, t2, t3 := fly(t, m, 1, "a"), fly(t, m, 2, "b"), fly(t, m, 3, "c")
		txn4, vote4 := voteFor(t, m, 4, 0, "d")
		for _, f := range []*flying{t1, t2, t3} {
			if <-f.done; f.err != nil || f.took != finishTimeout {
				t.Errorf("%v after %v, want an acknowledgement after %v", f.err, f.took, finishTimeout)
			}
		}
		w.wantInSync("b1")
		b2.Inject(storagetest.Fault{Call: storagetest.CallFinish, Kind: storagetest.HangHard})
		t4 := finishing(txn4, vote4)
		start := time.Now()
		w.mustCommit(m, 5, "e") // does not wait for the start at b2
		if took := time.Since(start); took > finishTimeout {
			t.Errorf("a commit took %v because of a backend that is out already", took)
		}
		if <-t4.done; t4.err != nil {
			t.Errorf("the one that had voted: %v", t4.err)
		}
		b2.Clear()
		b2.Release()
	})
}

// L6: what else needs the commit slot waits until nothing is in flight.
func TestOthersWaitUntilNothingIsInFlight(t *testing.T) {
	t.Parallel()
	for what, f := range map[string]func(w *world, m *raidstorage.Mirror) error{
		"Disable": func(_ *world, m *raidstorage.Mirror) error { return m.Disable(context.Background(), "b3", "test") },
		"Close":   func(_ *world, m *raidstorage.Mirror) error { return m.Close() },
		"an undo": func(_ *world, m *raidstorage.Mirror) error {
			last := m.Status().LastTID
			txn, err := m.Begin(context.Background(), raidstorage.Meta{})
			if err == nil {
				err = raidstorage.Undo(context.Background(), txn, last)
			}
			if err == nil {
				_, err = txn.Vote(context.Background())
			}
			return errors.Join(err, txn.Abort(context.Background()))
		},
		"a recovery": func(w *world, m *raidstorage.Mirror) error {
			return m.RecoverWith(context.Background(), "b4", raidstorage.RecoverOptions{})
		},
	} {
		t.Run(what, func(t *testing.T) {
			scenario(t, 4, func(t *testing.T, w *world) {
				w.cfg.WriteQuorum = 2
				m := w.start()
				w.mustCommit(m, 9, "x")
				if err := m.Disable(t.Context(), "b4", "test"); err != nil {
					t.Fatal(err)
				}
				b2 := w.backend("b2")
				b2.Inject(once(hang(storagetest.CallAwait)))
				t1, t2 := fly(t, m, 1, "a"), fly(t, m, 2, "b")
				done := make(chan error, 1)
				go func() { done <- f(w, m) }()
				synctest.Wait()
				if len(done) > 0 {
					t.Errorf("it did not wait (%v)", <-done)
					done <- nil
				}
				b2.Release()
				if err := <-done; err != nil {
					t.Error(err)
				}
				if <-t1.done; t1.err != nil {
					t.Error(t1.err)
				}
				if <-t2.done; t2.err != nil {
					t.Error(t2.err)
				}
				w.wantEqual("b1", "b2")
				if what == "a recovery" {
					w.wantInSync("b1", "b2", "b3", "b4")
					w.wantEqual("b1", "b4")
				}
			})
		})
	}
}

// L5: no more than the depth are in flight.
func TestTheDepthIsBounded(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		b2 := w.backend("b2")
		b2.Inject(hang(storagetest.CallAwait))
		var wg sync.WaitGroup
		for i := range 2 * raidstorage.PipelineDepth {
			wg.Go(func() {
				if _, err := commit(m, raidstorage.OID(1+i), fmt.Sprint(i)); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		started := 0
		for _, c := range b2.Calls() {
			if c.Call == storagetest.CallFinish && c.Done {
				started++
			}
		}
		if started != raidstorage.PipelineDepth {
			t.Errorf("%d are in flight, want %d", started, raidstorage.PipelineDepth)
		}
		b2.Clear()
		b2.Release()
		wg.Wait()
		if n := len(w.wantEqual("b1", "b2")); n != 2*raidstorage.PipelineDepth {
			t.Errorf("%d transactions", n)
		}
	})
}

// plain hides that a storage's transactions can start their finish.
type plain struct{ raidstorage.Storage }

func (p plain) Begin(ctx context.Context, meta raidstorage.Meta) (raidstorage.Txn, error) {
	txn, err := p.Storage.Begin(ctx, meta)
	if err != nil {
		return nil, err
	}
	return struct{ raidstorage.Txn }{txn}, nil
}

// With one backend that cannot start a finish commits go one at a time.
func TestCommitsGoOneAtATimeWithAnyOtherBackend(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		inner := w.cfg.Backends[1].Open
		w.cfg.Backends[1].Open = func(ctx context.Context) (raidstorage.Storage, error) {
			s, err := inner(ctx)
			return plain{s}, err
		}
		m := w.start()
		b2 := w.backend("b2")
		b2.Inject(once(hang(storagetest.CallFinish)))
		t1 := fly(t, m, 1, "a")
		voted := make(chan struct{})
		go func() {
			defer close(voted)
			if _, err := commit(m, 2, "b"); err != nil {
				t.Error(err)
			}
		}()
		synctest.Wait()
		for _, c := range w.backend("b1").Calls() {
			if c.Call == storagetest.CallAwait {
				t.Error("a finish was started, and is waited for")
			}
		}
		if n := count(b2, storagetest.CallVote); n != 2 { // one is the start's
			t.Errorf("%d votes while a finish is under way", n)
		}
		b2.Release()
		<-voted
		if <-t1.done; t1.err != nil {
			t.Error(t1.err)
		}
		if n := len(w.wantEqual("b1", "b2")); n != 2 {
			t.Errorf("%d transactions, want 2", n)
		}
	})
}
