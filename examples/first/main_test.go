package main

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// TestBothFilesHaveTheCommit runs the program twice, as a reader would.
func TestBothFilesHaveTheCommit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for range 2 {
		if err := run(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
	}
	var logs [][]storagetest.LogTransaction
	for _, name := range []string{"left", "right"} {
		s, err := filestorage.Open(t.Context(), filepath.Join(dir, name, "Data.fs"), filestorage.Options{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		log, err := storagetest.Log(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		logs = append(logs, log)
	}
	if diff := cmp.Diff(logs[0], logs[1]); diff != "" {
		t.Errorf("the files differ (-left +right):\n%s", diff)
	}
	var data []string
	oids := make(map[raidstorage.OID]bool)
	for _, txn := range logs[0] {
		for _, r := range txn.Records {
			data, oids[r.OID] = append(data, r.Data), true
		}
	}
	if diff := cmp.Diff([]string{"hello", "hello"}, data); diff != "" || len(oids) != 2 {
		t.Errorf("two runs stored %d objects (-want +got):\n%s", len(oids), diff)
	}
}
