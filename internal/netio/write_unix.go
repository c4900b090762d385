//go:build unix

package netio

import "syscall"

const supported = true

func write(fd uintptr, b []byte) (int, error) { return syscall.Write(int(fd), b) }

// verdict tells whether an error says that the system takes no more now, or that the
// call is to be made again.
func verdict(err error) (full, again bool) {
	return err == syscall.EAGAIN, err == syscall.EINTR
}
