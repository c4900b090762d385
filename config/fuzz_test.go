package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/zeoraid/raidstorage/config"
)

// FuzzLoad reads a file that may include another one, which may include it.
func FuzzLoad(f *testing.F) {
	for _, name := range []string{"talk.conf", "recipe.conf", "container.conf"} {
		text, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text), "")
	}
	for _, c := range faultCases() {
		f.Add(c.file(), "%include zeo.conf\n%define a $a$a\n</zeo>")
	}
	f.Add("%define a x\n%include part.conf\n<zeo>\naddress $a:1\n</zeo>\n", "<mappingstorage $(HOME)/>\n%include part.conf")
	f.Fuzz(func(t *testing.T, text, part string) {
		path := write(t, map[string]string{"zeo.conf": text, "part.conf": part})
		c, err := config.Load(path, env(map[string]string{"ZEO_PORT": "1", "HOME": filepath.Dir(path)}))
		if err == nil {
			if len(c.Server.Addresses) == 0 || len(c.Storages) == 0 {
				t.Errorf("accepted without an address or a storage: %+v", c)
			}
			names := make(map[string]bool)
			for _, s := range c.Storages {
				if s.Kind == nil || s.Name == "" || names[s.Name] {
					t.Errorf("storage %+v is not usable", s)
				}
				names[s.Name] = true
			}
			return
		}
		all, ok := errors.AsType[*config.Error](err)
		if !ok || len(all.Faults) == 0 || len(all.Faults) > 101 {
			t.Fatalf("Load: %v", err)
		}
		for _, fault := range all.Faults[:min(100, len(all.Faults))] {
			if fault.Line < 1 || fault.File == "" || fault.Message == "" {
				t.Errorf("a fault without a place: %+v", fault)
			}
		}
	})
}
