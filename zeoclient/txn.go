package zeoclient

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"os"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// A transaction is collected here, and the server hears of it when it votes: as a
// connection has one transaction at a time, and the server checks nothing before,
// this costs nothing and lets any number be open.

type opKind int

const (
	opStore opKind = iota
	opDelete
	opCheck
	opRestore
	opUndo
)

// op is a staged change.
type op struct {
	kind    opKind
	oid     raidstorage.OID
	tid     raidstorage.TID // serial, or the transaction to undo
	data    []byte
	dataTID raidstorage.TID
	blob    *os.File // read from its beginning; nil: none
	// current says that the serial is the one that the server has when we vote: a
	// restored record with a blob, for which the protocol has no other form.
	current bool
	dropped bool // changed again by a later op
}

type txnState int

const (
	stateOpen txnState = iota
	stateVoted
	stateEnded
)

// txn implements raidstorage.Txn, UndoTxn and BlobTxn, see begin.
type txn struct {
	s         *Storage
	meta      raidstorage.Meta
	extension zeowire.Value
	ops       []op
	changes   map[raidstorage.OID]int // the last change of each oid, an index of ops
	state     txnState

	// From the vote on:
	c     *conn
	id    int64 // names the transaction on its connection
	undid bool
	also  []raidstorage.OID // oids that undone transactions changed
}

// The types with fewer methods, for servers that can do less.
type (
	plainTxn struct{ raidstorage.FinishSender }
	undoTxn  struct {
		raidstorage.FinishSender
		undoer
	}
	blobTxn struct {
		raidstorage.FinishSender
		blobStorer
	}
	undoer interface {
		Undo(ctx context.Context, tid raidstorage.TID) error
	}
	blobStorer interface {
		StoreBlob(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID, data []byte, blob io.Reader) error
	}
)

var (
	_ raidstorage.UndoTxn      = (*txn)(nil)
	_ raidstorage.BlobTxn      = (*txn)(nil)
	_ raidstorage.FinishSender = (*txn)(nil)
)

// Begin implements raidstorage.Storage. Nothing is sent before the vote. An Extension
// that is not a pickled dict of plain values is a *raidstorage.InvalidError: the
// protocol has no place for it.
func (s *Storage) Begin(ctx context.Context, meta raidstorage.Meta) (raidstorage.Txn, error) {
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	defer s.calls.Done()
	if s.ReadOnly() {
		return nil, &raidstorage.ReadOnlyError{Storage: s.opts.Name}
	}
	if err := checkMeta(meta); err != nil {
		return nil, err
	}
	extension, err := wireExtension(meta.Extension)
	if err != nil {
		return nil, err
	}
	if meta.Status == 0 {
		meta.Status = raidstorage.StatusNormal
	}
	t := &txn{s: s, meta: meta, extension: extension, changes: map[raidstorage.OID]int{}}
	switch can := s.capabilities(); {
	case can.undo && can.blobs:
		return t, nil
	case can.undo:
		return undoTxn{t, t}, nil
	case can.blobs:
		return blobTxn{t, t}, nil
	}
	return plainTxn{t}, nil
}

func checkMeta(meta raidstorage.Meta) error {
	for name, field := range map[string][]byte{"user": meta.User, "description": meta.Description, "extension": meta.Extension} {
		if len(field) > raidstorage.MaxMetaBytes {
			return &raidstorage.InvalidError{Op: "begin", Reason: fmt.Sprintf("%s of %d bytes", name, len(field))}
		}
	}
	switch meta.Status {
	case 0, raidstorage.StatusNormal, raidstorage.StatusPacked:
		return nil
	}
	return &raidstorage.InvalidError{Op: "begin", Reason: fmt.Sprintf("unknown status %q", byte(meta.Status))}
}

// staging tells whether a change may be staged.
func (t *txn) staging(ctx context.Context, op string) error {
	switch {
	case t.state == stateVoted:
		return &raidstorage.TxnStateError{Op: op, State: "voted"}
	case t.state == stateEnded:
		return &raidstorage.TxnStateError{Op: op, State: "ended"}
	case t.s.over():
		return raidstorage.ErrClosed
	}
	return ctx.Err()
}

// over tells whether the storage is closed.
func (s *Storage) over() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

// change stages a change of an object, in place of an earlier one.
func (t *txn) change(o op) {
	if i, twice := t.changes[o.oid]; twice {
		earlier := &t.ops[i]
		earlier.dropped, earlier.data = true, nil
		t.closeBlob(earlier)
	}
	t.changes[o.oid] = len(t.ops)
	t.ops = append(t.ops, o)
}

// Store implements raidstorage.Txn.
func (t *txn) Store(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID, data []byte) error {
	return t.store(ctx, "store", oid, serial, data, nil)
}

func (t *txn) store(ctx context.Context, name string, oid raidstorage.OID, serial raidstorage.TID, data []byte, blob *os.File) error {
	if err := t.staging(ctx, name); err != nil {
		return err
	}
	if len(data) == 0 {
		return &raidstorage.InvalidError{Op: name, Reason: "no data"}
	}
	t.change(op{kind: opStore, oid: oid, tid: serial, data: data, blob: blob})
	return nil
}

// StoreBlob implements raidstorage.BlobTxn: the blob waits in a file for the vote.
func (t *txn) StoreBlob(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID, data []byte, blob io.Reader) error {
	if err := t.staging(ctx, "store blob"); err != nil {
		return err
	}
	file, err := t.keepBlob(ctx, oid, blob)
	if err != nil {
		return err
	}
	if err := t.store(ctx, "store blob", oid, serial, data, file); err != nil {
		t.s.dropBlob(file)
		return err
	}
	return nil
}

// Delete implements raidstorage.Txn.
func (t *txn) Delete(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID) error {
	if err := t.staging(ctx, "delete"); err != nil {
		return err
	}
	if !t.s.capabilities().erase {
		return &raidstorage.UnsupportedError{Storage: t.s.Name(), Capability: "Delete"}
	}
	t.change(op{kind: opDelete, oid: oid, tid: serial})
	return nil
}

// CheckCurrent implements raidstorage.Txn.
func (t *txn) CheckCurrent(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID) error {
	if err := t.staging(ctx, "check current"); err != nil {
		return err
	}
	t.ops = append(t.ops, op{kind: opCheck, oid: oid, tid: serial})
	return nil
}

// Restore implements raidstorage.Txn. The protocol cannot restore a blob: such a record
// is stored over the one that is current, under the tid of the transaction, which
// comes to the same.
func (t *txn) Restore(ctx context.Context, record raidstorage.Record) error {
	if err := t.staging(ctx, "restore"); err != nil {
		return err
	}
	if record.TID != t.meta.TID || record.TID == 0 {
		return &raidstorage.InvalidError{Op: "restore", Reason: fmt.Sprintf("a record of transaction %v in transaction %v", record.TID, t.meta.TID)}
	}
	o := op{kind: opRestore, oid: record.OID, tid: record.TID, data: record.Data, dataTID: record.DataTID}
	if record.OpenBlob != nil && record.Data != nil {
		if !t.s.capabilities().blobs {
			return &raidstorage.UnsupportedError{Storage: t.s.Name(), Capability: "BlobTxn"}
		}
		blob, err := record.OpenBlob(ctx)
		if err != nil {
			return err
		}
		o.blob, err = t.keepBlob(ctx, record.OID, blob)
		_ = blob.Close() // it was only read
		if err != nil {
			return err
		}
		o.kind, o.current = opStore, true
	}
	t.change(o)
	return nil
}

// Undo implements raidstorage.UndoTxn.
func (t *txn) Undo(ctx context.Context, tid raidstorage.TID) error {
	if err := t.staging(ctx, "undo"); err != nil {
		return err
	}
	t.undid = true
	t.ops = append(t.ops, op{kind: opUndo, tid: tid})
	return nil
}

// undoID is how the protocol names a transaction to undo.
func undoID(tid raidstorage.TID) []byte {
	b := tid.Bytes()
	return base64.StdEncoding.AppendEncode(nil, b[:])
}

// closeBlob drops an op's blob.
func (t *txn) closeBlob(o *op) {
	if o.blob != nil {
		t.s.dropBlob(o.blob)
		o.blob = nil
	}
}

// dropBlob closes a blob's file. It has no name any more, but in a shared directory, if
// the server has not taken it.
func (s *Storage) dropBlob(file *os.File) {
	if s.shared != nil {
		_ = os.Remove(file.Name()) // the name is of this transaction only
	}
	_ = file.Close()
}

// end drops what was staged.
func (t *txn) end() {
	t.state = stateEnded
	for i := range t.ops {
		t.closeBlob(&t.ops[i])
	}
	t.ops, t.changes = nil, nil
}
