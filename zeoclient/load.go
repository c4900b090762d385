package zeoclient

import (
	"context"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// LoadBefore implements raidstorage.Storage.
func (s *Storage) LoadBefore(ctx context.Context, oid raidstorage.OID, before raidstorage.TID) (raidstorage.Revision, error) {
	before = min(before, raidstorage.MaxTID)
	leave, c, err := s.enter(ctx)
	if err != nil {
		return raidstorage.Revision{}, err
	}
	defer leave()
	if r, ok := s.cache.get(oid, before); ok {
		return r, nil
	}
	s.cache.begin(oid)
	defer s.cache.end(oid)
	return s.load(ctx, c, oid, before)
}

// load asks the server.
func (s *Storage) load(ctx context.Context, c *conn, oid raidstorage.OID, before raidstorage.TID) (raidstorage.Revision, error) {
	var found raidstorage.Revision
	later := false
	k := c.newCall(zeowire.LoadBefore, func(v zeowire.Value) (err error) {
		found, later, err = s.loaded(c, oid, before, v)
		return err
	})
	err := c.send(ctx, func(w *zeowire.Writer) error {
		return w.LoadBefore(zeowire.IntID(k.id), oid, before)
	}, k)
	if err == nil {
		err = c.wait(ctx, k)
	}
	if err != nil { // who has given up must not look at what the reader may be writing
		return s.answer(c, oid, raidstorage.Revision{}, false, err)
	}
	return s.answer(c, oid, found, later, nil)
}

// loaded reads the reply to a load, in the reader. Later tells that the object is
// younger.
func (s *Storage) loaded(c *conn, oid raidstorage.OID, before raidstorage.TID, v zeowire.Value) (found raidstorage.Revision, later bool, err error) {
	if v.IsNone() {
		return found, true, nil
	}
	r, err := c.revision(v)
	if err != nil {
		return found, false, err
	}
	if r.Serial >= before || r.Next != 0 && r.Next < before {
		return found, false, violation("a revision of another time")
	}
	s.show(max(r.Serial, r.Next))
	s.cache.loaded(c.epoch, oid, r)
	return r, false, nil
}

// answer is what a load returns after its reply, or an error.
func (s *Storage) answer(c *conn, oid raidstorage.OID, found raidstorage.Revision, later bool, err error) (raidstorage.Revision, error) {
	if _, none := raised(err, zeowire.ClassPOSKey, zeowire.ClassKeyError); none || err == nil && later {
		return raidstorage.Revision{}, &raidstorage.NotFoundError{OID: oid, Later: later}
	}
	if err != nil {
		return raidstorage.Revision{}, c.mapped(zeowire.LoadBefore, err)
	}
	return found, nil
}

// revision reads (data, serial, end or None), in the reader.
func (c *conn) revision(v zeowire.Value) (r raidstorage.Revision, err error) {
	items, _ := v.Items()
	if len(items) != 3 {
		return r, violation("no triple")
	}
	data, isData := items[0].Bytes()
	var isSerial, isEnd bool
	r.Serial, isSerial = items[1].TID()
	r.Next, isEnd = items[2].TID()
	if !isData || !isSerial || !isEnd && !items[2].IsNone() {
		return r, violation("other types")
	}
	r.Data = c.own(data)
	return r, nil
}
