package filestorage_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// powerDir is a directory on a disk that loses power. What was not synced may be
// there or not: of the files' contents any part, of the changes of names any set.
// After each call it shows the directories that could be left to check.
type powerDir struct {
	filestorage.DirOps
	t     *testing.T
	check func(call string, names map[string][]byte)
	after func(call string) // what else happens after a call, without the lock

	mu      sync.Mutex
	durable map[string]*inode
	now     map[string]*inode
	pending []nameOp
	seen    map[[sha256.Size]byte]bool
	images  int
}

// inode is a file, whatever its names.
type inode struct {
	filestorage.File
	dir  *powerDir
	disk disk // its durable part and its unsynced writes
	name string
}

// nameOp gives a name to a file, or takes one away, or both at once.
type nameOp struct {
	give string
	to   *inode
	take string
}

func (op nameOp) apply(names map[string]*inode) {
	if op.take != "" {
		delete(names, op.take)
	}
	if op.give != "" {
		names[op.give] = op.to
	}
}

func (d *powerDir) nameOp(call string, op nameOp, err error) error {
	if err != nil {
		return err
	}
	d.mu.Lock()
	op.apply(d.now)
	d.pending = append(d.pending, op)
	d.losePower(call)
	d.mu.Unlock()
	if d.after != nil {
		d.after(call)
	}
	return nil
}

func (d *powerDir) Create(path string) (filestorage.File, error) {
	f, err := d.DirOps.Create(path)
	if err != nil {
		return nil, err
	}
	name := filepath.Base(path)
	node := &inode{File: f, dir: d, name: name}
	return node, d.nameOp("create "+name, nameOp{give: name, to: node}, nil)
}

func (d *powerDir) Remove(path string) error {
	name := filepath.Base(path)
	return d.nameOp("remove "+name, nameOp{take: name}, d.DirOps.Remove(path))
}

func (d *powerDir) Link(old, new string) error {
	name := filepath.Base(new)
	return d.nameOp("link "+name, nameOp{give: name, to: d.node(old)}, d.DirOps.Link(old, new))
}

func (d *powerDir) Rename(old, new string) error {
	name := filepath.Base(new)
	op := nameOp{give: name, to: d.node(old), take: filepath.Base(old)}
	return d.nameOp("rename to "+name, op, d.DirOps.Rename(old, new))
}

func (d *powerDir) node(path string) *inode {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.now[filepath.Base(path)]
}

func (d *powerDir) SyncDir(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.durable, d.pending = maps.Clone(d.now), nil
	d.losePower("sync the directory")
	return d.DirOps.SyncDir(path)
}

func (n *inode) record(call string, w diskWrite) {
	n.dir.mu.Lock()
	n.disk.unsynced = append(n.disk.unsynced, w)
	n.dir.losePower(call + " " + n.name)
	n.dir.mu.Unlock()
	if n.dir.after != nil {
		n.dir.after(call + " " + n.name)
	}
}

// WriteAt is recorded.
func (n *inode) WriteAt(b []byte, off int64) (int, error) {
	written, err := n.File.WriteAt(b, off)
	n.record("write", diskWrite{off, bytes.Clone(b)})
	return written, err
}

// Truncate is recorded.
func (n *inode) Truncate(size int64) error {
	n.record("truncate", diskWrite{off: size})
	return n.File.Truncate(size)
}

// Sync is recorded.
func (n *inode) Sync() error {
	n.dir.mu.Lock()
	for _, w := range n.disk.unsynced {
		n.disk.durable = w.apply(n.disk.durable)
	}
	n.disk.unsynced = nil
	n.dir.losePower("sync " + n.name)
	n.dir.mu.Unlock()
	return n.File.Sync()
}

// contents are some of what can be on the disk of the file: nothing that is not
// synced, all, all but the last write, the last one only, and half of it.
func (n *inode) contents(kind int) []byte {
	image, unsynced := slices.Clone(n.disk.durable), n.disk.unsynced
	if len(unsynced) == 0 || kind == 0 {
		return image
	}
	last := unsynced[len(unsynced)-1]
	if kind < 3 {
		for _, w := range unsynced[:len(unsynced)-1] {
			image = w.apply(image)
		}
	}
	switch {
	case kind == 1 || kind == 3 || last.data == nil && kind == 4:
		return last.apply(image)
	case kind == 4:
		half := len(last.data) / 2
		return diskWrite{last.off + int64(half), last.data[half:]}.apply(image)
	}
	return image
}

const contentKinds = 5

// losePower checks all sets of the pending changes of names, each with several
// contents of the files.
func (d *powerDir) losePower(call string) {
	if d.check == nil {
		return
	}
	for set := range 1 << len(d.pending) {
		names := maps.Clone(d.durable)
		for i, op := range d.pending {
			if set&(1<<i) != 0 {
				op.apply(names)
			}
		}
		for kind := range contentKinds {
			image, sum := make(map[string][]byte), sha256.New()
			for _, name := range slices.Sorted(maps.Keys(names)) {
				image[name] = names[name].contents(kind)
				fmt.Fprintf(sum, "%s %d\n", name, len(image[name]))
				sum.Write(image[name])
			}
			if key := [sha256.Size]byte(sum.Sum(nil)); !d.seen[key] {
				d.seen[key] = true
				d.images++
				d.check(fmt.Sprintf("%s, names %b, contents %d", call, set, kind), image)
			}
		}
	}
}

// packable makes a database in which a pack has something of everything to do, and
// returns the pack time.
func packable(t *testing.T, s *filestorage.Storage) raidstorage.TID {
	t.Helper()
	put(t, s, 0, storagetest.Pickled("root", 1, 2, 10, 11, 12, 13, 14, 15))
	for oid := range raidstorage.OID(6) { // more than one buffer full
		put(t, s, 10+oid, storagetest.Pickled(string(bytes.Repeat([]byte("long "), 12_000))))
	}
	put(t, s, 1, storagetest.Pickled("one"))
	put(t, s, 2, storagetest.Pickled("two", 1))
	put(t, s, 3, storagetest.Pickled("garbage", 4))
	put(t, s, 4, storagetest.Pickled(string(bytes.Repeat([]byte("long garbage "), 4000))))
	put(t, s, 1, storagetest.Pickled(string(bytes.Repeat([]byte("long "), 12_000))))
	changed := put(t, s, 2, storagetest.Pickled("two again", 1))
	through := undoTxn(t, s, changed)
	undoTxn(t, s, put(t, s, 1, storagetest.Pickled("later")))
	return through
}

// At every moment of a pack that the power can fail, the database is what it was or
// packed, with all that was committed meanwhile.
func TestNoPowerFailureDuringAPackHarmsTheDatabase(t *testing.T) {
	t.Parallel()
	for _, drop := range []bool{false, true} {
		t.Run(fmt.Sprintf("drop=%v", drop), func(t *testing.T) {
			t.Parallel()
			losePowerWhilePacking(t, filestorage.Options{PackDropOld: drop}, func(s *filestorage.Storage, through raidstorage.TID, _ func(string)) error {
				return s.Pack(t.Context(), raidstorage.PackOptions{Through: through, GC: true})
			})
		})
	}
}

// So it is at every moment of a staged pack, and between its steps.
func TestNoPowerFailureDuringAStagedPackHarmsTheDatabase(t *testing.T) {
	t.Parallel()
	for _, drop := range []bool{false, true} {
		t.Run(fmt.Sprintf("drop=%v", drop), func(t *testing.T) {
			t.Parallel()
			losePowerWhilePacking(t, filestorage.Options{PackDropOld: drop}, func(s *filestorage.Storage, through raidstorage.TID, between func(string)) error {
				staged, err := s.StagePack(t.Context(), raidstorage.PackOptions{Through: through, Decided: true, Garbage: []raidstorage.OID{3, 4}})
				if err != nil {
					return err
				}
				between("staged")
				if linked, err := staged.Relinked(t.Context(), through, func(context.Context) error { return nil }); err != nil || len(linked) > 0 {
					return fmt.Errorf("linked are %v, %w", linked, err)
				}
				if err := staged.CatchUp(t.Context()); err != nil {
					return err
				}
				between("caught up")
				if err := staged.Switch(t.Context()); err != nil {
					return err
				}
				between("switched")
				return staged.End(t.Context())
			})
		})
	}
}

// A staged pack that ends without a switch, at any moment of its end too, leaves the
// database as it was.
func TestNoPowerFailureAtTheEndOfAStagedPackHarmsTheDatabase(t *testing.T) {
	t.Parallel()
	losePowerWhilePacking(t, filestorage.Options{}, func(s *filestorage.Storage, through raidstorage.TID, _ func(string)) error {
		staged, err := s.StagePack(t.Context(), raidstorage.PackOptions{Through: through, Decided: true, Garbage: []raidstorage.OID{3, 4}})
		if err != nil {
			return err
		}
		if err := errors.Join(staged.CatchUp(t.Context()), staged.End(t.Context())); err != nil {
			return err
		}
		return s.Pack(t.Context(), raidstorage.PackOptions{Through: through, GC: true})
	})
}

// losePowerWhilePacking loses power at every call of pack, and where it calls between.
func losePowerWhilePacking(t *testing.T, opts filestorage.Options, pack func(s *filestorage.Storage, through raidstorage.TID, between func(string)) error) {
	dir := t.TempDir()
	path, scratch := filepath.Join(dir, "Data.fs"), filepath.Join(dir, "crashed")
	setUp := openFor(t, path, filestorage.Options{})
	through := packable(t, setUp)
	if err := setUp.Close(); err != nil {
		t.Fatal(err)
	}
	d := &powerDir{DirOps: filestorage.OSDir(), t: t, seen: make(map[[sha256.Size]byte]bool)}
	node := func(name string) *inode {
		return &inode{dir: d, name: name, disk: disk{durable: read(t, filepath.Join(dir, name))}}
	}
	d.durable = map[string]*inode{"Data.fs": node("Data.fs"), "Data.fs.index": node("Data.fs.index")}
	write(t, path+".old", []byte("of the pack before"))
	d.durable["Data.fs.old"] = node("Data.fs.old")
	d.now = maps.Clone(d.durable)

	s, err := filestorage.OpenWith(t.Context(), path, opts, func(f filestorage.File) filestorage.File {
		d.durable["Data.fs"].File = f
		return d.durable["Data.fs"]
	})
	if err != nil {
		t.Fatal(err)
	}
	s.SetDir(d)
	atLeast := 0
	commits := map[string]string{"create Data.fs.pack": "one", "create Data.fs.pack.index": "two"}
	d.after = func(call string) {
		if text, ok := commits[call]; ok {
			delete(commits, call)
			put(t, s, 2, storagetest.Pickled("committed meanwhile: "+text, 1))
			d.mu.Lock()
			atLeast++ // it is acknowledged
			d.mu.Unlock()
		}
	}
	unpacked, oldIndex := len(read(t, path)), read(t, path+".index")
	allowed := packedAndNot(t, read(t, path), through, "one", "two")
	d.check = func(call string, names map[string][]byte) {
		checkImage(t, scratch, call, names, allowed[atLeast:])
		if len(names["Data.fs"]) < unpacked && bytes.Equal(names["Data.fs.index"], oldIndex) {
			t.Errorf("%s: the packed file has the index of the old one", call)
		}
	}
	err = pack(s, through, func(call string) {
		d.mu.Lock()
		defer d.mu.Unlock()
		clear(d.seen)
		d.losePower(call)
	})
	if err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	atLeast = len(allowed) - 1
	clear(d.seen)
	d.losePower("after it")
	d.mu.Unlock()
	if _, err := os.Stat(path + ".old"); os.IsNotExist(err) != opts.PackDropOld {
		t.Errorf("Data.fs.old: %v", err)
	}
	d.mu.Lock()
	d.check = nil
	d.mu.Unlock()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d images", d.images)
}

// packedAndNot returns what the database holds with the first commits of texts, for
// each number of them, and last with all of them and packed.
func packedAndNot(t *testing.T, data []byte, through raidstorage.TID, texts ...string) []string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "Data.fs")
	write(t, path, data)
	s := openFor(t, path, filestorage.Options{})
	states := []string{liveOf(t, s)}
	for _, text := range texts {
		put(t, s, 2, storagetest.Pickled("committed meanwhile: "+text, 1))
		states = append(states, liveOf(t, s))
	}
	if err := s.Pack(t.Context(), raidstorage.PackOptions{Through: through, GC: true}); err != nil {
		t.Fatal(err)
	}
	return append(states, liveOf(t, s))
}

// liveOf returns what is in the log, but for the tids, which differ between runs, and
// of long data the beginning only.
func liveOf(t *testing.T, s *filestorage.Storage) string {
	t.Helper()
	var b bytes.Buffer
	for _, txn := range readLog(t, s) {
		fmt.Fprintf(&b, "T %q\n", byte(txn.Meta.Status))
		for _, rec := range txn.Records {
			fmt.Fprintf(&b, "R %v %q %v\n", rec.OID, rec.Data[:min(len(rec.Data), 200)], rec.DataTID != 0)
		}
	}
	return b.String()
}

func checkImage(t *testing.T, scratch, call string, names map[string][]byte, allowed []string) {
	if err := os.RemoveAll(scratch); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(scratch, 0o777); err != nil {
		t.Fatal(err)
	}
	for name, content := range names {
		write(t, filepath.Join(scratch, name), content)
	}
	s, err := filestorage.Open(context.Background(), filepath.Join(scratch, "Data.fs"),
		filestorage.Options{Durability: filestorage.NoSync, MustExist: true})
	if err != nil {
		t.Errorf("%s: %v", call, err)
		return
	}
	defer s.Close()
	if got := liveOf(t, s); !slices.Contains(allowed, got) {
		t.Errorf("%s: the file holds\n%.400s\nallowed is\n%.400q", call, got, allowed)
	}
	for _, suffix := range []string{".pack", ".pack.index"} {
		if _, err := os.Stat(filepath.Join(scratch, "Data.fs"+suffix)); !os.IsNotExist(err) {
			t.Errorf("%s: Data.fs%s is still there (%v)", call, suffix, err)
		}
	}
}
