package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/internal/seed"
)

// cleanEnv is an etcd with Jobs of all sorts, and a directory to work in.
type cleanEnv struct {
	*testing.T
	endpoint string
	client   *clientv3.Client
	dir      string
}

func newCleanEnv(t *testing.T) *cleanEnv {
	e := etcdtest.Embed(t, etcdtest.EmbedOptions{})
	env := &cleanEnv{T: t, endpoint: e.Endpoint, client: e.Client(t), dir: t.TempDir()}
	t.Setenv("KUBECONFIG", filepath.Join(env.dir, "no-such-kubeconfig"))
	_, err := seed.Write(t.Context(), env.client, seed.Generate(seed.Options{
		Now: time.Now(), Namespaces: []string{"kube-system", "batch"},
		CronJobs: []seed.CronJobSet{{Namespace: "batch", Stem: "nightly", Count: 1}},
		Jobs: []seed.JobSet{
			{Namespace: "batch", Stem: "import", Count: 40, Pods: 1},
			{Namespace: "batch", Stem: "run", Count: 5, State: seed.JobRunning},
			{Namespace: "batch", Stem: "nightly", Count: 5, Owner: seed.OwnerCronJob},
			{Namespace: "batch-2", Stem: "other", Count: 5},
		},
	}), seed.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return env
}

// run runs a command and returns its exit code and output.
func (e *cleanEnv) run(args ...string) (int, string, string) {
	var stdout, stderr bytes.Buffer
	args = append(args, "--endpoints", e.endpoint)
	code := execute(context.Background(), args, strings.NewReader(""), &stdout, &stderr)
	return code, stdout.String(), stderr.String()
}

// must runs a command that ends with the code.
func (e *cleanEnv) must(code int, args ...string) string {
	e.Helper()
	got, out, errs := e.run(args...)
	if got != code {
		e.Fatalf("%s: got exit code %d, want %d\n%s%s", strings.Join(args, " "), got, code, out, errs)
	}
	return out + errs
}

func (e *cleanEnv) count(prefix string) int64 {
	e.Helper()
	resp, err := e.client.Get(context.Background(), prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		e.Fatal(err)
	}
	return resp.Count
}

func (e *cleanEnv) hasKubeSystem() bool { return e.count("/registry/namespaces/kube-system") == 1 }

func TestClean_Flags(t *testing.T) {
	e := newCleanEnv(t)
	plan := filepath.Join(e.dir, "plan.jsonl")
	for _, tc := range []struct {
		args string
		says string
	}{
		{"clean plan", "--kind"},
		{"clean plan --kind jobs", "-o"},
		{"clean plan --kind jobs -o " + plan, "namespace"},
		{"clean plan --kind jobs --namespace= -o " + plan, "empty"},
		{"clean plan --kind jobs -n= -o " + plan, "not the name of a namespace"},
		{"clean plan --kind jobs -n batch --state= -o " + plan, "empty"},
		{"clean plan --kind jobs -n batch --owner= -o " + plan, "empty"},
		{"clean plan --kind jobs -n batch --name-stem= -o " + plan, "empty"},
		{"clean plan --kind jobs -n batch --owner live -o " + plan, "history limits"},
		{"clean plan --kind deployments -n batch -o " + plan, "want one of"},
		{"clean plan --kind jobs -n batch --all-namespaces -o " + plan, "not both"},
		{"clean apply", "want one plan"},
		{"clean apply " + plan + " --via etcd", "--accept-bypass"},
		{"clean apply " + plan + " --via ssh", "apiserver or etcd"},
		{"clean apply " + plan + " --qps -1", "--qps"},
		{"clean apply " + plan + " --workers 0", "--workers"},
		{"clean apply " + plan + " --yes", "no such file"},
		{"clean restore", "want one export"},
	} {
		code, out, errs := e.run(strings.Fields(tc.args)...)
		if code != exitUsage || !strings.Contains(errs, tc.says) {
			t.Errorf("%s: got %d, %q, want %d and %q", tc.args, code, out+errs, exitUsage, tc.says)
		}
	}
	if _, err := os.Stat(plan); err == nil {
		t.Error("a plan was written")
	}
}

func TestClean_PlanApplyRestore(t *testing.T) {
	e := newCleanEnv(t)
	if !e.hasKubeSystem() {
		t.Fatal("the seed has no kube-system")
	}
	plan := filepath.Join(e.dir, "plan.jsonl")
	before := e.count("/registry/jobs/")

	out := e.must(exitDone, "clean", "plan", "--kind", "jobs", "-n", "batch", "-o", plan, "-w", "json")
	var summary struct {
		Objects, Scanned int64
		Dependents       *int64
		ClusterID        *string
		Kept             []struct {
			Class string
			Count int64
		}
		Cause []struct{ Manager, Remedy string }
	}
	if err := json.Unmarshal([]byte(out), &summary); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if summary.Objects != 40 || summary.Scanned != 50 || summary.Dependents == nil || *summary.Dependents != 40 || summary.ClusterID == nil {
		t.Errorf("got %+v, want 40 of 50 Jobs and 40 pods", summary)
	}
	table := e.must(exitDone, "clean", "plan", "--kind", "jobs", "-n", "batch", "-o", plan)
	for _, want := range []string{"delete 40 of 50 jobs", "live-owner", "running", "The cause:", "submitter", "ttlSecondsAfterFinished", "clean apply"} {
		if !strings.Contains(table, want) {
			t.Errorf("the summary does not say %q:\n%s", want, table)
		}
	}

	if said := e.must(exitUsage, "clean", "apply", plan, "--via", "etcd", "--accept-bypass"); !strings.Contains(said, "--yes") {
		t.Errorf("without a terminal: got %q, want a hint at --yes", said)
	}
	if got := e.count("/registry/jobs/"); got != before {
		t.Fatalf("%d Jobs left of %d: something was deleted without --yes", got, before)
	}
	out = e.must(exitDone, "clean", "apply", plan, "--via", "etcd", "--accept-bypass", "--yes", "-w", "json", "--qps", "0")
	var res map[string]any
	dec := json.NewDecoder(strings.NewReader(out))
	if err := dec.Decode(&res); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	for k, want := range map[string]float64{"deleted": 40, "kept": 0, "changed": 0, "failed": 0} {
		if res[k] != want {
			t.Errorf("%s: got %v, want %v", k, res[k], want)
		}
	}
	for _, k := range []string{"seconds", "perSecond", "bytes"} {
		if v, ok := res[k].(float64); !ok || v <= 0 {
			t.Errorf("%s: got %v, want more than 0", k, res[k])
		}
	}
	if got := e.count("/registry/jobs/"); got != before-40 {
		t.Errorf("got %d Jobs, want %d", got, before-40)
	}
	if said := e.must(exitDone, "clean", "status", plan); !strings.Contains(said, "finished") || !strings.Contains(said, "40") {
		t.Errorf("status: got %s", said)
	}

	export := plan + ".export"
	file := e.glob(export + "/export-*.jsonl")
	e.restoreKeys(export)
	e.must(exitDone, "clean", "restore", export, "--yes")
	if got := e.count("/registry/jobs/"); got != before {
		t.Errorf("restored: got %d Jobs, want %d", got, before)
	}
	if said := e.must(exitDone, "clean", "restore", file, "--yes"); !strings.Contains(said, "40 exist") {
		t.Errorf("restored again: got %s", said)
	}
}

// restoreKeys restores single keys: what --key means is told by the export's prefix, not by what files there are.
func (e *cleanEnv) restoreKeys(export string) {
	e.Helper()
	before := e.count("/registry/jobs/")
	data, err := os.ReadFile(e.glob(export + "/*.jsonl"))
	if err != nil {
		e.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), `"key":"`)
	key, _, _ := strings.Cut(rest, `"`)
	if said := e.must(exitUsage, "clean", "restore", export, "--yes", "--key", "no-such-file"); !strings.Contains(said, "neither a key below /registry/ nor") {
		e.Errorf("got %q, want both meanings of --key", said)
	}
	if said := e.must(exitFailed, "clean", "restore", export, "--yes", "--key", key+"-other"); !strings.Contains(said, "not in the export") {
		e.Errorf("got %q, want the key that is not there", said)
	}
	// A file is the private key, which wants its certificate.
	file := filepath.Join(e.dir, "private.pem")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		e.Fatal(err)
	}
	e.must(exitUsage, "clean", "restore", export, "--yes", "--key", file, "--key", key)
	if got := e.count("/registry/jobs/"); got != before {
		e.Fatalf("got %d Jobs, want %d: something was restored", got, before)
	}
	e.must(exitDone, "clean", "restore", export, "--yes", "--key", key)
	if got := e.count("/registry/jobs/"); got != before+1 || e.count(key) != 1 {
		e.Errorf("got %d Jobs, want %d with %s", got, before+1, key)
	}
	if _, err := e.client.Delete(context.Background(), key); err != nil {
		e.Fatal(err)
	}
}

// glob is the only file of a pattern.
func (e *cleanEnv) glob(pattern string) string {
	e.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) != 1 {
		e.Fatalf("%s: got %v, %v, want one file", pattern, files, err)
	}
	return files[0]
}

func TestClean_Refusals(t *testing.T) {
	e := newCleanEnv(t)
	plan := filepath.Join(e.dir, "plan.jsonl")
	e.must(exitRefused, "clean", "plan", "--kind", "jobs", "-n", "batch", "-o", plan, "--max-share", "0.5")
	e.must(exitDone, "clean", "plan", "--kind", "jobs", "-n", "batch", "-o", plan)
	apply := []string{"clean", "apply", plan, "--via", "etcd", "--accept-bypass", "--yes"}

	data, err := os.ReadFile(plan)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(plan, bytes.Replace(data, []byte("import-"), []byte("export-"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if said := e.must(exitRefused, apply...); !strings.Contains(said, "line 2") {
		t.Errorf("edited: got %q, want the line", said)
	}
	if err := os.WriteFile(plan, data[:len(data)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if said := e.must(exitRefused, apply...); !strings.Contains(said, "line ") {
		t.Errorf("cut: got %q, want the line", said)
	}
	if err := os.WriteFile(plan, data, 0o600); err != nil {
		t.Fatal(err)
	}
	e.must(exitRefused, append(apply, "--max-plan-age", "1ns")...)

	other := newCleanEnv(t)
	code, _, errs := other.run(apply...)
	if code != exitRefused || !strings.Contains(errs, "another cluster") {
		t.Errorf("another cluster: got %d, %q", code, errs)
	}
	if got := e.count("/registry/jobs/"); got != 55 {
		t.Errorf("got %d Jobs, want all 55", got)
	}
}

func TestClean_Snapshot(t *testing.T) {
	e := newCleanEnv(t)
	snapshot := filepath.Join(e.dir, "snapshot.db")
	rc, err := e.client.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	f, err := os.Create(snapshot)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadFrom(rc); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	plan := filepath.Join(e.dir, "plan.jsonl")
	// No etcd is needed for the plan.
	var stdout, stderr bytes.Buffer
	code := execute(t.Context(), []string{"clean", "plan", "--kind", "jobs", "-n", "batch", "--snapshot", snapshot, "-o", plan, "--endpoints", "127.0.0.1:1"},
		strings.NewReader(""), &stdout, &stderr)
	if code != exitDone || !strings.Contains(stdout.String(), "delete 40 of 50") {
		t.Fatalf("got %d, %s%s", code, stdout.String(), stderr.String())
	}
	out := e.must(exitDone, "clean", "apply", plan, "--via", "etcd", "--accept-bypass", "--yes")
	if !strings.Contains(out, "Deleted 40 of 40") {
		t.Errorf("got %s", out)
	}
}

// TestDrained: a compaction under NOSPACE never takes a deletion that watchers had no time to see.
func TestDrained(t *testing.T) {
	ended := time.Now()
	f := drained(100, 900, ended)
	for at, want := range map[time.Duration]int64{-time.Minute: 100, 0: 900, time.Minute: 900} {
		if got, ok := f(ended.Add(at)); got != want || !ok {
			t.Errorf("%s after the end: got %d, %v, want %d", at, got, ok, want)
		}
	}
}
