//go:build interop && linux

package raidstorage_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// foreignKinds are Python's ZEO servers.
func foreignKinds() []mixedKind {
	return []mixedKind{{name: "runzeo", server: func(_ testing.TB, dir string) mixedServer { return &pythonServer{dir: dir} }}}
}

// pythonServer is a runzeo process, over a file with blobs.
type pythonServer struct {
	dir string
	cmd *exec.Cmd
}

func (s *pythonServer) start() (string, error) {
	python := os.Getenv("RAIDSTORAGE_PYTHON")
	if python == "" {
		python = filepath.Join(".cache", "venv", "bin", "python")
	}
	socket, conf := filepath.Join(s.dir, "zeo"), filepath.Join(s.dir, "zeo.conf")
	// No transaction-timeout: after one, Python never frees its commit lock (README).
	text := fmt.Sprintf("<zeo>\n address %s\n</zeo>\n<filestorage 1>\n path %s/Data.fs\n blob-dir %[2]s/blobs\n</filestorage>\n", socket, s.dir)
	if err := os.WriteFile(conf, []byte(text), 0o666); err != nil {
		return "", err
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	log, err := os.OpenFile(filepath.Join(s.dir, "zeo.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
	if err != nil {
		return "", err
	}
	defer log.Close()
	s.cmd = exec.Command(python, "-m", "ZEO.runzeo", "-C", conf)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // a test that panics leaves nothing
	if err := s.cmd.Start(); err != nil {
		return "", err
	}
	for deadline := time.Now().Add(time.Minute); ; {
		c, err := net.Dial("unix", socket)
		if err == nil {
			return socket, c.Close()
		}
		if time.Now().After(deadline) {
			said, _ := os.ReadFile(log.Name())
			s.kill()
			return "", fmt.Errorf("runzeo does not answer: %w: %.1000s", err, said)
		}
		<-time.After(20 * time.Millisecond)
	}
}

func (s *pythonServer) kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait() // its status says that it was killed
}
