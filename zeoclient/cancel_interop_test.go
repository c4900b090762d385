//go:build interop

package zeoclient_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// TestCancelledVotesLeaveTheConnectionUsable cancels votes at all moments, in the middle
// of a blob's upload too. Python's server closes the connection upon any message that
// does not fit, and then the next commit would fail.
func TestCancelledVotesLeaveTheConnectionUsable(t *testing.T) {
	t.Parallel()
	server := startRunzeo(t, shortDir(t), 1, "msgpack true")
	s := open(t, server.options(t))
	defer s.Close()
	blob := strings.Repeat("0123456789", 1<<20)
	cancelled := 0
	for n := range 40 {
		txn, err := s.Begin(t.Context(), raidstorage.Meta{})
		if err != nil {
			t.Fatal(err)
		}
		if err := raidstorage.StoreBlob(t.Context(), txn, raidstorage.OID(100+n), 0, []byte(blobRecord), strings.NewReader(blob)); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n)*2*time.Millisecond)
		_, err = txn.Vote(ctx)
		cancel()
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			cancelled++
		case err != nil:
			t.Fatalf("Vote: %v", err)
		}
		if err := txn.Abort(t.Context()); err != nil {
			t.Fatal(err)
		}
		storagetest.Commit(t, s, map[raidstorage.OID]string{1: "x"})
	}
	if cancelled < 2 {
		t.Errorf("%d votes were cancelled", cancelled)
	}
	t.Logf("%d votes were cancelled", cancelled)
}
