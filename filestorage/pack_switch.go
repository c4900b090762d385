package filestorage

import (
	"errors"
	"io/fs"
	"os"
	"time"
)

// Suffixes of the files that a pack makes, as Python names them.
const (
	packSuffix = ".pack"
	oldSuffix  = ".old"
	// packIndexTemp is the index of the packed file before that is in place.
	packIndexTemp = ".pack.index"
)

// dirOps is what a pack does with names. Tests put failing ones in its place.
type dirOps interface {
	// Create makes an empty file for reading and writing, over one that is there.
	Create(path string) (file, error)
	Remove(path string) error
	Link(old, new string) error
	Rename(old, new string) error
	// SyncDir makes the names in path's directory durable.
	SyncDir(path string) error
}

// osDir is the file system.
type osDir struct{}

func (osDir) Create(path string) (file, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (osDir) Remove(path string) error     { return os.Remove(path) }
func (osDir) Link(old, new string) error   { return os.Link(old, new) }
func (osDir) Rename(old, new string) error { return os.Rename(old, new) }
func (osDir) SyncDir(path string) error    { return syncDir(path) }

// maxRounds and smallRest say when what is committed meanwhile is copied with the
// commit lock held: if it is little, or if commits come faster than they are copied.
const (
	maxRounds = 16
	smallRest = 1 << 20
)

// rewrite writes the new file and switches to it. It returns true if a transaction
// that was committed meanwhile refers to what was not copied: then the pack must
// begin again, with that marked.
func (p *packer) rewrite() (again bool, err error) {
	defer p.discard()
	if nothing, err := p.copyAll(); nothing || err != nil {
		return false, err
	}
	if again, err := p.catchUp(); again || err != nil {
		return again, err
	}
	return p.switchOver()
}

// discard ends the writing of the new file, and removes it unless it has become the
// storage's.
func (p *packer) discard() {
	if p.out == nil || p.out.stopped {
		return
	}
	p.out.stop()
	if p.out.adopted {
		return
	}
	// It is of no use: whatever goes wrong now, the next open removes it.
	_ = p.out.f.Close()
	_ = p.remove(packSuffix)
	_ = p.remove(packIndexTemp)
}

// copyAll writes the new file as far as the log is known, and tells whether there is
// nothing to free.
func (p *packer) copyAll() (nothing bool, err error) {
	s := p.s
	// Python frees the space first, too.
	if err := p.remove(oldSuffix); err != nil {
		return false, s.ioError("pack: remove the old file", err)
	}
	f, err := s.dir.Create(s.path + packSuffix)
	if err != nil {
		return false, s.ioError("pack: create", err)
	}
	p.out, p.index = newPackOut(f, s.sync), nil
	if err := p.sameMode(); err != nil {
		return false, s.ioError("pack: permissions of the new file", err)
	}
	for pos := range p.kept {
		p.kept[pos] = 0
	}
	p.rewind()
	if err := p.copyToPackTime(); err != nil {
		return false, p.outError(err)
	}
	if p.newPack == p.packPos {
		p.finish("nothing to free")
		return true, p.outError(p.out.failed())
	}
	return false, p.outError(p.copyLater(p.packPos, p.end))
}

// sameMode gives the new file the permissions of the old one: a database that others
// may not read must not become readable.
func (p *packer) sameMode() error {
	info, err := os.Stat(p.s.path)
	if err != nil {
		return err
	}
	return os.Chmod(p.s.path+packSuffix, info.Mode().Perm())
}

// rewind makes the window read from the beginning again.
func (p *packer) rewind() { p.w.off, p.w.n = 0, 0 }

// outError says which storage the error of a write is about.
func (p *packer) outError(err error) error {
	if err != nil && err == p.out.failed() {
		return p.s.ioError("pack: write", err)
	}
	return err
}

// catchUp copies what was committed since, but for little.
func (p *packer) catchUp() (again bool, err error) {
	s := p.s
	for range maxRounds {
		s.mu.RLock()
		end := s.settledLocked()
		s.mu.RUnlock()
		if end-p.end <= smallRest {
			break
		}
		if again, err := p.copyRest(end); again || err != nil {
			return again, err
		}
	}
	// So that syncing takes the less while committers wait, and the index file less
	// still: it may end earlier than the data.
	if err := p.out.flush(s.sync); err != nil {
		return false, p.outError(err)
	}
	if err := p.saveIndex(); err != nil {
		return false, s.ioError("pack: save the index", err)
	}
	return false, nil
}

// switchOver copies the rest with the commit lock held, and switches.
func (p *packer) switchOver() (again bool, err error) {
	s := p.s
	if err := s.lockCommit(p.ctx); err != nil {
		return false, err
	}
	defer func() { <-s.commit }()
	start := time.Now()
	defer func() { p.locked += time.Since(start) }()
	s.mu.RLock()
	end, err := s.end, s.writableLocked()
	s.mu.RUnlock()
	if err != nil {
		return false, err
	}
	if again, err := p.copyRest(end); again || err != nil {
		return again, err
	}
	if err := p.out.flush(s.sync); err != nil {
		return false, p.outError(err)
	}
	if s.cuts.Load() != p.cuts {
		return false, errCut
	}
	return false, p.switchFiles()
}

// errCut never leaves Pack: see packer.because.
var errCut = errors.New("transactions were cut off")

// copyRest copies the transactions from p.end on to end.
func (p *packer) copyRest(end int64) (again bool, err error) {
	from := p.end
	if from == end {
		return false, nil
	}
	p.grow(end)
	if p.marks != nil {
		known := p.marks.count
		if err := p.readLater(from); err != nil {
			return false, err
		}
		if p.marks.count != known {
			return true, nil
		}
	}
	if err := p.settle(from); err != nil {
		return false, p.outError(err)
	}
	return false, p.outError(p.copyLater(from, end))
}

// saveIndex writes the index of the new file as it is now.
func (p *packer) saveIndex() (err error) {
	f, err := p.s.dir.Create(p.s.path + packIndexTemp)
	if err != nil {
		return err
	}
	p.index.sort()
	w := newVector(f).start(0)
	if err = writeIndex(w, p.index.from(0), p.out.pos()); err == nil {
		err = w.Flush()
	}
	if err == nil && p.s.sync {
		err = f.Sync()
	}
	p.indexed = p.out.pos()
	return errors.Join(err, f.Close())
}

// switchFiles puts the new file in the place of the old one. The caller holds the
// commit lock.
func (p *packer) switchFiles() error {
	s := p.s
	defer s.holdNames()() // see X3 in indexsave.go
	// An index of the old file could look right beside the new one.
	if err := p.remove(indexSuffix); err != nil {
		return s.ioError("pack: remove the index", err)
	}
	s.mu.Lock()
	s.saved, s.tried = 0, 0
	s.mu.Unlock()
	if !s.dropOld {
		if err := s.dir.Link(s.path, s.path+oldSuffix); err != nil {
			return s.ioError("pack: keep the old file (Options.PackDropOld would not)", err)
		}
	}
	err := s.dir.SyncDir(s.path)
	if err == nil {
		err = s.dir.Rename(s.path+packSuffix, s.path)
	}
	if err != nil {
		if !s.dropOld {
			_ = p.remove(oldSuffix) // another name of the file that stays
		}
		return s.ioError("pack: switch", err)
	}
	// The new file has the name now, so it must be the one that is written to.
	p.out.adopted = true
	err = s.dir.SyncDir(s.path)
	if err != nil {
		err = s.ioError("pack: switch", err)
		s.fail("the packed file may not have its name for good", err)
	}
	end := p.out.pos()
	p.index.sort()
	s.replace(newSource(p.out.f), func() { s.index, s.end, s.tail = p.index, end, end })
	p.outcome, p.after = "packed", end
	if err == nil {
		p.placeIndex()
	}
	return err
}

// placeIndex gives the index of the new file its name.
func (p *packer) placeIndex() {
	s := p.s
	if err := s.dir.Rename(s.path+packIndexTemp, s.path+indexSuffix); err != nil {
		s.log.Warn("the index was not saved", "backend", s.path, "err", err)
		return
	}
	s.mu.Lock()
	s.saved = p.indexed
	s.mu.Unlock()
}

// remove removes the file with a suffix, if it is there.
func (p *packer) remove(suffix string) error { return removeIfThere(p.s.dir, p.s.path+suffix) }

func removeIfThere(dir dirOps, path string) error {
	if err := dir.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// clearPack removes what a pack left that a crash ended: files that nobody needs, and
// a second name of Data.fs itself. It is called by Open, with the lock file locked.
func (s *Storage) clearPack() error {
	for _, suffix := range []string{packSuffix, packIndexTemp} {
		if err := removeIfThere(s.dir, s.path+suffix); err != nil {
			return err
		}
	}
	data, err := os.Stat(s.path)
	if err != nil {
		return err
	}
	if old, err := os.Lstat(s.path + oldSuffix); err == nil && os.SameFile(data, old) {
		return removeIfThere(s.dir, s.path+oldSuffix)
	}
	return nil
}
