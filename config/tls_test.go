package config_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage/config"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // of its certificate
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func template(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		DNSNames:     []string{name},
	}
}

func writePEM(t testing.TB, path, kind string, der []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := pem.Encode(f, &pem.Block{Type: kind, Bytes: der}); err != nil {
		t.Fatal(err)
	}
}

func newAuthority(t testing.TB, dir, name string) *authority {
	t.Helper()
	a := &authority{key: newKey(t), file: filepath.Join(dir, name+".pem")}
	tmpl := template(name)
	tmpl.IsCA, tmpl.BasicConstraintsValid, tmpl.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	writePEM(t, a.file, "CERTIFICATE", der)
	return a
}

// sign makes name.pem with the certificate and the key.
func (a *authority) sign(t testing.TB, dir, name string) string {
	t.Helper()
	return a.signWith(t, dir, name, newKey(t))
}

func (a *authority) signWith(t testing.TB, dir, name string, key *ecdsa.PrivateKey) string {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template(name), a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name+".pem")
	writePEM(t, path, "CERTIFICATE", der)
	writePEM(t, path, "EC PRIVATE KEY", keyDER)
	return path
}

// clientTLS is what a file makes of the lines of a client's <ssl>.
func clientTLS(t testing.TB, lines ...string) *config.TLS {
	t.Helper()
	c := load(t, "<zeo>\naddress 1\n</zeo>\n<zeoclient 1>\nserver db.example:1\n<ssl>\n"+
		strings.Join(lines, "\n")+"\n</ssl>\n</zeoclient>\n", nil)
	return c.Storages[0].Kind.(*config.ZEOClient).TLS
}

func TestServersAskForCertificates(t *testing.T) {
	t.Parallel()
	dir := makeDirs(t, "hashed")
	ca, other := newAuthority(t, dir, "ca"), newAuthority(t, dir, "other")
	server, client := ca.sign(t, dir, "db.example"), ca.sign(t, dir, "app.example")
	stranger := other.sign(t, dir, "stranger.example")
	data, err := os.ReadFile(ca.file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hashed", "0123abcd.0"), data, 0o600); err != nil {
		t.Fatal(err)
	}

	ask := func(lines ...string) *config.TLS { return clientTLS(t, lines...) }
	for _, authenticate := range []string{ca.file, filepath.Join(dir, "hashed")} {
		c := load(t, "<zeo>\naddress 127.0.0.1:0\n<ssl>\ncertificate "+server+"\nauthenticate "+authenticate+
			"\n</ssl>\n</zeo>\n<mappingstorage/>\n", nil)
		all, err := c.Server.Listen(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		l := all[0]
		t.Cleanup(func() { l.Close() })
		trust := "authenticate " + ca.file
		name := "server-hostname db.example"
		for what, test := range map[string]struct {
			tls  *config.TLS
			want string // in the client's or the server's error
		}{
			"right":                   {ask("certificate "+client, trust, name), ""},
			"right, by key":           {ask("certificate "+client, "key "+client, trust, name), ""},
			"no check of the name":    {ask("certificate "+client, trust, "check-hostname off"), ""},
			"wrong name":              {ask("certificate "+client, trust, "server-hostname x.example"), "db.example"},
			"strange server":          {ask("certificate "+client, "authenticate "+other.file, name), "unknown authority"},
			"strange server, no name": {ask("certificate "+client, "authenticate "+other.file, "check-hostname off"), "unknown authority"},
			"the system's":            {ask("certificate "+client, name), "unknown authority"},
			"strange client":          {ask("certificate "+stranger, trust, name), "didn't provide a certificate"},
		} {
			if got := handshake(t, l, test.tls); test.want == "" && got != "" || !strings.Contains(got, test.want) {
				t.Errorf("%s: %q, want %q", what, got, test.want)
			}
		}
	}
}

// handshake connects and returns what either side has against it.
func handshake(t testing.TB, l net.Listener, v *config.TLS) string {
	t.Helper()
	cfg, err := v.ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			err = conn.(*tls.Conn).HandshakeContext(t.Context())
			conn.Close()
		}
		served <- err
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	clientErr := tls.Client(conn, cfg).HandshakeContext(t.Context())
	conn.Close()
	serverErr := <-served
	switch {
	case clientErr != nil:
		return clientErr.Error()
	case serverErr != nil:
		return serverErr.Error()
	}
	return ""
}

func TestACertificateThatNobodySignedIsTrustedWhereItIsNamed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	own := func(name string) string {
		a := &authority{cert: template(name), key: newKey(t)}
		return a.signWith(t, dir, name, a.key)
	}
	server, client, other := own("db.example"), own("app.example"), own("other.example")
	c := load(t, "<zeo>\naddress 127.0.0.1:0\n<ssl>\ncertificate "+server+"\nauthenticate "+client+
		"\n</ssl>\n</zeo>\n<mappingstorage/>\n", nil)
	all, err := c.Server.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { all[0].Close() })
	trust, name := "authenticate "+server, "server-hostname db.example"
	if got := handshake(t, all[0], clientTLS(t, "certificate "+client, trust, name)); got != "" {
		t.Errorf("the named client: %s", got)
	}
	if got := handshake(t, all[0], clientTLS(t, "certificate "+client, trust, "check-hostname off")); got != "" {
		t.Errorf("the named client, without a check of the name: %s", got)
	}
	if got := handshake(t, all[0], clientTLS(t, "certificate "+other, trust, name)); got == "" {
		t.Error("another client was let in")
	}
}

func TestCertificatesAreCheckedWhenTheFileIsRead(t *testing.T) {
	t.Parallel()
	dir := makeDirs(t, "empty", "bad")
	ca := newAuthority(t, dir, "ca")
	own := ca.sign(t, dir, "own")
	crl, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour),
	}, withCRLSign(ca.cert), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	revoking := filepath.Join(dir, "revoking.pem")
	writePEM(t, revoking, "CERTIFICATE", ca.cert.Raw)
	writePEM(t, revoking, "X509 CRL", crl)
	writePEM(t, filepath.Join(dir, "bad", "00000000.0"), "CERTIFICATE", []byte("x"))
	writePEM(t, filepath.Join(dir, "nothing"), "X", nil)
	for what, lines := range map[string]string{
		"no such file":                 "certificate " + own + "\nauthenticate " + dir + "/none",
		"hashed names":                 "certificate " + own + "\nauthenticate " + dir + "/empty",
		"malformed certificate":        "certificate " + own + "\nauthenticate " + dir + "/bad",
		"there is no certificate":      "certificate " + own + "\nauthenticate " + dir + "/nothing",
		"revocation lists":             "certificate " + own + "\nauthenticate " + revoking,
		`failed to find "CERTIFICATE"`: "certificate " + dir + "/nothing\nauthenticate " + own,
		"rather than a key":            "certificate " + ca.file + "\nauthenticate " + own,
		"needs the key authenticate":   "certificate " + own,
	} {
		path := write(t, map[string]string{"zeo.conf": "<zeo>\naddress 1\n<ssl>\n" + lines + "\n</ssl>\n</zeo>\n<mappingstorage/>\n"})
		_, err := config.Load(path, env(nil))
		if err == nil || !strings.Contains(err.Error(), what) || !strings.Contains(err.Error(), "zeo.conf:3: ") {
			t.Errorf("%s: %v", what, err)
		}
	}
	path := write(t, map[string]string{"zeo.conf": "<zeo>\naddress 1\n</zeo>\n<zeoclient 1>\nserver /a/b\n<ssl>\ncertificate " +
		own + "\n</ssl>\n</zeoclient>\n"})
	if _, err := config.Load(path, env(nil)); err == nil || !strings.Contains(err.Error(), "zeo.conf:6: <ssl> needs the key server-hostname") {
		t.Errorf("a Unix socket: %v", err)
	}
	if all, err := (config.Server{TLS: &config.TLS{Certificate: own}}).Listen(t.Context()); err == nil {
		t.Errorf("listens without authenticate: %v", all)
	}
}

func withCRLSign(c *x509.Certificate) *x509.Certificate {
	signing := *c
	signing.KeyUsage |= x509.KeyUsageCRLSign
	signing.SubjectKeyId = []byte{1}
	return &signing
}
