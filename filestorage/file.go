package filestorage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/zeoraid/raidstorage"
)

// file is what the storage needs of its open file. Tests put failing ones in
// its place.
type file interface {
	io.ReaderAt
	io.WriterAt
	Truncate(size int64) error
	// Sync makes all that was written durable, and the file's length.
	Sync() error
	Close() error
}

// osFile is an *os.File that syncs no more than data and length, see datasync.
type osFile struct{ *os.File }

func (f osFile) Sync() error { return datasync(f.File) }

// readFull reads exactly len(b) bytes at off; less is an error.
func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// syncDir makes the names in path's directory durable.
func syncDir(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	err = dir.Sync()
	return errors.Join(ignoreUnsupportedSync(err), dir.Close())
}

// maxSiblings bounds the search for a free name.
const maxSiblings = 1 << 20

// newSibling creates the first file path.suffixN that is not there yet.
func newSibling(path, suffix string) (*os.File, error) {
	for i := range maxSiblings {
		f, err := os.OpenFile(fmt.Sprintf("%s.%s%d", path, suffix, i), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
		if !errors.Is(err, fs.ErrExist) {
			return f, err
		}
	}
	return nil, &raidstorage.InvalidError{Op: "keep " + suffix, Reason: "too many such files"}
}

// window reads a part of a file through a buffer that it moves along. It is for
// one goroutine.
type window struct {
	r    io.ReaderAt
	end  int64 // nothing is read from here on
	back bool  // whether one walks backwards: then the buffer lies before what was asked
	buf  []byte
	off  int64 // of buf[:n] in the file
	n    int
	m    []byte // a mapping of the file, below end, to use instead of r; nil if there is none
}

const windowSize = 64 << 10

// at returns n bytes at off, valid until the next call.
func (w *window) at(off int64, n int) ([]byte, error) {
	if off >= 0 && off <= int64(len(w.m)-n) {
		return w.m[off:][:n:n], nil
	}
	if off < w.off || off+int64(n) > w.off+int64(w.n) {
		if err := w.fill(off, n); err != nil {
			return nil, err
		}
	}
	return w.buf[off-w.off:][:n], nil
}

// read fills b from off: through the buffer what is in it or small, the rest past it.
func (w *window) read(b []byte, off int64) error {
	if off >= 0 && off <= int64(len(w.m)-len(b)) {
		copy(b, w.m[off:])
		return nil
	}
	if off >= w.off && off < w.off+int64(w.n) {
		n := copy(b, w.buf[off-w.off:w.n])
		b, off = b[n:], off+int64(n)
	}
	switch {
	case len(b) == 0:
		return nil
	case len(b) >= windowSize/2:
		return readFull(w.r, b, off)
	}
	part, err := w.at(off, len(b))
	copy(b, part)
	return err
}

func (w *window) fill(off int64, n int) error {
	if off < 0 || off+int64(n) > w.end {
		return io.ErrUnexpectedEOF
	}
	if n > len(w.buf) {
		w.buf = make([]byte, max(n, windowSize))
	}
	w.n = 0
	start := off
	if w.back {
		start = max(0, off+int64(n)-int64(len(w.buf)))
	}
	size := int(min(int64(len(w.buf)), w.end-start))
	if err := readFull(w.r, w.buf[:size], start); err != nil {
		return err
	}
	w.off, w.n = start, size
	return nil
}

// header reads the header of the transaction at pos.
func (w *window) header(pos int64) (txnHeader, *flaw, error) {
	if pos+txnHeaderLen > w.end {
		return txnHeader{pos: pos}, &flaw{pos: pos, tear: true, reason: "transaction header is incomplete"}, nil
	}
	b, err := w.at(pos, txnHeaderLen)
	if err != nil {
		return txnHeader{}, nil, err
	}
	h, bad := parseTxnHeader(b, pos, w.end)
	return h, bad, nil
}

// meta reads the metadata of the transaction with header h into new memory.
func (w *window) meta(h txnHeader) (raidstorage.Meta, error) {
	b, err := w.at(h.pos, int(h.headerLen()))
	if err != nil {
		return raidstorage.Meta{}, err
	}
	m := raidstorage.Meta{TID: h.tid, Status: h.status}
	if rest := append([]byte(nil), b[txnHeaderLen:]...); len(rest) > 0 {
		u, d := h.userLen, h.userLen+h.descLen
		m.User, m.Description, m.Extension = clip(rest[:u]), clip(rest[u:d]), clip(rest[d:])
	}
	return m, nil
}

// clip returns b without spare capacity, so that appending to it copies; nil for
// an empty one.
func clip(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b[:len(b):len(b)]
}

// record reads the header of the record at pos in the transaction with header h.
func (w *window) record(pos int64, h txnHeader) (recordHeader, *flaw, error) {
	b, err := w.at(pos, int(max(0, min(maxRecordHeaderLen, h.end()-pos))))
	if err != nil {
		return recordHeader{}, nil, err
	}
	rec, bad := parseRecordHeader(b, pos, h.end())
	switch {
	case bad != nil:
	case rec.txn != h.pos:
		bad = &flaw{pos: pos, oid: rec.oid, tid: rec.tid, reason: "record does not point to its transaction"}
	case rec.tid != h.tid:
		bad = &flaw{pos: pos, oid: rec.oid, tid: rec.tid, reason: "record has another tid than its transaction"}
	}
	if bad != nil && allZero(b) {
		bad.tear = true // never written: the file system had made the file longer already
	}
	return rec, bad, nil
}

// trailer checks the length at the end of the transaction.
func (w *window) trailer(h txnHeader) (*flaw, error) {
	b, err := w.at(h.end(), trailerLen)
	if err != nil {
		return nil, err
	}
	if binary.BigEndian.Uint64(b) != uint64(h.length) {
		return &flaw{pos: h.pos, tid: h.tid, tear: true, reason: "the two lengths of the transaction differ"}, nil
	}
	return nil, nil
}

// complete returns the header of the transaction at pos, a flaw unless all of it is
// there.
func (w *window) complete(pos int64) (txnHeader, *flaw, error) {
	h, bad, err := w.header(pos)
	if bad != nil || err != nil {
		return h, bad, err
	}
	if bad, err = w.trailer(h); bad != nil || err != nil {
		return h, bad, err
	}
	for pos := h.records(); pos < h.end(); {
		rec, bad, err := w.record(pos, h)
		if bad != nil || err != nil {
			return h, bad, err
		}
		pos = rec.next()
	}
	return h, nil, nil
}

// before returns the header of the transaction that ends at pos, found by its
// trailing length.
func (w *window) before(pos int64) (txnHeader, *flaw, error) {
	b, err := w.at(pos-trailerLen, trailerLen)
	if err != nil {
		return txnHeader{}, nil, err
	}
	length := binary.BigEndian.Uint64(b)
	if length > uint64(pos-magicLen-trailerLen) {
		return txnHeader{}, &flaw{pos: pos - trailerLen, reason: "trailing length of a transaction exceeds the file"}, nil
	}
	h, bad, err := w.header(pos - trailerLen - int64(length))
	if bad == nil && err == nil && uint64(h.length) != length {
		bad = &flaw{pos: h.pos, tid: h.tid, reason: "the two lengths of the transaction differ"}
	}
	return h, bad, err
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// spill is a temporary file for the data of a transaction too large for memory. It
// has no name, so that nothing of it outlives the process.
type spill struct {
	f    *os.File
	size int64
	once sync.Once
	err  error
}

func newSpill(path string) (*spill, error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".spill-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &spill{f: f}, nil
}

// add appends data and returns where it is.
func (s *spill) add(data []byte) (int64, error) {
	at := s.size
	if _, err := s.f.WriteAt(data, at); err != nil {
		return 0, err
	}
	s.size += int64(len(data))
	return at, nil
}

func (s *spill) close() error {
	s.once.Do(func() { s.err = s.f.Close() })
	return s.err
}
