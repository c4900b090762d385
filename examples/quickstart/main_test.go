package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// seconds keeps the demonstration short: the clients' pauses need at least this.
const seconds = "0.5"

func TestNothingIsLost(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	if err := run(t.Context(), []string{"-seconds", seconds}, &out); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	for _, want := range []string{
		"backend b1: suspect -> failed", "backend b2: suspect -> failed",
		"The mirror is degraded; in sync: [b2 b3].", "The mirror is degraded; in sync: [b3 b1].",
		"The mirror is optimal; in sync: [b3 b1 b2].",
		"VERDICT: OK.",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output lacks %q:\n%s", want, &out)
		}
	}
}

func TestAnExistingFileIsLoaded(t *testing.T) {
	t.Parallel()
	db := filepath.Join(t.TempDir(), "Data.fs")
	makeFile(t, db, 30, "old")
	dir := t.TempDir()
	var out strings.Builder
	if err := run(t.Context(), []string{"-db", db, "-dir", dir, "-seconds", seconds}, &out); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	if want := fmt.Sprintf("The 30 transactions of %s are all there.", db); !strings.Contains(out.String(), want) {
		t.Errorf("the output lacks %q:\n%s", want, &out)
	}
	if !strings.Contains(out.String(), "VERDICT: OK.") {
		t.Errorf("there is no verdict:\n%s", &out)
	}
	if _, err := compare(t.Context(), db, filepath.Join(dir, "b3", "Data.fs"), true); err != nil {
		t.Error(err)
	}
}

// TestLossIsSeen shows that the verdict can be bad: somebody cuts a commit off.
func TestLossIsSeen(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		harm func(t *testing.T, paths []string)
		want func(error) bool
	}{
		"in one file": {
			harm: func(t *testing.T, paths []string) { cutLast(t, paths[2]) },
			want: func(err error) bool { _, ok := errors.AsType[*DifferenceError](err); return ok },
		},
		"in all files": {
			harm: func(t *testing.T, paths []string) {
				for _, path := range paths {
					cutLast(t, path)
				}
			},
			want: func(err error) bool { _, ok := errors.AsType[*LostError](err); return ok },
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			d := &demo{screen: newScreen(&out), phase: 1e8, dir: t.TempDir()}
			d.beforeCheck = func(paths []string) { test.harm(t, paths) }
			err := d.run(t.Context())
			if err == nil || !test.want(err) {
				t.Errorf("the verdict is %v\n%s", err, &out)
			}
			if !strings.Contains(out.String(), "VERDICT: FAILED.") || strings.Contains(out.String(), "VERDICT: OK") {
				t.Errorf("the verdict is not shown:\n%s", &out)
			}
		})
	}
}

func TestCompareFindsTheFirstDifference(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	same, also, shorter, other := filepath.Join(dir, "1"), filepath.Join(dir, "2"), filepath.Join(dir, "3"), filepath.Join(dir, "4")
	makeFile(t, same, 5, "x")
	makeFile(t, also, 5, "x")
	makeFile(t, shorter, 3, "x")
	makeFile(t, other, 5, "y")
	tests := map[string]struct {
		a, b   string
		prefix bool
		tid    raidstorage.TID // of the difference, 0 for none
	}{
		"equal":          {same, also, false, 0},
		"longer":         {same, shorter, false, 1004},
		"shorter":        {shorter, same, false, 1004},
		"a beginning":    {shorter, same, true, 0},
		"no beginning":   {same, shorter, true, 1004},
		"other contents": {same, other, false, 1001},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := compare(t.Context(), test.a, test.b, test.prefix)
			var tid raidstorage.TID
			if d, ok := errors.AsType[*DifferenceError](err); ok {
				tid = d.TID
			} else if err != nil {
				t.Fatal(err)
			}
			if tid != test.tid {
				t.Errorf("got %v, want a difference at %v", err, test.tid)
			}
		})
	}
}

func TestFlagsAreChecked(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	if err := run(t.Context(), []string{"Data.fs"}, &out); err == nil {
		t.Error("an argument is accepted")
	}
	if err := run(t.Context(), []string{"-db", filepath.Join(t.TempDir(), "none.fs")}, &out); err == nil {
		t.Error("a missing file is accepted")
	}
}

// makeFile makes a Data.fs with n transactions, with tids 1001, 1002, ..., that hold
// the text.
func makeFile(t *testing.T, path string, n int, text string) {
	t.Helper()
	ctx := context.Background()
	s, err := filestorage.Open(ctx, path, filestorage.Options{Durability: filestorage.NoSync})
	if err != nil {
		t.Fatal(err)
	}
	defer closeFile(t, s)
	for i := range n {
		tid := raidstorage.TID(1001 + i)
		oid := raidstorage.OID(i % 7)
		data := fmt.Appendf(nil, "%s %d", text, i)
		txn := &raidstorage.Transaction{
			Meta: raidstorage.Meta{TID: tid, Status: raidstorage.StatusNormal, User: []byte("somebody")},
			Records: func(yield func(raidstorage.Record, error) bool) {
				yield(raidstorage.Record{OID: oid, TID: tid, Data: data}, nil)
			},
		}
		if err := restore(ctx, s, txn); err != nil {
			t.Fatal(err)
		}
	}
}

// cutLast removes the last transaction of a file.
func cutLast(t *testing.T, path string) {
	t.Helper()
	ctx := context.Background()
	s, err := filestorage.Open(ctx, path, filestorage.Options{MustExist: true})
	if err != nil {
		t.Fatal(err)
	}
	defer closeFile(t, s)
	var before, last raidstorage.TID
	for txn, err := range s.Iterate(ctx, 0, raidstorage.MaxTID) {
		if err != nil {
			t.Fatal(err)
		}
		before, last = last, txn.TID
	}
	if err := s.TruncateAfter(ctx, before, last); err != nil {
		t.Fatal(err)
	}
}

func closeFile(t *testing.T, s *filestorage.Storage) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
