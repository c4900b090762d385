package zeoserver_test

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage/internal/zeowire"
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
