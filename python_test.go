//go:build interop || compare

package raidstorage_test

import (
	"os"
	"path/filepath"
	"testing"
)

// python returns the interpreter that has ZODB.
func python(t testing.TB) string {
	t.Helper()
	python := os.Getenv("RAIDSTORAGE_PYTHON")
	if python == "" {
		python = filepath.Join(".cache", "venv", "bin", "python")
		if _, err := os.Stat(python); err != nil {
			t.Fatalf("%v: .ci/run makes it; or set RAIDSTORAGE_PYTHON to an interpreter with ZODB", err)
		}
	}
	return python
}
