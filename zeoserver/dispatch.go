package zeoserver

import (
	"errors"
	"fmt"

	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// call is a call under way, as far as its answer needs it.
type call struct {
	c      *conn
	id     zeowire.ID
	async  bool
	method string
}

// reply answers with a value. It never waits.
func (k call) reply(v zeowire.Value) {
	if !k.async {
		k.send(zeowire.ValueReply(k.id, v), k.c.out.send)
	}
}

// replyNow is reply for a goroutine of its own, which sends it, too, as far as that is
// possible without waiting.
func (k call) replyNow(v zeowire.Value) {
	if k.async {
		return
	}
	k.send(zeowire.ValueReply(k.id, v), k.c.out.sendUnflushed)
	k.c.flushDirect()
}

// replyWhenRoom is reply for answers that may be large and many: it waits while the
// client does not read.
func (k call) replyWhenRoom(v zeowire.Value) {
	if !k.async {
		k.send(zeowire.ValueReply(k.id, v), func(encode func(*zeowire.Writer) error) (bool, error) {
			return k.c.out.sendWhenRoom(k.c.out.forAnswers(), encode)
		})
	}
}

// fail answers with an exception. A call without reply has no other way to fail than
// with its connection.
func (k call) fail(err error) {
	if !expected(err) {
		k.c.logger().Error("a call failed", "method", k.method, "storage", k.c.storageName(), "err", err)
	}
	if k.async {
		k.c.close(fmt.Errorf("%w: %s", errAsync, k.method))
		return
	}
	k.send(zeowire.ErrorReply(k.id, exceptionOf(err)), k.c.out.send)
}

// finish is reply or fail.
func (k call) finish(v zeowire.Value, err error) {
	if err != nil {
		k.fail(err)
		return
	}
	k.replyWhenRoom(v)
}

func (k call) send(m zeowire.Message, send func(func(*zeowire.Writer) error) (bool, error)) {
	_, err := send(func(w *zeowire.Writer) error { return w.Message(m) })
	if err == nil {
		return
	}
	// The value cannot be said in the client's encoding: metadata with surrogates, say.
	k.c.logger().Error("a reply cannot be encoded", "method", k.method, "err", err)
	m = zeowire.ErrorReply(k.id, zeowire.ValueError("Couldn't pickle response"))
	if _, err := k.c.out.send(func(w *zeowire.Writer) error { return w.Message(m) }); err != nil {
		k.c.close(err)
	}
}

// method is an entry of the table. run is called by the reader; it answers k at once
// or later, and does not keep args. An error is the answer, too.
type method struct {
	min, max int // arguments
	run      func(c *conn, k call, args *arguments) error
}

// lookup returns the method that clients call by this name. It is a switch, as a
// table would be a mutable variable; names of the hot methods come first.
func lookup(name string) (method, bool) {
	switch name {
	case zeowire.LoadBefore:
		return method{2, 2, (*conn).loadBefore}, true
	case zeowire.StoreA:
		return method{4, 4, (*conn).storeA}, true
	case zeowire.TPCBegin:
		return method{4, 6, (*conn).tpcBegin}, true
	case zeowire.Vote:
		return method{1, 1, (*conn).vote}, true
	case zeowire.TPCFinish:
		return method{1, 1, (*conn).tpcFinish}, true
	case zeowire.TPCAbort:
		return method{1, 1, (*conn).tpcAbort}, true
	case zeowire.CheckCurrentSerial:
		return method{3, 3, (*conn).checkCurrentSerial}, true
	case zeowire.DeleteObject:
		return method{3, 3, (*conn).deleteObject}, true
	case zeowire.UndoA:
		return method{2, 2, (*conn).undoA}, true
	case zeowire.RestoreA:
		return method{5, 5, (*conn).restoreA}, true
	case zeowire.StoreBlobStart:
		return method{0, 0, (*conn).storeBlobStart}, true
	case zeowire.StoreBlobChunk:
		return method{1, 1, (*conn).storeBlobChunk}, true
	case zeowire.StoreBlobEnd:
		return method{4, 4, (*conn).storeBlobEnd}, true
	case zeowire.StoreBlobShared:
		return method{5, 5, (*conn).storeBlobShared}, true
	}
	return lookupRead(name)
}

func lookupRead(name string) (method, bool) {
	switch name {
	case zeowire.LoadSerial:
		return method{2, 2, (*conn).loadSerial}, true
	case zeowire.GetTID:
		return method{1, 1, (*conn).getTID}, true
	case zeowire.SendBlob:
		return method{2, 2, (*conn).sendBlob}, true
	case zeowire.NewOIDs:
		return method{0, 1, (*conn).newOIDs}, true
	case zeowire.NewOID:
		return method{0, 0, (*conn).newOID}, true
	case zeowire.LastTransaction:
		return method{0, 0, (*conn).lastTransaction}, true
	case zeowire.GetInvalidations:
		return method{1, 1, (*conn).getInvalidations}, true
	case zeowire.GetInfo:
		return method{0, 0, (*conn).getInfo}, true
	case zeowire.History:
		return method{1, 2, (*conn).history}, true
	case zeowire.UndoLog:
		return method{2, 2, (*conn).undoLog}, true
	case zeowire.UndoInfo:
		return method{2, 3, (*conn).undoInfo}, true
	case zeowire.RecordIternext:
		return method{0, 1, (*conn).recordIternext}, true
	case zeowire.IteratorStart:
		return method{0, 2, (*conn).iteratorStart}, true
	case zeowire.IteratorNext:
		return method{1, 1, (*conn).iteratorNext}, true
	case zeowire.IteratorRecordStart:
		return method{2, 2, (*conn).iteratorRecordStart}, true
	case zeowire.IteratorRecordNext:
		return method{1, 1, (*conn).iteratorRecordNext}, true
	case zeowire.IteratorGC:
		return method{1, 1, (*conn).iteratorGC}, true
	case zeowire.Pack:
		return method{1, 2, (*conn).pack}, true
	case zeowire.ServerStatus:
		return method{0, 0, (*conn).serverStatus}, true
	case zeowire.SetClientLabel:
		return method{1, 1, (*conn).setClientLabel}, true
	case zeowire.Ping:
		return method{0, 0, (*conn).ping}, true
	}
	return method{}, false
}

// dispatch runs a call. An error ends the connection.
func (c *conn) dispatch(m zeowire.Message) error {
	var entry method
	ok := false
	if c.store != nil {
		entry, ok = lookup(m.Name)
	}
	if m.Name == zeowire.Register {
		// ZEO closes upon a second one: the name is not known any more.
		entry, ok = method{2, 2, (*conn).register}, c.store == nil
	}
	if !ok {
		return fmt.Errorf("%w: %.40q", errMethod, m.Name)
	}
	k := call{c: c, id: m.ID, async: m.Flag == zeowire.Async, method: m.Name}
	items, _ := m.Args.Items()
	var err error
	if len(items) < entry.min || len(items) > entry.max {
		err = zeowire.NewException(zeowire.ClassTypeError,
			zeowire.Text(fmt.Sprintf("%s takes %d to %d arguments, not %d", m.Name, entry.min, entry.max, len(items))))
	} else {
		err = entry.run(c, k, &arguments{items: items})
	}
	if err == nil {
		return nil
	}
	if c.dead.Err() != nil || errors.Is(err, errHandedOver) {
		return err
	}
	k.fail(err)
	return nil
}
