package filestorage_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// deferOne makes a deferred transaction of one object.
func deferOne(t testing.TB, s raidstorage.Storage, n int) {
	t.Helper()
	tid := raidstorage.TID(1)<<62 + raidstorage.TID(n)
	commit(t, s, raidstorage.Meta{TID: tid, Deferred: true}, func(txn raidstorage.Txn) error {
		return txn.Restore(context.Background(), raidstorage.Record{OID: raidstorage.OID(n), TID: tid, Data: fmt.Append(nil, "object ", n)})
	})
}

// What an earlier deferred transaction holds can be repeated before it is synced: else each
// undo that a recovery copies would wait for the disk.
func TestDeferredTransactionsAreRepeatedWithoutASync(t *testing.T) {
	t.Parallel()
	s, _, first := gated(t)
	one, two := first+10, first+20
	restore := func(tid, of raidstorage.TID, data string) {
		t.Helper()
		commit(t, s, raidstorage.Meta{TID: tid, Deferred: true}, func(txn raidstorage.Txn) error {
			return txn.Restore(t.Context(), raidstorage.Record{OID: 9, TID: tid, Data: []byte(data), DataTID: of})
		})
	}
	restore(one, 0, "nine")
	restore(one+1, 0, "other")
	restore(two, one, "nine")
	var repeated []raidstorage.TID
	for txn, err := range s.Iterate(t.Context(), one, two) {
		if err != nil {
			t.Fatal(err)
		}
		for rec, err := range txn.Records {
			if err != nil {
				t.Fatal(err)
			}
			repeated = append(repeated, rec.DataTID)
		}
	}
	if diff := cmp.Diff(repeated, []raidstorage.TID{0, 0, one}); diff != "" {
		t.Error(diff)
	}
}

// Deferred transactions are synced while later ones come, and nobody waits for that
// until there are too many.
func TestDeferredTransactionsAreSettledInTheBackground(t *testing.T) {
	t.Parallel()
	s, g, _ := gated(t)
	n := 0
	for ; n < filestorage.MaxDeferred-1; n++ {
		deferOne(t, s, n) // does not wait for the sync that is under way
	}
	<-g.reached // without Flush
	waited := make(chan struct{})
	go func() {
		defer close(waited)
		deferOne(t, s, n)
	}()
	for filestorage.Queued(s) < filestorage.MaxDeferred {
		runtime.Gosched()
	}
	select {
	case <-waited:
		t.Error("the queue is not bounded")
	default:
	}
	g.open.Store(true)
	g.pass <- nil
	<-waited
	for filestorage.Queued(s) > filestorage.MaxDeferred/2 { // still without Flush
		runtime.Gosched()
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := filestorage.Queued(s); left != 0 {
		t.Errorf("%d are left after Flush", left)
	}
}

// A sync that fails in the background fails the next that waits, and all that follow.
func TestASyncThatFailsInTheBackgroundIsTold(t *testing.T) {
	t.Parallel()
	s, g, _ := gated(t)
	for n := range filestorage.MaxDeferred / 2 {
		deferOne(t, s, n)
	}
	<-g.reached
	g.pass <- errors.New("the disk is gone")
	wantErr[*raidstorage.ReadOnlyError](t, s.Flush(t.Context()))
	_, err := s.Begin(t.Context(), raidstorage.Meta{})
	wantErr[*raidstorage.ReadOnlyError](t, err)
}

// A status byte that rots to 'c' looks like one that was not written yet among those of
// the last round, and is made good; before that it is damage and not passed over.
func TestARottenStatusIsPartOfTheLastRoundOnly(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "Data.fs")
	s := openFor(t, path, filestorage.Options{Durability: filestorage.NoSync, SaveIndexAfter: -1})
	const transactions = filestorage.MaxBatch + 10
	var starts []int64
	for n := range transactions {
		_, size, err := s.Size(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		starts = append(starts, size)
		deferOne(t, s, n)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for following, damage := range map[int]bool{1: false, filestorage.MaxBatch - 1: false, filestorage.MaxBatch: true, transactions - 1: true} {
		path := filepath.Join(t.TempDir(), "Data.fs") // without its index
		rotten := append([]byte(nil), whole...)
		rotten[starts[transactions-1-following]+16] = 'c'
		write(t, path, rotten)
		s, err := filestorage.Open(t.Context(), path, filestorage.Options{})
		switch {
		case damage:
			t.Logf("%d transactions follow the rotten one", following)
			wantErr[*raidstorage.CorruptError](t, err)
			continue
		case err != nil:
			t.Errorf("%d transactions follow the rotten one: %v", following, err)
			continue
		}
		if s.Repaired() != nil {
			t.Errorf("%d transactions follow the rotten one: repaired, %+v", following, s.Repaired())
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != string(whole) {
			t.Errorf("%d transactions follow the rotten one: the file was not made good (%v)", following, err)
		}
	}
}
