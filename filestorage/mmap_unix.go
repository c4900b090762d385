//go:build darwin || freebsd || linux

package filestorage

import (
	"math"
	"os"
	"syscall"
)

// mapFile maps size bytes of f for reading, beyond the end of the file too: what is
// written there later shows in the mapping. These systems keep one copy of a file
// in memory, so that a mapping always shows what WriteAt has written.
func mapFile(f *os.File, size int64) ([]byte, error) {
	if size > math.MaxInt {
		return nil, syscall.ENOMEM // a 32-bit system
	}
	return syscall.Mmap(int(f.Fd()), 0, int(size), syscall.PROT_READ, syscall.MAP_SHARED)
}

func unmapFile(b []byte) error { return os.NewSyscallError("munmap", syscall.Munmap(b)) }
