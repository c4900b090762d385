//go:build interop || compare

package filestorage_test

import (
	"os"
	"path/filepath"
	"testing"
)

// These tests run the real ZODB. The interpreter is the one that the environment
// variable RAIDSTORAGE_PYTHON names, or .cache/venv/bin/python at the module's root.

func python(t testing.TB) string {
	t.Helper()
	if p := os.Getenv("RAIDSTORAGE_PYTHON"); p != "" {
		return p
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			p := filepath.Join(dir, ".cache", "venv", "bin", "python")
			if _, err := os.Stat(p); err == nil {
				return p
			}
			t.Fatalf("%s is missing: .ci/run makes it; or set RAIDSTORAGE_PYTHON to an interpreter with ZODB", p)
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the working directory")
		}
	}
}
