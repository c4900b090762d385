package filestorage_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// TestBlobOfARepeatedRevision: a revision that a pack keeps only because a later undo
// repeats it is in the log, with its blob, which who asks by oid and tid must get: a
// recovery from a server does.
func TestBlobOfARepeatedRevision(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	dir := t.TempDir()
	s, err := filestorage.Open(ctx, filepath.Join(dir, "Data.fs"), filestorage.Options{BlobDir: filepath.Join(dir, "blobs")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	storagetest.Commit(t, s, map[raidstorage.OID]string{0: storagetest.Pickled("root", 1)})
	record := strings.Replace(storagetest.Pickled("blob"), "cpersistent.mapping\nPersistentMapping\n", "cZODB.blob\nBlob\n", 1)
	put := func(serial raidstorage.TID, content string) raidstorage.TID {
		return storagetest.Transact(t, s, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
			return raidstorage.StoreBlob(ctx, txn, 1, serial, []byte(record+content), strings.NewReader(content))
		})
	}
	undo := func(tid raidstorage.TID) raidstorage.TID {
		return storagetest.Transact(t, s, raidstorage.Meta{}, func(txn raidstorage.Txn) error { return raidstorage.Undo(ctx, txn, tid) })
	}
	second := put(put(0, "first"), "second")
	undone := undo(second)
	again := undo(undone)
	if err := s.Pack(ctx, raidstorage.PackOptions{Through: undone, GC: true}); err != nil {
		t.Fatal(err)
	}
	log, err := storagetest.Log(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	got := map[raidstorage.TID]string{}
	for _, txn := range log {
		for _, rec := range txn.Records {
			if !rec.HasBlob {
				continue
			}
			blob, err := readAll(s.OpenBlob(ctx, rec.OID, rec.TID))
			if err != nil {
				t.Errorf("the blob of %v, %v, which the log has: %v", rec.OID, rec.TID, err)
			}
			got[rec.TID] = blob
		}
	}
	if diff := cmp.Diff(map[raidstorage.TID]string{second: "second", undone: "first", again: "second"}, got); diff != "" {
		t.Errorf("blobs (-want +got):\n%s", diff)
	}
	if _, err := s.OpenBlob(ctx, 0, again); err == nil {
		t.Error("the root has a blob")
	}
}
