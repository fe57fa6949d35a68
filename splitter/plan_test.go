package splitter

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the golden files")

func planOptions(i Installer, resources ...string) PlanOptions {
	return PlanOptions{Resources: resources, Installer: i, MainURLs: []string{"https://10.0.0.1:2379"},
		Hosts: []Host{{"cp-0", "10.0.1.1"}, {"cp-1", "10.0.1.2"}, {"cp-2", "fd00::3"}}}
}

func TestPlan_Files(t *testing.T) {
	for _, installer := range Installers() {
		for _, resource := range []string{"events", "leases"} {
			t.Run(string(installer)+" "+resource, func(t *testing.T) {
				p, err := NewPlan(evidence(func(*Evidence) {}), DefaultPolicy(), planOptions(installer, resource))
				if err != nil {
					t.Fatal(err)
				}
				if len(p.Findings) > 0 {
					t.Errorf("the plan's own override has findings: %+v", p.Findings)
				}
				files, err := p.Files()
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range files {
					golden(t, filepath.Join(string(installer)+"-"+resource, f.Name), f.Data)
					if strings.HasPrefix(f.Name, "manifests/") {
						var pod corev1.Pod
						if err := yaml.UnmarshalStrict(f.Data, &pod); err != nil {
							t.Errorf("%s: %v", f.Name, err)
						}
					}
				}
			})
		}
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", "plan", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != string(got) {
		t.Errorf("%s differs from the golden file; run go test ./splitter -update and look at the change", name)
	}
}

// A kube-apiserver manifest with the plan's flag and probes passes the linter.
func TestPlan_LintsItself(t *testing.T) {
	p, err := NewPlan(Evidence{}, DefaultPolicy(), planOptions(StaticPods, "events", "leases"))
	if err != nil {
		t.Fatal(err)
	}
	manifest := pod("    command:\n    - kube-apiserver\n    - --etcd-servers=https://10.0.0.1:2379\n    - --etcd-cafile=a\n    - --etcd-certfile=b\n    - --etcd-keyfile=c\n    - --etcd-servers-overrides="+p.Override+"\n",
		"    livenessProbe: {httpGet: {path: \"/livez?"+p.exclusion()+"\"}}\n")
	res, err := LintManifest("m", []byte(manifest))
	if err != nil || len(res.Findings) > 0 {
		t.Errorf("got %v %+v", err, res.Findings)
	}
	if p.Rolling {
		t.Error("leases must not be moved one API server after the other")
	}
	if !strings.Contains(strings.Join(p.Notes, " "), "no sizes were measured") {
		t.Errorf("got notes %q", p.Notes)
	}
}

func TestNewPlan_Refuses(t *testing.T) {
	for name, o := range map[string]PlanOptions{
		"no resource":        planOptions(StaticPods),
		"custom resource":    planOptions(StaticPods, "workflows.argoproj.io"),
		"unknown installer":  planOptions("rke", "events"),
		"no host":            {Resources: []string{"events"}, Installer: StaticPods},
		"host twice":         {Resources: []string{"events"}, Installer: StaticPods, Hosts: []Host{{"a", "1.1.1.1"}, {"b", "1.1.1.1"}}},
		"host without name":  {Resources: []string{"events"}, Installer: StaticPods, Hosts: []Host{{"", "1.1.1.1"}}},
		"one port":           {Resources: []string{"events"}, Installer: StaticPods, Hosts: []Host{{"a", "1.1.1.1"}}, ClientPort: 2383, PeerPort: 2383},
		"relative directory": {Resources: []string{"events"}, Installer: StaticPods, Hosts: []Host{{"a", "1.1.1.1"}}, DataDir: "x"},
	} {
		if _, err := NewPlan(Evidence{}, DefaultPolicy(), o); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}

func TestReadPlan(t *testing.T) {
	p, err := NewPlan(Evidence{}, DefaultPolicy(), planOptions(Kubeadm, "events"))
	if err != nil {
		t.Fatal(err)
	}
	data, err := p.JSON()
	if err != nil {
		t.Fatal(err)
	}
	back, err := ReadPlan(data)
	if err != nil || back.Override != p.Override {
		t.Errorf("got %v, %v", back, err)
	}
	for _, bad := range []string{"{", `{"version":7}`} {
		if _, err := ReadPlan([]byte(bad)); err == nil {
			t.Errorf("%s: got no error", bad)
		}
	}
}
