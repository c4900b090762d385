package config_test

import (
	"bytes"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zeoraid/raidstorage/config"
)

func readLog(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestLogsGoWhereTheFileSays(t *testing.T) {
	t.Parallel()
	var stdout, stderr bytes.Buffer
	path := filepath.Join(t.TempDir(), "log")
	logger, out, err := config.Log{Level: slog.LevelInfo, Files: []config.LogFile{
		{Path: "STDOUT", Level: slog.LevelWarn, JSON: true},
		{Path: path, Level: slog.LevelDebug},
	}}.Logger(&stdout, &stderr)
	if err != nil {
		t.Fatal(err)
	}
	logger.Debug("debug")
	logger.Info("info")
	logger.Warn("warn", "err", "x")
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	logger.Error("too late")
	if got := stdout.String(); strings.Contains(got, `"msg":"info"`) || !strings.Contains(got, `"level":"WARN","msg":"warn","err":"x"}`) {
		t.Errorf("STDOUT got %s", got)
	}
	if got := readLog(t, path); strings.Contains(got, "debug") || !strings.Contains(got, "level=INFO msg=info\n") || strings.Contains(got, "late") {
		t.Errorf("the file got %s", got)
	}
	if stderr.Len() != 0 {
		t.Errorf("STDERR got %s", stderr.String())
	}
	logger, _, err = config.Log{}.Logger(&stdout, &stderr)
	if err != nil {
		t.Fatal(err)
	}
	logger.Info("default")
	if !strings.Contains(stderr.String(), "level=INFO msg=default") {
		t.Errorf("STDERR got %s", stderr.String())
	}
	bad := config.Log{Files: []config.LogFile{{Path: path}, {Path: filepath.Join(path, "x")}}}
	if _, _, err := bad.Logger(&stdout, &stderr); err == nil {
		t.Error("a log below a file was opened")
	}
}

func TestLogsRotateAndReopen(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("old\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := config.Log{Files: []config.LogFile{{Path: path, MaxBytes: 50, OldFiles: 2}}}
	logger, out, err := cfg.Logger(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"one", "two", "three"} { // each line is longer than 50 bytes
		logger.Info(text, "x", strings.Repeat("x", 50))
	}
	for suffix, want := range map[string]string{"": "msg=three ", ".1": "msg=two ", ".2": "msg=one "} {
		if got := readLog(t, path+suffix); !strings.Contains(got, want) || strings.Count(got, "\n") != 1 {
			t.Errorf("log%s is %s", suffix, got)
		}
	}
	if _, err := os.Stat(path + ".3"); !os.IsNotExist(err) {
		t.Errorf("log.3: %v", err)
	}
	if err := os.Rename(path, path+".moved"); err != nil {
		t.Fatal(err)
	}
	if err := out.Reopen(); err != nil {
		t.Fatal(err)
	}
	logger.Info("four")
	if got := readLog(t, path); !strings.Contains(got, "msg=four") {
		t.Errorf("after Reopen: %s", got)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Errorf("Close twice: %v", err)
	}
	if err := out.Reopen(); err == nil || err.Error() != fs.ErrClosed.Error() {
		t.Errorf("Reopen after Close: %v", err)
	}
}
