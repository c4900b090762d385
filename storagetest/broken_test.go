package storagetest_test

import (
	"context"
	"io"
	"iter"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// fullTxn is a transaction of memstorage.
type fullTxn interface {
	raidstorage.UndoTxn
	raidstorage.BlobTxn
}

// broken is a memory storage with one method replaced; nil fields are whole.
type broken struct {
	*memstorage.Storage
	load     func(s *broken, ctx context.Context, oid raidstorage.OID, before raidstorage.TID) (raidstorage.Revision, error)
	newOIDs  func(s *broken, ctx context.Context, n int) ([]raidstorage.OID, error)
	iterate  func(s *broken, ctx context.Context, from, through raidstorage.TID) iter.Seq2[*raidstorage.Transaction, error]
	begin    func(meta raidstorage.Meta) raidstorage.Meta
	txn      func(s *broken, txn *brokenTxn)
	close    func(s *broken) error
	truncate func(s *broken, ctx context.Context, tid, last raidstorage.TID) error
	undoLog  func(s *broken, ctx context.Context, skip, limit int, match func(raidstorage.TxnInfo) bool) ([]raidstorage.TxnInfo, error)
	pack     func(s *broken, ctx context.Context, opts raidstorage.PackOptions) error
	blob     func(io.ReadCloser) io.ReadCloser
	notify   func(raidstorage.Invalidation) raidstorage.Invalidation
	lacks    reflect.Type

	mu     sync.Mutex // guards the fields below, which some mutations use
	early  map[raidstorage.OID][]byte
	lastID raidstorage.OID
}

func (b *broken) Supports(capability reflect.Type) bool { return capability != b.lacks }

func (b *broken) LoadBefore(ctx context.Context, oid raidstorage.OID, before raidstorage.TID) (raidstorage.Revision, error) {
	if b.load != nil {
		return b.load(b, ctx, oid, before)
	}
	return b.Storage.LoadBefore(ctx, oid, before)
}

func (b *broken) NewOIDs(ctx context.Context, n int) ([]raidstorage.OID, error) {
	if b.newOIDs != nil {
		return b.newOIDs(b, ctx, n)
	}
	return b.Storage.NewOIDs(ctx, n)
}

func (b *broken) Iterate(ctx context.Context, from, through raidstorage.TID) iter.Seq2[*raidstorage.Transaction, error] {
	if b.iterate != nil {
		return b.iterate(b, ctx, from, through)
	}
	return b.Storage.Iterate(ctx, from, through)
}

func (b *broken) Close() error {
	if b.close != nil {
		return b.close(b)
	}
	return b.Storage.Close()
}

func (b *broken) TruncateAfter(ctx context.Context, tid, last raidstorage.TID) error {
	if b.truncate != nil {
		return b.truncate(b, ctx, tid, last)
	}
	return b.Storage.TruncateAfter(ctx, tid, last)
}

func (b *broken) UndoLog(ctx context.Context, skip, limit int, match func(raidstorage.TxnInfo) bool) ([]raidstorage.TxnInfo, error) {
	if b.undoLog != nil {
		return b.undoLog(b, ctx, skip, limit, match)
	}
	return b.Storage.UndoLog(ctx, skip, limit, match)
}

func (b *broken) Pack(ctx context.Context, opts raidstorage.PackOptions) error {
	if b.pack != nil {
		return b.pack(b, ctx, opts)
	}
	return b.Storage.Pack(ctx, opts)
}

func (b *broken) OpenBlob(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID) (io.ReadCloser, error) {
	blob, err := b.Storage.OpenBlob(ctx, oid, serial)
	if err == nil && b.blob != nil {
		blob = b.blob(blob)
	}
	return blob, err
}

func (b *broken) Subscribe(notify func(raidstorage.Invalidation)) func() {
	return b.Storage.Subscribe(func(inv raidstorage.Invalidation) {
		if b.notify != nil {
			inv = b.notify(inv)
		}
		notify(inv)
	})
}

func (b *broken) Begin(ctx context.Context, meta raidstorage.Meta) (raidstorage.Txn, error) {
	if b.begin != nil {
		meta = b.begin(meta)
	}
	txn, err := b.Storage.Begin(ctx, meta)
	if err != nil {
		return nil, err
	}
	bt := &brokenTxn{fullTxn: txn.(fullTxn), meta: meta}
	if b.txn != nil {
		b.txn(b, bt)
	}
	return bt, nil
}

// brokenTxn is a transaction with methods replaced.
type brokenTxn struct {
	fullTxn
	meta    raidstorage.Meta
	voted   raidstorage.Vote
	store   func(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID, data []byte) error
	check   func(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID) error
	restore func(ctx context.Context, rec raidstorage.Record) error
	vote    func(ctx context.Context) (raidstorage.Vote, error)
	finish  func(ctx context.Context) (raidstorage.TID, error)
	abort   func(ctx context.Context) error
}

func (t *brokenTxn) Store(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID, data []byte) error {
	if t.store != nil {
		return t.store(ctx, oid, serial, data)
	}
	return t.fullTxn.Store(ctx, oid, serial, data)
}

func (t *brokenTxn) CheckCurrent(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID) error {
	if t.check != nil {
		return t.check(ctx, oid, serial)
	}
	return t.fullTxn.CheckCurrent(ctx, oid, serial)
}

func (t *brokenTxn) Restore(ctx context.Context, rec raidstorage.Record) error {
	if t.restore != nil {
		return t.restore(ctx, rec)
	}
	return t.fullTxn.Restore(ctx, rec)
}

func (t *brokenTxn) Vote(ctx context.Context) (raidstorage.Vote, error) {
	vote := t.fullTxn.Vote
	if t.vote != nil {
		vote = t.vote
	}
	var err error
	t.voted, err = vote(ctx)
	return t.voted, err
}

func (t *brokenTxn) Finish(ctx context.Context) (raidstorage.TID, error) {
	if t.finish != nil {
		return t.finish(ctx)
	}
	return t.fullTxn.Finish(ctx)
}

func (t *brokenTxn) Abort(ctx context.Context) error {
	if t.abort != nil {
		return t.abort(ctx)
	}
	return t.fullTxn.Abort(ctx)
}

// brokenFixture opens storages with a defect. They need not outlive a close, but
// for the cases about it.
func brokenFixture(defect func() *broken, timeout time.Duration) storagetest.Fixture {
	wrap := func(s *memstorage.Storage) *broken {
		b := defect()
		b.Storage = s
		b.early = map[raidstorage.OID][]byte{}
		return b
	}
	another := func(s raidstorage.Storage) *broken { return wrap(s.(*broken).Another("again")) }
	return storagetest.Fixture{
		Open: func(testing.TB) raidstorage.Storage { return wrap(memstorage.New("broken")) },
		Reopen: func(t testing.TB, s raidstorage.Storage) raidstorage.Storage {
			if err := s.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
			return another(s)
		},
		Second:       func(_ testing.TB, s raidstorage.Storage) raidstorage.Storage { return another(s) },
		Capabilities: storagetest.All,
		Timeout:      timeout,
	}
}
