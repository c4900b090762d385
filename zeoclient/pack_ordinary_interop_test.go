//go:build interop

package zeoclient_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/storagetest"
	"github.com/zeoraid/raidstorage/zeoclient"
)

// TestPacksOfABusyMirrorOfAFileAndAPythonServer: work in which nothing that was unlinked
// is linked again but by an undo never stops a pack, whatever its time, and both hold the
// same objects afterwards. (If a change of such an object is undone, too, Python drops what
// it refers to.)
func TestPacksOfABusyMirrorOfAFileAndAPythonServer(t *testing.T) {
	t.Parallel()
	const packs = 15
	server := startRunzeo(t, shortDir(t), 1, "")
	opts := zeoclient.Options{Addresses: []string{server.address}, TempDir: t.TempDir(), CacheBytes: 1 << 20}
	path := filepath.Join(t.TempDir(), "Data.fs")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	mirror, err := raidstorage.Open(ctx, raidstorage.Config{
		StateDir: t.TempDir(), TempDir: t.TempDir(), AutoRecover: raidstorage.AutoRecoverOff,
		Timeouts: raidstorage.Timeouts{PackSettle: 300 * time.Millisecond},
		Backends: []raidstorage.Backend{
			{Name: "zeo", Open: func(ctx context.Context) (raidstorage.Storage, error) { return zeoclient.Open(ctx, opts) }},
			{Name: "file", Open: func(ctx context.Context) (raidstorage.Storage, error) {
				return filestorage.Open(ctx, path, filestorage.Options{BlobDir: filepath.Join(filepath.Dir(path), "blobs")})
			}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	t.Logf("the seed is %d", seed)
	w := &ordinaryWork{t: t, m: mirror, random: rand.New(rand.NewPCG(seed, 0)), buckets: make(map[raidstorage.OID][]raidstorage.OID), again: make(map[raidstorage.OID]bool)}
	for range 40 {
		w.step(ctx)
	}
	var work sync.WaitGroup
	busy, stop := context.WithCancel(ctx)
	work.Go(func() {
		for busy.Err() == nil {
			w.step(ctx)
		}
	})
	for n := range packs {
		for range 5 {
			w.step(ctx)
		}
		through := raidstorage.MaxTID
		switch n % 3 {
		case 1: // as zeopack asks
			through = raidstorage.TIDFromTime(time.Now())
		case 2: // as with -days
			through = raidstorage.TIDFromTime(time.Now().Add(-time.Duration(w.upTo(500)) * time.Millisecond))
		}
		if err := mirror.Pack(ctx, raidstorage.PackOptions{Through: through, GC: true}); err != nil {
			t.Errorf("pack %d to %v: %v", n, through, err)
		}
		if status := mirror.Status(); status.Condition != raidstorage.Optimal || len(status.Membership.Unpacked) > 0 {
			t.Fatalf("after pack %d the mirror is %v: %s, the record %+v", n, status.Condition, status.Reason, status.Membership)
		}
	}
	stop()
	work.Wait()
	t.Logf("%d commits, %d undos", w.commits, w.undos)
	if w.undos < 5 {
		t.Errorf("there were %d undos only", w.undos)
	}
	if report, err := mirror.Verify(ctx, raidstorage.VerifyOptions{}); err != nil || report.Findings > 0 {
		t.Errorf("a verification finds %v, %v", report.Listed, err)
	}
	if err := mirror.Close(); err != nil {
		t.Error(err)
	}
	server.wantQuiet(t)
}

// ordinaryWork is a root with buckets with leaves: they are added, removed, moved and split
// as an application does, each change in one transaction, and undone.
type ordinaryWork struct {
	t      testing.TB
	m      *raidstorage.Mirror
	random *rand.Rand

	mu      sync.Mutex // held across commits
	next    raidstorage.OID
	buckets map[raidstorage.OID][]raidstorage.OID
	again   map[raidstorage.OID]bool // linked again by an undo
	commits int
	undos   int
}

func (w *ordinaryWork) upTo(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.random.IntN(n)
}

func (w *ordinaryWork) step(ctx context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := make(map[raidstorage.OID][]raidstorage.OID)
	for b, leaves := range w.buckets {
		before[b] = slices.Clone(leaves)
	}
	keys := slices.Sorted(maps.Keys(w.buckets))
	changed := map[raidstorage.OID]string{}
	fresh := func(what string) raidstorage.OID {
		w.next++
		changed[w.next] = storagetest.Pickled(fmt.Sprint(what, w.next, w.commits))
		return w.next
	}
	root := len(keys) == 0
	if root {
		w.buckets[fresh("bucket")] = nil
	} else {
		b := keys[w.random.IntN(len(keys))]
		other := keys[w.random.IntN(len(keys))]
		leaves := w.buckets[b]
		changed[b] = ""
		switch k := w.random.IntN(10); {
		case k < 4 || len(leaves) == 0:
			w.buckets[b] = append(leaves, fresh("leaf"))
		case k < 6:
			w.buckets[b] = leaves[1:]
		case k < 7:
			w.buckets[b] = leaves[1:]
			w.buckets[other] = append(w.buckets[other], leaves[0])
			changed[other] = ""
		case k < 9 && len(leaves) > 3:
			w.buckets[fresh("bucket")] = leaves[2:]
			w.buckets[b] = leaves[:2:2]
			root = true
		case len(keys) > 4:
			delete(w.buckets, b)
			delete(changed, b)
			root = true
		default:
			changed[leaves[0]] = storagetest.Pickled(fmt.Sprint("leaf again ", w.commits))
		}
	}
	for oid := range changed {
		if leaves, ok := w.buckets[oid]; ok {
			changed[oid] = storagetest.Pickled(fmt.Sprint("bucket ", w.commits), leaves...)
		}
	}
	if root {
		changed[0] = storagetest.Pickled(fmt.Sprint("root ", w.commits), slices.Sorted(maps.Keys(w.buckets))...)
	}
	g := &packGraph{t: w.t, m: w.m, n: w.commits}
	tid := g.commit(ctx, changed)
	w.commits++
	if w.commits < 40 || w.random.IntN(4) > 0 {
		return
	}
	for oid := range changed {
		if w.again[oid] {
			return
		}
	}
	txn, err := w.m.Begin(ctx, raidstorage.Meta{Description: []byte("undo")})
	if err == nil {
		err = raidstorage.Undo(ctx, txn, tid)
		if err == nil {
			_, err = txn.Vote(ctx)
		}
		if err == nil {
			_, err = txn.Finish(ctx)
		} else {
			_ = txn.Abort(ctx)
		}
	}
	if err == nil {
		linked := reached(w.buckets)
		for oid := range reached(before) {
			w.again[oid] = w.again[oid] || !linked[oid]
		}
		w.buckets = before
		w.undos++
	}
}

// reached are the buckets and their leaves.
func reached(buckets map[raidstorage.OID][]raidstorage.OID) map[raidstorage.OID]bool {
	all := make(map[raidstorage.OID]bool)
	for b, leaves := range buckets {
		all[b] = true
		for _, leaf := range leaves {
			all[leaf] = true
		}
	}
	return all
}
