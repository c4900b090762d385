//go:build interop

package zeoclient_test

import (
	"errors"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// length is the record of a BTrees.Length.Length, for which Python's server resolves
// conflicts.
func length(n byte) string {
	return "\x80\x03cBTrees.Length\nLength\n.\x80\x03K" + string(rune(n)) + "."
}

// TestConflictsThatTheServerWouldResolve: a store over a revision that is not current
// conflicts, whoever would like to resolve that; and after it the lock is free.
func TestConflictsThatTheServerWouldResolve(t *testing.T) {
	t.Parallel()
	for name, options := range map[string]string{
		"by the server": "client-conflict-resolution false", "by clients": "client-conflict-resolution true\nmsgpack true",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startRunzeo(t, shortDir(t), 1, options)
			s := open(t, server.options(t))
			defer s.Close()
			for _, record := range []func(byte) string{length, func(n byte) string { return storagetest.Pickled(string(rune(n))) }} {
				first := storagetest.Commit(t, s, map[raidstorage.OID]string{1: record(5)})
				second := storagetest.Commit(t, s, map[raidstorage.OID]string{1: record(6)})
				txn, err := s.Begin(t.Context(), raidstorage.Meta{})
				if err != nil {
					t.Fatal(err)
				}
				if err := txn.Store(t.Context(), 1, first, []byte(record(7))); err != nil {
					t.Fatal(err)
				}
				_, err = txn.Vote(t.Context())
				want := raidstorage.ConflictError{OID: 1, Committed: second, Read: first}
				if got, ok := errors.AsType[*raidstorage.ConflictError](err); !ok || *got != want {
					t.Errorf("Vote returned %v, want %v", err, &want)
				}
				storagetest.Commit(t, s, map[raidstorage.OID]string{2: record(1)})
				if rev, err := s.LoadBefore(t.Context(), 1, raidstorage.MaxTID); err != nil || string(rev.Data) != record(6) || rev.Serial != second {
					t.Errorf("LoadBefore = %q of %v, %v", rev.Data, rev.Serial, err)
				}
			}
		})
	}
}
