package filestorage_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// blobDatabase makes a database with blobs, closed, of the layout that prepare makes:
// object 1 has two revisions, the second of which was undone, object 2 is no blob, and
// the blob of object 3 is missing.
func blobDatabase(t testing.TB, prepare func(t testing.TB, dir string)) (path string, tids []raidstorage.TID) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "Data.fs")
	if prepare != nil {
		prepare(t, path+".blobs")
	}
	s := openBlobs(t, path, filestorage.Options{Durability: filestorage.NoSync})
	tids = append(tids, putBlob(t, s, 1, "first"), putBlob(t, s, 1, "second"))
	tids = append(tids, undoTxn(t, s, tids[1]), put(t, s, 2, "\x80\x03cx\ny\nq\x00.\x80\x03N."), putBlob(t, s, 3, "missing"))
	missing, err := s.BlobPath(t.Context(), 3, tids[4])
	if err == nil {
		err = os.Remove(missing)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return path, tids
}

func TestRecoverTakesBlobsOver(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(testing.TB, string){"bushy": nil, "lawn": lawn} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, tids := blobDatabase(t, prepare)
			blobs := filepath.Join(t.TempDir(), "fresh")
			fresh, all, report, err := salvage(t, path, filestorage.InspectOptions{BlobDir: path + ".blobs", FreshBlobDir: blobs})
			if err != nil {
				t.Fatal(err)
			}
			if len(all) != 1 || all[0].Kind != "blob" || all[0].OID != 3 || all[0].TID != tids[4] || report.Blobs != 3 {
				t.Errorf("%+v, %+v", all, report)
			}
			if layout := string(read(t, filepath.Join(blobs, ".layout"))); layout != name {
				t.Errorf("the layout is %q", layout)
			}
			if diff := cmp.Diff(read(t, fresh), read(t, path)); diff != "" {
				t.Errorf("the copy differs:\n%s", diff)
			}
			s := openFor(t, fresh, filestorage.Options{BlobDir: blobs})
			wantBlob(t, s, 1, tids[0], "first")
			wantBlob(t, s, 1, tids[1], "second")
			wantBlob(t, s, 1, tids[2], "first")
			wantNoBlob(t, s, 3, tids[4])
			after, rest := check(t, fresh, filestorage.InspectOptions{BlobDir: blobs})
			if len(after) != 1 || after[0].Kind != "blob" || rest.Warnings != 0 {
				t.Errorf("Check of the copy: %+v", after)
			}
		})
	}
}

// The blobs of transactions that are not copied are not either, and those of copied
// ones are.
func TestRecoverLeavesBlobsOfLostTransactions(t *testing.T) {
	t.Parallel()
	path, tids := blobDatabase(t, nil)
	b := read(t, path)
	at := strings.Index(string(b), blobRecord) + len(blobRecord)
	at += strings.Index(string(b[at:]), blobRecord)
	copy(b[at:], "no pickle")
	write(t, path, b)
	blobs := filepath.Join(t.TempDir(), "fresh")
	opts := filestorage.InspectOptions{BlobFile: bushy(path + ".blobs"), FreshBlobDir: blobs}
	fresh, _, report, err := salvage(t, path, opts)
	if err != nil || report.Blobs != 2 {
		t.Errorf("%+v, %v", report, err)
	}
	s := openFor(t, fresh, filestorage.Options{BlobDir: blobs})
	wantBlob(t, s, 1, tids[0], "first")
	wantNoBlob(t, s, 1, tids[1])
	wantBlob(t, s, 1, tids[2], "first")
}

// bushy returns the function that names the blobs in a bushy directory.
func bushy(dir string) func(raidstorage.OID, raidstorage.TID) string {
	return func(oid raidstorage.OID, tid raidstorage.TID) string {
		return filepath.Join(dir, bushyPath(byte(oid), tid))
	}
}

func TestRecoverNeedsBothBlobDirectories(t *testing.T) {
	t.Parallel()
	path, _ := blobDatabase(t, nil)
	for name, opts := range map[string]filestorage.InspectOptions{
		"no new one":    {BlobDir: path + ".blobs"},
		"no old one":    {FreshBlobDir: filepath.Join(t.TempDir(), "fresh")},
		"one is in use": {BlobDir: path + ".blobs", FreshBlobDir: t.TempDir()},
	} {
		fresh, _, _, err := salvage(t, path, opts)
		wantErr[*raidstorage.InvalidError](t, err)
		if _, err := os.Stat(fresh); err == nil {
			t.Errorf("%s: there is a new file", name)
		}
	}
	// What is no FileStorage leaves no directory.
	none := filepath.Join(t.TempDir(), "none")
	write(t, none, []byte("none"))
	blobs := filepath.Join(t.TempDir(), "fresh")
	_, _, _, err := salvage(t, none, filestorage.InspectOptions{BlobDir: path + ".blobs", FreshBlobDir: blobs})
	wantErr[*raidstorage.InvalidError](t, err)
	if _, err := os.Stat(blobs); err == nil {
		t.Error("the directory was left")
	}
}

func TestCheckWarnsOfBlobsThatBelongToNothing(t *testing.T) {
	t.Parallel()
	path, tids := blobDatabase(t, nil)
	dir := path + ".blobs"
	for _, name := range []string{bushyPath(1, 5), bushyPath(9, tids[0]), bushyPath(2, tids[4]+1), "tmp/raidstorage-1.tmp", "tmp/BUCpython"} {
		mkdir(t, filepath.Dir(filepath.Join(dir, name)))
		write(t, filepath.Join(dir, name), []byte("x"))
	}
	write(t, path+".pack", []byte("x"))
	names := func(live bool) (got []string) {
		all, report := checkAll(t, path, filestorage.InspectOptions{BlobDir: dir, Live: live})
		for _, f := range all {
			if f.Warning {
				_, name, _ := strings.Cut(f.Text, path)
				name, _, _ = strings.Cut(name, ":")
				got = append(got, f.Kind+" "+name)
			}
		}
		if report.Findings != 1 || report.Warnings != int64(len(got)) { // the one is the missing blob
			t.Errorf("%+v", report)
		}
		return got
	}
	want := []string{
		"temporary .pack", "temporary .blobs/tmp/BUCpython", "temporary .blobs/tmp/raidstorage-1.tmp",
		"orphan .blobs/" + bushyPath(1, 5), "orphan .blobs/" + bushyPath(2, tids[4]+1), "orphan .blobs/" + bushyPath(9, tids[0]),
	}
	if diff := cmp.Diff(names(false), want); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
	if diff := cmp.Diff(names(true), []string{want[3], want[5]}); diff != "" {
		t.Errorf("live (-got +want):\n%s", diff)
	}
}
