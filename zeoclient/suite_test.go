package zeoclient_test

import (
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/storagetest"
	"github.com/zeoraid/raidstorage/zeoclient"
	"github.com/zeoraid/raidstorage/zeoserver"
)

// TestMain fails if a test leaves a goroutine behind.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open opens a client and closes nothing.
func open(t testing.TB, opts zeoclient.Options) *zeoclient.Storage {
	t.Helper()
	s, err := zeoclient.Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// shortDir is a temporary directory with a name that leaves room for a socket's.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "zeo")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// clients makes a fixture of clients; fresh returns the options for an empty storage.
func clients(capabilities storagetest.Capability, fresh func(testing.TB) zeoclient.Options) storagetest.Fixture {
	var used sync.Map // the options by storage
	open := func(t testing.TB, opts zeoclient.Options) raidstorage.Storage {
		t.Helper()
		s := open(t, opts)
		used.Store(s, opts)
		return s
	}
	again := func(t testing.TB, s raidstorage.Storage, readOnly bool) raidstorage.Storage {
		t.Helper()
		opts, _ := used.Load(s)
		o := opts.(zeoclient.Options)
		o.ReadOnly = readOnly
		return open(t, o)
	}
	closing := func(readOnly bool) func(testing.TB, raidstorage.Storage) raidstorage.Storage {
		return func(t testing.TB, s raidstorage.Storage) raidstorage.Storage {
			t.Helper()
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return again(t, s, readOnly)
		}
	}
	return storagetest.Fixture{
		Open:     func(t testing.TB) raidstorage.Storage { t.Helper(); return open(t, fresh(t)) },
		Reopen:   closing(false),
		ReadOnly: closing(true),
		Second: func(t testing.TB, s raidstorage.Storage) raidstorage.Storage {
			t.Helper()
			return again(t, s, false)
		},
		Capabilities: capabilities,
	}
}

// startZeoserver serves one empty memory storage, named 1, until the test's end.
func startZeoserver(t testing.TB, msgpack bool) zeoclient.Options {
	t.Helper()
	storage := memstorage.New("memory")
	server, err := zeoserver.New(zeoserver.Config{
		Storages: map[string]raidstorage.Storage{"1": storage}, Msgpack: msgpack, TempDir: t.TempDir(),
	})
	if err != nil {
		t.Fatal(err)
	}
	address := filepath.Join(shortDir(t), "zeo.sock")
	listener, err := net.Listen("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		<-served
		if err := storage.Close(); err != nil {
			t.Error(err)
		}
	})
	return zeoclient.Options{Addresses: []string{address}, TempDir: t.TempDir()}
}

// beyondProtocol are the rules that ZEO's protocol has no way to keep.
func beyondProtocol() map[string]string {
	return map[string]string{
		"restore/a copied log is identical": "the wire has a dict for an extension: an empty one and none are the same",

		"pack/revisions that were not current at the pack time are dropped":                     "packs without garbage collection, for which pack has no argument",
		"pack/transactions up to the pack time become packed, later ones stay":                  "the same",
		"pack/packing before everything drops nothing":                                          "it packs at the tid right before a transaction's; a pack time is a float of 240 ns",
		"garbage collection/without collection all objects stay":                                "the same",
		"garbage collection/a record that cannot be read stops the pack and nothing is dropped": "no exception says that a record is damaged, and which one",
	}
}

// conform runs the suite but for some rules.
func conform(t *testing.T, f storagetest.Fixture, beyond map[string]string) {
	t.Helper()
	for _, c := range f.Cases() {
		rule := c.Subject + "/" + c.Name
		if _, impossible := beyond[rule]; impossible {
			delete(beyond, rule)
			continue
		}
		t.Run(rule, func(t *testing.T) {
			t.Parallel()
			c.Run(t)
		})
	}
	for rule := range beyond {
		t.Errorf("there is no rule %q any more", rule)
	}
}

func TestOwnServerConforms(t *testing.T) {
	t.Parallel()
	for name, msgpack := range map[string]bool{"pickle": false, "msgpack": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fresh := func(t testing.TB) zeoclient.Options {
				opts := startZeoserver(t, msgpack)
				if msgpack {
					opts.CacheBytes = 1 << 20 // nobody must notice
				}
				return opts
			}
			conform(t, clients(storagetest.All&^storagetest.Truncater&^storagetest.GarbageFinder&^storagetest.StagedPacker&^storagetest.PackEstimator&^storagetest.KeptFinder, fresh), beyondProtocol())
		})
	}
}
