package etcdtest

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
)

// Member is one etcd process of a Cluster. Version and ExtraArgs may be changed
// while it is stopped and count from the next start.
type Member struct {
	Name string
	// ID is the member's id in etcd.
	ID uint64
	// Version is the one that runs, such as "3.6".
	Version string
	// ClientURL is what the member advertises: its own listener, or its Proxy.
	ClientURL string
	PeerURL   string
	// MetricsURL is the base of the metrics page, without /metrics. It is the
	// listener's URL, never the Proxy's, unless Options.SeparateMetrics is set.
	MetricsURL string
	DataDir    string
	LogFile    string
	Learner    bool
	ExtraArgs  []string
	// Proxy stands before the member with Options.ClientProxies, else nil.
	Proxy *Proxy

	cluster        *Cluster
	listen         string
	initial, state string

	mu      sync.Mutex
	process *testproc.Process
}

// Database returns the path of the member's database file.
func (m *Member) Database() string { return m.DataDir + "/member/snap/db" }

// Running says whether the process has been started and has not ended. A paused
// one runs.
func (m *Member) Running() bool {
	p := m.current()
	return p != nil && p.Running()
}

// PID returns the id of the latest process, 0 before the first start.
func (m *Member) PID() int {
	if p := m.current(); p != nil {
		return p.PID()
	}
	return 0
}

// Kill ends the process with SIGKILL and waits until it is gone.
func (m *Member) Kill() {
	if p := m.current(); p != nil {
		p.Kill()
	}
}

// Stop ends the process with SIGTERM and waits until it is gone.
func (m *Member) Stop(tb TB) {
	tb.Helper()
	if p := m.current(); p != nil {
		if err := p.Stop(); err != nil {
			tb.Fatalf("stop member %s: %v\n%s", m.Name, err, p.LogTail(logTail))
		}
	}
}

// Pause freezes the process: it keeps its connections and answers nothing.
func (m *Member) Pause(tb TB) {
	tb.Helper()
	m.signal(tb, (*testproc.Process).Pause)
}

// Resume lets a paused process go on.
func (m *Member) Resume(tb TB) {
	tb.Helper()
	m.signal(tb, (*testproc.Process).Resume)
}

func (m *Member) signal(tb TB, send func(*testproc.Process) error) {
	tb.Helper()
	p := m.current()
	if p == nil || !p.Running() {
		tb.Fatalf("signal member %s: %v", m.Name, errNotRunning)
	}
	if err := send(p); err != nil {
		tb.Fatalf("signal member %s: %v", m.Name, err)
	}
}

// Launch starts the process and does not wait for it to serve, for which it may
// need other members.
func (m *Member) Launch(tb TB) {
	tb.Helper()
	if err := m.launch(); err != nil {
		tb.Fatalf("start member %s: %v", m.Name, err)
	}
}

// Start starts the process and waits until it serves and knows a leader.
func (m *Member) Start(tb TB) {
	tb.Helper()
	m.Launch(tb)
	m.WaitReady(tb)
}

// Restart stops the process if it runs, starts it on the same data and
// addresses, and waits until it serves.
func (m *Member) Restart(tb TB) {
	tb.Helper()
	m.Stop(tb)
	m.Start(tb)
}

// WaitReady waits until the member serves and knows a leader.
func (m *Member) WaitReady(tb TB) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), startTimeout)
	defer cancel()
	if err := m.await(ctx); err != nil {
		tb.Fatalf("%v\n%s", err, testproc.Tail(m.LogFile, logTail))
	}
}

// Status asks the member itself, past its Proxy.
func (m *Member) Status(ctx context.Context) (*clientv3.StatusResponse, error) {
	client, err := m.cluster.dial([]string{m.listen})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return client.Status(ctx, m.listen)
}

// Ctl runs the etcdctl of the member's version against the member and returns
// its standard output.
func (m *Member) Ctl(tb TB, args ...string) string {
	tb.Helper()
	flags := m.cluster.Flags()
	flags[0] = "--endpoints=" + m.ClientURL
	cmd := exec.CommandContext(tb.Context(), Binary(tb, m.Version, "etcdctl"), append(flags, args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		tb.Fatalf("etcdctl %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

func (m *Member) current() *testproc.Process {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.process
}

func (m *Member) launch() error {
	path, err := testproc.Etcd()[m.Version].Program(m.cluster.tb.Context(), "etcd")
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process != nil && m.process.Running() {
		return fmt.Errorf("member %s runs already", m.Name)
	}
	m.process, err = testproc.StartProcess(testproc.Spec{
		Name: "etcd " + m.Name, Path: path, Args: m.args(), Env: m.cluster.options.Env, Log: m.LogFile,
	})
	return err
}

func (m *Member) args() []string {
	o, pki := m.cluster.options, m.cluster.PKI
	args := []string{
		"--name=" + m.Name,
		"--data-dir=" + m.DataDir,
		"--listen-client-urls=" + m.listen,
		"--advertise-client-urls=" + m.ClientURL,
		"--listen-peer-urls=" + m.PeerURL,
		"--initial-advertise-peer-urls=" + m.PeerURL,
		"--initial-cluster=" + m.initial,
		"--initial-cluster-state=" + m.state,
		"--initial-cluster-token=" + m.cluster.token,
	}
	if m.MetricsURL != m.listen {
		args = append(args, "--listen-metrics-urls="+m.MetricsURL)
	}
	if o.QuotaBytes > 0 {
		args = append(args, "--quota-backend-bytes="+strconv.FormatInt(o.QuotaBytes, 10))
	}
	if o.SnapshotCount > 0 {
		args = append(args, "--snapshot-count="+strconv.Itoa(o.SnapshotCount))
	}
	if pki != nil {
		args = append(args,
			"--client-cert-auth", "--trusted-ca-file="+pki.CAFile, "--cert-file="+pki.ServerCertFile, "--key-file="+pki.ServerKeyFile,
			"--peer-client-cert-auth", "--peer-trusted-ca-file="+pki.CAFile, "--peer-cert-file="+pki.ServerCertFile, "--peer-key-file="+pki.ServerKeyFile)
	}
	return append(args, m.ExtraArgs...)
}

// await polls the member until it serves, its process ends or ctx does.
func (m *Member) await(ctx context.Context) error {
	var client *clientv3.Client
	defer func() {
		if client != nil {
			_ = client.Close()
		}
	}()
	for {
		var err error
		if client == nil {
			// With authentication a connection needs a member that answers.
			client, err = m.cluster.dial([]string{m.listen})
		}
		if err == nil {
			err = knowsLeader(ctx, client, m.listen)
		}
		if err == nil {
			return nil
		}
		p := m.current()
		if p == nil || !p.Running() {
			return fmt.Errorf("wait for member %s: %w", m.Name, errNotRunning)
		}
		if !pause(ctx) {
			return fmt.Errorf("wait for member %s: %w", m.Name, err)
		}
	}
}

func knowsLeader(ctx context.Context, client *clientv3.Client, endpoint string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	status, err := client.Status(ctx, endpoint)
	if err != nil {
		return err
	}
	if status.Leader == 0 {
		return fmt.Errorf("it knows no leader: %s", strings.Join(status.Errors, ", "))
	}
	return nil
}
