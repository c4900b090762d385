package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// disk is a place for one Data.fs. It can die, and be replaced by an empty one.
type disk struct {
	name string
	dir  string

	mu      sync.Mutex // guards the fields below
	present bool
	current *filestorage.Storage // what was opened last
}

func (d *disk) path() string { return filepath.Join(d.dir, "Data.fs") }

// open is the Backend.Open of this disk. The mirror calls it at the start, and
// again when the backend is to be recovered.
func (d *disk) open(ctx context.Context) (raidstorage.Storage, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.present {
		return nil, fmt.Errorf("disk %s is gone", d.name)
	}
	s, err := filestorage.Open(ctx, d.path(), filestorage.Options{})
	if err != nil {
		return nil, err
	}
	d.current = s
	return s, nil
}

// insertEmpty puts an empty disk in.
func (d *disk) insertEmpty() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return err
	}
	if _, err := os.Stat(d.path()); err == nil {
		return fmt.Errorf("%s exists already", d.path())
	}
	d.present = true
	return nil
}

// kill closes the storage under the mirror, whatever it is doing: from now on each
// of its calls fails, also the ones of a transaction that has voted. The data is
// gone too.
func (d *disk) kill() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.present = false
	if d.current == nil {
		return fmt.Errorf("disk %s was never opened", d.name)
	}
	return errors.Join(d.current.Close(), os.RemoveAll(d.dir))
}
