package filestorage_test

import (
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// bytesOf returns n pseudo-random bytes.
func bytesOf(n int64) io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{1}), n) }

// A blob passes through a small buffer, in whatever way it goes in or out. Not parallel:
// it counts the memory of the process.
func TestALargeBlobIsNeverInMemory(t *testing.T) {
	const size, allowed = 50 << 20, 2 << 20
	s, _ := tempBlobs(t, filestorage.Options{Durability: filestorage.NoSync})
	other, _ := tempBlobs(t, filestorage.Options{Durability: filestorage.NoSync})
	want := sha256.New()
	if _, err := io.Copy(want, bytesOf(size)); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	tid := commit(t, s, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
		return raidstorage.StoreBlob(t.Context(), txn, 1, 0, []byte(blobRecord), bytesOf(size))
	})
	undone := undoTxn(t, s, putBlob(t, s, 1, "small"))
	for txn, err := range s.Iterate(t.Context(), 0, raidstorage.MaxTID) {
		if err != nil {
			t.Fatal(err)
		}
		commit(t, other, txn.Meta, func(to raidstorage.Txn) error {
			for rec, err := range txn.Records {
				if err := errors.Join(err, to.Restore(t.Context(), rec)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for _, read := range []struct {
		s   *filestorage.Storage
		tid raidstorage.TID
	}{{s, tid}, {other, tid}, {s, undone}, {other, undone}} {
		blob, err := read.s.OpenBlob(t.Context(), 1, read.tid)
		if err != nil {
			t.Fatal(err)
		}
		got := sha256.New()
		n, err := io.Copy(got, blob)
		if err := errors.Join(err, blob.Close()); err != nil || n != size || string(got.Sum(nil)) != string(want.Sum(nil)) {
			t.Errorf("%d bytes, %v", n, err)
		}
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > allowed {
		t.Errorf("%d bytes of memory were used for blobs of %d bytes", used, size)
	}
}

func TestAReaderThatFailsLeavesTheTransactionUsable(t *testing.T) {
	t.Parallel()
	s, dir := tempBlobs(t, filestorage.Options{})
	broken := errors.New("broken reader")
	txn := begin(t, s, raidstorage.Meta{})
	for _, test := range []struct {
		blob io.Reader
		want error
	}{
		{io.MultiReader(strings.NewReader("half"), iotest.ErrReader(broken)), broken},
		{endless{}, io.ErrNoProgress},
	} {
		err := raidstorage.StoreBlob(t.Context(), txn, 1, 0, []byte(blobRecord), test.blob)
		if !errors.Is(err, test.want) {
			t.Errorf("StoreBlob returned %v, want %v", err, test.want)
		}
	}
	if err := raidstorage.StoreBlob(t.Context(), txn, 2, 0, []byte(blobRecord), iotest.DataErrReader(strings.NewReader("whole"))); err != nil {
		t.Fatal(err)
	}
	if _, err := txn.Vote(t.Context()); err != nil {
		t.Fatal(err)
	}
	tid, err := txn.Finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wantNoBlob(t, s, 1, tid)
	wantBlob(t, s, 2, tid, "whole")
	if got := filesIn(t, dir); len(got) != 2 {
		t.Errorf("there are %q", got)
	}
}

// endless returns nothing, again and again.
type endless struct{}

func (endless) Read([]byte) (int, error) { return 0, nil }

// waitingReader says on waits that it was asked for more, and waits for goOn.
type waitingReader struct{ waits, goOn chan struct{} }

func (r waitingReader) Read(b []byte) (int, error) {
	r.waits <- struct{}{}
	<-r.goOn
	return copy(b, "more"), nil
}

// Close does not wait for a reader that waits, and the transaction ends.
func TestCloseDoesNotWaitForAReader(t *testing.T) {
	t.Parallel()
	s, dir := tempBlobs(t, filestorage.Options{})
	r := waitingReader{make(chan struct{}), make(chan struct{})}
	done := make(chan error)
	txn := begin(t, s, raidstorage.Meta{})
	go func() {
		done <- raidstorage.StoreBlob(t.Context(), txn, 1, 0, []byte(blobRecord), r)
	}()
	<-r.waits
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	close(r.goOn)
	if err := <-done; !errors.Is(err, raidstorage.ErrClosed) {
		t.Errorf("StoreBlob returned %v", err)
	}
	if got := filesIn(t, dir); len(got) != 1 {
		t.Errorf("there are %q", got)
	}
}
