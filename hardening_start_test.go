package raidstorage_test

// What a review of the mirror found: Force, the first start, backends that leave or
// join at a bad moment, a mirror as a backend of another, Close, and an operator who
// settles a contradiction.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// record returns what the register holds.
func (w *world) record() raidstorage.Membership {
	w.t.Helper()
	record, err := w.reg.inner.Load(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	return record
}

// onNextOpen lets a backend be hurt as soon as it is opened.
func (w *world) onNextOpen(hurt func(name string, f *storagetest.FaultyStorage)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.onOpen = hurt
}

// Force is for a start that is refused without it: left in a configuration it must
// not bring back a backend that has been overtaken.
func TestForceThatIsNotNeededChangesNothing(t *testing.T) {
	t.Parallel()
	for what, force := range map[string][]string{"one": {"b1"}, "the same one twice": {"b1", "b1"}} {
		t.Run("it names "+what, func(t *testing.T) {
			scenario(t, 2, func(t *testing.T, w *world) {
				m := w.start()
				w.mustCommit(m, 1, "one")
				m.Close()
				w.cfg.Force = force
				m = w.start()
				w.wantInSync("b1", "b2")
				w.setDown(true, "b1")
				w.backend("b1").CutOff()
				w.mustCommit(m, 1, "acknowledged by b2")
				w.wantInSync("b2")
				m.Close()
				w.setDown(false, "b1")
				m = w.start()
				w.wantInSync("b2")
				wantData(t, m, 1, "acknowledged by b2")
			})
		})
	}
}

// S2: Force is the way out that the refusal names, so it may trust fewer than
// StartQuorum, and what it makes can be started again.
func TestForcedStartServesFewerThanTheQuorum(t *testing.T) {
	t.Parallel()
	for what, force := range map[string][]string{"one": {"b1"}, "the same one twice": {"b1", "b1"}} {
		t.Run("it names "+what, func(t *testing.T) {
			scenario(t, 3, func(t *testing.T, w *world) {
				m := w.start()
				w.mustCommit(m, 1, "one")
				m.Close()
				w.setDown(true, "b2", "b3")
				_, err := raidstorage.Open(t.Context(), w.cfg)
				want[*raidstorage.StartError](t, "start without Force", err)
				w.cfg.Force = force
				m = w.start()
				if got := w.record().InSync; !slices.Equal(got, []string{"b1"}) {
					t.Errorf("in sync are %v, want b1 alone and once", got)
				}
				wantData(t, m, 1, "one")
				_, err = commit(m, 1, "two")
				want[*raidstorage.UnavailableError](t, "commit with one copy of two", err)
				m.Close()
				w.setDown(false, "b2", "b3")
				w.cfg.Force = nil
				m = w.start()
				for _, b := range []string{"b2", "b3"} {
					if err := m.Recover(t.Context(), b); err != nil {
						t.Errorf("Recover %s: %v", b, err)
					}
				}
				w.mustCommit(m, 1, "two")
				w.wantEqual("b1", "b2", "b3")
			})
		})
	}
}

// A forced start that fails must not have given up what the others hold.
func TestForceOfABackendThatIsAwayLeavesTheRecord(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		w.mustCommit(m, 1, "one")
		w.backend("b1").CutOff()
		w.mustCommit(m, 1, "two")
		m.Close()
		w.setDown(true, "b1", "b2")
		w.cfg.Force = []string{"b1"}
		_, err := raidstorage.Open(t.Context(), w.cfg)
		want[*raidstorage.StartError](t, "start with both away", err)
		w.wantInSync("b2")
		w.setDown(false, "b1", "b2")
		wantData(t, w.start(), 1, "two")
	})
}

func TestForceOfADisabledBackendEndsThat(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		w.mustCommit(m, 1, "one")
		if err := m.Disable(t.Context(), "b2", "maintenance"); err != nil {
			t.Fatal(err)
		}
		m.Close()
		w.setDown(true, "b1")
		w.cfg.Force = []string{"b2"}
		m = w.start()
		synctest.Wait()
		if got, reason := state(m, "b2"); got != raidstorage.StateInSync {
			t.Errorf("b2, which is forced, is %v (%s)", got, reason)
		}
		if record := w.record(); len(record.Disabled) > 0 {
			t.Errorf("the record calls %v disabled and %v in sync", record.Disabled, record.InSync)
		}
		wantData(t, m, 1, "one")
		w.mustCommit(m, 1, "two")
	})
}

// S3: the first start of a mirror around an existing database.
func TestFirstStartAroundAnOldDatabase(t *testing.T) {
	t.Parallel()
	for what, force := range map[string][]string{"all are there": nil, "the empty ones are away": {"b1"}} {
		t.Run(what, func(t *testing.T) {
			scenario(t, 3, func(t *testing.T, w *world) {
				w.cfg.AutoRecover = raidstorage.AutoRecoverOn
				w.mustCommit(w.mem.stores[0].Another("before"), 1, "old data")
				w.cfg.Force = force
				w.setDown(force != nil, "b2", "b3")
				m := w.start()
				w.setDown(false, "b2", "b3")
				wantData(t, m, 1, "old data")
				w.waitState(m, "b2", raidstorage.StateInSync)
				w.waitState(m, "b3", raidstorage.StateInSync)
				w.mustCommit(m, 1, "new data")
				w.wantEqual("b1", "b2", "b3")
			})
		})
	}
}

// P2: b2's disk forgets what it had finished, and before anybody notices b1, which
// has it, goes away.
func TestLastHolderOfATransactionStaysInTheRecord(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		first := w.mustCommit(m, 1, "one")
		second := w.mustCommit(m, 1, "two")
		if err := w.mem.stores[1].Another("a snapshot").TruncateAfter(t.Context(), first, second); err != nil {
			t.Fatal(err)
		}
		w.setDown(true, "b1")
		w.backend("b1").CutOff()
		if tid, err := commit(m, 1, "three"); err == nil {
			t.Errorf("transaction %v was committed after one that is not there", tid)
		}
		if got := w.record().InSync; !slices.Contains(got, "b1") {
			t.Errorf("in sync are %v, without the only holder of %v", got, second)
		}
		m.Close()
		w.setDown(false, "b1")
		wantData(t, w.start(), 1, "two")
	})
}

// An operator disables a backend while its supervisor waits for it to open.
func TestDisableOutlivesARecoveryThatIsAboutToBegin(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.cfg.AutoRecover = raidstorage.AutoRecoverOn
		opening, goOn := make(chan struct{}), make(chan struct{})
		slow := make(chan struct{}, 1) // filled: the next Open is slow
		inner := w.cfg.Backends[1].Open
		w.cfg.Backends[1].Open = func(ctx context.Context) (raidstorage.Storage, error) {
			select {
			case <-slow:
				close(opening)
				<-goOn
			default:
			}
			return inner(ctx)
		}
		m := w.start()
		w.mustCommit(m, 1, "one")
		slow <- struct{}{}
		w.backend("b2").CutOff()
		w.mustCommit(m, 1, "two")
		<-opening
		if err := m.Disable(t.Context(), "b2", "it lies"); err != nil {
			t.Fatal(err)
		}
		close(goOn)
		<-time.After(time.Hour) // simulated
		synctest.Wait()
		got, reason := state(m, "b2")
		if record := w.record(); got != raidstorage.StateDisabled || !slices.Equal(record.Disabled, []string{"b2"}) {
			t.Errorf("b2, which was disabled, is %v (%s); the record calls %v in sync and %v disabled",
				got, reason, record.InSync, record.Disabled)
		}
		w.wantInSync("b1")
	})
}

// P6: a target that does not obey its context holds up commits for one deadline at
// most, and Close not for ever.
func TestRecoveringTargetThatHangsCostsOneDeadline(t *testing.T) {
	t.Parallel()
	for _, call := range []storagetest.Call{storagetest.CallLastTID, storagetest.CallIterate, storagetest.CallNext, storagetest.CallBegin,
		storagetest.CallRestore, storagetest.CallVote, storagetest.CallFinish, storagetest.CallNewOIDs, storagetest.CallAbort} {
		t.Run(fmt.Sprint("in ", call), func(t *testing.T) {
			scenario(t, 2, func(t *testing.T, w *world) {
				const openTimeout = 12 * time.Second
				w.cfg.Timeouts.Open = openTimeout
				m := w.start()
				w.mustCommit(m, 1, "one")
				w.backend("b2").CutOff()
				w.mustCommit(m, 1, "two")
				w.onNextOpen(func(_ string, f *storagetest.FaultyStorage) {
					f.Inject(storagetest.Fault{Call: call, Kind: storagetest.HangHard})
				})
				recovered := make(chan error, 1)
				go func() { recovered <- m.Recover(t.Context(), "b2") }()
				synctest.Wait()
				b2 := w.backend("b2")
				if b2.Fired() == 0 {
					t.Error("the recovery does not hang")
				}
				start := time.Now()
				done := make(chan error, 1)
				go func() { _, err := commit(m, 2, "three"); done <- err }()
				select {
				case err := <-done:
					if took := time.Since(start); err != nil || took > max(voteTimeout, finishTimeout) {
						t.Errorf("the commit took %v, error %v", took, err)
					}
				case <-time.After(time.Hour): // simulated
					t.Error("the commit waits for a backend that is not in sync")
					b2.Release()
				}
				<-time.After(time.Minute)
				start = time.Now()
				w.mustCommit(m, 2, "four")
				if took := time.Since(start); took != 0 {
					t.Errorf("the next commit took %v", took)
				}
				wantCloseSaysThatABackendHangs(t, m, b2, 3*openTimeout)
				<-recovered
			})
		})
	}
}

// wantCloseSaysThatABackendHangs closes m, whose backend f hangs, and then lets f go on.
func wantCloseSaysThatABackendHangs(t *testing.T, m *raidstorage.Mirror, f *storagetest.FaultyStorage, limit time.Duration) {
	t.Helper()
	start := time.Now()
	closed := make(chan error, 1)
	go func() { closed <- m.Close() }()
	select {
	case err := <-closed:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close: got %v, want an error that says that a backend hangs", err)
		}
		if took := time.Since(start); took > limit {
			t.Errorf("Close took %v, more than %v", took, limit)
		}
		f.Release()
	case <-time.After(time.Hour): // simulated
		t.Error("Close waits for a backend that hangs")
		f.Release()
		<-closed
	}
}

// nest makes b1 a mirror over a world of its own, which needs both of its backends.
// The inner mirror is whatever was opened last.
func (w *world) nest() (inner *world, opened func() *raidstorage.Mirror) {
	inner = newWorld(w.t, 2)
	inner.cfg.Name, inner.cfg.WriteQuorum = "inner", 2
	var last *raidstorage.Mirror
	w.cfg.Backends[0].Open = func(ctx context.Context) (raidstorage.Storage, error) {
		m, err := raidstorage.Open(ctx, inner.cfg)
		if err != nil {
			return nil, err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		last = m
		return m, nil
	}
	return inner, func() *raidstorage.Mirror {
		w.mu.Lock()
		defer w.mu.Unlock()
		return last
	}
}

// C3: a mirror without its quorum refuses, which is no contradiction of who votes.
func TestNestedMirrorWithoutItsQuorumIsLeftOut(t *testing.T) {
	t.Parallel()
	for _, lost := range [][]string{{"b2"}, {"b1", "b2"}} {
		t.Run(fmt.Sprint("it has lost ", lost), func(t *testing.T) {
			scenario(t, 2, func(t *testing.T, w *world) {
				w.cfg.ReadPolicy = raidstorage.PrimaryFirst
				inner, _ := w.nest()
				m := w.start()
				w.mustCommit(m, 1, "one")
				inner.setDown(true, lost...)
				for _, b := range lost {
					inner.backend(b).CutOff()
				}
				wantData(t, m, 1, "one")
				w.mustCommit(m, 1, "two")
				wantData(t, m, 1, "two")
				w.wantInSync("b2")
				w.mustCommit(m, 1, "three")
				if s := m.Status(); s.Condition != raidstorage.Degraded {
					t.Errorf("the mirror is %v (%s)", s.Condition, s.Reason)
				}
				inner.setDown(false, lost...)
				if err := m.Recover(t.Context(), "b1"); err != nil {
					t.Errorf("Recover: %v", err)
				}
				w.wantInSync("b1", "b2")
				if diff := cmp.Diff(w.log("b2"), inner.wantEqual("b1", "b2")); diff != "" {
					t.Errorf("the nested mirror's log differs (-b2 +nested):\n%s", diff)
				}
			})
		})
	}
}

// R2: a nested mirror that serves nothing refuses each read, until a commit drops it.
func TestNestedMirrorThatServesNothingHidesNothing(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.cfg.ReadPolicy = raidstorage.PrimaryFirst
		inner, nested := w.nest()
		m := w.start()
		w.mustCommit(m, 1, "one")
		inner.setDown(true, "b1", "b2")
		inner.backend("b1").CutOff()
		inner.backend("b2").CutOff()
		_, err := commit(nested(), 9, "somebody else's")
		want[*raidstorage.UnavailableError](t, "commit to the nested mirror", err)
		_, err = nested().LoadBefore(t.Context(), 1, raidstorage.MaxTID)
		want[*raidstorage.UnavailableError](t, "load from the nested mirror", err)
		wantData(t, m, 1, "one")
		wantData(t, m, 7, "")
		w.mustCommit(m, 1, "two")
		w.wantInSync("b2")
	})
}

// A vote that ends when Close has already looked for voted transactions.
func TestCloseDuringAVoteAbortsIt(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		b1 := w.backend("b1")
		votes := count(b1, storagetest.CallVote)
		b1.Inject(storagetest.Fault{Call: storagetest.CallVote, Kind: storagetest.Observe, Delay: time.Second, Times: 1})
		txn := begin(t, m, raidstorage.Meta{}, 1, 0)
		voted := make(chan error, 1)
		go func() { _, err := txn.Vote(t.Context()); voted <- err }()
		if err := b1.WaitFor(t.Context(), storagetest.CallVote, votes+1); err != nil {
			t.Fatal(err)
		}
		closed := make(chan error, 1)
		go func() { closed <- m.Close() }()
		if err := <-voted; !errors.Is(err, raidstorage.ErrClosed) {
			t.Errorf("Vote: got %v, want ErrClosed", err)
		}
		select {
		case err := <-closed:
			if err != nil {
				t.Errorf("Close: %v", err)
			}
		case <-time.After(time.Hour): // simulated
			t.Error("Close waits for a transaction that nobody will end")
			txn.Abort(t.Context())
			<-closed
		}
		for i := range 2 {
			w.mustCommit(w.mem.stores[i].Another("after"), 2, "the commit lock is free")
		}
	})
}

// A dead network mount: the context means nothing to the opener.
func TestCloseDoesNotWaitForAnOpenerThatHangs(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		const openTimeout = 12 * time.Second
		w.cfg.Timeouts.Open = openTimeout
		m := w.start()
		w.mustCommit(m, 1, "x")
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		goOn := make(chan struct{})
		w.cfg.Backends[1].Open = func(context.Context) (raidstorage.Storage, error) {
			<-goOn
			return nil, errDown
		}
		start := time.Now()
		m = w.start()
		if took := time.Since(start); took > openTimeout {
			t.Errorf("Open took %v, more than one deadline", took)
		}
		wantData(t, m, 1, "x")
		closed := make(chan error, 1)
		start = time.Now()
		go func() { closed <- m.Close() }()
		select {
		case err := <-closed:
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Close: got %v, want an error that says that something hangs", err)
			}
			if took := time.Since(start); took > 2*openTimeout {
				t.Errorf("Close took %v, more than two deadlines", took)
			}
			close(goOn)
		case <-time.After(time.Hour): // simulated
			t.Error("Close waits for the opener")
			close(goOn)
			<-closed
		}
	})
}

// W=2 of two: whom the operator takes out comes back by a recovery, from the other.
func TestOperatorSettlesAContradictionAlsoWhereEveryCopyIsNeeded(t *testing.T) {
	t.Parallel()
	for _, liar := range []string{"b1", "b2"} {
		t.Run(fmt.Sprint(liar, " is taken out"), func(t *testing.T) {
			scenario(t, 2, func(t *testing.T, w *world) {
				w.cfg.WriteQuorum = 2
				m := w.start()
				w.mustCommit(m, 1, "one")
				w.backend("b2").Inject(storagetest.Fault{Call: storagetest.CallVote, Times: 1, Err: &raidstorage.ConflictError{OID: 2, Committed: 99}})
				for range 2 {
					_, err := commit(m, 2, "x")
					want[*raidstorage.ContradictionError](t, "commit", err)
				}
				if err := m.Disable(t.Context(), liar, "it lies"); err != nil {
					t.Errorf("Disable: %v", err)
				}
				_, err := commit(m, 2, "x")
				want[*raidstorage.UnavailableError](t, "commit with one copy of two", err)
				if err := m.Recover(t.Context(), liar); err != nil {
					t.Errorf("Recover: %v", err)
				}
				w.mustCommit(m, 2, "y")
				w.wantInSync("b1", "b2")
				w.wantEqual("b1", "b2")
			})
		})
	}
}

// Whom the operator takes out must be one of those that contradict each other.
func TestDisableOfAnotherSettlesNoContradiction(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.cfg.WriteQuorum = 1
		m := w.start()
		w.mustCommit(m, 1, "one")
		w.backend("b3").CutOff()
		w.mustCommit(m, 1, "two")
		w.backend("b2").Inject(storagetest.Fault{Call: storagetest.CallVote, Times: 1, Err: &raidstorage.ConflictError{OID: 2, Committed: 99}})
		_, err := commit(m, 2, "x")
		want[*raidstorage.ContradictionError](t, "commit", err)
		if err := m.Disable(t.Context(), "b3", "it has no part in it"); err != nil {
			t.Errorf("Disable b3: %v", err)
		}
		_, err = commit(m, 2, "x")
		want[*raidstorage.ContradictionError](t, "commit with b3 disabled", err)
		if err := m.Disable(t.Context(), "b2", "it lies"); err != nil {
			t.Errorf("Disable b2: %v", err)
		}
		w.mustCommit(m, 2, "x")
		w.wantInSync("b1")
	})
}

// Who leaves the record at the start, as somebody wrote to it directly, does so for a
// reason that an operator can act upon.
func TestRecordTellsWhyABackendIsDroppedAtTheStart(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		last := w.mustCommit(m, 1, "one")
		m.Close()
		storagetest.Transact(t, w.mem.stores[0].Another("intruder"), raidstorage.Meta{TID: last + 1<<40}, func(txn raidstorage.Txn) error {
			return txn.Store(t.Context(), 7, 0, []byte("intruder"))
		})
		w.start()
		w.wantInSync("b2")
		want := fmt.Sprintf("backend b1: its last transaction is %v, that of the others %v", last+1<<40, last)
		if got := w.record().Reason; !strings.Contains(got, want) {
			t.Errorf("the record says %q, want %q", got, want)
		}
	})
}
