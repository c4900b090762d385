package zeoserver

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// maxIterators bounds the open iterators of a connection; clients give back what they
// do not need.
const maxIterators = 1000

// iterators are those of a connection. They belong to its slow lane, and to the end
// of the connection after it.
type iterators struct {
	next    int64
	txns    map[int64]*txnIterator
	records map[int64]*recordIterator
	cursor  *recordCursor
}

func (it *iterators) init() {
	it.txns, it.records = make(map[int64]*txnIterator), make(map[int64]*recordIterator)
}

func (it *iterators) close() {
	for id := range it.txns {
		it.drop(id)
	}
	for id := range it.records {
		it.drop(id)
	}
	it.cursor.close()
	it.cursor = nil
}

func (it *iterators) drop(id int64) {
	if t, ok := it.txns[id]; ok {
		t.stop()
		delete(it.txns, id)
	}
	if r, ok := it.records[id]; ok {
		r.close()
		delete(it.records, id)
	}
}

func (it *iterators) newID() (int64, error) {
	if len(it.txns)+len(it.records) >= maxIterators {
		return 0, storageError(fmt.Errorf("more than %d open iterators", maxIterators))
	}
	id := it.next
	it.next++
	return id, nil
}

// txnIterator goes over transactions.
type txnIterator struct {
	pull func() (*raidstorage.Transaction, error, bool)
	stop func()
	last raidstorage.TID // of what was returned last, if any
	any  bool
}

// recordIterator goes over the records of one transaction. It has an iteration of its
// own, since a Transaction is valid only as long as its iterator stands still.
type recordIterator struct {
	txns *txnIterator
	pull func() (raidstorage.Record, error, bool)
	stop func()
}

func (r *recordIterator) close() {
	if r.stop != nil {
		r.stop()
	}
	r.txns.stop()
}

func (c *conn) iterate(from, through raidstorage.TID) *txnIterator {
	t := new(txnIterator)
	t.pull, t.stop = iter.Pull2(c.store.storage.Iterate(c.dead, from, through))
	return t
}

func (c *conn) iteratorStart(k call, args *arguments) error {
	from, through := args.tidOr(0, 0), args.tidOr(1, raidstorage.MaxTID)
	if args.err != nil {
		return args.err
	}
	return c.slow.add(k.method, func() {
		id, err := c.iterators.newID()
		if err == nil {
			c.iterators.txns[id] = c.iterate(from, through)
		}
		k.finish(zeowire.Int(id), err)
	})
}

func (c *conn) iteratorNext(k call, args *arguments) error {
	id := args.int(0)
	if args.err != nil {
		return args.err
	}
	return c.slow.add(k.method, func() { k.finish(c.nextTransaction(id)) })
}

func (c *conn) nextTransaction(id int64) (zeowire.Value, error) {
	it, ok := c.iterators.txns[id]
	if !ok {
		if _, ok := c.iterators.records[id]; !ok {
			return zeowire.Value{}, zeowire.KeyError(zeowire.Int(id))
		}
		return zeowire.Value{}, zeowire.NewException(zeowire.ClassAttributeError, zeowire.Text("not an iterator of transactions"))
	}
	txn, err, ok := it.pull()
	if err != nil || !ok {
		c.iterators.drop(id)
		return zeowire.None(), err
	}
	it.last, it.any = txn.TID, true
	return zeowire.Tuple(
		zeowire.TID(txn.TID), zeowire.Text(string(rune(statusOf(txn.Meta)))),
		zeowire.Bytes(txn.User), zeowire.Bytes(txn.Description), c.extension(txn.Meta),
	), nil
}

func statusOf(meta raidstorage.Meta) raidstorage.TxnStatus {
	return orDefault(meta.Status, raidstorage.StatusNormal)
}

func (c *conn) iteratorRecordStart(k call, args *arguments) error {
	id, tid := args.int(0), args.tid(1)
	if args.err != nil {
		return args.err
	}
	return c.slow.add(k.method, func() {
		rid, err := c.startRecords(id, tid)
		k.finish(zeowire.Int(rid), err)
	})
}

func (c *conn) startRecords(id int64, tid raidstorage.TID) (int64, error) {
	it, ok := c.iterators.txns[id]
	if !ok || !it.any {
		return 0, zeowire.KeyError(zeowire.Int(id))
	}
	if it.last != tid {
		return 0, zeowire.NewException(zeowire.ClassException,
			zeowire.Text("Out-of-order request for record iterator for transaction "+tid.String()))
	}
	rid, err := c.iterators.newID()
	if err == nil {
		c.iterators.records[rid] = &recordIterator{txns: c.iterate(tid, tid)}
	}
	return rid, err
}

func (c *conn) iteratorRecordNext(k call, args *arguments) error {
	id := args.int(0)
	if args.err != nil {
		return args.err
	}
	return c.slow.add(k.method, func() { k.finish(c.nextRecord(id)) })
}

func (c *conn) nextRecord(id int64) (zeowire.Value, error) {
	r, ok := c.iterators.records[id]
	if !ok {
		return zeowire.Value{}, zeowire.KeyError(zeowire.Int(id))
	}
	if r.pull == nil {
		txn, err, ok := r.txns.pull()
		if err != nil || !ok { // packed away, meanwhile
			c.iterators.drop(id)
			return zeowire.None(), err
		}
		r.pull, r.stop = iter.Pull2(txn.Records)
	}
	rec, err, ok := r.pull()
	if err != nil || !ok {
		c.iterators.drop(id)
		return zeowire.None(), err
	}
	data, dataTID := zeowire.None(), zeowire.None()
	if rec.Data != nil {
		data = zeowire.Bytes(rec.Data)
	}
	if rec.DataTID != 0 {
		dataTID = zeowire.TID(rec.DataTID)
	}
	return zeowire.Tuple(zeowire.OID(rec.OID), zeowire.TID(rec.TID), data, dataTID), nil
}

// iteratorGC drops iterators; those that are gone already are fine.
func (c *conn) iteratorGC(k call, args *arguments) error {
	items, ok := args.at(0).Items()
	if !ok {
		args.wrong(0, "a list")
		return args.err
	}
	ids := make([]int64, 0, len(items))
	for _, item := range items {
		if id, ok := item.Int(); ok {
			ids = append(ids, id)
		}
	}
	return c.slow.add(k.method, func() {
		for _, id := range ids {
			c.iterators.drop(id)
		}
		k.finish(zeowire.None(), nil)
	})
}

// recordCursor remembers where record_iternext is: clients ask for one record after
// the other, each time with the oid that they were told is next.
type recordCursor struct {
	began time.Time
	last  raidstorage.TID // published when it began
	next  raidstorage.Record
	pull  func() (raidstorage.Record, error, bool)
	stop  func()
}

// cursorAge is for how long a cursor goes on beside commits: a new one costs more than a
// step, but only it finds the objects that have come since.
const cursorAge = time.Second

func (r *recordCursor) close() {
	if r != nil {
		r.stop()
	}
}

func (c *conn) recordIternext(k call, args *arguments) error {
	var from raidstorage.OID
	first := !args.has(0)
	if !first {
		from = args.oid(0)
	}
	if args.err != nil {
		return args.err
	}
	return c.slow.add(k.method, func() { k.finish(c.nextCurrent(from, first)) })
}

func (c *conn) nextCurrent(from raidstorage.OID, first bool) (zeowire.Value, error) {
	cur, err := c.takeCursor(from, first)
	if cur == nil && err == nil {
		if cur, err = c.newCursor(from); cur == nil && err == nil {
			err = zeowire.ValueError("iternext: no record at or after " + from.String())
		}
	}
	if err != nil {
		return zeowire.Value{}, err
	}
	rec := cur.next
	next, err, ok := cur.pull()
	if err != nil {
		cur.close()
		return zeowire.Value{}, err
	}
	if !ok {
		cur.close()
		if cur, err = c.newerCursor(cur.last, rec.OID); err != nil {
			return zeowire.Value{}, err
		}
	} else {
		cur.next = next
	}
	after := zeowire.None()
	if c.iterators.cursor = cur; cur != nil {
		after = zeowire.OID(cur.next.OID)
	}
	return zeowire.Tuple(zeowire.OID(rec.OID), zeowire.TID(rec.TID), zeowire.Bytes(rec.Data), after), nil
}

// newerCursor returns one that goes on after an oid with what was committed since last, nil
// if there is nothing.
func (c *conn) newerCursor(last raidstorage.TID, after raidstorage.OID) (*recordCursor, error) {
	if last == c.store.order.lastTID() || after == math.MaxUint64 {
		return nil, nil
	}
	return c.newCursor(after + 1)
}

// takeCursor returns the cursor of the call before, nil if it is of no use now.
func (c *conn) takeCursor(from raidstorage.OID, first bool) (*recordCursor, error) {
	cur := c.iterators.cursor
	c.iterators.cursor = nil
	if cur == nil {
		return nil, nil
	}
	changed := cur.last != c.store.order.lastTID()
	if first || cur.next.OID != from || changed && c.srv.cfg.Clock().Sub(cur.began) >= cursorAge {
		cur.close()
		return nil, nil
	}
	if !changed {
		return cur, nil
	}
	rev, err := c.store.storage.LoadBefore(c.dead, from, raidstorage.MaxTID) // it was read a call ago
	if err == nil {
		cur.next.Data, cur.next.TID = rev.Data, rev.Serial
		return cur, nil
	}
	cur.close()
	if _, deleted := errors.AsType[*raidstorage.NotFoundError](err); deleted {
		err = nil
	}
	return nil, err
}

// newCursor returns one at the first object at or after from, nil if there is none.
func (c *conn) newCursor(from raidstorage.OID) (*recordCursor, error) {
	storage, err := raidstorage.Can[raidstorage.RecordIterator](c.store.storage)
	if err != nil {
		return nil, err
	}
	cur := &recordCursor{began: c.srv.cfg.Clock(), last: c.store.order.lastTID()}
	cur.pull, cur.stop = iter.Pull2(storage.CurrentRecords(c.dead, from))
	rec, err, ok := cur.pull()
	if err != nil || !ok {
		cur.close()
		return nil, err
	}
	cur.next = rec
	return cur, nil
}
