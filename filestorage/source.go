package filestorage

import (
	"errors"
	"runtime/debug"
	"sync"
	"sync/atomic"
)

// source is the file that a storage reads: Data.fs as it is now, or, while a reader
// still needs it, as it was before it was replaced.
//
// Small reads are copies from a mapping of the file, which spares the system call,
// two thirds of the time of a load. A mapping reaches beyond the end of the file, so
// that it seldom has to be made again when the file grows; nothing beyond the end is
// ever read. Where the system cannot map, or a page cannot be read, the system call
// is used: it also knows what is wrong.
type source struct {
	file
	mapped  atomic.Pointer[[]byte] // the newest of maps
	growing sync.Mutex             // guards maps and unable
	maps    [][]byte               // all are kept until close: a reader may be at an old one
	unable  bool                   // whether mapping has failed
	marks   landmarks

	// calls counts the reads under way, each in one of several places, since two
	// processors that count in one place wait for each other.
	calls [shards]shard
	// Guarded by the storage's mu:
	pins    int  // iterators that read it
	retired bool // whether it was replaced
}

const shards = 16

type shard struct {
	sync.WaitGroup
	_ [112]byte // so that no two of them share a cache line
}

// mapAhead is how far beyond the end of the file a mapping reaches at least. It
// takes addresses, not memory.
const mapAhead = 1 << 30

// extend makes the mapping reach end, if it can.
func (src *source) extend(end int64) {
	f, ok := src.file.(osFile)
	if m := src.mapped.Load(); !ok || m != nil && int64(len(*m)) >= end {
		return
	}
	src.growing.Lock()
	defer src.growing.Unlock()
	if m := src.mapped.Load(); src.unable || m != nil && int64(len(*m)) >= end {
		return
	}
	b, err := mapFile(f.File, max(2*end, end+mapAhead))
	if err != nil {
		src.unable = true
		return
	}
	src.maps = append(src.maps, b)
	src.mapped.Store(&b)
}

// peek is ReadAt for what lies below the end of the last transaction. If certain is
// false, bytes that are 0 may be something else in the file.
func (src *source) peek(b []byte, off int64) (n int, certain bool, err error) {
	m := src.mapped.Load()
	if m != nil && off >= 0 && off <= int64(len(*m)-len(b)) && copyMapped(b, (*m)[off:]) {
		return len(b), false, nil
	}
	n, err = src.ReadAt(b, off)
	return n, true, err
}

// copyMapped fills dst from a mapping. It returns false if a page could not be read,
// for an error of the disk or because somebody cut the file. Of the last page of a
// file that was cut, all bytes behind its end read as 0, and that is no error.
func copyMapped(dst, mapped []byte) (ok bool) {
	_, ok, _ = guarded(func() (*flaw, error) {
		copy(dst, mapped[:len(dst)])
		return nil, nil
	})
	return ok
}

// guarded runs read, which reads a mapping; see copyMapped for ok.
func guarded(read func() (*flaw, error)) (bad *flaw, ok bool, err error) {
	before := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(before)
		if fault := recover(); fault != nil {
			if _, isFault := fault.(interface{ Addr() uintptr }); !isFault {
				panic(fault) // not by reading the mapping
			}
			ok = false
		}
	}()
	bad, err = read()
	return bad, true, err
}

// close unmaps and closes the file. Nobody reads it any more.
func (src *source) close() error {
	src.mapped.Store(nil)
	var errs []error
	for _, m := range src.maps {
		errs = append(errs, unmapFile(m))
	}
	src.maps = nil
	return errors.Join(append(errs, src.file.Close())...)
}

// wait waits for the reads under way. No other may begin.
func (src *source) wait() {
	for i := range src.calls {
		src.calls[i].Wait()
	}
}

// scratch is the memory of one read.
type scratch struct {
	buf   []byte
	shard int // where the read is counted: the pool keeps the goroutines of a processor together
}

// scratch returns memory for a read, to be put back into s.scratches.
func (s *Storage) scratch() *scratch {
	if sc, ok := s.scratches.Get().(*scratch); ok {
		return sc
	}
	return &scratch{buf: make([]byte, readSize), shard: int(s.nextShard.Add(1) % shards)}
}

// pin returns the current source, which stays open until unpin, but not longer than
// the storage. The caller holds mu.
func (s *Storage) pinLocked() *source {
	s.f.pins++
	return s.f
}

// unpin ends the use of a source. The last one to leave a replaced source closes it.
func (s *Storage) unpin(src *source) {
	s.mu.Lock()
	src.pins--
	last := src.pins == 0 && src.retired && !s.closed
	if last {
		delete(s.replaced, src)
	}
	s.mu.Unlock()
	if last {
		src.wait()
		_ = src.close() // it was only read
	}
}

// replace makes next the file of the storage; take, called with mu held, sets what
// else changes with it: index, end, last, and tail and tailTID. Readers that are at the
// old file finish there, on the positions of the old index, and iterators too. The
// caller holds the commit lock, see lockCommit, or, in a read-only storage, following.
func (s *Storage) replace(next *source, take func()) {
	s.mu.Lock()
	old := s.f
	s.f, old.retired = next, true
	s.writer = newVector(next)
	take()
	s.f.extend(s.end)
	unused := old.pins == 0
	if !unused {
		s.replaced[old] = struct{}{}
	}
	s.mu.Unlock()
	if unused {
		old.wait()
		if err := old.close(); err != nil {
			s.log.Warn("a replaced file was not closed", "backend", s.path, "err", err)
		}
	}
}

func newSource(f file) *source { return &source{file: f} }
