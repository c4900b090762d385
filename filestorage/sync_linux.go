package filestorage

import (
	"errors"
	"os"
	"syscall"
)

// datasync makes the file's data and length durable, but not its times: flipping
// a status byte costs no journal commit of the file system that way.
func datasync(f *os.File) error {
	for {
		err := syscall.Fdatasync(int(f.Fd()))
		if !errors.Is(err, syscall.EINTR) {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}

// ignoreUnsupportedSync drops the error of file systems that sync no directories.
func ignoreUnsupportedSync(err error) error {
	if errors.Is(err, syscall.EINVAL) {
		return nil
	}
	return err
}
