package config_test

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/config"
)

// write makes a folder with the files and returns the path of the one named zeo.conf.
func write(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "zeo.conf")
}

// env looks variables up in a map, and nowhere else.
func env(vars map[string]string) config.Options {
	return config.Options{Getenv: func(name string) (string, bool) {
		v, ok := vars[name]
		return v, ok
	}}
}

// load reads text as a file that must be right.
func load(t testing.TB, text string, vars map[string]string) *config.Config {
	t.Helper()
	c, err := config.Load(write(t, map[string]string{"zeo.conf": text}), env(vars))
	if err != nil {
		t.Fatalf("Load: %v\n%s", err, text)
	}
	return c
}

func messages(faults []config.Fault) []string {
	var all []string
	for _, f := range faults {
		f.File = filepath.Base(f.File)
		all = append(all, f.String())
	}
	return all
}

// diff compares all but the places.
func diff(got, want any) string { return cmp.Diff(got, want, cmpopts.IgnoreTypes(config.Pos{})) }

// makeDirs makes folders under a new one, which it returns.
func makeDirs(t testing.TB, names ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, name := range names {
		if err := os.MkdirAll(filepath.Join(root, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestTheTalksFileLoadsAsItIs(t *testing.T) {
	t.Parallel()
	c, err := config.Load("testdata/talk.conf", env(nil))
	if err != nil {
		t.Fatal(err)
	}
	client := func(name string, port int) config.Storage {
		return config.Storage{Name: name, Kind: &config.ZEOClient{
			Servers: []config.Address{{Host: "localhost", Port: port}}, Storage: "1",
			Wait: true, WaitTimeout: 30e9, CacheBytes: 20 << 20,
		}}
	}
	want := &config.Config{
		Path: "testdata/talk.conf",
		Server: config.Server{
			Addresses: []config.Address{{Host: "127.0.0.1", Port: 8000}}, InvalidationQueueSize: 100, ClientConflictResolution: true,
		},
		Storages: []config.Storage{{Name: "main", Kind: &config.Mirror{
			Members:  []config.Storage{client("1", 8100), client("2", 8101)},
			StateDir: "testdata/main-state", AutoRecover: true,
		}}},
	}
	if d := diff(c, want); d != "" {
		t.Error(d)
	}
	if pos := c.Storages[0].Pos; pos != (config.Pos{File: "testdata/talk.conf", Line: 5}) {
		t.Errorf("the mirror is at %v", pos)
	}
}

func TestTheFileOfPlonesRecipeLoads(t *testing.T) {
	t.Parallel()
	root := makeDirs(t, "var/filestorage", "var/log")
	c, err := config.Load("testdata/recipe.conf", env(map[string]string{"BUILDOUT": root}))
	if err != nil {
		t.Fatal(err)
	}
	want := &config.Config{
		Path: "testdata/recipe.conf",
		Server: config.Server{
			Addresses: []config.Address{{Port: 8100}}, InvalidationQueueSize: 200, ClientConflictResolution: true,
			PIDFile: root + "/var/zeoserver.pid",
		},
		Storages: []config.Storage{{Name: "1", Kind: &config.FileStorage{
			Path: root + "/var/filestorage/Data.fs", BlobDir: root + "/var/blobstorage",
		}}},
		Log: config.Log{Files: []config.LogFile{{
			Path: root + "/var/log/zeoserver.log", Level: -8, MaxBytes: 5 << 20, OldFiles: 3,
		}}},
		Warnings: c.Warnings,
	}
	if d := diff(c, want); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(messages(c.Warnings), []string{
		"recipe.conf:23: format has no effect: it is text or json",
		"recipe.conf:29: <runner> has no effect: a service manager starts the server",
	}); d != "" {
		t.Error(d)
	}
}

func TestTheContainersFileLoadsWithItsEnvironment(t *testing.T) {
	t.Parallel()
	root := makeDirs(t, "app/var", "data/filestorage", "data/log")
	vars := map[string]string{
		"ROOT": root, "ZEO_PORT": "8100", "ZEO_READ_ONLY": "false",
		"ZEO_INVALIDATION_QUEUE_SIZE": "100", "ZEO_PACK_KEEP_OLD": "true",
	}
	c, err := config.Load("testdata/container.conf", env(vars))
	if err != nil {
		t.Fatal(err)
	}
	want := config.Server{
		Addresses: []config.Address{{Host: "0.0.0.0", Port: 8100}}, InvalidationQueueSize: 100, ClientConflictResolution: true,
		PIDFile: root + "/app/var/zeo.pid",
	}
	if d := diff(c.Server, want); d != "" {
		t.Error(d)
	}
	storages := []config.Storage{{Name: "1", Kind: &config.FileStorage{
		Path: root + "/data/filestorage/Data.fs", BlobDir: root + "/data/blobstorage",
		PackGC: true, PackKeepOld: true,
	}}}
	if d := diff(c.Storages, storages); d != "" {
		t.Error(d)
	}

	changed := maps.Clone(vars)
	changed["ZEO_PORT"], changed["ZEO_READ_ONLY"], changed["ZEO_PACK_KEEP_OLD"] = "9100", "true", "off"
	if c, err = config.Load("testdata/container.conf", env(changed)); err != nil {
		t.Fatal(err)
	}
	file := c.Storages[0].Kind.(*config.FileStorage)
	if c.Server.Addresses[0].Port != 9100 || !c.Server.ReadOnly || file.PackKeepOld {
		t.Errorf("the environment was not heeded: %+v %+v", c.Server, file)
	}
	delete(changed, "ZEO_PORT")
	_, err = config.Load("testdata/container.conf", env(changed))
	if err == nil || !strings.Contains(err.Error(), "container.conf:5: address: $(ZEO_PORT): the environment has no such variable") {
		t.Errorf("without ZEO_PORT: %v", err)
	}
}

func TestEverySettingIsRead(t *testing.T) {
	t.Parallel()
	c := load(t, `
# a comment
%define Base /nowhere
%define Port 91
<ZEO>
  Address $(HOST):81$port
  address /run/zeo.sock
  read-only YES
  invalidation-queue-size 1_000
  invalidation-age 1.5
  transaction-timeout 20
  client-conflict-resolution off
  msgpack true
</Zeo>
<raidstorage Main>
  write-quorum 2
  start-quorum 1
  read-policy Primary-First
  auto-recover off
  spare-after 2h
  catch-up-ratio 1.5
  catch-up-max-delay 5s
  scrub-interval 7d
  scrub-rate 2MB
  scrub-repair on
  state-dir $base/state
  timeout 10
  vote-timeout 2m
  read-timeout 1h
  pack-timeout 2d
  pack-compare-rate 3MB
  <mappingstorage a/>
  <mappingstorage b>
    role Full
  </mappingstorage>
  <clientstorage C>
    server [::1]:8100
    server 8101
    server /tmp/zeo
    storage main
    cache-size 1 MB
    wait off
    wait-timeout 7
    client-label $$here ${BASE}
    role async
    bandwidth 2MB
  </clientstorage>
</raidstorage>
<mappingstorage>
</mappingstorage>
<eventlog>
  level warn
  <logfile>
    path STDOUT
    format json
    level error
  </logfile>
</eventlog>
<admin>
  address 8180
</admin>
`, map[string]string{"HOST": "Example.ORG"})
	want := &config.Config{
		Path: c.Path,
		Server: config.Server{
			Addresses: []config.Address{{Host: "example.org", Port: 8191}, {Path: "/run/zeo.sock"}},
			ReadOnly:  true, InvalidationQueueSize: 1000, InvalidationAge: 1500e6,
			TransactionTimeout: 20e9, Msgpack: true,
		},
		Storages: []config.Storage{
			{Name: "main", Kind: &config.Mirror{
				WriteQuorum: 2, StartQuorum: 1, ReadPolicy: 2, StateDir: "/nowhere/state", SpareAfter: 7200e9,
				CatchUp:  raidstorage.CatchUp{Ratio: 1.5, MaxDelay: 5e9},
				Scrub:    raidstorage.Scrub{Interval: 7 * 24 * time.Hour, BytesPerSecond: 2 << 20, Repair: true},
				Timeouts: raidstorage.Timeouts{Open: 10e9, Vote: 120e9, Finish: 10e9, Read: 3600e9, Pack: 48 * 3600e9},

				CompareBytesPerSecond: 3 << 20,
				Members: []config.Storage{
					{Name: "a", Kind: &config.MemStorage{}},
					{Name: "b", Kind: &config.MemStorage{}},
					{Name: "c", Kind: &config.ZEOClient{
						Servers: []config.Address{
							{Host: "::1", Port: 8100}, {Host: "127.0.0.1", Port: 8101}, {Path: "/tmp/zeo"},
						},
						Storage: "main", CacheBytes: 1 << 20, WaitTimeout: 7e9, Label: "$here /nowhere",
					}, Role: raidstorage.RoleAsync, Bandwidth: 2 << 20},
				},
			}},
			{Name: "1", Kind: &config.MemStorage{}},
		},
		Log:   config.Log{Level: 4, Files: []config.LogFile{{Path: "STDOUT", Level: 8, JSON: true}}},
		Admin: config.Admin{Address: &config.Address{Host: "127.0.0.1", Port: 8180}},
	}
	if d := diff(c, want); d != "" {
		t.Error(d)
	}
}
