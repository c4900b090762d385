package filestorage_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// FuzzOpen opens any bytes as a file: it must open or say why not, and what it
// yields must be the same with and without repair, with and without index.
func FuzzOpen(f *testing.F) {
	for _, name := range []string{"undone.fs", "packed.fs", "python2.fs"} {
		whole := golden(f, name)
		f.Add(whole)
		f.Add(whole[:len(whole)-3])
		f.Add(append(bytes.Clone(whole), make([]byte, 100)...))
	}
	f.Add([]byte("FS30"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "Data.fs")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		opts := filestorage.Options{Durability: filestorage.NoSync}
		want, err := openAndDump(t.Context(), path, filestorage.Options{ReadOnly: true})
		if err != nil {
			wantRefusal(t, err)
		}
		for _, how := range []string{"writable", "with index"} {
			got, gotErr := openAndDump(t.Context(), path, opts)
			if (gotErr == nil) != (err == nil) || got != want {
				t.Fatalf("%s: %v, got\n%s\nread-only: %v, got\n%s", how, gotErr, got, err, want)
			}
		}
	})
}

func openAndDump(ctx context.Context, path string, opts filestorage.Options) (string, error) {
	s, err := filestorage.Open(ctx, path, opts)
	if err != nil {
		return "", err
	}
	d, err := dump(ctx, s)
	for _, e := range s.CurrentRecords(ctx, 0) {
		if e != nil {
			err = errors.Join(err, e)
			break
		}
	}
	if _, e := s.UndoLog(ctx, 0, 100, nil); e != nil {
		err = errors.Join(err, e)
	}
	return d, errors.Join(err, s.Close())
}

func wantRefusal(t *testing.T, err error) {
	t.Helper()
	if _, ok := errors.AsType[*raidstorage.CorruptError](err); !ok {
		t.Fatalf("%v (%T) is not a *CorruptError", err, err)
	}
}
