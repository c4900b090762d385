package filestorage_test

import (
	"syscall"
	"testing"

	"github.com/zeoraid/raidstorage/filestorage"
)

// Whatever has the name of a note keeps nobody from opening the file.
func TestANoteThatIsAPipeDoesNotHoldUpOpen(t *testing.T) {
	t.Parallel()
	r := rot(t, rotBit(5))
	if err := syscall.Mkfifo(r.path+".mending", 0o600); err != nil {
		t.Fatal(err)
	}
	s := openFor(t, r.path, filestorage.Options{})
	if _, err := r.mend(s); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	r.wantFile(r.sound)
}
