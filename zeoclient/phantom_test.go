package zeoclient

import (
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// A server that tells of a transaction that its log does not have, as ZODB's file storage
// does after it was killed between a vote and the finish, takes that very transaction.
func TestServerThatTellsOfACutTransaction(t *testing.T) {
	t.Parallel()
	const phantom = raidstorage.TID(30)
	f := startFake(t)
	f.log = []fakeTxn{{tid: 10}, {tid: 20}}
	lie := func(c *fakeConn, m zeowire.Message) bool {
		if m.Name != zeowire.Register && m.Name != zeowire.LastTransaction {
			return false
		}
		c.reply(m, zeowire.TID(max(f.last(), phantom)))
		return true
	}
	f.setHook(lie)
	s := connectTo(t, f, nil)
	wantLast := func(want raidstorage.TID) {
		t.Helper()
		if got, err := s.LastTID(bounded(t)); err != nil || got != want {
			t.Errorf("LastTID is %v, %v, want %v", got, err, want)
		}
	}
	wantLast(20)

	// Started once more, it tells the truth: nothing was lost by that.
	f.stop()
	f.setHook(nil)
	f.listen(t)
	until(t, "reconnection", func() bool { _, err := s.LastTID(bounded(t)); return err == nil })
	wantLast(20)

	f.stop()
	f.setHook(lie)
	f.listen(t)
	until(t, "reconnection", func() bool { _, err := s.LastTID(bounded(t)); return err == nil })
	txn, err := s.Begin(bounded(t), raidstorage.Meta{TID: phantom})
	if err != nil {
		t.Fatal(err)
	}
	if vote, err := txn.Vote(bounded(t)); err != nil || vote.Last != 20 {
		t.Fatalf("Vote returned %v, %v", vote, err)
	}
	if tid, err := txn.Finish(bounded(t)); err != nil || tid != phantom {
		t.Fatalf("Finish returned %v, %v", tid, err)
	}
	wantLast(phantom)
}
