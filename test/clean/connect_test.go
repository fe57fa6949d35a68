package clean

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/internal/kubetest"
	"github.com/etcdkeeper/etcdkeeper/internal/seed"
)

// with is the environment with another kubeconfig.
func (e *env) with(t *testing.T, kubeconfig string) *env {
	c := *e
	c.T, c.kubeconfig = t, kubeconfig
	return &c
}

// TestClean_Connections reaches the API server in every way that a cluster asks for, and bears what it answers.
func TestClean_Connections(t *testing.T) {
	// Every fiftieth request is answered with GOAWAY, and who is not of system:masters is refused with 429 where two
	// writes are in flight.
	e := newEnv(t, etcdtest.Options{Versions: []string{etcdtest.V37}}, kubetest.Options{
		Tokens:    []string{"plain-token,plain,plain"},
		ExtraArgs: []string{"--goaway-chance=0.02", "--enable-priority-and-fairness=false", "--max-mutating-requests-inflight=2"},
	})
	e.seed(seed.Options{Namespaces: []string{"goaway", "limited", "plugin", "apart"}, Jobs: []seed.JobSet{
		{Namespace: "goaway", Stem: "import", Count: 1000},
		{Namespace: "limited", Stem: "import", Count: 150},
		{Namespace: "plugin", Stem: "import", Count: 20},
		{Namespace: "apart", Stem: "import", Count: 20},
		{Namespace: "apart", Stem: "held", Count: 5, Finalizers: []string{"example.com/hold"}},
	}})
	clean := func(t *testing.T, e *env, namespace string, want int64, args ...string) result {
		t.Helper()
		plan := filepath.Join(t.TempDir(), "plan.jsonl")
		e.run(0, "clean", "plan", "--kind", "jobs", "-n", namespace, "-o", plan)
		res := e.apply(plan, args...)
		if res.Deleted != want || res.Kept+res.Changed+res.Failed+res.Left != 0 {
			t.Errorf("got %+v, want %d deleted and nothing else", res, want)
		}
		return res
	}

	t.Run("GOAWAY", func(t *testing.T) {
		relay := startRelay(t, strings.TrimPrefix(e.api.URL, "https://"))
		e := e.with(t, e.api.WriteKubeconfig(t, "https://"+relay.address, kubetest.AdminToken))
		clean(t, e, "goaway", 1000, "--qps", "0")
		if n := relay.accepted.Load(); n < 2 {
			t.Errorf("got %d connections: the API server sent no GOAWAY", n)
		}
	})

	t.Run("429", func(t *testing.T) {
		e := e.with(t, e.api.WriteKubeconfig(t, e.api.URL, "plain-token"))
		clean(t, e, "limited", 150, "--qps", "0")
		if refused := e.api.Kubectl(t, "get", "--raw", "/metrics"); !strings.Contains(refused, `code="429"`) {
			t.Error("the API server refused nothing with 429")
		}
	})

	t.Run("exec plugin", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "kubeconfig")
		config := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: one
clusters:
- {name: a, cluster: {server: %q, certificate-authority: %q}}
users:
- name: plugin
  user:
    exec:
      apiVersion: client.authentication.k8s.io/v1
      interactiveMode: Never
      command: sh
      args: [-c, 'echo "{\"apiVersion\":\"client.authentication.k8s.io/v1\",\"kind\":\"ExecCredential\",\"status\":{\"token\":\"%s\"}}"']
contexts:
- {name: one, context: {cluster: a, user: plugin}}
`, e.api.URL, e.api.CAFile, kubetest.AdminToken)
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		clean(t, e.with(t, filepath.Join(t.TempDir(), "none")), "plugin", 20, "--kubeconfig", file, "--context", "one")
	})

	// The control plane's etcd is out of reach of whoever applies the plan.
	t.Run("without etcd", func(t *testing.T) {
		plan := filepath.Join(t.TempDir(), "plan.jsonl")
		e := e.with(t, e.kubeconfig)
		e.run(0, "clean", "plan", "--kind", "jobs", "-n", "apart", "--include-finalizers", "-o", plan)
		e.endpoints = "127.0.0.1:1"
		res := e.apply(plan, "--dial-timeout", "1s", "--command-timeout", "2s")
		if res.Deleted != 25 || res.Kept+res.Changed+res.Failed+res.Left != 0 {
			t.Errorf("got %+v, want 25 deleted: through the API server finalizers are honoured", res)
		}
		first := exported(t, res.Export)
		if !first.FromAPI || !strings.Contains(first.YAML, "kind: Job\n") || strings.Contains(first.YAML, "managedFields") {
			t.Errorf("got %+v, want a Job that was read through the API server", first)
		}
		e.endpoints = strings.Join(e.etcd.Endpoints(), ",")
		type restored struct{ Restored, Skipped, Exists, Failed int64 }
		if got := parse[restored](e, e.run(0, "clean", "restore", res.Export, "--yes", "-w", "json")); got.Restored != 0 || got.Skipped != 25 {
			t.Errorf("in etcd: got %+v, want 25 skipped: what etcd stored is not known", got)
		}
		// Those with the finalizer are still there, and end when it is taken away.
		if n := e.count("/registry/jobs/apart/held-"); n != 5 {
			t.Errorf("got %d Jobs with a finalizer, want all 5 to wait for it", n)
		}
		if got := parse[restored](e, e.run(0, "clean", "restore", res.Export, "--via", "apiserver", "--yes", "-w", "json")); got.Restored != 20 || got.Exists != 5 {
			t.Errorf("through the API server: got %+v, want 20 restored and 5 that exist", got)
		}
		out := e.api.Kubectl(t, "get", "jobs", "-n", "apart", "-o", `jsonpath={range .items[*]}{.metadata.name}={.spec.suspend}{"\n"}{end}`)
		if got := strings.Count(out, "=true"); got != 20 {
			t.Errorf("got %d suspended Jobs, want 20:\n%s", got, out)
		}
	})
}

type exportedObject struct {
	Type, Key, YAML string
	FromAPI         bool
}

// exported is the first object of an export.
func exported(t *testing.T, file string) (o exportedObject) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			t.Fatal(err)
		}
		if o.Type == "object" {
			return o
		}
	}
	t.Fatalf("%s exports nothing: %v", file, lines.Err())
	return o
}

// relay passes connections on and counts them.
type relay struct {
	address  string
	accepted atomic.Int64
}

func startRelay(t *testing.T, to string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{address: l.Addr().String()}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			r.accepted.Add(1)
			all.Go(func() { pass(from, to) })
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	return r
}

// pass copies both ways until one side ends.
func pass(from net.Conn, address string) {
	defer from.Close()
	to, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer to.Close()
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(from, to)
		from.Close()
	})
	_, _ = io.Copy(to, from)
	to.Close()
	back.Wait()
}
