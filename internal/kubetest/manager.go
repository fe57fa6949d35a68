package kubetest

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
)

// ControllerManagerOptions says how the controller manager is set up.
type ControllerManagerOptions struct {
	// QPS and Burst limit its requests to the API server; 0 means the program's
	// own defaults.
	QPS, Burst int
	// Controllers are the names for --controllers, empty for the defaults.
	Controllers []string
	ExtraArgs   []string
	// Kubeconfig defaults to the server's own.
	Kubeconfig string
}

// ControllerManager is a kube-controller-manager process. Options may be
// changed while it is stopped and count from the next start.
type ControllerManager struct {
	Options ControllerManagerOptions
	LogFile string

	tb     TB
	server *Server
	port   int

	mu      sync.Mutex
	process *testproc.Process
}

// StartControllerManager starts a controller manager against the server, waits
// until it is healthy, and ends it with the test.
func (s *Server) StartControllerManager(tb TB, o ControllerManagerOptions) *ControllerManager {
	tb.Helper()
	m := &ControllerManager{
		Options: o,
		LogFile: filepath.Join(tb.TempDir(), "kube-controller-manager.log"),
		tb:      tb,
		server:  s,
		port:    testproc.Ports(tb, 1)[0],
	}
	tb.Cleanup(m.finish)
	m.Start(tb)
	return m
}

// Start starts the process with the options as they are now and waits until it
// is healthy.
func (m *ControllerManager) Start(tb TB) {
	tb.Helper()
	m.launch(tb)
	ctx, cancel := context.WithTimeout(tb.Context(), startTimeout)
	defer cancel()
	transport := &http.Transport{TLSClientConfig: m.server.pki.ClientConfig(tb)}
	defer transport.CloseIdleConnections()
	for {
		err := ready(ctx, transport, fmt.Sprintf("https://127.0.0.1:%d/healthz", m.port))
		if err == nil {
			return
		}
		if !m.Running() || !pause(ctx) {
			tb.Fatalf("start a controller manager: %v\n%s", err, testproc.Tail(m.LogFile, logTail))
		}
	}
}

func (m *ControllerManager) launch(tb TB) {
	tb.Helper()
	o := m.Options
	if o.Kubeconfig == "" {
		o.Kubeconfig = m.server.Kubeconfig
	}
	args := []string{
		"--kubeconfig=" + o.Kubeconfig,
		"--bind-address=127.0.0.1",
		"--secure-port=" + strconv.Itoa(m.port),
		"--tls-cert-file=" + m.server.pki.ServerCertFile,
		"--tls-private-key-file=" + m.server.pki.ServerKeyFile,
		"--service-account-private-key-file=" + m.server.serviceAccount,
		"--leader-elect=false",
	}
	if o.QPS != 0 {
		args = append(args, "--kube-api-qps="+strconv.Itoa(o.QPS))
	}
	if o.Burst != 0 {
		args = append(args, "--kube-api-burst="+strconv.Itoa(o.Burst))
	}
	if len(o.Controllers) > 0 {
		args = append(args, "--controllers="+strings.Join(o.Controllers, ","))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process != nil && m.process.Running() {
		tb.Fatalf("start a controller manager: it runs already")
	}
	p, err := testproc.StartProcess(testproc.Spec{
		Name: "kube-controller-manager", Path: Binary(tb, "kube-controller-manager"), Args: append(args, o.ExtraArgs...), Log: m.LogFile,
	})
	if err != nil {
		tb.Fatalf("%v", err)
	}
	m.process = p
}

// Running says whether the process has been started and has not ended.
func (m *ControllerManager) Running() bool {
	p := m.current()
	return p != nil && p.Running()
}

// PID returns the id of the latest process.
func (m *ControllerManager) PID() int { return m.current().PID() }

// Kill ends the process with SIGKILL and waits until it is gone.
func (m *ControllerManager) Kill() {
	if p := m.current(); p != nil {
		p.Kill()
	}
}

// Restart kills the process if it runs and starts it again.
func (m *ControllerManager) Restart(tb TB) {
	tb.Helper()
	m.Kill()
	m.Start(tb)
}

func (m *ControllerManager) current() *testproc.Process {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.process
}

func (m *ControllerManager) finish() {
	if m.tb.Failed() {
		m.tb.Logf("the controller manager's log:\n%s", testproc.Tail(m.LogFile, logTail))
	}
	m.Kill()
}
