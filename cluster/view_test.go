package cluster_test

import (
	"context"
	"errors"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
)

func TestClient_View(t *testing.T) {
	e := etcdtest.Embed(t, etcdtest.EmbedOptions{QuotaBytes: 64 << 20})
	cl := e.Client(t)
	// The same member by two names, and an endpoint at which nobody is: one member, found.
	c := newClient(t, strings.TrimPrefix(e.Endpoint, "http://"), strings.Replace(e.Endpoint, "127.0.0.1", "localhost", 1), "127.0.0.1:1")
	v, err := c.View(t.Context())
	if err != nil || len(v.Members) != 1 {
		t.Fatalf("got %+v, %v", v, err)
	}
	m := v.Members[0]
	switch {
	case !m.Reachable || !m.Leader || !m.Given || !m.Started || m.Learner || m.Error != "":
		t.Errorf("got %+v", m)
	case m.Endpoint != e.Endpoint:
		t.Errorf("got endpoint %s, want the first that it answered, %s", m.Endpoint, e.Endpoint)
	case m.Quota == nil || *m.Quota != 64<<20 || m.QuotaSource != cluster.QuotaFromStatus:
		t.Errorf("got quota %v from %s", m.Quota, m.QuotaSource)
	case m.DefragInFlight == nil || *m.DefragInFlight != 0:
		t.Errorf("got gauge %v: %s", m.DefragInFlight, m.GaugeError)
	case m.DBSize <= 0 || m.DBSizeInUse <= 0 || m.Free() != m.DBSize-m.DBSizeInUse:
		t.Errorf("got sizes %d, %d", m.DBSize, m.DBSizeInUse)
	}
	if closed := append(cluster.Check(v), c.Probe(t.Context(), v)...); len(closed) != 0 {
		t.Errorf("got %v, want every gate open", closed)
	}
	noSpace(t, cl, true)
	if v, err = c.View(t.Context()); err != nil || len(v.Members[0].Alarms) != 1 || v.Members[0].Alarms[0] != "NOSPACE" {
		t.Errorf("got %+v, %v; want the alarm", v, err)
	}
	if err := c.Disarm(t.Context(), v.Members); err != nil {
		t.Fatal(err)
	}
	if v, err = c.View(t.Context()); err != nil || len(v.Members[0].Alarms) != 0 {
		t.Errorf("got %+v, %v; want no alarm", v, err)
	}
}

func TestClient_ViewOfTwoClusters(t *testing.T) {
	a, b := etcdtest.Embed(t, etcdtest.EmbedOptions{}), etcdtest.Embed(t, etcdtest.EmbedOptions{Configure: func(c *embed.Config) {
		c.InitialClusterToken = "another"
	}})
	_, err := newClient(t, a.Endpoint, b.Endpoint).View(t.Context())
	if err == nil || !strings.Contains(err.Error(), "different clusters") || !strings.Contains(err.Error(), a.Endpoint) || !strings.Contains(err.Error(), b.Endpoint) {
		t.Errorf("got %v, want the two endpoints refused", err)
	}
}

func TestClient_ViewInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := newClient(t, "127.0.0.1:1").View(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want it canceled", err)
	}
	if _, err := newClient(t, "127.0.0.1:1").View(t.Context()); !errors.Is(err, cluster.ErrNoMember) || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("got %v, want ErrNoMember that names the endpoint", err)
	}
}

// A metrics URL that serves something else, or nothing, closes the gate and says what to do.
func TestClient_ViewWithoutGauge(t *testing.T) {
	e, _ := embedded(t)
	for _, u := range []string{e.Endpoint + "/version", e.Endpoint + "/nothing", "http://127.0.0.1:1/metrics"} {
		cfg := cluster.DefaultConfig()
		cfg.Endpoints, cfg.MetricsURLs = []string{e.Endpoint}, map[string]string{"default": u}
		v, err := clientOf(t, cfg).View(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		closed := cluster.Check(v)
		if len(closed) != 1 || closed[0].Gate != cluster.GateInFlight || !strings.Contains(closed[0].Reason, "metrics") {
			t.Errorf("%s: got %v, want the gauge's gate closed", u, closed)
		}
	}
}

func TestClient_MemberMoved(t *testing.T) {
	e, _ := embedded(t)
	c := newClient(t, e.Endpoint)
	v, err := c.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m := v.Members[0]
	m.ID++
	err = c.Defragment(t.Context(), m)
	if !errors.Is(err, cluster.ErrNotSent) || !strings.Contains(err.Error(), "is answered by member") {
		t.Errorf("got %v, want nothing sent to another member", err)
	}
}

func secureEmbed(t *testing.T, pki *etcdtest.PKI) string {
	e := etcdtest.Embed(t, etcdtest.EmbedOptions{Configure: func(c *embed.Config) {
		u := c.ListenClientUrls[0]
		u.Scheme = "https"
		c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{u}, []url.URL{u}
		c.ClientTLSInfo.CertFile, c.ClientTLSInfo.KeyFile = pki.ServerCertFile, pki.ServerKeyFile
		c.ClientTLSInfo.TrustedCAFile, c.ClientTLSInfo.ClientCertAuth = pki.CAFile, true
	}})
	return strings.Replace(e.Endpoint, "http://", "https://", 1)
}

// resetting is the endpoint of a port that resets each connection once the client has spoken, as a TLS port may.
func resetting(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 1))
			_ = conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		}
	}()
	return "http://" + l.Addr().String()
}

func TestClient_TLS(t *testing.T) {
	pki, stranger := etcdtest.NewPKI(t), etcdtest.NewPKI(t)
	endpoint := secureEmbed(t, pki)
	plain, _ := embedded(t)
	good := cluster.DefaultConfig()
	good.Endpoints, good.CACert, good.Cert, good.Key = []string{endpoint}, pki.CAFile, pki.CertFile, pki.KeyFile
	tests := []struct {
		name   string
		change func(c *cluster.Config)
		want   string // "": it works
	}{
		{"right", func(*cluster.Config) {}, ""},
		{"without a scheme", func(c *cluster.Config) { c.Endpoints[0] = strings.TrimPrefix(endpoint, "https://") }, ""},
		{"wrong CA", func(c *cluster.Config) { c.CACert = stranger.CAFile }, "check --cacert"},
		{"no CA", func(c *cluster.Config) { c.CACert = "" }, "check --cacert"},
		{"client certificate of another CA", func(c *cluster.Config) { c.Cert, c.Key = stranger.CertFile, stranger.KeyFile }, "check --cert and --key"},
		{"no client certificate", func(c *cluster.Config) { c.Cert, c.Key = "", "" }, "--cert and --key"},
		{"expired client certificate", func(c *cluster.Config) { c.Cert, c.Key = pki.Expired(t) }, "renew --cert"},
		{"http to a TLS port", func(c *cluster.Config) { c.Endpoints[0] = strings.Replace(endpoint, "https", "http", 1) }, "use https://"},
		{"http to a port that resets", func(c *cluster.Config) { c.Endpoints[0] = resetting(t) }, "use https://"},
		{"https to a plain port", func(c *cluster.Config) { c.Endpoints[0] = strings.Replace(plain.Endpoint, "http", "https", 1) }, "use http://"},
	}
	t.Run("files", func(t *testing.T) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				cfg := good
				cfg.Endpoints = append([]string{}, good.Endpoints...)
				tt.change(&cfg)
				c := clientOf(t, cfg)
				v, err := c.View(t.Context())
				if tt.want == "" {
					if err != nil || !v.Members[0].Reachable || v.Members[0].DefragInFlight == nil {
						t.Errorf("got %+v, %v", v, err)
					}
					return
				}
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %v, want an error that says %q", err, tt.want)
				}
			})
		}
	})
	t.Run("expired server certificate", func(t *testing.T) {
		pki.RotateServer(t, etcdtest.CertOptions{NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(-time.Hour)})
		if _, err := clientOf(t, good).View(t.Context()); err == nil || !strings.Contains(err.Error(), "has expired or is not valid yet") {
			t.Errorf("got %v", err)
		}
		// A rotation is taken up by new connections without a restart.
		pki.RotateServer(t, etcdtest.CertOptions{})
		if v, err := clientOf(t, good).View(t.Context()); err != nil || !v.Members[0].Reachable {
			t.Errorf("after the rotation: got %+v, %v", v, err)
		}
	})
}

func TestClient_Auth(t *testing.T) {
	// At etcd's own cost a password takes seconds on a slow machine, longer than a connection is waited for.
	e := etcdtest.Embed(t, etcdtest.EmbedOptions{Configure: func(c *embed.Config) { c.BcryptCost = 4 }})
	cl := e.Client(t)
	ctx := t.Context()
	for _, step := range []func() error{
		func() error { _, err := cl.UserAdd(ctx, "root", "secret"); return err },
		func() error { _, err := cl.RoleAdd(ctx, "root"); return err },
		func() error { _, err := cl.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := cl.UserAdd(ctx, "keeper", "secret"); return err },
		func() error { _, err := cl.RoleAdd(ctx, "keeper"); return err },
		func() error {
			_, err := cl.RoleGrantPermission(ctx, "keeper", cluster.Root, clientv3.GetPrefixRangeEnd(cluster.Root), clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
		func() error { _, err := cl.UserGrantRole(ctx, "keeper", "keeper"); return err },
		func() error { _, err := cl.AuthEnable(ctx); return err },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	with := func(user, password string) *cluster.Client {
		cfg := cluster.DefaultConfig()
		cfg.Endpoints, cfg.User, cfg.Password = []string{e.Endpoint}, user, password
		cfg.DialTimeout, cfg.CommandTimeout = patience, patience
		return clientOf(t, cfg)
	}
	if _, err := with("keeper", "wrong").View(ctx); err == nil || !strings.Contains(err.Error(), "check --user and --password") {
		t.Errorf("wrong password: got %v", err)
	}
	if err := with("", "").Append(ctx, "ring", 1, 1); err == nil || !strings.Contains(err.Error(), "give --user and --password") {
		t.Errorf("no user: got %v", err)
	}
	c := with("keeper:secret", "")
	v, err := c.View(ctx)
	if err != nil {
		t.Fatal(err)
	}
	l, err := c.Acquire(ctx, cluster.LockRun, "keeper a", 0)
	if err != nil {
		t.Fatalf("what the keeper's role allows: %v", err)
	}
	l.Release()
	err = c.Defragment(ctx, v.Members[0])
	for _, want := range []string{"permission denied", "user keeper lacks a right", "etcdkeeper auth grant --print", "etcdctl user grant-role keeper root"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("without root: got %v, want %q in it", err, want)
		}
	}
	root := with("root", "secret")
	if err := root.Defragment(ctx, v.Members[0]); err != nil {
		t.Errorf("with root: %v", err)
	}
}
