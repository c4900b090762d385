//go:build !(darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd)

package filestorage

import (
	"os"

	"github.com/zeoraid/raidstorage"
)

// flock refuses: without a lock that Python respects two writers could meet.
func flock(*os.File) error {
	return &raidstorage.UnsupportedError{Capability: "file locking"}
}

// funlock has nothing to release.
func funlock(*os.File) error { return nil }
