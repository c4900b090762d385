package zeoclient_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/storagetest"
	"github.com/zeoraid/raidstorage/zeoclient"
	"github.com/zeoraid/raidstorage/zeoserver"
)

// certificate makes a self-signed one for 127.0.0.1, and the pool that trusts it.
func certificate(t testing.TB) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool
}

func TestTLSOverTCP(t *testing.T) {
	t.Parallel()
	cert, pool := certificate(t)
	storage := memstorage.New("memory")
	server, err := zeoserver.New(zeoserver.Config{Storages: map[string]raidstorage.Storage{"main": storage}})
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		served <- server.Serve(tls.NewListener(tcp, &tls.Config{
			Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
		}))
	}()
	defer func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		<-served
	}()
	// The first address is a port that nobody listens at.
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	opts := zeoclient.Options{
		Addresses: []string{closed.Addr().String(), tcp.Addr().String()}, Storage: "main", TempDir: t.TempDir(), Label: "test",
		TLS: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}},
	}
	s := open(t, opts)
	tid := storagetest.Commit(t, s, map[raidstorage.OID]string{1: "secret"})
	if rev, err := s.LoadBefore(t.Context(), 1, raidstorage.MaxTID); err != nil || string(rev.Data) != "secret" || rev.Serial != tid {
		t.Errorf("LoadBefore = %q of %v, %v", rev.Data, rev.Serial, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	for name, config := range map[string]*tls.Config{
		"without a certificate": {RootCAs: pool}, "without trust": {Certificates: []tls.Certificate{cert}}, "without TLS": nil,
	} {
		opts.TLS, opts.DialTimeout = config, time.Second
		if s, err := zeoclient.Open(t.Context(), opts); err == nil {
			t.Errorf("a client %s was let in", name)
			_ = s.Close()
		}
	}
}
