package zeoserver_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/zeoserver"
)

// send adds a call to what the next flush sends.
func (c *client) send(name string, args ...zeowire.Value) zeowire.ID {
	c.t.Helper()
	c.lastID++
	id := zeowire.IntID(c.lastID)
	if err := c.w.Message(zeowire.Call(id, name, args...)); err != nil {
		c.t.Fatal(err)
	}
	return id
}

// A transaction whose vote failed must not come to life again by a second vote that
// was sent without waiting: its finish would acknowledge what was never stored.
func TestASecondVoteDoesNotReviveAFailedTransaction(t *testing.T) {
	t.Parallel()
	srv := serve(t, zeoserver.Config{})
	c := srv.connect(t)
	c.commit(write{1, 0, "x"})
	for txn := int64(5000); txn < 5400; txn++ {
		c.stage(txn, write{1, 7, "conflict"})
		answers := map[zeowire.ID]string{}
		for range 4 {
			answers[c.send("vote", number(txn))] = "vote"
		}
		answers[c.send("tpc_finish", number(txn))] = "finish"
		c.flush()
		for len(answers) > 0 {
			m := c.message()
			if !m.IsReply() {
				continue
			}
			kind := answers[m.ID]
			delete(answers, m.ID)
			if _, failed := m.Exception(); !failed && (kind == "vote" || !m.Args.IsNone()) {
				t.Fatalf("transaction %d: %s succeeded: %v", txn, kind, m.Args)
			}
		}
	}
}

// The last tid that is asked for behind a vote is the one under its lock, and comes after
// it; a vote that has to wait keeps it back for a moment only.
func TestTheLastTransactionBehindAVote(t *testing.T) {
	t.Parallel()
	srv := serve(t, zeoserver.Config{})
	holder, c := srv.connect(t), srv.connect(t)
	const moment = 100 * time.Millisecond // a busy machine may hold up the server for longer
	last := holder.commit(write{1, 0, "x"})
	for txn := int64(10); txn < 60; txn++ {
		c.stage(txn, write{uint64(txn), 0, "y"})
		vote, asked, sent := c.send("vote", number(txn)), c.send("lastTransaction"), time.Now()
		c.flush()
		first := c.reply(vote, asked)
		if first.ID == asked && time.Since(sent) < moment {
			t.Fatal("the last tid was told before the vote")
		}
		told := c.reply(vote, asked)
		if first.ID == asked {
			told = first
		}
		if got, _ := told.Args.TID(); got != last {
			t.Fatalf("the last tid is %v, want %v", got, last)
		}
		last, _ = c.must("tpc_finish", number(txn)).TID()
	}
	holder.stage(1, write{2, 0, "x"})
	holder.must("vote", number(1))
	c.stage(2, write{100, 0, "y"})
	vote := c.send("vote", number(2))
	for attempt := 1; ; attempt++ { // one in time is enough
		asked, again, sent := c.send("lastTransaction"), c.send("lastTransaction"), time.Now()
		c.flush()
		first := c.reply(vote, asked, again)
		quick := first.ID == again && time.Since(sent) < moment
		if second := c.reply(vote, asked, again); first.ID == vote || second.ID == vote {
			t.Fatal("the vote did not wait for the other client")
		}
		if quick {
			break
		}
		if attempt == 10 {
			t.Fatal("the second question was kept back, too")
		}
	}
	holder.must("tpc_finish", number(1))
	c.reply(vote)
}

// slowHistory is a storage whose history takes its time.
type slowHistory struct {
	*memstorage.Storage
	gate *gate
}

func (s slowHistory) History(ctx context.Context, oid raidstorage.OID, limit int) ([]raidstorage.TxnInfo, error) {
	s.gate.pass()
	return s.Storage.History(ctx, oid, limit)
}

// A committer holds the lock until it knows the last tid: a history, a log or another
// slow answer that its connection waits for must not keep that back.
func TestTheLastTransactionBehindAVoteDoesNotWaitForSlowAnswers(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	srv := serve(t, serving(slowHistory{memstorage.New("slow"), g}))
	defer g.release() // before the server closes
	c := srv.connect(t)
	last := c.commit(write{1, 0, "x"})
	slow := c.send("history", oid(1), number(1))
	c.flush()
	<-g.arrived
	c.stage(2, write{2, 0, "y"})
	vote, asked := c.send("vote", number(2)), c.send("lastTransaction")
	c.flush()
	for _, want := range []zeowire.ID{vote, asked} {
		m := c.reply(vote, asked, slow)
		if m.ID != want {
			t.Fatalf("reply %v, want %v", m.ID, want)
		}
		if got, _ := m.Args.TID(); want == asked && got != last {
			t.Errorf("the last tid is %v, want %v", got, last)
		}
	}
	g.release()
	c.reply(slow)
}

// reply returns the next reply that is one of these.
func (c *client) reply(ids ...zeowire.ID) zeowire.Message {
	c.t.Helper()
	for {
		m := c.message()
		if e, failed := m.Exception(); failed {
			c.t.Fatal(e)
		}
		if m.IsReply() && slices.Contains(ids, m.ID) {
			return m
		}
	}
}

func TestPipelinedTransactionsAreBounded(t *testing.T) {
	t.Parallel()
	const txns = 100
	srv := serve(t, zeoserver.Config{})
	holder, c := srv.connect(t), srv.connect(t)
	holder.stage(1, write{1, 0, "x"})
	holder.must("vote", number(1))
	var finishes []zeowire.ID
	for i := range int64(txns) {
		c.stage(i+10, write{uint64(i) + 100, 0, "y"})
		c.send("vote", number(i+10))
		finishes = append(finishes, c.send("tpc_finish", number(i+10)))
	}
	ping := c.send("ping")
	c.flush()
	srv.until(t, "votes that wait", func(st zeoserver.Status) bool { return st.Waiting >= 16 })
	c.nc.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if m, err := c.receive(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %v, %v while the lock is held", m, err)
	}
	if n := srv.Status()["1"].ActiveTxns; n > 20 {
		t.Errorf("%d transactions are kept", n)
	}
	c.nc.SetReadDeadline(time.Now().Add(patience))
	holder.must("tpc_finish", number(1))
	left := map[zeowire.ID]bool{ping: true}
	for _, id := range finishes {
		left[id] = true
	}
	for len(left) > 0 {
		m := c.message()
		if e, failed := m.Exception(); failed {
			t.Fatal(e)
		}
		if m.IsReply() {
			delete(left, m.ID)
		}
	}
	if n := srv.Status()["1"].Commits; n != txns+1 {
		t.Errorf("%d commits", n)
	}
}

func TestAnUploadThatWasGivenUpDoesNotDisturbTheNext(t *testing.T) {
	t.Parallel()
	srv := serve(t, zeoserver.Config{})
	c := srv.connect(t)
	c.tpcBegin(1)
	c.queue("storeBlobStart")
	c.queue("storeBlobChunk", data("half a bl"))
	c.must("tpc_abort", number(1))
	c.tpcBegin(2)
	c.storeBlob(2, 7, 0, "record", []byte("whole"))
	c.must("vote", number(2))
	last, _ := c.must("tpc_finish", number(2)).TID()
	if got := c.loadBlob(7, last); string(got) != "whole" {
		t.Errorf("got %q", got)
	}
}
