package bulkclean

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	batchv1 "k8s.io/api/batch/v1"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/schedule"
)

func TestPolicyRunner(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for i := range 20 {
		f.job(fmt.Sprintf("job-%05d", i), func(j *batchv1.Job) {
			j.Status.Conditions[1].LastTransitionTime.Time = time.Now().Add(-time.Duration(100+i) * time.Hour)
		})
	}
	cfg := cluster.DefaultConfig()
	cfg.Endpoints = f.client.Endpoints()
	c, err := cluster.New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	api := &fakeAPI{f: f}
	asked := 0
	r := &PolicyRunner{Cluster: c, API: func() (API, error) { asked++; return api, nil }, Log: slog.New(slog.DiscardHandler)}
	reg := prometheus.NewRegistry()
	metrics := NewMetrics(reg)
	p := Policy{Name: "batch", Schedule: schedule.Every(time.Hour), Kind: "jobs", Namespaces: []string{"ns"}, Cap: 8}

	rep, err := r.Run(t.Context(), p)
	if err != nil || rep.Summary.Objects != 8 || rep.Result != nil || asked != 0 || len(f.all()) != 21 {
		t.Errorf("report: got %+v, %v, %d keys, want 8 selected and nothing done", rep, err, len(f.all()))
	}
	metrics.Set(rep)
	p.Mode = ModeApply
	if _, err := r.Run(t.Context(), p); !errors.Is(err, ErrNoDirectory) {
		t.Errorf("apply without a directory: got %v, want ErrNoDirectory", err)
	}
	r.Dir = t.TempDir()
	for i, left := range []int{13, 5, 1} {
		rep, err := r.Run(t.Context(), p)
		if err != nil || rep.Result == nil || len(f.all()) != left {
			t.Fatalf("apply %d: got %+v, %v and %d keys, want %d", i, rep, err, len(f.all()), left)
		}
		metrics.Set(rep)
	}
	exports, err := filepath.Glob(r.Dir + "/clean/batch/export-*.jsonl")
	if err != nil || len(exports) != 3 {
		t.Errorf("got exports %v, %v, want 3", exports, err)
	}
	want := `# HELP etcdkeeper_clean_objects_total Objects of plans by what became of them: deleted, kept, changed or failed.
# TYPE etcdkeeper_clean_objects_total counter
etcdkeeper_clean_objects_total{policy="batch",result="changed"} 0
etcdkeeper_clean_objects_total{policy="batch",result="deleted"} 20
etcdkeeper_clean_objects_total{policy="batch",result="failed"} 0
etcdkeeper_clean_objects_total{policy="batch",result="kept"} 0
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "etcdkeeper_clean_objects_total"); err != nil {
		t.Error(err)
	}
}

func TestPrune(t *testing.T) {
	dir := t.TempDir()
	for i := range keptRuns + 3 {
		name := filepath.Join(dir, fmt.Sprintf("export-%02d.jsonl", i))
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		at := now.Add(time.Duration(i) * time.Hour)
		if err := os.Chtimes(name, at, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := prune(dir); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != keptRuns || files[0].Name() != "export-03.jsonl" {
		t.Errorf("got %v, %v, want the newest %d", files, err, keptRuns)
	}
}

func TestConfig_Validate(t *testing.T) {
	good := Policy{Name: "a", Schedule: schedule.Every(time.Hour), Kind: "jobs", Namespaces: []string{"ns"}}
	if err := (Config{Policies: []Policy{good}}).Validate(); err != nil {
		t.Errorf("a report of Jobs: %v", err)
	}
	for name, change := range map[string]func(*Policy){
		"no name":             func(p *Policy) { p.Name = "" },
		"no schedule":         func(p *Policy) { p.Schedule = schedule.Schedule{} },
		"unknown mode":        func(p *Policy) { p.Mode = "delete" },
		"apply without a cap": func(p *Policy) { p.Mode = ModeApply },
		"etcd unaccepted":     func(p *Policy) { p.Via = "etcd" },
		"no namespace":        func(p *Policy) { p.Namespaces = nil },
		"unknown kind":        func(p *Policy) { p.Kind = "nodes" },
	} {
		p := good
		change(&p)
		if (Config{Policies: []Policy{p}}).Validate() == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	if (Config{Policies: []Policy{good, good}}).Validate() == nil {
		t.Error("two policies of one name: got no error")
	}
}
