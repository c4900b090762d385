package filestorage_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// check runs Check and returns the findings.
func check(t testing.TB, path string, opts filestorage.InspectOptions) ([]filestorage.Finding, *filestorage.Report) {
	t.Helper()
	all, report := checkAll(t, path, opts)
	return slices.DeleteFunc(all, func(f filestorage.Finding) bool { return f.Warning }), report
}

// checkAll is check with the warnings.
func checkAll(t testing.TB, path string, opts filestorage.InspectOptions) (all []filestorage.Finding, report *filestorage.Report) {
	t.Helper()
	opts.Found = func(f filestorage.Finding) { all = append(all, f) }
	report, err := filestorage.Check(t.Context(), path, opts)
	if err != nil {
		t.Fatal(err)
	}
	if report.Findings+report.Warnings != int64(len(all)) {
		t.Errorf("the report counts %d findings and %d warnings, there are %d in all", report.Findings, report.Warnings, len(all))
	}
	return all, report
}

func kindsOf(all []filestorage.Finding) map[string]int {
	kinds := map[string]int{}
	for _, f := range all {
		kinds[f.Kind]++
	}
	return kinds
}

func TestCheckFindsNothingInWhatPythonAndGoWrote(t *testing.T) {
	t.Parallel()
	path := place(t, "tree.fs", "tree.fs.index")
	all, report := check(t, path, filestorage.InspectOptions{})
	if len(all) > 0 {
		t.Errorf("tree.fs: %v", all)
	}
	want := &filestorage.Report{Size: int64(len(golden(t, "tree.fs"))), Transactions: 15, Records: 33, Objects: 12}
	if diff := cmp.Diff(report, want); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
	for _, name := range []string{"packed.fs", "undone.fs", "python2.fs"} { // their data are no pickles
		index := name + ".index"
		if name == "python2.fs" {
			index = ""
		}
		if all, _ := check(t, place(t, name, index), filestorage.InspectOptions{Opaque: true}); len(all) > 0 {
			t.Errorf("%s: %v", name, all)
		}
	}
	ours := openFor(t, filepath.Join(t.TempDir(), "Data.fs"), filestorage.Options{Durability: filestorage.NoSync})
	undone := put(t, ours, 1, "one")
	put(t, ours, 2, "two")
	undoTxn(t, ours, undoTxn(t, ours, undone))
	// The storage is open: there is no index, and a lock that Check need not have.
	if all, _ := check(t, ours.Name(), filestorage.InspectOptions{Opaque: true}); len(all) > 0 {
		t.Errorf("what Go wrote: %v", all)
	}
	txn := begin(t, ours, raidstorage.Meta{})
	if err := txn.Store(t.Context(), 3, 0, []byte("three")); err != nil {
		t.Fatal(err)
	}
	if _, err := txn.Vote(t.Context()); err != nil {
		t.Fatal(err)
	}
	if all, _ := check(t, ours.Name(), filestorage.InspectOptions{Opaque: true, Live: true}); len(all) > 0 {
		t.Errorf("a voted transaction, live: %v", all)
	}
	all, _ = check(t, ours.Name(), filestorage.InspectOptions{Opaque: true})
	if diff := cmp.Diff(kindsOf(all), map[string]int{"unfinished": 1}); diff != "" {
		t.Errorf("a voted transaction (-got +want):\n%s", diff)
	}
}

func TestCheckFindsEachDamage(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	for _, d := range damages() {
		if names[d.name] {
			t.Errorf("two are named %q", d.name)
		}
		names[d.name] = true
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			path := d.place(t)
			before := read(t, path)
			all, _ := check(t, path, filestorage.InspectOptions{})
			kinds := kindsOf(all)
			for _, kind := range d.kinds {
				if kinds[kind] == 0 {
					t.Errorf("no finding of kind %q, but %v", kind, all)
				}
			}
			for _, f := range all {
				if f.Text == "" || f.Offset < -1 || f.Offset > int64(len(before))+100 || f.Length < 0 {
					t.Errorf("bad finding %+v", f)
				}
			}
			if string(read(t, path)) != string(before) {
				t.Error("the file changed")
			}
			beside, err := filepath.Glob(path + ".*")
			if err != nil || d.index == nil && len(beside) > 0 {
				t.Errorf("there are %v (%v)", beside, err)
			}
		})
	}
	if len(names) < 30 {
		t.Errorf("there are %d kinds of damage only", len(names))
	}
}

// One damaged byte must not hide another place, nor make findings all over the file.
func TestCheckSaysWhatIsWrongAndNoMore(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]map[string]int{
		"tid much later, of one record":  {"tid": 2}, // of the transaction, and that its record differs
		"length too long":                {"length": 1},
		"trailing length":                {"length": 1},
		"unknown status":                 {"status": 1},
		"status c among others":          {"status": 1},
		"tid of a record":                {"tid": 1},
		"previous record elsewhere":      {"previous": 1},
		"transaction of a record":        {"record": 1},
		"data longer by a byte":          {"length": 1},
		"back pointer into a record":     {"back": 1, "dangling": 2},
		"pickle of an old revision":      {"pickle": 1},
		"reference to nothing":           {"dangling": 1},
		"index with an object elsewhere": {"index": 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := slices.IndexFunc(damages(), func(d damage) bool { return d.name == name })
			all, _ := check(t, damages()[i].place(t), filestorage.InspectOptions{})
			if diff := cmp.Diff(kindsOf(all), want); diff != "" {
				t.Errorf("(-got +want):\n%s\n%v", diff, all)
			}
		})
	}
}

func TestCheckAcceptsAnIndexOfAnEarlierTime(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "Data.fs")
	s := openFor(t, path, filestorage.Options{Durability: filestorage.NoSync})
	put(t, s, 1, "one")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openFor(t, path, filestorage.Options{Durability: filestorage.NoSync})
	put(t, s, 1, "more")
	put(t, s, 2, "two")
	if all, _ := check(t, path, filestorage.InspectOptions{Opaque: true}); len(all) > 0 {
		t.Errorf("%v", all)
	}
}

func TestCheckFindsMissingBlobs(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "Data.fs")
	s := openFor(t, path, filestorage.Options{Durability: filestorage.NoSync})
	record := "\x80\x03cZODB.blob\nBlob\nq\x00.\x80\x03N."
	there := put(t, s, 1, record)
	gone := put(t, s, 2, record)
	put(t, s, 3, "\x80\x03cpersistent.mapping\nPersistentMapping\nq\x00.\x80\x03N.")
	undone := put(t, s, 2, "\x80\x03cx\ny\nq\x00.\x80\x03N.")
	again := undoTxn(t, s, undone) // repeats the blob's record
	dir := t.TempDir()
	name := func(oid raidstorage.OID, tid raidstorage.TID) string {
		return filepath.Join(dir, fmt.Sprint(oid, "-", tid))
	}
	write(t, name(1, there), []byte("blob"))
	all, _ := check(t, path, filestorage.InspectOptions{BlobFile: name})
	var got []raidstorage.TID
	for _, f := range all {
		if f.Kind != "blob" || !f.Object || f.OID != 2 {
			t.Errorf("%+v", f)
		}
		got = append(got, f.TID)
	}
	if diff := cmp.Diff(got, []raidstorage.TID{gone, again}); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
}

func TestCheckThatCannotTellIsAnError(t *testing.T) {
	t.Parallel()
	if _, err := filestorage.Check(t.Context(), filepath.Join(t.TempDir(), "none"), filestorage.InspectOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	_, err := filestorage.Check(t.Context(), t.TempDir(), filestorage.InspectOptions{})
	wantErr[*raidstorage.InvalidError](t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := filestorage.Check(ctx, place(t, "tree.fs", ""), filestorage.InspectOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("an ended context: %v", err)
	}
}

func TestProgressRisesToTheTotal(t *testing.T) {
	t.Parallel()
	path := place(t, "tree.fs", "")
	var last, total int64
	_, err := filestorage.Check(t.Context(), path, filestorage.InspectOptions{Progress: func(done, all int64) {
		if done < last || done > all {
			t.Errorf("%d of %d after %d", done, all, last)
		}
		last, total = done, all
	}})
	if err != nil || last != total || total != 2*int64(len(golden(t, "tree.fs"))) {
		t.Errorf("%d of %d in the end (%v)", last, total, err)
	}
}

func TestDumpShowsTransactionsRecordsAndDamage(t *testing.T) {
	t.Parallel()
	path := place(t, "tree.fs", "")
	b := read(t, path)
	b[placesOf(b).txn[7]+inTxnStatus] = 'x'
	write(t, path, b)
	for _, c := range []struct {
		json bool
		want []string
	}{
		{false, []string{
			"transaction 03fb7b0200000000 at 166: 2024-09-22T16:34:00Z, 682 bytes, status ' ', user \"/ jim\", description \"a and b\", extension of 17 bytes\n",
			"  object 0000000000000002 at 378: 203 bytes, persistent.mapping.PersistentMapping\n",
			"  object 0000000000000001 at 1279: the data at 623\n",
			"  object 0000000000000004 at 2277: deleted, or its creation undone\n",
			"! status at 1799: transaction status is 'x'\n",
		}},
		{true, []string{
			`{"type":"transaction","offset":166,"tid":"03fb7b0200000000","time":"2024-09-22T16:34:00Z","length":682,"status":" ","user":"/ jim","description":"a and b","extension":"gAN9cQBYAQAAAG5xAUsBcy4="}` + "\n",
			`{"type":"record","offset":378,"oid":"0000000000000002","tid":"03fb7b0200000000","size":203,"class":"persistent.mapping.PersistentMapping"}` + "\n",
			`{"type":"record","offset":1279,"oid":"0000000000000001","tid":"03fb7b0400000000","previous":909,"back":623}` + "\n",
			`{"type":"damage","kind":"status","offset":1799,"tid":"03fb7b0700000000","length":401,"text":"transaction status is 'x'"}` + "\n",
		}},
	} {
		var out strings.Builder
		report, err := filestorage.Dump(t.Context(), path, &out, filestorage.InspectOptions{JSON: c.json})
		if err != nil || report.Transactions != 15 || report.Records != 33 || report.Findings != 1 {
			t.Errorf("%+v, %v", report, err)
		}
		for _, want := range c.want {
			if !strings.Contains(out.String(), want) {
				t.Errorf("no line %sin\n%s", want, &out)
			}
		}
		if n := strings.Count(out.String(), "\n"); n != 15+33+1 {
			t.Errorf("%d lines", n)
		}
	}
	for _, d := range damages() { // anything can be dumped
		if _, err := filestorage.Dump(t.Context(), d.place(t), new(strings.Builder), filestorage.InspectOptions{}); err != nil {
			t.Errorf("%s: %v", d.name, err)
		}
	}
	if _, err := filestorage.Dump(t.Context(), path, failingWriter{}, filestorage.InspectOptions{}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a writer that fails: %v", err)
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, os.ErrClosed }
