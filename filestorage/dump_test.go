package filestorage_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// dump writes all transactions and revisions as testdata/fs.py does, with records
// of the same revisions in both.
func dump(ctx context.Context, s raidstorage.Storage) (string, error) {
	var b strings.Builder
	var revisions []raidstorage.Record
	for t, err := range s.Iterate(ctx, 0, raidstorage.MaxTID) {
		if err != nil {
			return b.String(), err
		}
		fmt.Fprintf(&b, "T %v %c %s %s %s\n", t.TID, t.Status, orDash(t.User), orDash(t.Description), orDash(t.Extension))
		for r, err := range t.Records {
			if err != nil {
				return b.String(), err
			}
			from := "-"
			if r.DataTID != 0 {
				from = r.DataTID.String()
			}
			fmt.Fprintf(&b, "R %v %v %s %s\n", r.OID, r.TID, orDash(r.Data), from)
			revisions = append(revisions, raidstorage.Record{OID: r.OID, TID: r.TID})
		}
	}
	for _, r := range revisions {
		for _, before := range []raidstorage.TID{r.TID + 1, r.TID} {
			if err := dumpLoad(ctx, &b, s, r.OID, before); err != nil {
				return b.String(), err
			}
		}
	}
	return b.String(), nil
}

func dumpLoad(ctx context.Context, b *strings.Builder, s raidstorage.Storage, oid raidstorage.OID, before raidstorage.TID) error {
	rev, err := s.LoadBefore(ctx, oid, before)
	notFound, missing := errors.AsType[*raidstorage.NotFoundError](err)
	switch {
	case missing && notFound.Later:
		fmt.Fprintf(b, "L %v %v later\n", oid, before)
	case missing:
		fmt.Fprintf(b, "L %v %v missing\n", oid, before)
	case err != nil:
		return err
	default:
		fmt.Fprintf(b, "L %v %v %v %v %x\n", oid, before, rev.Serial, rev.Next, rev.Data)
	}
	return nil
}

func orDash(b []byte) string {
	if len(b) == 0 {
		return "-"
	}
	return hex.EncodeToString(b)
}

func mustDump(t testing.TB, s raidstorage.Storage) string {
	t.Helper()
	d, err := dump(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// dumpFile dumps the storage at path without changing anything.
func dumpFile(t testing.TB, path string) string {
	t.Helper()
	return mustDump(t, openFor(t, path, filestorage.Options{ReadOnly: true}))
}

// begin begins a transaction that is aborted in the end.
func begin(t testing.TB, s raidstorage.Storage, meta raidstorage.Meta) raidstorage.Txn {
	t.Helper()
	txn, err := s.Begin(t.Context(), meta)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = txn.Abort(context.Background()) })
	return txn
}

// commit commits what stage stages.
func commit(t testing.TB, s raidstorage.Storage, meta raidstorage.Meta, stage func(txn raidstorage.Txn) error) raidstorage.TID {
	t.Helper()
	txn := begin(t, s, meta)
	if err := stage(txn); err != nil {
		t.Fatal(err)
	}
	return finish(t, txn)
}

// put stores data as the new revision of oid.
func put(t testing.TB, s raidstorage.Storage, oid raidstorage.OID, data string) raidstorage.TID {
	t.Helper()
	return commit(t, s, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
		return txn.Store(t.Context(), oid, serialOf(t, s, oid), []byte(data))
	})
}

func serialOf(t testing.TB, s raidstorage.Storage, oid raidstorage.OID) raidstorage.TID {
	t.Helper()
	rev, err := s.LoadBefore(t.Context(), oid, raidstorage.MaxTID)
	if _, missing := errors.AsType[*raidstorage.NotFoundError](err); err != nil && !missing {
		t.Fatal(err)
	}
	return rev.Serial
}

func undoTxn(t testing.TB, s raidstorage.Storage, tid raidstorage.TID) raidstorage.TID {
	t.Helper()
	return commit(t, s, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
		return raidstorage.Undo(t.Context(), txn, tid)
	})
}
