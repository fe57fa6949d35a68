package etcdtest

import (
	"net/url"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
)

// EmbedOptions says how a member inside the test's process is set up.
type EmbedOptions struct {
	// QuotaBytes is the backend's quota, 0 for etcd's default.
	QuotaBytes int64
	// Configure may change the configuration before the start.
	Configure func(*embed.Config)
}

// Embedded is a cluster of one member inside the test's own process. Its
// metrics are those of the whole process: tests that need a member's own
// metrics want Start.
type Embedded struct {
	// Endpoint is the client URL, over plain HTTP; /metrics is served on it too.
	Endpoint string
	DataDir  string
	Etcd     *embed.Etcd

	closing sync.Once
}

// Embed starts a single member of the version in go.mod inside the test's
// process, without fsync, and closes it with the test. It works under -short.
func Embed(tb TB, o EmbedOptions) *Embedded {
	tb.Helper()
	ports := testproc.Ports(tb, 2)
	client, peer := parse(tb, loopback("http", ports[0])), parse(tb, loopback("http", ports[1]))
	c := embed.NewConfig()
	c.Dir = tb.TempDir()
	c.Logger = "zap"
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	c.UnsafeNoFsync = true
	c.QuotaBackendBytes = o.QuotaBytes
	if o.Configure != nil {
		o.Configure(c)
	}
	e, err := embed.StartEtcd(c)
	if err != nil {
		tb.Fatalf("start an embedded member: %v", err)
	}
	member := &Embedded{Endpoint: client.String(), DataDir: c.Dir, Etcd: e}
	tb.Cleanup(func() { member.Stop(tb) })
	select {
	case <-e.Server.ReadyNotify():
	case err := <-e.Err():
		tb.Fatalf("start an embedded member: %v", err)
	case <-time.After(startTimeout):
		tb.Fatalf("start an embedded member: it does not serve after %s", startTimeout)
	}
	return member
}

// Client returns a client that is closed with the test.
func (e *Embedded) Client(tb TB) *clientv3.Client {
	tb.Helper()
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{e.Endpoint}, DialTimeout: dialTimeout, Logger: zap.NewNop(),
	})
	if err != nil {
		tb.Fatalf("connect to the embedded member: %v", err)
	}
	tb.Cleanup(func() { _ = client.Close() })
	return client
}

// Database returns the path of the member's database file.
func (e *Embedded) Database() string { return e.DataDir + "/member/snap/db" }

// Stop closes the member before the test's end, such as to look at its files.
func (e *Embedded) Stop(tb TB) {
	tb.Helper()
	e.closing.Do(func() {
		e.Etcd.Close()
		select {
		case <-e.Etcd.Server.StopNotify():
		case <-time.After(startTimeout):
			tb.Fatalf("close an embedded member: it is still there after %s", startTimeout)
		}
	})
}

func parse(tb TB, raw string) url.URL {
	tb.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	return *u
}
