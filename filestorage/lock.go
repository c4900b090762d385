package filestorage

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// LockedError says that another process, Python or Go, or another Storage of this
// one has the file open for writing.
type LockedError struct {
	Path string // of the lock file
	Err  error  // what the system said
}

func (e *LockedError) Error() string {
	return fmt.Sprintf("%s is locked: another process has the storage open (%v)", e.Path, e.Err)
}

func (e *LockedError) Unwrap() error { return e.Err }

// lockFile takes the lock that Python's zc.lockfile takes: an exclusive flock on a
// file beside the data. The file stays when the lock is released: removing it would
// let two processes lock two files of the same name.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, err
	}
	if err := flock(f); err != nil {
		_ = f.Close() // nothing was written to it
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, &LockedError{Path: path, Err: err}
		}
		return nil, err
	}
	content := fmt.Sprintf(" %d\n", os.Getpid())
	if _, err = f.WriteAt([]byte(content), 0); err == nil {
		err = f.Truncate(int64(len(content)))
	}
	if err != nil {
		_ = f.Close() // the first error is the one to report
		return nil, err
	}
	return f, nil
}

// unlockFile releases the lock. Closing the file alone would leave it locked while a
// process that this one is just starting still has a copy of the descriptor.
func unlockFile(f *os.File) error { return errors.Join(funlock(f), f.Close()) }
