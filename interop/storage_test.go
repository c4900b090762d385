//go:build interop

package interop_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/zeoclient"
)

// kind is what the servers of a test keep their data in.
type kind string

const (
	inMemory kind = "memory"
	inFile   kind = "file"
	inMirror kind = "mirror" // of two files, or of two memories where ZEO has a mapping storage
)

// storageSpec is what suite.py tells of a storage section.
type storageSpec struct {
	Type     string   `json:"type"` // mapping, file, zeoclient
	Path     string   `json:"path"`
	BlobDir  string   `json:"blob_dir"`
	ReadOnly bool     `json:"read_only"`
	GC       bool     `json:"gc"`      // whether a pack collects garbage
	Delayed  bool     `json:"delayed"` // whether loads are slow
	Servers  []string `json:"servers"`
	Storage  string   `json:"storage"`
}

// memory is what in-memory storages hold, by path: it outlives the server, as a file
// does.
type memory map[string]*memstorage.Storage

// open opens the storage that the section stands for in a test of this kind.
func (c *control) open(ctx context.Context, name string, spec storageSpec) (raidstorage.Storage, error) {
	switch {
	case spec.Type == "zeoclient":
		return zeoclient.Open(ctx, zeoclient.Options{Addresses: spec.Servers, Storage: spec.Storage})
	case spec.Type == "mapping" && c.kind == inMirror:
		return c.openMemoryMirror(ctx, name)
	case spec.Type == "mapping":
		return memstorage.New(name), nil
	case spec.Type != "file":
		return nil, fmt.Errorf("storage section %q is not known", spec.Type)
	case c.kind == inMemory:
		return c.remembered(spec.Path), nil
	case c.kind == inFile:
		s, err := openFile(ctx, spec.Path, spec.BlobDir, spec.ReadOnly)
		if err == nil && !spec.GC {
			return withoutGC{s.(*filestorage.Storage)}, nil
		}
		return s, err
	}
	return openFileMirror(ctx, spec)
}

// openFileMirror opens a mirror whose first member has the files of the section; those
// of the second are beside them.
func openFileMirror(ctx context.Context, spec storageSpec) (raidstorage.Storage, error) {
	member := func(suffix, blobs string) raidstorage.Backend {
		dir := spec.BlobDir
		if dir != "" {
			dir += blobs
		}
		return raidstorage.Backend{Name: "m" + suffix, Open: func(ctx context.Context) (raidstorage.Storage, error) {
			return openFile(ctx, spec.Path+suffix, dir, false)
		}}
	}
	m, err := raidstorage.Open(ctx, raidstorage.Config{
		Name:     filepath.Base(spec.Path),
		Backends: []raidstorage.Backend{member("", ""), member("-b", "-b")},
		StateDir: spec.Path + "-state",
		Logger:   logger(),
	})
	switch {
	case err != nil:
		return nil, err
	case spec.Delayed:
		return delayed{m}, nil
	case !spec.GC:
		return mirrorWithoutGC{m}, nil
	}
	return m, nil
}

// openMemoryMirror opens an empty mirror of two members in memory.
func (c *control) openMemoryMirror(ctx context.Context, name string) (raidstorage.Storage, error) {
	state, err := os.MkdirTemp(c.dir, "state")
	if err != nil {
		return nil, err
	}
	member := func(name string) raidstorage.Backend {
		data := memstorage.New(name)
		return raidstorage.Backend{Name: name, Open: func(context.Context) (raidstorage.Storage, error) {
			return data.Another(name), nil
		}}
	}
	return raidstorage.Open(ctx, raidstorage.Config{
		Name:     name,
		Backends: []raidstorage.Backend{member("a"), member("b")},
		StateDir: state,
		Logger:   logger(),
	})
}

func openFile(ctx context.Context, path, blobDir string, readOnly bool) (raidstorage.Storage, error) {
	return filestorage.Open(ctx, path, filestorage.Options{
		BlobDir: blobDir, ReadOnly: readOnly, Durability: filestorage.NoSync, Logger: logger(),
	})
}

// remembered returns a handle on the data that was served for the path before.
func (c *control) remembered(path string) raidstorage.Storage {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.memory[path] == nil {
		c.memory[path] = memstorage.New(path)
	}
	return c.memory[path].Another(path)
}

// delayed answers loads some time after it has read: what it tells is old by then, and
// a server must not pass it on as current.
type delayed struct{ *raidstorage.Mirror }

func (d delayed) LoadBefore(ctx context.Context, oid raidstorage.OID, before raidstorage.TID) (raidstorage.Revision, error) {
	r, err := d.Mirror.LoadBefore(ctx, oid, before)
	timer := time.NewTimer(10 * time.Millisecond) // as ZEO's own wrapper does
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return raidstorage.Revision{}, ctx.Err()
	}
	return r, err
}

// withoutGC is a file whose packs collect no garbage: pack-gc false.
type withoutGC struct{ *filestorage.Storage }

func (w withoutGC) Pack(ctx context.Context, opts raidstorage.PackOptions) error {
	opts.GC = false
	return w.Storage.Pack(ctx, opts)
}

// mirrorWithoutGC is withoutGC for a mirror.
type mirrorWithoutGC struct{ *raidstorage.Mirror }

func (w mirrorWithoutGC) Pack(ctx context.Context, opts raidstorage.PackOptions) error {
	opts.GC = false
	return w.Mirror.Pack(ctx, opts)
}
