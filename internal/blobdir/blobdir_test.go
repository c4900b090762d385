package blobdir_test

import (
	"path/filepath"
	"testing"

	"github.com/zeoraid/raidstorage/internal/blobdir"
)

// TestFilesAreWherePythonPutsThem: the paths are those of FilesystemHelper(dir, layout)
// .getBlobFilename(p64(oid), p64(tid)).
func TestFilesAreWherePythonPutsThem(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ layout, want string }{
		{blobdir.Bushy, "0x00/0x00/0x00/0x00/0x00/0x00/0x01/0x2a/0x03f1.blob"}, {blobdir.Lawn, "0x012a/0x03f1.blob"},
	} {
		if got := filepath.ToSlash(blobdir.File(c.layout, 0x12a, 0x3f1)); got != c.want {
			t.Errorf("%s: %s, want %s", c.layout, got, c.want)
		}
	}
	if got := blobdir.File(blobdir.Lawn, 0, 1<<56); filepath.ToSlash(got) != "0x00/0x0100000000000000.blob" {
		t.Errorf("%s", got)
	}
}
