package etcdtest

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
	"time"
)

// PKI is a certificate authority with the files that a cluster and its clients
// need. The files are PEM; a rotation replaces them in place, atomically.
type PKI struct {
	// Dir holds all of the files.
	Dir string
	// CAFile is the authority's certificate.
	CAFile string
	// CertFile and KeyFile are a client's, with the common name "client".
	CertFile, KeyFile string
	// ServerCertFile and ServerKeyFile are the members', for 127.0.0.1, ::1 and
	// localhost, good for both sides of a connection between members.
	ServerCertFile, ServerKeyFile string

	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// CertOptions says what certificate to issue. The zero value is a client's,
// valid from an hour ago for a day.
type CertOptions struct {
	CommonName string
	// Server adds the loopback names and server authentication.
	Server bool
	// IPs are more addresses of a server.
	IPs       []net.IP
	NotBefore time.Time
	NotAfter  time.Time
}

// NewPKI makes an authority and its first certificates in a new folder.
func NewPKI(tb TB) *PKI {
	tb.Helper()
	dir := tb.TempDir()
	p := &PKI{
		Dir:            dir,
		CAFile:         filepath.Join(dir, "ca.crt"),
		CertFile:       filepath.Join(dir, "client.crt"),
		KeyFile:        filepath.Join(dir, "client.key"),
		ServerCertFile: filepath.Join(dir, "server.crt"),
		ServerKeyFile:  filepath.Join(dir, "server.key"),
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatalf("make an authority: %v", err)
	}
	template := p.template(tb, CertOptions{CommonName: "etcdkeeper test authority"})
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = nil
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		tb.Fatalf("make an authority: %v", err)
	}
	if p.cert, err = x509.ParseCertificate(der); err != nil {
		tb.Fatalf("make an authority: %v", err)
	}
	p.key = key
	writePEM(tb, p.CAFile, "CERTIFICATE", der)
	p.RotateServer(tb, CertOptions{})
	p.RotateClient(tb, CertOptions{})
	return p
}

// RotateClient issues a new client certificate over the old one's files.
func (p *PKI) RotateClient(tb TB, o CertOptions) {
	tb.Helper()
	if o.CommonName == "" {
		o.CommonName = "client"
	}
	p.issue(tb, o, p.CertFile, p.KeyFile)
}

// RotateServer issues a new server certificate over the old one's files. etcd
// reads them again at every new connection.
func (p *PKI) RotateServer(tb TB, o CertOptions) {
	tb.Helper()
	if o.CommonName == "" {
		o.CommonName = "server"
	}
	o.Server = true
	p.issue(tb, o, p.ServerCertFile, p.ServerKeyFile)
}

// Issue makes a certificate in files named after name and returns their paths.
func (p *PKI) Issue(tb TB, name string, o CertOptions) (certFile, keyFile string) {
	tb.Helper()
	if o.CommonName == "" {
		o.CommonName = name
	}
	certFile, keyFile = filepath.Join(p.Dir, name+".crt"), filepath.Join(p.Dir, name+".key")
	p.issue(tb, o, certFile, keyFile)
	return certFile, keyFile
}

// Expired issues a client certificate whose time ended an hour ago.
func (p *PKI) Expired(tb TB) (certFile, keyFile string) {
	tb.Helper()
	now := time.Now()
	return p.Issue(tb, "expired", CertOptions{NotBefore: now.Add(-48 * time.Hour), NotAfter: now.Add(-time.Hour)})
}

// ClientConfig returns the TLS configuration of a client, from the files as
// they are now.
func (p *PKI) ClientConfig(tb TB) *tls.Config {
	tb.Helper()
	pair, err := tls.LoadX509KeyPair(p.CertFile, p.KeyFile)
	if err != nil {
		tb.Fatalf("load the client certificate: %v", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(p.cert)
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, MinVersion: tls.VersionTLS12}
}

func (p *PKI) issue(tb TB, o CertOptions, certFile, keyFile string) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatalf("issue a certificate for %s: %v", o.CommonName, err)
	}
	der, err := x509.CreateCertificate(rand.Reader, p.template(tb, o), p.cert, &key.PublicKey, p.key)
	if err != nil {
		tb.Fatalf("issue a certificate for %s: %v", o.CommonName, err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		tb.Fatalf("issue a certificate for %s: %v", o.CommonName, err)
	}
	writePEM(tb, keyFile, "EC PRIVATE KEY", keyDER)
	writePEM(tb, certFile, "CERTIFICATE", der)
}

func (p *PKI) template(tb TB, o CertOptions) *x509.Certificate {
	tb.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		tb.Fatalf("make a serial number: %v", err)
	}
	now := time.Now()
	if o.NotBefore.IsZero() {
		o.NotBefore = now.Add(-time.Hour)
	}
	if o.NotAfter.IsZero() {
		o.NotAfter = now.Add(24 * time.Hour)
	}
	c := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: o.CommonName},
		NotBefore:    o.NotBefore,
		NotAfter:     o.NotAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if o.Server {
		c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
		c.IPAddresses = append(c.IPAddresses, o.IPs...)
		c.DNSNames = []string{"localhost"}
	}
	return c
}

func writePEM(tb TB, path, kind string, der []byte) {
	tb.Helper()
	next := path + ".next"
	if err := os.WriteFile(next, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		tb.Fatalf("write %s: %v", path, err)
	}
	if err := os.Rename(next, path); err != nil {
		tb.Fatalf("write %s: %v", path, err)
	}
}
