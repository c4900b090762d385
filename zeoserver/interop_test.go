//go:build interop

package zeoserver_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/zeoserver"
)

// scenario runs one of testdata/client.py against srv, with the Python that
// RAIDSTORAGE_PYTHON names.
func scenario(t *testing.T, srv *server, name, dir string) {
	t.Helper()
	python := os.Getenv("RAIDSTORAGE_PYTHON")
	if python == "" {
		t.Fatal("RAIDSTORAGE_PYTHON is not set: it names a Python with ZEO")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, port, err := net.SplitHostPort(srv.addr)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(ctx, python, filepath.Join("testdata", "client.py"), name, port, dir).CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v\n%s\nlog:\n%s", name, err, out, srv.log)
	}
}

// backends are the storages that clients are served from.
var backends = map[string]func(*testing.T) raidstorage.Storage{
	"memory": func(*testing.T) raidstorage.Storage { return memstorage.New("mem") },
	"file": func(t *testing.T) raidstorage.Storage {
		return openFile(t, t.TempDir())
	},
}

func openFile(t *testing.T, dir string) raidstorage.Storage {
	t.Helper()
	s, err := filestorage.Open(t.Context(), filepath.Join(dir, "Data.fs"), filestorage.Options{BlobDir: filepath.Join(dir, "served")})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPythonClients(t *testing.T) {
	t.Parallel()
	for backend, open := range backends {
		for _, msgpack := range []bool{false, true} {
			for _, name := range []string{"commits", "conflicts", "undo", "iteration", "copies", "blobs"} {
				t.Run(backend+"/msgpack="+strconv.FormatBool(msgpack)+"/"+name, func(t *testing.T) {
					cfg := serving(open(t))
					cfg.Msgpack = msgpack
					scenario(t, serve(t, cfg), name, t.TempDir())
				})
			}
		}
	}
}

func TestPythonClientsResolveConflicts(t *testing.T) {
	t.Parallel()
	for _, msgpack := range []bool{false, true} {
		cfg := serving(memstorage.New("mem"))
		cfg.Msgpack, cfg.ClientConflictResolution = msgpack, true
		scenario(t, serve(t, cfg), "resolution", t.TempDir())
	}
}

func TestPythonClientOfAReadOnlyServer(t *testing.T) {
	t.Parallel()
	s := memstorage.New("mem")
	fill(t, s, 1, 1)
	cfg := serving(s)
	cfg.ReadOnly = true
	scenario(t, serve(t, cfg), "read_only", t.TempDir())
}

// TestPythonClientVerifiesItsCache restarts the server between two runs of a client
// whose cache is on the disk.
func TestPythonClientVerifiesItsCache(t *testing.T) {
	t.Parallel()
	data, dir := t.TempDir(), t.TempDir()
	s := openFile(t, data)
	srv := serve(t, serving(s))
	scenario(t, srv, "cache_fill", dir)
	if err := srv.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	scenario(t, serve(t, serving(openFile(t, data))), "cache_verify", dir)
}

var _ = zeoserver.Config{}
