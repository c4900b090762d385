package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// rotatingFile is a log file that begins anew when it is long enough.
type rotatingFile struct {
	cfg  LogFile
	slot chan struct{} // one slot, held across file operations; guards the fields below
	file *os.File      // nil when closed
	size int64
}

func openRotating(cfg LogFile) (*rotatingFile, error) {
	f := &rotatingFile{cfg: cfg, slot: make(chan struct{}, 1)}
	return f, f.openLocked()
}

func (f *rotatingFile) openLocked() error {
	file, err := os.OpenFile(f.cfg.Path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("log file: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("log file: %w", err), file.Close())
	}
	f.file, f.size = file, info.Size()
	return nil
}

// Write appends one line of the log.
func (f *rotatingFile) Write(line []byte) (int, error) {
	f.slot <- struct{}{}
	defer func() { <-f.slot }()
	if f.file == nil {
		return 0, fs.ErrClosed
	}
	var rotated error
	if f.cfg.MaxBytes > 0 && f.size > 0 && f.size+int64(len(line)) > f.cfg.MaxBytes {
		rotated = f.rotateLocked()
	}
	n, err := f.file.Write(line) // into the long file, rather than nowhere
	f.size += int64(n)
	return n, errors.Join(err, rotated)
}

// rotateLocked renames the file, and those that were renamed before. When it fails the
// file stays open.
func (f *rotatingFile) rotateLocked() error {
	name := func(i int) string {
		if i == 0 {
			return f.cfg.Path
		}
		return fmt.Sprintf("%s.%d", f.cfg.Path, i)
	}
	for i := f.cfg.OldFiles - 1; i >= 0; i-- {
		if err := os.Rename(name(i), name(i+1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return f.replaceLocked()
}

// replaceLocked opens the path again, and keeps the old file where that fails.
func (f *rotatingFile) replaceLocked() error {
	old := f.file
	if err := f.openLocked(); err != nil {
		return err
	}
	return old.Close()
}

func (f *rotatingFile) reopen() error {
	f.slot <- struct{}{}
	defer func() { <-f.slot }()
	if f.file == nil {
		return fs.ErrClosed
	}
	return f.replaceLocked()
}

func (f *rotatingFile) close() error {
	f.slot <- struct{}{}
	defer func() { <-f.slot }()
	if f.file == nil {
		return nil
	}
	err := f.file.Close()
	f.file = nil
	return err
}
