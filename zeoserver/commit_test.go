package zeoserver_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/zeoserver"
)

const noTID = raidstorage.TID(0)

func TestCommitIsSeenByOthersAndNotBefore(t *testing.T) {
	t.Parallel()
	srv := serve(t, zeoserver.Config{})
	c, other := srv.connect(t), srv.connect(t)
	c.stage(1, write{1, 0, "old"}, write{2, 0, "two"}, write{1, 0, "one"})
	c.must("vote", number(1))
	other.fails(zeowire.ClassPOSKey, "loadBefore", oid(1), tid(raidstorage.MaxTID))
	v := c.must("tpc_finish", number(1))
	if m := c.nextAsync("info"); !strings.Contains(m.Args.String(), "length") {
		t.Errorf("info%v", m.Args)
	}
	committed, _ := v.TID()
	got, oids := other.invalidated()
	if got != committed || !cmp.Equal(oids, []uint64{1, 2}) {
		t.Errorf("invalidated %v %v", got, oids)
	}
	if data, serial, end := other.load(1, raidstorage.MaxTID); data != "one" || serial != committed || end != 0 {
		t.Errorf("loaded %q of %v until %v: the last store counts", data, serial, end)
	}
	if v := other.must("loadBefore", oid(1), tid(committed)); !v.IsNone() {
		t.Errorf("before its creation: %v", v)
	}
	if v := other.must("getTid", oid(1)); !v.Equal(zeowire.TID(committed)) {
		t.Errorf("getTid: %v", v)
	}
	if v := other.must("loadSerial", oid(1), tid(committed)); !v.Equal(data("one")) {
		t.Errorf("loadSerial: %v", v)
	}
	other.fails(zeowire.ClassPOSKey, "loadSerial", oid(1), tid(committed+1))
	st := srv.Status()["1"]
	if st.Commits != 1 || st.Stores != 3 || st.ActiveTxns != 0 || st.Connections != 2 || !st.LockedSince.IsZero() || st.LastTID != committed {
		t.Errorf("status %+v", st)
	}
}

func TestConflictsNameTheSerials(t *testing.T) {
	t.Parallel()
	srv := serve(t, zeoserver.Config{})
	c := srv.connect(t)
	first := c.commit(write{1, 0, "one"})
	second := c.commit(write{1, first, "two"})
	c.stage(1, write{1, first, "three"})
	e := c.fails(zeowire.ClassConflict, "vote", number(1))
	got, ok := e.Conflict()
	if want := (zeowire.Conflict{OID: 1, Committed: second, Read: first}); !ok || got != want {
		t.Errorf("got %+v", got)
	}
	// The transaction is over: aborting it again has no effect, and another may begin.
	if v := c.must("tpc_abort", number(1)); !v.IsNone() {
		t.Errorf("tpc_abort: %v", v)
	}
	c.commit(write{1, second, "four"})

	c.tpcBegin(2)
	c.queue("checkCurrentSerialInTransaction", oid(1), tid(first), number(2))
	c.fails(zeowire.ClassReadConflict, "vote", number(2))
	c.tpcBegin(3)
	c.queue("deleteObject", oid(1), tid(first), number(3))
	c.fails(zeowire.ClassConflict, "vote", number(3))
	c.tpcBegin(4)
	c.queue("deleteObject", oid(77), tid(first), number(4))
	c.fails(zeowire.ClassPOSKey, "vote", number(4))
	if st := srv.Status()["1"]; st.Conflicts != 3 || st.ActiveTxns != 0 {
		t.Errorf("status %+v", st)
	}
}

func TestTransactionsOutOfOrder(t *testing.T) {
	t.Parallel()
	srv := serve(t, zeoserver.Config{})
	c := srv.connect(t)
	c.fails(zeowire.ClassStorageTxn, "vote", number(1))
	for _, name := range []string{"tpc_finish", "tpc_abort"} {
		if v := c.must(name, number(1)); !v.IsNone() {
			t.Errorf("%s of an unknown transaction: %v", name, v)
		}
	}
	c.stage(1, write{1, 0, "x"})
	c.tpcBegin(1) // again: no effect
	c.fails(zeowire.ClassStorageTxn, "tpc_begin", number(2), data("u"), data("d"), zeowire.Dict())
	c.fails(zeowire.ClassStorageTxn, "vote", number(2))
	c.fails(zeowire.ClassAssertionError, "tpc_finish", number(1))
	c.must("vote", number(1))
	c.fails(zeowire.ClassStorageTxn, "vote", number(1))
	c.must("tpc_finish", number(1))
	c.fails(zeowire.ClassStorageTxn, "storea", oid(1), tid(0), data("x"), number(1))

	// Everything in one write, finish included.
	c.stage(3, write{2, 0, "x"})
	c.w.Message(zeowire.Call(zeowire.IntID(100), "vote", number(3)))
	c.w.Message(zeowire.Call(zeowire.IntID(101), "tpc_finish", number(3)))
	c.stage(4, write{3, 0, "x"})
	c.w.Message(zeowire.Call(zeowire.IntID(102), "vote", number(4)))
	c.w.Message(zeowire.Call(zeowire.IntID(103), "tpc_finish", number(4)))
	c.flush()
	for replies := 0; replies < 4; { // the vote behind a finish may be answered first
		m := c.message()
		if e, failed := m.Exception(); failed {
			t.Fatal(e)
		}
		if m.IsReply() {
			replies++
		}
	}
	c.load(3, raidstorage.MaxTID)
	// A failing async call ends the connection.
	c.queue("storea", oid(1), tid(0), data("x"), number(1))
	c.flush()
	c.closed()
}

func TestVotesQueueFairlyAndDoNotBlockTheConnection(t *testing.T) {
	t.Parallel()
	srv := serve(t, zeoserver.Config{})
	holder := srv.connect(t)
	holder.stage(1, write{1, 0, "holder"})
	holder.must("vote", number(1))
	if srv.Status()["1"].LockedSince.IsZero() {
		t.Error("nobody holds the lock")
	}
	const n = 5
	var waiting []*client
	var ids []zeowire.ID
	for i := range n {
		c := srv.connect(t)
		c.stage(1, write{uint64(i + 2), 0, fmt.Sprint(i)})
		ids = append(ids, c.begin("vote", number(1)))
		srv.until(t, "another waiter", func(st zeoserver.Status) bool { return st.Waiting == i+1 })
		waiting = append(waiting, c)
	}
	// A waiting connection serves other calls, and one may give up.
	pong := waiting[1].begin("ping")
	if _, e := waiting[1].wait(pong); e != nil {
		t.Fatal(e)
	}
	abort := waiting[2].begin("tpc_abort", number(1))
	if _, e := waiting[2].wait(ids[2]); e == nil {
		t.Error("an aborted vote succeeded")
	}
	if _, e := waiting[2].wait(abort); e != nil {
		t.Error(e)
	}
	waiting[3].nc.Close() // a disconnect gives up, too
	srv.until(t, "three waiters", func(st zeoserver.Status) bool { return st.Waiting == n-2 })
	last, _ := holder.must("tpc_finish", number(1)).TID()
	for i, c := range waiting {
		if i == 2 || i == 3 {
			continue
		}
		if _, e := c.wait(ids[i]); e != nil {
			t.Fatal(e)
		}
		got, _ := c.must("tpc_finish", number(1)).TID()
		if got <= last {
			t.Errorf("waiter %d got %v after %v: not its turn", i, got, last)
		}
		last = got
	}
	srv.until(t, "no transaction", func(st zeoserver.Status) bool {
		return st.ActiveTxns == 0 && st.Waiting == 0 && st.LockedSince.IsZero()
	})
}

func TestADisconnectFreesTheLock(t *testing.T) {
	t.Parallel()
	srv := serve(t, zeoserver.Config{})
	holder := srv.connect(t)
	holder.stage(1, write{1, 0, "holder"})
	holder.must("vote", number(1))
	other := srv.connect(t)
	other.stage(1, write{1, 0, "other"})
	id := other.begin("vote", number(1))
	holder.nc.Close()
	if _, e := other.wait(id); e != nil {
		t.Fatal(e)
	}
	other.must("tpc_finish", number(1))
}

func TestATransactionThatHoldsTheLockTooLongIsDropped(t *testing.T) {
	t.Parallel()
	srv := serve(t, zeoserver.Config{TransactionTimeout: 2 * time.Second})
	holder, quick := srv.connect(t), srv.connect(t)
	quick.stage(1, write{2, 0, "x"}) // without the lock there is no timeout
	holder.stage(1, write{1, 0, "holder"})
	holder.must("vote", number(1))
	holder.closed()
	quick.w.Message(zeowire.Call(zeowire.IntID(90), "vote", number(1)))
	quick.w.Message(zeowire.Call(zeowire.IntID(91), "tpc_finish", number(1)))
	quick.flush()
	for id := int64(90); id < 92; id++ {
		if _, e := quick.wait(zeowire.IntID(id)); e != nil {
			t.Error(e)
		}
	}
	srv.until(t, "one connection", func(st zeoserver.Status) bool { return st.Connections == 1 })
	srv.logged(t, "transaction timeout") // it comes when all of the connection has ended
	if !srv.Status()["1"].Timeout {
		t.Error("the status tells of no timeout")
	}
}

func TestClientsResolveConflicts(t *testing.T) {
	t.Parallel()
	srv := serve(t, zeoserver.Config{ClientConflictResolution: true})
	c, other := srv.connect(t), srv.connect(t)
	first := c.commit(write{1, 0, "a"}, write{2, 0, "b"}, write{3, 0, "c"})
	second := other.commit(write{1, first, "a2"}, write{2, first, "b2"})

	c.stage(1, write{1, first, "mine1"}, write{2, first, "mine2"}, write{3, first, "mine3"})
	v := c.must("vote", number(1))
	conflicts := make(map[uint64]string)
	items, _ := v.Items()
	for _, item := range items {
		o, _ := item.Get("oid")
		n, _ := o.OID()
		d, _ := item.Get("data")
		serials, _ := item.Get("serials")
		if want := zeowire.Tuple(zeowire.TID(second), zeowire.TID(first)); !serials.Equal(want) {
			t.Errorf("serials %v, want %v", serials, want)
		}
		b, _ := d.Bytes()
		conflicts[uint64(n)] = string(b)
	}
	if diff := cmp.Diff(conflicts, map[uint64]string{1: "mine1", 2: "mine2"}); diff != "" {
		t.Fatal(diff)
	}
	// The turn is kept: another one waits until the conflicts are resolved.
	other.stage(1, write{1, second, "a3"})
	id := other.begin("vote", number(1))
	srv.until(t, "a waiter", func(st zeoserver.Status) bool { return st.Waiting == 1 })
	c.queue("storea", oid(1), tid(second), data("resolved1"), number(1))
	c.queue("storea", oid(2), tid(second), data("resolved2"), number(1))
	if v := c.must("vote", number(1)); !v.Equal(zeowire.List()) {
		t.Fatalf("the second vote: %v", v)
	}
	c.must("tpc_finish", number(1))
	for o, want := range map[uint64]string{1: "resolved1", 2: "resolved2", 3: "mine3"} {
		if got, _, _ := c.load(o, raidstorage.MaxTID); got != want {
			t.Errorf("object %d is %q, want %q", o, got, want)
		}
	}
	v, e := other.wait(id)
	if items, _ := v.Items(); e != nil || len(items) != 1 {
		t.Errorf("the waiter got %v %v, not a conflict", v, e)
	}
	other.must("tpc_abort", number(1))

	// Read conflicts and deletions cannot be resolved.
	c.tpcBegin(2)
	c.queue("deleteObject", oid(1), tid(first), number(2))
	c.fails(zeowire.ClassConflict, "vote", number(2))
	// A client that finishes without a resolution gets what ZEO gives.
	c.stage(3, write{1, first, "x"})
	c.must("vote", number(3))
	c.fails(zeowire.ClassAssertionError, "tpc_finish", number(3))
	c.must("tpc_abort", number(3))
	srv.until(t, "a free lock", func(st zeoserver.Status) bool { return st.LockedSince.IsZero() && st.ActiveTxns == 0 })
}

func TestAnUnresolvedConflictIsDroppedAfterTheTimeout(t *testing.T) {
	t.Parallel()
	srv := serve(t, zeoserver.Config{ClientConflictResolution: true, TransactionTimeout: 2 * time.Second})
	c := srv.connect(t)
	first := c.commit(write{1, 0, "a"})
	c.commit(write{1, first, "b"})
	c.stage(1, write{1, first, "x"})
	c.must("vote", number(1))
	c.closed()
	srv.until(t, "a free lock", func(st zeoserver.Status) bool { return st.LockedSince.IsZero() && st.ActiveTxns == 0 })
}

func TestAnUnknownOutcomeClosesTheConnection(t *testing.T) {
	t.Parallel()
	s := newStall()
	failure := error(&raidstorage.OutcomeUnknownError{TID: 1, Err: errors.New("disk on fire")})
	srv := serve(t, serving(s))
	c, other := srv.connect(t), srv.connect(t)
	s.finishErr.Store(&failure)
	c.stage(1, write{1, 0, "x"})
	c.must("vote", number(1))
	c.begin("tpc_finish", number(1))
	c.closed()
	s.finishErr.Store(nil)
	other.commit(write{2, 0, "y"}) // nothing is left locked
	if !strings.Contains(srv.log.String(), "disk on fire") {
		t.Errorf("log: %s", srv.log)
	}
}

func TestLargeTransactionsWaitInAFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	srv := serve(t, zeoserver.Config{StageMemoryBytes: 1000, TempDir: dir})
	c := srv.connect(t)
	var writes []write
	for i := range 50 {
		writes = append(writes, write{uint64(i + 1), 0, strings.Repeat(fmt.Sprint(i, " "), 40)})
	}
	first := c.commit(writes...)
	for _, w := range writes {
		if got, _, _ := c.load(w.oid, raidstorage.MaxTID); got != w.data {
			t.Errorf("object %d is %q", w.oid, got)
		}
	}
	c.stage(1, writes[0])
	for _, w := range writes {
		c.queue("checkCurrentSerialInTransaction", oid(w.oid), tid(first+1), number(1))
	}
	c.queue("storea", oid(1), tid(first), data("last"), number(1))
	c.fails(zeowire.ClassReadConflict, "vote", number(1))
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left in the directory: %v %v", left, err)
	}
}

func TestCopyingKeepsTidsAndStatus(t *testing.T) {
	t.Parallel()
	srv := serve(t, zeoserver.Config{})
	c := srv.connect(t)
	const first, second = raidstorage.TID(0x0300000000000001), raidstorage.TID(0x0300000000000002)
	ext := zeowire.Dict(zeowire.Entry("key", text("value")), zeowire.Entry("n", number(1<<40)))
	c.queue("tpc_begin", number(1), data("u"), data("d"), ext, tid(first), text("p"))
	c.queue("restorea", oid(1), tid(first), data("one"), zeowire.None(), number(1))
	c.must("vote", number(1))
	if v := c.must("tpc_finish", number(1)); !v.Equal(zeowire.TID(first)) {
		t.Errorf("tpc_finish: %v", v)
	}
	c.queue("tpc_begin", number(2), data("u"), data("d"), zeowire.Dict(), tid(second), text(" "))
	c.queue("restorea", oid(1), tid(second), zeowire.None(), zeowire.None(), number(2))
	c.queue("restorea", oid(2), tid(second), data("one"), tid(first), number(2))
	c.must("vote", number(2))
	c.must("tpc_finish", number(2))
	c.fails(zeowire.ClassPOSKey, "loadBefore", oid(1), tid(raidstorage.MaxTID))

	it := c.must("iterator_start", zeowire.None(), zeowire.None())
	want := zeowire.Tuple(zeowire.TID(first), text("p"), data("u"), data("d"), ext)
	if v := c.must("iterator_next", it); !v.Equal(want) {
		t.Errorf("got %v, want %v", v, want)
	}
	// Explicit tids must rise.
	c.queue("tpc_begin", number(3), data("u"), data("d"), zeowire.Dict(), tid(first), text(" "))
	c.queue("storea", oid(7), tid(noTID), data("x"), number(3))
	c.fails(zeowire.ClassStorage, "vote", number(3))
}

func TestUndo(t *testing.T) {
	t.Parallel()
	srv := serve(t, zeoserver.Config{})
	c, other := srv.connect(t), srv.connect(t)
	first := c.commit(write{0, 0, "root"}, write{1, 0, "a"})
	second := c.commit(write{0, first, "root2"}, write{1, first, "a2"})
	third := c.commit(write{0, second, "root3"})
	id := func(tid raidstorage.TID) zeowire.Value {
		log := c.must("undoLog", number(0), number(-20))
		items, _ := log.Items()
		for i, item := range items {
			if []raidstorage.TID{third, second, first}[i] == tid {
				v, _ := item.Get("id")
				return v
			}
		}
		t.Fatalf("no %v in %v", tid, log)
		return zeowire.None()
	}
	c.tpcBegin(1)
	c.queue("undoa", id(second), number(1))
	e := c.fails(zeowire.ClassMultipleUndo, "vote", number(1))
	if failures, ok := e.UndoFailures(); !ok || len(failures) != 1 || failures[0].OID != 0 {
		t.Errorf("failures %v", failures)
	}
	c.tpcBegin(2)
	c.queue("undoa", zeowire.Bytes([]byte("AAAAAAAAAAE=")), number(2))
	c.fails(zeowire.ClassUndo, "vote", number(2))
	c.tpcBegin(3)
	c.queue("undoa", id(third), number(3))
	if v := c.must("vote", number(3)); !v.Equal(zeowire.List(oid(0))) {
		t.Errorf("vote: %v", v)
	}
	c.must("tpc_finish", number(3))
	var oids []uint64
	for range 4 {
		_, oids = other.invalidated()
	}
	if !cmp.Equal(oids, []uint64{0}) {
		t.Errorf("invalidated %v", oids)
	}
	if got, _, _ := c.load(0, raidstorage.MaxTID); got != "root2" {
		t.Errorf("undone to %q", got)
	}
}

func TestShutdownLetsVotesEnd(t *testing.T) {
	t.Parallel()
	s := memstorage.New("mem")
	srv := serve(t, serving(s))
	holder, idle := srv.connect(t), srv.connect(t)
	holder.stage(1, write{1, 0, "x"})
	holder.must("vote", number(1))
	done := make(chan error, 1)
	go func() { done <- srv.Shutdown(t.Context()) }()
	idle.closed()
	holder.must("tpc_finish", number(1))
	holder.closed()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := s.LoadBefore(t.Context(), 1, raidstorage.MaxTID); err != nil {
		t.Error(err)
	}
}

func TestShutdownEndsWithItsContext(t *testing.T) {
	t.Parallel()
	srv := serve(t, zeoserver.Config{})
	holder := srv.connect(t)
	holder.stage(1, write{1, 0, "x"})
	holder.must("vote", number(1))
	ctx, cancel := contextWithTimeout(t, 20*time.Millisecond)
	defer cancel()
	if err := srv.Shutdown(ctx); err == nil {
		t.Error("a transaction was aborted and Shutdown says nothing")
	}
	holder.closed()
}

// TestNothingIsLeftBehindByADisconnect ends connections after each of their messages.
func TestNothingIsLeftBehindByADisconnect(t *testing.T) {
	t.Parallel()
	temp := t.TempDir()
	srv := serve(t, zeoserver.Config{TempDir: temp, ClientConflictResolution: true, StageMemoryBytes: 1})
	witness := srv.connect(t)
	witness.commit(write{50, 0, "x"})
	for _, calls := range conversations() {
		for n := range len(calls) + 1 {
			c := srv.connect(t)
			for i, m := range calls[:n] {
				if m.Flag == zeowire.Sync {
					m.ID = zeowire.IntID(int64(i + 2))
				}
				if err := c.w.Message(m); err != nil {
					t.Fatal(err)
				}
			}
			c.flush()
			c.nc.Close()
			c2 := srv.connect(t)
			c2.stage(7, write{100, 0, "y"})
			c2.must("vote", number(7))
			c2.must("tpc_abort", number(7))
			c2.nc.Close()
		}
	}
	srv.until(t, "one connection and no transaction", func(st zeoserver.Status) bool {
		return st.Connections == 1 && st.ActiveTxns == 0 && st.LockedSince.IsZero()
	})
	if err := srv.Close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}
