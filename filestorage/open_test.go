package filestorage_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

func wantErr[E error](t testing.TB, err error) E {
	t.Helper()
	got, ok := errors.AsType[E](err)
	if !ok {
		t.Fatalf("error %v (%T) is not a %T", err, err, got)
	}
	return got
}

func wantLocked(t testing.TB, path string) {
	t.Helper()
	_, err := filestorage.Open(t.Context(), path, filestorage.Options{})
	if locked := wantErr[*filestorage.LockedError](t, err); locked.Path != path+".lock" {
		t.Errorf("the lock file is %q", locked.Path)
	}
}

func TestOneWriterAtATime(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "Data.fs")
	s := openFor(t, path, filestorage.Options{})
	wantLocked(t, path)
	if got, want := string(read(t, path+".lock")), " "+strconv.Itoa(os.Getpid())+"\n"; got != want {
		t.Errorf("the lock file holds %q, want %q", got, want)
	}
	put(t, s, 1, "one")
	r := openFor(t, path, filestorage.Options{ReadOnly: true})
	if got := current(t, r, 1); got != "one" {
		t.Errorf("the reader sees %q", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	openFor(t, path, filestorage.Options{})
}

func TestOpenRefusesWhatItCannotServe(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing.fs")
	for _, opts := range []filestorage.Options{{MustExist: true}, {ReadOnly: true}} {
		if _, err := filestorage.Open(t.Context(), missing, opts); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open(%+v) = %v, want fs.ErrNotExist", opts, err)
		}
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 0 {
		t.Errorf("a refused open left %v (%v)", names, err)
	}
	_, err := filestorage.Open(t.Context(), missing, filestorage.Options{Durability: 7})
	wantErr[*raidstorage.InvalidError](t, err)
	for _, content := range []string{"GIF89a", "F", "FS29", "FS", "x"} {
		path := filepath.Join(t.TempDir(), "Data.fs")
		write(t, path, []byte(content))
		_, err := filestorage.Open(t.Context(), path, filestorage.Options{})
		if content == "F" || content == "FS" { // its creation was interrupted
			if err != nil {
				t.Errorf("%q: %v", content, err)
			}
			continue
		}
		wantErr[*raidstorage.CorruptError](t, err)
		if got := string(read(t, path)); got != content {
			t.Errorf("%q became %q", content, got)
		}
	}
}

func TestOpenEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	path := place(t, "packed.fs", "")
	if _, err := filestorage.Open(ctx, path, filestorage.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Open = %v, want context.Canceled", err)
	}
	openFor(t, path, filestorage.Options{}) // the lock is free
}

func TestReadOnlyOpenChangesNothing(t *testing.T) {
	t.Parallel()
	torn := append(golden(t, "packed.fs"), "torn"...)
	for name, content := range map[string][]byte{
		"whole": golden(t, "packed.fs"), "empty": {}, "torn": torn,
	} {
		path := filepath.Join(t.TempDir(), "Data.fs")
		write(t, path, content)
		s := openFor(t, path, filestorage.Options{ReadOnly: true})
		_, err := s.NewOIDs(t.Context(), 1)
		wantErr[*raidstorage.ReadOnlyError](t, err)
		if repair := s.Repaired(); (repair != nil) != (name == "torn") || repair != nil && repair.Kept != "" {
			t.Errorf("%s: Repaired = %+v", name, repair)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(read(t, path), content) {
			t.Errorf("%s: the file changed", name)
		}
		if names, err := os.ReadDir(filepath.Dir(path)); err != nil || len(names) != 1 {
			t.Errorf("%s: there are %v (%v)", name, names, err)
		}
	}
}

func TestCloseSavesAnIndexThatTheNextOpenUses(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "Data.fs")
	s := openFor(t, path, filestorage.Options{})
	for oid := range raidstorage.OID(20) {
		put(t, s, oid*1000, "x")
	}
	want := mustDump(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// A flaw that only a scan of the whole file would find.
	content := read(t, path)
	content[4+16] = '?'
	write(t, path, content)
	r, err := filestorage.Open(t.Context(), path, filestorage.Options{})
	if err != nil {
		t.Fatalf("the index was not used: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path + ".index"); err != nil {
		t.Fatal(err)
	}
	_, err = filestorage.Open(t.Context(), path, filestorage.Options{})
	if corrupt := wantErr[*raidstorage.CorruptError](t, err); corrupt.Offset != 4 {
		t.Errorf("the flaw is at %d, want 4", corrupt.Offset)
	}
	content[4+16] = ' '
	write(t, path, content)
	if got := dumpFile(t, path); got != want {
		t.Error("the file reads differently without its index")
	}
}

func TestTransactionsAfterTheIndexAreScanned(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "Data.fs")
	s := openFor(t, path, filestorage.Options{})
	put(t, s, 1, "one")
	put(t, s, 2, "two, long enough for an index of its own to be of use")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	old := read(t, path+".index")
	s = openFor(t, path, filestorage.Options{})
	put(t, s, 1, "one again")
	put(t, s, 3, "three")
	want := mustDump(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, path+".index", old)
	r := openFor(t, path, filestorage.Options{})
	if got := mustDump(t, r); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if oids, err := r.NewOIDs(t.Context(), 1); err != nil || oids[0] != 4 {
		t.Errorf("NewOIDs = %v, %v; want 4", oids, err)
	}
}

func TestABadIndexIsIgnored(t *testing.T) {
	t.Parallel()
	good := golden(t, "packed.fs.index")
	want := dumpFile(t, place(t, "packed.fs", ""))
	for i := range good {
		for _, flip := range []byte{1, 0x80, 0xff} {
			bad := bytes.Clone(good)
			bad[i] ^= flip
			path := place(t, "packed.fs", "")
			write(t, path+".index", bad)
			s, err := filestorage.Open(t.Context(), path, filestorage.Options{Durability: filestorage.NoSync})
			if err != nil {
				t.Fatalf("byte %d ^ %#x: %v", i, flip, err)
			}
			got, err := dump(t.Context(), s)
			if err != nil || got != want {
				t.Errorf("byte %d ^ %#x: the index was believed (%v)", i, flip, err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		path := place(t, "packed.fs", "")
		write(t, path+".index", good[:i])
		if got := dumpFile(t, path); got != want {
			t.Errorf("an index of %d bytes was believed", i)
		}
	}
}

func TestOpenWarnsOfTransactionsInTheFuture(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	openFor(t, place(t, "undone.fs", ""), filestorage.Options{
		Clock:  func() time.Time { return time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC) },
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if !strings.Contains(log.String(), "in the future") {
		t.Errorf("the log is %q", log.String())
	}
}
