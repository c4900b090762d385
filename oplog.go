package raidstorage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
)

// opKind is one of Txn's staging methods.
type opKind uint8

const (
	opStore opKind = iota
	opDelete
	opCheck
	opRestore
	opUndo
	opBlob
)

// op is one staged call.
type op struct {
	kind    opKind
	spilled bool // data is in the spool file, at offset
	oid     OID
	serial  TID // of the revision read; of the record to restore; of the transaction to undo
	dataTID TID
	data    []byte
	offset  int64
	size    int
	blob    *blobSpool
}

// opLog is the content of a transaction until it votes: rule C1 wants no backend to
// be held by a slow client. What exceeds the limit waits in a temporary file. It is
// written by one goroutine, then read by several at once.
type opLog struct {
	dir    string
	limit  int64 // of bytes in memory
	memory int64
	ops    []op
	file   *os.File // nil until needed
	end    int64
	maxOID OID
	blobs  bool
	// users counts the transaction and the workers that replay it: one that hangs
	// may come back when the transaction has long ended.
	users atomic.Int32
}

func (l *opLog) add(o op) error {
	l.maxOID = max(l.maxOID, o.oid)
	if o.data != nil {
		o.size = len(o.data)
		if l.memory += int64(o.size); l.memory > l.limit {
			if err := l.spill(&o); err != nil {
				return err
			}
		}
	}
	l.ops = append(l.ops, o)
	return nil
}

func (l *opLog) spill(o *op) error {
	if l.file == nil {
		f, err := tempFile(l.dir)
		if err != nil {
			return err
		}
		l.file = f
	}
	if _, err := l.file.WriteAt(o.data, l.end); err != nil {
		return fmt.Errorf("spool transaction: %w", err)
	}
	l.memory -= int64(o.size)
	o.spilled, o.offset, o.data = true, l.end, nil
	l.end += int64(o.size)
	return nil
}

func (l *opLog) addBlob(o op, blob io.Reader) error {
	spool, err := newBlobSpool(l.dir, blob)
	if err != nil {
		return err
	}
	return l.addSpool(o, spool)
}

func (l *opLog) addSpool(o op, spool *blobSpool) error {
	l.blobs = true
	o.blob = spool
	if err := l.add(o); err != nil {
		return errors.Join(err, spool.file.Close())
	}
	return nil
}

// replay stages everything in txn.
func (l *opLog) replay(ctx context.Context, meta Meta, txn Txn) error {
	for i := range l.ops {
		o := &l.ops[i]
		data, err := l.read(o)
		if err != nil {
			return err
		}
		switch o.kind {
		case opStore:
			err = txn.Store(ctx, o.oid, o.serial, data)
		case opDelete:
			err = txn.Delete(ctx, o.oid, o.serial)
		case opCheck:
			err = txn.CheckCurrent(ctx, o.oid, o.serial)
		case opUndo:
			err = Undo(ctx, txn, o.serial)
		case opRestore:
			r := Record{OID: o.oid, TID: meta.TID, Data: data, DataTID: o.dataTID}
			if o.blob != nil {
				r.OpenBlob = o.blob.open
			}
			err = txn.Restore(ctx, r)
		case opBlob:
			err = o.storeBlob(ctx, txn, data)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// read returns the data of one of l's calls.
func (l *opLog) read(o *op) ([]byte, error) {
	if !o.spilled {
		return o.data, nil
	}
	data := make([]byte, o.size)
	if _, err := l.file.ReadAt(data, o.offset); err != nil {
		return nil, &spoolError{err}
	}
	return data, nil
}

func (o *op) storeBlob(ctx context.Context, txn Txn, data []byte) error {
	r, err := o.blob.open(ctx)
	if err != nil {
		return err
	}
	return errors.Join(StoreBlob(ctx, txn, o.oid, o.serial, data, r), r.Close())
}

// acquire keeps the temporary files for a replay; false: they are gone.
func (l *opLog) acquire() bool {
	for {
		n := l.users.Load()
		if n == 0 || l.users.CompareAndSwap(n, n+1) {
			return n > 0
		}
	}
}

// release removes the temporary files when nobody uses them any more.
func (l *opLog) release() {
	if l.users.Add(-1) > 0 {
		return
	}
	if l.file != nil {
		l.file.Close()
	}
	if l.blobs {
		for _, o := range l.ops {
			if o.blob != nil {
				o.blob.file.Close()
			}
		}
	}
}

// blobSpool holds a blob in a temporary file, to be read several times at once.
type blobSpool struct {
	file *os.File
	size int64
}

func newBlobSpool(dir string, blob io.Reader) (*blobSpool, error) {
	f, err := tempFile(dir)
	if err != nil {
		return nil, err
	}
	n, err := io.Copy(f, blob)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("spool blob: %w", err), f.Close())
	}
	return &blobSpool{file: f, size: n}, nil
}

// openBlobSpool is a spool of the file at path.
func openBlobSpool(path string) (*blobSpool, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // to open another may wait
		return nil, &InvalidError{Op: "move blob", Reason: path + " is not a regular file"}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if info, err = f.Stat(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &blobSpool{file: f, size: info.Size()}, nil
}

func (b *blobSpool) open(context.Context) (io.ReadCloser, error) {
	return io.NopCloser(&spoolReader{spool: b}), nil
}

// spoolReader reads a spooled blob. An end before its size is an error: a blob that
// was cut short must not be committed.
type spoolReader struct {
	spool  *blobSpool
	offset int64
}

// Read implements io.Reader.
func (r *spoolReader) Read(p []byte) (int, error) {
	left := r.spool.size - r.offset
	if left == 0 {
		return 0, io.EOF
	}
	n, err := r.spool.file.ReadAt(p[:min(int64(len(p)), left)], r.offset)
	r.offset += int64(n)
	if err != nil && n < len(p) && r.offset < r.spool.size {
		return n, &spoolError{cmp.Or(err, io.ErrUnexpectedEOF)}
	}
	return n, nil
}

// tempFile makes a file without a name, so that nothing is left of it after a crash.
func tempFile(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "raidstorage-*")
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("spool: %w", err), f.Close())
	}
	return f, nil
}
