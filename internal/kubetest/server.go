package kubetest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
)

// AdminToken is the bearer token of a user in the group system:masters.
const AdminToken = "admin-token"

// Options says how the API server is set up.
type Options struct {
	// EtcdEndpoints are the client URLs of the etcd that holds the resources.
	EtcdEndpoints []string
	// EtcdPKI is given for an etcd that serves TLS.
	EtcdPKI *etcdtest.PKI
	// EtcdPrefix defaults to /registry.
	EtcdPrefix string
	// EtcdOverrides are values of --etcd-servers-overrides, one a resource, such
	// as "/events#http://127.0.0.1:2379".
	EtcdOverrides []string
	// EncryptionConfig is the content of an EncryptionConfiguration, or empty.
	EncryptionConfig string
	// AuthorizationMode defaults to AlwaysAllow.
	AuthorizationMode string
	// Tokens are more users: lines "token,name,uid" or "token,name,uid,groups".
	Tokens []string
	// ExtraArgs are given to the API server after its other flags.
	ExtraArgs []string
	// ControllerManager starts one with its defaults once the server is ready.
	ControllerManager bool
}

// Server is a kube-apiserver process. Options may be changed while it is
// stopped and count from the next start.
type Server struct {
	Options Options
	// URL is https://127.0.0.1:PORT.
	URL string
	// Kubeconfig is the path of a kubeconfig of AdminToken's user.
	Kubeconfig string
	// CAFile is the certificate that the server's is signed by.
	CAFile string
	// Dir holds certificates, kubeconfig and logs.
	Dir     string
	LogFile string
	// ControllerManager is the one that Options asked for, else nil.
	ControllerManager *ControllerManager

	tb             TB
	pki            *etcdtest.PKI
	port           int
	serviceAccount string // the private key's path

	mu      sync.Mutex
	process *testproc.Process
}

// Start starts an API server, waits until it is ready, and ends it with the
// test. Another one over the same etcd can be started beside it.
func Start(tb TB, o Options) *Server {
	tb.Helper()
	testproc.RequireReal(tb)
	Binary(tb, "kube-apiserver")
	dir := tb.TempDir()
	port := testproc.Ports(tb, 1)[0]
	pki := etcdtest.NewPKI(tb)
	s := &Server{
		Options:        o,
		URL:            fmt.Sprintf("https://127.0.0.1:%d", port),
		Kubeconfig:     filepath.Join(dir, "kubeconfig"),
		CAFile:         pki.CAFile,
		Dir:            dir,
		LogFile:        filepath.Join(dir, "kube-apiserver.log"),
		tb:             tb,
		pki:            pki,
		port:           port,
		serviceAccount: filepath.Join(dir, "service-account.key"),
	}
	if err := s.prepare(); err != nil {
		tb.Fatalf("start an API server: %v", err)
	}
	tb.Cleanup(s.finish)
	s.Start(tb)
	if o.ControllerManager {
		s.ControllerManager = s.StartControllerManager(tb, ControllerManagerOptions{})
	}
	return s
}

// Start starts the process with the options as they are now and waits until it
// is ready.
func (s *Server) Start(tb TB) {
	tb.Helper()
	s.Launch(tb)
	ctx, cancel := context.WithTimeout(tb.Context(), startTimeout)
	defer cancel()
	if err := s.await(ctx); err != nil {
		tb.Fatalf("start an API server: %v\n%s", err, testproc.Tail(s.LogFile, logTail))
	}
}

// Launch starts the process and does not wait for it.
func (s *Server) Launch(tb TB) {
	tb.Helper()
	args, err := s.args()
	if err != nil {
		tb.Fatalf("start an API server: %v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil && s.process.Running() {
		tb.Fatalf("start an API server: it runs already")
	}
	s.process, err = testproc.StartProcess(testproc.Spec{
		Name: "kube-apiserver", Path: Binary(tb, "kube-apiserver"), Args: args, Log: s.LogFile,
	})
	if err != nil {
		tb.Fatalf("%v", err)
	}
}

// Restart stops the process if it runs and starts it again.
func (s *Server) Restart(tb TB) {
	tb.Helper()
	s.Stop(tb)
	s.Start(tb)
}

// Stop ends the process with SIGTERM and waits until it is gone.
func (s *Server) Stop(tb TB) {
	tb.Helper()
	if p := s.current(); p != nil {
		if err := p.Stop(); err != nil {
			tb.Fatalf("%v", err)
		}
	}
}

// Kill ends the process with SIGKILL and waits until it is gone.
func (s *Server) Kill() {
	if p := s.current(); p != nil {
		p.Kill()
	}
}

// Pause freezes the process: it keeps its connections and answers nothing.
func (s *Server) Pause(tb TB) {
	tb.Helper()
	s.mustRun(tb)
	if err := s.current().Pause(); err != nil {
		tb.Fatalf("pause the API server: %v", err)
	}
}

// Resume lets a paused process go on.
func (s *Server) Resume(tb TB) {
	tb.Helper()
	s.mustRun(tb)
	if err := s.current().Resume(); err != nil {
		tb.Fatalf("resume the API server: %v", err)
	}
}

// Running says whether the process has been started and has not ended.
func (s *Server) Running() bool {
	p := s.current()
	return p != nil && p.Running()
}

// PID returns the id of the latest process.
func (s *Server) PID() int { return s.current().PID() }

// Config returns a client configuration of AdminToken's user without a limit
// on its rate.
func (s *Server) Config() *rest.Config {
	return &rest.Config{
		Host:            s.URL,
		BearerToken:     AdminToken,
		TLSClientConfig: rest.TLSClientConfig{CAFile: s.CAFile},
		QPS:             -1,
	}
}

// WriteKubeconfig writes a kubeconfig for another server URL (a proxy's) or
// another of the tokens, and returns its path.
func (s *Server) WriteKubeconfig(tb TB, url, token string) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "kubeconfig")
	if err := s.writeKubeconfig(path, url, token); err != nil {
		tb.Fatalf("write a kubeconfig: %v", err)
	}
	return path
}

func (s *Server) writeKubeconfig(path, url, token string) error {
	c := api.NewConfig()
	c.Clusters["test"] = &api.Cluster{Server: url, CertificateAuthority: s.CAFile}
	c.AuthInfos["user"] = &api.AuthInfo{Token: token}
	c.Contexts["test"] = &api.Context{Cluster: "test", AuthInfo: "user"}
	c.CurrentContext = "test"
	return clientcmd.WriteToFile(*c, path)
}

// prepare writes the files that do not change with the options.
func (s *Server) prepare() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	content := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
	if err := os.WriteFile(s.serviceAccount, content, 0o600); err != nil {
		return err
	}
	return s.writeKubeconfig(s.Kubeconfig, s.URL, AdminToken)
}

func (s *Server) args() ([]string, error) {
	o := s.Options
	if o.AuthorizationMode == "" {
		o.AuthorizationMode = "AlwaysAllow"
	}
	if o.EtcdPrefix == "" {
		o.EtcdPrefix = "/registry"
	}
	tokens := filepath.Join(s.Dir, "tokens.csv")
	lines := append([]string{AdminToken + `,admin,admin,"system:masters"`}, o.Tokens...)
	if err := os.WriteFile(tokens, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		return nil, err
	}
	args := []string{
		"--etcd-servers=" + strings.Join(o.EtcdEndpoints, ","),
		"--etcd-prefix=" + o.EtcdPrefix,
		"--bind-address=127.0.0.1",
		"--advertise-address=127.0.0.1",
		"--secure-port=" + strconv.Itoa(s.port),
		"--cert-dir=" + filepath.Join(s.Dir, "certs"),
		"--tls-cert-file=" + s.pki.ServerCertFile,
		"--tls-private-key-file=" + s.pki.ServerKeyFile,
		"--client-ca-file=" + s.pki.CAFile,
		"--token-auth-file=" + tokens,
		"--service-account-key-file=" + s.serviceAccount,
		"--service-account-signing-key-file=" + s.serviceAccount,
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-cluster-ip-range=10.0.0.0/24",
		"--authorization-mode=" + o.AuthorizationMode,
		"--disable-admission-plugins=ServiceAccount",
	}
	if o.EtcdPKI != nil {
		args = append(args, "--etcd-cafile="+o.EtcdPKI.CAFile, "--etcd-certfile="+o.EtcdPKI.CertFile, "--etcd-keyfile="+o.EtcdPKI.KeyFile)
	}
	for _, override := range o.EtcdOverrides {
		args = append(args, "--etcd-servers-overrides="+override)
	}
	if o.EncryptionConfig != "" {
		path := filepath.Join(s.Dir, "encryption.yaml")
		if err := os.WriteFile(path, []byte(o.EncryptionConfig), 0o600); err != nil {
			return nil, err
		}
		args = append(args, "--encryption-provider-config="+path)
	}
	return append(args, o.ExtraArgs...), nil
}

// await polls /readyz until it says yes, the process ends or ctx does.
func (s *Server) await(ctx context.Context) error {
	transport, err := rest.TransportFor(s.Config())
	if err != nil {
		return err
	}
	defer closeIdle(transport)
	for {
		err := ready(ctx, transport, s.URL+"/readyz")
		if err == nil {
			return nil
		}
		if !s.Running() {
			return errors.New("the process has ended")
		}
		if !pause(ctx) {
			return fmt.Errorf("not ready after %s: %w", startTimeout, err)
		}
	}
}

func (s *Server) current() *testproc.Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process
}

func (s *Server) mustRun(tb TB) {
	tb.Helper()
	if !s.Running() {
		tb.Fatalf("the API server is not running")
	}
}

func (s *Server) finish() {
	if s.tb.Failed() {
		s.tb.Logf("the API server's log:\n%s", testproc.Tail(s.LogFile, logTail))
	}
	s.Kill()
}

func ready(ctx context.Context, transport http.RoundTripper, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	return err
}

// closeIdle closes the connections of a transport that client-go has wrapped
// and keeps in its cache.
func closeIdle(transport http.RoundTripper) {
	for transport != nil {
		if c, ok := transport.(interface{ CloseIdleConnections() }); ok {
			c.CloseIdleConnections()
			return
		}
		w, ok := transport.(interface{ WrappedRoundTripper() http.RoundTripper })
		if !ok {
			return
		}
		transport = w.WrappedRoundTripper()
	}
}
