package raidstorage_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/storagetest"
	"github.com/zeoraid/raidstorage/zeoclient"
	"github.com/zeoraid/raidstorage/zeoserver"
)

// mixedServer is a ZEO server with a database of its own.
type mixedServer interface {
	start() (address string, err error)
	kill() // nothing is served any more when it returns
}

// mixedDisk is a database that outlives the mirrors over it, of one of several kinds,
// and the way to it.
type mixedDisk struct {
	name    string
	version int // of the disks with this name
	kind    string
	dir     string
	server  mixedServer // nil unless it is behind a server
	proxy   *badProxy
	mem     *memstorage.Storage
	role    raidstorage.Role // as configured
	written bool             // by someone else than the mirror

	life sync.Mutex // held while the disk dies or comes back, taken before mu

	mu      sync.Mutex // guards the fields below
	down    bool
	address string // of the server, without the proxy
	handle  *storagetest.FaultyStorage
}

// mixedKind makes a disk's server; nil for a disk that is none.
type mixedKind struct {
	name   string
	server func(t testing.TB, dir string) mixedServer
}

func mixedKinds() []mixedKind {
	return append([]mixedKind{
		{name: "memory"}, {name: "file"},
		{name: "served", server: func(_ testing.TB, dir string) mixedServer { return &ourServer{dir: dir} }},
	}, foreignKinds()...)
}

func newMixedDisk(t testing.TB, kind mixedKind, name string, version int, dir string) (*mixedDisk, error) {
	t.Helper()
	d := &mixedDisk{name: name, version: version, kind: kind.name, dir: filepath.Join(dir, fmt.Sprintf("%s-%d", name, version))}
	if err := os.MkdirAll(d.dir, 0o777); err != nil {
		return nil, err
	}
	if kind.name == "memory" {
		d.mem = memstorage.New(name)
	}
	if kind.server != nil {
		d.server, d.proxy = kind.server(t, d.dir), newBadProxy(t, uint64(version))
		if err := d.revive(); err != nil {
			return nil, err
		}
	}
	return d, nil
}

func (d *mixedDisk) identity() string { return fmt.Sprintf("%s#%d", d.name, d.version) }

func (d *mixedDisk) String() string { return fmt.Sprintf("%s (%s, %v)", d.identity(), d.kind, d.role) }

// openMixedFile opens the file of a directory, with its blobs.
func openMixedFile(ctx context.Context, dir string) (*filestorage.Storage, error) {
	return filestorage.Open(ctx, filepath.Join(dir, "Data.fs"), filestorage.Options{Durability: filestorage.NoSync, BlobDir: filepath.Join(dir, "blobs")})
}

// open is what a mirror's configuration calls.
func (d *mixedDisk) open(ctx context.Context, g *propGen) (raidstorage.Storage, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case g.killed():
		return nil, errPropDead
	case d.down:
		return nil, errPropDown
	}
	var s raidstorage.Storage
	var err error
	switch {
	case d.server != nil:
		s, err = zeoclient.Open(ctx, zeoclient.Options{Addresses: []string{d.proxy.address()}, TempDir: d.dir,
			DialTimeout: mixedTimeout, CallTimeout: mixedTimeout, CacheBytes: 1 << 20})
	case d.mem != nil:
		s = d.mem.Another(d.name)
	default:
		s, err = openMixedFile(ctx, d.dir)
	}
	if err != nil {
		return nil, err
	}
	d.handle = storagetest.Faulty(s)
	if g.killed() { // meanwhile
		d.handle.CutOff()
	}
	return d.handle, nil
}

// direct opens the database behind the mirror's back, which must have closed a file.
func (d *mixedDisk) direct(ctx context.Context) (raidstorage.Storage, error) {
	switch {
	case d.server != nil:
		d.mu.Lock()
		address := d.address
		d.mu.Unlock()
		return zeoclient.Open(ctx, zeoclient.Options{Addresses: []string{address}, TempDir: d.dir})
	case d.mem != nil:
		return d.mem.Another("witness"), nil
	}
	return openMixedFile(ctx, d.dir)
}

// cutOff breaks what a mirror has open. What hangs there goes on and finds out.
func (d *mixedDisk) cutOff() {
	d.mu.Lock()
	h := d.handle
	d.mu.Unlock()
	if h != nil {
		h.Clear()
		h.CutOff()
		h.Release()
	}
	if d.proxy != nil {
		d.proxy.stick(false)
		d.proxy.cut()
	}
}

// die takes the disk away, with its server.
func (d *mixedDisk) die() {
	d.life.Lock()
	defer d.life.Unlock()
	d.mu.Lock()
	was := d.down
	d.down = true
	d.mu.Unlock()
	if was {
		return
	}
	if d.server != nil {
		d.proxy.to("")
		d.server.kill()
	}
	d.cutOff()
}

func (d *mixedDisk) isDown() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.down
}

// revive is the contrary of die.
func (d *mixedDisk) revive() error {
	d.life.Lock()
	defer d.life.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.server != nil && (d.down || d.address == "") {
		address, err := d.server.start()
		if err != nil {
			return fmt.Errorf("start the server of %v: %w", d, err)
		}
		d.address = address
		d.proxy.to(address)
	}
	d.down = false
	return nil
}

// heal ends all faults.
func (d *mixedDisk) heal() error {
	if err := d.revive(); err != nil {
		return err
	}
	d.mu.Lock()
	h := d.handle
	d.mu.Unlock()
	if h != nil {
		h.Clear()
		h.Release()
	}
	if d.proxy != nil {
		d.proxy.heal()
	}
	return nil
}

// inject gives a fault to what a mirror has open.
func (d *mixedDisk) inject(f storagetest.Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.handle != nil {
		d.handle.Inject(f)
	}
}

// end stops the server for good.
func (d *mixedDisk) end() {
	if d.server == nil {
		return
	}
	d.mu.Lock()
	down := d.down
	d.mu.Unlock()
	d.proxy.close()
	if !down {
		d.server.kill()
	}
}

// ourServer is ours, over a file.
type ourServer struct {
	dir     string
	storage *filestorage.Storage
	server  *zeoserver.Server
	group   sync.WaitGroup
}

func (s *ourServer) start() (string, error) {
	var err error
	if s.storage, err = openMixedFile(context.Background(), s.dir); err != nil {
		return "", err
	}
	if s.server, err = zeoserver.New(zeoserver.Config{Storages: map[string]raidstorage.Storage{"1": s.storage}, TempDir: s.dir,
		TransactionTimeout: 10 * time.Second}); err != nil {
		return "", errors.Join(err, s.storage.Close())
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", errors.Join(err, s.server.Close(), s.storage.Close())
	}
	server := s.server
	s.group.Go(func() { _ = server.Serve(l) }) // until kill
	return l.Addr().String(), nil
}

func (s *ourServer) kill() {
	_ = s.server.Close() // what it does for clients ends in errors, for them
	_ = s.storage.Close()
	s.group.Wait()
}
