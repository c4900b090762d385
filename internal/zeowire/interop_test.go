//go:build interop

package zeowire_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// TestZEOReadsWhatWeWrite has ZEO's own decoders read every golden message as we write
// it. The interpreter is the one that RAIDSTORAGE_PYTHON names, or that .ci/run makes;
// it needs ZEO, msgpack and ZopeUndo.
func TestZEOReadsWhatWeWrite(t *testing.T) {
	t.Parallel()
	python := os.Getenv("RAIDSTORAGE_PYTHON")
	if python == "" {
		python = filepath.Join("..", "..", ".cache", "venv", "bin", "python")
	}
	all := goldens(t)
	var in strings.Builder
	for _, g := range all {
		m, err := (&zeowire.Decoder{Encoding: g.encoding}).Message(g.body)
		if err != nil {
			t.Fatal(err)
		}
		w := zeowire.Writer{Encoding: g.encoding}
		if err := w.Message(m); err != nil {
			t.Fatal(err)
		}
		role := "client"
		if !m.IsReply() {
			role = "server"
		}
		fmt.Fprintf(&in, "%c %s %x\n", g.encoding, role, w.Bytes()[4:])
	}
	cmd := exec.Command(python, filepath.Join("testdata", "make.py"), "decode")
	cmd.Stdin, cmd.Stderr = strings.NewReader(in.String()), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if len(lines) != len(all) {
		t.Fatalf("%d lines for %d messages", len(lines), len(all))
	}
	for i, g := range all {
		if !strings.HasPrefix(g.text, "sha256:") && lines[i] != g.text {
			t.Errorf("%s, %v: ZEO reads\n%.300s, want\n%.300s", g.name, g.encoding, lines[i], g.text)
		}
	}
}
