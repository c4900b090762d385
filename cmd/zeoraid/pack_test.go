package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/admin"
	"github.com/zeoraid/raidstorage/storagetest"
)

func TestPackDryRunShowsATable(t *testing.T) {
	t.Parallel()
	c := newMirror(t, 0)
	for _, text := range []string{"one", "two"} {
		storagetest.Commit(t, c.mirror, map[raidstorage.OID]string{0: storagetest.Pickled(text)})
	}
	storagetest.Commit(t, c.mirror, map[raidstorage.OID]string{1: "\x80\x03cBTrees\nOOBTree\n.\x80\x03N."})
	url := control(t, map[string]*raidstorage.Mirror{"main": c.mirror})
	status, out, errs := controlVerbs(t.Context(), "pack", "-dry-run", "-admin", url)
	table, verdict, _ := strings.Cut(out, "pack: ")
	want := "  garbage  revisions  bytes  class\n" +
		"        0          1     74  persistent.mapping.PersistentMapping\n" +
		"        1          0     23  BTrees.OOBTree\n" +
		"        1          1     97  all\n"
	if status != 0 || table != want || errs != "" || !strings.Contains(verdict, "nothing was changed") {
		t.Errorf("status %d\n%s%s", status, out, errs)
	}
	status, out, errs = controlVerbs(t.Context(), "pack", "-dry-run", "-days", "3", "-json", "-admin", url)
	var last admin.Message
	for line := range strings.Lines(out) {
		last = admin.Message{}
		if err := json.Unmarshal([]byte(line), &last); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
	}
	if status != 0 || errs != "" || last.Estimate == nil || last.Estimate.Objects+last.Estimate.Revisions != 0 {
		t.Errorf("status %d, %+v, %s", status, last, errs)
	}
}
