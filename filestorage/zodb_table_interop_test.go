//go:build interop

package filestorage_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A case that a new release of ZODB brings, or takes away, shows here.
func TestTheInstalledZODBHasTheseCases(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), python(t), filepath.Join("testdata", "zodbtests.py")).Output()
	if err != nil {
		t.Fatal(err)
	}
	known, met := map[string]bool{}, map[string]bool{}
	for _, c := range zodbCases(t) {
		known[c.name] = true
	}
	for _, name := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		file, _, _ := strings.Cut(name, " ")
		switch {
		case known[name]:
			met[name] = true
		case known[file+" *"]:
			met[file+" *"] = true
		default:
			t.Errorf("zodb-tests.txt does not have: %s", name)
		}
	}
	for name := range known {
		if !met[name] {
			t.Errorf("ZODB does not have: %s", name)
		}
	}
}
