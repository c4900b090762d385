package memstorage

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/zeoraid/raidstorage"
)

// kind says how a staged record came about.
type kind byte

const (
	kindStore kind = iota
	kindDelete
	kindRestore
	kindUndo   // not a record, but the request to undo transaction tid
	kindUndone // made by an undo
)

type txnState byte

const (
	stateOpen txnState = iota
	stateVoted
	stateEnded
)

// txn is a transaction under way. The log entry and the place of a first record
// are parts of it, so that a small commit is one allocation.
type txn struct {
	transaction // records are the staged ones, in order, until Vote
	first       [1]record

	h       *handle
	state   txnState
	dirty   bool // Vote cannot take the staged records as they are
	checks  []check
	changed []raidstorage.OID
	fresh   int // how many records are of objects that were unknown at Vote
}

// check is a request that oid's serial be current.
type check struct {
	oid    raidstorage.OID
	serial raidstorage.TID
}

// Begin implements raidstorage.Storage. It copies meta's slices. Its transactions
// implement raidstorage.UndoTxn and raidstorage.BlobTxn; they keep the data slices
// that they are given for ever, see Storage.
func (s *Storage) Begin(ctx context.Context, meta raidstorage.Meta) (raidstorage.Txn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	h := s.handle()
	if h.closed.Load() {
		return nil, raidstorage.ErrClosed
	}
	if err := validate(&meta); err != nil {
		return nil, err
	}
	t := &txn{h: h}
	t.Meta = meta
	if n := len(meta.User) + len(meta.Description) + len(meta.Extension); n > 0 {
		own := make([]byte, 0, n)
		for _, field := range []*[]byte{&t.User, &t.Description, &t.Extension} {
			start := len(own)
			own = append(own, *field...)
			*field = own[start:len(own):len(own)]
		}
	}
	t.records = t.first[:0]
	return t, nil
}

// validate checks meta and sets the default status.
func validate(meta *raidstorage.Meta) error {
	reason := ""
	switch {
	case len(meta.User) > raidstorage.MaxMetaBytes:
		reason = fmt.Sprintf("a user of %d bytes", len(meta.User))
	case len(meta.Description) > raidstorage.MaxMetaBytes:
		reason = fmt.Sprintf("a description of %d bytes", len(meta.Description))
	case len(meta.Extension) > raidstorage.MaxMetaBytes:
		reason = fmt.Sprintf("an extension of %d bytes", len(meta.Extension))
	case meta.TID >= raidstorage.MaxTID:
		reason = fmt.Sprintf("tid %v", meta.TID)
	}
	switch meta.Status {
	case 0:
		meta.Status = raidstorage.StatusNormal
	case raidstorage.StatusNormal, raidstorage.StatusPacked:
	default:
		reason = fmt.Sprintf("status %q", byte(meta.Status))
	}
	if reason != "" {
		return &raidstorage.InvalidError{Op: "begin", Reason: reason}
	}
	return nil
}

// usable tells whether changes may still be staged.
func (t *txn) usable(ctx context.Context, op string) error {
	switch {
	case t.state == stateVoted && !t.h.closed.Load():
		return &raidstorage.TxnStateError{Op: op, State: "voted"}
	case t.state == stateEnded:
		return &raidstorage.TxnStateError{Op: op, State: "ended"}
	case t.h.closed.Load():
		return raidstorage.ErrClosed
	}
	return ctx.Err()
}

// stage appends a record. The first one is in t itself; then a block of several.
func (t *txn) stage(rec record) {
	if n := len(t.records); n > 0 {
		t.dirty = t.dirty || rec.oid <= t.records[n-1].oid // perhaps the same oid again
		if n == 1 {
			t.records = slices.Grow(t.records, 15)
		}
	}
	t.records = append(t.records, rec)
}

// Store implements raidstorage.Txn. It keeps data for ever.
func (t *txn) Store(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID, data []byte) error {
	return t.store(ctx, "store", oid, serial, data, nil)
}

// StoreBlob implements raidstorage.BlobTxn. It keeps data for ever. The blob is
// held in memory.
func (t *txn) StoreBlob(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID, data []byte, blob io.Reader) error {
	if err := t.usable(ctx, "store blob"); err != nil {
		return err
	}
	content, err := readBlob(ctx, blob)
	if err != nil {
		return fmt.Errorf("read the blob of object %v: %w", oid, err)
	}
	return t.store(ctx, "store blob", oid, serial, data, content)
}

func (t *txn) store(ctx context.Context, op string, oid raidstorage.OID, serial raidstorage.TID, data []byte, blob *[]byte) error {
	if err := t.usable(ctx, op); err != nil {
		return err
	}
	if len(data) == 0 {
		return &raidstorage.InvalidError{Op: op, Reason: fmt.Sprintf("no data for object %v", oid)}
	}
	t.stage(record{oid: oid, tid: serial, data: data, blob: blob})
	return nil
}

// Delete implements raidstorage.Txn.
func (t *txn) Delete(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID) error {
	if err := t.usable(ctx, "delete"); err != nil {
		return err
	}
	t.stage(record{oid: oid, tid: serial, kind: kindDelete})
	return nil
}

// CheckCurrent implements raidstorage.Txn.
func (t *txn) CheckCurrent(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID) error {
	if err := t.usable(ctx, "check current"); err != nil {
		return err
	}
	t.checks = append(t.checks, check{oid, serial})
	return nil
}

// Restore implements raidstorage.Txn. It keeps record.Data for ever.
func (t *txn) Restore(ctx context.Context, rec raidstorage.Record) error {
	if err := t.usable(ctx, "restore"); err != nil {
		return err
	}
	if rec.TID != t.TID || rec.TID == 0 {
		return &raidstorage.InvalidError{Op: "restore",
			Reason: fmt.Sprintf("a record of transaction %v in transaction %v", rec.TID, t.TID)}
	}
	staged := record{oid: rec.OID, tid: rec.TID, dataTID: rec.DataTID, kind: kindRestore}
	if len(rec.Data) > 0 {
		staged.data = rec.Data
	}
	if rec.OpenBlob != nil {
		blob, err := rec.OpenBlob(ctx)
		if err != nil {
			return fmt.Errorf("open the blob of object %v: %w", rec.OID, err)
		}
		staged.blob, err = readBlob(ctx, blob)
		if closeErr := blob.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			return fmt.Errorf("read the blob of object %v: %w", rec.OID, err)
		}
	}
	t.stage(staged)
	return nil
}

// Undo implements raidstorage.UndoTxn.
func (t *txn) Undo(ctx context.Context, tid raidstorage.TID) error {
	if err := t.usable(ctx, "undo"); err != nil {
		return err
	}
	t.stage(record{tid: tid, kind: kindUndo})
	t.dirty = true
	return nil
}

// StartFinish implements raidstorage.FinishStarter: there is nothing to wait for.
func (t *txn) StartFinish(ctx context.Context) (wait func(context.Context) error, err error) {
	if _, err := t.Finish(ctx); err != nil {
		return nil, err
	}
	return func(context.Context) error { return nil }, nil
}

// Finish implements raidstorage.Txn. It does not wait, so ctx is not looked at.
func (t *txn) Finish(context.Context) (raidstorage.TID, error) {
	switch t.state {
	case stateOpen:
		return 0, &raidstorage.TxnStateError{Op: "finish", State: "not voted"}
	case stateEnded:
		return 0, &raidstorage.TxnStateError{Op: "finish", State: "ended"}
	}
	t.state = stateEnded
	db := t.h.db
	db.mu.Lock()
	if db.voted != t { // only Close takes the lock away from a voted transaction
		db.mu.Unlock()
		return 0, raidstorage.ErrClosed
	}
	db.voted = nil
	db.apply(t)
	db.mu.Unlock()
	// Still under the commit lock, so that subscribers are told in tid order.
	db.notify(t)
	<-db.commit
	t.changed, t.checks = nil, nil // the log keeps t for its transaction
	return t.TID, nil
}

// apply makes a voted transaction visible. The caller holds mu.
func (db *database) apply(t *txn) {
	var fresh []object // one allocation for all new objects
	if t.fresh > 0 {
		fresh = make([]object, t.fresh)
	}
	for i := range t.records {
		rec := &t.records[i]
		obj := db.objects[rec.oid]
		if obj == nil {
			if len(fresh) == 0 {
				fresh = make([]object, 1)
			}
			obj, fresh = &fresh[0], fresh[1:]
			obj.revs = obj.first[:0]
			db.objects[rec.oid] = obj
		} else if obj.revs[len(obj.revs)-1].data != nil {
			db.live--
		}
		if rec.data != nil {
			db.live++
		}
		obj.revs = append(obj.revs, rec)
		db.lastOID = max(db.lastOID, rec.oid)
	}
	db.log = append(db.log, &t.transaction)
	db.last = t.TID
	t.bytes = t.size()
	db.bytes += t.bytes
}

// Abort implements raidstorage.Txn. It returns nil.
func (t *txn) Abort(context.Context) error {
	if t.state == stateVoted {
		db := t.h.db
		db.mu.Lock()
		if db.voted == t {
			db.voted = nil
			<-db.commit
		}
		db.mu.Unlock()
	}
	if t.state != stateEnded {
		t.end()
	}
	return nil
}

// end drops what a transaction without effect holds.
func (t *txn) end() {
	t.state = stateEnded
	t.records, t.checks, t.changed = nil, nil, nil
	t.first[0] = record{}
}

// Sizes as a FileStorage would have them, so that sizes of backends compare.
const (
	txnOverhead    = 23 + 8
	recordOverhead = 42
	pointerBytes   = 8
)

// size returns the bytes that the transaction would take in a file.
func (t *transaction) size() int64 {
	n := txnOverhead + len(t.User) + len(t.Description) + len(t.Extension)
	for i := range t.records {
		n += recordOverhead + pointerBytes
		if rec := &t.records[i]; rec.data != nil && rec.dataTID == 0 {
			n += len(rec.data) - pointerBytes
		}
	}
	return int64(n)
}

// ctxReader ends a read when ctx ends.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (r ctxReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

func readBlob(ctx context.Context, r io.Reader) (*[]byte, error) {
	content, err := io.ReadAll(ctxReader{ctx, r})
	return &content, err
}

func openBlob(content *[]byte) io.ReadCloser { return io.NopCloser(bytes.NewReader(*content)) }
