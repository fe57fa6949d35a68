package deploy

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
)

// mixinSources are the modules whose contrib/mixin etcd's own alerts are rendered from, with the checksums that the Go
// checksum database has of them. They are those of a minor version's releases that the module proxy serves.
var mixinSources = map[string]string{
	"v3.5.0": "h1:fs7tB+L/xRDi/+p9qKuaPGCtMX6vkovLRXTqvEE98Ek=",
	"v3.6.8": "h1:zfUsRJ8ql/F1LrQ04o1wSjKzGpD/gKz6SKkvaoFaZEA=",
	"v3.7.0": "h1:xrJPcFrLA/q1KYHsVBgj7PWF7YaEm3U+76f24OVCnJQ=",
}

// etcdMixin renders the alerts of etcd's own mixin of that version, with its defaults, into a rule file.
func etcdMixin(t *testing.T, version, into string) {
	t.Helper()
	jsonnet := testproc.Tool(t, "jsonnet")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module mixin\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := runIn(t, dir, []string{"GOFLAGS=", "GOWORK=off"}, "go", "mod", "download", "-json", "go.etcd.io/etcd/v3@"+version)
	var module struct{ Dir, Sum, Error string }
	if jerr := json.Unmarshal([]byte(out), &module); err != nil || jerr != nil || module.Sum != mixinSources[version] {
		t.Fatalf("download etcd's source %s: %v, %v, checksum %q: %s", version, err, jerr, module.Sum, module.Error)
	}
	mixin := filepath.Join(module.Dir, "contrib", "mixin")
	// The dashboards want a library of Grafana's; alerts and their settings stand alone where they are files of their own.
	source := fmt.Sprintf("(import '%s/mixin.libsonnet').prometheusAlerts", mixin)
	if _, err := os.Stat(filepath.Join(mixin, "alerts", "alerts.libsonnet")); err == nil {
		source = fmt.Sprintf("((import '%[1]s/config.libsonnet') + (import '%[1]s/alerts/alerts.libsonnet')).prometheusAlerts", mixin)
	}
	rendered := mustRun(t, nil, jsonnet, "-e", source)
	if err := os.WriteFile(into, []byte(rendered), 0o600); err != nil {
		t.Fatal(err)
	}
}

// alertNames are the alerts of a rule file, each once.
func alertNames(t *testing.T, path string) []string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var f rules
	if err := yaml.Unmarshal(content, &f); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, g := range f.Groups {
		for _, r := range g.Rules {
			if r.Alert != "" {
				names = append(names, r.Alert)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// keeperSeries are the series of three keepers in the notation of promtool, two of which are down: every metric that
// the binary exports, flat and growing, labelled with the job.
func keeperSeries(t *testing.T, job string) string {
	t.Helper()
	var b strings.Builder
	series := func(selector, values string) {
		fmt.Fprintf(&b, "  - series: '%s'\n    values: %s\n", selector, values)
	}
	rows := regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\| ([a-z]+) \\| ([^|]*) \\|").FindAllStringSubmatch(string(read(t, "docs/metrics.md")), -1)
	if len(rows) < 30 {
		t.Fatalf("docs/metrics.md has %d metrics", len(rows))
	}
	for i, instance := range []string{"a:9379", "b:9379", "c:9379"} {
		own := fmt.Sprintf(`job="%s",instance="%s"`, job, instance)
		series("up{"+own+"}", map[bool]string{true: "1x60", false: "0x60"}[i == 0])
		if i != 0 {
			continue // what is down has no other series
		}
		for _, row := range rows {
			labels := own
			for _, l := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(row[3], -1) {
				labels += "," + l[1] + `="x"`
			}
			switch row[2] {
			case "histogram":
				series(row[1]+"_bucket{"+labels+`,le="+Inf"}`, "0+1000x60")
				series(row[1]+"_sum{"+labels+"}", "0+1000000x60")
				series(row[1]+"_count{"+labels+"}", "0+1000x60")
			default:
				series(row[1]+"{"+labels+"}", "0+1000000000x60")
			}
		}
	}
	return b.String()
}

// etcd's own alerts, of every minor version, see nothing of the keeper as long as its job is named as it is shipped;
// named with "etcd" in it, a keeper that is down would count as a member that is down.
func TestEtcdMixin_DoesNotSeeTheKeeper(t *testing.T) {
	testproc.RequireReal(t)
	promtool := testproc.Installed(t, "promtool", "prometheus")
	for version := range mixinSources {
		t.Run(version, func(t *testing.T) {
			dir := t.TempDir()
			etcdMixin(t, version, filepath.Join(dir, "mixin.yaml"))
			names := alertNames(t, filepath.Join(dir, "mixin.yaml"))
			if len(names) < 10 || !slices.Contains(names, "etcdInsufficientMembers") {
				t.Fatalf("the mixin has the alerts %v", names)
			}
			var silent strings.Builder
			for _, n := range names {
				for _, at := range []string{"5m", "30m", "59m"} {
					fmt.Fprintf(&silent, "  - {eval_time: %s, alertname: %s, exp_alerts: []}\n", at, n)
				}
			}
			test := func(job, expected string) error {
				content := "rule_files: [mixin.yaml]\nevaluation_interval: 1m\ntests:\n- interval: 1m\n  input_series:\n" + keeperSeries(t, job) +
					"  alert_rule_test:\n" + expected
				path := filepath.Join(dir, job+".test.yaml")
				if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
				out, err := run(t, nil, promtool, "test", "rules", path)
				if err != nil {
					return fmt.Errorf("%w\n%s", err, out)
				}
				return nil
			}
			if err := test("keeper", silent.String()); err != nil {
				t.Errorf("an alert of etcd's fires on series of the keeper: %v", err)
			}
			// The same series under the name that a scrape job would have by itself are seen: the test can fail.
			if err := test("etcdkeeper", silent.String()); err == nil || !strings.Contains(err.Error(), "etcdInsufficientMembers") {
				t.Errorf("a job named etcdkeeper: got %v, want etcdInsufficientMembers to fire", err)
			}
		})
	}
}
