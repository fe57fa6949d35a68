package deploy

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
)

// patience is for machines of any speed.
const patience = 3 * time.Minute

func TestPromtool(t *testing.T) {
	testproc.RequireReal(t)
	promtool := testproc.Installed(t, "promtool", "prometheus")
	mustRun(t, nil, promtool, "check", "rules", "deploy/prometheus/rules.yaml")
	mustRun(t, nil, promtool, "check", "config", "deploy/prometheus/scrape.yaml")
	mustRun(t, nil, promtool, "test", "rules", "deploy/prometheus/rules.test.yaml")
}

// binary is the keeper, built for this test.
func binary(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "etcdkeeper")
	mustRun(t, nil, "go", "build", "-o", path, "./cmd/etcdkeeper")
	return path
}

// keeper is one running daemon.
type keeper struct {
	listen, probes string
	spec           testproc.Spec
	process        *testproc.Process
}

func startKeeper(t *testing.T, path, name string, args ...string) *keeper {
	t.Helper()
	ports := testproc.Ports(t, 2)
	k := &keeper{listen: fmt.Sprintf("127.0.0.1:%d", ports[0]), probes: fmt.Sprintf("127.0.0.1:%d", ports[1])}
	k.spec = testproc.Spec{
		Name: name, Path: path, Log: filepath.Join(t.TempDir(), name+".log"),
		Args: append([]string{"run", "--listen", k.listen, "--probe-listen", k.probes, "--watch-interval", "1s"}, args...),
	}
	k.start(t)
	t.Cleanup(func() { k.process.Kill() })
	return k
}

func (k *keeper) start(t *testing.T) {
	t.Helper()
	var err error
	if k.process, err = testproc.StartProcess(k.spec); err != nil {
		t.Fatal(err)
	}
}

func within(t *testing.T, what string, done func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if err = done(); err == nil {
			return
		}
	}
	t.Fatalf("%s: not within %s: %v", what, patience, err)
}

func get(url string) (int, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	var b strings.Builder
	buf := make([]byte, 32<<10)
	for {
		n, err := resp.Body.Read(buf)
		b.Write(buf[:n])
		if err != nil {
			return resp.StatusCode, b.String(), nil
		}
	}
}

// prometheusAPI asks the server and decodes its data.
func prometheusAPI(base, path string, into any) error {
	code, body, err := get(base + path)
	if err != nil {
		return err
	}
	var answer struct {
		Status string          `json:"status"`
		Error  string          `json:"error"`
		Data   json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		return fmt.Errorf("HTTP %d: %w", code, err)
	}
	if answer.Status != "success" {
		return fmt.Errorf("HTTP %d: %s", code, answer.Error)
	}
	return json.Unmarshal(answer.Data, into)
}

// query is the number of series that an expression has now.
func query(base, expr string) (int, error) {
	var data struct {
		Result []json.RawMessage `json:"result"`
	}
	err := prometheusAPI(base, "/api/v1/query?query="+url.QueryEscape(expr), &data)
	return len(data.Result), err
}

// firing are the names of the alerts that fire.
func firing(base string) ([]string, error) {
	var data struct {
		Alerts []struct {
			Labels map[string]string `json:"labels"`
			State  string            `json:"state"`
		} `json:"alerts"`
	}
	if err := prometheusAPI(base, "/api/v1/alerts", &data); err != nil {
		return nil, err
	}
	var names []string
	for _, a := range data.Alerts {
		if a.State == "firing" {
			names = append(names, a.Labels["alertname"])
		}
	}
	return names, nil
}

func wantFiring(t *testing.T, base, alert string, want bool) {
	t.Helper()
	within(t, fmt.Sprintf("alert %s firing = %v", alert, want), func() error {
		names, err := firing(base)
		if err == nil && slices.Contains(names, alert) != want {
			err = fmt.Errorf("firing are %v", names)
		}
		return err
	})
}

// waits are the times that an alert of a rule file in YAML, or one in JSON, waits for before it fires.
var (
	waits   = regexp.MustCompile(`(?m)^(\s+for:) \S+$`)
	jsonFor = regexp.MustCompile(`"for": "[0-9a-z]+"`)
)

// startPrometheus starts a server that scrapes the targets and evaluates the shipped rules and etcd's own every second,
// without waiting before an alert fires, and with thresholds that a short test reaches.
func startPrometheus(t *testing.T, targets []string) string {
	t.Helper()
	program := testproc.Installed(t, "prometheus", "prometheus")
	dir := t.TempDir()
	rules := waits.ReplaceAllString(string(read(t, "deploy/prometheus/rules.yaml")), "$1 1s")
	for long, short := range shortened {
		if !strings.Contains(rules, long) {
			t.Fatalf("rules.yaml has no %q to shorten", long)
		}
		rules = strings.ReplaceAll(rules, long, short)
	}
	write(t, filepath.Join(dir, "rules.yaml"), rules)
	etcdRules(t, filepath.Join(dir, "etcd.yaml"))
	write(t, filepath.Join(dir, "prometheus.yml"), fmt.Sprintf(`global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [rules.yaml, etcd.yaml]
scrape_configs:
- job_name: keeper
  static_configs: [{targets: [%s]}]
`, strings.Join(targets, ", ")))
	address := fmt.Sprintf("127.0.0.1:%d", testproc.Ports(t, 1)[0])
	p, err := testproc.StartProcess(testproc.Spec{
		Name: "prometheus", Path: program, Log: filepath.Join(dir, "prometheus.log"),
		Args: []string{"--config.file=" + dir + "/prometheus.yml", "--storage.tsdb.path=" + dir + "/data", "--web.listen-address=" + address},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Kill() })
	base := "http://" + address
	within(t, "prometheus serves", func() error {
		code, _, err := get(base + "/-/ready")
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("HTTP %d: %s", code, p.LogTail(5))
		}
		return err
	})
	return base
}

func wantHealthyRules(t *testing.T, base string) {
	t.Helper()
	var data struct {
		Groups []struct {
			File  string `json:"file"`
			Rules []struct {
				Name, Health, LastError string
			} `json:"rules"`
		} `json:"groups"`
	}
	within(t, "every rule is evaluated", func() error {
		if err := prometheusAPI(base, "/api/v1/rules", &data); err != nil {
			return err
		}
		n := 0
		for _, g := range data.Groups {
			for _, r := range g.Rules {
				if g.File != "" && !strings.HasSuffix(g.File, "/rules.yaml") {
					continue // etcd's own
				}
				if n++; r.Health != "ok" {
					return fmt.Errorf("rule %s is %s: %s", r.Name, r.Health, r.LastError)
				}
			}
		}
		if want := len(shippedRules(t)); n != want {
			return fmt.Errorf("got %d rules, want %d", n, want)
		}
		return nil
	})
}
