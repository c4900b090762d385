package zeoserver

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
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
	none   bool   // of opRestore: there is no data
	blob   uint32 // of opBlob: index of the file in opLog.blobs, plus 1
	oid    raidstorage.OID
	serial raidstorage.TID
	prev   raidstorage.TID // of opRestore: an earlier transaction with the same data; of opUndo: the transaction
	data   []byte
}

// opLog holds a transaction's operations until it votes. When they exceed memory
// bytes, the further ones go to a temporary file, in the same order; blobs have files
// of their own. It is used by one goroutine at a time.
type opLog struct {
	memory int64 // bytes left in memory
	dir    string
	again  bool     // the files may be needed for another vote
	ops    []op     // the first ones
	blobs  []string // paths of files that are the log's

	file    *os.File // the others, nil if there are none
	writer  *bufio.Writer
	spilled int
}

// opHeader is an operation's length in the file, without its data; in memory it takes
// about as much.
const (
	opHeader = 2 + 4 + 8 + 8 + 8 + 4
	opCost   = 96
)

// add appends o with a copy of data.
func (l *opLog) add(o op, data []byte) error {
	l.memory -= int64(len(data)) + opCost
	if l.file == nil && l.memory >= 0 {
		o.data = bytes.Clone(data)
		l.ops = append(l.ops, o)
		return nil
	}
	o.data = data
	return l.spill(&o)
}

// addBlob is add for a record with the blob in the file at path, which is the log's
// from now on.
func (l *opLog) addBlob(o op, data []byte, path string) error {
	l.blobs = append(l.blobs, path)
	o.kind, o.blob = opBlob, uint32(len(l.blobs))
	return l.add(o, data)
}

func (l *opLog) spill(o *op) error {
	if l.file == nil {
		f, err := os.CreateTemp(l.dir, "zeoserver-txn-*")
		if err != nil {
			return err
		}
		os.Remove(f.Name()) // where that works, nothing is left behind even by a kill
		l.file, l.writer = f, bufio.NewWriterSize(f, 64<<10)
	}
	b := make([]byte, 0, opHeader)
	b = append(b, byte(o.kind), 0)
	if o.none {
		b[1] = 1
	}
	b = binary.BigEndian.AppendUint32(b, o.blob)
	b = binary.BigEndian.AppendUint64(b, uint64(o.oid))
	b = binary.BigEndian.AppendUint64(b, uint64(o.serial))
	b = binary.BigEndian.AppendUint64(b, uint64(o.prev))
	b = binary.BigEndian.AppendUint32(b, uint32(len(o.data)))
	if _, err := l.writer.Write(b); err != nil {
		return err
	}
	if _, err := l.writer.Write(o.data); err != nil {
		return err
	}
	l.spilled++
	return nil
}

// each calls f with all operations, in order, and their numbers. Data of those in the
// file is new memory.
func (l *opLog) each(f func(i int, o *op) error) error {
	for i := range l.ops {
		if err := f(i, &l.ops[i]); err != nil {
			return err
		}
	}
	if l.spilled == 0 {
		return nil
	}
	if err := l.writer.Flush(); err != nil {
		return err
	}
	r := bufio.NewReaderSize(io.NewSectionReader(l.file, 0, 1<<62), 64<<10)
	for i := range l.spilled {
		o, err := readOp(r)
		if err != nil {
			return fmt.Errorf("read a staged operation: %w", err)
		}
		if err := f(len(l.ops)+i, o); err != nil {
			return err
		}
	}
	return nil
}

func readOp(r *bufio.Reader) (*op, error) {
	var b [opHeader]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return nil, err
	}
	o := &op{
		kind: opKind(b[0]), none: b[1] != 0, blob: binary.BigEndian.Uint32(b[2:]),
		oid:    raidstorage.OID(binary.BigEndian.Uint64(b[6:])),
		serial: raidstorage.TID(binary.BigEndian.Uint64(b[14:])),
		prev:   raidstorage.TID(binary.BigEndian.Uint64(b[22:])),
	}
	o.data = make([]byte, binary.BigEndian.Uint32(b[30:]))
	_, err := io.ReadFull(r, o.data)
	return o, err
}

// close removes the files.
func (l *opLog) close() {
	for _, path := range l.blobs {
		os.Remove(path)
	}
	if l.file != nil {
		l.file.Close()
		os.Remove(l.file.Name())
	}
	*l = opLog{}
}

// lastStore is the last store of an object.
type lastStore struct {
	index int
	blob  uint32
}

// final returns the last store of each object. A plain store that follows a blob is a
// resolution, or a new state, of the blob's record: it keeps the blob.
func (l *opLog) final() (map[raidstorage.OID]lastStore, error) {
	final := make(map[raidstorage.OID]lastStore, len(l.ops))
	err := l.each(func(i int, o *op) error {
		if o.kind == opStore || o.kind == opBlob {
			final[o.oid] = lastStore{i, max(o.blob, final[o.oid].blob)}
		}
		return nil
	})
	return final, err
}

// replay stages all operations on tx, but of several stores of an object only the
// last one: a client that resolved conflicts stores again, and a blob comes after a
// store of its record. changed are the objects that are changed, but for undone ones.
func (l *opLog) replay(ctx context.Context, tx raidstorage.Txn, again bool) (changed []raidstorage.OID, err error) {
	var final map[raidstorage.OID]lastStore
	if again || len(l.blobs) > 0 {
		if final, err = l.final(); err != nil {
			return nil, err
		}
	}
	changed = make([]raidstorage.OID, 0, len(l.ops)+l.spilled)
	err = l.each(func(i int, o *op) error {
		blob := o.blob
		if final != nil && (o.kind == opStore || o.kind == opBlob) {
			last := final[o.oid]
			if last.index != i {
				return nil
			}
			blob = last.blob
		}
		if o.kind != opCheck && o.kind != opUndo {
			changed = append(changed, o.oid)
		}
		return l.stage(ctx, tx, o, blob)
	})
	return changed, err
}

func (l *opLog) stage(ctx context.Context, tx raidstorage.Txn, o *op, blob uint32) error {
	switch o.kind {
	case opStore, opBlob:
		if blob > 0 {
			return l.stageBlob(ctx, tx, o, l.blobs[blob-1])
		}
		return tx.Store(ctx, o.oid, o.serial, o.data)
	case opDelete:
		return tx.Delete(ctx, o.oid, o.serial)
	case opCheck:
		return tx.CheckCurrent(ctx, o.oid, o.serial)
	case opUndo:
		return raidstorage.Undo(ctx, tx, o.prev)
	}
	rec := raidstorage.Record{OID: o.oid, TID: o.serial, Data: o.data, DataTID: o.prev}
	if o.none {
		rec.Data = nil
	}
	return tx.Restore(ctx, rec)
}

// blobMover is a transaction that takes a file over, instead of copying it: the copy
// of a large blob would keep others waiting for the commit lock. After an error the
// file is where it was.
type blobMover interface {
	MoveBlob(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID, data []byte, path string) error
}

func (l *opLog) stageBlob(ctx context.Context, tx raidstorage.Txn, o *op, path string) error {
	if mover, ok := tx.(blobMover); ok && !l.again {
		return mover.MoveBlob(ctx, o.oid, o.serial, o.data, path)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return raidstorage.StoreBlob(ctx, tx, o.oid, o.serial, o.data, f)
}

// stored returns the data of the last store of oid, nil if there is none.
func (l *opLog) stored(oid raidstorage.OID) (data []byte, err error) {
	err = l.each(func(_ int, o *op) error {
		if o.oid == oid && (o.kind == opStore || o.kind == opBlob) {
			data = o.data
		}
		return nil
	})
	return data, err
}
