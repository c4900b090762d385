package zeoclient

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// maxQuestions is how many questions of prepare are under way at the same time.
const maxQuestions = 64

// prepare asks for what must be known before, many questions at a time.
func (t *txn) prepare(ctx context.Context) error {
	var waiting []func() error
	answers := func() error {
		for _, answer := range waiting {
			if err := answer(); err != nil {
				return err
			}
		}
		waiting = waiting[:0]
		return nil
	}
	for i := range t.ops {
		o := &t.ops[i]
		var answer func() error
		var err error
		switch {
		case o.dropped:
		case o.current:
			answer, err = t.askSerial(ctx, o.oid, &o.tid)
		case o.kind == opRestore && o.dataTID != 0:
			answer, err = t.askData(ctx, o)
		}
		if err != nil {
			return err
		}
		if answer != nil {
			waiting = append(waiting, answer)
		}
		if len(waiting) == maxQuestions {
			if err := answers(); err != nil {
				return err
			}
		}
	}
	return answers()
}

// asks tells whether prepare has a question.
func (t *txn) asks() bool {
	return slices.ContainsFunc(t.ops, func(o op) bool { return !o.dropped && (o.current || o.kind == opRestore && o.dataTID != 0) })
}

// askSerial asks for an object's current serial, 0 if the server knows no such object.
// The function it returns waits for the answer.
func (t *txn) askSerial(ctx context.Context, oid raidstorage.OID, serial *raidstorage.TID) (func() error, error) {
	var tid raidstorage.TID
	k := t.c.newCall(zeowire.GetTID, func(v zeowire.Value) error {
		var ok bool
		if tid, ok = v.TID(); !ok {
			return violation("no tid")
		}
		return nil
	})
	if err := t.c.start(ctx, k, zeowire.OID(oid)); err != nil {
		return nil, err
	}
	return func() error {
		err := t.c.wait(ctx, k)
		if _, none := raised(err, zeowire.ClassPOSKey, zeowire.ClassKeyError); none {
			*serial, err = t.lastChange(ctx, oid)
			return err
		}
		if err != nil {
			return t.c.mapped(k.name, err)
		}
		*serial = tid
		return nil
	}, nil
}

// lastChange returns the serial of an object that the server says is not there: that of
// its deletion, or of the undoing of its creation; 0 if it never was there.
func (t *txn) lastChange(ctx context.Context, oid raidstorage.OID) (raidstorage.TID, error) {
	infos, err := t.c.history(ctx, oid, 1)
	if _, none := errors.AsType[*raidstorage.NotFoundError](err); none {
		return 0, nil
	}
	if err != nil || len(infos) == 0 {
		return 0, err
	}
	return infos[0].TID, nil
}

// askData drops a restored record's pointer if the data that it points to is not
// there: Python's server raises an UndoError for an unknown transaction.
func (t *txn) askData(ctx context.Context, o *op) (func() error, error) {
	same := false
	k := t.c.newCall(zeowire.LoadBefore, func(v zeowire.Value) error {
		if v.IsNone() {
			return nil
		}
		items, _ := v.Items()
		if len(items) != 3 {
			return violation("no triple")
		}
		data, _ := items[0].Bytes()
		serial, _ := items[1].TID()
		same = serial == o.dataTID && bytes.Equal(data, o.data)
		return nil
	})
	if err := t.c.start(ctx, k, zeowire.OID(o.oid), zeowire.TID(min(o.dataTID, raidstorage.MaxTID-1)+1)); err != nil {
		return nil, err
	}
	return func() error {
		err := t.c.wait(ctx, k)
		if _, none := raised(err, zeowire.ClassPOSKey, zeowire.ClassKeyError); err != nil && !none {
			return t.c.mapped(k.name, err)
		}
		if !same {
			o.dataTID = 0
		}
		return nil
	}, nil
}
