package filestorage_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// history makes a file of three transactions. ends are where they end, dumps what
// the file holds then.
func history(t *testing.T) (content []byte, ends []int, dumps []string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "Data.fs")
	s := openFor(t, path, filestorage.Options{Durability: filestorage.NoSync})
	note := func() {
		_, size, err := s.Size(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ends, dumps = append(ends, int(size)), append(dumps, mustDump(t, s))
	}
	note()
	put(t, s, 1, "one, with some more data")
	note()
	changed := put(t, s, 1, "one again")
	note()
	commit(t, s, raidstorage.Meta{User: []byte("u"), Description: []byte("d")}, func(txn raidstorage.Txn) error {
		if err := raidstorage.Undo(t.Context(), txn, changed); err != nil {
			return err
		}
		return txn.Store(t.Context(), 2, 0, []byte("two"))
	})
	note()
	return read(t, path), ends, dumps
}

// reopen opens content as a file, and checks what Open makes of its end: cut at
// wantEnd, the rest kept.
func reopen(t *testing.T, content []byte, wantEnd int, wantDump string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "Data.fs")
	write(t, path, content)
	var log bytes.Buffer
	s, err := filestorage.Open(t.Context(), path, filestorage.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatalf("%d bytes: %v", len(content), err)
	}
	defer s.Close()
	if diff := cmp.Diff(mustDump(t, s), wantDump); diff != "" {
		t.Errorf("%d bytes (-got +want):\n%s", len(content), diff)
	}
	repair := s.Repaired()
	if len(content) == wantEnd {
		if repair != nil {
			t.Errorf("%d bytes: repaired a whole file: %+v", len(content), repair)
		}
		return
	}
	if repair == nil || repair.Offset != int64(wantEnd) || repair.Bytes != int64(len(content)-wantEnd) {
		t.Fatalf("%d bytes: Repaired = %+v, want offset %d", len(content), repair, wantEnd)
	}
	if got := read(t, repair.Kept); !bytes.Equal(got, content[wantEnd:]) {
		t.Errorf("%d bytes: kept %q, want %q", len(content), got, content[wantEnd:])
	}
	if !bytes.Equal(read(t, path), content[:wantEnd]) {
		t.Errorf("%d bytes: the file was not cut at %d", len(content), wantEnd)
	}
	if !strings.Contains(log.String(), "level=WARN") {
		t.Errorf("%d bytes: no warning", len(content))
	}
	put(t, s, 3, "it goes on")
}

func TestAFileCutAtAnyByteHoldsAllEarlierTransactions(t *testing.T) {
	t.Parallel()
	content, ends, dumps := history(t)
	for i := 1; i < len(ends); i++ {
		for size := ends[i-1]; size < ends[i]; size++ {
			reopen(t, content[:size], ends[i-1], dumps[i-1])
		}
	}
	reopen(t, content, len(content), dumps[len(dumps)-1])
}

func TestTransactionsThatWereNotFinishedAreCut(t *testing.T) {
	t.Parallel()
	content, ends, dumps := history(t)
	begin := ends[2]
	for name, tear := range map[string]func(b []byte) []byte{
		"voted":                   func(b []byte) []byte { b[begin+16] = 'c'; return b },
		"all zero":                func(b []byte) []byte { clear(b[begin:]); return b },
		"the end zero":            func(b []byte) []byte { clear(b[len(b)-20:]); return b },
		"the first record zero":   func(b []byte) []byte { clear(b[begin+25 : begin+25+50]); return b },
		"longer and zero":         func(b []byte) []byte { clear(b[begin:]); return append(b, make([]byte, 100_000)...) },
		"garbage":                 func(b []byte) []byte { return append(b[:begin], bytes.Repeat([]byte("garbage "), 9)...) },
		"followed by nothing":     func(b []byte) []byte { return b[:begin+23] },
		"a transaction in it":     func(b []byte) []byte { return append(b[:begin+30], b[4:ends[1]]...) },
		"a whole storage in it":   func(b []byte) []byte { return append(b[:begin+30], b[:begin]...) },
		"voted, the tid zero":     func(b []byte) []byte { b[begin+16] = 'c'; clear(b[begin : begin+8]); return b },
		"the tid cut by a sector": func(b []byte) []byte { b[begin+16] = 'c'; clear(b[begin : begin+3]); return b },
		"the status zero":         func(b []byte) []byte { clear(b[begin+16 : begin+23]); return b },
		"voted, with old behind":  func(b []byte) []byte { b[begin+16] = 'c'; return append(b, b[begin:]...) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reopen(t, tear(bytes.Clone(content)), begin, dumps[2])
		})
	}
}

func TestDamageIsNotCut(t *testing.T) {
	t.Parallel()
	content, ends, _ := history(t)
	length := func(b []byte, at int) []byte { return b[ends[at]+8 : ends[at]+16] }
	for name, c := range map[string]struct {
		damage func(b []byte)
		offset int
	}{
		"unknown status":                  {func(b []byte) { b[ends[1]+16] = 'x' }, ends[1]},
		"unknown status at the end":       {func(b []byte) { b[ends[2]+16] = 'x' }, ends[2]},
		"length beyond the end":           {func(b []byte) { length(b, 1)[3] = 9 }, ends[1]},
		"length 0":                        {func(b []byte) { clear(length(b, 1)) }, ends[1]},
		"length to the end of the file":   {func(b []byte) { binary.BigEndian.PutUint64(length(b, 0), uint64(len(b)-12)) }, ends[0]},
		"trailing length":                 {func(b []byte) { b[ends[1]-1]++ }, ends[0]},
		"transaction of zeros":            {func(b []byte) { clear(b[ends[1]:ends[2]]) }, ends[1]},
		"tid out of order":                {func(b []byte) { clear(b[ends[1] : ends[1]+8]); b[ends[1]+7] = 1 }, ends[1]},
		"tid out of order, at the end":    {func(b []byte) { clear(b[ends[2] : ends[2]+8]); b[ends[2]+7] = 1 }, ends[2]},
		"record of another transaction":   {func(b []byte) { b[ends[1]+23+31]++ }, ends[1] + 23},
		"record with another tid":         {func(b []byte) { b[ends[1]+23+15]++ }, ends[1] + 23},
		"record with a version":           {func(b []byte) { b[ends[1]+23+33]++ }, ends[1] + 23},
		"record longer than the rest":     {func(b []byte) { b[ends[1]+23+41]++ }, ends[1] + 23},
		"previous record ahead":           {func(b []byte) { b[ends[1]+23+22] = 0xff }, ends[1] + 23},
		"back pointer ahead, at the end":  {func(b []byte) { b[ends[2]+25+48] = 0xff }, ends[2] + 25},
		"magic":                           {func(b []byte) { b[3]++ }, 0},
		"record in the last transaction":  {func(b []byte) { b[ends[2]+25+31]++ }, ends[2] + 25},
		"zero record, others after it":    {func(b []byte) { clear(b[ends[0]+23 : ends[0]+23+50]) }, ends[0] + 23},
		"user longer than the first data": {func(b []byte) { b[ends[0]+18] = 3 }, ends[0] + 26},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := bytes.Clone(content)
			c.damage(b)
			path := filepath.Join(t.TempDir(), "Data.fs")
			write(t, path, b)
			for _, readOnly := range []bool{false, true} {
				_, err := filestorage.Open(t.Context(), path, filestorage.Options{ReadOnly: readOnly})
				corrupt := wantErr[*raidstorage.CorruptError](t, err)
				if corrupt.Offset != int64(c.offset) || corrupt.Storage != path {
					t.Errorf("%v, want offset %d", corrupt, c.offset)
				}
			}
			if !bytes.Equal(read(t, path), b) {
				t.Error("the file changed")
			}
			if kept, err := filepath.Glob(path + ".t*"); err != nil || len(kept) > 0 {
				t.Errorf("something was cut off: %v (%v)", kept, err)
			}
		})
	}
}

func TestKeptEndsAreNeverOverwritten(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "Data.fs")
	write(t, path, []byte("FS30"))
	for i := range 3 {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(f, "torn end %d", i); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		s, err := filestorage.Open(t.Context(), path, filestorage.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		want := fmt.Sprintf("torn end %d", i)
		if got := string(read(t, fmt.Sprintf("%s.torn%d", path, i))); got != want {
			t.Errorf("kept %q, want %q", got, want)
		}
	}
}

// Transactions of ancient ZODBs that were undone in place are passed over.
func TestTransactionsWithStatusUArePassedOver(t *testing.T) {
	t.Parallel()
	content, ends, dumps := history(t)
	content[ends[2]+16] = 'u'
	path := filepath.Join(t.TempDir(), "Data.fs")
	write(t, path, content)
	for range 2 { // without index and with
		s, err := filestorage.Open(t.Context(), path, filestorage.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(mustDump(t, s), dumps[2]); diff != "" {
			t.Errorf("(-got +want):\n%s", diff)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// The power failed while the statuses of several transactions were written that share
// a sync: the disk has some of them, and no one was acknowledged. See rules G1 to G3.
func TestOpenFinishesWhatSharedASync(t *testing.T) {
	t.Parallel()
	content, ends, dumps := history(t)
	for name, c := range map[string]struct {
		voted []int // transactions, with status 'c'
		whole int   // how many the file holds after open
	}{
		"the first of three":          {[]int{0}, 3},
		"the second of three":         {[]int{1}, 3},
		"the first two":               {[]int{0, 1}, 3},
		"the first and the last":      {[]int{0, 2}, 2},
		"the last two, none finished": {[]int{1, 2}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := bytes.Clone(content)
			for _, n := range c.voted {
				b[ends[n]+16] = 'c'
			}
			path := filepath.Join(t.TempDir(), "Data.fs")
			write(t, path, b)
			readOnly := openFor(t, path, filestorage.Options{ReadOnly: true})
			if got := mustDump(t, readOnly); got != dumps[c.voted[0]] {
				t.Errorf("the writer has not finished them, but there are\n%s", got)
			}
			for range 2 {
				s := openFor(t, path, filestorage.Options{})
				if diff := cmp.Diff(mustDump(t, s), dumps[c.whole]); diff != "" {
					t.Errorf("(-got +want):\n%s", diff)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if got := read(t, path); !bytes.Equal(got, content[:ends[c.whole]]) {
				t.Error("the statuses were not written")
			}
		})
	}
}

// More transactions follow than share a sync: this is damage.
func TestAStatusThatChangedIsNotCut(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "Data.fs")
	s := openFor(t, path, filestorage.Options{Durability: filestorage.NoSync})
	for range filestorage.MaxBatch + 6 {
		put(t, s, 1, "one")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	b := read(t, path)
	b[4+16] = 'c'
	write(t, path, b)
	if err := os.Remove(path + ".index"); err != nil {
		t.Fatal(err)
	}
	for _, readOnly := range []bool{false, true} {
		_, err := filestorage.Open(t.Context(), path, filestorage.Options{ReadOnly: readOnly})
		wantErr[*raidstorage.CorruptError](t, err)
	}
	if !bytes.Equal(read(t, path), b) {
		t.Error("the file was changed")
	}
}
