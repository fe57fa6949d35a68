package clean

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/internal/kubetest"
	"github.com/etcdkeeper/etcdkeeper/internal/seed"
	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
)

const policies = `
stateDir: %s
clean:
  policies:
    - name: looked-at
      schedule: "@every 2s"
      kind: jobs
      namespaces: [report]
    - name: batch-jobs
      mode: apply
      schedule: "@every 2s"
      kind: jobs
      namespaces: [batch]
      olderThan: 48h
      keep: 3
      cap: 20
`

// TestClean_Daemon: a policy reports or deletes on its schedule, no more than its cap at a time, and tells it in its
// metrics; two keepers beside each other do not double it; paused, none works.
func TestClean_Daemon(t *testing.T) {
	e := newEnv(t, etcdtest.Options{Versions: []string{etcdtest.V36}}, kubetest.Options{})
	e.seed(seed.Options{Namespaces: []string{"report", "batch"}, Jobs: []seed.JobSet{
		{Namespace: "report", Stem: "import", Count: 30},
		{Namespace: "batch", Stem: "import", Count: 53, Youngest: 72 * time.Hour, Oldest: 90 * time.Hour},
		{Namespace: "batch", Stem: "young", Count: 10, Youngest: 25 * time.Hour, Oldest: 30 * time.Hour},
	}})
	e.run(0, "pause", "--reason", "test", "--for", "1h")
	ports := testproc.Ports(t, 4)
	var listen []string
	for i := range 2 {
		config := filepath.Join(e.dir, fmt.Sprintf("config-%d.yaml", i))
		if err := os.WriteFile(config, fmt.Appendf(nil, policies, filepath.Join(e.dir, fmt.Sprintf("state-%d", i))), 0o600); err != nil {
			t.Fatal(err)
		}
		listen = append(listen, fmt.Sprintf("127.0.0.1:%d", ports[2*i]))
		cmd, _, stderr := e.command("run", "--config", config, "--listen", listen[i], "--probe-listen", fmt.Sprintf("127.0.0.1:%d", ports[2*i+1]), "--kubeconfig", e.kubeconfig)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			if err := cmd.Wait(); err != nil {
				t.Errorf("the daemon: %v", err)
			}
			if t.Failed() {
				t.Logf("%s", stderr)
			}
		})
	}
	// sum is a metric over both keepers.
	sum := func(series string) (total float64) {
		for _, l := range listen {
			total += metric(l, series)
		}
		return total
	}
	within(t, 2*time.Minute, "both keepers to skip a run", func() bool {
		for _, l := range listen {
			if metric(l, `etcdkeeper_task_runs_total{result="skipped",task="clean-batch-jobs"}`) == 0 {
				return false
			}
		}
		return true
	})
	if n := e.count("/registry/jobs/"); n != 93 {
		t.Fatalf("got %d Jobs, want all 93 while the keepers are paused", n)
	}
	e.run(0, "resume")
	within(t, 3*time.Minute, "the policy to delete what it may", func() bool { return e.count("/registry/jobs/batch/import-") == 3 })
	within(t, time.Minute, "the metrics to count it", func() bool {
		return sum(`etcdkeeper_clean_objects_total{policy="batch-jobs",result="deleted"}`) == 50
	})
	within(t, time.Minute, "the report", func() bool { return sum(`etcdkeeper_clean_selected_objects{policy="looked-at"}`) >= 30 })
	for prefix, want := range map[string]int64{"report/import-": 30, "batch/young-": 10, "batch/import-": 3} {
		if got := e.count("/registry/jobs/" + prefix); got != want {
			t.Errorf("%s: got %d Jobs, want %d", prefix, got, want)
		}
	}
	// 50 in runs of 20 at most are three exports or more, whoever made them.
	exports, err := filepath.Glob(filepath.Join(e.dir, "state-*", "clean", "batch-jobs", "export-*.jsonl"))
	if err != nil || len(exports) < 3 {
		t.Fatalf("got exports %v, %v, want three or more", exports, err)
	}
	for _, f := range exports {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(data), "\n") - 1; n < 1 || n > 20 {
			t.Errorf("%s: got %d objects of one run, want at most the cap of 20", f, n)
		}
	}
}

// metric is the value of a series of a keeper, 0 where there is none.
func metric(listen, series string) float64 {
	resp, err := http.Get("http://" + listen + "/metrics")
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(body)) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			v, _ := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			return v
		}
	}
	return 0
}
