package admin_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/admin"
	"github.com/zeoraid/raidstorage/memstorage"
)

// serveNamed serves a mirror of one backend on a real port, until the test ends.
func serveNamed(t *testing.T, mirror, backend string, cfg admin.Config) (address string) {
	t.Helper()
	m, err := raidstorage.Open(t.Context(), raidstorage.Config{
		Membership: &raidstorage.MemoryRegister{},
		Backends: []raidstorage.Backend{{Name: backend, Open: func(context.Context) (raidstorage.Storage, error) {
			return memstorage.New("memory"), nil
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Mirrors = map[string]*raidstorage.Mirror{mirror: m}
	s, err := admin.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := errors.Join(s.Shutdown(ctx), <-served, m.Close()); err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// TestMetricsOfNamesThatAreNotUTF8: the library of the metrics panics for such labels.
func TestMetricsOfNamesThatAreNotUTF8(t *testing.T) {
	t.Parallel()
	address := serveNamed(t, "m\xe9", "b\xff", admin.Config{})
	q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := new(http.Transport)
	defer transport.CloseIdleConnections()
	r, err := transport.RoundTrip(q)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if want := `zeoraid_backend_commits_total{backend="\"b\\xff\"",mirror="\"m\\xe9\""} 0`; err != nil || !strings.Contains(string(text), want) {
		t.Errorf("%v: no %s in\n%s", err, want, text)
	}
}

// TestAClientThatNeverReads: it asks and asks, until nothing more can be sent to it, and
// has the only slot; then it is given up, and others are served.
func TestAClientThatNeverReads(t *testing.T) {
	t.Parallel()
	address := serveNamed(t, "m", "b", admin.Config{WriteTimeout: 100 * time.Millisecond, MaxRequests: 1})
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetWriteDeadline(time.Now().Add(20 * time.Second))
	asked := []byte(strings.Repeat("GET /metrics HTTP/1.1\r\nHost: zeoraid\r\n\r\n", 100))
	for err == nil { // until the server closes it; what it has answered is never read
		_, err = c.Write(asked)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("the server keeps it")
	}
	// Its handler may be at its last line still.
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 500 {
		if _, err = (admin.Client{URL: "http://" + address}).Status(t.Context()); err == nil {
			return
		}
		<-tick.C
	}
	t.Errorf("another client: %v", err)
}
