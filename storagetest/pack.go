package storagetest

import (
	"fmt"
	"sync"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
)

func packRules() []rule {
	return subject("pack", needs{has: Packer},
		rule{name: "revisions that were not current at the pack time are dropped", run: packRevisions},
		rule{name: "transactions up to the pack time become packed, later ones stay", run: func(e *env) {
			tids := e.commitTree(4)
			e.pack(tids[1], false)
			for _, txn := range e.log(e.s) {
				want := " "
				if txn.TID <= tids[1] {
					want = "p"
				}
				if txn.Status != want {
					e.Errorf("transaction %v has status %q, want %q", txn.TID, txn.Status, want)
				}
			}
			e.wantLast(tids[3])
		}},
		rule{name: "the log holds what is loadable and nothing else before the pack time", run: func(e *env) {
			tids := e.commitTree(5)
			e.pack(tids[3], true)
			for _, txn := range e.log(e.s) {
				for _, rec := range txn.Records {
					data, err := raidstorage.LoadSerial(e.ctx, e.s, rec.OID, rec.TID)
					if err != nil || string(data) != rec.Data {
						e.Errorf("record %v of the log loads as %q, %v", rec, data, err)
					}
				}
			}
			target := e.open()
			e.must("copy", copyLog(e.ctx, target, e.s, 0))
			if diff := cmp.Diff(e.log(e.s), e.log(target)); diff != "" {
				e.Errorf("a copy of the packed log differs (-want +got):\n%s", diff)
			}
		}},
		rule{name: "packing before everything drops nothing", run: func(e *env) {
			tids := e.commitTree(3)
			want := e.log(e.s)
			for _, through := range []raidstorage.TID{1, tids[0] - 1} {
				e.pack(through, true)
				if diff := cmp.Diff(want, e.log(e.s)); diff != "" {
					e.Errorf("the log differs (-want +got):\n%s", diff)
				}
			}
		}},
		rule{name: "an empty storage can be packed", run: func(e *env) {
			e.pack(testTID(1), true)
			e.wantLast(0)
			e.commitTree(1)
		}},
		rule{name: "packing twice is the same as once", run: func(e *env) {
			tids := e.commitTree(4)
			e.pack(tids[2], true)
			want := e.log(e.s)
			e.pack(tids[2], true)
			e.pack(tids[0], true)
			if diff := cmp.Diff(want, e.log(e.s)); diff != "" {
				e.Errorf("the log differs (-want +got):\n%s", diff)
			}
		}},
		rule{name: "commits and conflicts go on afterwards", run: func(e *env) {
			tids := e.commitTree(3)
			e.pack(tids[2], true)
			next := e.commit(objs(1, Pickled("after the pack")))
			e.wantLoad(1, raidstorage.MaxTID, Pickled("after the pack"), next, 0)
			txn := e.begin(raidstorage.Meta{})
			e.must("Store", txn.Store(e.ctx, 1, tids[2], []byte("late")))
			e.wantConflict(txn, 1, next, tids[2])
		}},
		rule{name: "commits and reads go on meanwhile", run: packMeanwhile},
		rule{name: "packed transactions cannot be undone, later ones can", needs: needs{has: Undoer}, run: func(e *env) {
			tids := e.commitTree(4)
			e.pack(tids[1], true)
			e.wantUndoLog(0, 10, nil, tids[3], tids[2])
			e.refusedUndo(tids[1])
			e.undo(tids[3])
			e.undo(tids[2])
			e.wantCurrent(1, Pickled("revision 1"))
		}},
		rule{name: "blobs go with their revisions", needs: needs{has: BlobLoader}, run: func(e *env) {
			e.commit(objs(0, Pickled("root", 1)))
			first := e.storeBlob(1, "one")
			second := e.storeBlob(1, "two")
			third := e.storeBlob(1, "three")
			e.pack(second, true)
			e.wantNoBlob(1, first)
			e.wantBlob(1, second, "two")
			e.wantBlob(1, third, "three")
		}},
		rule{name: "data that an undo repeats survives its source", needs: needs{has: Undoer}, run: func(e *env) {
			e.commit(map[raidstorage.OID]string{0: Pickled("root", 1), 1: Pickled("original")})
			second := e.commit(objs(1, Pickled("changed")))
			undone, _ := e.undo(second)
			e.pack(undone, true)
			e.wantLoad(1, raidstorage.MaxTID, Pickled("original"), undone, 0)
			e.wantNotFound(1, undone)
			for _, txn := range e.log(e.s) {
				for _, rec := range txn.Records {
					if rec.OID == 1 && rec.Data != Pickled("original") {
						e.Errorf("the log has %v", rec)
					}
				}
			}
		}},
		rule{name: "packing does not touch an open transaction", run: func(e *env) {
			tids := e.commitTree(3)
			txn := e.staged(objs(1, Pickled("staged before the pack")))
			e.pack(tids[2], true)
			_, err := txn.Vote(e.ctx)
			e.must("Vote", err)
			tid := e.finish(txn)
			e.wantLoad(1, raidstorage.MaxTID, Pickled("staged before the pack"), tid, 0)
		}},
		rule{name: "it is still so after a restart", needs: needs{reopen: true}, run: func(e *env) {
			tids := e.commitTree(4)
			e.pack(tids[2], true)
			want := e.log(e.s)
			e.reopen()
			if diff := cmp.Diff(want, e.log(e.s)); diff != "" {
				e.Errorf("the log differs (-want +got):\n%s", diff)
			}
			e.wantLoad(1, raidstorage.MaxTID, Pickled("revision 3"), tids[3], 0)
			e.wantNotFound(1, tids[2])
		}},
	)
}

func (e *env) pack(through raidstorage.TID, gc bool) {
	e.Helper()
	e.must("Pack", e.tryPack(through, gc))
	e.wantLockFree()
}

func (e *env) tryPack(through raidstorage.TID, gc bool) error {
	e.Helper()
	p, err := raidstorage.Can[raidstorage.Packer](e.s)
	e.must("Can", err)
	return p.Pack(e.ctx, raidstorage.PackOptions{Through: through, GC: gc})
}

// commitTree commits n revisions of object 1, the first one together with the root
// that refers to it.
func (e *env) commitTree(n int) []raidstorage.TID {
	e.Helper()
	tids := []raidstorage.TID{e.commit(map[raidstorage.OID]string{0: Pickled("root", 1), 1: Pickled("revision 0")})}
	for i := 1; i < n; i++ {
		tids = append(tids, e.commit(objs(1, Pickled(fmt.Sprint("revision ", i)))))
	}
	return tids
}

func packRevisions(e *env) {
	tids := e.commitTree(6)
	other := e.commit(objs(0, Pickled("root again", 1)))
	for _, gc := range []bool{false, true} {
		e.pack(tids[3], gc)
		for _, before := range []raidstorage.TID{1, tids[0] + 1, tids[2], tids[3]} {
			e.wantNotFound(1, before)
		}
		for i := 3; i < 6; i++ {
			next := raidstorage.TID(0)
			if i < 5 {
				next = tids[i+1]
			}
			e.wantLoad(1, tids[i]+1, Pickled(fmt.Sprint("revision ", i)), tids[i], next)
		}
		// The root's first revision was current at the pack time.
		e.wantLoad(0, other, Pickled("root", 1), tids[0], other)
		e.wantLast(other)
	}
}

// packMeanwhile commits and reads while the storage is packed again and again.
func packMeanwhile(e *env) {
	const commits = 30
	e.commitTree(3)
	stop := make(chan struct{})
	var (
		wg         sync.WaitGroup
		commitsErr error
	)
	wg.Go(func() {
		defer close(stop)
		for i := range commits {
			_, err := transact(e.ctx, e.s, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
				return stage(e.ctx, e.s, txn, map[raidstorage.OID]string{1: Pickled(fmt.Sprint("meanwhile ", i))})
			})
			if err != nil {
				commitsErr = err
				return
			}
		}
	})
	for running := true; running; {
		select {
		case <-stop:
			running = false
		default:
		}
		if err := e.tryPack(e.lastTID(), true); err != nil {
			e.Errorf("Pack: %v", err)
			break
		}
		if _, err := e.s.LoadBefore(e.ctx, 1, raidstorage.MaxTID); err != nil {
			e.Errorf("LoadBefore: %v", err)
			break
		}
	}
	wg.Wait()
	e.must("committing while packing", commitsErr)
	e.wantCurrent(1, Pickled(fmt.Sprint("meanwhile ", commits-1)))
	e.pack(e.lastTID(), true)
	e.wantCurrent(1, Pickled(fmt.Sprint("meanwhile ", commits-1)))
	e.wantCurrent(0, Pickled("root", 1))
}
