//go:build interop

package zeoclient_test

import (
	"path/filepath"
	"testing"

	"github.com/zeoraid/raidstorage/storagetest"
	"github.com/zeoraid/raidstorage/zeoclient"
)

// beyondPython are the rules that no client of Python's server can keep, and why.
func beyondPython() map[string]string {
	return map[string]string{
		"metadata/metadata of 65535 bytes is kept": "the server pickles the extension again, in more bytes: FileStorageError, too much extension data",
		"restore/a copied log is identical":        "the wire has a dict for an extension: an empty one and none are the same",

		"conflict/storing over a revision that is not current conflicts":       "ZODB cannot make a ConflictError for the record \"c\", which is no pickle: ValueError",
		"transaction state/a transaction whose vote failed refuses everything": "the same",

		"pack/revisions that were not current at the pack time are dropped":                     "packs without garbage collection; the server decides that itself",
		"pack/transactions up to the pack time become packed, later ones stay":                  "the same",
		"garbage collection/without collection all objects stay":                                "the same",
		"garbage collection/references from later records keep objects":                         "FileStorage's pack drops them",
		"garbage collection/a record that cannot be read stops the pack and nothing is dropped": "FileStorage's pack raises EOFError and does not say which record it is",
	}
}

func TestPythonServerConforms(t *testing.T) {
	t.Parallel()
	for name, options := range map[string]string{"pickle": "msgpack false", "msgpack": "msgpack true", "shared blobs": "msgpack false"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startRunzeo(t, shortDir(t), 300, options)
			fresh := func(t testing.TB) zeoclient.Options {
				opts := server.options(t)
				switch name { // nobody must notice
				case "msgpack":
					opts.CacheBytes = 1 << 20
				case "shared blobs":
					opts.SharedBlobDir = filepath.Join(server.dir, "blobs"+opts.Storage)
				}
				return opts
			}
			conform(t, clients(storagetest.All&^storagetest.Truncater&^storagetest.GarbageFinder&^storagetest.StagedPacker&^storagetest.PackEstimator&^storagetest.KeptFinder, fresh), beyondPython())
		})
	}
}
