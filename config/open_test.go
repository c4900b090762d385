package config_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/config"
)

// commit stores an object, and returns its oid.
func commit(t testing.TB, s raidstorage.Storage, data string) raidstorage.OID {
	t.Helper()
	ctx := t.Context()
	oids, err := s.NewOIDs(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	commitAt(t, s, oids[0], data)
	return oids[0]
}

func commitAt(t testing.TB, s raidstorage.Storage, oid raidstorage.OID, data string) {
	t.Helper()
	ctx := t.Context()
	txn, err := s.Begin(ctx, raidstorage.Meta{})
	if err != nil {
		t.Fatal(err)
	}
	defer txn.Abort(context.WithoutCancel(ctx))
	if err := txn.Store(ctx, oid, 0, []byte(data)); err != nil {
		t.Fatal(err)
	}
	if _, err := txn.Vote(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := txn.Finish(ctx); err != nil {
		t.Fatal(err)
	}
}

func checkData(t testing.TB, s raidstorage.Storage, oid raidstorage.OID, want string) {
	t.Helper()
	got, err := s.LoadBefore(t.Context(), oid, raidstorage.MaxTID)
	if err != nil || string(got.Data) != want {
		t.Errorf("LoadBefore: %q, %v", got.Data, err)
	}
}

func open(t testing.TB, c *config.Config) *config.Opened {
	t.Helper()
	o, err := c.Open(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	return o
}

func TestTheDefaultOpensAndKeepsTheData(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	c, err := config.Default(dir, "", "", "main")
	if err != nil {
		t.Fatal(err)
	}
	o := open(t, c)
	if status := o.Mirrors["main"].Status(); status.Name != "main" || status.Condition.String() != "optimal" {
		t.Errorf("status %+v", status)
	}
	oid := commit(t, o.Storages["main"], "kept")
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"1/Data.fs", "1/blobs", "2/Data.fs", "2/blobs", "state/membership.json"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	checkData(t, open(t, c).Storages["main"], oid, "kept")
}

func TestAllKindsOpen(t *testing.T) {
	t.Parallel()
	dir := makeDirs(t, "db")
	c := load(t, `%define d `+dir+`
<zeo>
  address 127.0.0.1:0
</zeo>
<filestorage file>
  path $d/db/Data.fs
</filestorage>
<mappingstorage mem/>
<blobstorage blobs>
  blob-dir $d/blobs
  <filestorage>
    path $d/Data.fs
    pack-gc off
  </filestorage>
</blobstorage>
<raidstorage outer>
  state-dir $d/outer
  <mappingstorage m/>
  <raidstorage inner>
    <filestorage a>
      path $d/a.fs
    </filestorage>
    <mappingstorage b/>
  </raidstorage>
</raidstorage>
`, nil)
	o := open(t, c)
	for _, name := range []string{"file", "mem", "blobs", "outer"} {
		checkData(t, o.Storages[name], commit(t, o.Storages[name], name), name)
	}
	if len(o.Storages) != 4 || len(o.Mirrors) != 1 || o.Mirrors["outer"] == nil {
		t.Errorf("opened %v, mirrors %v", o.Storages, o.Mirrors)
	}
	if _, err := raidstorage.Can[raidstorage.BlobLoader](o.Storages["blobs"]); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "inner-state", "membership.json")); err != nil {
		t.Error(err)
	}
	if err := o.Close(); err != nil {
		t.Error(err)
	}
	if _, err := o.Storages["file"].LastTID(t.Context()); !errors.Is(err, raidstorage.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestPackWithoutGCKeepsWhatCannotBeReached(t *testing.T) {
	t.Parallel()
	for _, gc := range []bool{true, false} {
		dir := t.TempDir()
		file := func(name string) config.Storage {
			return config.Storage{Name: name, Kind: &config.FileStorage{Path: filepath.Join(dir, name), PackGC: gc}}
		}
		c := &config.Config{Storages: []config.Storage{
			file("alone"),
			{Name: "mirror", Kind: &config.Mirror{
				Members: []config.Storage{file("a"), file("b")}, StateDir: filepath.Join(dir, "state"),
			}},
		}}
		for name, s := range open(t, c).Storages {
			const record = "N.N." // a class and a state without references
			commitAt(t, s, 0, record)
			commitAt(t, s, 1, record)
			commitAt(t, s, 2, record)
			packer, err := raidstorage.Can[raidstorage.Packer](s)
			if err != nil {
				t.Fatal(err)
			}
			opts := raidstorage.PackOptions{Through: raidstorage.MaxTID, GC: true}
			estimator, err := raidstorage.Can[raidstorage.PackEstimator](s)
			if err != nil {
				t.Fatal(err)
			}
			want := int64(0)
			if gc {
				want = 2
			}
			if e, err := estimator.EstimatePack(t.Context(), opts); err != nil || e.Objects != want {
				t.Errorf("%s with pack-gc %v: the estimate is %+v, %v", name, gc, e, err)
			}
			if err := packer.Pack(t.Context(), opts); err != nil {
				t.Errorf("%s with pack-gc %v: %v", name, gc, err)
			}
			_, err = s.LoadBefore(t.Context(), 1, raidstorage.MaxTID)
			if kept := err == nil; kept == gc {
				t.Errorf("%s with pack-gc %v: %v", name, gc, err)
			}
		}
	}
}

func TestAStorageWithoutGCRefusesWhatAnotherOneFound(t *testing.T) {
	t.Parallel()
	c := &config.Config{Storages: []config.Storage{
		{Name: "1", Kind: &config.FileStorage{Path: filepath.Join(t.TempDir(), "Data.fs")}},
	}}
	s := open(t, c).Storages["1"]
	commitAt(t, s, 0, "N.N.")
	packer, err := raidstorage.Can[raidstorage.GarbageFinder](s)
	if err != nil {
		t.Fatal(err)
	}
	opts := raidstorage.PackOptions{Through: raidstorage.MaxTID, Decided: true, Garbage: []raidstorage.OID{0}}
	if err := packer.Pack(t.Context(), opts); !isInvalid(err) {
		t.Errorf("Pack: %v", err)
	}
	estimator, err := raidstorage.Can[raidstorage.PackEstimator](s)
	if err != nil {
		t.Fatal(err)
	}
	if e, err := estimator.EstimatePack(t.Context(), opts); !isInvalid(err) {
		t.Errorf("EstimatePack: %+v, %v", e, err)
	}
	checkData(t, s, 0, "N.N.")
}

// Beside a server that collects no garbage either nothing is in the way of a pack.
func TestAStorageWithoutGCKeepsNothingFromBeingGarbage(t *testing.T) {
	t.Parallel()
	c := &config.Config{Storages: []config.Storage{
		{Name: "1", Kind: &config.FileStorage{Path: filepath.Join(t.TempDir(), "Data.fs")}},
	}}
	s := open(t, c).Storages["1"]
	commitAt(t, s, 0, "N.N.")
	commitAt(t, s, 1, "N.N.")
	finder, err := raidstorage.Can[raidstorage.KeptFinder](s)
	if err != nil {
		t.Fatal(err)
	}
	decided := errors.New("decided")
	if garbage, kept, err := finder.FindKept(t.Context(), raidstorage.MaxTID, func(context.Context) error { return decided }); len(garbage) > 0 || len(kept) > 0 || !errors.Is(err, decided) {
		t.Errorf("FindKept: %v is garbage, %v is kept, %v", garbage, kept, err)
	}
}

func TestOpenIsAllOrNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good := config.Storage{Name: "good", Kind: &config.FileStorage{Path: filepath.Join(dir, "Data.fs")}}
	for name, bad := range map[string]config.Storage{
		"missing directory": {Name: "bad", Kind: &config.FileStorage{Path: filepath.Join(dir, "no", "Data.fs")}},
		"no kind":           {Name: "bad"},
		"same name":         {Name: "good", Kind: &config.MemStorage{}},
		"mirror of nothing": {Name: "bad", Kind: &config.Mirror{StateDir: filepath.Join(dir, "state")}},
		"member of no kind": {Name: "bad", Kind: &config.Mirror{Members: []config.Storage{{Name: "x"}}}},
	} {
		o, err := (&config.Config{Storages: []config.Storage{good, bad}}).Open(t.Context(), nil)
		if err == nil || o != nil || !strings.HasPrefix(err.Error(), "storage "+bad.Name+": ") {
			t.Errorf("%s: Open: %v", name, err)
		}
		// The lock of the good one is free again.
		open(t, &config.Config{Storages: []config.Storage{good}}).Close()
	}
}

func TestAClientIsWaitedForAsLongAsTheFileSays(t *testing.T) {
	t.Parallel()
	nobody := config.Address{Path: filepath.Join(t.TempDir(), "nobody")}
	client := &config.ZEOClient{Servers: []config.Address{nobody}, Storage: "1", Wait: true, WaitTimeout: time.Hour}
	c := &config.Config{Storages: []config.Storage{{Name: "1", Kind: client}}}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Open(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Open: %v", err)
	}
	client.WaitTimeout = time.Millisecond
	if _, err := c.Open(t.Context(), nil); err == nil {
		t.Error("opened a client without a server")
	}
	client.Wait, client.WaitTimeout = false, time.Hour
	if _, err := c.Open(t.Context(), nil); err == nil {
		t.Error("opened a client without a server")
	}
}

func TestStaleSocketsAreReplacedAndOthersAreNot(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "socket")
	server := config.Server{Addresses: []config.Address{{Host: "127.0.0.1"}, {Path: path}}}
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	if all, err := server.Listen(t.Context()); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("Listen on a used socket: %v, %v", all, err)
	}
	if err := stale.Close(); err != nil {
		t.Fatal(err)
	}
	all, err := server.Listen(t.Context())
	if err != nil || len(all) != 2 {
		t.Fatalf("Listen on a stale socket: %v, %v", all, err)
	}
	for _, l := range all {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if all, err := server.Listen(t.Context()); err == nil {
		t.Errorf("Listen replaced a file: %v", all)
	}
}

func TestTheServersSettingsReachIt(t *testing.T) {
	t.Parallel()
	s := config.Server{
		ReadOnly: true, InvalidationQueueSize: 7, InvalidationAge: 1, TransactionTimeout: 2,
		ClientConflictResolution: true, Msgpack: true,
	}
	z := s.ZEO()
	got := fmt.Sprint(z.ReadOnly, z.InvalidationQueueSize, z.InvalidationAge, z.TransactionTimeout,
		z.ClientConflictResolution, z.Msgpack)
	if got != "true 7 1ns 2ns true true" {
		t.Errorf("settings %s", got)
	}
}
