package zeoserver

import (
	"context"
	"reflect"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// register chooses the storage. Both refusals leave the connection open: a client
// that may fall back registers again, for reading.
func (c *conn) register(k call, args *arguments) error {
	name, readOnly := args.text(0), args.truth(1)
	if args.err != nil {
		return args.err
	}
	st, ok := c.srv.served[name]
	if !ok {
		return zeowire.ValueError("unknown storage: " + name)
	}
	if !readOnly && (c.readOnly || st.isReadOnly(c.dead, c.srv.cfg.HandshakeTimeout)) {
		return zeowire.ReadOnlyError()
	}
	c.readOnly = c.readOnly || readOnly
	c.store = st
	st.order.join(c, k)
	c.logger().Debug("client registered", "storage", name, "readonly", c.readOnly, "encoding", c.encoding.String())
	return nil
}

func (c *conn) storageName() string {
	if c.store == nil {
		return ""
	}
	return c.store.name
}

// getInfo tells what the storage can do. ClientStorage takes on the interfaces that
// are listed.
func (c *conn) getInfo(k call, args *arguments) error {
	return c.concurrently(k, func(ctx context.Context) (zeowire.Value, error) {
		st := c.store
		objects, bytes := st.size(ctx)
		can := func(capability reflect.Type) bool { return raidstorage.Supports(st.storage, capability) }
		undo := can(reflect.TypeFor[raidstorage.Undoer]())
		records := can(reflect.TypeFor[raidstorage.RecordIterator]())
		var interfaces []zeowire.Value
		provides := func(module, name string, does bool) {
			if does {
				interfaces = append(interfaces, zeowire.Tuple(zeowire.Text(module), zeowire.Text(name)))
			}
		}
		// In the order that Python's FileStorage has them.
		provides("ZODB.interfaces", "IBlobStorage", can(reflect.TypeFor[raidstorage.BlobLoader]()))
		provides("ZODB.interfaces", "IStorageRestoreable", true)
		provides("ZODB.interfaces", "IStorageIteration", true)
		provides("ZODB.interfaces", "IStorageUndoable", undo)
		provides("ZODB.interfaces", "IStorageCurrentRecordIteration", records)
		provides("ZODB.interfaces", "IExternalGC", true)
		provides("ZODB.interfaces", "IStorage", true)
		provides("zope.interface", "Interface", true)
		return zeowire.Dict(
			zeowire.Entry("length", zeowire.Int(objects)),
			zeowire.Entry("size", zeowire.Int(bytes)),
			zeowire.Entry("name", zeowire.Text(st.storage.Name())),
			zeowire.Entry("supportsUndo", zeowire.Bool(undo)),
			zeowire.Entry("supports_record_iternext", zeowire.Bool(records)),
			zeowire.Entry("interfaces", zeowire.Tuple(interfaces...)),
		), nil
	})
}

// voteFirst is how long lastTransaction waits for a vote of its connection.
const voteFirst = 100 * time.Millisecond

// lastTransaction that was sent behind a vote is answered after it, as by Python's server,
// which votes at once: so one who asks for the last tid under the lock, far away, need not
// ask again. Not so where the vote has to wait, for others' transactions. One whose finish
// is under way when the vote is answered counts: the answer waits until it is published.
//
// It waits in a goroutine of its own: in the slow lane the lock would be held for as long
// as a history takes. There is one at a time, however often a client asks.
func (c *conn) lastTransaction(k call, _ *arguments) error {
	answer := func() { c.store.order.answer(func(o *order) { k.reply(zeowire.TID(o.last)) }) }
	t := c.current()
	if t == nil || !t.await() {
		answer()
		return nil
	}
	if err := c.ending(); err != nil { // many transactions may be given up meanwhile
		return err
	}
	c.spawn(k.method, func() {
		defer func() { <-c.ends }()
		t.awaitLast()
		answer()
	})
	return nil
}

// await tells whether the last tid has to wait for t. If so, awaitLast follows.
func (t *txn) await() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.awaited || t.state != voting && (t.state != voted || t.before == nil) {
		return false
	}
	t.awaited = true
	return true
}

// awaitLast waits for the vote, not for long, and for what is before it in the order: that
// is finishing.
func (t *txn) awaitLast() {
	timer := time.NewTimer(voteFirst)
	defer timer.Stop()
	dead := t.c.dead.Done()
	t.mu.Lock()
	done := t.done
	t.mu.Unlock()
	select {
	case <-done:
	case <-timer.C:
	case <-dead:
	}
	t.mu.Lock()
	before := t.before
	t.mu.Unlock()
	if before != nil {
		select {
		case <-before:
		case <-dead:
		}
	}
	t.mu.Lock()
	t.awaited = false
	t.mu.Unlock()
}

// getInvalidations is what a client with a cache asks when it comes back. It answers
// from the queue or, within the invalidation age, from the log.
func (c *conn) getInvalidations(k call, args *arguments) error {
	tid := args.tid(0)
	if args.err != nil {
		return args.err
	}
	var through raidstorage.TID
	answered := false
	c.store.order.answer(func(o *order) {
		through = o.last
		if oids, ok := o.queue.since(tid); ok {
			answered = true
			k.reply(zeowire.Tuple(zeowire.TID(max(tid, through)), oidList(oids)))
		}
	})
	if answered {
		return nil
	}
	age := c.srv.cfg.InvalidationAge
	if age == 0 || c.srv.cfg.Clock().Sub(tid.Time()) >= age {
		k.reply(zeowire.None())
		return nil
	}
	return c.slow.add(k.method, func() { k.finish(c.invalidationsOfLog(tid, through)) })
}

// maxLogInvalidations bounds what is looked up for a client: above that many objects
// it is better off with an empty cache.
const maxLogInvalidations = 1 << 20

func (c *conn) invalidationsOfLog(tid, through raidstorage.TID) (zeowire.Value, error) {
	seen := make(map[raidstorage.OID]bool)
	var oids []raidstorage.OID
	for txn, err := range c.store.storage.Iterate(c.dead, tid+1, through) {
		if err != nil {
			return zeowire.Value{}, err
		}
		for rec, err := range txn.Records {
			if err != nil {
				return zeowire.Value{}, err
			}
			if !seen[rec.OID] {
				seen[rec.OID] = true
				oids = append(oids, rec.OID)
			}
		}
		if len(oids) > maxLogInvalidations {
			return zeowire.None(), nil
		}
	}
	return zeowire.Tuple(zeowire.TID(through), oidList(oids)), nil
}

func oidList(oids []raidstorage.OID) zeowire.Value {
	items := make([]zeowire.Value, len(oids))
	for i, oid := range oids {
		items[i] = zeowire.OID(oid)
	}
	return zeowire.List(items...)
}

func (c *conn) serverStatus(k call, args *arguments) error {
	k.reply(c.store.status(c.srv).value())
	return nil
}

// maxLabel bounds a label, which is in every line of the log.
const maxLabel = 200

func (c *conn) setClientLabel(k call, args *arguments) error {
	label := args.text(0)
	if args.err != nil {
		return args.err
	}
	c.label.Store(label[:min(len(label), maxLabel)])
	k.reply(zeowire.None())
	return nil
}

func (c *conn) ping(k call, args *arguments) error {
	k.reply(zeowire.None())
	return nil
}

// newOID is one of ZEO's registered methods, but its storages lack it.
func (c *conn) newOID(k call, args *arguments) error {
	return zeowire.NewException(zeowire.ClassAttributeError, zeowire.Text("'ZEOStorage' object has no attribute 'new_oid'"))
}

// maxNewOIDs is how many oids a client gets at a time.
const maxNewOIDs = 100

func (c *conn) newOIDs(k call, args *arguments) error {
	n := min(max(args.intOr(0, maxNewOIDs), 1), maxNewOIDs)
	if args.err != nil {
		return args.err
	}
	if c.readOnly {
		return zeowire.ReadOnlyError()
	}
	return c.concurrently(k, func(ctx context.Context) (zeowire.Value, error) {
		oids, err := c.store.storage.NewOIDs(ctx, int(n))
		return oidList(oids), err
	})
}
