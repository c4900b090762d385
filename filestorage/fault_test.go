package filestorage_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// outcome is what may be in the file after a fault.
type outcome struct {
	acknowledged string                // what the last call that succeeded left
	or           func(got string) bool // what the call that failed may have done
}

// workload commits, aborts and cuts off, until something fails.
func workload(t *testing.T, s *filestorage.Storage) (outcome, error) {
	t.Helper()
	ctx := context.Background()
	out := outcome{acknowledged: mustDump(t, s)}
	neither := func(string) bool { return false }
	var first string
	for i := range 3 {
		tid := raidstorage.TID(100 + i)
		out.or = neither
		txn, err := s.Begin(ctx, raidstorage.Meta{TID: tid})
		if err != nil {
			return out, err
		}
		defer func() { _ = txn.Abort(ctx) }()
		if err := txn.Restore(ctx, raidstorage.Record{OID: 1, TID: tid, Data: fmt.Append(nil, i)}); err != nil {
			return out, err
		}
		if _, err := txn.Vote(ctx); err != nil {
			return out, err
		}
		if i == 1 {
			if err := txn.Abort(ctx); err != nil {
				return out, err
			}
			continue
		}
		before := out.acknowledged
		out.or = func(got string) bool {
			return strings.Contains(got, "T "+tid.String()) && strings.Contains(got, firstLines(before))
		}
		if _, err := txn.Finish(ctx); err != nil {
			return out, err
		}
		out.acknowledged = mustDump(t, s)
		if i == 0 {
			first = out.acknowledged
		}
	}
	out.or = func(got string) bool { return got == first }
	if err := s.TruncateAfter(ctx, 100, 102); err != nil {
		return out, err
	}
	out = outcome{acknowledged: mustDump(t, s), or: neither}
	return out, s.Close()
}

// firstLines returns the transactions of a dump without the loads.
func firstLines(dump string) string {
	txns, _, _ := strings.Cut(dump, "L ")
	return txns
}

// Each write, truncation and sync fails in turn. Nothing that was acknowledged is
// lost, and the storage refuses to write until it is opened again.
func TestNoFaultLosesAnAcknowledgedTransaction(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken disk")
	for _, short := range []bool{false, true} {
		for _, once := range []bool{false, true} {
			for n := int64(0); ; n++ {
				name := fmt.Sprintf("call %d, short %v, once %v", n, short, once)
				path := filepath.Join(t.TempDir(), "Data.fs")
				plan := &filestorage.FailingFile{At: n, Err: broken, Short: short, Once: once}
				s, err := filestorage.OpenWith(t.Context(), path, filestorage.Options{}, func(f filestorage.File) filestorage.File {
					plan.File = f
					return plan
				})
				var out outcome
				if err == nil {
					out, err = workload(t, s)
					wantBroken(t, name, s, err)
					_ = s.Close() // it repeats the fault
				}
				if !plan.Fired() {
					break
				}
				if !errors.Is(err, broken) {
					t.Errorf("%s: the workload returns %v", name, err)
				}
				r := openFor(t, path, filestorage.Options{})
				if got := mustDump(t, r); got != out.acknowledged && !out.or(got) {
					t.Errorf("%s: after reopening there is\n%s\nacknowledged was\n%s", name, got, out.acknowledged)
				}
				put(t, r, 50, "it goes on")
			}
		}
	}
}

// wantBroken checks that after a fault nothing is written any more.
func wantBroken(t *testing.T, name string, s *filestorage.Storage, err error) {
	t.Helper()
	if err == nil {
		return
	}
	_, err = s.Begin(context.Background(), raidstorage.Meta{})
	if errors.Is(err, raidstorage.ErrClosed) {
		return
	}
	if refused := wantErr[*raidstorage.ReadOnlyError](t, err); !strings.Contains(refused.Reason, "broken disk") {
		t.Errorf("%s: %v does not say why", name, refused)
	}
}

func TestAFailedFinishHasAnUnknownOutcome(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "Data.fs")
	plan := &filestorage.FailingFile{At: 1 << 30, Err: syscall.ENOSPC}
	s, err := filestorage.OpenWith(t.Context(), path, filestorage.Options{}, func(f filestorage.File) filestorage.File {
		plan.File = f
		return plan
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	tid := put(t, s, 1, "one")
	txn := begin(t, s, raidstorage.Meta{})
	if err := txn.Store(t.Context(), 1, tid, []byte("two")); err != nil {
		t.Fatal(err)
	}
	if _, err := txn.Vote(t.Context()); err != nil {
		t.Fatal(err)
	}
	plan.At = 0 // from here on
	_, err = txn.Finish(t.Context())
	unknown := wantErr[*raidstorage.OutcomeUnknownError](t, err)
	if !errors.Is(unknown, syscall.ENOSPC) {
		t.Errorf("%v does not say why", unknown)
	}
	if got := current(t, s, 1); got != "one" {
		t.Errorf("the unfinished transaction shows: %q", got)
	}
}
