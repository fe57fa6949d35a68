package netnstest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
)

// TB is what a test or a program offers.
type TB = testproc.TB

const (
	clientPort = 2379
	peerPort   = 2380
	ready      = 2 * time.Minute
	logTail    = 40
)

// Options of a Lab.
type Options struct {
	Version string // of etcd
	IPv6    bool
	TLS     bool
	Args    []string // more flags of every member
}

// Lab is a cluster of three members, each in a network namespace of its own. The program itself is a client of theirs
// with the address ClientAddr.
type Lab struct {
	Members    []*Member
	PKI        *etcdtest.PKI // nil without TLS
	ClientAddr string

	tb     TB
	o      Options
	dir    string
	keeper string // the binary
}

// Member is one of them. NS is the name of its network namespace.
type Member struct {
	Name, NS, Addr string
	URL            string // of clients
	Loopback       string // the URL by which the keeper beside it reaches it
	DataDir        string

	lab    *Lab
	etcd   *testproc.Process
	keeper *testproc.Process
}

var (
	labs    int
	labsMu  sync.Mutex
	program = sync.OnceValues(func() (string, error) {
		dir, err := os.MkdirTemp("", "etcdkeeper-binary-")
		if err != nil {
			return "", err
		}
		root, err := testproc.RepositoryRoot()
		if err != nil {
			return "", err
		}
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, "etcdkeeper"), "./cmd/etcdkeeper")
		cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build the binary: %w\n%s", err, out)
		}
		return filepath.Join(dir, "etcdkeeper"), nil
	})
)

// Program is the keeper's binary, built once.
func Program(tb TB) string {
	tb.Helper()
	path, err := program()
	if err != nil {
		tb.Fatalf("%v", err)
	}
	return path
}

// CleanUp removes the binary; a program calls it at its end.
func CleanUp() {
	if path, err := program(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
}

// Start starts a cluster and waits until it serves. It ends with the test.
func Start(tb TB, o Options) *Lab {
	tb.Helper()
	testproc.RequireReal(tb)
	labsMu.Lock()
	labs++
	n := labs
	labsMu.Unlock()
	l := &Lab{tb: tb, o: o, dir: tb.TempDir(), keeper: Program(tb)}
	address := func(host int) (addr, prefix string) {
		if o.IPv6 {
			return fmt.Sprintf("fd00:77:%x::%x", n, host), "/64 nodad"
		}
		return fmt.Sprintf("10.77.%d.%d", n, host), "/24"
	}
	must := func(format string, args ...any) {
		tb.Helper()
		if err := ip(format, args...); err != nil {
			tb.Fatalf("%v", err)
		}
	}
	bridge := fmt.Sprintf("br%d", n)
	must("link add %s type bridge", bridge)
	tb.Cleanup(func() { _ = ip("link del %s", bridge) })
	addr, prefix := address(254)
	l.ClientAddr = addr
	must("address add %s%s dev %s", addr, prefix, bridge)
	must("link set %s up", bridge)
	var ips []net.IP
	for i := 1; i <= 3; i++ {
		m := &Member{Name: fmt.Sprintf("m%d", i), NS: fmt.Sprintf("lab%d-m%d", n, i), lab: l}
		var prefix string
		m.Addr, prefix = address(i)
		ips = append(ips, net.ParseIP(m.Addr))
		must("netns add %s", m.NS)
		tb.Cleanup(func() { _ = ip("netns del %s", m.NS) })
		veth := fmt.Sprintf("v%d-%d", n, i)
		must("link add %s type veth peer name eth0 netns %s", veth, m.NS)
		must("link set %s master %s up", veth, bridge)
		must("-n %s link set lo up", m.NS)
		must("-n %s address add %s%s dev eth0", m.NS, m.Addr, prefix)
		must("-n %s link set eth0 up", m.NS)
		m.URL, m.Loopback = l.url(m.Addr, clientPort), l.url("127.0.0.1", clientPort)
		if o.IPv6 {
			m.Loopback = l.url("::1", clientPort)
		}
		m.DataDir = filepath.Join(l.dir, m.Name)
		l.Members = append(l.Members, m)
	}
	if o.TLS {
		l.PKI = etcdtest.NewPKI(tb)
		l.PKI.RotateServer(tb, etcdtest.CertOptions{Server: true, IPs: ips})
	}
	for _, m := range l.Members {
		m.StartEtcd(tb)
	}
	l.Await(tb)
	return l
}

func (l *Lab) url(host string, port int) string {
	scheme := "http"
	if l.o.TLS {
		scheme = "https"
	}
	return fmt.Sprintf("%s://%s", scheme, net.JoinHostPort(host, fmt.Sprint(port)))
}

// Endpoints are the client URLs of the members.
func (l *Lab) Endpoints() []string {
	var out []string
	for _, m := range l.Members {
		out = append(out, m.URL)
	}
	return out
}

// Client is a client of the endpoints, or of all members. It is closed with the test.
func (l *Lab) Client(tb TB, endpoints ...string) *clientv3.Client {
	tb.Helper()
	if len(endpoints) == 0 {
		endpoints = l.Endpoints()
	}
	cfg := clientv3.Config{Endpoints: endpoints, DialTimeout: 10 * time.Second}
	if l.PKI != nil {
		cfg.TLS = l.PKI.ClientConfig(tb)
	}
	cl, err := clientv3.New(cfg)
	if err != nil {
		tb.Fatalf("client: %v", err)
	}
	tb.Cleanup(func() { _ = cl.Close() })
	return cl
}

// Await waits until every member answers a linearizable read.
func (l *Lab) Await(tb TB) {
	tb.Helper()
	for _, m := range l.Members {
		if err := m.Reach(tb, ready); err != nil {
			tb.Fatalf("member %s does not serve: %v\n%s", m.Name, err, m.etcd.LogTail(logTail))
		}
	}
}

// Reach makes linearizable reads through the member's client port until one is answered.
func (m *Member) Reach(tb TB, within time.Duration) error {
	tb.Helper()
	cfg := clientv3.Config{Endpoints: []string{m.URL}, DialTimeout: 5 * time.Second}
	if m.lab.PKI != nil {
		cfg.TLS = m.lab.PKI.ClientConfig(tb)
	}
	cl, err := clientv3.New(cfg)
	if err != nil {
		return err
	}
	defer cl.Close()
	for end := time.Now().Add(within); ; time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(tb.Context(), 5*time.Second)
		_, err := cl.Get(ctx, "reach")
		cancel()
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}

// In prepares a command in the member's network namespace.
func (m *Member) In(name string, args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", m.NS, name}, args...)...)
}

// Tables are the nftables tables in the member's network namespace.
func (m *Member) Tables(tb TB) string {
	tb.Helper()
	out, err := m.In("nft", "list", "tables").CombinedOutput()
	if err != nil {
		tb.Fatalf("nft: %v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// Etcd is the member's process.
func (m *Member) Etcd() *testproc.Process { return m.etcd }

// Keeper is the keeper beside the member.
func (m *Member) Keeper() *testproc.Process { return m.keeper }

// StartEtcd starts the member and does not wait for it.
func (m *Member) StartEtcd(tb TB) {
	tb.Helper()
	var cluster []string
	for _, x := range m.lab.Members {
		cluster = append(cluster, x.Name+"="+m.lab.url(x.Addr, peerPort))
	}
	args := []string{"netns", "exec", m.NS, etcdtest.Binary(tb, m.lab.o.Version, "etcd"), "--name", m.Name, "--data-dir", m.DataDir,
		"--listen-client-urls", m.URL + "," + m.Loopback, "--advertise-client-urls", m.URL,
		"--listen-peer-urls", m.lab.url(m.Addr, peerPort), "--initial-advertise-peer-urls", m.lab.url(m.Addr, peerPort),
		"--initial-cluster", strings.Join(cluster, ","), "--initial-cluster-token", m.NS[:4], "--quota-backend-bytes", "8589934592"}
	if p := m.lab.PKI; p != nil {
		args = append(args, "--cert-file", p.ServerCertFile, "--key-file", p.ServerKeyFile, "--trusted-ca-file", p.CAFile, "--client-cert-auth",
			"--peer-cert-file", p.ServerCertFile, "--peer-key-file", p.ServerKeyFile, "--peer-trusted-ca-file", p.CAFile, "--peer-client-cert-auth")
	}
	m.etcd = m.start(tb, "etcd", "ip", append(args, m.lab.o.Args...), nil)
}

func (m *Member) start(tb TB, what, path string, args, env []string) *testproc.Process {
	tb.Helper()
	p, err := testproc.StartProcess(testproc.Spec{Name: what + " of " + m.Name, Path: path, Args: args, Env: env,
		Log: filepath.Join(m.lab.dir, m.Name+"-"+what+".log")})
	if err != nil {
		tb.Fatalf("%v", err)
	}
	m.lab.tb.Cleanup(p.Kill) // not with a subtest that started it anew
	return p
}

// StartKeeper starts the daemon beside the member, which reaches it over loopback. Env is added to its environment.
// Without rights it cannot change the network.
func (m *Member) StartKeeper(tb TB, rights bool, env ...string) {
	tb.Helper()
	args := []string{"netns", "exec", m.NS}
	if !rights {
		args = append(args, "setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
	}
	args = append(args, m.lab.keeper, "run", "--member", m.Name, "--endpoints", m.Loopback)
	m.keeper = m.start(tb, "keeper", "ip", append(args, m.lab.flags()...), env)
}

// Log is what the keeper has written.
func (m *Member) Log() string {
	return testproc.Tail(filepath.Join(m.lab.dir, m.Name+"-keeper.log"), 200)
}

func (l *Lab) flags() []string {
	if l.PKI == nil {
		return nil
	}
	return []string{"--cacert", l.PKI.CAFile, "--cert", l.PKI.CertFile, "--key", l.PKI.KeyFile}
}

// Command prepares a one-shot command of the keeper, as run on the clients' machine.
func (l *Lab) Command(args ...string) *exec.Cmd {
	cmd := exec.Command(l.keeper, l.allMembers(args)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// Command is the same, run on the member's machine.
func (m *Member) Command(args ...string) *exec.Cmd {
	return m.In(m.lab.keeper, m.lab.allMembers(args)...)
}

func (l *Lab) allMembers(args []string) []string {
	return append(append(args, "--endpoints", strings.Join(l.Endpoints(), ",")), l.flags()...)
}

// Leader is the member that leads.
func (l *Lab) Leader(tb TB) *Member {
	tb.Helper()
	for end := time.Now().Add(ready); ; time.Sleep(100 * time.Millisecond) {
		for _, m := range l.Members {
			ctx, cancel := context.WithTimeout(tb.Context(), 5*time.Second)
			st, err := l.Client(tb, m.URL).Status(ctx, m.URL)
			cancel()
			if err == nil && st.Leader == st.Header.MemberId {
				return m
			}
		}
		if time.Now().After(end) {
			tb.Fatalf("no leader within %s", ready)
		}
	}
}

// Fragment fills the cluster with keep + drop MiB, deletes the part to drop and compacts.
func (l *Lab) Fragment(tb TB, keep, drop int) {
	tb.Helper()
	cl := l.Client(tb)
	value := strings.Repeat("v", 16<<10)
	// Each member keeps the latest 10,000 to 15,000 proposals in memory: small ones, from many at once.
	const perTxn, writers = 2, 32
	put := func(key string, n int) {
		for try := 0; ; try++ {
			ops := make([]clientv3.Op, perTxn)
			for i := range ops {
				ops[i] = clientv3.OpPut(fmt.Sprintf("%s%08d", key, n*perTxn+i), value)
			}
			ctx, cancel := context.WithTimeout(tb.Context(), 30*time.Second)
			_, err := cl.Txn(ctx).Then(ops...).Commit()
			cancel()
			if err == nil {
				return
			}
			if try > 20 {
				tb.Fatalf("fill: %v", err)
			}
			time.Sleep(200 * time.Millisecond)
		}
	}
	fill := func(prefix string, mib int) {
		work := make(chan int)
		var wg sync.WaitGroup
		for range writers {
			wg.Go(func() {
				for n := range work {
					put(prefix, n)
				}
			})
		}
		for n := range mib * (1 << 20) / len(value) / perTxn {
			work <- n
		}
		close(work)
		wg.Wait()
	}
	fill("/keep/", keep)
	fill("/drop/", drop)
	resp, err := cl.Delete(tb.Context(), "/drop/", clientv3.WithPrefix())
	if err != nil {
		tb.Fatalf("delete: %v", err)
	}
	if _, err := cl.Compact(tb.Context(), resp.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		tb.Fatalf("compact: %v", err)
	}
	for _, m := range l.Members {
		for end := time.Now().Add(ready); ; time.Sleep(200 * time.Millisecond) {
			// An idle etcd counts the freed pages at its next commit.
			_, _ = cl.Put(tb.Context(), "/keep/commit", "1")
			ctx, cancel := context.WithTimeout(tb.Context(), 5*time.Second)
			st, err := cl.Status(ctx, m.URL)
			cancel()
			if err == nil && st.DbSize-st.DbSizeInUse > int64(drop)<<20*8/10 {
				break
			}
			if time.Now().After(end) {
				tb.Fatalf("member %s: what was deleted is not free: %v", m.Name, err)
			}
		}
	}
}
