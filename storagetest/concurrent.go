package storagetest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/zeoraid/raidstorage"
)

func concurrentRules() []rule {
	return subject("concurrency", needs{},
		rule{name: "no update is lost and readers see whole transactions", run: writersAndReaders},
		rule{name: "of writers that race for one object exactly one wins each round", run: func(e *env) {
			serial := e.commit(objs(1, "start"))
			for range 5 {
				wins := make([]raidstorage.TID, 6)
				e.must("racing", together(len(wins), func(i int) error {
					tid, err := transact(e.ctx, e.s, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
						return txn.Store(e.ctx, 1, serial, fmt.Append(nil, "writer ", i))
					})
					if _, lost := errors.AsType[*raidstorage.ConflictError](err); lost {
						return nil
					}
					wins[i] = tid
					return err
				}))
				winner := -1
				for i, tid := range wins {
					if tid != 0 && winner >= 0 {
						e.Fatalf("writers %d and %d both replaced %v", winner, i, serial)
					} else if tid != 0 {
						winner = i
					}
				}
				if winner < 0 {
					e.Fatalf("no writer won")
				}
				e.wantLoad(1, raidstorage.MaxTID, fmt.Sprint("writer ", winner), wins[winner], 0)
				serial = wins[winner]
			}
		}},
	)
}

const (
	counters      = 3 // oids 0 to 2: numbers that only grow by 1
	pairA, pairB  = raidstorage.OID(10), raidstorage.OID(11)
	writers       = 8
	readers       = 8
	incrementsPer = 6
)

// writersAndReaders lets writers count up a few counters, with many conflicts. Each
// transaction also writes two objects with the same data, so that a reader who
// sees different ones has seen half a transaction.
func writersAndReaders(e *env) {
	start := map[raidstorage.OID]string{pairA: "start", pairB: "start"}
	for c := range counters {
		start[raidstorage.OID(c)] = "0"
	}
	e.commit(start)

	done, stop := context.WithCancel(e.ctx)
	defer stop()
	var (
		reading sync.WaitGroup
		readErr = make([]error, readers)
	)
	for i := range readers {
		reading.Go(func() { readErr[i] = readSnapshots(e.ctx, done, e.s) })
	}
	err := together(writers, func(w int) error {
		for n := range incrementsPer {
			if err := increment(e.ctx, e.s, raidstorage.OID((w+n)%counters), fmt.Sprint(w, "-", n)); err != nil {
				return fmt.Errorf("writer %d: %w", w, err)
			}
		}
		return nil
	})
	stop()
	reading.Wait()
	e.must("writers", err)
	e.must("readers", errors.Join(readErr...))
	checkCounters(e, writers*incrementsPer)
}

// increment adds 1 to a counter and marks the pair, until no conflict prevents it.
func increment(ctx context.Context, s raidstorage.Storage, counter raidstorage.OID, mark string) error {
	for {
		_, err := transact(ctx, s, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
			rev, err := s.LoadBefore(ctx, counter, raidstorage.MaxTID)
			if err != nil {
				return err
			}
			n, err := strconv.Atoi(string(rev.Data))
			if err != nil {
				return err
			}
			if err := txn.Store(ctx, counter, rev.Serial, strconv.AppendInt(nil, int64(n+1), 10)); err != nil {
				return err
			}
			return stage(ctx, s, txn, map[raidstorage.OID]string{pairA: mark, pairB: mark})
		})
		if _, conflict := errors.AsType[*raidstorage.ConflictError](err); !conflict {
			return err
		}
	}
}

// readSnapshots reads the pair as of the last tid until done ends. What it saw of
// a snapshot must be there again at the end.
func readSnapshots(ctx, done context.Context, s raidstorage.Storage) error {
	seen := map[raidstorage.TID]string{}
	var last raidstorage.TID
	for running := true; running; running = done.Err() == nil {
		tid, err := s.LastTID(ctx)
		if err != nil {
			return err
		}
		if tid < last {
			return fmt.Errorf("LastTID went back from %v to %v", last, tid)
		}
		last = tid
		if seen[tid], err = readPair(ctx, s, tid); err != nil {
			return err
		}
	}
	for tid, mark := range seen {
		again, err := readPair(ctx, s, tid)
		if err != nil {
			return err
		}
		if again != mark {
			return fmt.Errorf("the snapshot at %v had %q and now has %q", tid, mark, again)
		}
	}
	return nil
}

func readPair(ctx context.Context, s raidstorage.Storage, at raidstorage.TID) (string, error) {
	a, err := s.LoadBefore(ctx, pairA, at+1)
	if err != nil {
		return "", err
	}
	b, err := s.LoadBefore(ctx, pairB, at+1)
	if err != nil {
		return "", err
	}
	if string(a.Data) != string(b.Data) || a.Serial != b.Serial {
		return "", fmt.Errorf("the snapshot at %v has half a transaction: %q of %v and %q of %v",
			at, a.Data, a.Serial, b.Data, b.Serial)
	}
	return string(a.Data), nil
}

// checkCounters compares the objects with the number of commits and the log.
func checkCounters(e *env, commits int) {
	total := 0
	for c := range counters {
		rev, err := e.s.LoadBefore(e.ctx, raidstorage.OID(c), raidstorage.MaxTID)
		e.must("LoadBefore", err)
		n, err := strconv.Atoi(string(rev.Data))
		e.must("counter", err)
		total += n
	}
	if total != commits {
		e.Errorf("the counters add up to %d after %d commits", total, commits)
	}
	log := e.log(e.s)
	if len(log) != commits+1 {
		e.Errorf("the log has %d transactions after %d commits", len(log), commits+1)
	}
	serials := map[raidstorage.OID]raidstorage.TID{}
	var last raidstorage.TID
	for _, txn := range log {
		if txn.TID <= last {
			e.Errorf("transaction %v follows %v in the log", txn.TID, last)
		}
		last = txn.TID
		for _, rec := range txn.Records {
			rev, err := e.s.LoadBefore(e.ctx, rec.OID, txn.TID+1)
			if err != nil || string(rev.Data) != rec.Data || rev.Serial != txn.TID {
				e.Errorf("record %v of %v loads as %q of %v, %v", rec, txn.TID, rev.Data, rev.Serial, err)
			}
			if before := serials[rec.OID]; before != 0 {
				e.wantNext(rec.OID, before, txn.TID)
			}
			serials[rec.OID] = txn.TID
		}
	}
	e.wantLast(last)
}

// wantNext checks that next is the revision of oid that follows serial.
func (e *env) wantNext(oid raidstorage.OID, serial, next raidstorage.TID) {
	e.Helper()
	rev, err := e.s.LoadBefore(e.ctx, oid, serial+1)
	e.must("LoadBefore", err)
	if rev.Next != next {
		e.Errorf("after %v of object %v comes %v, want %v", serial, oid, rev.Next, next)
	}
}
