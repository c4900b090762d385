package raidstorage_test

// What a review of the mirror found: votes and reads, when backends and clients do
// what they rarely do. The start, the end and the operator are in
// hardening_start_test.go.

import (
	"context"
	"errors"
	"io"
	"math"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// inLockStep commits to all disks alike, as another front-end does, and nobody is
// told: the next vote has to find out.
func (w *world) inLockStep(oid raidstorage.OID, data string) {
	w.t.Helper()
	for _, b := range w.cfg.Backends {
		w.backend(b.Name).Inject(storagetest.Fault{Call: storagetest.CallNotify})
	}
	storagetest.Transact(w.t, w.mem.another(), raidstorage.Meta{}, func(txn raidstorage.Txn) error {
		return txn.Store(w.t.Context(), oid, 0, []byte(data))
	})
}

// wantOnRecord checks that all whom the record calls in sync hold transaction tid.
func (w *world) wantOnRecord(tid raidstorage.TID) {
	w.t.Helper()
	for _, name := range w.record().InSync {
		log := w.log(name)
		if len(log) == 0 || log[len(log)-1].TID != tid {
			w.t.Errorf("the record calls %s in sync, which lacks the acknowledged transaction %v", name, tid)
		}
	}
}

// begin stages one object in a transaction that has not voted.
func begin(t *testing.T, m raidstorage.Storage, meta raidstorage.Meta, oid raidstorage.OID, serial raidstorage.TID) raidstorage.Txn {
	t.Helper()
	txn, err := m.Begin(t.Context(), meta)
	if err == nil {
		err = txn.Store(t.Context(), oid, serial, []byte("x"))
	}
	if err != nil {
		t.Fatal(err)
	}
	return txn
}

// want returns err as an E.
func want[E error](t *testing.T, what string, err error) (e E) {
	t.Helper()
	e, ok := errors.AsType[E](err)
	if !ok {
		t.Errorf("%s: got %v, want %T", what, err, e)
	}
	return e
}

// P1, C4: a read finds out that a backend fails while the tails are being compared.
func TestBackendThatFailsDuringAComparisonIsNotCountedAsACopy(t *testing.T) {
	t.Parallel()
	for cause, unsettle := range map[string]func(t *testing.T, w *world, m *raidstorage.Mirror){
		"after a commit of another front-end": func(_ *testing.T, w *world, _ *raidstorage.Mirror) {
			w.inLockStep(7, "both")
		},
		"after a change of the record that was not confirmed": func(t *testing.T, w *world, m *raidstorage.Mirror) {
			w.reg.on(func(raidstorage.Membership) registerFault { return registerFails })
			if err := m.Disable(t.Context(), "b1", "maintenance"); !errors.Is(err, errRegister) {
				t.Errorf("Disable: got %v, want the register's error", err)
			}
			w.reg.on(nil)
		},
	} {
		t.Run(cause, func(t *testing.T) {
			scenario(t, 2, func(t *testing.T, w *world) {
				m := w.start()
				w.mustCommit(m, 1, "before")
				w.backend("b1").Inject(storagetest.Fault{Call: storagetest.CallNewOIDs, Kind: storagetest.Observe, Times: 1, Hook: func() {
					w.backend("b2").Inject(storagetest.Fault{Call: storagetest.CallLoad, Times: 1})
					for range 2 { // one of them asks b2
						wantData(t, m, 1, "before")
					}
				}})
				unsettle(t, w, m)
				w.wantOnRecord(w.mustCommit(m, 1, "acknowledged"))
				w.crash(m)
				w.setDown(true, "b1")
				m, err := raidstorage.Open(t.Context(), w.cfg)
				if err == nil {
					defer m.Close()
					wantData(t, m, 1, "acknowledged")
				} else {
					want[*raidstorage.StartError](t, "start without b1", err)
				}
			})
		})
	}
}

// The same as a race of goroutines, in real time.
func TestReadsThatFailBesideCommitsLeaveNobodyInTheRecordThatLacksOne(t *testing.T) {
	t.Parallel()
	for round := range 300 {
		w := newWorld(t, 2)
		m := w.start()
		w.backend("b2").Inject(storagetest.Fault{Call: storagetest.CallLoad})
		start, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			<-start
			for range 3 {
				_, _ = m.LoadBefore(context.Background(), 1, raidstorage.MaxTID)
			}
		}()
		close(start)
		for i := range 3 {
			txn := begin(t, m, raidstorage.Meta{}, raidstorage.OID(i+1), 0)
			if _, err := txn.Vote(t.Context()); err != nil {
				continue // refused is fine, acknowledged and lost is not
			}
			if tid, err := txn.Finish(t.Context()); err == nil {
				w.wantOnRecord(tid)
			}
		}
		<-done
		m.Close()
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
}

func TestCallerThatGivesUpHurtsNoBackend(t *testing.T) {
	t.Parallel()
	t.Run("while the tails are compared before its vote", func(t *testing.T) {
		scenario(t, 2, func(t *testing.T, w *world) {
			m := w.start()
			w.mustCommit(m, 1, "before")
			w.inLockStep(7, "both")
			ctx, cancel := context.WithCancel(t.Context())
			w.backend("b1").Inject(storagetest.Fault{Call: storagetest.CallNewOIDs, Kind: storagetest.Observe, Times: 1, Hook: cancel})
			_, err := begin(t, m, raidstorage.Meta{}, 9, 0).Vote(ctx)
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Vote: got %v, want the context's error", err)
			}
			synctest.Wait()
			w.wantInSync("b1", "b2")
			w.mustCommit(m, 9, "the next one")
			wantData(t, m, 7, "both")
			w.wantInSync("b1", "b2")
		})
	})
	t.Run("while a missing object is looked for", func(t *testing.T) {
		scenario(t, 3, func(t *testing.T, w *world) {
			w.cfg.ReadPolicy = raidstorage.PrimaryFirst
			m := w.start()
			w.mustCommit(m, 1, "x")
			ctx, cancel := context.WithCancel(t.Context())
			w.backend("b1").Inject(storagetest.Fault{Call: storagetest.CallLoad, Err: &raidstorage.NotFoundError{OID: 1}})
			w.backend("b3").Inject(storagetest.Fault{Call: storagetest.CallIterate, Kind: storagetest.Observe, Times: 1, Hook: cancel})
			_, _ = m.LoadBefore(ctx, 1, raidstorage.MaxTID) // whatever it says, to whoever gave up
			synctest.Wait()
			for _, b := range []string{"b2", "b3"} {
				if got, reason := state(m, b); got != raidstorage.StateInSync {
					t.Errorf("%s, which has the object, is %v (%s)", b, got, reason)
				}
			}
			wantData(t, m, 1, "x")
		})
	})
}

// C3: answers that end a transaction agree, whatever their words and their moment.
func TestRefusalsAgreeInWhateverWords(t *testing.T) {
	t.Parallel()
	conflict := &raidstorage.ConflictError{OID: 1, Committed: 20, Read: 10}
	for what, c := range map[string]struct {
		at1, at2 storagetest.Call
		b1, b2   error
	}{
		"a conflict told at the store and at the vote": {storagetest.CallVote, storagetest.CallStore, conflict, conflict},
		"a conflict and a read conflict": {storagetest.CallVote, storagetest.CallVote, conflict,
			&raidstorage.ReadConflictError{OID: 1, Committed: 20, Read: 10}},
		"an undo that is refused for two reasons": {storagetest.CallVote, storagetest.CallVote,
			&raidstorage.UndoError{TID: 5, Reason: "it is packed"}, &raidstorage.UndoError{TID: 5, Reason: "there is no such transaction"}},
		"a limit that each puts otherwise": {storagetest.CallStore, storagetest.CallVote,
			&raidstorage.InvalidError{Op: "store", Reason: "too long"}, &raidstorage.InvalidError{Op: "vote", Reason: "over 256 TiB"}},
	} {
		t.Run(what, func(t *testing.T) {
			scenario(t, 2, func(t *testing.T, w *world) {
				m := w.start()
				w.mustCommit(m, 1, "one")
				w.backend("b1").Inject(storagetest.Fault{Call: c.at1, Times: 1, Err: c.b1})
				w.backend("b2").Inject(storagetest.Fault{Call: c.at2, Times: 1, Err: c.b2})
				if _, err := commit(m, 2, "refused"); !errors.Is(err, c.b1) && !errors.Is(err, c.b2) {
					t.Errorf("got %v, want what one of the backends said", err)
				}
				w.mustCommit(m, 2, "another")
				w.wantInSync("b1", "b2")
				w.wantEqual("b1", "b2")
			})
		})
	}
}

// C3, C4: who refuses to take part, beside others that vote, leaves the record.
func TestBackendThatRefusesWhatOthersAcceptIsLeftOut(t *testing.T) {
	t.Parallel()
	for what, refusal := range map[string]error{
		"read-only":   &raidstorage.ReadOnlyError{Storage: "b2", Reason: "a write failed"},
		"unavailable": &raidstorage.UnavailableError{InSync: 1, Need: 2},
		"full":        &raidstorage.InvalidError{Op: "vote", Reason: "the file would exceed 256 TiB"},
	} {
		t.Run(what, func(t *testing.T) {
			scenario(t, 2, func(t *testing.T, w *world) {
				m := w.start()
				w.mustCommit(m, 1, "one")
				w.backend("b2").Inject(storagetest.Fault{Call: storagetest.CallBegin, Err: refusal})
				w.wantOnRecord(w.mustCommit(m, 2, "two"))
				w.wantInSync("b1")
				if err := m.Recover(t.Context(), "b2"); err != nil {
					t.Errorf("Recover: %v", err)
				}
				w.wantInSync("b1", "b2")
				w.wantEqual("b1", "b2")
			})
		})
	}
}

// C4, one against one: for an undo, the objects of the transaction to undo tell.
func TestUndoThatOneRefusesIsDecidedByTheLog(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		w.mustCommit(m, 1, "one")
		second := w.mustCommit(m, 1, "two")
		// b2's index has lost the object, which its log has.
		w.backend("b2").Inject(
			storagetest.Fault{Call: storagetest.CallVote, Err: &raidstorage.UndoError{TID: second, OID: 1, Reason: "it changed"}, Times: 1},
			storagetest.Fault{Call: storagetest.CallLoad, Err: &raidstorage.NotFoundError{OID: 1}})
		storagetest.Transact(t, m, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
			return raidstorage.Undo(t.Context(), txn, second)
		})
		w.wantInSync("b1")
		wantData(t, m, 1, "one")
	})
}

// R2: a refusal says nothing against a backend, and counts if all refuse.
func TestReadThatOneRefusesIsAnsweredByAnother(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.cfg.ReadPolicy = raidstorage.PrimaryFirst
		m := w.start()
		w.mustCommit(m, 1, "x")
		refusal := storagetest.Fault{Call: storagetest.CallLoad, Err: &raidstorage.UnavailableError{Need: 1}}
		w.backend("b1").Inject(refusal)
		wantData(t, m, 1, "x")
		w.backend("b2").Inject(refusal)
		_, err := m.LoadBefore(t.Context(), 1, raidstorage.MaxTID)
		want[*raidstorage.UnavailableError](t, "load that all refuse", err)
		synctest.Wait()
		w.wantInSync("b1", "b2")
		for _, b := range []string{"b1", "b2"} {
			if got, reason := state(m, b); got != raidstorage.StateInSync {
				t.Errorf("%s is %v (%s)", b, got, reason)
			}
		}
	})
}

// A transaction that takes all of them too long is too large, and no fault of any.
func TestVoteThatNobodyAnswersInTimeDropsNobody(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		w.mustCommit(m, 1, "x")
		for _, b := range []string{"b1", "b2"} {
			w.backend(b).Inject(storagetest.Fault{Call: storagetest.CallStore, Kind: storagetest.Hang, Times: 1})
		}
		_, err := commit(m, 2, "huge")
		want[*raidstorage.UnavailableError](t, "commit", err)
		wantData(t, m, 1, "x")
		synctest.Wait()
		w.wantInSync("b1", "b2")
		w.mustCommit(m, 2, "small")
		w.wantEqual("b1", "b2")
	})
}

// Reading back what was spooled is the mirror's own affair.
func TestSpoolErrorHurtsNoBackend(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		const size = 1_234_577 // by which the file is known among the process's
		w.cfg.SpoolBytes, w.cfg.TempDir = 1000, t.TempDir()
		m := w.start()
		w.mustCommit(m, 1, "x")
		txn, err := m.Begin(t.Context(), raidstorage.Meta{})
		if err != nil {
			t.Fatal(err)
		}
		if err := txn.Store(t.Context(), 2, 0, make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		truncateUnlinked(t, size)
		if _, err := txn.Vote(t.Context()); err == nil || !strings.Contains(err.Error(), "spool") {
			t.Errorf("Vote with a spool that cannot be read: got %v, want an error that names the spool", err)
		}
		synctest.Wait()
		w.wantInSync("b1", "b2")
		wantData(t, m, 1, "x")
		w.mustCommit(m, 2, "y")
		w.wantEqual("b1", "b2")
	})
}

// truncateUnlinked empties the open file without a name that has the given size:
// the means to break a spool, of which nothing but a descriptor is left.
func truncateUnlinked(t *testing.T, size int64) {
	t.Helper()
	for fd := range 4096 {
		var stat syscall.Stat_t
		if syscall.Fstat(fd, &stat) != nil || stat.Nlink != 0 || stat.Size != size {
			continue
		}
		if err := syscall.Ftruncate(fd, 0); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatal("the spool file was not found")
}

// The read deadline is for a backend, not for how long a log is nor for what the
// caller does with each transaction.
func TestUndoLogWithASlowMatchDropsNobody(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		m := w.start()
		for range 3 {
			w.mustCommit(m, 1, "x")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour) // simulated, as all is
		defer cancel()
		infos, err := m.UndoLog(ctx, 0, 100, func(raidstorage.TxnInfo) bool {
			<-time.After(6 * time.Second)
			return true
		})
		if err != nil || len(infos) != 3 {
			t.Errorf("got %d transactions of 3, error %v", len(infos), err)
		}
		synctest.Wait()
		w.wantInSync("b1", "b2", "b3")
	})
}

func TestHistoryWithTheGreatestLimitIsWhole(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		m := w.start()
		w.mustCommit(m, 1, "x")
		w.mustCommit(m, 1, "y")
		infos, err := m.History(t.Context(), 1, math.MaxInt)
		if err != nil || len(infos) != 2 {
			t.Errorf("got %d transactions of 2, error %v", len(infos), err)
		}
	})
}

// currentRecords reads all that CurrentRecords yields, blobs too.
func currentRecords(t *testing.T, s raidstorage.RecordIterator) (all []storagetest.LogRecord) {
	t.Helper()
	for r, err := range s.CurrentRecords(t.Context(), 0) {
		if err != nil {
			t.Errorf("current records: %v", err)
			break
		}
		out := storagetest.LogRecord{OID: r.OID, TID: r.TID, Data: string(r.Data), DataTID: r.DataTID, HasBlob: r.OpenBlob != nil}
		if out.HasBlob {
			blob, err := r.OpenBlob(t.Context())
			if err != nil {
				t.Errorf("open the blob of %v: %v", r.OID, err)
				continue
			}
			content, err := io.ReadAll(blob)
			if err := errors.Join(err, blob.Close()); err != nil {
				t.Errorf("read the blob of %v: %v", r.OID, err)
			}
			out.Blob = string(content)
		}
		all = append(all, out)
	}
	return all
}

// R1: what a transaction replaces that is finished on one backend, and not
// acknowledged, is yielded with its blob.
func TestCurrentRecordsHaveTheirBlobsUnderAnUnacknowledgedTransaction(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.cfg.ReadPolicy = raidstorage.PrimaryFirst
		m := w.start()
		blob := func(content string) func(raidstorage.Txn) error {
			return func(txn raidstorage.Txn) error {
				return raidstorage.StoreBlob(t.Context(), txn, 1, w.serial(m, 1), []byte("record of "+content), strings.NewReader(content))
			}
		}
		storagetest.Transact(t, m, raidstorage.Meta{}, blob("old blob"))
		w.mustCommit(m, 2, "one")
		undone := w.mustCommit(m, 2, "two")
		storagetest.Transact(t, m, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
			return raidstorage.Undo(t.Context(), txn, undone)
		})
		before := currentRecords(t, m)
		if diff := cmp.Diff(currentRecords(t, w.mem.stores[0]), before); diff != "" || len(before) != 2 || before[1].DataTID == 0 {
			t.Errorf("a mirror yields other records than its backend (-backend +mirror):\n%s", diff)
		}
		b2 := w.backend("b2")
		finishes := count(b2, storagetest.CallFinish)
		b2.Inject(storagetest.Fault{Call: storagetest.CallFinish, Kind: storagetest.Hang, Times: 1})
		done := make(chan struct{})
		go func() {
			defer close(done)
			storagetest.Transact(t, m, raidstorage.Meta{}, blob("new blob"))
		}()
		if err := b2.WaitFor(t.Context(), storagetest.CallFinish, finishes+1); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // b1 has finished
		if diff := cmp.Diff(before, currentRecords(t, m)); diff != "" {
			t.Errorf("records changed before the acknowledgement (-want +got):\n%s", diff)
		}
		b2.Release()
		<-done
		if after := currentRecords(t, m); len(after) != 2 || after[0].Blob != "new blob" {
			t.Errorf("after the acknowledgement: %+v", after)
		}
	})
}

// Ids at the end of their ranges are refused, and stop nothing.
func TestGreatestIDsAreRefused(t *testing.T) {
	scenario(t, 1, func(t *testing.T, w *world) {
		m := w.start()
		first := w.mustCommit(m, 1, "x")
		_, err := m.Begin(t.Context(), raidstorage.Meta{TID: raidstorage.MaxTID})
		want[*raidstorage.InvalidError](t, "Begin with MaxTID", err)
		_, err = begin(t, m, raidstorage.Meta{TID: raidstorage.MaxTID - 1}, 1, first+1).Vote(t.Context())
		want[*raidstorage.ConflictError](t, "Vote for the last tid", err)
		w.mustCommit(m, 2, "a refused transaction does not use up the tids")

		w.mustCommit(m, math.MaxUint64, "the last oid")
		_, err = m.NewOIDs(t.Context(), 3)
		want[*raidstorage.InvalidError](t, "NewOIDs above the last one", err)
		w.mustCommit(m, 2, "goes on")
	})
}
