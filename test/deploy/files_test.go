// Package deploy checks what is under deploy/: that it is consistent, that the real tools and a real API server take it,
// and that a real Prometheus shows what it promises.
package deploy

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/etcdkeeper/etcdkeeper/config"
)

const root = "../../"

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(root + path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// rules is the part of a rule file that the tests look at.
type rules struct {
	Groups []struct {
		Name  string `json:"name"`
		Rules []rule `json:"rules"`
	} `json:"groups"`
}

type rule struct {
	Record      string            `json:"record"`
	Alert       string            `json:"alert"`
	Expr        string            `json:"expr"`
	For         string            `json:"for"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

func shippedRules(t *testing.T) []rule {
	t.Helper()
	var f rules
	if err := yaml.UnmarshalStrict(read(t, "deploy/prometheus/rules.yaml"), &f); err != nil {
		t.Fatal(err)
	}
	var all []rule
	for _, g := range f.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

// The chart and kustomize carry copies, since both refuse files from outside of their own directory.
func TestCopies_AreCurrent(t *testing.T) {
	for copied, source := range map[string]string{
		"deploy/helm/etcdkeeper/files/rules.yaml":     "deploy/prometheus/rules.yaml",
		"deploy/helm/etcdkeeper/files/dashboard.json": "deploy/grafana/etcdkeeper.json",
		"deploy/kustomize/monitoring/dashboard.json":  "deploy/grafana/etcdkeeper.json",
	} {
		if !bytes.Equal(read(t, copied), read(t, source)) {
			t.Errorf("%s differs from %s: run make deploy-generate", copied, source)
		}
	}
	var wrapped struct {
		Spec rules `json:"spec"`
	}
	if err := yaml.Unmarshal(read(t, "deploy/kustomize/monitoring/prometheusrule.yaml"), &wrapped); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, g := range wrapped.Spec.Groups {
		n += len(g.Rules)
	}
	if want := len(shippedRules(t)); n != want {
		t.Errorf("prometheusrule.yaml has %d rules, rules.yaml %d: run make deploy-generate", n, want)
	}
}

func TestRules_EveryAlertIsTestedAndHasARunbook(t *testing.T) {
	tests := string(read(t, "deploy/prometheus/rules.test.yaml"))
	runbooks := map[string]bool{}
	for _, r := range shippedRules(t) {
		if r.Alert == "" {
			continue
		}
		runbooks[r.Alert+".md"] = true
		page, err := os.ReadFile(root + "docs/runbooks/" + r.Alert + ".md")
		if err != nil {
			t.Errorf("alert %s: %v", r.Alert, err)
			continue
		}
		if !strings.HasPrefix(string(page), "# "+r.Alert+"\n") {
			t.Errorf("the runbook of %s does not begin with its name", r.Alert)
		}
		if !strings.HasSuffix(r.Annotations["runbook_url"], "/docs/runbooks/"+r.Alert+".md") {
			t.Errorf("alert %s: its runbook_url is %q", r.Alert, r.Annotations["runbook_url"])
		}
		if r.For == "" || r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("alert %s lacks for, severity, summary or description", r.Alert)
		}
		firing := regexp.MustCompile(`alertname: ` + r.Alert + `\n +exp_alerts:\n +- exp_labels`)
		if !strings.Contains(tests, "alertname: "+r.Alert+", exp_alerts: []}") || !firing.MatchString(tests) {
			t.Errorf("alert %s is not tested both silent and firing", r.Alert)
		}
	}
	pages, err := filepath.Glob(root + "docs/runbooks/Etcdkeeper*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pages {
		if !runbooks[filepath.Base(p)] {
			t.Errorf("%s is the runbook of no alert", p)
		}
	}
}

// exported are the names that the binary exports: docs/metrics.md is generated from the daemon's own registry and
// compared with it by make docs-check.
func exported(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)`").FindAllStringSubmatch(string(read(t, "docs/metrics.md")), -1) {
		names[m[1]] = true
	}
	if len(names) < 30 {
		t.Fatalf("docs/metrics.md names %d metrics", len(names))
	}
	for _, n := range []string{"up", "process_resident_memory_bytes", "process_cpu_seconds_total"} {
		names[n] = true
	}
	for _, r := range shippedRules(t) {
		if r.Record != "" {
			names[r.Record] = true
		}
	}
	return names
}

var metricName = regexp.MustCompile(`\b((?:etcdkeeper|process|keeper|go|etcd)[a-z0-9_:]*_[a-z0-9_:]+|up)\s*[{(\[]`)

func wantExported(t *testing.T, names map[string]bool, where, expr string) {
	t.Helper()
	found := 0
	for _, m := range metricName.FindAllStringSubmatch(expr+"{", -1) {
		found++
		name := m[1]
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if base, ok := strings.CutSuffix(name, suffix); ok && names[base] {
				name = base
			}
		}
		if !names[name] {
			t.Errorf("%s asks for %s, which the binary does not export", where, m[1])
		}
	}
	if found == 0 && !strings.Contains(expr, "keeper:") {
		t.Errorf("%s: no metric was recognised in %q", where, expr)
	}
}

func TestRules_AskForWhatIsExported(t *testing.T) {
	names := exported(t)
	for _, r := range shippedRules(t) {
		wantExported(t, names, r.Alert+r.Record, r.Expr)
	}
}

// dashboard is the part of it that the tests look at.
type dashboard struct {
	Title  string `json:"title"`
	Panels []struct {
		ID      int    `json:"id"`
		Type    string `json:"type"`
		Title   string `json:"title"`
		GridPos struct {
			X, Y, W, H int
		} `json:"gridPos"`
		Targets []struct {
			Expr string `json:"expr"`
		} `json:"targets"`
	} `json:"panels"`
}

func shippedDashboard(t *testing.T) dashboard {
	t.Helper()
	var d dashboard
	if err := json.Unmarshal(read(t, "deploy/grafana/etcdkeeper.json"), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDashboard_AsksForWhatIsExported(t *testing.T) {
	names := exported(t)
	d := shippedDashboard(t)
	ids := map[int]bool{}
	for _, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("panel id %d is used twice", p.ID)
		}
		ids[p.ID] = true
		if p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %q reaches out of the grid", p.Title)
		}
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q asks for nothing", p.Title)
		}
		for _, q := range p.Targets {
			wantExported(t, names, "panel "+p.Title, q.Expr)
		}
	}
	if len(d.Panels) < 20 {
		t.Errorf("got %d panels", len(d.Panels))
	}
}

// Every configuration file that is shipped is one that the binary takes.
func TestConfigurations_AreValid(t *testing.T) {
	found := 0
	err := filepath.WalkDir(root+"deploy", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasPrefix(e.Name(), "etcdkeeper") || filepath.Ext(path) != ".yaml" {
			return err
		}
		found++
		if _, err := config.Load(config.Options{File: path}); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if found < 4 {
		t.Errorf("found %d configuration files", found)
	}
}

// The schema of the chart's values knows the sections of the configuration file, so that a misspelt one is refused before
// a pod fails on it.
func TestChart_KnowsTheSections(t *testing.T) {
	var schema struct {
		Properties struct {
			Config struct {
				AdditionalProperties *bool
				Properties           map[string]any
			}
		}
	}
	if err := json.Unmarshal(read(t, "deploy/helm/etcdkeeper/values.schema.json"), &schema); err != nil {
		t.Fatal(err)
	}
	got := schema.Properties.Config
	if got.AdditionalProperties == nil || *got.AdditionalProperties {
		t.Error("config: unknown sections are taken")
	}
	want := map[string]bool{}
	for _, k := range config.Keys() {
		section, _, _ := strings.Cut(k.Path, ".")
		want[section] = true
		if _, ok := got.Properties[section]; !ok {
			t.Errorf("values.schema.json does not know the section %s", section)
		}
	}
	for section := range got.Properties {
		if !want[section] {
			t.Errorf("values.schema.json knows %s, which is no section of the configuration", section)
		}
	}
}

// Every ETCDKEEPER_ variable in a shipped file is one that the binary reads.
func TestVariables_AreKnown(t *testing.T) {
	known := string(read(t, "docs/configuration.md"))
	paths := map[string]bool{}
	for _, k := range config.Keys() {
		paths["ETCDKEEPER_"+strings.ToUpper(strings.ReplaceAll(k.Path, ".", "_"))] = true
	}
	variable := regexp.MustCompile(`\bETCDKEEPER_[A-Z_]+[A-Z]`)
	err := filepath.WalkDir(root+"deploy", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, v := range variable.FindAllString(string(b), -1) {
			if !paths[v] && !strings.Contains(known, "`"+v+"`") && v != "ETCDKEEPER_USER" && v != "ETCDKEEPER_PASSWORD" && v != "ETCDKEEPER_ETCD" {
				t.Errorf("%s: the binary does not read %s", path, v)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
