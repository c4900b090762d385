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

// salvage runs Recover and returns the new file's path and the findings.
func salvage(t testing.TB, path string, opts filestorage.InspectOptions) (string, []filestorage.Finding, *filestorage.Report, error) {
	t.Helper()
	var all []filestorage.Finding
	opts.Found = func(f filestorage.Finding) { all = append(all, f) }
	fresh := filepath.Join(t.TempDir(), "Fresh.fs")
	report, err := filestorage.Recover(t.Context(), path, fresh, opts)
	return fresh, all, report, err
}

// transactionsOf returns each transaction of a file, by its tid.
func transactionsOf(t testing.TB, path string) (tids []raidstorage.TID, all map[raidstorage.TID]string) {
	t.Helper()
	s := openFor(t, path, filestorage.Options{ReadOnly: true})
	all = map[raidstorage.TID]string{}
	for txn, err := range s.Iterate(t.Context(), 0, raidstorage.MaxTID) {
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		fmt.Fprintf(&b, "%v %q %q %q %q\n", txn.TID, byte(txn.Status), txn.User, txn.Description, txn.Extension)
		for r, err := range txn.Records {
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, "%v %v %q\n", r.OID, r.TID, r.Data)
		}
		tids, all[txn.TID] = append(tids, txn.TID), b.String()
	}
	return tids, all
}

func TestRecoverOfAWholeFileIsACopy(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"tree.fs", "undone.fs", "python2.fs"} {
		fresh, all, report, err := salvage(t, place(t, name, ""), filestorage.InspectOptions{Opaque: name != "tree.fs"})
		if err != nil || len(all) > 0 || report.LostBytes != 0 {
			t.Errorf("%s: %v, %+v, %v", name, all, report, err)
		}
		if string(read(t, fresh)) != string(golden(t, name)) {
			t.Errorf("%s: the copy differs", name)
		}
	}
	// Python's two records of an object in one transaction point to the same one.
	from := place(t, "packed.fs", "")
	fresh, all, _, err := salvage(t, from, filestorage.InspectOptions{Opaque: true})
	if err != nil || len(all) > 0 {
		t.Errorf("%v, %v", all, err)
	}
	if diff := cmp.Diff(dumpFile(t, fresh), dumpFile(t, from)); diff != "" {
		t.Errorf("(-copy +original):\n%s", diff)
	}
}

func TestRecoverKeepsAllTransactionsOutsideTheDamage(t *testing.T) {
	t.Parallel()
	tids, want := transactionsOf(t, place(t, "tree.fs", ""))
	for _, whole := range []bool{false, true} {
		for _, d := range damages() {
			t.Run(fmt.Sprintf("%s, whole=%v", d.name, whole), func(t *testing.T) {
				t.Parallel()
				path := d.place(t)
				before := read(t, path)
				fresh, all, report, err := salvage(t, path, filestorage.InspectOptions{WholeOnly: whole})
				if d.none {
					wantErr[*raidstorage.InvalidError](t, err)
					if _, err := os.Stat(fresh); !errors.Is(err, fs.ErrNotExist) {
						t.Errorf("something is left: %v", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if string(read(t, path)) != string(before) {
					t.Error("the damaged file changed")
				}
				_, got := transactionsOf(t, fresh)
				if report.Transactions != int64(len(got)) {
					t.Errorf("the report counts %d transactions, there are %d", report.Transactions, len(got))
				}
				for i, tid := range tids {
					hit := slices.Contains(d.hit, i+1)
					if !hit && got[tid] != want[tid] {
						t.Errorf("transaction %d (-got +want):\n%s\n%v", i+1, cmp.Diff(got[tid], want[tid]), all)
					}
					// What only references tell is for Check to find.
					if hit && got[tid] != want[tid] && len(all) == 0 && d.kinds[0] != "dangling" {
						t.Errorf("transaction %d is not what it was, and nothing was said", i+1)
					}
					delete(got, tid)
				}
				for tid := range got {
					t.Errorf("there is a transaction %v that never was", tid)
				}
				after, _ := check(t, fresh, filestorage.InspectOptions{})
				for _, f := range after {
					if f.Kind != "dangling" || len(d.hit) == 0 {
						t.Errorf("the new file has %+v", f)
					}
				}
			})
		}
	}
}

func TestRecoverNamesWhatIsLost(t *testing.T) {
	t.Parallel()
	lost := func(name string, opts filestorage.InspectOptions) (bytes int64, objects []string) {
		i := slices.IndexFunc(damages(), func(d damage) bool { return d.name == name })
		_, all, report, err := salvage(t, damages()[i].place(t), opts)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range all {
			if f.Kind == "lost" && f.Object {
				objects = append(objects, fmt.Sprintf("%d@%d", f.OID, f.TID>>32&0xff))
			}
		}
		return report.LostBytes, objects
	}
	for _, c := range []struct {
		name    string
		whole   bool
		bytes   int64
		objects []string
	}{
		{"pickle of zeros", false, 42 + 3111, []string{"5@10"}},
		{"pickle of zeros", true, 3565, []string{"5@10", "6@10", "2@10"}},
		{"status c at the end", false, 3700, []string{"2@15", "5@15", "11@15"}},
		{"back pointer ahead", false, 0, []string{"1@4"}},
		{"back pointer to what is damaged", false, 42 + 183, []string{"1@4"}},
		{"two transactions of zeros", false, 3565 + 3592, nil},
		{"tid earlier, of no record", false, 44, nil},
		{"header", false, 0, nil},
	} {
		if c.name == "header" {
			c.name, c.bytes = "a header of zeros", 3619-(42+163)-(42+3165)-(42+103)
		}
		bytes, objects := lost(c.name, filestorage.InspectOptions{WholeOnly: c.whole})
		slices.Sort(objects)
		slices.Sort(c.objects)
		if bytes != c.bytes {
			t.Errorf("%s: %d bytes lost, want %d", c.name, bytes, c.bytes)
		}
		if diff := cmp.Diff(objects, c.objects); diff != "" {
			t.Errorf("%s: objects (-got +want):\n%s", c.name, diff)
		}
	}
}

// Back pointers follow records that have moved, and what they repeat is copied if the
// record itself is not.
func TestRecoverMovesPointers(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "Data.fs")
	s := openFor(t, path, filestorage.Options{Durability: filestorage.NoSync})
	put(t, s, 9, strings.Repeat("in the way", 1000))
	put(t, s, 1, "one")
	undoTxn(t, s, put(t, s, 1, "changed"))
	put(t, s, 2, "two")
	undoTxn(t, s, put(t, s, 2, "changed"))
	b := read(t, path)
	p := placesOf(b)
	clear(b[p.txn[1]:p.txn[2]])            // all that follows moves
	put64(b, p.txn[5], 0x03fb7b0000000000) // out of order in its header,
	put64(b, p.records[5][0]+inRecTID, 5)  // and in its record: lost, but readable
	damaged := filepath.Join(t.TempDir(), "Data.fs")
	write(t, damaged, b)
	fresh, all, _, err := salvage(t, damaged, filestorage.InspectOptions{Opaque: true})
	if err != nil {
		t.Fatal(err)
	}
	r := openFor(t, fresh, filestorage.Options{ReadOnly: true})
	if one, two := current(t, r, 1), current(t, r, 2); one != "one" || two != "two" {
		t.Errorf("objects are %q and %q: %v", one, two, all)
	}
}

func TestRecoverRefuses(t *testing.T) {
	t.Parallel()
	path := place(t, "tree.fs", "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	fresh := filepath.Join(t.TempDir(), "Fresh.fs")
	if _, err := filestorage.Recover(ctx, path, fresh, filestorage.InspectOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("an ended context: %v", err)
	}
	if _, err := os.Stat(fresh); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something is left: %v", err)
	}
	for _, there := range []string{fresh + ".index", fresh} {
		write(t, there, []byte("precious"))
		_, err := filestorage.Recover(t.Context(), path, fresh, filestorage.InspectOptions{})
		wantErr[*raidstorage.InvalidError](t, err)
		if string(read(t, there)) != "precious" {
			t.Error("it was overwritten")
		}
		if err := os.Remove(there); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := filestorage.Recover(t.Context(), path+"x", fresh, filestorage.InspectOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}
