package filestorage

import (
	"fmt"
	"io/fs"
	"syscall"
)

// identityOf tells a file from another one, and when anything about it was changed.
func identityOf(info fs.FileInfo) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	return fmt.Sprintf(", file %d:%d, %d.%09d", st.Dev, st.Ino, st.Ctim.Sec, st.Ctim.Nsec)
}
