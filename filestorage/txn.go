package filestorage

import (
	"context"
	"fmt"

	"github.com/zeoraid/raidstorage"
)

// spillAfter is how many bytes of data a transaction keeps in memory; the data of
// later changes go to a temporary file until the vote.
const spillAfter = 32 << 20

// txn implements raidstorage.UndoTxn and raidstorage.FinishStarter. Only the caller that owns it uses it; Close
// of the storage ends it by refusing all later calls.
type txn struct {
	s        *Storage
	meta     raidstorage.Meta
	chosen   bool // whether the caller chose the tid
	state    txnState
	changes  []change
	inMemory int64
	spill    *spill
	blobs    []*stagedBlob
	pending  *pending // what the vote wrote
}

var _ raidstorage.UndoTxn = (*txn)(nil)

type txnState int

const (
	stateOpen txnState = iota
	stateVoted
	stateEnded
)

func (st txnState) String() string {
	switch st {
	case stateOpen:
		return "not voted"
	case stateVoted:
		return "voted"
	}
	return "ended"
}

type changeKind int

const (
	kindStore changeKind = iota
	kindDelete
	kindCheck
	kindRestore
	kindUndo
)

// change is one staged call.
type change struct {
	kind changeKind
	oid  raidstorage.OID
	tid  raidstorage.TID // the serial that was read, the DataTID of a restored record, the tid to undo
	blob *stagedBlob     // nil if there is none
	payload
}

// payload is a record's data: in memory, or in the transaction's spill file.
type payload struct {
	data []byte
	size int64
	at   int64 // in the spill file, if data is nil and size is not 0
}

// Begin implements raidstorage.Storage.
func (s *Storage) Begin(ctx context.Context, meta raidstorage.Meta) (raidstorage.Txn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if meta.Status == 0 {
		meta.Status = raidstorage.StatusNormal
	}
	if reason := metaFault(&meta); reason != "" {
		return nil, &raidstorage.InvalidError{Op: "begin", Reason: reason}
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.writableLocked(); err != nil {
		return nil, err
	}
	t := &txn{s: s, meta: meta, chosen: meta.TID != 0}
	if s.blobs != nil {
		return blobTxn{t}, nil
	}
	return t, nil
}

func metaFault(meta *raidstorage.Meta) string {
	switch {
	case len(meta.User) > raidstorage.MaxMetaBytes:
		return "the user name is too long"
	case len(meta.Description) > raidstorage.MaxMetaBytes:
		return "the description is too long"
	case len(meta.Extension) > raidstorage.MaxMetaBytes:
		return "the extension is too long"
	case meta.Status != raidstorage.StatusNormal && meta.Status != raidstorage.StatusPacked:
		return fmt.Sprintf("unknown status %q", byte(meta.Status))
	}
	return ""
}

// Store implements raidstorage.Txn.
func (t *txn) Store(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID, data []byte) error {
	if len(data) == 0 {
		return &raidstorage.InvalidError{Op: "store", Reason: "there is no data"}
	}
	return t.stage(ctx, "store", change{kind: kindStore, oid: oid, tid: serial}, data)
}

// Delete implements raidstorage.Txn.
func (t *txn) Delete(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID) error {
	return t.stage(ctx, "delete", change{kind: kindDelete, oid: oid, tid: serial}, nil)
}

// CheckCurrent implements raidstorage.Txn.
func (t *txn) CheckCurrent(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID) error {
	return t.stage(ctx, "check current", change{kind: kindCheck, oid: oid, tid: serial}, nil)
}

// Undo implements raidstorage.UndoTxn.
func (t *txn) Undo(ctx context.Context, tid raidstorage.TID) error {
	return t.stage(ctx, "undo", change{kind: kindUndo, tid: tid}, nil)
}

// Restore implements raidstorage.Txn.
func (t *txn) Restore(ctx context.Context, record raidstorage.Record) error {
	switch {
	case t.state != stateOpen:
		return &raidstorage.TxnStateError{Op: "restore", State: t.state.String()}
	case record.OpenBlob != nil && t.s.blobs == nil:
		return &raidstorage.UnsupportedError{Storage: t.s.path, Capability: "BlobTxn"}
	case !t.chosen || record.TID != t.meta.TID:
		return &raidstorage.InvalidError{Op: "restore", Reason: "the record is not of the transaction that was begun"}
	case record.Data != nil && len(record.Data) == 0:
		return &raidstorage.InvalidError{Op: "restore", Reason: "there is no data"}
	}
	c := change{kind: kindRestore, oid: record.OID, tid: record.DataTID}
	if record.OpenBlob != nil {
		return t.restoreBlob(ctx, c, &record)
	}
	return t.stage(ctx, "restore", c, record.Data)
}

// stage keeps a change for the vote.
func (t *txn) stage(ctx context.Context, op string, c change, data []byte) error {
	if t.state != stateOpen {
		return &raidstorage.TxnStateError{Op: op, State: t.state.String()}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := t.s.enter(); err != nil {
		return err
	}
	defer t.s.calls.Done()
	c.size = int64(len(data))
	if t.inMemory+c.size <= spillAfter {
		c.data = data
		t.inMemory += c.size
	} else if err := t.spillOver(&c, data); err != nil {
		return err
	}
	t.changes = append(t.changes, c)
	return nil
}

// spillOver writes data to the spill file. A failure leaves the change unstaged,
// and the data file is untouched.
func (t *txn) spillOver(c *change, data []byte) error {
	if t.spill == nil {
		sp, err := newSpill(t.s.path)
		if err != nil {
			return t.s.ioError("stage", err)
		}
		t.s.mu.Lock()
		t.s.spills[sp] = struct{}{}
		t.s.mu.Unlock()
		t.spill = sp
	}
	var err error
	if c.at, err = t.spill.add(data); err != nil {
		return t.s.ioError("stage", err)
	}
	return nil
}

// bytes returns p's data, read if it was spilled.
func (t *txn) bytes(p payload) ([]byte, error) {
	if p.data != nil || p.size == 0 {
		return p.data, nil
	}
	data := make([]byte, p.size)
	if err := readFull(t.spill.f, data, p.at); err != nil {
		return nil, t.s.ioError("read staged data", err)
	}
	return data, nil
}

// Abort implements raidstorage.Txn. Like Finish it waits for the disk only.
func (t *txn) Abort(context.Context) error {
	if t.state == stateEnded {
		return nil
	}
	if err := t.s.enter(); err != nil {
		t.state = stateEnded // Close has aborted it
		return nil
	}
	defer t.s.calls.Done()
	defer t.end()
	if t.state != stateVoted {
		return nil
	}
	t.pending.awaitEarly()
	return t.s.rollBack()
}

// end gives back what the transaction holds. The call that it is part of has begun
// with enter.
func (t *txn) end() {
	if t.state == stateVoted {
		t.pending.removeInstalled() // before another with the same tid can vote
		t.s.mu.Lock()
		t.s.voted = nil
		t.s.mu.Unlock()
		<-t.s.commit
	}
	t.state = stateEnded
	t.changes, t.pending = nil, nil
	t.dropBlobs()
	if t.spill != nil {
		t.s.mu.Lock()
		delete(t.s.spills, t.spill)
		t.s.mu.Unlock()
		_ = t.spill.close() // it has no name and nobody needs its bytes any more
		t.spill = nil
	}
}
