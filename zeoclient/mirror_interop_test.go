//go:build interop

package zeoclient_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
	"github.com/zeoraid/raidstorage/zeoclient"
)

// blobRecord is what ZODB stores for a blob.
const blobRecord = "\x80\x03cZODB.blob\nBlob\n.\x80\x03N."

// TestMirrorOverPythonServers is the talk's demonstration: a mirror of two servers
// loses one, goes on, gets it back empty, and then the same with the other one. It has
// the blobs sent to both, or shares the blob directory of one.
func TestMirrorOverPythonServers(t *testing.T) {
	t.Parallel()
	t.Run("blobs are sent", func(t *testing.T) {
		t.Parallel()
		mirrorPythonServers(t, false)
	})
	t.Run("one blob directory is shared", func(t *testing.T) {
		t.Parallel()
		mirrorPythonServers(t, true)
	})
}

func mirrorPythonServers(t *testing.T, shared bool) {
	dirs := map[string]string{"1": shortDir(t), "2": shortDir(t)}
	servers := map[string]*runzeo{
		"1": startRunzeo(t, dirs["1"], 1, "msgpack false"), "2": startRunzeo(t, dirs["2"], 1, "msgpack true"),
	}
	cfg := raidstorage.Config{StateDir: t.TempDir(), TempDir: t.TempDir(), AutoRecover: raidstorage.AutoRecoverOff}
	for _, name := range []string{"1", "2"} {
		opts := zeoclient.Options{Addresses: []string{servers[name].address}, TempDir: t.TempDir(), CacheBytes: 1 << 20}
		if shared && name == "1" {
			opts.SharedBlobDir = filepath.Join(dirs[name], "blobs1")
		}
		cfg.Backends = append(cfg.Backends, raidstorage.Backend{Name: name, Open: func(ctx context.Context) (raidstorage.Storage, error) {
			return zeoclient.Open(ctx, opts)
		}})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	mirror, err := raidstorage.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := mirror.Close(); err != nil {
			t.Error(err)
		}
	}()
	storagetest.Commit(t, mirror, map[raidstorage.OID]string{4: storagetest.Pickled("changed and undone")})
	n := 0
	work := func() {
		t.Helper()
		for range 20 {
			commitSome(t, mirror, n)
			n++
		}
	}
	work()
	for _, name := range []string{"1", "2"} {
		servers[name].kill()
		work() // the first of these commits finds out
		if status := mirror.Status(); status.Condition == raidstorage.Optimal || len(status.Membership.InSync) != 1 {
			t.Fatalf("without server %s the mirror is %v", name, status.Condition)
		}
		empty(t, dirs[name])
		servers[name] = startRunzeo(t, dirs[name], 1, "msgpack true")
		if err := mirror.Recover(ctx, name); err != nil {
			t.Fatalf("recover %s: %v", name, err)
		}
		work()
		if status := mirror.Status(); status.Condition != raidstorage.Optimal {
			t.Fatalf("after the recovery the mirror is %v: %s", status.Condition, status.Reason)
		}
	}
	if report, err := mirror.Verify(ctx, raidstorage.VerifyOptions{}); err != nil || report.Findings > 0 {
		t.Errorf("a verification finds %v, %v", report.Listed, err)
	}
	compareServers(t, servers, n)
	wantNoTemps(t, dirs["1"])
	for _, server := range servers {
		server.wantQuiet(t)
	}
}

// wantNoTemps looks for files that wait for a vote.
func wantNoTemps(t testing.TB, dir string) {
	t.Helper()
	if err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if strings.HasPrefix(filepath.Base(path), "raidstorage-") {
			t.Errorf("%s is left", path)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

// commitSome commits a transaction of one of several kinds.
func commitSome(t testing.TB, s raidstorage.Storage, n int) {
	t.Helper()
	ctx := t.Context()
	meta := raidstorage.Meta{User: []byte("u"), Description: fmt.Append(nil, "commit ", n), Extension: []byte("\x80\x03}X\x01\x00\x00\x00nK\x05s.")}
	switch n % 4 {
	case 3: // undo what the one before did
		undoer, err := raidstorage.Can[raidstorage.Undoer](s)
		if err != nil {
			t.Fatal(err)
		}
		log, err := undoer.UndoLog(ctx, 0, 1, nil)
		if err != nil || len(log) != 1 {
			t.Fatalf("undo log: %v, %v", log, err)
		}
		storagetest.Transact(t, s, meta, func(txn raidstorage.Txn) error { return raidstorage.Undo(ctx, txn, log[0].TID) })
	case 2:
		storagetest.Transact(t, s, meta, func(txn raidstorage.Txn) error {
			oid := raidstorage.OID(1000 + n)
			return raidstorage.StoreBlob(ctx, txn, oid, 0, []byte(blobRecord), strings.NewReader(strings.Repeat(fmt.Sprint("blob ", n), 20000)))
		})
		storagetest.Commit(t, s, map[raidstorage.OID]string{4: storagetest.Pickled(fmt.Sprint("after a blob ", n))})
	default:
		storagetest.Transact(t, s, meta, func(txn raidstorage.Txn) error {
			for oid := raidstorage.OID(1); oid < 4; oid++ {
				rev, err := s.LoadBefore(ctx, oid, raidstorage.MaxTID)
				if err != nil && raidstorage.Classify(err) != raidstorage.ClassAnswer {
					return err
				}
				if err := txn.Store(ctx, oid, rev.Serial, []byte(storagetest.Pickled(fmt.Sprint("data ", n)))); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// empty removes a server's database.
func empty(t testing.TB, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
}

// compareServers compares the logs of the servers, blobs included.
func compareServers(t testing.TB, servers map[string]*runzeo, atLeast int) {
	t.Helper()
	var logs [][]storagetest.LogTransaction
	for _, name := range []string{"1", "2"} {
		s := open(t, zeoclient.Options{Addresses: []string{servers[name].address}, TempDir: t.TempDir()})
		log, err := storagetest.Log(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		logs = append(logs, log)
	}
	if len(logs[0]) < atLeast {
		t.Errorf("the log has %d transactions, want %d", len(logs[0]), atLeast)
	}
	if diff := cmp.Diff(logs[0], logs[1]); diff != "" {
		t.Errorf("the servers differ (-1 +2):\n%s", diff)
	}
}
