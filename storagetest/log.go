package storagetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/zeoraid/raidstorage"
)

// LogTransaction is a transaction as Log saw it. All fields are plain values, so
// that cmp.Diff and reflect.DeepEqual compare two logs.
type LogTransaction struct {
	TID         raidstorage.TID
	Status      string // " " or "p"
	User        string
	Description string
	Extension   string
	Records     []LogRecord // in log order
}

// LogRecord is a record as Log saw it.
type LogRecord struct {
	OID     raidstorage.OID
	TID     raidstorage.TID
	Data    string
	Deleted bool // Data was nil: a deletion or an undone creation
	DataTID raidstorage.TID
	HasBlob bool
	Blob    string
}

// String returns the record in one line.
func (r LogRecord) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v %q", r.OID, r.Data)
	if r.Deleted {
		b.WriteString(" deleted")
	}
	if r.DataTID != 0 {
		fmt.Fprintf(&b, " of %v", r.DataTID)
	}
	if r.HasBlob {
		fmt.Fprintf(&b, " blob %q", r.Blob)
	}
	return b.String()
}

// Log returns the whole log of s, with all data and blobs in memory: it is for the
// small storages of tests. Errors are those of Storage.Iterate and of reading the
// blobs.
func Log(ctx context.Context, s raidstorage.Storage) ([]LogTransaction, error) {
	return LogRange(ctx, s, 0, raidstorage.MaxTID)
}

// LogRange is Log of the transactions with from ≤ tid ≤ through, both inclusive.
func LogRange(ctx context.Context, s raidstorage.Storage, from, through raidstorage.TID) ([]LogTransaction, error) {
	var log []LogTransaction
	for txn, err := range s.Iterate(ctx, from, through) {
		if err != nil {
			return nil, err
		}
		lt, err := logTransaction(ctx, txn)
		if err != nil {
			return nil, err
		}
		log = append(log, lt)
	}
	return log, nil
}

func logTransaction(ctx context.Context, txn *raidstorage.Transaction) (LogTransaction, error) {
	status := txn.Status
	if status == 0 { // Meta says that this is the same
		status = raidstorage.StatusNormal
	}
	lt := LogTransaction{
		TID: txn.TID, Status: string(rune(status)), User: string(txn.User),
		Description: string(txn.Description), Extension: string(txn.Extension),
	}
	for rec, err := range txn.Records {
		if err != nil {
			return lt, err
		}
		lr := LogRecord{OID: rec.OID, TID: rec.TID, Data: string(rec.Data), Deleted: rec.Data == nil, DataTID: rec.DataTID}
		if rec.OpenBlob != nil {
			blob, err := readBlob(rec.OpenBlob(ctx))
			if err != nil {
				return lt, fmt.Errorf("blob of %v: %w", rec.OID, err)
			}
			lr.HasBlob, lr.Blob = true, string(blob)
		}
		lt.Records = append(lt.Records, lr)
	}
	return lt, nil
}

// readBlob reads and closes what an OpenBlob function returned.
func readBlob(r io.ReadCloser, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r)
	return data, errors.Join(err, r.Close())
}

// Dump returns the whole log of s as text, one line for each transaction and each
// record, for failure messages and golden files.
func Dump(s raidstorage.Storage) (string, error) {
	log, err := Log(context.Background(), s)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, txn := range log {
		fmt.Fprintf(&b, "%v %q user %q description %q extension %q\n",
			txn.TID, txn.Status, txn.User, txn.Description, txn.Extension)
		for _, rec := range txn.Records {
			fmt.Fprintf(&b, "  %v\n", rec)
		}
	}
	return b.String(), nil
}

// Commit stores objects, by oid, over their current revisions in one transaction
// and returns its tid. It fails the test on any error, a conflict with another
// writer included, and must be called from the test's goroutine.
func Commit(t testing.TB, s raidstorage.Storage, objects map[raidstorage.OID]string) raidstorage.TID {
	t.Helper()
	return Transact(t, s, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
		return stage(t.Context(), s, txn, objects)
	})
}

// Transact commits what fill stages, as one transaction with the given metadata,
// and returns its tid. It fails the test on any error and must be called from the
// test's goroutine.
func Transact(t testing.TB, s raidstorage.Storage, meta raidstorage.Meta, fill func(raidstorage.Txn) error) raidstorage.TID {
	t.Helper()
	tid, err := transact(t.Context(), s, meta, fill)
	if err != nil {
		t.Fatalf("commit to %s: %v", s.Name(), err)
	}
	return tid
}

// transact commits what fill stages. It may be called from any goroutine.
func transact(ctx context.Context, s raidstorage.Storage, meta raidstorage.Meta, fill func(raidstorage.Txn) error) (raidstorage.TID, error) {
	txn, err := s.Begin(ctx, meta)
	if err != nil {
		return 0, fmt.Errorf("begin: %w", err)
	}
	defer func() { _ = txn.Abort(context.WithoutCancel(ctx)) }() // without effect after Finish
	if err := fill(txn); err != nil {
		return 0, fmt.Errorf("stage: %w", err)
	}
	if _, err := txn.Vote(ctx); err != nil {
		return 0, fmt.Errorf("vote: %w", err)
	}
	tid, err := txn.Finish(ctx)
	if err != nil {
		return 0, fmt.Errorf("finish: %w", err)
	}
	return tid, nil
}

// stage stores objects over their current revisions, in oid order.
func stage(ctx context.Context, s raidstorage.Storage, txn raidstorage.Txn, objects map[raidstorage.OID]string) error {
	for _, oid := range slices.Sorted(maps.Keys(objects)) {
		rev, err := s.LoadBefore(ctx, oid, raidstorage.MaxTID)
		if _, unknown := errors.AsType[*raidstorage.NotFoundError](err); err != nil && !unknown {
			return err
		}
		if err := txn.Store(ctx, oid, rev.Serial, []byte(objects[oid])); err != nil {
			return err
		}
	}
	return nil
}
