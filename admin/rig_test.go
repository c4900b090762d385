package admin_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/admin"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a mirror of the backends a and b, and its control, over a network in memory so
// that it also works in a bubble of synctest.
type rig struct {
	t      testing.TB
	stores map[string]*memstorage.Storage // what the backends are handles of
	mirror *raidstorage.Mirror
	server *admin.Server
	net    *network
	client admin.Client
	ended  chan error // what Serve returned

	mu     sync.Mutex // guards the fields below
	opened map[string]*storagetest.FaultyStorage
	onOpen func(name string, f *storagetest.FaultyStorage)
	down   bool // nothing can be opened
}

// newRig starts everything; edit may change the configuration of the control.
func newRig(t testing.TB, edit func(*admin.Config)) *rig {
	t.Helper()
	r := &rig{t: t, stores: map[string]*memstorage.Storage{}, opened: map[string]*storagetest.FaultyStorage{}, net: newNetwork(), ended: make(chan error, 1)}
	cfg := raidstorage.Config{Membership: &raidstorage.MemoryRegister{}, AutoRecover: raidstorage.AutoRecoverOff,
		Timeouts: raidstorage.Timeouts{Vote: time.Hour, Finish: time.Hour, Read: time.Hour}}
	for _, name := range []string{"a", "b"} {
		r.stores[name] = memstorage.New(name)
		cfg.Backends = append(cfg.Backends, raidstorage.Backend{Name: name, Open: func(context.Context) (raidstorage.Storage, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.down {
				return nil, errors.New("connection refused")
			}
			f := storagetest.Faulty(r.stores[name].Another(name))
			if r.onOpen != nil {
				r.onOpen(name, f)
			}
			r.opened[name] = f
			return f, nil
		}})
	}
	var err error
	if r.mirror, err = raidstorage.Open(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	control := admin.Config{Mirrors: map[string]*raidstorage.Mirror{"main": r.mirror}}
	if edit != nil {
		edit(&control)
	}
	if r.server, err = admin.New(control); err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DialContext: r.net.dial}
	r.client = admin.Client{URL: "http://127.0.0.1:8180", HTTP: &http.Client{Transport: transport}}
	var serving sync.WaitGroup
	serving.Go(func() { r.ended <- r.server.Serve(r.net) })
	t.Cleanup(func() {
		for _, f := range r.opened {
			f.Release()
		}
		if err := r.server.Shutdown(context.Background()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		serving.Wait()
		transport.CloseIdleConnections()
		if err := r.mirror.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		for _, s := range r.stores {
			s.Close()
		}
	})
	return r
}

// backend returns the present connection to a backend.
func (r *rig) backend(name string) *storagetest.FaultyStorage {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.opened[name]
}

// setDown lets no backend be opened any more.
func (r *rig) setDown() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = true
}

// whenOpened is called with each connection to a backend, from now on.
func (r *rig) whenOpened(f func(name string, s *storagetest.FaultyStorage)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.onOpen = f
}

func (r *rig) commit(s raidstorage.Storage, data string) raidstorage.TID {
	r.t.Helper()
	return storagetest.Commit(r.t, s, map[raidstorage.OID]string{0: data})
}

// do asks for an operation and returns the lines of the answer.
func (r *rig) do(op admin.Op, q admin.Request) (lines []admin.Message) {
	r.t.Helper()
	end, err := r.client.Do(r.t.Context(), "main", op, q, func(m admin.Message) { lines = append(lines, m) })
	if err != nil {
		r.t.Fatalf("%s: %v", op, err)
	}
	if last := lines[len(lines)-1]; last.Type != admin.TypeEnd || last.Text != end.Text {
		r.t.Errorf("%s: the last line is %+v, the result %+v", op, last, end)
	}
	return lines
}

// must does what must succeed.
func (r *rig) must(op admin.Op, q admin.Request) []admin.Message {
	r.t.Helper()
	lines := r.do(op, q)
	if f := lines[len(lines)-1].Failure; f != nil {
		r.t.Fatalf("%s: %v", op, f)
	}
	return lines
}

// state returns the state of a backend.
func (r *rig) state(name string) raidstorage.State {
	for _, b := range r.mirror.Status().Backends {
		if b.Name == name {
			return b.State
		}
	}
	r.t.Fatalf("no backend %q", name)
	return 0
}

// network is a listener whose connections are pipes: nothing is buffered.
type network struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newNetwork() *network {
	return &network{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (n *network) Accept() (net.Conn, error) {
	select {
	case c := <-n.conns:
		return c, nil
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

func (n *network) Close() error {
	n.once.Do(func() { close(n.closed) })
	return nil
}

func (n *network) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8180} }

func (n *network) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case n.conns <- theirs:
		return ours, nil
	case <-n.closed:
		return nil, errors.Join(errors.New("connection refused"), ours.Close(), theirs.Close())
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), ours.Close(), theirs.Close())
	}
}
