package zeoclient

import (
	"slices"
	"sync"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// restoring votes on a copy of a transaction.
func restoring(t *testing.T, s *Storage, tid raidstorage.TID) (raidstorage.FinishSender, raidstorage.Vote, error) {
	t.Helper()
	txn, err := s.Begin(bounded(t), raidstorage.Meta{TID: tid})
	if err != nil {
		t.Fatal(err)
	}
	if err := txn.Restore(bounded(t), raidstorage.Record{OID: raidstorage.OID(tid), TID: tid, Data: []byte("data")}); err != nil {
		t.Fatal(err)
	}
	vote, err := txn.Vote(bounded(t))
	return txn.(raidstorage.FinishSender), vote, err
}

// TestTheNextVoteGoesBehindAFinish has a server answer a finish only when the next
// transaction has asked it to vote: that must not wait for the answer, but end after it.
func TestTheNextVoteGoesBehindAFinish(t *testing.T) {
	t.Parallel()
	f := startFake(t)
	var mu sync.Mutex // guards order and finish
	var order []string
	var finish *zeowire.Message
	f.setHook(func(c *fakeConn, m zeowire.Message) bool {
		mu.Lock()
		defer mu.Unlock()
		switch m.Name {
		case zeowire.TPCBegin, zeowire.TPCAbort:
			order = append(order, m.Name)
		case zeowire.TPCFinish:
			order = append(order, m.Name)
			if finish == nil {
				finish = &m
				c.f.mu.Lock()
				c.f.log = append(c.f.log, c.txn)
				c.f.mu.Unlock()
				return true // it is answered below
			}
		case zeowire.Vote:
			order = append(order, m.Name)
			if finish != nil && len(order) > 5 {
				c.reply(*finish, zeowire.TID(10))
			}
		}
		return false
	})
	s := connectTo(t, f, nil)
	first, _, err := restoring(t, s, 10)
	if err != nil {
		t.Fatal(err)
	}
	wait, err := first.SendFinish(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	second, vote, err := restoring(t, s, 20)
	if err != nil || vote.Last != 10 {
		t.Fatalf("the second vote: %v, last %v", err, vote.Last)
	}
	if err := wait(bounded(t)); err != nil {
		t.Errorf("the first finish: %v", err)
	}
	if tid, err := second.Finish(bounded(t)); tid != 20 || err != nil {
		t.Errorf("the second finish: %v, %v", tid, err)
	}
	mu.Lock()
	asked := slices.Clone(order)
	mu.Unlock()
	want := []string{zeowire.TPCBegin, zeowire.Vote, zeowire.TPCFinish, zeowire.TPCAbort, zeowire.TPCBegin, zeowire.Vote, zeowire.TPCFinish}
	if !slices.Equal(asked, want) {
		t.Errorf("the server was asked %v, want %v", asked, want)
	}
	if last, err := s.LastTID(bounded(t)); last != 20 || err != nil {
		t.Errorf("LastTID: %v, %v", last, err)
	}
	third, _, err := restoring(t, s, 30)
	if err != nil {
		t.Fatal(err)
	}
	if wait, err = third.SendFinish(bounded(t)); err != nil || wait(bounded(t)) != nil {
		t.Fatalf("the third finish: %v", err)
	}
	if s.behind == nil || s.behind.k.take != nil {
		t.Error("the data of a finish that was answered is kept")
	}
}

// TestNothingFinishesBehindAFinishThatFailed has a server refuse a finish that was sent:
// the vote behind it fails, whatever the server says to it, and the connection ends.
func TestNothingFinishesBehindAFinishThatFailed(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(*fakeConn, zeowire.Message){
		"an exception": func(c *fakeConn, m zeowire.Message) { c.raise(m, zeowire.ValueError("no")) },
		"no tid":       func(c *fakeConn, m zeowire.Message) { c.reply(m, zeowire.None()) },
		"another tid":  func(c *fakeConn, m zeowire.Message) { c.reply(m, zeowire.TID(11)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := startFake(t)
			f.setHook(func(c *fakeConn, m zeowire.Message) bool {
				if m.Name == zeowire.TPCFinish {
					answer(c, m)
				}
				return m.Name == zeowire.TPCFinish
			})
			s := connectTo(t, f, nil)
			first, _, err := restoring(t, s, 10)
			if err != nil {
				t.Fatal(err)
			}
			wait, err := first.SendFinish(bounded(t))
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := restoring(t, s, 20); err == nil {
				t.Error("the vote behind it succeeded")
			}
			if err := wait(bounded(t)); err == nil {
				t.Error("nobody says that the finish failed")
			}
			if n := f.count(zeowire.TPCFinish); n != 1 {
				t.Errorf("%d finishes were sent", n)
			}
			if _, _, err := restoring(t, s, 30); err != nil { // over a new connection
				t.Errorf("the vote after that: %v", err)
			}
		})
	}
}

// TestTheVoteAfterALostFinishFails loses the connection before the next vote, which goes
// over another one: it must not succeed where the finish may not have.
func TestTheVoteAfterALostFinishFails(t *testing.T) {
	t.Parallel()
	f := startFake(t)
	f.setHook(func(_ *fakeConn, m zeowire.Message) bool { return m.Name == zeowire.TPCFinish })
	s := connectTo(t, f, nil)
	first, _, err := restoring(t, s, 10)
	if err != nil {
		t.Fatal(err)
	}
	wait, err := first.SendFinish(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	f.cut()
	if err := wait(bounded(t)); err == nil {
		t.Error("nobody says that the finish was lost")
	}
	if _, _, err := restoring(t, s, 20); err == nil {
		t.Error("the vote behind it succeeded")
	}
	if _, vote, err := restoring(t, s, 30); err != nil || vote.Last != 0 {
		t.Errorf("the vote after that: %v, last %v", err, vote.Last)
	}
}

// TestAVoteThatFailsLeavesTheFinishBeforeItToTheNext: a vote that fails for a reason of its
// own has not waited for the finish before it. The next one does.
func TestAVoteThatFailsLeavesTheFinishBeforeItToTheNext(t *testing.T) {
	t.Parallel()
	f := startFake(t)
	var mu sync.Mutex // guards finish and votes
	var finish *zeowire.Message
	votes := 0
	f.setHook(func(c *fakeConn, m zeowire.Message) bool {
		mu.Lock()
		defer mu.Unlock()
		switch m.Name {
		case zeowire.TPCFinish:
			finish = &m
			return true // it is answered below
		case zeowire.Vote:
			switch votes++; votes {
			case 2:
				c.raise(m, zeowire.ValueError("not this one"))
				return true
			case 3:
				c.raise(*finish, zeowire.ValueError("the disk is full"))
			}
		}
		return false
	})
	s := connectTo(t, f, nil)
	first, _, err := restoring(t, s, 10)
	if err != nil {
		t.Fatal(err)
	}
	wait, err := first.SendFinish(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := restoring(t, s, 20); err == nil {
		t.Fatal("the second vote was to be refused")
	}
	if _, _, err := restoring(t, s, 30); err == nil {
		t.Error("the third vote succeeded, and the finish before it had failed")
	}
	if err := wait(bounded(t)); err == nil {
		t.Error("nobody says that the finish failed")
	}
}
