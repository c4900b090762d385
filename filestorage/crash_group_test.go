package filestorage_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// powerDisk is a disk for several goroutines. When the power fails, any part of what
// was not synced is on it: of each write any of its sectors.
type powerDisk struct {
	filestorage.File
	mu       sync.Mutex
	random   *rand.Rand
	durable  []byte
	unsynced []diskWrite
	images   int // at most this many for each call
	check    func(image []byte, acked map[raidstorage.TID]bool)
	acked    map[raidstorage.TID]bool // what was acknowledged, in time order with the calls
}

const sectorSize = 512

func (d *powerDisk) WriteAt(b []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.File.WriteAt(b, off)
	d.unsynced = append(d.unsynced, diskWrite{off, bytes.Clone(b)})
	d.losePower()
	return n, err
}

func (d *powerDisk) Truncate(size int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unsynced = append(d.unsynced, diskWrite{off: size})
	err := d.File.Truncate(size)
	d.losePower()
	return err
}

// Sync makes durable what was written before it began, not what comes meanwhile.
func (d *powerDisk) Sync() error {
	d.mu.Lock()
	n := len(d.unsynced)
	d.losePower()
	d.mu.Unlock()
	err := d.File.Sync()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, w := range d.unsynced[:n] {
		d.durable = w.apply(d.durable)
	}
	d.unsynced = slices.Clone(d.unsynced[n:])
	d.losePower()
	return err
}

func (d *powerDisk) ack(tid raidstorage.TID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.acked[tid] = true
}

// losePower checks some of the images that the disk may hold now.
func (d *powerDisk) losePower() {
	for range d.images {
		image, chance := slices.Clone(d.durable), d.random.Float64()
		for _, w := range d.unsynced {
			for len(w.data) > 0 {
				n := min(len(w.data), sectorSize-int(w.off%sectorSize))
				if d.random.Float64() < chance {
					image = diskWrite{w.off, w.data[:n]}.apply(image)
				}
				w.off, w.data = w.off+int64(n), w.data[n:]
			}
			if w.data == nil && d.random.Float64() < chance {
				image = w.apply(image)
			}
		}
		d.check(image, maps.Clone(d.acked))
	}
}

// crashed is what an image held.
type crashed struct {
	tids  []raidstorage.TID
	acked map[raidstorage.TID]bool
}

// Several commit and abort at the same time. Whatever the disk holds when the power
// fails is a beginning of the log, whole, with all that was acknowledged.
func TestNoPowerFailureLosesOrTearsSharedCommits(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string]filestorage.Options{"one by one": {}, "early": {SyncEarly: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			powerFailures(t, opts)
		})
	}
}

func powerFailures(t *testing.T, opts filestorage.Options) {
	seed := uint64(os.Getpid())
	if env := os.Getenv("RAIDSTORAGE_SEED"); env != "" {
		var err error
		if seed, err = strconv.ParseUint(env, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("RAIDSTORAGE_SEED=%d (the goroutines' order is not in it)", seed)
	dir, n := t.TempDir(), 0
	var states []crashed
	d := &powerDisk{random: rand.New(rand.NewPCG(seed, 0)), acked: make(map[raidstorage.TID]bool)}
	d.check = func(image []byte, acked map[raidstorage.TID]bool) {
		n++
		path := filepath.Join(dir, fmt.Sprintf("crash%d.fs", n))
		write(t, path, image)
		tids, err := wholeTIDs(path)
		if err != nil {
			kept := filepath.Join(os.TempDir(), fmt.Sprintf("crash-%d-%v.fs", seed, opts.SyncEarly))
			write(t, kept, image)
			t.Errorf("image %d, kept as %s: %v", n, kept, err)
		}
		states = append(states, crashed{tids, acked})
		for _, name := range []string{path, path + ".index", path + ".lock"} {
			_ = os.Remove(name) // not all are there
		}
	}
	s, err := filestorage.OpenWith(t.Context(), filepath.Join(dir, "Data.fs"), opts, func(f filestorage.File) filestorage.File {
		d.File = f
		return d
	})
	if err != nil {
		t.Fatal(err)
	}
	d.images = 2
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() { commitAndAbort(t, s, d, i, rand.New(rand.NewPCG(seed, uint64(i)+1))) })
	}
	wg.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	final, err := wholeTIDs(filepath.Join(dir, "Data.fs"))
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range states {
		if len(c.tids) > len(final) || !slices.Equal(c.tids, final[:len(c.tids)]) {
			t.Errorf("image %d is no beginning of the log: %v", i, c.tids)
		}
		for tid := range c.acked {
			if !slices.Contains(c.tids, tid) {
				t.Errorf("image %d lacks %v, which was acknowledged", i, tid)
			}
		}
	}
	t.Logf("%d images, %d transactions", len(states), len(final))
}

func commitAndAbort(t *testing.T, s *filestorage.Storage, d *powerDisk, committer int, r *rand.Rand) {
	var serial raidstorage.TID
	for range 15 {
		ctx := context.Background()
		deferred := r.IntN(4) == 0
		txn, err := s.Begin(ctx, raidstorage.Meta{Deferred: deferred})
		if err != nil {
			t.Error(err)
			return
		}
		data := bytes.Repeat([]byte{byte('a' + committer)}, 1+r.IntN(1+r.IntN(3000)))
		if err := txn.Store(ctx, raidstorage.OID(committer), serial, data); err != nil {
			t.Error(err)
		}
		if err := txn.Store(ctx, raidstorage.OID(100+committer), serial, data); err != nil {
			t.Error(err)
		}
		if _, err := txn.Vote(ctx); err != nil {
			t.Error(err)
			return
		}
		if r.IntN(4) == 0 {
			if err := txn.Abort(ctx); err != nil {
				t.Error(err)
			}
			continue
		}
		if serial, err = txn.Finish(ctx); err != nil {
			t.Error(err)
			return
		}
		if !deferred { // a deferred one may be lost, but not torn
			d.ack(serial)
		}
	}
}

// wholeTIDs opens a file after a crash and returns its transactions, all of whose
// records must be whole.
func wholeTIDs(path string) ([]raidstorage.TID, error) {
	ctx := context.Background()
	s, err := filestorage.Open(ctx, path, filestorage.Options{Durability: filestorage.NoSync})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	var tids []raidstorage.TID
	for txn, err := range s.Iterate(ctx, 0, raidstorage.MaxTID) {
		if err != nil {
			return tids, err
		}
		tids = append(tids, txn.TID)
		for rec, err := range txn.Records {
			if err != nil {
				return tids, err
			}
			want := byte('a' + rec.OID%100)
			if len(rec.Data) == 0 || bytes.Count(rec.Data, []byte{want}) != len(rec.Data) {
				return tids, fmt.Errorf("transaction %v, object %v: %q", txn.TID, rec.OID, rec.Data)
			}
		}
	}
	return tids, nil
}
