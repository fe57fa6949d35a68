package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
)

// tlsFiles makes TLS configurations from files that may rotate: CA and certificate are read again when they changed,
// so a new handshake always uses what is on disk.
type tlsFiles struct {
	ca, cert, key string
	skipVerify    bool
	control       DialControl

	mu    sync.Mutex
	stamp string // size and modification time of the files behind cfg
	cfg   *tls.Config
}

func newTLSFiles(c Config) *tlsFiles {
	return &tlsFiles{ca: c.CACert, cert: c.Cert, key: c.Key, skipVerify: c.InsecureSkipTLSVerify}
}

// config is the configuration for the files as they are now.
func (t *tlsFiles) config() (*tls.Config, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var stamp strings.Builder
	var unread []error
	for _, f := range []struct{ key, flag, path string }{
		{"etcd.cacert", "--cacert", t.ca}, {"etcd.cert", "--cert", t.cert}, {"etcd.key", "--key", t.key},
	} {
		if f.path == "" {
			continue
		}
		info, err := statReadable(f.path)
		if err != nil {
			unread = append(unread, fmt.Errorf("%s (%s): %w", f.key, f.flag, explainFile(err)))
			continue
		}
		fmt.Fprintf(&stamp, "%d %d;", info.Size(), info.ModTime().UnixNano())
	}
	if err := errors.Join(unread...); err != nil {
		return nil, err
	}
	if t.cfg != nil && stamp.String() == t.stamp {
		return t.cfg, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: t.skipVerify}
	if t.ca != "" {
		pem, err := os.ReadFile(t.ca)
		if err != nil {
			return nil, fmt.Errorf("read CA certificates: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read CA certificates from %s: no PEM certificate in it", t.ca)
		}
	}
	if t.cert != "" {
		pair, err := tls.LoadX509KeyPair(t.cert, t.key)
		if err != nil {
			return nil, fmt.Errorf("read client certificate %s with key %s: %w", t.cert, t.key, err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	t.cfg, t.stamp = cfg, stamp.String()
	return cfg, nil
}

// expired says whether the client certificate has expired by this machine's clock.
func (t *tlsFiles) expired() bool {
	cfg, err := t.config()
	if err != nil || len(cfg.Certificates) == 0 {
		return false
	}
	leaf := cfg.Certificates[0].Leaf
	return leaf != nil && time.Now().After(leaf.NotAfter)
}

// statReadable opens the file, since a file that may not be read can be looked up.
func statReadable(path string) (os.FileInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Stat()
}

// explainFile adds what to do about a file that cannot be read.
func explainFile(err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%w (give the path as this process sees it: in a container, that of the mounted volume)", err)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w (this process runs as user %d, which may not read it: run it as the file's owner, or give it a certificate of its own)", err, os.Getuid())
	}
	return err
}

// dialTLS opens a TLS connection for HTTP.
func (t *tlsFiles) dialTLS(ctx context.Context, network, addr string) (net.Conn, error) {
	cfg, err := t.config()
	if err != nil {
		return nil, err
	}
	return (&tls.Dialer{NetDialer: &net.Dialer{Control: t.control}, Config: cfg}).DialContext(ctx, network, addr)
}

// lastErr keeps the newest handshake failure, since gRPC reports a failed handshake as a mere time-out where a call
// waits for the connection.
type lastErr struct {
	mu  sync.Mutex
	err error
	tls bool // the newest handshake succeeded
}

func (l *lastErr) set(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err, l.tls = err, err == nil
}

func (l *lastErr) handshaken() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tls
}

func (l *lastErr) get() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// rotatingCreds are gRPC credentials that take the configuration anew at each handshake.
type rotatingCreds struct {
	files *tlsFiles
	last  *lastErr
}

var _ credentials.TransportCredentials = rotatingCreds{}

func (c rotatingCreds) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	cfg, err := c.files.config()
	if err != nil {
		c.last.set(err)
		return nil, nil, err
	}
	conn, info, err := credentials.NewTLS(cfg).ClientHandshake(ctx, authority, raw)
	c.last.set(err)
	return conn, info, err
}

func (c rotatingCreds) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("client credentials cannot serve")
}

func (c rotatingCreds) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

func (c rotatingCreds) Clone() credentials.TransportCredentials { return c }

func (c rotatingCreds) OverrideServerName(string) error { return nil }

func errExpired(err error) error {
	return fmt.Errorf("%w (the client certificate has expired: renew --cert)", err)
}

// explainTLS adds what to do to the TLS failures that operators meet.
func explainTLS(err error) error {
	if err == nil {
		return nil
	}
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var host x509.HostnameError
	msg := err.Error()
	switch {
	case errors.As(err, &unknown) || strings.Contains(msg, "unknown authority"):
		return fmt.Errorf("%w (the member's certificate is not signed by the given CA: check --cacert)", err)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("%w (the member's certificate has expired or is not valid yet, or this clock, %s, is wrong)", err, time.Now().UTC().Format(time.RFC3339))
	case strings.Contains(msg, "expired certificate"):
		return errExpired(err)
	case strings.Contains(msg, "bad certificate") || strings.Contains(msg, "unknown certificate authority") || strings.Contains(msg, "certificate required"):
		return fmt.Errorf("%w (the member refuses the client certificate: check --cert and --key)", err)
	case strings.Contains(msg, "first record does not look like a TLS handshake") || strings.Contains(msg, "server gave HTTP response to HTTPS client"):
		return fmt.Errorf("%w (the endpoint does not speak TLS: use http://, or leave --cacert and --cert out)", err)
	case hangsUp(msg):
		return fmt.Errorf("%w (the endpoint hangs up: if it speaks TLS, use https:// and --cacert)", err)
	case errors.As(err, &host):
		return fmt.Errorf("%w (use an endpoint that is named in the member's certificate)", err)
	}
	return err
}

// hangsUp reports whether a connection without TLS ended before etcd's first word: what a TLS port does with one. It
// closes with bytes unread, so that a reset or a failed write may come before the end.
func hangsUp(msg string) bool {
	switch {
	case strings.Contains(msg, "error reading server preface"):
		return strings.Contains(msg, "EOF") || strings.Contains(msg, "connection reset by peer")
	case strings.Contains(msg, "failed to write client preface"), strings.Contains(msg, "failed to write initial settings frame"):
		return true
	}
	return strings.Contains(msg, `malformed HTTP response "\x15\x03`)
}
