package filestorage

import (
	"context"
	"errors"
	"iter"

	"github.com/zeoraid/raidstorage"
)

// How the index file is saved while the storage is used.
//
// One goroutine, saveIndexes, writes it whenever enough was committed since. Commits
// and reads go on meanwhile. What is written is the index of one moment, of which two
// things matter:
//
//   - X1 It has the objects as they were at one position of the log, end, and says
//     so. An entry of a later transaction would be wrong, although Open reads the log
//     from end on again: if that transaction is lost in a crash, which a deferred one
//     may be, another may be written where it was. Python refuses such a file, too. So
//     the index notes where objects were before they change, see changes, and the
//     saver, which takes a few thousand entries at a time with mu held, undoes that.
//   - X2 All before end is on the disk for good: the moment is one at which no
//     transaction is shown that is not settled. So a crash cannot make the log shorter
//     than the index.
//
// The file is written under another name, synced, and renamed. A crash leaves the one
// before or the new one, both of which are right:
//
//   - X3 An index file is right as long as nothing before its end is cut off or moved.
//     TruncateAfter and Pack, which do that, remove it first, for good; naming is held
//     from there until the storage has changed, and by the saver while it looks whether
//     that has happened and renames. So no file of the time before comes after.
//
// Whatever fails here is logged: the next open takes longer then.

const (
	// defaultSaveAfter is how much of the log Open has to read at most, or about what
	// the index itself takes, if that is more.
	defaultSaveAfter = 64 << 20
	// saveTransactions is how many transactions are worth a save, if they are longer
	// than the index.
	saveTransactions = 10_000
	// saveBatch is how many entries the saver takes at a time with mu held.
	saveBatch = 2048
	// maxChanges bounds the memory of changes, about 64 MB.
	maxChanges = 1 << 20
)

// errStale says that what was to be saved is of no use any more.
var errStale = errors.New("transactions were cut off or packed, or too many objects changed, meanwhile")

// changes is where the objects were that have changed since it was made, so that the
// index as it was then can be read while it changes. The storage's mu guards it.
type changes struct {
	before map[raidstorage.OID]int64 // 0 for those that were not there
	lost   bool                      // whether there were too many, or an object was removed
}

// note keeps where oid was, unless it has changed before.
func (c *changes) note(oid raidstorage.OID, before int64) {
	if _, again := c.before[oid]; again || c.lost {
		return
	}
	if len(c.before) == maxChanges {
		c.before, c.lost = nil, true
		return
	}
	c.before[oid] = before
}

// undo returns e as it was, and false if it was not there.
func (c *changes) undo(e entry) (entry, bool) {
	if before, changed := c.before[e.oid]; changed {
		e.pos = before
	}
	return e, e.pos != 0
}

// startSaving makes the saver work. It may be time at once, after a crash.
func (s *Storage) startSaving() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.saves = s.saveAfter >= 0
	s.askForSaveLocked()
}

// askForSaveLocked wakes the saver if it is time, and starts it if there is none. Close
// ends it and waits.
func (s *Storage) askForSaveLocked() {
	if !s.saves || s.closed {
		return
	}
	size := s.end - max(s.saved, s.tried)
	due := size >= s.saveAfter
	if s.saveAfter == 0 {
		due = (size >= defaultSaveAfter || s.unsaved >= saveTransactions) && size >= bucketEntry*int64(s.index.count)
	}
	if !due {
		return
	}
	if s.saver == nil {
		s.saver = make(chan struct{})
		go s.saveIndexes()
	}
	select {
	case s.saveDue <- struct{}{}:
	default: // it is awake
	}
}

// saveIndexes saves the index whenever it is asked to, until Close.
func (s *Storage) saveIndexes() {
	defer close(s.saver)
	for {
		select {
		case <-s.closing:
			return
		case <-s.saveDue:
		}
		end, err := s.saveWhileUsed()
		if err == nil {
			s.log.Debug("the index was saved", "backend", s.path, "offset", end)
		} else if !errors.Is(err, raidstorage.ErrClosed) {
			s.log.Warn("the index was not saved", "backend", s.path, "err", err)
		}
	}
}

// moment is what is saved.
type moment struct {
	index *index
	end   int64
	cuts  uint64
}

// saveWhileUsed saves the index of now, and returns up to where.
func (s *Storage) saveWhileUsed() (int64, error) {
	m, err := s.beginMoment()
	if err != nil {
		return 0, err
	}
	defer s.endMoment(m)
	temp := s.path + indexTemp
	var failed error
	err = s.writeIndexFile(s.entriesOf(m, &failed), m.end)
	if err == nil && failed == nil {
		failed = s.placeIndexOf(m)
	}
	if err = errors.Join(err, failed); err != nil {
		return 0, errors.Join(err, removeIfThere(s.dir, temp))
	}
	return m.end, nil
}

// beginMoment notes changes from now on; endMoment ends that. There is one at a time.
func (s *Storage) beginMoment() (*moment, error) {
	if m, err := s.tryMoment(); m != nil || err != nil {
		return m, err
	}
	// Deferred transactions are not on the disk yet: X2.
	if err := s.lockCommit(context.Background()); err != nil { // Close ends it
		return nil, err
	}
	defer func() { <-s.commit }()
	m, err := s.tryMoment()
	if m == nil && err == nil {
		err = errStale
	}
	return m, err
}

func (s *Storage) tryMoment() (*moment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.writableLocked(); err != nil {
		return nil, err
	}
	if len(s.unsettled) > 0 {
		return nil, nil
	}
	s.tried, s.unsaved = s.end, 0
	s.index.changes = &changes{before: make(map[raidstorage.OID]int64)}
	return &moment{s.index, s.end, s.cuts.Load()}, nil
}

func (s *Storage) endMoment(m *moment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.index.changes = nil
}

// staleLocked returns why the moment cannot be saved, if so.
func (s *Storage) staleLocked(m *moment) error {
	switch {
	case s.closed:
		return raidstorage.ErrClosed
	case s.index != m.index || s.cuts.Load() != m.cuts || m.index.changes.lost:
		return errStale
	}
	return nil
}

// entriesOf yields the entries of the index at the moment, in order. It sets failed if
// they are not all.
func (s *Storage) entriesOf(m *moment, failed *error) iter.Seq[entry] {
	return func(yield func(entry) bool) {
		batch := make([]entry, 0, saveBatch)
		for next, more := raidstorage.OID(0), true; more; {
			var err error
			if batch, next, more, err = s.takeEntries(m, next, batch[:0]); err != nil {
				*failed = err
				return
			}
			for _, e := range batch {
				if !yield(e) {
					return
				}
			}
		}
	}
}

// takeEntries appends entries of the moment with oid ≥ from, and returns from where to
// go on, if there are more.
func (s *Storage) takeEntries(m *moment, from raidstorage.OID, batch []entry) (_ []entry, next raidstorage.OID, more bool, err error) {
	s.mu.RLock()
	for !m.index.ordered {
		s.mu.RUnlock()
		s.mu.Lock()
		m.index.sort()
		s.mu.Unlock()
		s.mu.RLock()
	}
	defer s.mu.RUnlock()
	if err := s.staleLocked(m); err != nil {
		return nil, 0, false, err
	}
	n := 0
	for e := range m.index.from(from) {
		if n == saveBatch {
			return batch, e.oid, true, nil
		}
		n++
		if was, there := m.index.changes.undo(e); there {
			batch = append(batch, was)
		}
	}
	return batch, 0, false, nil
}

// placeIndexOf gives the file that was written its name, unless it is stale: X3.
func (s *Storage) placeIndexOf(m *moment) error {
	defer s.holdNames()()
	s.mu.RLock()
	err := s.staleLocked(m)
	s.mu.RUnlock()
	if err != nil {
		return err
	}
	if err := s.dir.Rename(s.path+indexTemp, s.path+indexSuffix); err != nil {
		return err
	}
	s.mu.Lock()
	s.saved = m.end
	s.mu.Unlock()
	return nil
}

// holdNames waits until nobody else changes what the index file is, and returns the
// function that ends this. Whoever holds it does little.
func (s *Storage) holdNames() (release func()) {
	s.naming <- struct{}{}
	return func() { <-s.naming }
}

// writeIndexFile writes the file that becomes the index file, and syncs it.
func (s *Storage) writeIndexFile(entries iter.Seq[entry], end int64) error {
	f, err := s.dir.Create(s.path + indexTemp)
	if err != nil {
		return err
	}
	w := newVector(f).start(0)
	if err = writeIndex(w, entries, end); err == nil {
		err = w.Flush()
	}
	if err == nil && s.sync {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// saveIndex writes the index of all finished transactions. It is called while
// nobody else uses the storage.
func (s *Storage) saveIndex() error {
	s.index.sort()
	err := s.writeIndexFile(s.index.from(0), s.end)
	if err == nil {
		err = s.dir.Rename(s.path+indexTemp, s.path+indexSuffix)
	}
	if err != nil {
		return errors.Join(err, removeIfThere(s.dir, s.path+indexTemp))
	}
	s.saved = s.end
	return nil
}
