// First is the first program of the README: a mirror of two files, one commit.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

func main() {
	if err := run(context.Background(), "zeoraid-data"); err != nil {
		log.Fatal(err)
	}
}

// run keeps everything in dir. In real life each backend is on a disk of its own.
func run(ctx context.Context, dir string) error {
	cfg := raidstorage.Config{StateDir: filepath.Join(dir, "state")}
	for _, name := range []string{"left", "right"} {
		path := filepath.Join(dir, name, "Data.fs")
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		cfg.Backends = append(cfg.Backends, raidstorage.Backend{
			Name: name,
			Open: func(ctx context.Context) (raidstorage.Storage, error) {
				return filestorage.Open(ctx, path, filestorage.Options{})
			},
		})
	}
	mirror, err := raidstorage.Open(ctx, cfg)
	if err != nil {
		return err
	}
	defer mirror.Close()

	oids, err := mirror.NewOIDs(ctx, 1)
	if err != nil {
		return err
	}
	txn, err := mirror.Begin(ctx, raidstorage.Meta{User: []byte("me")})
	if err != nil {
		return err
	}
	defer txn.Abort(ctx) // has no effect after Finish
	if err := txn.Store(ctx, oids[0], 0, []byte("hello")); err != nil {
		return err
	}
	if _, err := txn.Vote(ctx); err != nil {
		return err
	}
	tid, err := txn.Finish(ctx)
	if err != nil {
		return err
	}

	revision, err := mirror.LoadBefore(ctx, oids[0], raidstorage.MaxTID)
	if err != nil {
		return err
	}
	fmt.Printf("object %v is %q since transaction %v\n", oids[0], revision.Data, tid)
	status := mirror.Status()
	fmt.Printf("the mirror is %v, in sync: %v\n", status.Condition, status.Membership.InSync)
	return nil
}
