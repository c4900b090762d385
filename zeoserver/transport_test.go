package zeoserver_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/zeoserver"
)

// alsoServe serves on another listener until the server ends.
func (s *server) alsoServe(t testing.TB, l net.Listener) {
	t.Helper()
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestUnixSocketsAndTLS(t *testing.T) {
	t.Parallel()
	srv := serve(t, zeoserver.Config{HandshakeTimeout: 10 * time.Second})
	unix, err := net.Listen("unix", filepath.Join(t.TempDir(), "zeo.sock"))
	if err != nil {
		t.Fatal(err)
	}
	srv.alsoServe(t, unix)
	cert := certificate(t)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv.alsoServe(t, tls.NewListener(tcp, &tls.Config{Certificates: []tls.Certificate{cert}}))

	roots := x509.NewCertPool()
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	roots.AddCert(leaf)
	unixConn, err := net.Dial("unix", unix.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	tlsConn, err := tls.Dial("tcp", tcp.Addr().String(), &tls.Config{RootCAs: roots, ServerName: "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	// One that says nothing where TLS is spoken is dropped.
	silent, err := net.Dial("tcp", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	for i, nc := range []net.Conn{unixConn, tlsConn} {
		c := shakeHands(t, nc, zeowire.Msgpack)
		c.must("register", text("1"), zeowire.Bool(false))
		c.commit(write{uint64(i + 1), 0, "x"})
		if got, _, _ := c.load(uint64(i+1), raidstorage.MaxTID); got != "x" {
			t.Errorf("loaded %q", got)
		}
	}
	silent.SetDeadline(time.Now().Add(patience))
	if _, err := silent.Read(make([]byte, 1)); err == nil {
		t.Error("a plain client was answered")
	}
}

// TestAThousandIdleConnections is not parallel: it counts the memory of all.
func TestAThousandIdleConnections(t *testing.T) {
	srv := serve(t, zeoserver.Config{})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const n = 1000
	for range n {
		rawDial(t, srv)
	}
	c := srv.connect(t)
	last := c.commit(write{1, 0, "x"})
	for range 100 {
		last = c.commit(write{1, last, "x"})
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > n*100<<10 {
		t.Errorf("the heap has grown by %d bytes", grown)
	}
}

// lateNotifier is a storage that tells of transactions when a test wants it.
type lateNotifier struct {
	*memstorage.Storage
	notify func(raidstorage.Invalidation)
}

func (l *lateNotifier) Subscribe(notify func(raidstorage.Invalidation)) (cancel func()) {
	l.notify = notify
	return func() {}
}

func TestANotificationThatComesTooLateHasClientsVerify(t *testing.T) {
	t.Parallel()
	s := &lateNotifier{Storage: memstorage.New("mem")}
	srv := serve(t, serving(s))
	c := srv.connect(t)
	last := c.commit(write{1, 0, "x"})
	s.notify(raidstorage.Invalidation{TID: last - 5, OIDs: []raidstorage.OID{9}})
	c.closed()
	if !strings.Contains(srv.log.String(), "too late") {
		t.Errorf("log: %s", srv.log)
	}
	c = srv.connect(t)
	if v := c.must("getInvalidations", tid(last-6)); !v.IsNone() {
		t.Errorf("the queue answers %v", v)
	}
	if v := c.must("getInvalidations", tid(last-5)); !v.IsNone() {
		t.Errorf("the queue answers %v", v)
	}
	next := last + 1000
	s.notify(raidstorage.Invalidation{TID: next, OIDs: []raidstorage.OID{9, 9, 3}})
	got, oids := c.invalidated()
	if got != next || len(oids) != 2 {
		t.Errorf("invalidated %v %v", got, oids)
	}
}

func TestConfigurationFaultsAreToldAtOnce(t *testing.T) {
	t.Parallel()
	_, err := zeoserver.New(zeoserver.Config{Storages: map[string]raidstorage.Storage{"1": nil}, MaxConnections: -1, WriteTimeout: -1})
	if err == nil {
		t.Fatal("no error")
	}
	for _, word := range []string{"is nil", "MaxConnections", "WriteTimeout"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q is not in %q", word, err)
		}
	}
}
