package filestorage

import (
	"context"
	"io"
	"iter"
	"sync/atomic"

	"github.com/zeoraid/raidstorage"
)

// File is what fault tests wrap.
type File = file

// OpenWith is Open with a wrapped file.
func OpenWith(ctx context.Context, path string, opts Options, wrap func(File) File) (*Storage, error) {
	return openWith(ctx, path, opts, wrap)
}

// SpillAfter is how much of a transaction stays in memory.
const SpillAfter = spillAfter

// ReadIndex reads an index file and returns its entries.
func ReadIndex(r io.Reader, size int64) (entries map[uint64]int64, end int64, err error) {
	x, end, err := readIndex(r, size)
	if err != nil {
		return nil, 0, err
	}
	entries = make(map[uint64]int64)
	for e := range x.from(0) {
		entries[uint64(e.oid)] = e.pos
	}
	return entries, end, nil
}

// WriteIndex writes an index file of the entries.
func WriteIndex(w io.Writer, entries map[uint64]int64, end int64) error {
	x := newIndex()
	for oid, pos := range entries {
		x.set(raidstorage.OID(oid), pos)
	}
	x.sort()
	return writeIndex(w, x.from(0), end)
}

// FailingFile fails all writes, truncations and syncs from call number At on,
// counted from 0; reads go on.
type FailingFile struct {
	File
	At    int64
	Err   error
	Once  bool // fails one call only
	Short bool // a failing write writes half
	calls atomic.Int64
}

func (f *FailingFile) fails() bool {
	n := f.calls.Add(1) - 1
	return n == f.At || n > f.At && !f.Once
}

// FailNext makes the next call fail.
func (f *FailingFile) FailNext() { f.At = f.calls.Load() }

// Fired tells whether a call has failed.
func (f *FailingFile) Fired() bool { return f.calls.Load() > f.At }

// WriteAt may fail.
func (f *FailingFile) WriteAt(b []byte, off int64) (int, error) {
	if !f.fails() {
		return f.File.WriteAt(b, off)
	}
	if f.Short {
		n, _ := f.File.WriteAt(b[:len(b)/2], off)
		return n, f.Err
	}
	return 0, f.Err
}

// Truncate may fail.
func (f *FailingFile) Truncate(size int64) error {
	if f.fails() {
		return f.Err
	}
	return f.File.Truncate(size)
}

// Sync may fail.
func (f *FailingFile) Sync() error {
	if f.fails() {
		return f.Err
	}
	return f.File.Sync()
}

// Index lends the index to tests.
type Index struct{ x *index }

// NewIndex returns an empty index.
func NewIndex() Index { return Index{newIndex()} }

// Set is index.set.
func (x Index) Set(oid raidstorage.OID, pos int64) { x.x.set(oid, pos) }

// Get is index.get.
func (x Index) Get(oid raidstorage.OID) int64 { return x.x.get(oid) }

// Remove is index.remove.
func (x Index) Remove(oid raidstorage.OID) { x.x.remove(oid) }

// Len is index.count.
func (x Index) Len() int { return x.x.count }

// From is index.from.
func (x Index) From(oid raidstorage.OID) iter.Seq2[raidstorage.OID, int64] {
	x.x.sort()
	return func(yield func(raidstorage.OID, int64) bool) {
		for e := range x.x.from(oid) {
			if !yield(e.oid, e.pos) {
				return
			}
		}
	}
}

// Write is writeIndex.
func (x Index) Write(w io.Writer, end int64) error {
	x.x.sort()
	return writeIndex(w, x.x.from(0), end)
}

// LoadIndex is readIndex.
func LoadIndex(r io.Reader, size int64) (Index, error) {
	x, _, err := readIndex(r, size)
	if err != nil {
		x = newIndex()
	}
	return Index{x}, err
}

// SaveIndexNow is what the saver does when it is asked to.
func SaveIndexNow(s *Storage) (int64, error) { return s.saveWhileUsed() }

// Mapped tells whether the storage reads through a mapping.
func Mapped(s *Storage) bool { return s.f.mapped.Load() != nil }

// ShortenMapping makes the mapping end at size.
func ShortenMapping(s *Storage, size int) {
	b, err := mapFile(s.f.file.(osFile).File, int64(size))
	if err == nil {
		s.f.maps = append(s.f.maps, b)
		s.f.mapped.Store(&b)
	}
}

// Queued returns how many transactions wait for the disk.
func Queued(s *Storage) int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.queue)
}

// SetSettleAfter sets after how many deferred transactions a round begins.
func SetSettleAfter(s *Storage, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settleAfter = n
}

// LateEarlySync returns the early sync of a voted transaction, to be done when the test
// likes: its goroutine may get to run at any time.
func LateEarlySync(s *Storage, voted raidstorage.Txn) func() {
	p := voted.(*txn).pending
	return func() {
		p.early = make(chan struct{})
		s.syncEarly(p)
	}
}

// What bounds the rounds.
const (
	MaxBatch    = maxBatch
	MaxDeferred = maxDeferred
)

// Landmarks are the landmarks of a file.
type Landmarks struct{ l landmarks }

// What bounds them.
const (
	MaxLandmarks   = maxLandmarks
	LandmarksApart = landmarksApart
)

func (l *Landmarks) Reader() int                                   { return l.l.reader() }
func (l *Landmarks) Note(tid raidstorage.TID, pos int64, cuts int) { l.l.note(tid, pos, cuts) }
func (l *Landmarks) Cut(pos int64)                                 { l.l.cut(pos) }
func (l *Landmarks) Len() int                                      { return len(l.l.points) }
func (l *Landmarks) Around(from raidstorage.TID, start, end int64) (front, back int64) {
	return l.l.around(from, start, end)
}
