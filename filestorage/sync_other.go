//go:build !linux

package filestorage

import (
	"os"
	"runtime"
)

// datasync makes the file durable.
func datasync(f *os.File) error { return f.Sync() }

// ignoreUnsupportedSync drops the error of systems that sync no directories.
func ignoreUnsupportedSync(err error) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	return err
}
