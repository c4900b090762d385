package raidstorage_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

const blobRecord = "\x80\x03cZODB.blob\nBlob\nq\x00.\x80\x03N."

// disks are file storages with blobs, and the means to hurt what is on the disks.
type disks struct {
	t    *testing.T
	cfg  raidstorage.Config
	reg  raidstorage.MemoryRegister
	dirs []string

	mu         sync.Mutex // guards the maps
	blobErrors map[string]func(context.Context) error
	open       map[string]*filestorage.Storage // the present ones
	seen       map[string]*storagetest.FaultyStorage
	m          *raidstorage.Mirror
	tids       []raidstorage.TID // of what fill commits
	good       []map[string][]byte
}

func newDisks(t *testing.T, n int) *disks {
	d := &disks{t: t, open: map[string]*filestorage.Storage{}, seen: map[string]*storagetest.FaultyStorage{}, blobErrors: map[string]func(context.Context) error{}}
	d.cfg = raidstorage.Config{Membership: &d.reg, AutoRecover: raidstorage.AutoRecoverOff, RetryMin: time.Millisecond, RetryMax: time.Millisecond}
	for i := range n {
		d.dirs = append(d.dirs, t.TempDir())
		d.cfg.Backends = append(d.cfg.Backends, raidstorage.Backend{Name: name(i), Open: func(ctx context.Context) (raidstorage.Storage, error) {
			s, err := filestorage.Open(ctx, d.file(i), filestorage.Options{BlobDir: filepath.Join(d.dirs[i], "blobs"), Durability: filestorage.NoSync})
			if err != nil {
				return nil, err
			}
			f := storagetest.Faulty(blobsFail{s, d, name(i)})
			d.mu.Lock()
			defer d.mu.Unlock()
			d.open[name(i)], d.seen[name(i)] = s, f
			return f, nil
		}})
	}
	return d
}

// blobsFail is a file storage whose blobs may not be read.
type blobsFail struct {
	*filestorage.Storage
	d    *disks
	name string
}

func (b blobsFail) Iterate(ctx context.Context, from, through raidstorage.TID) iter.Seq2[*raidstorage.Transaction, error] {
	return func(yield func(*raidstorage.Transaction, error) bool) {
		for txn, err := range b.Storage.Iterate(ctx, from, through) {
			if err == nil {
				txn.Records = b.records(txn.Records)
			}
			if !yield(txn, err) {
				return
			}
		}
	}
}

func (b blobsFail) records(records iter.Seq2[raidstorage.Record, error]) iter.Seq2[raidstorage.Record, error] {
	return func(yield func(raidstorage.Record, error) bool) {
		for r, err := range records {
			if open := r.OpenBlob; open != nil {
				r.OpenBlob = func(ctx context.Context) (io.ReadCloser, error) {
					if err := b.err(ctx); err != nil {
						return nil, err
					}
					return open(ctx)
				}
			}
			if !yield(r, err) {
				return
			}
		}
	}
}

func (b blobsFail) err(ctx context.Context) error {
	b.d.mu.Lock()
	defer b.d.mu.Unlock()
	if f := b.d.blobErrors[b.name]; f != nil {
		return f(ctx)
	}
	return nil
}

func (d *disks) file(i int) string { return filepath.Join(d.dirs[i], "Data.fs") }

// fill commits a few transactions and remembers the files.
func (d *disks) fill() *raidstorage.Mirror {
	d.t.Helper()
	d.m = open(d.t, d.cfg)
	data := []string{
		storagetest.Pickled("root", 1, 2, 3),
		storagetest.Pickled("the first revision", 2),
		storagetest.Pickled("the second revision", 3),
		storagetest.Pickled("another object"),
		storagetest.Pickled("a third object, of which there is one revision only"),
	}
	for i, oid := range []raidstorage.OID{0, 1, 1, 2, 3} {
		tid, err := commit(d.m, oid, data[i])
		if err != nil {
			d.t.Fatal(err)
		}
		d.tids = append(d.tids, tid)
	}
	d.tids = append(d.tids, storagetest.Transact(d.t, d.m, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
		return txn.(raidstorage.BlobTxn).StoreBlob(d.t.Context(), 4, 0, []byte(blobRecord), strings.NewReader("what the blob holds"))
	}))
	if _, err := commit(d.m, 5, storagetest.Pickled("the last one")); err != nil {
		d.t.Fatal(err)
	}
	for i := range d.dirs {
		d.good = append(d.good, d.all(i))
	}
	return d.m
}

// all returns the database of a disk: Data.fs and the blobs.
func (d *disks) all(i int) map[string][]byte {
	d.t.Helper()
	files := map[string][]byte{}
	err := filepath.WalkDir(d.dirs[i], func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && (strings.HasSuffix(path, ".fs") || strings.HasSuffix(path, ".blob")) {
			files[path], err = os.ReadFile(path)
		}
		return err
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return files
}

// wantAsBefore checks that disks hold what they held before they were hurt, with what
// was committed since.
func (d *disks) wantAsBefore(hurt ...int) {
	d.t.Helper()
	for i, files := range d.good {
		now := d.all(i)
		for path, b := range files {
			same := bytes.HasPrefix(now[path], b)
			if want := !slices.Contains(hurt, i); same != want && want {
				d.t.Errorf("%s is not what it was", path)
			}
		}
	}
}

// rot changes bytes of Data.fs, at an offset from where some are found.
func (d *disks) rot(i int, find string, offset int, to string) {
	d.t.Helper()
	b, err := os.ReadFile(d.file(i))
	if err != nil {
		d.t.Fatal(err)
	}
	at := bytes.LastIndex(b, []byte(find)) // before it is the description of the transaction
	if at < 0 {
		d.t.Fatalf("%q is not there", find)
	}
	f, err := os.OpenFile(d.file(i), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt([]byte(to), int64(at+offset))
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

// record rots a byte of the header of the record with some data, at a place in it.
func (d *disks) header(i int, data string, place int) {
	d.t.Helper()
	b, err := os.ReadFile(d.file(i))
	if err != nil {
		d.t.Fatal(err)
	}
	at := bytes.LastIndex(b, []byte(data)) - 42 + place
	d.rot(i, string(b[at-20:at+21]), 20, string([]byte{b[at] ^ 0x10}))
}

func (d *disks) blob(i int) string {
	d.t.Helper()
	path, err := d.open[name(i)].BlobPath(d.t.Context(), 4, d.tids[5])
	if err != nil {
		d.t.Fatal(err)
	}
	return path
}

func (d *disks) rewriteBlob(i int, content string) {
	d.t.Helper()
	path := d.blob(i)
	if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, []byte(content), 0o600)); err != nil {
		d.t.Fatal(err)
	}
}

func (d *disks) repair() raidstorage.VerifyReport {
	d.t.Helper()
	return verify(d.t, d.m, raidstorage.VerifyOptions{Blobs: true, Repair: true})
}

func (d *disks) wantInSync(names ...string) {
	d.t.Helper()
	r, err := d.reg.Load(d.t.Context())
	if got := slices.Sorted(slices.Values(r.InSync)); err != nil || !slices.Equal(got, names) {
		d.t.Errorf("in sync are %v (%v), want %v", got, err, names)
	}
}

// hurt is a way to hurt disks.
type hurt struct {
	name string
	do   func(d *disks)
}

// What a majority, or proof, puts right: the disks are as they were, to the byte.
func TestRepair(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		hurt
		members int
		repairs int64
		of      []string
	}{
		{hurt{"a bit of an old revision", func(d *disks) { d.rot(1, "first revision", 3, "#") }}, 3, 1, []string{"b2"}},
		{hurt{"a bit of a current revision", func(d *disks) { d.rot(0, "another object", 3, "#") }}, 3, 1, []string{"b1"}},
		{hurt{"many bytes", func(d *disks) { d.rot(2, "a third object, of", 0, strings.Repeat("\x00", 40)) }}, 3, 1, []string{"b3"}},
		{hurt{"two members at different places", func(d *disks) {
			d.rot(0, "another object", 3, "#")
			d.rot(2, "second revision", 3, "#")
		}}, 3, 2, []string{"b1", "b3"}},
		{hurt{"two members, two records of one object", func(d *disks) {
			d.rot(0, "first revision", 3, "#")
			d.rot(1, "second revision", 3, "#")
		}}, 3, 2, []string{"b1", "b2"}},
		{hurt{"a blob", func(d *disks) { d.rewriteBlob(1, "what the blob hXlds") }}, 3, 1, []string{"b2"}},
		{hurt{"a blob that is shorter", func(d *disks) { d.rewriteBlob(0, "what") }}, 3, 1, []string{"b1"}},
		{hurt{"a record and its blob", func(d *disks) {
			d.rot(1, blobRecord, 3, "#")
			d.rewriteBlob(1, "what the blob hXlds")
		}}, 3, 2, []string{"b2", "b2"}},
		{hurt{"a record of one, and its blob of another", func(d *disks) {
			d.rot(1, blobRecord, 3, "#")
			os.Remove(d.blob(2))
		}}, 3, 2, []string{"b2", "b3"}},
		{hurt{"an empty blob", func(d *disks) { d.rewriteBlob(0, "") }}, 3, 1, []string{"b1"}},
		{hurt{"a blob that is gone", func(d *disks) { os.Remove(d.blob(2)) }}, 3, 1, []string{"b3"}},
		{hurt{"a pickle that is none, of two members", func(d *disks) {
			d.rot(1, "\x80\x03}X\x04\x00\x00\x00data}X\x04\x00\x00\x00textX\x0e\x00\x00\x00another", 2, "\xff")
		}}, 2, 1, []string{"b2"}},
		{hurt{"the same in the first of two members", func(d *disks) { d.rot(0, "textX\x12\x00\x00\x00the first revision", 4, "\xff") }}, 2, 1, []string{"b1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := newDisks(t, c.members)
			m := d.fill()
			c.do(d)
			report := d.repair()
			if report.Repaired != c.repairs || report.Findings != c.repairs || len(report.Degraded) > 0 || report.Kept != "" || len(report.Unread) > 0 {
				t.Fatalf("the report is %+v", report)
			}
			for i, f := range report.Listed {
				if f.Backend != c.of[i] && !slices.Contains(c.of, f.Backend) || !f.Repaired || !f.Wrong || !strings.Contains(f.String(), "(repaired)") || !strings.Contains(f.Detail, "SHA-256") {
					t.Errorf("finding: %v", f)
				}
			}
			d.wantAsBefore()
			d.wantInSync([]string{"b1", "b2", "b3"}[:c.members]...)
			for _, b := range m.Status().Backends {
				if want := slices.Contains(c.of, b.Name); (b.Counters.Repairs > 0) != want || slices.ContainsFunc(b.History, func(e raidstorage.Event) bool {
					return e.Kind == raidstorage.EventRepair && strings.Contains(e.Reason, "SHA-256")
				}) != want {
					t.Errorf("%s: %+v, %v", b.Name, b.Counters, b.History)
				}
			}
			if _, err := commit(m, 1, storagetest.Pickled("it goes on")); err != nil {
				t.Error(err)
			}
			if again := d.repair(); again.Findings != 0 {
				t.Errorf("afterwards: %v", again.Listed)
			}
			for i := range d.dirs {
				report, err := filestorage.Check(t.Context(), d.file(i), filestorage.InspectOptions{})
				if err != nil || report.Findings != 0 {
					t.Errorf("check of %s: %+v %v", name(i), report, err)
				}
			}
		})
	}
}

// What nobody can tell is reported for both, and nobody is degraded or changed.
func TestRepairOfWhatCannotBeToldChangesNothing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		hurt
		members  int
		findings int64
	}{
		{hurt{"a bit of text, of two members", func(d *disks) { d.rot(1, "another object", 3, "#") }}, 2, 4}, // and the current object
		{hurt{"three different ones", func(d *disks) {
			d.rot(1, "first revision", 3, "#")
			d.rot(2, "first revision", 2, "#")
		}}, 3, 3},
		{hurt{"a blob, of two members", func(d *disks) { d.rewriteBlob(1, "what the blob hXlds") }}, 2, 2},
		{hurt{"a reference of an old revision, of two members", func(d *disks) {
			d.rot(1, "first revisionsX\x01\x00\x00\x00aC\x08\x00\x00\x00\x00\x00\x00\x00\x02", 24, "\x40")
		}}, 2, 2},
		{hurt{"a reference to nothing, of two members", func(d *disks) { d.rot(1, "C\x08\x00\x00\x00\x00\x00\x00\x00\x02Q", 4, "\x40") }}, 2, 4},
		{hurt{"both pickles are none", func(d *disks) {
			d.rot(0, "textX\x12\x00\x00\x00the first", 4, "\xff")
			d.rot(1, "textX\x12\x00\x00\x00the first", 5, "\xff\xff\xff\xff")
		}}, 2, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := newDisks(t, c.members)
			d.fill()
			c.do(d)
			for i := range d.dirs {
				d.good[i] = d.all(i)
			}
			report := d.repair()
			if report.Repaired != 0 || report.Findings != c.findings || len(report.Wrong) > 0 || len(report.Degraded) > 0 {
				t.Errorf("the report is %+v", report)
			}
			d.wantAsBefore()
			d.wantInSync([]string{"b1", "b2", "b3"}[:c.members]...)
			if _, err := commit(d.m, 1, storagetest.Pickled("it goes on")); err != nil {
				t.Error(err)
			}
		})
	}
}

// A header says what a record is: nothing is put in its place. The one that is damaged
// is degraded, and not a byte is changed anywhere, least of all of the good copies.
func TestDamagedHeadersAreDegradedNotRepaired(t *testing.T) {
	t.Parallel()
	data := storagetest.Pickled("another object")
	for place, what := range map[int]string{5: "oid", 13: "tid", 29: "transaction", 33: "version", 40: "length"} {
		for _, members := range []int{2, 3} {
			t.Run(fmt.Sprint(what, " of ", members), func(t *testing.T) {
				t.Parallel()
				d := newDisks(t, members)
				d.fill()
				d.header(1, data, place)
				hurt := d.all(1)
				report := d.repair()
				if report.Repaired != 0 {
					t.Errorf("the report is %+v", report)
				}
				if what == "oid" && members == 2 {
					// Each has a record that the other one lacks.
					if len(report.Degraded) > 0 || report.Kept == "" {
						t.Errorf("the report is %+v", report)
					}
				} else if !slices.Equal(report.Degraded, []string{"b2"}) {
					t.Errorf("the report is %+v", report)
				}
				d.wantAsBefore(1)
				for path, b := range d.all(1) {
					if !bytes.Equal(b, hurt[path]) {
						t.Errorf("%s was changed", path)
					}
				}
			})
		}
	}
}

// An index that is wrong says nothing against data, neither here nor there, and nothing is
// put right by it or for it: its backend is degraded, and told what to do.
func TestDamagedIndexesAreDegradedNotMadeAnew(t *testing.T) {
	t.Parallel()
	for what, other := range map[string]raidstorage.OID{"an older revision": 0, "another object": 1} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			d := newDisks(t, 2)
			spoilt := d.spoilIndex(1, other)
			report := d.repair()
			if report.Repaired != 0 || report.Wrong["b2"] != 1 || len(report.Wrong) != 1 || !slices.Equal(report.Degraded, []string{"b2"}) ||
				!strings.Contains(report.Listed[0].Detail, "remove the .index file") {
				t.Fatalf("the report is %+v", report)
			}
			d.wantAsBefore()
			d.wantInSync("b1")
			if _, reason := state(d.m, "b2"); !strings.Contains(reason, "remove the .index file") {
				t.Errorf("the reason is %s", reason)
			}
			if err := d.m.Disable(t.Context(), "b2", "its index"); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(d.file(1) + ".index"); err != nil {
				t.Fatal(err)
			}
			if err := d.m.Recover(t.Context(), "b2"); err != nil {
				t.Fatal(err)
			}
			if rev, err := d.open["b2"].LoadBefore(t.Context(), spoilt, raidstorage.MaxTID); err != nil || rev.Serial != d.tids[1] {
				t.Errorf("object %v is %v (%v) on b2", spoilt, rev.Serial, err)
			}
			d.wantInSync("b1", "b2")
			if again := d.repair(); again.Findings != 0 {
				t.Errorf("afterwards: %v", again.Listed)
			}
		})
	}
	t.Run("pointer to the previous record", func(t *testing.T) {
		t.Parallel()
		d := newDisks(t, 2)
		d.fill()
		d.header(1, storagetest.Pickled("the second revision", 3), 22)
		hurt := d.all(1)
		if report := d.repair(); report.Repaired != 0 {
			t.Errorf("the report is %+v", report)
		}
		d.wantAsBefore(1)
		for path, b := range d.all(1) {
			if !bytes.Equal(b, hurt[path]) {
				t.Errorf("%s was changed", path)
			}
		}
	})
}

// spoilIndex commits many objects, twice each, closes the mirror, makes a disk's index
// file say that an object is where it was before, or where another one is, and opens
// the mirror again. Open finds that out of most objects, so it takes one of the others.
func (d *disks) spoilIndex(i int, other raidstorage.OID) raidstorage.OID {
	d.t.Helper()
	const objects = 3000
	ctx := d.t.Context()
	m := open(d.t, d.cfg)
	serial := raidstorage.TID(0)
	for range 2 {
		serial = storagetest.Transact(d.t, m, raidstorage.Meta{}, func(txn raidstorage.Txn) (err error) {
			for oid := range raidstorage.OID(objects) {
				err = errors.Join(err, txn.Store(ctx, oid, serial, []byte(storagetest.Pickled("x"))))
			}
			return err
		})
		d.tids = append(d.tids, serial)
	}
	for k := range 2000 { // so that Open looks at these
		if _, err := commit(m, objects+raidstorage.OID(k%7), storagetest.Pickled("y")); err != nil {
			d.t.Fatal(err)
		}
	}
	m.Close()
	for k := range d.dirs {
		d.good = append(d.good, d.all(k))
	}
	b := d.good[i][d.file(i)]
	index, err := os.ReadFile(d.file(i) + ".index")
	if err != nil {
		d.t.Fatal(err)
	}
	at := func(oid raidstorage.OID, tid raidstorage.TID) []byte { // as in the index file
		o, n := oid.Bytes(), tid.Bytes()
		var pos [8]byte
		binary.BigEndian.PutUint64(pos[:], uint64(bytes.Index(b, append(o[:], n[:]...))))
		return pos[2:]
	}
	for oid := raidstorage.OID(100); oid < objects; oid += 97 {
		wrong := at(oid, d.tids[0])
		if other != 0 {
			wrong = at(oid+other, d.tids[1])
		}
		if err := os.WriteFile(d.file(i)+".index", bytes.Replace(index, at(oid, d.tids[1]), wrong, 1), 0o600); err != nil {
			d.t.Fatal(err)
		}
		s, err := filestorage.Open(ctx, d.file(i), filestorage.Options{ReadOnly: true})
		if err != nil {
			d.t.Fatal(err)
		}
		rev, err := s.LoadBefore(ctx, oid, raidstorage.MaxTID)
		s.Close()
		if err != nil || rev.Serial != d.tids[1] {
			d.m = open(d.t, d.cfg)
			return oid
		}
	}
	d.t.Fatal("Open finds all of them out")
	return 0
}

// A record that changes after its transaction was compared is found with the current
// objects, and put right all the same.
func TestRepairOfCurrentObjects(t *testing.T) {
	t.Parallel()
	d := newDisks(t, 3)
	d.fill()
	var once sync.Once
	d.seen["b2"].Inject(storagetest.Fault{Call: storagetest.CallCurrentRecords, Kind: storagetest.Observe, Hook: func() {
		once.Do(func() { d.rot(1, "another object", 3, "#") })
	}})
	if report := d.repair(); report.Repaired != 1 || report.Findings != 1 || report.Listed[0].Kind != raidstorage.FindingRecord || report.Listed[0].TID != d.tids[3] {
		t.Errorf("the report is %+v", report)
	}
	d.wantAsBefore()
	d.wantInSync("b1", "b2", "b3")
}
