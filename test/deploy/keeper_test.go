package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
)

// A native sidecar starts before etcd does, and etcd is not started before the sidecar has started: it must come up
// without etcd, wait for it, and see it when it is there. SIGTERM ends it in order.
func TestSidecar_StartsBeforeEtcd(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.Options{Versions: []string{etcdtest.V37}})
	path := binary(t)
	etcd.Members[0].Stop(t)
	k := startKeeper(t, path, "keeper", "--endpoints", etcd.Endpoints()[0])
	for _, probe := range []string{"/livez", "/readyz"} {
		within(t, probe+" without etcd", func() error {
			code, body, err := get("http://" + k.probes + probe)
			if err == nil && code != http.StatusOK {
				err = fmt.Errorf("HTTP %d: %s", code, body)
			}
			return err
		})
	}
	if !k.process.Running() {
		t.Fatalf("the keeper ended without etcd:\n%s", k.process.LogTail(20))
	}
	etcd.Members[0].Start(t)
	within(t, "the member is seen", func() error {
		_, metrics, err := get("http://" + k.listen + "/metrics")
		if err == nil && !strings.Contains(metrics, `etcdkeeper_member_reachable{member="m0"} 1`) {
			err = fmt.Errorf("not reachable yet: %s", k.process.LogTail(3))
		}
		return err
	})
	if err := k.process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-k.process.Done():
		if err := k.process.Err(); err != nil {
			t.Errorf("SIGTERM: %v\n%s", err, k.process.LogTail(20))
		}
	case <-time.After(patience):
		t.Errorf("SIGTERM did not end the keeper:\n%s", k.process.LogTail(20))
	}
}

// SIGTERM in a run, between two members: the keeper ends at once with 0, the lock and its announcement are gone, the
// record says where the run stopped, and the next keeper begins anew without being told to.
func TestKeeper_SIGTERMInARun(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.Options{})
	client := etcd.Client(t)
	path := binary(t)
	config := filepath.Join(t.TempDir(), "etcdkeeper.yaml")
	write(t, config, fmt.Sprintf("etcd: {endpoints: [%s]}\ndefrag: {rule: \"true\", schedule: \"@every 1s\", settle: 5m}\n", strings.Join(etcd.Endpoints(), ", ")))
	k := startKeeper(t, path, "keeper", "--config", config)
	within(t, "one member is defragmented, the run waits before the next", func() error {
		if !strings.Contains(readFile(t, k.spec.Log), "msg=defragmented") {
			return fmt.Errorf("not yet: %s", k.process.LogTail(3))
		}
		return nil
	})
	if n := keysUnder(t, client, "/etcdkeeper/lock/run"); n != 1 {
		t.Errorf("got %d locks in the run, want 1", n)
	}
	if n := keysUnder(t, client, "/etcdkeeper/keepers/"); n != 1 {
		t.Errorf("got %d announcements in the run, want 1", n)
	}
	ended := make(chan error, 1)
	go func() { ended <- k.process.Stop() }()
	select {
	case err := <-ended:
		if err := errors.Join(err, k.process.Err()); err != nil {
			t.Errorf("SIGTERM in a run: %v\n%s", err, k.process.LogTail(20))
		}
	case <-time.After(patience):
		t.Fatalf("SIGTERM in a run did not end the keeper:\n%s", k.process.LogTail(20))
	}
	if n := keysUnder(t, client, "/etcdkeeper/lock/run"); n != 0 {
		t.Errorf("the lock is still there after the end")
	}
	if n := keysUnder(t, client, "/etcdkeeper/keepers/"); n != 0 {
		t.Errorf("the announcement is still there after the end")
	}
	var status struct {
		Runs []struct {
			Outcome, Reason string
		} `json:"runs"`
		Members []struct {
			DefragInFlight *int `json:"defragInFlight"`
		} `json:"members"`
	}
	out := mustRun(t, nil, path, "status", "--history", "-w", "json", "--endpoints", etcd.Endpoints()[0])
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		t.Fatalf("%v in\n%s", err, out)
	}
	for _, m := range status.Members {
		if m.DefragInFlight == nil || *m.DefragInFlight != 0 {
			t.Errorf("a member is still in defragmentation:\n%s", out)
		}
	}
	if len(status.Runs) != 1 || status.Runs[0].Outcome != "partial" || status.Runs[0].Reason == "" {
		t.Errorf("got no record of a partial run:\n%s", out)
	}
	write(t, config, fmt.Sprintf("etcd: {endpoints: [%s]}\ndefrag: {rule: \"true\", schedule: \"@every 1s\", settle: 0s, cooldown: 1s}\n", strings.Join(etcd.Endpoints(), ", ")))
	k.start(t)
	within(t, "the next keeper does a whole run", func() error {
		_, metrics, err := get("http://" + k.listen + "/metrics")
		if err == nil && !strings.Contains(metrics, `etcdkeeper_defrag_runs_total{outcome="done",trigger="rule"}`) {
			err = fmt.Errorf("not yet: %s", k.process.LogTail(3))
		}
		return err
	})
}

func keysUnder(t *testing.T, client *clientv3.Client, prefix string) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := client.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		t.Fatal(err)
	}
	return r.Count
}

// What an operator gets wrong on the first day is said with the name of the file or the key, what to do next, and the
// exit code of bad input.
func TestKeeper_BadInput(t *testing.T) {
	testproc.RequireReal(t)
	path := binary(t)
	dir := t.TempDir()
	older := filepath.Join(dir, "older.yaml")
	write(t, older, "etcd:\n  endpoint: [127.0.0.1:2379]\ndefrag:\n  threshold: 0.5\nwatch:\n  intervall: 10s\n")
	newer := filepath.Join(dir, "newer.yaml")
	write(t, newer, "listen:\n  address: 127.0.0.1:0\n  tracing: {endpoint: x}\n")
	held, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	taken := held.Addr().String()
	_, port, _ := net.SplitHostPort(taken)
	free := fmt.Sprintf("127.0.0.1:%d", testproc.Ports(t, 1)[0])
	for _, tt := range []struct {
		name string
		args []string
		code int
		want []string
	}{
		{"missing CA", []string{"status", "--endpoints", "https://127.0.0.1:1", "--cacert", "/does/not/exist.crt"}, 2,
			[]string{"etcd.cacert (--cacert)", "/does/not/exist.crt", "as this process sees it"}},
		{"missing certificates, all of them", []string{"run", "--endpoints", "https://127.0.0.1:1", "--cacert", "/no/ca", "--cert", "/no/cert", "--key", "/no/key"}, 2,
			[]string{"etcd.cacert (--cacert): open /no/ca", "etcd.cert (--cert): open /no/cert", "etcd.key (--key): open /no/key"}},
		{"keys of an older version", []string{"run", "--config", older}, 2,
			[]string{older + ": line 2: etcd.endpoint: unknown key: did you mean etcd.endpoints?", "line 4: defrag.threshold: unknown key: 'etcdkeeper config print' lists",
				"line 6: watch.intervall: unknown key: did you mean watch.interval?"}},
		{"the same, validated", []string{"config", "validate", "--config", older}, 2, []string{"line 2", "line 4", "line 6"}},
		{"a key of a newer version", []string{"run", "--config", newer}, 2, []string{"line 3: listen.tracing: unknown key: known here are address, pprof, probeAddress, webConfigFile"}},
		{"missing configuration", []string{"run", "--config", "/does/not/exist.yaml"}, 2, []string{"/does/not/exist.yaml"}},
		{"a port in use", []string{"run", "--listen", taken, "--probe-listen", free}, 1,
			[]string{taken + " (listen.address)", "ss -ltnp 'sport = :" + port + "'", "address already in use"}},
		{"the probes' port in use", []string{"run", "--listen", free, "--probe-listen", taken}, 1, []string{taken + " (listen.probeAddress)", "ss -ltnp"}},
		{"a missing web configuration", []string{"run", "--web-config-file", "/does/not/exist.yaml"}, 2, []string{"listen.webConfigFile", "/does/not/exist.yaml"}},
	} {
		out, err := run(t, nil, path, tt.args...)
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != tt.code {
			t.Errorf("%s: got %v, want exit code %d:\n%s", tt.name, err, tt.code, out)
		}
		for _, want := range tt.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s: the error does not say %q:\n%s", tt.name, want, out)
			}
		}
	}
}

// What systemd is told, as a unit of Type=notify with WatchdogSec and ExecReload sees it.
func TestKeeper_TellsSystemd(t *testing.T) {
	testproc.RequireReal(t)
	path := binary(t)
	socket := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	next := func(want string) string {
		t.Helper()
		if err := l.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 4096)
		for {
			n, err := l.Read(buf)
			if err != nil {
				t.Fatalf("%s was not said: %v", want, err)
			}
			if said := string(buf[:n]); strings.HasPrefix(said, want) {
				return said
			}
		}
	}
	ports := testproc.Ports(t, 3)
	config := filepath.Join(t.TempDir(), "etcdkeeper.yaml")
	write(t, config, fmt.Sprintf("etcd: {endpoints: [127.0.0.1:%d]}\n", ports[2]))
	p, err := testproc.StartProcess(testproc.Spec{
		Name: "keeper", Path: path, Log: filepath.Join(t.TempDir(), "log"), Env: []string{"NOTIFY_SOCKET=" + socket, "WATCHDOG_USEC=400000"},
		Args: []string{"run", "--config", config, "--listen", fmt.Sprintf("127.0.0.1:%d", ports[0]), "--probe-listen", fmt.Sprintf("127.0.0.1:%d", ports[1])},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	next("READY=1") // without any etcd
	next("WATCHDOG=1")
	next("WATCHDOG=1")
	if err := p.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if said := next("RELOADING=1"); !strings.Contains(said, "\nMONOTONIC_USEC=") {
		t.Errorf("a reload was told as %q", said)
	}
	next("READY=1")
	// A configuration that is refused is a reload that has ended too.
	write(t, config, "etcd: {endpoint: x}\n")
	if err := p.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	next("RELOADING=1")
	next("READY=1")
	next("WATCHDOG=1")
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	next("STOPPING=1")
	<-p.Done()
	if err := p.Err(); err != nil {
		t.Errorf("SIGTERM: %v\n%s", err, p.LogTail(10))
	}
}
