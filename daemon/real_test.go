package daemon

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/etcdkeeper/etcdkeeper/config"
	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
)

// slowly is patience for real processes on a busy machine.
const slowly = 2 * time.Minute

func realConfig(c *etcdtest.Cluster) config.Config {
	cfg := config.Default()
	cfg.Listen.Address, cfg.Listen.ProbeAddress = "127.0.0.1:0", "127.0.0.1:0"
	cfg.Watch.Interval = time.Second
	cfg.Etcd.Endpoints = c.Endpoints()
	cfg.Etcd.User, cfg.Etcd.Password = c.Username, c.Password
	if c.PKI != nil {
		cfg.Etcd.CACert, cfg.Etcd.Cert, cfg.Etcd.Key = c.PKI.CAFile, c.PKI.CertFile, c.PKI.KeyFile
	}
	return cfg
}

func startReal(t *testing.T, cfg config.Config) (*Daemon, *syncBuffer, func() error) {
	t.Helper()
	log := &syncBuffer{}
	d, err := New(Options{Config: cfg, Log: slog.New(slog.NewTextHandler(log, nil)), Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	stop := start(t, d)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the daemon:\n%s", log)
		}
	})
	return d, log, stop
}

func waitMetrics(t *testing.T, d *Daemon, want ...string) {
	t.Helper()
	var body string
	for end := time.Now().Add(slowly); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		_, body = get(t, d, 0, "/metrics")
		missing := ""
		for _, w := range want {
			if !strings.Contains(body, w) {
				missing = w
			}
		}
		if missing == "" {
			return
		}
	}
	t.Fatalf("waited in vain for metrics %q; got\n%s", want, body)
}

// One member that hangs hides neither the others nor the readiness, and everything is there again once it answers.
func TestReal_AHungMemberHidesNothing(t *testing.T) {
	testproc.RequireReal(t)
	c := etcdtest.Start(t, etcdtest.Options{TLS: true, Auth: true})
	cfg := realConfig(c)
	cfg.StateDir = t.TempDir()
	d, log, stop := startReal(t, cfg)
	var all []string
	for _, m := range c.Members {
		all = append(all, fmt.Sprintf("etcdkeeper_member_reachable{member=%q} 1", m.Name))
	}
	waitMetrics(t, d, append(all, `etcdkeeper_cluster_members{kind="voter"} 3`, "etcdkeeper_cluster_has_leader 1", `etcdkeeper_member_quota_bytes{member="`+c.Members[0].Name+`",source=`)...)

	hung := c.Followers(t)[0]
	hung.Pause(t)
	var others []string
	for _, m := range c.Members {
		if m != hung {
			others = append(others, fmt.Sprintf("etcdkeeper_member_db_size_bytes{member=%q}", m.Name))
		}
	}
	waitMetrics(t, d, append(others, fmt.Sprintf("etcdkeeper_member_reachable{member=%q} 0", hung.Name), "etcdkeeper_cluster_has_leader 1")...)
	if code, _ := get(t, d, 1, "/readyz"); code != http.StatusOK {
		t.Errorf("/readyz: got %d while a member hangs, want 200", code)
	}
	var st daemonStatus
	_, body := get(t, d, 0, "/api/status")
	if err := json.Unmarshal([]byte(body), &st); err != nil {
		t.Fatal(err)
	}
	for _, m := range st.Members {
		if unknown := m.DBSizeBytes == nil; unknown != (m.Name == hung.Name) {
			t.Errorf("member %s: got size %v, reachable %v", m.Name, m.DBSizeBytes, m.Reachable)
		}
	}
	hung.Resume(t)
	waitMetrics(t, d, all...)
	if err := stop(); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"member does not answer", "member answers again"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %q", want)
		}
	}
	if content, problem := (&stateFile{path: filepath.Join(cfg.StateDir, stateName)}).load(); problem != "" || len(content.Members) != 3 {
		t.Errorf("got state of %d members, problem %q", len(content.Members), problem)
	}
}

// The daemon starts before its etcd, as a sidecar does, and goes on when it comes up.
func TestReal_WaitsForEtcd(t *testing.T) {
	testproc.RequireReal(t)
	c := etcdtest.Start(t, etcdtest.Options{Versions: []string{etcdtest.V36}})
	c.Members[0].Stop(t)
	d, log, _ := startReal(t, realConfig(c))
	eventually(t, "the failure to be told", func() bool { return strings.Contains(log.String(), "no endpoint answers") })
	if code, _ := get(t, d, 1, "/readyz"); code != http.StatusOK {
		t.Errorf("/readyz: got %d without etcd, want 200", code)
	}
	c.Members[0].Start(t)
	waitMetrics(t, d, fmt.Sprintf("etcdkeeper_member_reachable{member=%q} 1", c.Members[0].Name))
	if n := strings.Count(log.String(), "no endpoint answers"); n > 20 {
		t.Errorf("the same failure is told %d times", n)
	}
}

// A client certificate that rotates is used at the next connection, without a restart.
func TestReal_CertificatesRotate(t *testing.T) {
	testproc.RequireReal(t)
	c := etcdtest.Start(t, etcdtest.Options{Versions: []string{etcdtest.V37}, TLS: true})
	// The first certificate ends while the daemon runs.
	c.PKI.RotateClient(t, etcdtest.CertOptions{NotAfter: time.Now().Add(20 * time.Second)})
	d, _, _ := startReal(t, realConfig(c))
	up := fmt.Sprintf("etcdkeeper_member_reachable{member=%q} 1", c.Members[0].Name)
	waitMetrics(t, d, up)
	time.Sleep(21 * time.Second)
	c.PKI.RotateClient(t, etcdtest.CertOptions{})
	c.PKI.RotateServer(t, etcdtest.CertOptions{Server: true})
	c.Members[0].Restart(t) // ends all connections
	before := time.Now()
	eventually(t, "a view behind the rotation", func() bool {
		v, ok := d.host.Watch.Latest()
		return ok && v.Taken.After(before) && v.Members[0].Reachable
	})
}

// Metrics by mutual TLS: a client without a certificate is refused, one with it is served, probes stay open.
func TestDaemon_MutualTLS(t *testing.T) {
	pki := etcdtest.NewPKI(t)
	c := testConfig()
	c.Listen.WebConfigFile = filepath.Join(t.TempDir(), "web.yaml")
	web := fmt.Sprintf("tls_server_config:\n  cert_file: %s\n  key_file: %s\n  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: %s\n",
		pki.ServerCertFile, pki.ServerKeyFile, pki.CAFile)
	if err := os.WriteFile(c.Listen.WebConfigFile, []byte(web), 0o600); err != nil {
		t.Fatal(err)
	}
	d, _ := daemonWith(t, Options{Config: c}, func(Env) ([]Task, error) { return nil, nil })
	start(t, d)
	url := "https://" + d.Addresses()[0].String() + "/metrics"
	with := &http.Client{Transport: &http.Transport{TLSClientConfig: pki.ClientConfig(t), DisableKeepAlives: true}}
	resp, err := with.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || !strings.Contains(string(body), "etcdkeeper_build_info") {
		t.Errorf("with a certificate: got %d", resp.StatusCode)
	}
	bare := &tls.Config{RootCAs: pki.ClientConfig(t).RootCAs}
	without := &http.Client{Transport: &http.Transport{TLSClientConfig: bare, DisableKeepAlives: true}}
	if resp, err := without.Get(url); err == nil {
		resp.Body.Close()
		t.Errorf("without a certificate: got %d, want a refusal", resp.StatusCode)
	}
	if code, _ := get(t, d, 1, "/livez"); code != http.StatusOK {
		t.Errorf("/livez: got %d, want 200", code)
	}
}
