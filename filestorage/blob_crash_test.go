package filestorage_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// blobDisk is what of a blob directory survives a power failure for certain: the
// contents of files that were synced, under the names that a directory had when it
// was synced last.
type blobDisk struct {
	mu     sync.Mutex
	dir    string
	whole  []os.FileInfo                     // files whose content is durable
	names  map[string]map[string]os.FileInfo // durable names, by directory
	syncs  int
	failAt int // the sync that fails, counted from 1
	err    error
}

func (d *blobDisk) sync(f *os.File) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.syncs++; d.syncs == d.failAt {
		return d.err
	}
	info, err := f.Stat()
	if err != nil || !info.IsDir() {
		d.whole = append(d.whole, info)
		return err
	}
	d.names[f.Name()] = namesIn(f.Name())
	return nil
}

func namesIn(dir string) map[string]os.FileInfo {
	names := make(map[string]os.FileInfo)
	entries, _ := os.ReadDir(dir) // none, if it is gone
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			names[e.Name()] = info
		}
	}
	return names
}

// survive makes at to what is left of the directory: of what is not durable any part.
func (d *blobDisk) survive(to string, random *rand.Rand) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.surviveIn(d.dir, to, random)
}

func (d *blobDisk) surviveIn(dir, to string, random *rand.Rand) error {
	if err := os.MkdirAll(to, 0o777); err != nil {
		return err
	}
	durable := d.names[dir]
	now := namesIn(dir)
	for _, name := range slices.Sorted(maps.Keys(now)) { // so that the seed decides
		info := now[name]
		at, known := durable[name]
		if (!known || !os.SameFile(at, info)) && random.IntN(2) == 0 {
			continue
		}
		from := filepath.Join(dir, name)
		if info.IsDir() {
			if err := d.surviveIn(from, filepath.Join(to, name), random); err != nil {
				return err
			}
			continue
		}
		content, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if !d.isWhole(info) {
			content = content[:random.IntN(len(content)+1)]
		}
		if err := os.WriteFile(filepath.Join(to, name), content, 0o666); err != nil {
			return err
		}
	}
	return nil
}

func (d *blobDisk) isWhole(info os.FileInfo) bool {
	for _, w := range d.whole {
		if os.SameFile(w, info) {
			return true
		}
	}
	return false
}

// openOn opens a storage whose blobs are on d, and whose file is what wrap makes.
func (d *blobDisk) openOn(t *testing.T, path string, wrap func(filestorage.File) filestorage.File) *filestorage.Storage {
	t.Helper()
	d.dir, d.names = path+".blobs", make(map[string]map[string]os.FileInfo)
	s, err := filestorage.OpenWith(t.Context(), path, filestorage.Options{BlobDir: d.dir}, wrap)
	if err != nil {
		t.Fatal(err)
	}
	d.names[d.dir] = namesIn(d.dir)
	for _, info := range namesIn(d.dir) {
		d.whole = append(d.whole, info)
	}
	filestorage.SetBlobSync(s, d.sync)
	return s
}

// blobContent is what the tests store: it can be told whether it is whole.
func blobContent(random *rand.Rand) string {
	body := strings.Repeat("x", random.IntN(10_000))
	return fmt.Sprintf("%d:%s", len(body), body)
}

// checkBlobs opens a storage after a crash: each record of a blob must have it, whole.
func checkBlobs(path string) (blobs int, err error) {
	ctx := context.Background()
	s, err := filestorage.Open(ctx, path, filestorage.Options{Durability: filestorage.NoSync, BlobDir: path + ".blobs"})
	if err != nil {
		return 0, err
	}
	defer s.Close()
	for txn, err := range s.Iterate(ctx, 0, raidstorage.MaxTID) {
		if err != nil {
			return blobs, err
		}
		for rec, err := range txn.Records {
			if err != nil {
				return blobs, err
			}
			if rec.OpenBlob == nil {
				continue
			}
			content, err := readAll(rec.OpenBlob(ctx))
			length, body, _ := strings.Cut(content, ":")
			if err != nil || length != strconv.Itoa(len(body)) {
				return blobs, fmt.Errorf("the blob of %v at %v: %.20q, %w", rec.OID, rec.TID, content, err)
			}
			blobs++
		}
	}
	return blobs, nil
}

// Whatever the disk holds when the power fails, no transaction in it lacks a blob.
func TestNoPowerFailureLosesABlobOfATransaction(t *testing.T) {
	t.Parallel()
	seed := uint64(os.Getpid())
	if env := os.Getenv("RAIDSTORAGE_SEED"); env != "" {
		var err error
		if seed, err = strconv.ParseUint(env, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("RAIDSTORAGE_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	dir, images, blobs := t.TempDir(), 0, 0
	disk := &blobDisk{}
	file := &powerDisk{random: random, acked: make(map[raidstorage.TID]bool), images: 1}
	file.check = func(image []byte, _ map[raidstorage.TID]bool) {
		if disk.dir == "" {
			return // it is being created
		}
		images++
		path := filepath.Join(dir, "crash", "Data.fs")
		if err := disk.survive(path+".blobs", random); err != nil {
			t.Error(err)
		}
		write(t, path, image)
		n, err := checkBlobs(path)
		if err != nil {
			t.Errorf("image %d: %v", images, err)
		}
		blobs += n
		if err := os.RemoveAll(filepath.Dir(path)); err != nil {
			t.Error(err)
		}
	}
	path := filepath.Join(dir, "Data.fs")
	s := openBlobs(t, path, filestorage.Options{}) // creates it
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	var err error
	if file.durable, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	s = disk.openOn(t, path, func(f filestorage.File) filestorage.File { file.File = f; return file })
	defer s.Close()
	serials := make(map[raidstorage.OID]raidstorage.TID)
	for range 20 {
		oid := raidstorage.OID(random.IntN(4))
		content := strings.NewReader(blobContent(random))
		last := commit(t, s, raidstorage.Meta{}, func(txn raidstorage.Txn) error {
			return raidstorage.StoreBlob(t.Context(), txn, oid, serials[oid], []byte(blobRecord), content)
		})
		serials[oid] = last
		switch random.IntN(4) {
		case 0:
			serials[oid] = undoTxn(t, s, last)
		case 1:
			txn := begin(t, s, raidstorage.Meta{})
			err := raidstorage.StoreBlob(t.Context(), txn, oid, last, []byte(blobRecord), strings.NewReader("-1:aborted"))
			if err == nil {
				_, err = txn.Vote(t.Context())
			}
			if err := errors.Join(err, txn.Abort(t.Context())); err != nil {
				t.Fatal(err)
			}
		}
	}
	if t.Logf("%d images, %d blobs", images, blobs); blobs < images {
		t.Errorf("%d images held %d blobs", images, blobs)
	}
}

// Each sync of a blob or a directory fails in turn: the transaction is not committed,
// those before it stay. For want of space the next one may be fine.
func TestNoFailedSyncCommitsABlob(t *testing.T) {
	t.Parallel()
	for _, cause := range []error{syscall.EIO, syscall.ENOSPC} {
		for n := 1; ; n++ {
			path := filepath.Join(t.TempDir(), "Data.fs")
			disk := &blobDisk{err: cause}
			s := disk.openOn(t, path, func(f filestorage.File) filestorage.File { return f })
			before := putBlob(t, s, 1, "3:one")
			disk.failAt = disk.syncs + n
			err := commitBlob(t.Context(), s, 2)
			if err == nil {
				if n < 3 {
					t.Errorf("only %d syncs", n-1)
				}
				break
			}
			if !errors.Is(err, cause) {
				t.Errorf("sync %d: %v, want %v", n, err, cause)
			}
			if err := commitBlob(t.Context(), s, 3); err != nil {
				refused := wantErr[*raidstorage.ReadOnlyError](t, err)
				if errors.Is(cause, syscall.ENOSPC) {
					t.Errorf("sync %d: a full disk made the storage read-only: %v", n, refused)
				}
			}
			wantBlob(t, s, 1, before, "3:one")
			if err := s.Close(); err != nil && !errors.Is(cause, syscall.EIO) {
				t.Error(err)
			}
			if _, err := checkBlobs(path); err != nil {
				t.Errorf("sync %d: %v", n, err)
			}
			if _, err := os.Stat(filepath.Join(disk.dir, filepath.Dir(bushyPath(2, before)))); err == nil {
				if left := namesIn(filepath.Join(disk.dir, filepath.Dir(bushyPath(2, before)))); len(left) > 0 {
					t.Errorf("sync %d: a blob stays: %v", n, left)
				}
			} else if !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
		}
	}
}

func commitBlob(ctx context.Context, s *filestorage.Storage, oid raidstorage.OID) (err error) {
	txn, err := s.Begin(ctx, raidstorage.Meta{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, txn.Abort(ctx)) }()
	if err := raidstorage.StoreBlob(ctx, txn, oid, 0, []byte(blobRecord), strings.NewReader("3:new")); err != nil {
		return err
	}
	if _, err := txn.Vote(ctx); err != nil {
		return err
	}
	_, err = txn.Finish(ctx)
	return err
}
