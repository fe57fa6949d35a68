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
		"no such port":       {Resources: []string{"events"}, Installer: StaticPods, Hosts: []Host{{"a", "1.1.1.1"}}, ClientPort: 70000},
		"relative directory": {Resources: []string{"events"}, Installer: StaticPods, Hosts: []Host{{"a", "1.1.1.1"}}, DataDir: "x"},
	} {
		if _, err := NewPlan(Evidence{}, DefaultPolicy(), o); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	for name, c := range map[string]struct {
		change func(*PlanOptions)
		want   string
	}{
		"kOps has no shard for pods":     {func(o *PlanOptions) { o.Resources = []string{"pods"} }, "events and for leases only"},
		"kOps has one resource a shard":  {func(o *PlanOptions) { o.Resources = []string{"events", "leases"} }, "events and for leases only"},
		"kOps has its own ports":         {func(o *PlanOptions) { o.ClientPort = 2383 }, "kops uses 4002"},
		"kOps wants odd members":         {func(o *PlanOptions) { o.Hosts = o.Hosts[:2] }, "odd number"},
		"kubespray has its own ports":    {func(o *PlanOptions) { o.Installer, o.PeerPort = Kubespray, 2400 }, "kubespray uses 2382"},
		"an installer that is not known": {func(o *PlanOptions) { o.Installer = "Kops" }, "want one of"},
	} {
		o := planOptions(Kops, "events")
		c.change(&o)
		if _, err := NewPlan(Evidence{}, DefaultPolicy(), o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

// The installers that start the members themselves decide ports and names.
func TestPlan_InstallersOwn(t *testing.T) {
	for _, c := range []struct {
		installer          Installer
		resource, override string
		shard, initial     string
	}{
		{Kops, "events", "/events#https://127.0.0.1:4002", "https://10.0.1.1:4002", "etcd-events-cp-0=https://10.0.1.1:2381"},
		{Kops, "leases", "coordination.k8s.io/leases#https://127.0.0.1:4004", "https://10.0.1.1:4004", "etcd-leases-cp-0=https://10.0.1.1:2383"},
		{Kubespray, "events", "/events#https://10.0.1.1:2383;https://10.0.1.2:2383;https://[fd00::3]:2383", "https://10.0.1.1:2383", "cp-0-events=https://10.0.1.1:2382"},
		{Kubespray, "pods", "/pods#https://10.0.1.1:2383;https://10.0.1.2:2383;https://[fd00::3]:2383", "https://10.0.1.1:2383", "etcd-pods-cp-0=https://10.0.1.1:2382"},
	} {
		p, err := NewPlan(Evidence{}, DefaultPolicy(), planOptions(c.installer, c.resource))
		if err != nil {
			t.Fatal(err)
		}
		initial, _, _ := strings.Cut(p.InitialCluster, ",")
		if p.Override != c.override || p.ShardServers[0] != c.shard || initial != c.initial {
			t.Errorf("%s %s: got %s, %s, %s", c.installer, c.resource, p.Override, p.ShardServers[0], initial)
		}
	}
}

// kubespray has one quota for all its etcd clusters: the shard's must not lower main's.
func TestPlan_KubesprayQuota(t *testing.T) {
	for quota, want := range map[float64]string{8 << 30: "8589934592", 1 << 30: "2147483648", 0: ""} {
		e := evidence(func(e *Evidence) {
			e.Stress.QuotaBytes = nil
			if quota > 0 {
				e.Stress.QuotaBytes = figure(quota, FromStatus, Exact)
			}
		})
		p, err := NewPlan(e, DefaultPolicy(), planOptions(Kubespray, "events"))
		if err != nil {
			t.Fatal(err)
		}
		files, err := p.kubesprayFiles()
		if err != nil {
			t.Fatal(err)
		}
		var vars map[string]any
		if err := yaml.UnmarshalStrict(files[0].Data, &vars); err != nil {
			t.Fatal(err)
		}
		if got, _ := vars["etcd_quota_backend_bytes"].(string); got != want {
			t.Errorf("main's quota %g: got %q, want %q", quota, got, want)
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
	files, err := back.Files()
	if err != nil || len(files) == 0 {
		t.Errorf("files of a plan that was read: %v", err)
	}
	for _, bad := range []string{"{", `{"version":7}`, `{"version":1,"resources":["x.example.com"]}`} {
		if _, err := ReadPlan([]byte(bad)); err == nil {
			t.Errorf("%s: got no error", bad)
		}
	}
}
