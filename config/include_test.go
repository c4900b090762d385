package config_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage/config"
)

func TestIncludedFilesStandWhereTheyAreIncluded(t *testing.T) {
	t.Parallel()
	path := write(t, map[string]string{
		"zeo.conf": "%define part parts\n%include ${PART}/zeo%20server.conf\n<raidstorage main>\n" +
			"%include parts/members.conf\nstate-dir $state\n</raidstorage>\n",
		"parts/zeo server.conf": "<zeo>\n%include ../address.conf\n</zeo>\n",
		"parts/members.conf":    "%define state /nowhere\n<mappingstorage 1/>\n<mappingstorage 2/>\n",
		"address.conf":          "address 8100",
	})
	c, err := config.Load(path, env(nil))
	if err != nil {
		t.Fatal(err)
	}
	mirror := c.Storages[0].Kind.(*config.Mirror)
	if c.Server.Addresses[0].Port != 8100 || mirror.StateDir != "/nowhere" || len(mirror.Members) != 2 {
		t.Errorf("read as %+v, %+v", c, mirror)
	}
	members := config.Pos{File: filepath.Join(filepath.Dir(path), "parts", "members.conf"), Line: 3}
	if pos := mirror.Members[1].Pos; pos != members {
		t.Errorf("the second member is at %v", pos)
	}
	// The same by a URL.
	url := write(t, map[string]string{"zeo.conf": "%include file://" + path})
	if _, err := config.Load(url, env(nil)); err != nil {
		t.Error(err)
	}
}

func TestFaultsOfIncludesNameBothFiles(t *testing.T) {
	t.Parallel()
	path := write(t, map[string]string{
		"zeo.conf": "%include a.conf\n%include http://example.org/zeo.conf\n%include $x\n%include b#c\n%include dir\n%include file://a\n%include a.conf/\n",
		"a.conf":   "<zeo>\n%include zeo.conf\n%include missing.conf\naddress 1\nadress 1\n</zeo>\n</zeo>\n<raidstorage>\n",
		"dir/file": "",
	})
	dir := filepath.Dir(path)
	_, err := config.Load(path, env(nil))
	all, ok := errors.AsType[*config.Error](err)
	if !ok {
		t.Fatal(err)
	}
	got := strings.Split(strings.ReplaceAll(all.Error(), dir, "DIR"), "\n")
	if d := cmp.Diff(got, []string{
		`DIR/a.conf:2: %include: "DIR/zeo.conf" includes itself`,
		`DIR/a.conf:3: %include: stat DIR/missing.conf: no such file or directory`,
		`DIR/a.conf:5: unknown key "adress" in <zeo>; did you mean address?`,
		`DIR/a.conf:7: </zeo> closes no section`,
		`DIR/a.conf:8: section <raidstorage> is not closed`,
		`DIR/a.conf:8: <raidstorage> has no members; put sections such as <filestorage 1> into it`,
		`DIR/zeo.conf:2: %include: "http://example.org/zeo.conf": only files can be included`,
		`DIR/zeo.conf:3: %include: $x is not defined`,
		`DIR/zeo.conf:4: %include: "b#c": a path must not have a "#" in it`,
		`DIR/zeo.conf:5: %include: "DIR/dir" is no file`,
		`DIR/zeo.conf:6: %include: "file://a" names no file`,
		`DIR/zeo.conf:7: %include: "a.conf/" is no path`,
	}); d != "" {
		t.Error(d)
	}
}

func TestReadingIsBounded(t *testing.T) {
	t.Parallel()
	doubling := "%define a0 0123456789abcdef\n"
	for i := range 30 {
		doubling += fmt.Sprintf("%%define a%d $a%d$a%d\n", i+1, i, i)
	}
	wide := "%define a " + strings.Repeat("x", 60_000) + "\n" + strings.Repeat("b $a\n", 300)
	chain := map[string]string{"zeo.conf": "%include 1.conf\n"}
	for i := range 20 {
		chain[fmt.Sprintf("%d.conf", i)] = fmt.Sprintf("%%include %d.conf\n", i+1)
	}
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"doubling":   {map[string]string{"zeo.conf": doubling}, "the value gets longer than 65536 bytes"},
		"many times": {map[string]string{"zeo.conf": wide}, "all values together get longer than 16777216 bytes"},
		"long":       {map[string]string{"zeo.conf": strings.Repeat("#", 1<<20+1)}, "longer than 1048576 bytes"},
		"long twice": {map[string]string{"zeo.conf": strings.Repeat("%include a\n", 3), "a": strings.Repeat("#", 1<<19)}, "longer than 1048576 bytes"},
		"chain":      {chain, "more than 16 files include each other"},
		"many files": {map[string]string{"zeo.conf": strings.Repeat("%include a\n", 300), "a": ""}, "more than 256 files"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := config.Load(write(t, c.files), env(nil))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Load: %.1000v", err)
			}
		})
	}
}

func TestALinkThatIncludesItselfEnds(t *testing.T) {
	t.Parallel()
	path := write(t, map[string]string{"zeo.conf": "%include d/zeo.conf\n"})
	if err := os.Symlink(".", filepath.Join(filepath.Dir(path), "d")); err != nil {
		t.Fatal(err)
	}
	_, err := config.Load(path, env(nil))
	if err == nil || !strings.Contains(err.Error(), "more than 16 files include each other") {
		t.Errorf("Load: %v", err)
	}
}

func TestHomeDirectories(t *testing.T) {
	t.Parallel()
	home := makeDirs(t, "db")
	text := "<zeo>\naddress 1\n</zeo>\n<filestorage 1>\npath ~/db/Data.fs\nblob-dir ~nobody-has-this-name\n</filestorage>\n"
	c := load(t, text, map[string]string{"HOME": home + "/"})
	want := &config.FileStorage{
		Path: home + "/db/Data.fs", BlobDir: "~nobody-has-this-name", PackGC: true, PackKeepOld: true,
	}
	if d := diff(c.Storages[0].Kind, want); d != "" {
		t.Error(d)
	}
}
