package config_test

import (
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage/config"
	"github.com/zeoraid/raidstorage/zeoserver"
)

// serve runs what a configuration describes, until the test ends, and returns where
// it listens.
func serve(t testing.TB, c *config.Config) []net.Listener {
	t.Helper()
	o := open(t, c)
	settings := c.Server.ZEO()
	settings.Storages = o.Storages
	server, err := zeoserver.New(settings)
	if err != nil {
		t.Fatal(err)
	}
	listeners, err := c.Server.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { served <- server.Serve(l) }()
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		for range listeners {
			<-served
		}
	})
	return listeners
}

func TestAMirrorOfClientsIsServedAsTheFilesSay(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := newAuthority(t, dir, "ca")
	server, client := ca.sign(t, dir, "localhost"), ca.sign(t, dir, "app.example")
	socket := filepath.Join(dir, "socket")
	behind := load(t, fmt.Sprintf(`<zeo>
  address 127.0.0.1:0
  address %s
  <ssl>
    certificate %s
    authenticate %s
  </ssl>
</zeo>
<mappingstorage one/>
<mappingstorage two/>
`, socket, server, ca.file), nil)
	tcp := serve(t, behind)[0].Addr()
	front := load(t, fmt.Sprintf(`<zeo>
  address 127.0.0.1:0
</zeo>
<raidstorage main>
  <zeoclient 1>
    server %s
    storage one
    <ssl>
      certificate %s
      authenticate %s
      server-hostname localhost
    </ssl>
  </zeoclient>
  <zeoclient 2>
    server %s
    storage two
    <ssl>
      certificate %[2]s
      authenticate %[3]s
      check-hostname off
    </ssl>
  </zeoclient>
</raidstorage>
`, tcp, client, ca.file, socket), nil)
	application := load(t, fmt.Sprintf("<zeo>\naddress 1\n</zeo>\n<zeoclient 1>\nserver %s\nstorage main\n</zeoclient>\n",
		serve(t, front)[0].Addr()), nil)
	s := open(t, application).Storages["1"]
	oid := commit(t, s, "through all of it")
	checkData(t, s, oid, "through all of it")
}

func TestAClientWaitsForItsServer(t *testing.T) {
	t.Parallel()
	socket := config.Address{Path: filepath.Join(t.TempDir(), "socket")}
	c := &config.Config{Storages: []config.Storage{{Name: "1", Kind: &config.ZEOClient{
		Servers: []config.Address{socket}, Storage: "1", Wait: true, WaitTimeout: time.Minute,
	}}}}
	opened := make(chan error, 1)
	go func() {
		o, err := c.Open(t.Context(), nil)
		if err == nil {
			err = o.Close()
		}
		opened <- err
	}()
	behind := &config.Config{
		Server:   config.Server{Addresses: []config.Address{socket}},
		Storages: []config.Storage{{Name: "1", Kind: &config.MemStorage{}}},
	}
	serve(t, behind)
	if err := <-opened; err != nil {
		t.Error(err)
	}
}
