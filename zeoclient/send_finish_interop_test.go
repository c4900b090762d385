//go:build interop

package zeoclient_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/zeoclient"
)

// restoring votes on a copy of a transaction.
func restoring(ctx context.Context, s raidstorage.Storage, tid raidstorage.TID, description string) (raidstorage.FinishSender, raidstorage.Vote, error) {
	txn, err := s.Begin(ctx, raidstorage.Meta{TID: tid, Description: []byte(description)})
	if err != nil {
		return nil, raidstorage.Vote{}, err
	}
	if err := txn.Restore(ctx, raidstorage.Record{OID: raidstorage.OID(tid), TID: tid, Data: []byte(blobRecord)}); err != nil {
		return nil, raidstorage.Vote{}, err
	}
	vote, err := txn.Vote(ctx)
	return txn.(raidstorage.FinishSender), vote, err
}

// tids returns the log.
func tids(t *testing.T, s raidstorage.Storage) (all []raidstorage.TID) {
	t.Helper()
	for txn, err := range s.Iterate(t.Context(), 1, raidstorage.MaxTID) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, txn.TID)
	}
	return all
}

// refusing is a runzeo whose storages raise an exception at the end of transactions with
// the description "refused", as one does whose disk breaks.
const refusing = `
import sys
from ZODB.FileStorage import FileStorage
finish = FileStorage.tpc_finish
def tpc_finish(self, transaction, f=None):
    if transaction.description == b'refused':
        raise OSError('the disk is broken')
    return finish(self, transaction, f)
FileStorage.tpc_finish = tpc_finish
from ZEO.runzeo import main
main(sys.argv[1:])
`

// TestFinishesThatAreSentToPython sends finishes without waiting. One that Python's server
// refuses, or does not get, never has the one behind it applied, and the server's commit
// lock is free for others afterwards.
func TestFinishesThatAreSentToPython(t *testing.T) {
	t.Parallel()
	for _, encoding := range []string{"msgpack false", "msgpack true"} {
		t.Run(encoding, func(t *testing.T) {
			t.Parallel()
			const step = raidstorage.TID(1 << 32)
			server := startRunzeoAs(t, shortDir(t), 3, encoding, "-c", refusing)
			run := func(name string, f func(t *testing.T, opts zeoclient.Options, s *zeoclient.Storage)) {
				t.Run(name, func(t *testing.T) {
					opts := server.options(t)
					s := open(t, opts)
					defer s.Close()
					f(t, opts, s)
				})
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			run("a hundred in a row", func(t *testing.T, _ zeoclient.Options, s *zeoclient.Storage) {
				var waits []func(context.Context) error
				for n := range raidstorage.TID(100) {
					txn, vote, err := restoring(ctx, s, (n+1)*step, "")
					if err != nil || vote.Last != n*step {
						t.Fatalf("vote %d: %v, last %v", n, err, vote.Last)
					}
					wait, err := txn.SendFinish(ctx)
					if err != nil {
						t.Fatal(err)
					}
					waits = append(waits, wait)
				}
				for _, wait := range waits {
					if err := wait(ctx); err != nil {
						t.Error(err)
					}
				}
				if all := tids(t, s); len(all) != 100 || all[99] != 100*step {
					t.Errorf("the log is %v", all)
				}
			})
			run("one that is refused", func(t *testing.T, opts zeoclient.Options, s *zeoclient.Storage) {
				first, _, err := restoring(ctx, s, step, "refused")
				if err != nil {
					t.Fatal(err)
				}
				wait, err := first.SendFinish(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if _, vote, err := restoring(ctx, s, 2*step, ""); err == nil {
					t.Errorf("the vote behind it succeeded, last %v", vote.Last)
				}
				if err := wait(ctx); err == nil {
					t.Error("nobody says that the finish failed")
				}
				other := open(t, opts)
				defer other.Close()
				txn, _, err := restoring(ctx, other, 3*step, "")
				if err != nil {
					t.Fatalf("another client's vote: %v", err)
				}
				if _, err := txn.Finish(ctx); err != nil {
					t.Fatal(err)
				}
				if all := tids(t, other); fmt.Sprint(all) != fmt.Sprint([]raidstorage.TID{3 * step}) {
					t.Errorf("the log is %v", all)
				}
			})
			run("one that does not get there", func(t *testing.T, opts zeoclient.Options, s *zeoclient.Storage) {
				first, _, err := restoring(ctx, s, step, "")
				if err != nil {
					t.Fatal(err)
				}
				server.kill()
				wait, err := first.SendFinish(ctx)
				if err == nil {
					_, _, voted := restoring(ctx, s, 2*step, "")
					if voted == nil {
						t.Error("the vote behind it succeeded")
					}
					err = wait(ctx)
				}
				if failed, ok := errors.AsType[*zeoclient.DisconnectedError](err); !ok {
					t.Errorf("the finish: %v, %v", failed, err)
				}
			})
		})
	}
}
