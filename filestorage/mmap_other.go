//go:build !darwin && !freebsd && !linux

package filestorage

import (
	"errors"
	"os"
)

// mapFile is not for this system: all reads are system calls.
func mapFile(*os.File, int64) ([]byte, error) { return nil, errors.ErrUnsupported }

func unmapFile([]byte) error { return nil }
