//go:build interop

package filestorage_test

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zeoraid/raidstorage/filestorage"
)

// verdict is what testdata/check.py says of a file.
type verdict struct {
	FSTest, FSRefs, Read string // complaints
	Records              int
}

// judge lets Python judge the files.
func judge(t testing.TB, paths []string) []verdict {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), python(t), filepath.Join("testdata", "check.py"), "judge")
	cmd.Stdin = strings.NewReader(strings.Join(paths, "\n"))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	var all []verdict
	if err := json.Unmarshal(out, &all); err != nil || len(all) != len(paths) {
		t.Fatalf("%d verdicts for %d files: %v", len(all), len(paths), err)
	}
	return all
}

func TestWhateverPythonComplainsAboutCheckFindsToo(t *testing.T) {
	t.Parallel()
	var paths []string
	all := damages()
	for _, d := range all {
		paths = append(paths, d.place(t))
	}
	paths = append(paths, place(t, "tree.fs", "tree.fs.index"))
	byTest, byRefs := 0, 0
	for i, v := range judge(t, paths) {
		found, _ := check(t, paths[i], filestorage.InspectOptions{})
		if i == len(all) {
			if v.FSTest != "" || v.FSRefs != "" || len(found) > 0 {
				t.Errorf("the undamaged file: %+v, %v", v, found)
			}
			continue
		}
		if v.FSTest != "" {
			byTest++
		}
		if v.FSRefs != "" {
			byRefs++
		}
		if (v.FSTest != "" || v.FSRefs != "") && len(found) == 0 {
			t.Errorf("%s: Python complains, Check does not: %+v", all[i].name, v)
		}
		kinds := kindsOf(found)
		// Where fsrefs gets as far as to tell which references dangle, so do we.
		if n := strings.Count(v.FSRefs, "\toid "); v.FSTest == "" && n > 0 && kinds["dangling"] != n && all[i].index == nil {
			t.Errorf("%s: fsrefs tells %d references, Check %v:\n%s", all[i].name, n, found, v.FSRefs)
		}
	}
	t.Logf("of %d kinds of damage fstest sees %d, fsrefs %d, Check all", len(all), byTest, byRefs)
	if byTest < 25 || byRefs < 25 {
		t.Errorf("fstest sees %d kinds of damage, fsrefs %d: do they run?", byTest, byRefs)
	}
}

func TestPythonOpensWhatWasRecovered(t *testing.T) {
	t.Parallel()
	var paths, names []string
	for _, d := range damages() {
		fresh, _, _, err := salvage(t, d.place(t), filestorage.InspectOptions{})
		if d.none {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		paths, names = append(paths, fresh), append(names, d.name)
	}
	for i, v := range judge(t, paths) {
		found, report := check(t, paths[i], filestorage.InspectOptions{})
		dangling := len(found) > 0 // which is all that there can be
		if v.FSTest != "" || v.Read != "" || (v.FSRefs != "") != dangling || v.Records != int(report.Records) {
			t.Errorf("%s: Python says %+v, Check %v", names[i], v, found)
		}
	}
}
