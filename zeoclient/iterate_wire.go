package zeoclient

import (
	"context"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// takeIterator reads the id of an iterator.
func takeIterator(v zeowire.Value) (int64, error) {
	id, ok := v.Int()
	if !ok {
		return 0, violation("no iterator")
	}
	return id, nil
}

// takeHead reads (tid, status, user, description, extension), or None at the end.
func takeHead(v zeowire.Value) (head, error) {
	if v.IsNone() {
		return nil, nil
	}
	items, _ := v.Items()
	if len(items) != 5 {
		return nil, violation("no transaction")
	}
	m := &raidstorage.Meta{}
	var isTID, isUser, isDescription bool
	m.TID, isTID = items[0].TID()
	status, isStatus := text(items[1])
	m.User, isUser = text(items[2])
	m.Description, isDescription = text(items[3])
	if !isTID || !isStatus || len(status) != 1 || !isUser || !isDescription {
		return nil, violation("a transaction of other types")
	}
	m.Status = raidstorage.TxnStatus(status[0])
	var err error
	m.Extension, err = storedExtension(items[4])
	return m, err
}

// takeRecord reads (oid, tid, data or None, tid of the data or None), or None at the
// end, in the reader.
func (it *iteration) takeRecord(v zeowire.Value) (*raidstorage.Record, error) {
	if v.IsNone() {
		return nil, nil
	}
	items, _ := v.Items()
	if len(items) != 4 {
		return nil, violation("no record")
	}
	r := &raidstorage.Record{}
	var isOID, isTID, isFrom bool
	r.OID, isOID = items[0].OID()
	r.TID, isTID = items[1].TID()
	data, isData := items[2].Bytes()
	r.DataTID, isFrom = items[3].TID()
	if !isOID || !isTID || !isData && !items[2].IsNone() || !isFrom && !items[3].IsNone() {
		return nil, violation("a record of other types")
	}
	if isData && len(data) > 0 {
		r.Data = it.c.own(data)
	} else {
		r.DataTID = 0
	}
	return r, nil
}

// drop forgets what is under way for p and releases the server's iterator over its
// records.
func (it *iteration) drop(p *pending) {
	if p.asked != nil {
		it.c.forget(p.asked.call)
		it.asking--
	}
	switch {
	case p.ended:
	case p.started:
		it.free(p.id)
	default:
		it.freeLater(p.start)
	}
}

// release drops everything when the iteration is over.
func (it *iteration) release() {
	for _, p := range it.window {
		it.drop(p)
	}
	if it.scout != nil {
		it.c.forget(it.scout.call)
	}
	if it.scoutEnded && len(it.window) == 0 {
		it.finish()
		return
	}
	for _, f := range []*future[int64]{it.startScout, it.startMain} {
		if f != nil && !(f == it.startScout && it.scoutEnded) {
			it.freeLater(f)
		}
	}
}

// finish lets the main iterator come to its end too: Python's server keeps the last
// transaction of an iterator that is only released. What it answers is not waited for.
func (it *iteration) finish() {
	main := zeowire.Int(it.startMain.value)
	next := it.c.newCall(zeowire.IteratorNext, nil)
	_ = it.c.post(func(w *zeowire.Writer) error {
		if err := w.Message(zeowire.Call(zeowire.IntID(next.id), next.name, main)); err != nil {
			return err
		}
		return w.Message(zeowire.AsyncCall(zeowire.IteratorGC, zeowire.List(main)))
	})
}

// free releases iterators of the server.
func (it *iteration) free(ids ...int64) {
	list := make([]zeowire.Value, len(ids))
	for i, id := range ids {
		list[i] = zeowire.Int(id)
	}
	// An error means that the connection is over, and the iterators with it.
	_ = it.c.post(func(w *zeowire.Writer) error {
		return w.Message(zeowire.AsyncCall(zeowire.IteratorGC, zeowire.List(list...)))
	})
}

// freeLater releases an iterator as soon as its id is known.
func (it *iteration) freeLater(f *future[int64]) {
	if f.ready() {
		if f.call.err == nil {
			it.free(f.value)
		}
		return
	}
	if !f.call.sent {
		return
	}
	it.c.spawn(func() {
		if it.c.wait(context.Background(), f.call) == nil {
			it.free(f.value)
		}
	})
}
