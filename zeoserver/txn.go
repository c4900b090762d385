package zeoserver

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"sync"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// txnState is where a client's transaction is.
type txnState uint8

const (
	staging   txnState = iota // operations are collected
	voting                    // a goroutine waits for its turn, or votes
	resolving                 // the vote was answered with conflicts; the turn is kept
	voted                     // the storage's commit lock is held
	finishing
	ended
)

// txn is the transaction of a connection, from tpc_begin to its end. Nothing is
// checked before it votes.
type txn struct {
	c    *conn
	id   zeowire.Value // as the client calls it
	meta raidstorage.Meta
	log  opLog // the reader's while staging or resolving, else the goroutine's that votes or ends

	mu      sync.Mutex // guards the fields below
	state   txnState
	cancel  context.CancelFunc // of the vote under way
	done    chan struct{}      // closed when the last vote was answered
	before  chan struct{}      // once voted, closed when the transactions before it are published; may be nil
	awaited bool               // lastTransaction waits for done, or before
	timer   *time.Timer        // of the transaction timeout
	timers  int                // goes up when it is stopped: it may be about to fire
	settled bool

	// Of the goroutine that votes, then of the one that ends the transaction.
	votes   int
	tx      raidstorage.Txn // of the storage, once voted
	vote    raidstorage.Vote
	changed []raidstorage.OID
	ticket  *ticket
}

func (t *txn) is() txnState {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.state
}

// current returns the connection's transaction, nil if there is none any more.
func (c *conn) current() *txn {
	if c.txn != nil && c.txn.is() == ended {
		c.txn = nil
	}
	return c.txn
}

// check returns the transaction that a call names.
func (c *conn) check(id zeowire.Value) (*txn, error) {
	if c.readOnly {
		return nil, zeowire.ReadOnlyError()
	}
	t := c.current()
	if t == nil {
		return nil, zeowire.StorageTransactionError(zeowire.None(), id.Clone())
	}
	if !t.id.Equal(id) {
		return nil, zeowire.StorageTransactionError(t.id, id.Clone())
	}
	return t, nil
}

func (c *conn) tpcBegin(k call, args *arguments) error {
	if c.readOnly {
		return zeowire.ReadOnlyError()
	}
	id := args.at(0)
	if t := c.current(); t != nil {
		if !t.id.Equal(id) {
			return zeowire.NewException(zeowire.ClassStorageTxn,
				zeowire.Text("Multiple simultaneous tpc_begin requests from one client."))
		}
		k.reply(zeowire.None()) // a repeated one
		return nil
	}
	meta, err := metaOf(args)
	if err != nil {
		return err
	}
	c.upload.discard() // of a transaction that was given up in the middle of a blob
	c.upload = nil
	cfg := &c.srv.cfg
	c.txn = &txn{c: c, id: id.Clone(), meta: meta, log: opLog{memory: cfg.StageMemoryBytes, dir: cfg.TempDir, again: cfg.ClientConflictResolution}}
	c.store.stats.active.Add(1)
	k.reply(zeowire.None())
	return nil
}

// metaOf reads the arguments of tpc_begin: id, user, description, extension, tid and
// status.
func metaOf(args *arguments) (raidstorage.Meta, error) {
	meta := raidstorage.Meta{
		User:        bytes.Clone(args.bytes(1)),
		Description: bytes.Clone(args.bytes(2)),
		TID:         args.tidOr(4, 0),
		Status:      raidstorage.StatusNormal,
	}
	if args.has(5) {
		status := args.text(5)
		if len(status) != 1 {
			args.wrong(5, "a transaction status")
		} else {
			meta.Status = raidstorage.TxnStatus(status[0])
		}
	}
	pairs, ok := args.at(3).Pairs()
	if args.has(3) && !ok {
		args.wrong(3, "a dict")
	}
	if args.err != nil {
		return raidstorage.Meta{}, args.err
	}
	if len(pairs) > 0 {
		ext, err := zeowire.AppendPickle(nil, args.at(3))
		if err != nil {
			return raidstorage.Meta{}, fmt.Errorf("extension: %w", err)
		}
		meta.Extension = ext
	}
	return meta, nil
}

// stage appends an operation to the transaction that id names. After a vote there is
// none to come that would see it, so it is dropped, as ZEO does.
func (c *conn) stage(k call, id zeowire.Value, o op, data []byte) error {
	t, err := c.check(id)
	if err != nil {
		return err
	}
	switch o.kind {
	case opStore, opDelete, opRestore:
		c.store.stats.stores.Add(1)
	}
	if s := t.is(); s == staging || s == resolving {
		if err := t.log.add(o, data); err != nil {
			return err
		}
	}
	k.reply(zeowire.None())
	return nil
}

func (c *conn) storeA(k call, args *arguments) error {
	o := op{kind: opStore, oid: args.oid(0), serial: args.tidOr(1, 0)}
	data := args.bytes(2)
	if args.err != nil {
		return args.err
	}
	return c.stage(k, args.at(3), o, data)
}

func (c *conn) checkCurrentSerial(k call, args *arguments) error {
	o := op{kind: opCheck, oid: args.oid(0), serial: args.tidOr(1, 0)}
	if args.err != nil {
		return args.err
	}
	return c.stage(k, args.at(2), o, nil)
}

func (c *conn) deleteObject(k call, args *arguments) error {
	o := op{kind: opDelete, oid: args.oid(0), serial: args.tidOr(1, 0)}
	if args.err != nil {
		return args.err
	}
	return c.stage(k, args.at(2), o, nil)
}

func (c *conn) restoreA(k call, args *arguments) error {
	o := op{kind: opRestore, oid: args.oid(0), serial: args.tid(1), none: !args.has(2), prev: args.tidOr(3, 0)}
	var data []byte
	if !o.none {
		data = args.bytes(2)
	}
	if args.err != nil {
		return args.err
	}
	return c.stage(k, args.at(4), o, data)
}

// undoA names the transaction to undo as undoLog does.
func (c *conn) undoA(k call, args *arguments) error {
	tid, ok := parseUndoID(args.bytes(0))
	if args.err != nil {
		return args.err
	}
	if !ok {
		return zeowire.ValueError("not the id of a transaction")
	}
	return c.stage(k, args.at(1), op{kind: opUndo, prev: tid}, nil)
}

// undoID is the id of a transaction in undo logs: its tid in base64.
func undoID(tid raidstorage.TID) []byte {
	b := tid.Bytes()
	return base64.StdEncoding.AppendEncode(nil, b[:])
}

func parseUndoID(id []byte) (raidstorage.TID, bool) {
	b, err := base64.StdEncoding.AppendDecode(nil, bytes.TrimSpace(id))
	if err != nil {
		return 0, false
	}
	tid, err := raidstorage.TIDFromBytes(b)
	return tid, err == nil
}
