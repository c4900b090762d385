//go:build interop

package filestorage_test

import (
	"bytes"
	"testing"

	"github.com/zeoraid/raidstorage/filestorage"
)

// Python finds nothing wrong with a file in which a record was mended, of which it found
// something before.
func TestPythonAcceptsWhatWasMended(t *testing.T) {
	t.Parallel()
	r := rot(t, func(b []byte) { clear(b[len(b)/2:]) })
	before := judge(t, []string{r.path})[0]
	s := openFor(t, r.path, filestorage.Options{})
	if _, err := r.mend(s); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	after := judge(t, []string{r.path})[0]
	if before.FSTest+before.FSRefs == "" || after.FSTest != "" || after.FSRefs != "" || after.Read != "" || after.Records != before.Records {
		t.Errorf("before %+v, afterwards %+v", before, after)
	}
	if !bytes.Equal(read(t, r.path), r.sound) {
		t.Error("the file is not what it was")
	}
}
