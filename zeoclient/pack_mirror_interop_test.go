//go:build interop

package zeoclient_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/storagetest"
	"github.com/zeoraid/raidstorage/zeoclient"
)

// packRounds is how often the mirror is packed.
const packRounds = 8

// TestPackOfMirrorOverPythonServersAndAFile packs a mirror of two of Python's servers
// and a file while commits go on, with what is linked again at each phase of the pack:
// afterwards all three hold the same objects. In every second round that is garbage at the
// pack time, which Python drops whatever is linked later: the pack finds a time when it was
// linked, or is refused with nothing changed. One server misses a pack.
func TestPackOfMirrorOverPythonServersAndAFile(t *testing.T) {
	t.Parallel()
	dirs := map[string]string{"1": shortDir(t), "2": shortDir(t)}
	servers := map[string]*runzeo{"1": startRunzeo(t, dirs["1"], 1, ""), "2": startRunzeo(t, dirs["2"], 1, "")}
	cfg := raidstorage.Config{StateDir: t.TempDir(), TempDir: t.TempDir(), AutoRecover: raidstorage.AutoRecoverOff,
		Timeouts: raidstorage.Timeouts{PackSettle: 500 * time.Millisecond}}
	for _, name := range []string{"1", "2"} {
		opts := zeoclient.Options{Addresses: []string{servers[name].address}, TempDir: t.TempDir(), CacheBytes: 1 << 20}
		cfg.Backends = append(cfg.Backends, raidstorage.Backend{Name: name, Open: func(ctx context.Context) (raidstorage.Storage, error) {
			return zeoclient.Open(ctx, opts)
		}})
	}
	path := filepath.Join(t.TempDir(), "Data.fs")
	cfg.Backends = append(cfg.Backends, raidstorage.Backend{Name: "file", Open: func(ctx context.Context) (raidstorage.Storage, error) {
		return filestorage.Open(ctx, path, filestorage.Options{BlobDir: filepath.Join(filepath.Dir(path), "blobs")})
	}})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	mirror, err := raidstorage.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	g := &packGraph{t: t, m: mirror}
	g.grow(ctx)
	var work sync.WaitGroup
	watching, unwatch := context.WithCancel(ctx)
	work.Go(func() { // links garbage again, whenever a pack tells of something
		for e := range mirror.Watch(watching) {
			if e.Kind == raidstorage.EventPack {
				g.relink(ctx, string(e.Pack.Phase))
			}
		}
	})
	pack := func(through raidstorage.TID) error {
		commits, stop := context.WithCancel(ctx)
		work.Go(func() {
			for commits.Err() == nil {
				g.touch(ctx)
			}
		})
		defer stop()
		return mirror.Pack(ctx, raidstorage.PackOptions{Through: through, GC: true})
	}
	refused := 0
	for n := range packRounds {
		g.grow(ctx)
		if n == packRounds/2 {
			if err := mirror.Disable(ctx, "2", "to miss a pack"); err != nil {
				t.Fatal(err)
			}
		}
		// Until then the root may refer to what an earlier pack has dropped: what is linked
		// after the cut is gone. Python packs nothing to such a time.
		g.goOn(ctx)
		through := g.linked // when what is linked again was still linked
		if n%2 == 1 {
			through = raidstorage.MaxTID
		}
		epoch := mirror.Status().Membership.Epoch
		err := pack(through)
		if i, ok := errors.AsType[*raidstorage.InvalidError](err); ok && through == raidstorage.MaxTID && strings.Contains(i.Reason, "could not be reached") {
			refused++
			t.Logf("pack %d: %v", n, err)
			if status := mirror.Status(); status.Condition != raidstorage.Optimal || status.Membership.Epoch != epoch || status.Membership.Lock != nil {
				t.Errorf("after a refused pack the mirror is %v, the record %+v", status.Condition, status.Membership)
			}
			g.linkNoMore()
			g.goOn(ctx)
			err = pack(raidstorage.MaxTID)
		}
		if err != nil {
			t.Errorf("pack %d: %v", n, err)
		}
		if n == packRounds/2 {
			if err := mirror.Recover(ctx, "2"); err != nil {
				t.Errorf("recover: %v", err)
			}
		}
		status := mirror.Status()
		if status.Condition != raidstorage.Optimal {
			t.Fatalf("after pack %d the mirror is %v: %s", n, status.Condition, status.Reason)
		}
		t.Logf("pack %d: horizon %v, unpacked %v", n, status.Membership.PackHorizon, status.Membership.Unpacked)
	}
	unwatch()
	work.Wait()
	t.Logf("%d packs were refused", refused)
	if report, err := mirror.Verify(ctx, raidstorage.VerifyOptions{}); err != nil || report.Findings > 0 {
		t.Errorf("a verification finds %v, %v", report.Listed, err)
	}
	if status := mirror.Status(); len(status.Membership.Unpacked) > 0 || status.Membership.Lock != nil {
		t.Errorf("in the end the record is %+v", status.Membership)
	}
	if err := mirror.Close(); err != nil {
		t.Error(err)
	}
	g.compare(servers, path)
	for _, server := range servers {
		server.wantQuiet(t)
	}
}

// packGraph is what the mirror holds: a root with children, and garbage.
type packGraph struct {
	t testing.TB
	m *raidstorage.Mirror

	mu       sync.Mutex // held across commits, which have no conflicts therefore
	next     raidstorage.OID
	children []raidstorage.OID
	garbage  []raidstorage.OID // unlinked lately
	n        int
	relinked int
	linked   raidstorage.TID // the last transaction in which all of garbage was linked
}

func (g *packGraph) commit(ctx context.Context, objects map[raidstorage.OID]string) (tid raidstorage.TID) {
	txn, err := g.m.Begin(ctx, raidstorage.Meta{Description: fmt.Append(nil, "commit ", g.n)})
	for oid, data := range objects {
		var rev raidstorage.Revision
		if err == nil {
			if rev, err = g.m.LoadBefore(ctx, oid, raidstorage.MaxTID); err != nil && raidstorage.Classify(err) == raidstorage.ClassAnswer {
				err = nil
			}
		}
		if err == nil {
			err = txn.Store(ctx, oid, rev.Serial, []byte(data))
		}
	}
	if err == nil {
		_, err = txn.Vote(ctx)
	}
	if err == nil {
		tid, err = txn.Finish(ctx)
	}
	if err != nil {
		g.t.Errorf("commit %d: %v", g.n, err)
	}
	g.n++
	return tid
}

func (g *packGraph) root(refs ...raidstorage.OID) string {
	return storagetest.Pickled(fmt.Sprint("root ", g.n), append(slices.Clone(g.children), refs...)...)
}

// grow adds children with a child of their own each, and unlinks others.
func (g *packGraph) grow(ctx context.Context) {
	g.mu.Lock()
	defer g.mu.Unlock()
	objects := map[raidstorage.OID]string{}
	for range 20 {
		child, below := g.next+1, g.next+2
		g.next += 2
		objects[child], objects[below] = storagetest.Pickled(fmt.Sprint("child ", child), below), storagetest.Pickled(fmt.Sprint("below ", child))
		g.children = append(g.children, child)
	}
	objects[0] = g.root()
	g.linked = g.commit(ctx, objects)
	g.garbage = slices.Clone(g.children[:10])
	g.children = g.children[10:]
	g.commit(ctx, map[raidstorage.OID]string{0: g.root()})
}

// relink links one object that is garbage, as a client does that had it cached.
func (g *packGraph) relink(ctx context.Context, phase string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.garbage) == 0 {
		return
	}
	oid := g.garbage[0]
	g.garbage = g.garbage[1:]
	g.commit(ctx, map[raidstorage.OID]string{0: g.root(oid)})
	g.t.Logf("%v was linked again in phase %s", oid, phase)
	g.relinked++
}

// linkNoMore leaves the garbage alone.
func (g *packGraph) linkNoMore() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.garbage = nil
}

// goOn commits until a pack time that is chosen now is later than all before.
func (g *packGraph) goOn(ctx context.Context) {
	const margin = 20 * time.Millisecond
	before := g.touch(ctx)
	for ctx.Err() == nil && g.touch(ctx).Time().Sub(before.Time()) < margin {
	}
}

// touch rewrites a child.
func (g *packGraph) touch(ctx context.Context) raidstorage.TID {
	g.mu.Lock()
	defer g.mu.Unlock()
	child := g.children[g.n%len(g.children)]
	return g.commit(ctx, map[raidstorage.OID]string{child: storagetest.Pickled(fmt.Sprint("child again ", g.n), child+1)})
}

// compare compares the current records of all, and looks for what must be there.
func (g *packGraph) compare(servers map[string]*runzeo, path string) {
	t := g.t
	t.Helper()
	file, err := filestorage.Open(t.Context(), path, filestorage.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	all := []raidstorage.Storage{file}
	for _, name := range []string{"1", "2"} {
		all = append(all, open(t, zeoclient.Options{Addresses: []string{servers[name].address}, TempDir: t.TempDir()}))
	}
	var first map[raidstorage.OID]string
	for i, s := range all {
		it, err := raidstorage.Can[raidstorage.RecordIterator](s)
		if err != nil {
			t.Fatal(err)
		}
		objects := map[raidstorage.OID]string{}
		for rec, err := range it.CurrentRecords(t.Context(), 0) {
			if err != nil {
				t.Fatal(err)
			}
			objects[rec.OID] = fmt.Sprint(rec.TID, string(rec.Data))
		}
		if i == 0 {
			first = objects
		} else if diff := cmp.Diff(first, objects); diff != "" {
			t.Errorf("the file and server %d hold different objects:\n%s", i, diff)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, child := range g.children {
		if first[child] == "" || first[child+1] == "" {
			t.Errorf("child %v, or what is below it, is gone", child)
		}
	}
	if all := 2*int(g.next) + 1; len(first) >= all || g.relinked == 0 {
		t.Errorf("of %d objects %d are left, %d were linked again", all, len(first), g.relinked)
	}
	t.Logf("%d commits, %d objects left, %d linked again", g.n, len(first), g.relinked)
}
