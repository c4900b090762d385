package raidstorage

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"sync/atomic"
)

// The life of a mirrorTxn.
const (
	txnOpen int32 = iota
	txnVoted
	txnEnded
)

var txnStateNames = [...]string{"not voted", "voted", "ended"}

// mirrorTxn implements Txn, UndoTxn and BlobTxn.
type mirrorTxn struct {
	m        *Mirror
	meta     Meta
	explicit bool // the caller chose the tid
	log      opLog
	state    atomic.Int32 // txnOpen, txnVoted or txnEnded; Close may end a voted transaction that its owner forgot
	voters   []voter      // who voted; the transaction holds their commit locks and the slot
	// admission is the controller's, nil if no recovery was under way.
	admission *admission
}

// voter is a backend's transaction that has voted.
type voter struct {
	session *session
	txn     Txn
	vote    Vote
}

// sessions are the voters'.
func (t *mirrorTxn) sessions() []*session {
	sessions := make([]*session, len(t.voters))
	for i, v := range t.voters {
		sessions[i] = v.session
	}
	return sessions
}

var (
	_ UndoTxn = (*mirrorTxn)(nil)
	_ BlobTxn = (*mirrorTxn)(nil)
)

// Begin implements Storage.
func (m *Mirror) Begin(ctx context.Context, meta Meta) (Txn, error) {
	if m.view.Load().closed {
		return nil, ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := meta.check(); err != nil {
		return nil, err
	}
	if meta.Status == 0 {
		meta.Status = StatusNormal
	}
	meta.Deferred = false // an acknowledgement is a promise
	t := &mirrorTxn{m: m, meta: meta, explicit: meta.TID != 0}
	t.log.dir, t.log.limit = m.cfg.TempDir, m.cfg.SpoolBytes
	t.log.users.Store(1)
	return t, nil
}

// check returns an *InvalidError for metadata that no storage could keep.
func (m Meta) check() error {
	if len(m.User) > MaxMetaBytes || len(m.Description) > MaxMetaBytes || len(m.Extension) > MaxMetaBytes {
		return &InvalidError{Op: "begin", Reason: "user, description or extension is too long"}
	}
	if m.Status != 0 && m.Status != StatusNormal && m.Status != StatusPacked {
		return &InvalidError{Op: "begin", Reason: "unknown transaction status"}
	}
	if m.TID >= MaxTID {
		return &InvalidError{Op: "begin", Reason: "the tid is too great"}
	}
	return nil
}

// staging checks that a staging method may be called.
func (t *mirrorTxn) staging(ctx context.Context, op string) error {
	if state := t.state.Load(); state != txnOpen {
		return &TxnStateError{Op: op, State: txnStateNames[state]}
	}
	if t.m.ctx.Err() != nil {
		return ErrClosed
	}
	return ctx.Err()
}

// Store implements Txn.
func (t *mirrorTxn) Store(ctx context.Context, oid OID, serial TID, data []byte) error {
	if err := t.staging(ctx, "store"); err != nil {
		return err
	}
	if len(data) == 0 {
		return &InvalidError{Op: "store", Reason: "no data"}
	}
	return t.log.add(op{kind: opStore, oid: oid, serial: serial, data: data})
}

// Delete implements Txn.
func (t *mirrorTxn) Delete(ctx context.Context, oid OID, serial TID) error {
	if err := t.staging(ctx, "delete"); err != nil {
		return err
	}
	return t.log.add(op{kind: opDelete, oid: oid, serial: serial})
}

// CheckCurrent implements Txn.
func (t *mirrorTxn) CheckCurrent(ctx context.Context, oid OID, serial TID) error {
	if err := t.staging(ctx, "check current"); err != nil {
		return err
	}
	return t.log.add(op{kind: opCheck, oid: oid, serial: serial})
}

// Restore implements Txn.
func (t *mirrorTxn) Restore(ctx context.Context, r Record) error {
	if err := t.staging(ctx, "restore"); err != nil {
		return err
	}
	if r.TID != t.meta.TID || !t.explicit {
		return &InvalidError{Op: "restore", Reason: "the record's tid is not the transaction's"}
	}
	o := op{kind: opRestore, oid: r.OID, serial: r.TID, dataTID: r.DataTID, data: r.Data}
	if r.OpenBlob == nil {
		return t.log.add(o)
	}
	if err := supports[BlobLoader](t.m); err != nil {
		return err
	}
	blob, err := r.OpenBlob(ctx)
	if err != nil {
		return err
	}
	return errors.Join(t.log.addBlob(o, blob), blob.Close())
}

// StoreBlob implements BlobTxn: the blob waits in a temporary file, from which all
// backends read it.
func (t *mirrorTxn) StoreBlob(ctx context.Context, oid OID, serial TID, data []byte, blob io.Reader) error {
	if err := t.storingBlob(ctx, "store blob", data); err != nil {
		return err
	}
	return t.log.addBlob(op{kind: opBlob, oid: oid, serial: serial, data: data}, blob)
}

func (t *mirrorTxn) storingBlob(ctx context.Context, op string, data []byte) error {
	if err := t.staging(ctx, op); err != nil {
		return err
	}
	if len(data) == 0 {
		return &InvalidError{Op: op, Reason: "no data"}
	}
	return supports[BlobLoader](t.m)
}

// MoveBlob is StoreBlob with the file at path, which is not copied: all backends read it,
// wherever it is. Once MoveBlob has returned nil, the file belongs to the transaction and
// has no name any more; nobody may write to it. After an error it is where it was.
// *InvalidError if it is not a regular file. (ZODB: storeBlob.)
func (t *mirrorTxn) MoveBlob(ctx context.Context, oid OID, serial TID, data []byte, path string) error {
	if err := t.storingBlob(ctx, "move blob", data); err != nil {
		return err
	}
	spool, err := openBlobSpool(path)
	if err != nil {
		return err
	}
	if err := t.log.addSpool(op{kind: opBlob, oid: oid, serial: serial, data: data}, spool); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.m.cfg.Logger.Warn("the file of a blob was not removed", "path", path, "err", err)
	}
	return nil
}

// Undo implements UndoTxn. Each backend works out the same records from the same log.
func (t *mirrorTxn) Undo(ctx context.Context, tid TID) error {
	if err := t.staging(ctx, "undo"); err != nil {
		return err
	}
	if err := supports[Undoer](t.m); err != nil {
		return err
	}
	return t.log.add(op{kind: opUndo, serial: tid})
}
