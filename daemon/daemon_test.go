package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/etcdkeeper/etcdkeeper/config"
	"github.com/etcdkeeper/etcdkeeper/schedule"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is generous: a test ends as soon as what it waits for is so.
const patience = 2 * time.Minute

// syncBuffer is a log that is read while it is written.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func testConfig() config.Config {
	c := config.Default()
	c.Etcd.Endpoints = []string{"127.0.0.1:1"} // nobody listens there
	c.Listen.Address, c.Listen.ProbeAddress = "127.0.0.1:0", "127.0.0.1:0"
	return c
}

// daemonWith is a daemon whose only part has the tasks that are given for a configuration.
func daemonWith(t *testing.T, o Options, tasks func(Env) ([]Task, error)) (*Daemon, *syncBuffer) {
	t.Helper()
	log := &syncBuffer{}
	o.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	o.Config.Etcd.Endpoints = append([]string{}, o.Config.Etcd.Endpoints...)
	old := parts
	parts = []part{{"test", func(*Host) (func(Env) ([]Task, error), error) { return tasks, nil }}}
	defer func() { parts = old }()
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return d, log
}

// start runs d and returns a function that stops it and gives Run's error.
func start(t *testing.T, d *Daemon) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	var once sync.Once
	var err error
	stop = func() error {
		once.Do(func() {
			cancel()
			select {
			case err = <-done:
			case <-time.After(patience):
				err = errors.New("Run does not end")
			}
		})
		return err
	}
	t.Cleanup(func() {
		_ = stop()
		http.DefaultClient.CloseIdleConnections()
	})
	eventually(t, "the daemon to be ready", func() bool { return d.ready.ok.Load() })
	return stop
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited in vain for %s", what)
}

func get(t *testing.T, d *Daemon, server int, path string) (int, string) {
	t.Helper()
	resp, err := http.Get("http://" + d.Addresses()[server].String() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func once(name string, run func(context.Context) error) Task {
	return Task{Name: name, AtStart: true, Run: run}
}

// Without any etcd the daemon serves, is ready, and says what is wrong.
func TestDaemon_WithoutEtcd(t *testing.T) {
	log := &syncBuffer{}
	d, err := New(Options{Config: testConfig(), Log: slog.New(slog.NewTextHandler(log, nil)), Version: "v1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	stop := start(t, d)
	for _, path := range []string{"/livez", "/readyz"} {
		if code, body := get(t, d, 1, path); code != http.StatusOK || body != "ok\n" {
			t.Errorf("%s: got %d %q, want 200 ok", path, code, body)
		}
	}
	eventually(t, "the watch task to fail", func() bool {
		_, body := get(t, d, 0, "/metrics")
		return strings.Contains(body, `etcdkeeper_task_runs_total{result="error",task="watch"} 1`)
	})
	_, body := get(t, d, 0, "/metrics")
	for _, want := range []string{`etcdkeeper_build_info{goversion=`, `version="v1.2.3"`, "go_goroutines", "etcdkeeper_config_last_reload_successful 1"} {
		if !strings.Contains(body, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	for _, unwanted := range []string{"etcdkeeper_member_", "etcd_server", "grpc_"} {
		if strings.Contains(body, unwanted) {
			t.Errorf("/metrics has %s", unwanted)
		}
	}
	var st daemonStatus
	_, body = get(t, d, 0, "/api/status")
	if err := json.Unmarshal([]byte(body), &st); err != nil {
		t.Fatal(err)
	}
	if st.Version != "v1.2.3" || !st.Ready || st.ClusterID != nil || len(st.Members) != 0 || len(st.Tasks) == 0 {
		t.Errorf("got status %s", body)
	}
	if code, page := get(t, d, 0, "/"); code != http.StatusOK || !strings.Contains(page, "Nothing is known of the members now") || !strings.Contains(page, "no endpoint answers") {
		t.Errorf("got page %d %s", code, page)
	}
	for path, want := range map[string]int{"/nothing": http.StatusNotFound, "/debug/pprof/": http.StatusNotFound, "/readyz": http.StatusNotFound} {
		if code, _ := get(t, d, 0, path); code != want {
			t.Errorf("%s: got %d, want %d", path, code, want)
		}
	}
	if err := stop(); err != nil {
		t.Errorf("got error %v at the stop, want none", err)
	}
	if !strings.Contains(log.String(), "msg=stopped") {
		t.Errorf("the log does not tell the stop:\n%s", log)
	}
}

// A task that panics and one that hangs leave a third one alone, and the stop waits a bounded time for the one that
// hangs.
func TestDaemon_BadNeighbours(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	var good atomic.Int32
	d, log := daemonWith(t, Options{Config: testConfig(), StopTimeout: 50 * time.Millisecond}, func(Env) ([]Task, error) {
		return []Task{
			once("panics", func(context.Context) error { panic("boom") }),
			once("hangs", func(context.Context) error { <-release; return nil }),
			{Name: "works", When: schedule.Every(time.Millisecond), AtStart: true, Run: func(context.Context) error { good.Add(1); return nil }},
		}, nil
	})
	stop := start(t, d)
	eventually(t, "the good task to run on", func() bool { return good.Load() > 5 })
	eventually(t, "the panic to be told", func() bool { return strings.Contains(log.String(), "result=panic") })
	if err := stop(); err != nil {
		t.Errorf("got error %v, want none", err)
	}
	if !strings.Contains(log.String(), "running=[hangs]") {
		t.Errorf("the log does not name the task that hangs:\n%s", log)
	}
}

// The stop ends what is going on and waits for it.
func TestDaemon_StopWaitsForARun(t *testing.T) {
	began, ended := make(chan struct{}), atomic.Bool{}
	d, _ := daemonWith(t, Options{Config: testConfig()}, func(Env) ([]Task, error) {
		return []Task{once("slow", func(ctx context.Context) error {
			close(began)
			<-ctx.Done()
			time.Sleep(50 * time.Millisecond)
			ended.Store(true)
			return ctx.Err()
		})}, nil
	})
	stop := start(t, d)
	<-began
	if err := stop(); err != nil {
		t.Error(err)
	}
	if !ended.Load() {
		t.Error("the stop did not wait for the run to end")
	}
}

func TestDaemon_Reload(t *testing.T) {
	var mu sync.Mutex
	next, bad := testConfig(), error(nil)
	accepted := 0
	var ran sync.Map
	d, log := daemonWith(t, Options{Config: testConfig(),
		Load:   func() (config.Config, error) { mu.Lock(); defer mu.Unlock(); return next, bad },
		Loaded: func(config.Config) { accepted++ },
	}, func(e Env) ([]Task, error) {
		if e.Config.Etcd.Member == "refused" {
			return nil, errors.New("no such member")
		}
		return []Task{once("task-"+e.Config.Etcd.Member, func(context.Context) error { ran.Store(e.Config.Etcd.Member, true); return nil })}, nil
	})
	set := func(member string, err error) { mu.Lock(); defer mu.Unlock(); next.Etcd.Member, bad = member, err }
	start(t, d)
	hasRun := func(member string) func() bool {
		return func() bool { _, ok := ran.Load(member); return ok }
	}
	eventually(t, "the first task", hasRun(""))

	for _, refused := range []struct {
		member string
		err    error
		want   string
	}{{"a", errors.New("line 3: bad"), "line 3: bad"}, {"refused", nil, "no such member"}} {
		set(refused.member, refused.err)
		if err := d.Reload(); err == nil || !strings.Contains(err.Error(), refused.want) {
			t.Errorf("got %v, want that the configuration is refused because of %q", err, refused.want)
		}
		if _, body := get(t, d, 0, "/metrics"); !strings.Contains(body, "etcdkeeper_config_last_reload_successful 0") || !strings.Contains(body, `task="task-"`) {
			t.Error("the metrics do not tell the refused reload, or lost the task")
		}
	}
	set("a", nil)
	if err := d.Reload(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the second task", hasRun("a"))
	_, body := get(t, d, 0, "/metrics")
	if !strings.Contains(body, "etcdkeeper_config_last_reload_successful 1") || strings.Contains(body, `task="task-"`) || accepted != 1 {
		t.Errorf("the old task is still there, or the reload is not told; accepted %d times", accepted)
	}
	if hasRun("refused")() || !strings.Contains(log.String(), "the new configuration is refused, the old one stays") {
		t.Error("a refused configuration had an effect, or is not in the log")
	}
}

// A run that goes on while the configuration is reloaded ends under the old one, and the same task does not start
// beside it.
func TestDaemon_ReloadNeverRunsATaskTwiceAtOnce(t *testing.T) {
	release := make(chan struct{})
	var together, most, runs atomic.Int32
	c := testConfig()
	d, _ := daemonWith(t, Options{Config: c, Load: func() (config.Config, error) { return c, nil }}, func(Env) ([]Task, error) {
		return []Task{{Name: "t", When: schedule.Every(time.Millisecond), AtStart: true, Run: func(context.Context) error {
			most.Store(max(most.Load(), together.Add(1)))
			defer together.Add(-1)
			if runs.Add(1) == 1 {
				<-release
			}
			return nil
		}}}, nil
	})
	start(t, d)
	eventually(t, "the first run", func() bool { return runs.Load() == 1 })
	for range 3 {
		if err := d.Reload(); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(20 * time.Millisecond) // give a second run the chance to be wrong
	if runs.Load() != 1 {
		t.Errorf("got %d runs beside the first", runs.Load()-1)
	}
	close(release)
	eventually(t, "the next run", func() bool { return runs.Load() > 3 })
	if most.Load() != 1 {
		t.Errorf("got %d runs at once, want 1", most.Load())
	}
}

func TestDaemon_PortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := testConfig()
	c.Listen.Address = l.Addr().String()
	d, err := New(Options{Config: c})
	if err != nil {
		t.Fatal(err)
	}
	err = d.Run(t.Context())
	_, port, _ := net.SplitHostPort(c.Listen.Address)
	if err == nil || !strings.Contains(err.Error(), c.Listen.Address+" (listen.address): another process holds the port") || !strings.Contains(err.Error(), "sport = :"+port) {
		t.Errorf("got %v, want the address and how to find who holds it", err)
	}
}

func TestNew_RefusesABadWebConfig(t *testing.T) {
	c := testConfig()
	c.Listen.WebConfigFile = filepath.Join(t.TempDir(), "web.yaml")
	for _, content := range []string{"", "tls_server_config: {cert_file: nowhere.pem, key_file: nowhere.key}\n", "nonsense: 1\n"} {
		if content != "" {
			if err := os.WriteFile(c.Listen.WebConfigFile, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := New(Options{Config: c}); err == nil || !strings.Contains(err.Error(), c.Listen.WebConfigFile) {
			t.Errorf("%q: got %v, want an error that names the file", content, err)
		}
	}
}

// Basic authentication covers the metrics and leaves the probes alone.
func TestDaemon_BasicAuth(t *testing.T) {
	c := testConfig()
	c.Listen.WebConfigFile = filepath.Join(t.TempDir(), "web.yaml")
	// bcrypt of "geheim", cost 4
	const hash = "$2a$04$wxm8.jPRQuxhF2DNb8W2fu/Iq.ReyqkBT9Kv6umtd8MDrBlP.Ltz."
	if err := os.WriteFile(c.Listen.WebConfigFile, fmt.Appendf(nil, "basic_auth_users:\n  prometheus: %s\n", hash), 0o600); err != nil {
		t.Fatal(err)
	}
	d, _ := daemonWith(t, Options{Config: c}, func(Env) ([]Task, error) { return nil, nil })
	start(t, d)
	if code, _ := get(t, d, 0, "/metrics"); code != http.StatusUnauthorized {
		t.Errorf("/metrics without a password: got %d, want 401", code)
	}
	if code, _ := get(t, d, 1, "/livez"); code != http.StatusOK {
		t.Errorf("/livez: got %d, want 200", code)
	}
	req, err := http.NewRequest(http.MethodGet, "http://"+d.Addresses()[0].String()+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("prometheus", "geheim")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("/metrics with the password: got %d, want 200", resp.StatusCode)
	}
}

func TestNew_RefusesTwoTasksOfOneName(t *testing.T) {
	old := parts
	defer func() { parts = old }()
	twice := func(*Host) (func(Env) ([]Task, error), error) {
		return func(Env) ([]Task, error) { return []Task{{Name: "same"}}, nil }, nil
	}
	parts = []part{{"a", twice}, {"b", twice}}
	if _, err := New(Options{Config: testConfig()}); err == nil || !strings.Contains(err.Error(), "two tasks are called same") {
		t.Errorf("got %v, want that two tasks have one name", err)
	}
}
