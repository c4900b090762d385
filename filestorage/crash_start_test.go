//go:build linux

package filestorage_test

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/zeoraid/raidstorage"
)

// startedTxn is a finish that was started.
type startedTxn struct {
	name string
	wait func(context.Context) error
}

// starts votes on one transaction after the other, as a mirror does, and starts their
// finishes; up to a few are waited for at the same time. With odd seeds the last ones
// are not waited for before Close.
func (w *crashWork) starts() {
	ctx := context.Background()
	s := w.open()
	c := w.committer(s, 3)
	flying, left := make(chan startedTxn, 1+w.seed%6), []startedTxn(nil)
	var waiters sync.WaitGroup
	for range 1 + w.seed%3 {
		waiters.Go(func() {
			for st := range flying {
				w.must(st.wait(ctx))
				w.mark("ack", st.name)
			}
		})
	}
	const n, unawaited = 30, 3
	var last raidstorage.TID
	for i := range n {
		last = raidstorage.NextTID(time.Now(), last)
		st := startedTxn{name: fmt.Sprintf("%s-%d", c.name, i)}
		txn, err := s.Begin(ctx, raidstorage.Meta{TID: last, Description: []byte(st.name), User: []byte("campaign")})
		w.must(err)
		c.n, c.changed = i, nil
		c.store(txn)
		_, err = txn.Vote(ctx)
		w.must(err)
		if c.r.IntN(8) == 0 {
			w.must(txn.Abort(ctx))
			continue
		}
		w.mark("finish", st.name)
		st.wait, err = txn.(raidstorage.FinishStarter).StartFinish(ctx)
		w.must(err)
		for _, oid := range c.changed {
			c.serials[oid] = last
		}
		if w.seed%2 == 1 && i >= n-unawaited {
			left = append(left, st)
		} else {
			flying <- st
		}
	}
	close(flying)
	waiters.Wait()
	w.must(s.Close())
	for _, st := range left {
		w.must(st.wait(ctx))
		w.mark("ack", st.name)
	}
}
