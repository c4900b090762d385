//go:build darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd

package filestorage

import (
	"errors"
	"os"
	"syscall"
)

func flock(f *os.File) error { return flockAs(f, syscall.LOCK_EX|syscall.LOCK_NB) }

func funlock(f *os.File) error { return flockAs(f, syscall.LOCK_UN) }

func flockAs(f *os.File, how int) error {
	for {
		err := syscall.Flock(int(f.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			return os.NewSyscallError("flock", err)
		}
	}
}
