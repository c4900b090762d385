package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
)

// ClientConfig makes what crypto/tls needs of a client's section. Without CheckHostname
// all but the name of the server's certificate is verified; with it, and without
// ServerHostname, the caller must set ServerName to the host it dials.
func (t *TLS) ClientConfig() (*tls.Config, error) { return t.config(false) }

// config makes what crypto/tls needs. Both sides must show certificates, as with ZEO.
func (t *TLS) config(server bool) (*tls.Config, error) {
	own, err := tls.LoadX509KeyPair(t.Certificate, or(t.Key, t.Certificate))
	if err != nil {
		return nil, err
	}
	c := &tls.Config{Certificates: []tls.Certificate{own}, MinVersion: tls.VersionTLS12}
	var pool *x509.CertPool // nil: the system's
	if t.Authenticate != "" {
		if pool, err = certificates(t.Authenticate); err != nil {
			return nil, err
		}
	}
	if server {
		if pool == nil {
			return nil, errors.New("authenticate is missing: the system's certificates do not identify clients")
		}
		c.ClientCAs, c.ClientAuth = pool, tls.RequireAndVerifyClientCert
		return c, nil
	}
	c.RootCAs, c.ServerName = pool, t.ServerHostname
	if !t.CheckHostname {
		// All but the name is verified.
		c.InsecureSkipVerify = true
		c.VerifyConnection = func(s tls.ConnectionState) error { return verifyChain(s, pool) }
	}
	return c, nil
}

func verifyChain(s tls.ConnectionState, roots *x509.CertPool) error {
	if len(s.PeerCertificates) == 0 {
		return errors.New("the server has no certificate")
	}
	between := x509.NewCertPool()
	for _, c := range s.PeerCertificates[1:] {
		between.AddCert(c)
	}
	_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between})
	return err
}

// certificates reads a PEM file, or, of a directory, the files that OpenSSL looks for
// in one: those named by the hash of their subject ("openssl rehash" makes them).
func certificates(path string) (*x509.CertPool, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	files := []string{path}
	if info.IsDir() {
		if files, err = hashed(path); err != nil {
			return nil, err
		}
	}
	pool := x509.NewCertPool()
	for _, file := range files {
		if err := addCertificates(pool, file); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	return pool, nil
}

func hashed(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	name := regexp.MustCompile(`^[0-9a-f]{8}\.[0-9]+$`)
	var files []string
	for _, e := range entries {
		if name.MatchString(e.Name()) {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	if files == nil {
		return nil, fmt.Errorf("the directory %s has no certificates with hashed names; run openssl rehash", dir)
	}
	return files, nil
}

func addCertificates(pool *x509.CertPool, file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	found := false
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "CERTIFICATE":
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return err
			}
			pool.AddCert(c)
			found = true
		case "X509 CRL": // to pass it over would let revoked certificates in
			return errors.New("revocation lists are not supported")
		}
	}
	if !found {
		return errors.New("there is no certificate in it")
	}
	return nil
}
