package etcdtest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
)

func TestStart_Versions(t *testing.T) {
	for _, versions := range [][]string{
		{V35, V35, V35}, {V36, V36, V36}, {V37, V37, V37}, {V35, V36, V36}, {V36, V37, V36},
	} {
		t.Run(strings.Join(versions, ","), func(t *testing.T) {
			c := Start(t, Options{Versions: versions})
			client := c.Client(t)
			putAndGet(t, client)
			for i, m := range c.Members {
				status, err := client.Status(t.Context(), m.ClientURL)
				if err != nil {
					t.Fatalf("member %s: %v", m.Name, err)
				}
				if !strings.HasPrefix(status.Version, versions[i]+".") || status.Header.MemberId != m.ID {
					t.Errorf("member %s: got version %s and id %x, want %s and %x", m.Name, status.Version, status.Header.MemberId, versions[i], m.ID)
				}
				wantMetrics(t, c, m)
			}
			if got := len(c.Followers(t)); got != 2 {
				t.Errorf("got %d followers, want 2", got)
			}
		})
	}
}

func TestStart_TLSAndAuth(t *testing.T) {
	for _, version := range Versions() {
		t.Run(version, func(t *testing.T) {
			c := Start(t, Options{Versions: []string{version}, TLS: true, Auth: true, SeparateMetrics: true, QuotaBytes: 100 << 20})
			putAndGet(t, c.Client(t))
			m := c.Members[0]
			wantMetrics(t, c, m)
			if !strings.HasPrefix(m.MetricsURL, "http://") || !strings.HasPrefix(m.ClientURL, "https://") {
				t.Errorf("got URLs %s and %s, want plain metrics beside a TLS listener", m.MetricsURL, m.ClientURL)
			}
			if got := m.Ctl(t, "get", "key", "--print-value-only"); got != "value\n" {
				t.Errorf("etcdctl: got %q, want the value", got)
			}
			config := c.PKI.ClientConfig(t)
			stranger, err := clientv3.New(clientv3.Config{Endpoints: c.Endpoints(), TLS: config})
			if err != nil {
				t.Fatal(err)
			}
			defer stranger.Close()
			if _, err := stranger.Get(t.Context(), "key"); err == nil {
				t.Error("a client without a password may read")
			}
			c.PKI.RotateServer(t, CertOptions{})
			m.Restart(t)
			putAndGet(t, c.Client(t))
		})
	}
}

func TestMember_Lifecycle(t *testing.T) {
	c := Start(t, Options{ClientProxies: true})
	client := c.Client(t)
	putAndGet(t, client)

	leader := c.Leader(t)
	leader.Kill()
	if leader.Running() {
		t.Fatal("the killed member still runs")
	}
	if next := c.Leader(t); next == leader {
		t.Fatal("the killed member is still the leader")
	}
	leader.Start(t)
	putAndGet(t, client)

	follower := c.Followers(t)[0]
	pid := follower.PID()
	follower.Pause(t)
	if _, err := follower.Status(t.Context()); err == nil {
		t.Error("a paused member answers")
	}
	if !follower.Running() {
		t.Error("a paused member counts as ended")
	}
	follower.Resume(t)
	follower.WaitReady(t)
	follower.Restart(t)
	if follower.PID() == pid {
		t.Error("the restarted member has the same process")
	}

	follower.Proxy.Cut()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := c.Client(t, follower.ClientURL).Get(ctx, "key"); err == nil {
		t.Error("a member behind a cut proxy answers")
	}
	if _, err := follower.Status(t.Context()); err != nil {
		t.Errorf("past the proxy: %v", err)
	}
	follower.Proxy.Heal()
	putAndGet(t, c.Client(t, follower.ClientURL))
	follower.Pause(t) // must not hinder the clean-up
}

func TestCluster_AddMember(t *testing.T) {
	c := Start(t, Options{Versions: []string{V36}})
	client := c.Client(t)
	putAndGet(t, client)
	learner := c.AddMember(t, AddOptions{Learner: true})
	status, err := learner.Status(t.Context())
	if err != nil || !status.IsLearner {
		t.Fatalf("got %v, %v, want a learner that answers", status, err)
	}
	voter := c.AddMember(t, AddOptions{Unstarted: true})
	if voter.Running() || voter.ID == 0 {
		t.Errorf("got running %t and id %x, want an id and no process", voter.Running(), voter.ID)
	}
	voter.Start(t)
	list, err := client.MemberList(t.Context())
	if err != nil || len(list.Members) != 3 {
		t.Fatalf("got %v, %v, want three members", list, err)
	}
	if _, err := os.Stat(voter.Database()); err != nil {
		t.Error(err)
	}
}

// TestStart_KilledTest proves that no server outlives a test that is killed
// before it can clean up.
func TestStart_KilledTest(t *testing.T) {
	testproc.RequireReal(t)
	const marker = "ETCDKEEPER_TEST_PIDS"
	if path := os.Getenv(marker); path != "" {
		c := Start(t, Options{Versions: []string{V37}})
		next := path + ".next"
		if err := os.WriteFile(next, []byte(strconv.Itoa(c.Members[0].PID())), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, path); err != nil {
			t.Fatal(err)
		}
		<-t.Context().Done()
	}
	path := filepath.Join(t.TempDir(), "pid")
	test := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestStart_KilledTest$")
	// A killed test cleans nothing up: its files go with this one's.
	test.Env = append(os.Environ(), marker+"="+path, "TMPDIR="+t.TempDir())
	test.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := test.Start(); err != nil {
		t.Fatal(err)
	}
	pid := 0
	within(t, "the server to start", func() bool {
		content, err := os.ReadFile(path)
		if err != nil {
			return false
		}
		pid, err = strconv.Atoi(string(content))
		return err == nil
	})
	if err := test.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = test.Wait()
	within(t, "the server to be gone", func() bool { return !alive(pid) })
}

// alive says whether a process exists and is more than a zombie.
func alive(pid int) bool {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(content), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func within(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(startTimeout)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s", startTimeout, what)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func putAndGet(t *testing.T, client *clientv3.Client) {
	t.Helper()
	// A member that has just come back may refuse a request or two.
	var err error
	within(t, "a put to succeed", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err = client.Put(ctx, "key", "value")
		return err == nil
	})
	got, err := client.Get(t.Context(), "key")
	if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "value" {
		t.Fatalf("got %v, %v, want the value that was put", got, err)
	}
}

func wantMetrics(t *testing.T, c *Cluster, m *Member) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, m.MetricsURL+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := c.HTTPClient(t).Do(request)
	if err != nil {
		t.Fatalf("member %s: %v", m.Name, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || !strings.Contains(string(body), "\netcd_disk_backend_defrag_duration_seconds_count") {
		t.Errorf("member %s: got %d bytes, %v, want etcd's metrics", m.Name, len(body), err)
	}
}

// watched is a TB whose log lines a test looks at.
type watched struct {
	TB
	saw func(string)
}

func (w watched) Logf(format string, args ...any) { w.saw(fmt.Sprintf(format, args...)) }

// TestStart_EndsBeforeItsFolders holds the order of the clean-up: a folder that
// goes while its server still writes makes tests fail at random.
func TestStart_EndsBeforeItsFolders(t *testing.T) {
	testproc.RequireReal(t)
	err := testproc.RunProgram(t.Context(), "order", func(tb TB) {
		c := Start(tb, Options{Versions: []string{V37}})
		c.tb = watched{tb, func(log string) {
			if !strings.Contains(log, "serving client traffic") {
				t.Errorf("got logs\n%s\nwant etcd's own words", log)
			}
		}}
		tb.Fatalf("a failing test shows the logs")
	})
	if err == nil || err.Error() != "a failing test shows the logs" {
		t.Errorf("got %v, want the failure and no other", err)
	}
}
