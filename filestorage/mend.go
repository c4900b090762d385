package filestorage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/pickleref"
)

// Mending puts the data of a record right that has changed on the disk. The record is
// overwritten in place, so a crash may leave a part of it as it was and a part as it is
// to be. Therefore:
//
//  1. A note with the old and the new bytes is written as Data.fs.mending and synced,
//     with its name.
//  2. The bytes that differ are written and synced.
//  3. The note is renamed to Data.fs.damaged0, or the next free number, and stays: it
//     is where the old bytes can be found. There are maxKept of them at most; then
//     nothing is mended until somebody looks at the disk and removes them.
//
// A crash before the note is whole leaves the old record, one after step 2 the new one.
// In between the next open for writing finds the note: if each byte of the record is the
// old or the new one, as a crash leaves them, it writes the new ones again; else it was
// changed by others since, or cannot be read, and stays as it is. No note keeps a file
// from being opened: a record that stays damaged is one that a verification finds again.
// Python does not know the note: while Data.fs.mending is there, open the file with this
// package first.
//
// No other bytes of the file are ever written by this, and never the index.

var _ raidstorage.Mender = (*Storage)(nil)

const (
	mendingSuffix = ".mending"
	damagedSuffix = ".damaged"
	// maxKept is how many damaged records, and how many damaged blobs, are kept.
	maxKept = 100
)

// CheckRecord implements raidstorage.Mender: a record is two pickles.
func (s *Storage) CheckRecord(record []byte) (whole bool, err error) {
	rest, err := pickleref.Check(record)
	return err == nil && rest == 0, err
}

// MendRecord implements raidstorage.Mender.
func (s *Storage) MendRecord(ctx context.Context, oid raidstorage.OID, tid raidstorage.TID, damaged, good []byte) (string, error) {
	if len(good) == 0 || len(damaged) != len(good) || bytes.Equal(damaged, good) {
		return "", &raidstorage.InvalidError{Op: "mend record", Reason: "the data must differ, and have one length"}
	}
	end, err := s.beginMending(ctx)
	if err != nil {
		return "", err
	}
	defer end()
	if err := s.noteWaits(); err != nil {
		return "", err
	}
	rec, err := s.recordIn(ctx, oid, tid)
	if err != nil {
		return "", err
	}
	now := make([]byte, len(damaged))
	switch {
	case rec.size == 0:
		return "", &raidstorage.InvalidError{Op: "mend record", Reason: "the record has no data of its own"}
	case rec.size != int64(len(damaged)):
		return "", &raidstorage.InvalidError{Op: "mend record", Reason: "its length is another one"}
	}
	if err := readFull(s.f.file, now, rec.data()); err != nil {
		return "", s.ioError("mend record: read", err)
	}
	if !bytes.Equal(now, damaged) {
		return "", &raidstorage.InvalidError{Op: "mend record", Reason: "the record is not what it was"}
	}
	kept, err := s.freeName()
	if err != nil {
		return "", err
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	n := mendNote{oid: oid, tid: tid, offset: rec.pos, damaged: damaged, good: good}
	if err := s.writeNote(&n); err != nil {
		return "", s.ioError("mend record: note", err)
	}
	err = s.patch(&n)
	if err == nil {
		err = s.keepNote(kept)
	}
	if err != nil { // the note tells the next open what to do
		s.fail("mending a record failed", err)
		return "", s.ioError("mend record", err)
	}
	s.log.Warn("a damaged record was mended", "backend", s.path, "oid", oid, "tid", tid, "offset", rec.data(), "kept", kept)
	return kept, nil
}

// beginMending makes sure that nothing else is written, or replaces the file, until end
// is called, and that Close waits for that.
func (s *Storage) beginMending(ctx context.Context) (end func(), err error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	select {
	case s.packing <- struct{}{}:
	default:
		s.calls.Done()
		return nil, &raidstorage.BusyError{Op: "mend", Holder: "pack", Since: time.Now()}
	}
	if err := s.lockCommit(ctx); err != nil {
		<-s.packing
		s.calls.Done()
		return nil, err
	}
	end = func() {
		<-s.commit
		<-s.packing
		s.calls.Done()
	}
	s.mu.RLock()
	err = s.writableLocked()
	s.mu.RUnlock()
	if err != nil {
		end()
		return nil, err
	}
	return end, nil
}

// recordIn finds the last record of oid in transaction tid by the log, not by the index.
func (s *Storage) recordIn(ctx context.Context, oid raidstorage.OID, tid raidstorage.TID) (recordHeader, error) {
	r, err := s.newLogReader(ctx)
	if err != nil {
		return recordHeader{}, err
	}
	defer r.close()
	r.unmapped = true
	missing := &raidstorage.NotFoundError{OID: oid, Serial: tid}
	pos, err := r.find(tid)
	if err != nil {
		return recordHeader{}, err
	}
	if pos >= r.end {
		return recordHeader{}, missing
	}
	var found recordHeader
	err = r.step(func() (*flaw, error) {
		h, bad, err := r.w.header(pos)
		if bad != nil || err != nil || h.tid != tid {
			return bad, err
		}
		for pos := h.records(); pos < h.end(); {
			rec, bad, err := r.w.record(pos, h)
			if bad != nil || err != nil {
				return bad, err
			}
			if rec.oid == oid {
				found = rec
			}
			pos = rec.next()
		}
		return nil, nil
	})
	if err == nil && found.pos == 0 {
		err = missing
	}
	return found, err
}

// patch does step 2, and reads back what it wrote.
func (s *Storage) patch(n *mendNote) error {
	first, last := n.span()
	at := n.data() + int64(first)
	if _, err := s.f.WriteAt(n.good[first:last], at); err != nil {
		return err
	}
	if err := s.f.Sync(); err != nil {
		return err
	}
	got := make([]byte, len(n.good))
	if err := readFull(s.f.file, got, n.data()); err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if !bytes.Equal(got, n.good) {
		return errors.New("what was read back is not what was written")
	}
	return nil
}

// writeNote does step 1.
func (s *Storage) writeNote(n *mendNote) error {
	info, err := os.Stat(s.path)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(s.path+mendingSuffix, os.O_WRONLY|os.O_CREATE|os.O_EXCL, info.Mode().Perm())
	if err != nil {
		return err
	}
	if _, err = f.Write(n.bytes()); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = syncDir(s.path)
	}
	if err != nil { // nothing was patched
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// noteWaits refuses to repair anything before the next open has tried again what a note of
// an earlier repair tells of.
func (s *Storage) noteWaits() error {
	path := s.path + mendingSuffix
	info, err := os.Lstat(path)
	if err != nil {
		return nil // writeNote tells, if it is not that there is none
	}
	return &raidstorage.BusyError{Op: "mend record", Holder: "repair", Since: info.ModTime(), Reason: "the next open of the storage tries again what " + path + " tells of"}
}

// freeName returns where the next note is to be kept.
func (s *Storage) freeName() (string, error) {
	for i := range maxKept {
		kept := fmt.Sprintf("%s%s%d", s.path, damagedSuffix, i)
		if _, err := os.Lstat(kept); errors.Is(err, fs.ErrNotExist) {
			return kept, nil
		} else if err != nil {
			return "", s.ioError("mend record: look for a name", err)
		}
	}
	return "", tooManyKept(s.path + damagedSuffix + "0")
}

func tooManyKept(path string) error {
	return &raidstorage.InvalidError{Op: "mend", Reason: fmt.Sprintf("there are %d files such as %s: look at the disk, and remove them", maxKept, path)}
}

// keepNote does step 3.
func (s *Storage) keepNote(kept string) error {
	if err := os.Rename(s.path+mendingSuffix, kept); err != nil {
		return err
	}
	return syncDir(s.path)
}

// finishMending ends what a crash interrupted. Open calls it, with the file locked. What
// cannot be done is told, and stays as it is.
func (s *Storage) finishMending() {
	n, err := s.readNote()
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	outcome, kept, again := "", s.path+mendingSuffix, false
	switch {
	case err != nil:
		outcome = "the note cannot be used, so the record stays as it is: " + err.Error()
	case s.readOnly:
		outcome = "the next open for writing puts it right"
	default:
		outcome, again = s.endMending(n)
	}
	if !s.readOnly && !again {
		free, err := s.freeName()
		if err == nil {
			err = s.keepNote(free)
		}
		if err == nil {
			kept = free
		} else {
			outcome += fmt.Sprintf("; the note stays where it is (%v)", err)
		}
	}
	s.log.Warn("a crash interrupted the mending of a record", "backend", s.path, "oid", n.oid, "tid", n.tid, "kept", kept, "outcome", outcome)
}

// endMending writes a record again of which a part may be written, and tells what came
// of it, and whether the next open has to try again.
func (s *Storage) endMending(n *mendNote) (outcome string, again bool) {
	state, err := s.mendState(n)
	if err == nil && state == mendPartly {
		err = s.patch(n)
	}
	switch {
	case err != nil:
		return "the record cannot be put right, and the next open tries again: " + err.Error(), true
	case state == mendOther:
		return "the record has been changed since, and stays as it is", false
	}
	return "it was put right", false
}

// readNote reads the note that a crash left. It never returns nil.
func (s *Storage) readNote() (*mendNote, error) {
	none := &mendNote{}
	info, err := os.Lstat(s.path + mendingSuffix)
	if err != nil {
		return none, err
	}
	if !info.Mode().IsRegular() { // to open a pipe would wait for somebody
		return none, errors.New("it is no regular file")
	}
	f, err := os.Open(s.path + mendingSuffix)
	if err != nil {
		return none, err
	}
	defer f.Close()
	if info.Size() > noteHeadMax+2*s.end {
		return none, errors.New("it is longer than the file")
	}
	b, err := io.ReadAll(io.LimitReader(f, info.Size()))
	if err != nil {
		return none, err
	}
	if n, ok := parseNote(b); ok {
		return n, nil
	}
	return none, errors.New("it is incomplete, so that nothing had been written")
}

// How much of a note is done.
const (
	mendPartly = iota // or nothing
	mendDone
	mendOther // the record is another one, or neither as it was nor as it is to be
)

func (s *Storage) mendState(n *mendNote) (int, error) {
	end := n.data() + int64(len(n.good))
	if n.offset < magicLen+txnHeaderLen || n.offset > s.end || end > s.end {
		return mendOther, nil
	}
	b := make([]byte, end-n.offset)
	if err := readFull(s.f.file, b, n.offset); err != nil {
		return 0, err
	}
	rec, bad := parseRecordHeader(b, n.offset, s.end)
	if bad != nil || rec.oid != n.oid || rec.tid != n.tid || rec.size != int64(len(n.good)) {
		return mendOther, nil
	}
	now := b[recordHeaderLen:]
	if bytes.Equal(now, n.good) {
		return mendDone, nil
	}
	for i, c := range now {
		if c != n.good[i] && c != n.damaged[i] {
			return mendOther, nil
		}
	}
	return mendPartly, nil
}
