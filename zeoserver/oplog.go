package zeoserver

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"

	"github.com/zeoraid/raidstorage"
)

// opKind is what a staged operation does.
type opKind uint8

const (
	opStore opKind = iota
	opBlob
	opDelete
	opCheck
	opRestore
	opUndo
)

// op is one staged operation.
type op struct {
	kind   opKind
	none   bool // of opRestore: there is no data
	oid    raidstorage.OID
	serial raidstorage.TID
	prev   raidstorage.TID // of opRestore: a hint at an earlier transaction with the same data; of opUndo: the transaction
	data   []byte          // nil if it is in the file
	offset int64           // of the data in the file
	length int
	blob   string // path of the blob's file
}

// opLog holds a transaction's operations until it votes. Data beyond memory bytes
// goes to a temporary file, blobs have files of their own. It is used by one
// goroutine at a time.
type opLog struct {
	memory int64 // bytes left for data in memory
	dir    string
	ops    []op
	file   *os.File
	size   int64 // of the file
	blobs  bool
}

// opCost is what an operation takes in memory beside its data.
const opCost = 128

// add appends o with a copy of data.
func (l *opLog) add(o op, data []byte) error {
	o.length = len(data)
	cost := int64(len(data)) + opCost
	if l.memory >= cost || len(data) == 0 {
		l.memory -= cost
		o.data = bytes.Clone(data)
	} else {
		if err := l.spill(&o, data); err != nil {
			return err
		}
	}
	l.blobs = l.blobs || o.kind == opBlob
	l.ops = append(l.ops, o)
	return nil
}

func (l *opLog) spill(o *op, data []byte) error {
	if l.file == nil {
		f, err := os.CreateTemp(l.dir, "zeoserver-txn-*")
		if err != nil {
			return err
		}
		l.file = f
		// Where that works, nothing is left behind even by a kill.
		os.Remove(f.Name())
	}
	n, err := l.file.WriteAt(data, l.size)
	if err != nil {
		return err
	}
	o.offset = l.size
	l.size += int64(n)
	return nil
}

// dataOf returns the data of o, in memory of its own.
func (l *opLog) dataOf(o *op) ([]byte, error) {
	if o.data != nil || o.length == 0 {
		return o.data, nil
	}
	data := make([]byte, o.length)
	if _, err := l.file.ReadAt(data, o.offset); err != nil {
		return nil, fmt.Errorf("read staged data: %w", err)
	}
	return data, nil
}

// close removes the files.
func (l *opLog) close() {
	for _, o := range l.ops {
		if o.blob != "" {
			os.Remove(o.blob)
		}
	}
	if l.file != nil {
		l.file.Close()
		os.Remove(l.file.Name())
	}
	*l = opLog{}
}

// replay stages all operations on tx. With last, only the last store of each object
// is: a client that resolved conflicts stores them again, and a blob comes after a
// store of its record.
func (l *opLog) replay(ctx context.Context, tx raidstorage.Txn, tid raidstorage.TID, last bool) error {
	var final map[raidstorage.OID]int
	if last || l.blobs {
		final = l.final()
	}
	for i := range l.ops {
		o := &l.ops[i]
		if final != nil && (o.kind == opStore || o.kind == opBlob) && final[o.oid] != i {
			continue
		}
		if err := l.stage(ctx, tx, tid, o); err != nil {
			return err
		}
	}
	return nil
}

// final returns the index of the last store of each object. A plain store that
// follows a blob is a resolution, or a new state, of the blob's record: it keeps the
// blob.
func (l *opLog) final() map[raidstorage.OID]int {
	final := make(map[raidstorage.OID]int, len(l.ops))
	for i := range l.ops {
		o := &l.ops[i]
		if o.kind != opStore && o.kind != opBlob {
			continue
		}
		if before, ok := final[o.oid]; ok && o.kind == opStore && l.ops[before].blob != "" {
			o.kind, o.blob = opBlob, l.ops[before].blob
		}
		final[o.oid] = i
	}
	return final
}

func (l *opLog) stage(ctx context.Context, tx raidstorage.Txn, tid raidstorage.TID, o *op) error {
	data, err := l.dataOf(o)
	if err != nil {
		return err
	}
	switch o.kind {
	case opStore:
		return tx.Store(ctx, o.oid, o.serial, data)
	case opBlob:
		return stageBlob(ctx, tx, o, data)
	case opDelete:
		return tx.Delete(ctx, o.oid, o.serial)
	case opCheck:
		return tx.CheckCurrent(ctx, o.oid, o.serial)
	case opUndo:
		return raidstorage.Undo(ctx, tx, o.prev)
	}
	rec := raidstorage.Record{OID: o.oid, TID: o.serial, Data: data, DataTID: o.prev}
	if o.none {
		rec.Data = nil
	}
	return tx.Restore(ctx, rec)
}

func stageBlob(ctx context.Context, tx raidstorage.Txn, o *op, data []byte) error {
	f, err := os.Open(o.blob)
	if err != nil {
		return err
	}
	defer f.Close()
	// Only the bytes: a storage that could move the file must not, it may be needed
	// for another vote.
	return raidstorage.StoreBlob(ctx, tx, o.oid, o.serial, data, struct{ io.Reader }{f})
}

// changed returns the objects that the transaction changes, but for undone ones.
func (l *opLog) changed() []raidstorage.OID {
	oids := make([]raidstorage.OID, 0, len(l.ops))
	for i := range l.ops {
		switch l.ops[i].kind {
		case opStore, opBlob, opDelete, opRestore:
			oids = append(oids, l.ops[i].oid)
		}
	}
	return oids
}

// stored returns the last store of oid, nil if there is none.
func (l *opLog) stored(oid raidstorage.OID) *op {
	for i := len(l.ops) - 1; i >= 0; i-- {
		if o := &l.ops[i]; o.oid == oid && (o.kind == opStore || o.kind == opBlob) {
			return o
		}
	}
	return nil
}
