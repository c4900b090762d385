package config_test

import (
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/config"
)

func TestAddresses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]config.Address{
		"8100":              {Port: 8100},
		" 8_100 ":           {Port: 8100},
		":8100":             {Port: 8100},
		"Localhost:8100":    {Host: "localhost", Port: 8100},
		"localhost: 8100":   {Host: "localhost", Port: 8100},
		"localhost":         {Host: "localhost"},
		"localhost:":        {Host: "localhost"},
		"0.0.0.0:0":         {Host: "0.0.0.0"},
		"[::1]:8100":        {Host: "::1", Port: 8100},
		"[FE80::1]":         {Host: "fe80::1"},
		"::1":               {Host: "::1"},
		"[]:1":              {Port: 1},
		"./zeo.sock":        {Path: "./zeo.sock"},
		"/var/zeo:1/Socket": {Path: "/var/zeo:1/Socket"},
	} {
		got, err := config.ParseAddress(text)
		if err != nil || got != want {
			t.Errorf("ParseAddress(%q) = %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "a b", "a:b", "a:65536", "65536", "-1", "a:-1", "a b:1"} {
		if got, err := config.ParseAddress(text); err == nil {
			t.Errorf("ParseAddress(%q) = %+v", text, got)
		}
	}
}

func TestAddressesAsGoHasThem(t *testing.T) {
	t.Parallel()
	for want, a := range map[string]config.Address{
		"tcp :8100":        {Port: 8100},
		"tcp [::1]:8100":   {Host: "::1", Port: 8100},
		"tcp localhost:1":  {Host: "localhost", Port: 1},
		"unix /run/socket": {Path: "/run/socket"},
	} {
		if got := a.Network() + " " + a.String(); got != want {
			t.Errorf("%+v is %q, want %q", a, got, want)
		}
	}
}

func TestTheDefaultIsAMirrorOfTwoFiles(t *testing.T) {
	t.Parallel()
	c, err := config.Default("/d", "", "", "")
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string) config.Storage {
		return config.Storage{Name: name, Kind: &config.FileStorage{
			Path: "/d/" + name + "/Data.fs", BlobDir: "/d/" + name + "/blobs",
			PackGC: true, PackKeepOld: true, MakeDirs: true,
		}}
	}
	want := &config.Config{
		Server: config.Server{
			Addresses: []config.Address{{Host: "127.0.0.1", Port: 8100}}, InvalidationQueueSize: 100, ClientConflictResolution: true,
		},
		Storages: []config.Storage{{Name: "1", Kind: &config.Mirror{
			Members: []config.Storage{file("1"), file("2")}, StateDir: "/d/state", AutoRecover: true,
		}}},
		Admin: config.Admin{Address: &config.Address{Host: "127.0.0.1", Port: 8180}},
	}
	if d := diff(c, want); d != "" {
		t.Error(d)
	}
	if c, err = config.Default("", "/run/zeo", ":1", "main"); err != nil {
		t.Fatal(err)
	}
	mirror := c.Storages[0].Kind.(*config.Mirror)
	if c.Server.Addresses[0].Path != "/run/zeo" || c.Admin.Address.Port != 1 || c.Storages[0].Name != "main" ||
		mirror.StateDir != "zeoraid-data/state" {
		t.Errorf("Default: %+v", c)
	}
	for _, bad := range [][2]string{{"a:b", ""}, {"", "a:b"}} {
		if _, err := config.Default("", bad[0], bad[1], ""); err == nil {
			t.Errorf("Default with the addresses %q is no error", bad)
		}
	}
}

func TestValuesWithoutEffectAreWarnedOf(t *testing.T) {
	t.Parallel()
	c := load(t, `<zeo>
address 8100
monitor-address 8101
</zeo>
<raidstorage 1>
  cluster-mode coop
  fail-mode close
  shared-blob-dir off
  blob-dir blobs
  read-only false
  <zeoclient a>
    server 1
    username u
    password p
    realm r
    client zeo
    var /tmp
    min-disconnect-poll 1
    drop-cache-rather-verify on
    server-sync on
    shared-blob-dir off
    blob-dir /tmp/x
    name n
  </zeoclient>
  <filestorage b>
    path Data.fs
    packer a.b
    create no
  </filestorage>
</raidstorage>
`, map[string]string{"ZEO_MSGPACK": "1"})
	var lines []int
	for _, w := range c.Warnings {
		lines = append(lines, w.Line)
	}
	want := []int{3, 6, 7, 8, 9, 13, 14, 15, 16, 17, 18, 19, 20, 22, 23, 27}
	if d := diff(lines, want); d != "" {
		t.Errorf("warnings of other lines: %s\n%v", d, messages(c.Warnings))
	}
	if !c.Server.Msgpack {
		t.Error("ZEO_MSGPACK has no effect")
	}
	if m := c.Storages[0].Kind.(*config.Mirror); m.ReadPolicy != raidstorage.RoundRobin || !m.AutoRecover {
		t.Errorf("the mirror is %+v", m)
	}
}

func TestCatchUpCanBeTurnedOff(t *testing.T) {
	t.Parallel()
	c := load(t, "<zeo>\naddress 8100\n</zeo>\n<raidstorage 1>\n<mappingstorage a/>\ncatch-up-ratio Off\n</raidstorage>\n", nil)
	if m := c.Storages[0].Kind.(*config.Mirror); m.CatchUp != (raidstorage.CatchUp{Off: true}) {
		t.Errorf("%+v", m.CatchUp)
	}
}
