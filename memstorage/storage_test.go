package memstorage

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
)

var (
	_ raidstorage.Storage        = (*Storage)(nil)
	_ raidstorage.Undoer         = (*Storage)(nil)
	_ raidstorage.BlobLoader     = (*Storage)(nil)
	_ raidstorage.Historian      = (*Storage)(nil)
	_ raidstorage.RecordIterator = (*Storage)(nil)
	_ raidstorage.Notifier       = (*Storage)(nil)
	_ raidstorage.Truncater      = (*Storage)(nil)
	_ raidstorage.Packer         = (*Storage)(nil)
	_ raidstorage.Sizer          = (*Storage)(nil)
	_ raidstorage.UndoTxn        = (*txn)(nil)
	_ raidstorage.BlobTxn        = (*txn)(nil)
)

// commit runs stage in a transaction and returns its tid.
func commit(t testing.TB, s *Storage, stage func(*txn) error) raidstorage.TID {
	t.Helper()
	tid, err := tryCommit(t, s, stage)
	if err != nil {
		t.Fatalf("commit: %v", err)
	}
	return tid
}

func tryCommit(t testing.TB, s *Storage, stage func(*txn) error) (raidstorage.TID, error) {
	t.Helper()
	ctx := context.Background()
	begun, err := s.Begin(ctx, raidstorage.Meta{})
	if err != nil {
		t.Fatalf("Begin: %v", err)
	}
	if err := stage(begun.(*txn)); err != nil {
		t.Fatalf("stage: %v", err)
	}
	if _, err := begun.Vote(ctx); err != nil {
		return 0, err
	}
	return begun.Finish(ctx)
}

func put(t testing.TB, s *Storage, oid raidstorage.OID, serial raidstorage.TID, data string) raidstorage.TID {
	t.Helper()
	return commit(t, s, func(txn *txn) error { return txn.Store(context.Background(), oid, serial, []byte(data)) })
}

func undo(t testing.TB, s *Storage, tids ...raidstorage.TID) (raidstorage.TID, error) {
	t.Helper()
	return tryCommit(t, s, func(txn *txn) error {
		for _, tid := range tids {
			if err := txn.Undo(context.Background(), tid); err != nil {
				return err
			}
		}
		return nil
	})
}

// current returns the data of oid, "" when there is none.
func current(t testing.TB, s *Storage, oid raidstorage.OID) string {
	t.Helper()
	rev, err := s.LoadBefore(context.Background(), oid, raidstorage.MaxTID)
	if _, missing := errors.AsType[*raidstorage.NotFoundError](err); missing {
		return ""
	}
	if err != nil {
		t.Fatalf("LoadBefore: %v", err)
	}
	return string(rev.Data)
}

func TestUndoFollowsFileStorage(t *testing.T) {
	t.Parallel()
	var s Storage
	t1 := put(t, &s, 1, 0, "one")
	t2 := put(t, &s, 1, t1, "two")
	t3 := put(t, &s, 1, t2, "three")

	if _, err := undo(t, &s, t2); err == nil {
		t.Fatal("undo of a transaction whose object changed since: no error")
	}
	t4, err := undo(t, &s, t3, t2)
	if err != nil || current(t, &s, 1) != "one" {
		t.Fatalf("undo of two: %v, data %q", err, current(t, &s, 1))
	}
	if rev, _ := s.LoadBefore(t.Context(), 1, t4); string(rev.Data) != "three" || rev.Next != t4 {
		t.Fatalf("before the undo: %+v", rev)
	}
	t5, err := undo(t, &s, t4)
	if err != nil || current(t, &s, 1) != "three" {
		t.Fatalf("undo of an undo: %v, data %q", err, current(t, &s, 1))
	}
	t6, err := undo(t, &s, t5, t4, t3, t2, t1)
	if err != nil || current(t, &s, 1) != "" {
		t.Fatalf("undo of the creation: %v, data %q", err, current(t, &s, 1))
	}
	if _, err := undo(t, &s, t6); err != nil || current(t, &s, 1) != "three" {
		t.Fatalf("undo of the undone creation: %v, data %q", err, current(t, &s, 1))
	}
	if objects, _, _ := s.Size(t.Context()); objects != 1 {
		t.Fatalf("%d objects", objects)
	}
}

func TestVoteWaitsItsTurnAndItsContextEndsTheWait(t *testing.T) {
	t.Parallel()
	s := New("a")
	first, _ := s.Begin(t.Context(), raidstorage.Meta{})
	if _, err := first.Vote(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	second, _ := s.Begin(t.Context(), raidstorage.Meta{})
	if _, err := second.Vote(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("vote beside a voted transaction: %v", err)
	}
	// Closing the handle ends its voted transaction, and gives others the lock.
	other := s.Another("b")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Finish(t.Context()); !errors.Is(err, raidstorage.ErrClosed) {
		t.Fatalf("finish after close: %v", err)
	}
	put(t, other, 7, 0, "x")
	if err := first.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
	if again := s.Another("c"); current(t, again, 7) != "x" {
		t.Fatal("a new handle does not see the data")
	}
}

func TestOtherHandlesAreNotified(t *testing.T) {
	t.Parallel()
	a := New("a")
	b := a.Another("b")
	var got []raidstorage.Invalidation
	cancel := b.Subscribe(func(inv raidstorage.Invalidation) { got = append(got, inv) })
	put(t, b, 1, 0, "own")
	tid := put(t, a, 2, 0, "foreign")
	cancel()
	put(t, a, 3, 0, "late")
	if len(got) != 1 || got[0].TID != tid || len(got[0].OIDs) != 1 || got[0].OIDs[0] != 2 {
		t.Fatalf("notified of %+v", got)
	}
}

func TestTruncateAfterCutsObjectsAndLog(t *testing.T) {
	t.Parallel()
	s := New("")
	t1 := put(t, s, 1, 0, "one")
	t2 := put(t, s, 1, t1, "two")
	_, before, _ := s.Size(t.Context())
	t3 := commit(t, s, func(txn *txn) error {
		return errors.Join(txn.Delete(t.Context(), 1, t2), txn.Store(t.Context(), 2, 0, []byte("x")))
	})
	if err := s.TruncateAfter(t.Context(), t1, t2); err == nil {
		t.Fatal("truncated although the last transaction was another")
	}
	if err := s.TruncateAfter(t.Context(), t2, t3); err != nil {
		t.Fatal(err)
	}
	objects, size, _ := s.Size(t.Context())
	if current(t, s, 1) != "two" || current(t, s, 2) != "" || objects != 1 || size != before {
		t.Fatalf("after: %q, %q, %d objects, %d bytes instead of %d", current(t, s, 1), current(t, s, 2), objects, size, before)
	}
	if last, _ := s.LastTID(t.Context()); last != t2 {
		t.Fatalf("last %v instead of %v", last, t2)
	}
}

func TestBlobsAreUndoneWithTheirRecords(t *testing.T) {
	t.Parallel()
	s := New("")
	store := func(serial raidstorage.TID, blob string) raidstorage.TID {
		return commit(t, s, func(txn *txn) error {
			return txn.StoreBlob(t.Context(), 1, serial, []byte("record"), strings.NewReader(blob))
		})
	}
	t1 := store(0, "first")
	t2 := store(t1, "second")
	t3, err := undo(t, s, t2)
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.OpenBlob(t.Context(), 1, t3)
	if err != nil {
		t.Fatal(err)
	}
	if content, _ := io.ReadAll(r); !bytes.Equal(content, []byte("first")) {
		t.Fatalf("blob %q", content)
	}
}

// byteRefs makes each byte of a record but the first a reference, to the oid of
// that number.
func byteRefs(record []byte) ([]raidstorage.OID, error) {
	if record[0] == '!' {
		return nil, errors.New("unreadable")
	}
	var oids []raidstorage.OID
	for _, b := range record[1:] {
		oids = append(oids, raidstorage.OID(b))
	}
	return oids, nil
}

func TestPackKeepsWhatIsReachableThenOrLater(t *testing.T) {
	t.Parallel()
	s := New("")
	s.References = byteRefs
	var tids []raidstorage.TID
	write := func(objects ...string) {
		tids = append(tids, commit(t, s, func(txn *txn) (err error) {
			for _, object := range objects {
				oid := raidstorage.OID(object[0] - '0')
				var serial raidstorage.TID
				if rev, e := s.LoadBefore(t.Context(), oid, raidstorage.MaxTID); e == nil {
					serial = rev.Serial
				}
				err = errors.Join(err, txn.Store(t.Context(), oid, serial, []byte(object[1:])))
			}
			return err
		}))
	}
	write("0root\x01", "1old", "2garbage\x03", "3x", "4garbage", "5only later", "6dropped")
	write("1r\x02")
	write("0root", "6!") // at the pack time 1 and all behind it is garbage, and 6 is unreadable
	write("7n\x05")
	write("1back\x02")
	t6, err := undo(t, s, tids[3])
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Pack(t.Context(), raidstorage.PackOptions{Through: tids[2], GC: true}); err != nil {
		t.Fatal(err)
	}
	for oid, want := range []string{"root", "back\x02", "garbage\x03", "x", "", "only later", "", ""} {
		if got := current(t, s, raidstorage.OID(oid)); got != want {
			t.Errorf("object %d: %q instead of %q", oid, got, want)
		}
	}
	if _, err := s.LoadBefore(t.Context(), 0, tids[1]); err == nil {
		t.Error("an old revision of the root is still there")
	}
	infos, err := s.UndoLog(t.Context(), 0, 10, nil)
	if err != nil || len(infos) != 3 || infos[0].TID != t6 {
		t.Errorf("undo log %+v, %v", infos, err)
	}
	var size int64
	for txn, err := range s.Iterate(t.Context(), 0, raidstorage.MaxTID) {
		if err != nil {
			t.Fatal(err)
		}
		size += txn.Size
		if packed := txn.Status == raidstorage.StatusPacked; packed != (txn.TID <= tids[2]) {
			t.Errorf("transaction %v: status %q", txn.TID, txn.Status)
		}
	}
	if objects, bytes, _ := s.Size(t.Context()); objects != 5 || bytes != size {
		t.Errorf("%d objects, %d bytes; the log has %d", objects, bytes, size)
	}
}

func TestPackNamesTheUnreadableRecordAndDropsNothing(t *testing.T) {
	t.Parallel()
	s := New("a")
	t1 := put(t, s, 0, 0, "no pickle")
	t2 := put(t, s, 0, t1, "no pickle either")
	err := s.Pack(t.Context(), raidstorage.PackOptions{Through: t2, GC: true})
	corrupt, ok := errors.AsType[*raidstorage.CorruptError](err)
	if !ok || corrupt.OID != 0 || corrupt.TID != t2 || corrupt.Storage != "a" {
		t.Fatalf("pack: %v", err)
	}
	if _, err := s.LoadBefore(t.Context(), 0, t2); err != nil {
		t.Fatalf("after a failed pack: %v", err)
	}
	if err := s.Pack(t.Context(), raidstorage.PackOptions{Through: t2}); err != nil {
		t.Fatalf("pack without GC: %v", err)
	}
}

func TestPackDisturbsNeitherCommitsNorReads(t *testing.T) {
	t.Parallel()
	s := New("")
	s.References = func([]byte) ([]raidstorage.OID, error) { return []raidstorage.OID{1}, nil }
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			last, _ := s.LastTID(t.Context())
			if err := s.Pack(t.Context(), raidstorage.PackOptions{Through: last, GC: n%2 == 0}); err != nil {
				t.Errorf("pack: %v", err)
			}
		}
	})
	wg.Go(func() {
		for ctx.Err() == nil {
			for txn, err := range s.Iterate(t.Context(), 0, raidstorage.MaxTID) {
				if err != nil {
					t.Errorf("iterate: %v", err)
					return
				}
				n := 0
				for range txn.Records {
					n++
				}
				if n != 2 {
					t.Errorf("a transaction of %d records", n)
				}
			}
		}
	})
	var serial raidstorage.TID
	for range 500 {
		serial = commit(t, s, func(txn *txn) error {
			return errors.Join(txn.Store(ctx, 0, serial, []byte("x")), txn.Store(ctx, 1, serial, []byte("x")))
		})
	}
	if rev, err := s.LoadBefore(t.Context(), 1, raidstorage.MaxTID); err != nil || rev.Serial != serial {
		t.Errorf("at the end: %+v, %v", rev, err)
	}
}
