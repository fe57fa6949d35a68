package daemon

import (
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkeeper/etcdkeeper/census"
	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/config"
	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/vpa"
)

// sizing is the parts that the sizing needs beside an etcd, run by hand.
type sizing struct {
	host *Host
	env  Env
	run  map[string]Task
}

func newSizing(t *testing.T, etcd *etcdtest.Embedded, dir string, change func(*config.Config)) *sizing {
	t.Helper()
	cfg := config.Default()
	cfg.Etcd.Endpoints, cfg.StateDir = []string{etcd.Endpoint}, dir
	cfg.Etcd.DialTimeout, cfg.Etcd.CommandTimeout = 10*time.Second, time.Minute // on a busy machine
	if change != nil {
		change(&cfg)
	}
	client, err := cluster.New(cfg.Etcd, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	s := &sizing{run: map[string]Task{}, env: Env{Config: cfg, Cluster: client},
		host: &Host{Registry: prometheus.NewRegistry(), Log: log, Watch: NewWatch("", log)}}
	for _, p := range []func(*Host) (func(Env) ([]Task, error), error){setUpWatch, setUpCensus, setUpVPA} {
		make, err := p(s.host)
		if err != nil {
			t.Fatal(err)
		}
		tasks, err := make(s.env)
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks {
			s.run[task.Name] = task
		}
	}
	return s
}

func (s *sizing) do(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := s.run[name].Run(t.Context()); err != nil {
			t.Fatalf("task %s: %v", name, err)
		}
	}
}

// profiles are the shared profiles with the revision at which each was written.
func profiles(t *testing.T, c *clientv3.Client) map[string]int64 {
	t.Helper()
	resp, err := c.Get(t.Context(), "/etcdkeeper/vpa/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int64{}
	for _, kv := range resp.Kvs {
		if len(kv.Value) > cluster.MaxSharedBytes {
			t.Errorf("the profile %s has %d bytes", kv.Key, len(kv.Value))
		}
		if _, err := vpa.ParseProfile(kv.Value); err != nil {
			t.Error(err)
		}
		out[string(kv.Key)] = kv.ModRevision
	}
	return out
}

func TestVPA_SamplesSharesAndSaves(t *testing.T) {
	etcd := etcdtest.Embed(t, etcdtest.EmbedOptions{})
	client := etcd.Client(t)
	dir := t.TempDir()
	s := newSizing(t, etcd, dir, nil)
	if err := s.run["vpa-sample"].Run(t.Context()); err == nil {
		t.Error("a sample before the cluster was seen: got no error, want it skipped")
	}
	s.do(t, "watch", "vpa-sample", "vpa-sample", "vpa")
	first := profiles(t, client)
	if len(first) != 1 {
		t.Fatalf("got profiles %v, want one", first)
	}
	s.do(t, "vpa-sample", "vpa", "vpa")
	if got := profiles(t, client); len(got) != 1 || got["/etcdkeeper/vpa/"+s.memberID(t)] != first["/etcdkeeper/vpa/"+s.memberID(t)] {
		t.Errorf("got %v within ten minutes, want %v still", got, first)
	}
	s.run["vpa-sample"].Close()
	files, err := filepath.Glob(filepath.Join(dir, "vpa-*.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("got checkpoints %v, %v, want one", files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	var state struct {
		Version int    `json:"version"`
		Member  string `json:"member"`
		Samples int    `json:"totalSamplesCount"`
		End     string `json:"end"`
	}
	if err := json.Unmarshal(b, &state); err != nil || state.Version < 1 || state.Member != s.memberID(t) || state.Samples != 3 || state.End == "" {
		t.Errorf("got checkpoint %+v, %v, want three samples of the member", state, err)
	}

	// A keeper that starts again goes on, also from a torn checkpoint, which stays beside the new one.
	again := newSizing(t, etcd, dir, nil)
	again.do(t, "watch", "vpa-sample", "vpa")
	if got := profiles(t, client); got["/etcdkeeper/vpa/"+s.memberID(t)] != first["/etcdkeeper/vpa/"+s.memberID(t)] {
		t.Errorf("after a restart within ten minutes: got %v, want %v still", got, first)
	}
	if got := again.samples(t); got != 4 {
		t.Errorf("after a restart: got %d samples, want the three and one more", got)
	}
	if err := os.WriteFile(files[0], b[:len(b)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	torn := newSizing(t, etcd, dir, nil)
	torn.do(t, "watch", "vpa-sample", "vpa")
	if _, err := os.Stat(files[0] + ".bad"); err != nil || torn.samples(t) != 1 {
		t.Errorf("a torn checkpoint: got %d samples and %v, want to start anew with the torn one put aside", torn.samples(t), err)
	}
	// One of a newer version is left alone.
	newer := `{"version": 99, "member": "` + s.memberID(t) + `"}`
	if err := os.WriteFile(files[0], []byte(newer), 0o600); err != nil {
		t.Fatal(err)
	}
	old := newSizing(t, etcd, dir, nil)
	old.do(t, "watch", "vpa-sample", "vpa")
	old.run["vpa-sample"].Close()
	if b, err := os.ReadFile(files[0]); err != nil || string(b) != newer {
		t.Errorf("a checkpoint of a newer version: got %s, %v, want it as it was", b, err)
	}
}

func (s *sizing) memberID(t *testing.T) string {
	t.Helper()
	v, ok := s.host.Watch.Latest()
	if !ok || len(v.Members) != 1 {
		t.Fatal("the member was not seen")
	}
	return v.Members[0].ID.String()
}

// recommendation is that of /api/status.
func (s *sizing) recommendation(t *testing.T) vpa.Recommendation {
	t.Helper()
	for _, part := range s.host.status {
		if part.name != "vpa" {
			continue
		}
		b, err := json.Marshal(part.read())
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Recommendations []vpa.Recommendation `json:"recommendations"`
		}
		if err := json.Unmarshal(b, &got); err != nil || len(got.Recommendations) != 1 {
			t.Fatalf("got %s, %v, want one recommendation", b, err)
		}
		return got.Recommendations[0]
	}
	t.Fatal("no status of vpa")
	return vpa.Recommendation{}
}

func (s *sizing) samples(t *testing.T) int { return s.recommendation(t).Samples }

func TestVPA_SharesNothingUnderNoSpace(t *testing.T) {
	etcd := etcdtest.Embed(t, etcdtest.EmbedOptions{})
	client := etcd.Client(t)
	alarm := func(action etcdserverpb.AlarmRequest_AlarmAction) {
		t.Helper()
		req := &etcdserverpb.AlarmRequest{Action: action, Alarm: etcdserverpb.AlarmType_NOSPACE}
		if _, err := etcdserverpb.NewMaintenanceClient(client.ActiveConnection()).Alarm(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	s := newSizing(t, etcd, "", nil)
	alarm(etcdserverpb.AlarmRequest_ACTIVATE)
	s.do(t, "watch", "vpa-sample", "vpa")
	if got := profiles(t, client); len(got) != 0 {
		t.Errorf("under NOSPACE: got profiles %v, want none", got)
	}
	alarm(etcdserverpb.AlarmRequest_DEACTIVATE)
	s.do(t, "vpa-sample", "vpa")
	if got := profiles(t, client); len(got) != 1 {
		t.Errorf("after NOSPACE: got profiles %v, want one", got)
	}
}

func TestVPA_ProposesAManifest(t *testing.T) {
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	dir := t.TempDir()
	manifest := filepath.Join(dir, "etcd.yaml")
	const pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: etcd}\nspec:\n  containers: [{name: etcd, image: e}]\n"
	if err := os.WriteFile(manifest, []byte(pod), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newSizing(t, etcdtest.Embed(t, etcdtest.EmbedOptions{}), "", func(c *config.Config) {
		c.VPA.Apply, c.VPA.Manifest = vpa.ApplyPropose, manifest
	})
	s.do(t, "watch", "vpa-sample", "vpa")
	if b, err := os.ReadFile(vpa.ProposalPath(manifest)); err != nil || !strings.Contains(string(b), "GOMEMLIMIT") || !strings.Contains(string(b), "limits") {
		t.Errorf("got the proposal %s, %v, want limits and GOMEMLIMIT", b, err)
	}
	if b, err := os.ReadFile(manifest); err != nil || string(b) != pod {
		t.Errorf("the manifest itself: got %s, %v, want it as it was", b, err)
	}
}

func TestVPA_ModelTakesTheCensus(t *testing.T) {
	etcd := etcdtest.Embed(t, etcdtest.EmbedOptions{})
	if _, err := etcd.Client(t).Put(t.Context(), "/registry/leases/kube-system/a-name-that-is-long", "k8s"); err != nil {
		t.Fatal(err)
	}
	s := newSizing(t, etcd, "", nil)
	s.do(t, "watch", "vpa-sample", "vpa")
	if words := s.recommendation(t).LiveHeap.Words; strings.Contains(words, "census") {
		t.Errorf("before a census: got %q", words)
	}
	s.do(t, "census", "vpa")
	if words := s.recommendation(t).LiveHeap.Words; !strings.Contains(words, "mostly leases") {
		t.Errorf("after a census: got %q, want the leases in it", words)
	}
}

func TestKeyspace(t *testing.T) {
	c := &census.Census{Taken: time.Unix(1e9, 0), Resources: []census.Resource{
		{Resource: "events", Keys: 10, Bytes: 1500, ValueBytes: 1000}, {Group: "batch", Resource: "jobs", Keys: 5, Bytes: 300, ValueBytes: 100},
	}}
	k := Keyspace(c, nil)
	if k.Keys() != 15 || k.MeanKey() != 700.0/15 || k.BytesPerDay() == k.BytesPerDay() {
		t.Errorf("got %v keys of %v bytes, growth %v, want 15, 46.7 and unknown", k.Keys(), k.MeanKey(), k.BytesPerDay())
	}
	k = Keyspace(c, []census.Growth{{Group: "batch", Resource: "jobs", BytesPerSecond: 2}, {Resource: "pods", BytesPerSecond: 1}})
	if got := k.BytesPerDay(); got != 2*86400 {
		t.Errorf("got a growth of %v a day, want the jobs'", got)
	}
}
