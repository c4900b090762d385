//go:build linux

package filestorage_test

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// What tells the processes of the campaign what they are to do.
const (
	envRole     = "RAIDSTORAGE_CRASH_ROLE" // "trace" or "work"
	envWorkload = "RAIDSTORAGE_CRASH_WORKLOAD"
	envDir      = "RAIDSTORAGE_CRASH_DIR"
	envRecord   = "RAIDSTORAGE_CRASH_RECORD" // where the record goes
	envSeed     = "RAIDSTORAGE_CRASH_SEED"
)

// TestCrashProcess is not a test but the processes that the campaign starts.
func TestCrashProcess(t *testing.T) {
	switch os.Getenv(envRole) {
	case "trace":
		if err := os.Setenv(envRole, "work"); err != nil { // t.Setenv would set it back only at the end, too
			t.Fatal(err)
		}
		env := append(os.Environ(), "GODEBUG=asyncpreemptoff=1")
		ops, err := traceProcess(os.Getenv(envDir), []string{os.Args[0], "-test.run=^TestCrashProcess$"}, env)
		if err != nil {
			t.Fatal(err)
		}
		if err := saveRecord(os.Getenv(envRecord), ops); err != nil {
			t.Fatal(err)
		}
	case "work":
		seed, err := strconv.ParseUint(os.Getenv(envSeed), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		marks, err := os.OpenFile(marksPath, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		load := crashWorkloads()[os.Getenv(envWorkload)]
		w := &crashWork{t: t, path: filepath.Join(os.Getenv(envDir), crashData), seed: seed, marks: marks}
		w.opts = load.options(filepath.Dir(w.path), seed)
		load.run(w)
	}
}

func saveRecord(path string, ops []fsOp) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return gob.NewEncoder(f).Encode(ops)
}

func loadRecord(path string) (ops []fsOp, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ops, gob.NewDecoder(f).Decode(&ops)
}

const (
	crashData  = "Data.fs"
	crashBlobs = "blobs"
)

// crashWorkload is work for which crash states are generated.
type crashWorkload struct {
	run       func(w *crashWork)
	blobs     bool
	saveAfter int64 // see Options.SaveIndexAfter
	own       bool  // another test than TestCrashCampaign judges it
}

func (l crashWorkload) options(dir string, seed uint64) filestorage.Options {
	opts := filestorage.Options{PackDropOld: seed%4 >= 2, SyncEarly: seed%8 >= 4, SaveIndexAfter: l.saveAfter}
	if l.blobs {
		opts.BlobDir = filepath.Join(dir, crashBlobs)
	}
	return opts
}

func crashWorkloads() map[string]crashWorkload {
	return map[string]crashWorkload{
		"commit": {run: (*crashWork).commits},
		"start":  {run: (*crashWork).starts},
		"pack":   {run: (*crashWork).packs, saveAfter: 4000},
		"index":  {run: (*crashWork).indexes, saveAfter: 1000},
		"blob":   {run: (*crashWork).blobs, blobs: true},
		"settle": {run: (*crashWork).settles},
		"mend":   {run: (*crashWork).mends, blobs: true, own: true},
	}
}

// crashWork is what the traced process has.
type crashWork struct {
	t     *testing.T
	path  string
	seed  uint64
	opts  filestorage.Options
	marks *os.File
	// packing is the time of the last pack that was begun: who commits beside it cannot undo
	// what is not later.
	packing atomic.Uint64
}

// must ends the goroutine, and makes the process fail, if there is an error.
func (w *crashWork) must(err error) {
	if err != nil {
		w.t.Error(err)
		runtime.Goexit()
	}
}

func (w *crashWork) mark(word, name string) {
	_, err := w.marks.WriteString(word + " " + name + "\n")
	w.must(err)
}

func (w *crashWork) open() *filestorage.Storage {
	s, err := filestorage.Open(context.Background(), w.path, w.opts)
	w.must(err)
	return s
}

// committer is one of those who commit at the same time, each to objects of its own.
type committer struct {
	w        *crashWork
	s        *filestorage.Storage
	name     string
	first    raidstorage.OID // of its objects
	blobs    bool
	r        *rand.Rand
	serials  map[raidstorage.OID]raidstorage.TID
	deleted  map[raidstorage.OID]bool
	undoable raidstorage.TID // its last transaction, if that can be undone
	changed  []raidstorage.OID
	deferred []string // transactions that may not be durable yet
	n        int
}

func (w *crashWork) committer(s *filestorage.Storage, number int) *committer {
	return &committer{w: w, s: s, name: fmt.Sprintf("c%d", number), first: raidstorage.OID(16 + 8*number),
		r: rand.New(rand.NewPCG(w.seed, uint64(number))), serials: make(map[raidstorage.OID]raidstorage.TID), deleted: make(map[raidstorage.OID]bool)}
}

// transaction makes a transaction of what stage stages, and tells the record of it.
func (c *committer) transaction(deferred, abort bool, stage func(txn raidstorage.Txn)) raidstorage.TID {
	ctx := context.Background()
	c.n++
	name := fmt.Sprintf("%s-%d", c.name, c.n)
	txn, err := c.s.Begin(ctx, raidstorage.Meta{Description: []byte(name), User: []byte("campaign"), Deferred: deferred})
	c.w.must(err)
	stage(txn)
	_, err = txn.Vote(ctx)
	if undo, ok := errors.AsType[*raidstorage.UndoError](err); ok && uint64(undo.TID) <= c.w.packing.Load() {
		err, abort = nil, true
	}
	c.w.must(err)
	if abort {
		c.w.must(txn.Abort(ctx))
		return 0
	}
	c.w.mark("finish", name)
	tid, err := txn.Finish(ctx)
	c.w.must(err)
	c.deferred = append(c.deferred, name)
	if !deferred {
		c.acknowledge()
	}
	return tid
}

// acknowledge tells the record that everything so far is durable.
func (c *committer) acknowledge() {
	for _, name := range c.deferred {
		c.w.mark("ack", name)
	}
	c.deferred = nil
}

// work makes n transactions of all sorts.
func (c *committer) work(n int) {
	for range n {
		switch kind := c.r.IntN(10); {
		case kind == 0:
			c.transaction(false, true, c.store)
			c.undoable = 0
		case kind <= 2 && c.undoable != 0:
			tid := c.transaction(false, false, func(txn raidstorage.Txn) {
				c.w.must(raidstorage.Undo(context.Background(), txn, c.undoable))
			})
			for _, oid := range c.changed {
				if tid != 0 {
					c.serials[oid] = tid
				}
			}
			c.undoable = 0
		case kind == 3 && c.undoable != 0:
			c.remove()
		default:
			c.changed = nil
			tid := c.transaction(kind == 9, false, c.store)
			for _, oid := range c.changed {
				c.serials[oid], c.deleted[oid] = tid, false
			}
			c.undoable = tid
		}
	}
	c.w.must(c.s.Flush(context.Background()))
	c.acknowledge()
}

// remove deletes an object that the last transaction stored.
func (c *committer) remove() {
	oid := c.changed[0]
	c.serials[oid] = c.transaction(false, false, func(txn raidstorage.Txn) {
		c.w.must(txn.Delete(context.Background(), oid, c.serials[oid]))
	})
	c.undoable = 0
}

// store stages up to four objects, small ones and some of several sectors.
func (c *committer) store(txn raidstorage.Txn) {
	ctx := context.Background()
	for range 1 + c.r.IntN(4) {
		oid := c.first + raidstorage.OID(c.r.IntN(5))
		text := strings.Repeat(fmt.Sprintf("%s-%d ", c.name, c.n), 1+c.r.IntN(1+c.r.IntN(300)))
		if blob, ok := txn.(raidstorage.BlobTxn); ok && c.blobs && oid%2 == 0 {
			c.w.must(blob.StoreBlob(ctx, oid, c.serials[oid], []byte(blobPickle), strings.NewReader(text)))
		} else {
			c.w.must(txn.Store(ctx, oid, c.serials[oid], []byte(storagetest.Pickled(text))))
		}
		c.changed = append(c.changed, oid)
	}
}

// blobPickle is the record of a blob: its class and no state.
const blobPickle = "\x80\x03cZODB.blob\nBlob\n.\x80\x03N."

// together has several committers make n transactions each.
func (w *crashWork) together(s *filestorage.Storage, committers, n int, blobs bool) {
	var wg sync.WaitGroup
	for i := range committers {
		c := w.committer(s, i)
		c.blobs = blobs
		wg.Go(func() { c.work(n) })
	}
	wg.Wait()
}

// commits commits, with even seeds by one goroutine, with others by six.
func (w *crashWork) commits() {
	s := w.open()
	if w.seed%2 == 0 {
		w.together(s, 1, 20, false)
	} else {
		w.together(s, 6, 7, false)
	}
	w.must(s.Close())
}

// indexes closes and opens the file several times; twice without an index. Meanwhile the
// index is saved in the background.
func (w *crashWork) indexes() {
	one := w.committer(nil, 9)
	for i := range 8 {
		if one.s = w.open(); i != 5 {
			one.work(1 + i%3)
		}
		w.must(one.s.Close())
		if i == 2 || i == 4 {
			w.must(os.Remove(w.path + ".index"))
		}
	}
	if w.seed%2 == 1 {
		s := w.open()
		w.together(s, 3, 5, false)
		w.must(s.Close())
	}
}

// packs packs a database twice while others commit.
func (w *crashWork) packs() {
	s := w.open()
	c := w.committer(s, 0)
	w.packable(c)
	var wg sync.WaitGroup
	for i := range 2 {
		other := w.committer(s, 1+i)
		wg.Go(func() { other.work(8) })
	}
	for range 2 {
		through, err := s.LastTID(context.Background())
		w.must(err)
		c.work(2)
		w.packing.Store(uint64(through))
		w.must(s.Pack(context.Background(), raidstorage.PackOptions{Through: through, GC: w.seed%2 == 0}))
	}
	wg.Wait()
	c.work(2)
	w.must(s.Close())
}

// packable stores what a pack has something to do with: a root, what it refers to,
// garbage, and revisions that are not current.
func (w *crashWork) packable(c *committer) {
	ctx := context.Background()
	serials := make(map[raidstorage.OID]raidstorage.TID)
	put := func(oid raidstorage.OID, text string, refs ...raidstorage.OID) {
		serials[oid] = c.transaction(false, false, func(txn raidstorage.Txn) {
			w.must(txn.Store(ctx, oid, serials[oid], []byte(storagetest.Pickled(text, refs...))))
		})
	}
	put(1, "one")
	put(2, "two", 1)
	put(0, "root", 1, 2)
	put(3, strings.Repeat("garbage ", 200))
	put(1, strings.Repeat("one again ", 100))
	put(2, "two again", 1)
	c.transaction(false, false, func(txn raidstorage.Txn) { w.must(raidstorage.Undo(ctx, txn, serials[2])) })
}

// blobs commits blobs, and with odd seeds packs them as well.
func (w *crashWork) blobs() {
	s := w.open()
	c := w.committer(s, 7)
	w.packable(c)
	w.together(s, 2, 8, true)
	if w.seed%2 == 1 {
		through, err := s.LastTID(context.Background())
		w.must(err)
		c.blobs = true
		c.work(2)
		w.must(s.Pack(context.Background(), raidstorage.PackOptions{Through: through, GC: true}))
		c.work(2)
	}
	w.must(s.Close())
}

// settles makes many deferred transactions in a row, as a recovery does, which are worked
// off in the background meanwhile, and flushes now and then.
func (w *crashWork) settles() {
	s := w.open()
	filestorage.SetSettleAfter(s, 2+int(w.seed%5))
	c := w.committer(s, 0)
	for range 3 {
		for range 15 {
			c.changed = nil
			tid := c.transaction(true, false, c.store)
			for _, oid := range c.changed {
				c.serials[oid] = tid
			}
		}
		w.must(s.Flush(context.Background()))
		c.acknowledge()
	}
	w.must(s.Close())
}
