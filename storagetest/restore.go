package storagetest

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"slices"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
)

func restoreRules() []rule {
	return subject("restore", needs{},
		rule{name: "a copied log is identical", run: func(e *env) {
			e.restoreSample()
			want := e.log(e.s)
			if diff := gocmp.Diff(sampleLog(), want); diff != "" {
				e.Fatalf("the restored log differs (-want +got):\n%s", diff)
			}
			target := e.open()
			e.must("copy", copyLog(e.ctx, target, e.s, 0))
			if diff := gocmp.Diff(want, e.log(target)); diff != "" {
				e.Errorf("the copy differs (-want +got):\n%s", diff)
			}
		}},
		rule{name: "a log can be copied piece by piece", run: func(e *env) {
			target := e.open()
			var last raidstorage.TID
			for i := range 5 {
				e.commit(map[raidstorage.OID]string{1: string(rune('a' + i)), raidstorage.OID(i + 2): "x"})
				e.must("copy", copyLog(e.ctx, target, e.s, last+1))
				last = e.lastTID()
				if diff := gocmp.Diff(e.log(e.s), e.log(target)); diff != "" {
					e.Fatalf("the copy differs (-want +got):\n%s", diff)
				}
			}
		}},
		rule{name: "restored objects are loadable", run: func(e *env) {
			e.restoreSample()
			e.wantLoad(1, testTID(1)+1, "a1", testTID(1), testTID(2))
			e.wantLoad(1, testTID(2)+1, "a2", testTID(2), testTID(3))
			e.wantLoad(1, raidstorage.MaxTID, "a1", testTID(3), 0)
			e.wantLoad(2, testTID(4), "b1", testTID(1), testTID(4))
			e.wantNotFound(2, raidstorage.MaxTID)
			e.wantLoad(3, raidstorage.MaxTID, "c4", testTID(4), 0)
			e.wantNotFound(4, raidstorage.MaxTID)
			e.wantLast(testTID(5))
		}},
		rule{name: "restored objects can be changed", run: func(e *env) {
			e.restoreSample()
			tid := e.commit(map[raidstorage.OID]string{1: "a6", 3: "c6"})
			e.wantLoad(1, raidstorage.MaxTID, "a6", tid, 0)
			e.wantLoad(1, tid, "a1", testTID(3), tid)
			e.wantLoad(3, tid, "c4", testTID(4), tid)
		}},
		rule{name: "restore checks for no conflicts", run: func(e *env) {
			e.restore(testTID(1), raidstorage.Record{OID: 1, Data: []byte("a")})
			e.restore(testTID(2), raidstorage.Record{OID: 1, Data: []byte("b")}, raidstorage.Record{OID: 2})
			e.wantLoad(1, raidstorage.MaxTID, "b", testTID(2), 0)
		}},
		rule{name: "a data tid that does not fit is ignored", run: func(e *env) {
			e.restore(testTID(1), raidstorage.Record{OID: 1, Data: []byte("a")}, raidstorage.Record{OID: 2, Data: []byte("b")})
			e.restore(testTID(3), raidstorage.Record{OID: 1, Data: []byte("other"), DataTID: testTID(1)}) // other data
			e.restore(testTID(4), raidstorage.Record{OID: 2, Data: []byte("b"), DataTID: testTID(2)})     // no such transaction
			e.restore(testTID(5), raidstorage.Record{OID: 3, Data: []byte("b"), DataTID: testTID(1)})     // not of this object
			e.wantLoad(1, raidstorage.MaxTID, "other", testTID(3), 0)
			for _, txn := range e.logOf(4)[1:] {
				for _, rec := range txn.Records {
					if rec.DataTID != 0 || rec.Data == "" {
						e.Errorf("transaction %v has record %v, want data of its own", txn.TID, rec)
					}
				}
			}
		}},
		rule{name: "a record of another transaction is invalid", run: func(e *env) {
			for _, tid := range []raidstorage.TID{0, testTID(1), testTID(3)} {
				txn := e.begin(raidstorage.Meta{TID: testTID(2)})
				err := txn.Restore(e.ctx, raidstorage.Record{OID: 1, TID: tid, Data: []byte("x")})
				refused[*raidstorage.InvalidError](e, txn, err)
			}
			e.wantUntouched(0, 1)
		}},
		rule{name: "blobs are refused by a storage without them", needs: needs{lacks: BlobLoader}, run: func(e *env) {
			txn := e.begin(raidstorage.Meta{TID: testTID(1)})
			err := txn.Restore(e.ctx, raidstorage.Record{
				OID: 1, TID: testTID(1), Data: []byte("x"),
				OpenBlob: func(context.Context) (io.ReadCloser, error) {
					return io.NopCloser(bytes.NewReader([]byte("blob"))), nil
				},
			})
			refused[*raidstorage.UnsupportedError](e, txn, err)
		}},
	)
}

// restore commits records as transaction tid; their TID fields are filled in.
func (e *env) restore(tid raidstorage.TID, records ...raidstorage.Record) {
	e.Helper()
	e.transact(raidstorage.Meta{TID: tid}, func(txn raidstorage.Txn) error {
		for _, rec := range records {
			rec.TID = tid
			if err := txn.Restore(e.ctx, rec); err != nil {
				return err
			}
		}
		return nil
	})
}

// sampleLog has everything that a log can have but blobs: a packed transaction, an
// undone change, a deletion, an undone creation, an empty transaction, metadata.
func sampleLog() []LogTransaction {
	one, two, three, four, five := testTID(1), testTID(2), testTID(3), testTID(4), testTID(5)
	return []LogTransaction{
		{TID: one, Status: "p", User: "u", Description: "first", Records: []LogRecord{
			{OID: 1, TID: one, Data: "a1"}, {OID: 2, TID: one, Data: "b1"}}},
		{TID: two, Status: " ", Extension: "\x80\x03}.", Records: []LogRecord{
			{OID: 1, TID: two, Data: "a2"}, {OID: 4, TID: two, Data: "created"}}},
		{TID: three, Status: " ", Description: "undo", Records: []LogRecord{
			{OID: 1, TID: three, Data: "a1", DataTID: one}, {OID: 4, TID: three, Deleted: true}}},
		{TID: four, Status: " ", Records: []LogRecord{
			{OID: 2, TID: four, Deleted: true}, {OID: 3, TID: four, Data: "c4"}}},
		{TID: five, Status: " ", User: "nothing happened"},
	}
}

// restoreSample restores sampleLog.
func (e *env) restoreSample() {
	e.Helper()
	for _, lt := range sampleLog() {
		meta := raidstorage.Meta{
			TID: lt.TID, Status: raidstorage.TxnStatus(lt.Status[0]), User: []byte(lt.User),
			Description: []byte(lt.Description), Extension: []byte(lt.Extension),
		}
		e.transact(meta, func(txn raidstorage.Txn) error {
			for _, lr := range lt.Records {
				rec := raidstorage.Record{OID: lr.OID, TID: lr.TID, DataTID: lr.DataTID}
				if !lr.Deleted {
					rec.Data = []byte(lr.Data)
				}
				if err := txn.Restore(e.ctx, rec); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// copyLog restores the transactions of src from tid from on to dst.
func copyLog(ctx context.Context, dst, src raidstorage.Storage, from raidstorage.TID) error {
	for t, err := range src.Iterate(ctx, from, raidstorage.MaxTID) {
		if err != nil {
			return err
		}
		_, err := transact(ctx, dst, t.Meta, func(txn raidstorage.Txn) error {
			for rec, err := range t.Records {
				if err != nil {
					return err
				}
				if err := txn.Restore(ctx, rec); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// sortedRecords sorts the records of each transaction by oid: their order in the
// log is the storage's choice, unless they were restored.
func sortedRecords(log []LogTransaction) []LogTransaction {
	for _, txn := range log {
		slices.SortFunc(txn.Records, func(a, b LogRecord) int { return cmp.Compare(a.OID, b.OID) })
	}
	return log
}
