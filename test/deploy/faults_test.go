package deploy

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
)

const faultQuota = 48 << 20

// shortened are the thresholds of the rules that no short test reaches, and what stands for them in its copy.
var shortened = map[string]string{
	"> 200 * 1024 * 1024": "> 4 * 1024 * 1024",
	"(etcdkeeper_uncoordinated_seconds{job=\"keeper\"}) > 600": "(etcdkeeper_uncoordinated_seconds{job=\"keeper\"}) > 8",
	"task=~\"watch|coordinate\"}) > 600":                       "task=~\"watch|coordinate\"}) > 12",
}

// fleet is three keepers with files of configuration and with folders that stand for their members' cgroups.
type fleet struct {
	dir     string
	keepers []*keeper
	// Of the configuration, what the test changes while the keepers run.
	rule, snapshotDir, sizeShare string
}

func (f *fleet) path(i int, name string) string {
	return filepath.Join(f.dir, fmt.Sprintf("keeper-%d-%s", i, name))
}

// configure writes every keeper's file, and has those that run read it.
func (f *fleet) configure(t *testing.T, endpoints []string) {
	t.Helper()
	for i, e := range endpoints {
		write(t, f.path(i, "config.yaml"), fmt.Sprintf(`etcd: {endpoints: [%q]}
stateDir: %q
defrag:
  rule: %q
  schedule: "@every 2s"
  settle: 0s
  cooldown: 1s
  gateTimeout: 20s
  emergencyForecast: 0s
  snapshotDir: %q
census: {schedule: "@every 5s"}
split: {policy: {sizeShare: %s, writeShare: 1, quotaHorizon: 1s}}
vpa: {sampleInterval: 1s, applyInterval: 1m, cgroupDir: %q}
clean:
  policies: [{name: old-jobs, schedule: "@every 20s", kind: jobs, allNamespaces: true, mode: apply, via: etcd, acceptBypass: true, cap: 40}]
`, e, f.path(i, "state"), f.rule, f.snapshotDir, f.sizeShare, f.path(i, "cgroup")))
		if len(f.keepers) > i {
			if err := f.keepers[i].process.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// limit writes the memory limit of the members' containers, as a cgroup v2 tells it.
func (f *fleet) limit(t *testing.T, bytes string) {
	t.Helper()
	for i := range 3 {
		write(t, filepath.Join(f.path(i, "cgroup"), "memory.max"), bytes+"\n")
	}
}

func startFleet(t *testing.T, path string, endpoints []string) *fleet {
	t.Helper()
	f := &fleet{dir: t.TempDir(), rule: "false", sizeShare: "0.01"}
	for i := range endpoints {
		for _, d := range []string{"state", "cgroup"} {
			if err := os.Mkdir(f.path(i, d), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		for name, content := range map[string]string{
			"memory.current": "180000000", "memory.peak": "190000000", "memory.stat": "anon 90000000\nfile 80000000\ninactive_file 1000000",
			"memory.events": "oom_kill 0", "cpu.stat": "usage_usec 1000000",
		} {
			write(t, filepath.Join(f.path(i, "cgroup"), name), content+"\n")
		}
	}
	f.limit(t, "8589934592")
	f.configure(t, endpoints)
	for i := range endpoints {
		k := startKeeper(t, path, fmt.Sprintf("keeper-%d", i), "--config", f.path(i, "config.yaml"))
		k.await(t)
		f.keepers = append(f.keepers, k)
	}
	return f
}

// fill puts values until the quota is reached, and says up to which revision.
func fill(t *testing.T, client *clientv3.Client) {
	t.Helper()
	value := strings.Repeat("x", 256<<10)
	for i := 0; ; i++ {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, err := client.Put(ctx, fmt.Sprintf("/registry/configmaps/full/%06d", i), value)
		cancel()
		if err != nil && strings.Contains(err.Error(), "database space exceeded") {
			return
		}
		if i > 4*faultQuota/len(value) {
			t.Fatalf("%d values of %d bytes did not fill the quota: %v", i, len(value), err)
		}
	}
}

// empty takes them away again, which leaves free pages.
func empty(t *testing.T, client *clientv3.Client) {
	t.Helper()
	within(t, "what filled the quota is deleted and compacted away", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		d, err := client.Delete(ctx, "/registry/configmaps/full/", clientv3.WithPrefix())
		if err != nil {
			return err
		}
		_, err = client.Compact(ctx, d.Header.Revision, clientv3.WithCompactPhysical())
		return err
	})
}

// rangeSeries is the number of series that an expression had at any time since then.
func rangeSeries(base, expr string, since time.Time) (int, error) {
	var data struct {
		Result []any `json:"result"`
	}
	q := url.Values{"query": {expr}, "step": {"1s"},
		"start": {fmt.Sprint(since.Unix())}, "end": {fmt.Sprint(time.Now().Unix())}}
	err := prometheusAPI(base, "/api/v1/query_range?"+q.Encode(), &data)
	return len(data.Result), err
}

// Three keepers beside three members under a real Prometheus: on faults that are really induced the alerts fire, and
// clear when the fault is gone; etcd's own alerts never fire on a keeper; every query of the dashboard has data.
func TestPrometheus(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.Options{QuotaBytes: faultQuota})
	client := etcd.Client(t)
	populate(t, client)
	began := time.Now()
	path := binary(t)
	f := startFleet(t, path, etcd.Endpoints())
	var targets []string
	for _, k := range f.keepers {
		targets = append(targets, k.listen)
	}
	base := startPrometheus(t, targets)
	within(t, "all keepers see all members, one coordinates, no alert fires", func() error {
		n, err := query(base, `etcdkeeper_member_reachable{job="keeper"} == 1`)
		if err == nil && n != 9 {
			err = fmt.Errorf("got %d series, want 9", n)
		}
		if err != nil {
			return err
		}
		if n, err := query(base, `sum(etcdkeeper_coordinating) == 1`); err != nil || n != 1 {
			return errors.Join(err, errors.New("not one keeper coordinates"))
		}
		names, err := firing(base)
		if err == nil && len(names) > 0 {
			err = fmt.Errorf("firing are %v", names)
		}
		return err
	})
	wantHealthyRules(t, base)

	t.Log("a keeper that is down")
	if err := f.keepers[2].process.Stop(); err != nil {
		t.Errorf("keeper ended by SIGTERM: %v", err)
	}
	wantFiring(t, base, "EtcdkeeperDown", true)
	f.keepers[2].start(t)
	wantFiring(t, base, "EtcdkeeperDown", false)

	t.Log("a full quota, then free pages, while the keepers are paused")
	mustRun(t, nil, path, "pause", "--for", "1h", "--reason", "test", "--endpoints", etcd.Endpoints()[0])
	wantFiring(t, base, "EtcdkeeperPaused", true)
	fill(t, client)
	wantFiring(t, base, "EtcdkeeperQuotaForecast", true)
	wantFiring(t, base, "EtcdkeeperQuotaForecastSoon", true)
	empty(t, client)
	wantFiring(t, base, "EtcdkeeperFragmentationHigh", true)

	t.Log("a container whose limit is too low")
	f.limit(t, "33554432")
	wantFiring(t, base, "EtcdkeeperContainerLimitLow", true)
	f.limit(t, "8589934592")
	wantFiring(t, base, "EtcdkeeperContainerLimitLow", false)

	t.Log("events that take more of the quota than the policy allows")
	wantFiring(t, base, "EtcdkeeperSplitVerdict", true)

	t.Log("a configuration that is refused")
	write(t, f.path(0, "config.yaml"), "defrag: {rule: nonsense}\n")
	if err := f.keepers[0].process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	wantFiring(t, base, "EtcdkeeperConfigRefused", true)
	f.configure(t, etcd.Endpoints())
	wantFiring(t, base, "EtcdkeeperConfigRefused", false)

	t.Log("they are resumed, the rule acts on the free pages; the policy of the split is changed")
	f.rule, f.sizeShare = "dbSizeFree > 4 * 1024 * 1024", "1"
	f.configure(t, etcd.Endpoints())
	mustRun(t, nil, path, "resume", "--endpoints", etcd.Endpoints()[0])
	wantFiring(t, base, "EtcdkeeperPaused", false)
	wantFiring(t, base, "EtcdkeeperFragmentationHigh", false)
	wantFiring(t, base, "EtcdkeeperQuotaForecast", false)
	wantFiring(t, base, "EtcdkeeperQuotaForecastSoon", false)

	t.Log("runs that fail")
	f.rule, f.snapshotDir = "true", f.path(0, "config.yaml")+"/snapshots"
	f.configure(t, etcd.Endpoints())
	wantFiring(t, base, "EtcdkeeperDefragDegraded", true)
	f.rule, f.snapshotDir = "false", ""
	f.configure(t, etcd.Endpoints())
	mustRun(t, nil, path, "resume", "--endpoints", etcd.Endpoints()[0])
	wantFiring(t, base, "EtcdkeeperDefragDegraded", false)
	wantFiring(t, base, "EtcdkeeperSplitVerdict", false)
	wantDashboardAnswered(t, base, began)
	drawDashboard(t, base, began)

	t.Log("a cluster that does not answer")
	for _, m := range etcd.Members {
		m.Pause(t)
	}
	wantFiring(t, base, "EtcdkeeperNoCoordinator", true)
	wantFiring(t, base, "EtcdkeeperTaskStale", true)
	for _, m := range etcd.Members {
		m.Resume(t)
	}
	wantFiring(t, base, "EtcdkeeperNoCoordinator", false)
	wantFiring(t, base, "EtcdkeeperTaskStale", false)

	if n, err := rangeSeries(base, `ALERTS{alertname=~"etcd.*"}`, began); err != nil || n > 0 {
		t.Errorf("%d of etcd's own alerts were pending or firing on the keepers' series (%v)", n, err)
	}
}

// wantDashboardAnswered asks every query of the dashboard for what was seen since then: each has data.
func wantDashboardAnswered(t *testing.T, base string, since time.Time) {
	t.Helper()
	variables := strings.NewReplacer("$job", "keeper", "$cluster", ".*", "$__rate_interval", "30s")
	for _, p := range shippedDashboard(t).Panels {
		for _, target := range p.Targets {
			within(t, fmt.Sprintf("panel %q answers %s", p.Title, target.Expr), func() error {
				n, err := rangeSeries(base, variables.Replace(target.Expr), since)
				if err == nil && n == 0 {
					err = errors.New("no series")
				}
				return err
			})
		}
	}
}

// drawDashboard writes the dashboard as this Prometheus answers it into the folder that PICTURES names: make pictures.
func drawDashboard(t *testing.T, base string, since time.Time) {
	t.Helper()
	into := os.Getenv("PICTURES")
	if into == "" {
		return
	}
	picture := mustRun(t, nil, "go", "run", "./test/pictures", "dashboard", "-prometheus", base, "-since", time.Since(since).Round(time.Second).String(),
		"-rows", "Now,Members,Rolling defragmentation,Census", "deploy/grafana/etcdkeeper.json")
	write(t, filepath.Join(into, "dashboard.svg"), picture)
}

// etcdRules renders the newest of etcd's own alerts for a Prometheus that evaluates without waiting.
func etcdRules(t *testing.T, into string) {
	t.Helper()
	etcdMixin(t, "v3.7.0", into)
	content, err := os.ReadFile(into)
	if err != nil {
		t.Fatal(err)
	}
	write(t, into, jsonFor.ReplaceAllString(string(content), `"for": "1s"`))
}
