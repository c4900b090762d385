package zeoserver

import (
	"context"
	"iter"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/memstorage"
)

func TestTheInvalidationQueueIsBoundedInObjects(t *testing.T) {
	t.Parallel()
	q := invalidationQueue{size: 100, most: 10}
	q.reset(1)
	add := func(tid raidstorage.TID, n int) {
		oids := make([]raidstorage.OID, n)
		for i := range oids {
			oids[i] = raidstorage.OID(int(tid)*100 + i)
		}
		q.add(tid, oids)
	}
	for tid := raidstorage.TID(2); tid < 10; tid++ {
		add(tid, 3)
	}
	if len(q.entries) != 3 || q.oids != 9 || q.base != 6 {
		t.Errorf("%d entries, %d objects, from %v on", len(q.entries), q.oids, q.base)
	}
	if oids, ok := q.since(7); !ok || len(oids) != 6 {
		t.Errorf("since 7: %v %v", oids, ok)
	}
	if _, ok := q.since(5); ok {
		t.Error("it claims to know what was forgotten")
	}
	add(10, 11) // more than all: clients that miss it start anew
	if _, ok := q.since(9); ok || len(q.entries) != 0 {
		t.Error("a transaction of too many objects was kept")
	}
	if oids, ok := q.since(10); !ok || len(oids) != 0 {
		t.Errorf("since 10: %v %v", oids, ok)
	}
}

// countedLog counts the transactions that are read.
type countedLog struct {
	raidstorage.Storage
	read int
}

func (c *countedLog) Iterate(ctx context.Context, from, through raidstorage.TID) iter.Seq2[*raidstorage.Transaction, error] {
	return func(yield func(*raidstorage.Transaction, error) bool) {
		for txn, err := range c.Storage.Iterate(ctx, from, through) {
			c.read++
			if !yield(txn, err) {
				return
			}
		}
	}
}

// A server over a busy log starts without reading much more of it than it remembers, and
// over a quiet one it finds what is there, however old.
func TestRefillReadsLittleOfABusyLog(t *testing.T) {
	t.Parallel()
	const size, n = 100, 5000
	for _, apart := range []time.Duration{time.Millisecond, 30 * time.Millisecond, time.Hour} {
		s := &countedLog{Storage: memstorage.New("log")}
		defer s.Close()
		tid := raidstorage.TIDFromTime(time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC))
		var tids []raidstorage.TID
		for range n {
			tid = max(tid+1, raidstorage.TIDFromTime(tid.Time().Add(apart)))
			txn, err := s.Begin(t.Context(), raidstorage.Meta{TID: tid})
			if err == nil {
				err = txn.Restore(t.Context(), raidstorage.Record{OID: 1, TID: tid, Data: []byte("x")})
			}
			if err == nil {
				_, err = txn.Vote(t.Context())
			}
			if err == nil {
				_, err = txn.Finish(t.Context())
			}
			if err != nil {
				t.Fatal(err)
			}
			tids = append(tids, tid)
		}
		q := newQueue(size)
		if err := q.refill(t.Context(), s, tid); err != nil {
			t.Fatal(err)
		}
		if oids, ok := q.since(tids[n-size]); !ok || len(oids) != 1 || len(q.entries) != size {
			t.Errorf("%v apart: since the oldest it says %v, %v, with %d entries", apart, oids, ok, len(q.entries))
		}
		if most := 2 * windowGrowth * size; s.read > most {
			t.Errorf("%v apart: it has read %d transactions for %d, at most %d expected", apart, s.read, size, most)
		}
	}
}
