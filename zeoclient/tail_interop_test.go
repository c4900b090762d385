//go:build interop

package zeoclient_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/zeoclient"
)

// A server of Python's whose disk was full when a transaction voted can be opened again
// when there is room, and its log is right. Python itself could not tell its end.
func TestServerWhoseDiskWasFullCanBeOpened(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1000, 2 << 20} { // Python's server says another thing of a file of more than 1 MiB
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			server := startRunzeo(t, t.TempDir(), 1, "")
			opts := server.options(t)
			var tids []raidstorage.TID
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			commit := func(s *zeoclient.Storage, size int) error {
				txn, err := s.Begin(ctx, raidstorage.Meta{})
				if err != nil {
					t.Fatal(err)
				}
				if err := txn.Store(ctx, raidstorage.OID(len(tids)), 0, make([]byte, size)); err != nil {
					t.Fatal(err)
				}
				if _, err := txn.Vote(ctx); err != nil {
					return err
				}
				tid, err := txn.Finish(ctx)
				if err != nil {
					t.Fatal(err)
				}
				tids = append(tids, tid)
				return nil
			}
			open := func() *zeoclient.Storage {
				s, err := zeoclient.Open(ctx, opts)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { s.Close() })
				return s
			}
			s := open()
			for _, n := range []int{size, 10} {
				if err := commit(s, n); err != nil {
					t.Fatal(err)
				}
			}
			info, err := os.Stat(filepath.Join(server.dir, "1.fs"))
			if err != nil {
				t.Fatal(err)
			}
			server.limitFiles(t, info.Size()+10) // less than an empty transaction takes
			if err := commit(s, 500); err == nil || !strings.Contains(err.Error(), "File too large") {
				t.Fatalf("a vote on a full disk returns %v", err)
			}
			s.Close()
			if _, err := zeoclient.Open(ctx, opts); err == nil {
				t.Fatal("the server could be opened while its disk was full: this test proves nothing")
			}
			server.limitFiles(t, -1)
			s = open()
			if err := commit(s, 10); err != nil {
				t.Fatal(err)
			}
			var got []raidstorage.TID
			for txn, err := range s.Iterate(ctx, tids[0], raidstorage.MaxTID) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, txn.TID)
			}
			if fmt.Sprint(got) != fmt.Sprint(tids) {
				t.Errorf("the log has %v, want %v", got, tids)
			}
		})
	}
}

// limitFiles has the server's files grow no further than so many bytes, less than 0 for
// no limit: that is a full disk.
func (r *runzeo) limitFiles(t testing.TB, bytes int64) {
	t.Helper()
	const script = "import resource, sys; resource.prlimit(int(sys.argv[1]), resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))"
	out, err := exec.Command(python(t), "-I", "-S", "-c", script, fmt.Sprint(r.cmd.Process.Pid), fmt.Sprint(bytes)).CombinedOutput()
	if err != nil {
		t.Fatalf("prlimit: %v\n%s", err, out)
	}
}
