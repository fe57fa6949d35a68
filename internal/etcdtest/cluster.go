package etcdtest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
)

const (
	// startTimeout bounds the wait for a member that was started. It is long
	// because tests share slow machines; a healthy start takes a second or two.
	startTimeout = 90 * time.Second
	// startAttempts is how often a new cluster is tried when a port was taken
	// between its reservation and the member's start.
	startAttempts = 3
	// dialTimeout bounds one try to authenticate; a client keeps trying to
	// connect whatever it is.
	dialTimeout = 10 * time.Second
	logTail     = 60
	// rootPassword is the password of the user root with Options.Auth.
	rootPassword = "root-password"
)

// Options says what cluster to start. The zero value is three members of the
// newest version without TLS or authentication.
type Options struct {
	// Versions has one entry a member, such as {"3.5", "3.6", "3.6"}.
	Versions []string
	// TLS serves clients and members over TLS and demands client certificates.
	TLS bool
	// Auth switches authentication on with the user root.
	Auth bool
	// ExtraArgs are given to every member after its other flags.
	ExtraArgs []string
	// Env is added to every member's environment.
	Env []string
	// QuotaBytes is the backend's quota, 0 for etcd's default.
	QuotaBytes int64
	// SnapshotCount is the number of entries between raft snapshots, 0 for
	// etcd's default.
	SnapshotCount int
	// SeparateMetrics serves metrics over plain HTTP on a URL of their own.
	SeparateMetrics bool
	// ClientProxies puts a Proxy in front of each member and makes that the
	// client URL that the member advertises.
	ClientProxies bool
}

// Cluster is a set of etcd processes.
type Cluster struct {
	Members []*Member
	// PKI holds the certificates with Options.TLS and is nil without.
	PKI *PKI
	// Username and Password are root's with Options.Auth, empty without.
	Username, Password string

	tb      TB
	options Options
	token   string
	mu      sync.Mutex // guards Members while a member is added
}

// Start starts a cluster, waits until every member serves and agrees on a
// leader, and ends it with the test.
func Start(tb TB, o Options) *Cluster {
	tb.Helper()
	testproc.RequireReal(tb)
	if len(o.Versions) == 0 {
		o.Versions = []string{V37, V37, V37}
	}
	for _, v := range o.Versions {
		Binary(tb, v, "etcd")
	}
	for attempt := 1; ; attempt++ {
		c := &Cluster{tb: tb, options: o, token: fmt.Sprintf("%s-%d", tb.Name(), time.Now().UnixNano())}
		err := c.start()
		if err == nil {
			return c
		}
		logs := c.logs()
		c.killAll()
		if attempt == startAttempts || !strings.Contains(logs, "address already in use") {
			tb.Fatalf("start an etcd cluster of %s: %v\n%s", strings.Join(o.Versions, ", "), err, logs)
		}
	}
}

func (c *Cluster) start() error {
	if c.options.TLS {
		c.PKI = NewPKI(c.tb)
	}
	for i, v := range c.options.Versions {
		c.Members = append(c.Members, c.newMember(fmt.Sprintf("m%d", i), v))
	}
	// After the members' folders were made, so that the processes end before
	// their folders and ports go.
	c.tb.Cleanup(c.finish)
	initial := c.peers(c.Members)
	for _, m := range c.Members {
		m.initial, m.state = initial, "new"
		if err := m.launch(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(c.tb.Context(), startTimeout)
	defer cancel()
	for _, m := range c.Members {
		if err := m.await(ctx); err != nil {
			return err
		}
	}
	if err := c.identify(ctx); err != nil {
		return err
	}
	if c.options.Auth {
		return c.enableAuth(ctx)
	}
	return nil
}

// identify fills in the members' ids.
func (c *Cluster) identify(ctx context.Context) error {
	client, err := c.dial(c.Endpoints())
	if err != nil {
		return err
	}
	defer client.Close()
	list, err := client.MemberList(ctx)
	if err != nil {
		return fmt.Errorf("list the members: %w", err)
	}
	for _, m := range c.Members {
		i := slices.IndexFunc(list.Members, func(l *etcdserverpb.Member) bool { return slices.Contains(l.PeerURLs, m.PeerURL) })
		if i < 0 {
			return fmt.Errorf("member %s is not in the member list", m.Name)
		}
		m.ID = list.Members[i].ID
	}
	return nil
}

func (c *Cluster) enableAuth(ctx context.Context) error {
	client, err := c.dial(c.Endpoints())
	if err != nil {
		return err
	}
	defer client.Close()
	if _, err := client.RoleAdd(ctx, "root"); err != nil {
		return fmt.Errorf("add the role root: %w", err)
	}
	if _, err := client.UserAdd(ctx, "root", rootPassword); err != nil {
		return fmt.Errorf("add the user root: %w", err)
	}
	if _, err := client.UserGrantRole(ctx, "root", "root"); err != nil {
		return fmt.Errorf("grant root: %w", err)
	}
	if _, err := client.AuthEnable(ctx); err != nil {
		return fmt.Errorf("enable authentication: %w", err)
	}
	c.Username, c.Password = "root", rootPassword
	return nil
}

// Endpoints returns the members' client URLs.
func (c *Cluster) Endpoints() []string {
	urls := make([]string, 0, len(c.Members))
	for _, m := range c.Members {
		urls = append(urls, m.ClientURL)
	}
	return urls
}

// Client returns a client of every member, or of the given endpoints, that is
// closed with the test.
func (c *Cluster) Client(tb TB, endpoints ...string) *clientv3.Client {
	tb.Helper()
	if len(endpoints) == 0 {
		endpoints = c.Endpoints()
	}
	client, err := c.dial(endpoints)
	if err != nil {
		tb.Fatalf("connect to %s: %v", strings.Join(endpoints, ", "), err)
	}
	tb.Cleanup(func() { _ = client.Close() })
	return client
}

func (c *Cluster) dial(endpoints []string) (*clientv3.Client, error) {
	config := clientv3.Config{
		Endpoints:   endpoints,
		DialTimeout: dialTimeout,
		Username:    c.Username,
		Password:    c.Password,
		Logger:      zap.NewNop(),
	}
	if c.PKI != nil {
		config.TLS = c.PKI.ClientConfig(c.tb)
	}
	return clientv3.New(config)
}

// HTTPClient returns a client for the members' metrics and health pages. Its
// connections are closed with the test.
func (c *Cluster) HTTPClient(tb TB) *http.Client {
	tb.Helper()
	transport := &http.Transport{}
	if c.PKI != nil {
		transport.TLSClientConfig = c.PKI.ClientConfig(tb)
	}
	tb.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 30 * time.Second}
}

// Flags returns the connection flags that etcdctl and etcdkeeper share.
func (c *Cluster) Flags() []string {
	flags := []string{"--endpoints=" + strings.Join(c.Endpoints(), ",")}
	if c.PKI != nil {
		flags = append(flags, "--cacert="+c.PKI.CAFile, "--cert="+c.PKI.CertFile, "--key="+c.PKI.KeyFile)
	}
	if c.Username != "" {
		flags = append(flags, "--user="+c.Username, "--password="+c.Password)
	}
	return flags
}

// Leader waits until a member that runs is the leader, and returns it.
func (c *Cluster) Leader(tb TB) *Member {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), startTimeout)
	defer cancel()
	for {
		for _, m := range c.Members {
			if !m.Running() {
				continue
			}
			status, err := m.Status(ctx)
			if err == nil && status.Leader == m.ID {
				return m
			}
		}
		if !pause(ctx) {
			tb.Fatalf("the cluster has had no leader for %s\n%s", startTimeout, c.logs())
		}
	}
}

// Followers returns the voters that run and are not the leader.
func (c *Cluster) Followers(tb TB) []*Member {
	tb.Helper()
	leader := c.Leader(tb)
	var followers []*Member
	for _, m := range c.Members {
		if m != leader && m.Running() && !m.Learner {
			followers = append(followers, m)
		}
	}
	return followers
}

// AddOptions says how a member joins a running cluster.
type AddOptions struct {
	// Version defaults to that of the cluster's first member.
	Version string
	Learner bool
	// Unstarted adds the member to the list only; Member.Start starts it later.
	Unstarted bool
}

// AddMember adds a member to the cluster and appends it to Members. An
// unstarted one has no client URL in etcd's own list yet.
func (c *Cluster) AddMember(tb TB, o AddOptions) *Member {
	tb.Helper()
	if o.Version == "" {
		o.Version = c.options.Versions[0]
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.newMember(fmt.Sprintf("m%d", len(c.Members)), o.Version)
	m.Learner = o.Learner
	client, err := c.dial(c.Endpoints())
	if err != nil {
		tb.Fatalf("add member %s: %v", m.Name, err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(tb.Context(), startTimeout)
	defer cancel()
	add := client.MemberAdd
	if o.Learner {
		add = client.MemberAddAsLearner
	}
	for {
		// A cluster refuses a new member until all of its members have been
		// connected to each other for a few seconds.
		response, err := add(ctx, []string{m.PeerURL})
		if err == nil {
			m.ID = response.Member.ID
			break
		}
		if !strings.Contains(err.Error(), "unhealthy cluster") || !pause(ctx) {
			tb.Fatalf("add member %s: %v", m.Name, err)
		}
	}
	m.initial, m.state = c.peers(append(slices.Clone(c.Members), m)), "existing"
	c.Members = append(c.Members, m)
	if !o.Unstarted {
		m.Start(tb)
	}
	return m
}

func (c *Cluster) peers(members []*Member) string {
	all := make([]string, 0, len(members))
	for _, m := range members {
		all = append(all, m.Name+"="+m.PeerURL)
	}
	return strings.Join(all, ",")
}

func (c *Cluster) newMember(name, version string) *Member {
	ports := testproc.Ports(c.tb, 3)
	scheme := "http"
	if c.PKI != nil {
		scheme = "https"
	}
	dir := c.tb.TempDir()
	m := &Member{
		Name:      name,
		Version:   version,
		ClientURL: loopback(scheme, ports[0]),
		PeerURL:   loopback(scheme, ports[1]),
		DataDir:   filepath.Join(dir, "data"),
		LogFile:   filepath.Join(dir, "etcd.log"),
		ExtraArgs: slices.Clone(c.options.ExtraArgs),
		cluster:   c,
	}
	m.listen, m.MetricsURL = m.ClientURL, m.ClientURL
	if c.options.SeparateMetrics {
		m.MetricsURL = loopback("http", ports[2])
	}
	if c.options.ClientProxies {
		m.Proxy = NewProxy(c.tb, m.listen)
		m.ClientURL = m.Proxy.URL(scheme)
	}
	return m
}

// finish ends the members after the test, and shows their logs if it failed.
func (c *Cluster) finish() {
	if c.tb.Failed() {
		c.tb.Logf("etcd's logs:\n%s", c.logs())
	}
	c.killAll()
}

func (c *Cluster) killAll() {
	for _, m := range c.Members {
		if p := m.current(); p != nil {
			p.Kill()
		}
	}
}

func (c *Cluster) logs() string {
	var b strings.Builder
	for _, m := range c.Members {
		fmt.Fprintf(&b, "member %s (%s), running: %t:\n%s", m.Name, m.Version, m.Running(), testproc.Tail(m.LogFile, logTail))
	}
	return b.String()
}

// pause waits between two tries and says whether there is time for another.
func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(50 * time.Millisecond):
		return true
	}
}

var errNotRunning = errors.New("the process is not running")
