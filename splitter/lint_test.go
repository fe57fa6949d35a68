package splitter

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// rules are the findings' "rule:effect", in order.
func rules(r LintResult) string {
	var out []string
	for _, f := range r.Findings {
		out = append(out, f.Rule+":"+string(f.Effect))
	}
	return strings.Join(out, " ")
}

const (
	a = "https://10.0.0.1:2379"
	b = "https://10.0.0.2:2379"
	c = "https://10.0.0.3:2379"
)

func TestLintValue(t *testing.T) {
	for _, tt := range []struct {
		value, want, corrected string
	}{
		{"/events#" + a, "", ""},
		{"/events#" + a + ";" + b + ";" + c, "", ""},
		{"/events#" + a + ",coordination.k8s.io/leases#" + b, "", ""},
		{"/pods#" + a + ",/events#" + a, "", ""},
		{"--etcd-servers-overrides=/events#" + a, "", ""},
		{"--etcd-servers-overrides='/events#" + a + ";" + b + "'", "", ""},
		{"apps/deployments#" + a + ",batch/jobs#" + a + ",discovery.k8s.io/endpointslices#" + a, "", ""},
		{"/events#unix:///run/etcd.sock", "", ""},

		{"", "empty:inert", ""},
		{"/events#" + a + "," + b + "," + c, "comma-between-servers:refused", "/events#" + a + ";" + b + ";" + c},
		{"/events#" + a + ",10.0.0.2:2379", "comma-between-servers:refused bad-url:risky", "/events#" + a + ";10.0.0.2:2379"},
		{"/events#" + a + "," + b + ",coordination.k8s.io/leases#" + c, "comma-between-servers:refused", "/events#" + a + ";" + b + ",coordination.k8s.io/leases#" + c},
		{"/events#" + a + ";coordination.k8s.io/leases#" + b, "semicolon-between-overrides:refused", "/events#" + a + ",coordination.k8s.io/leases#" + b},
		{"/events#" + a + ",", "format:refused", "/events#" + a},
		{"/events#" + a + ",,/pods#" + b, "format:refused", "/events#" + a + ",/pods#" + b},
		{"/events", "format:refused", ""},
		{"/events=" + a, "format:refused", ""},
		{a, "format:refused", ""},
		{"/events#", "empty-server:refused", ""},
		{"/events#;", "empty-server:refused", ""},
		{"/events#" + a + ";", "empty-server:refused", "/events#" + a},
		{"/events#" + a + ";;" + b, "empty-server:refused", "/events#" + a + ";" + b},
		{"/events#" + a + "#" + b, "format:refused", ""},
		{`"/events#` + a, "csv:refused", "/events#" + a},

		{"events#" + a, "format:refused", "/events#" + a},
		{"leases.coordination.k8s.io#" + a, "format:refused", "coordination.k8s.io/leases#" + a},
		{"/registry/events#" + a, "registry-path:refused", "/events#" + a},
		{"/registry/events/#" + a, "registry-path:refused", "/events#" + a},
		{"/registry/minions#" + a, "registry-path:refused", "/nodes#" + a},
		{"/registry/services/specs#" + a, "registry-path:refused", "/services#" + a},
		{"registry/events#" + a, "registry-path:inert", "/events#" + a},
		{"coordination.k8s.io/v1/leases#" + a, "format:refused", "coordination.k8s.io/leases#" + a},
		{"/v1/events#" + a, "format:refused", "/events#" + a},
		{"/pods/status#" + a, "format:refused", ""},

		{"/event#" + a, "unknown-resource:inert", "/events#" + a},
		{"/Events#" + a, "unknown-resource:inert", "/events#" + a},
		{"/ev#" + a, "unknown-resource:inert", "/events#" + a},
		{"/Event#" + a, "unknown-resource:inert", "/events#" + a},
		{"/pod#" + a, "unknown-resource:inert", "/pods#" + a},
		{"/minions#" + a, "unknown-resource:inert", "/nodes#" + a},
		{"/foos#" + a, "unknown-resource:inert", ""},
		{"/#" + a, "unknown-resource:inert", ""},
		{" /events#" + a, "whitespace:inert", "/events#" + a},
		{"/pods#" + a + ", /events#" + a, "whitespace:inert", "/pods#" + a + ",/events#" + a},
		{"/events #" + a, "whitespace:inert", "/events#" + a},

		{"events.k8s.io/events#" + a, "inert-cohabiting:inert", "/events#" + a},
		{"events.k8s.io/event#" + a, "wrong-group:inert", "/events#" + a},
		{"events.k8s.io/*#" + a, "inert-cohabiting:inert", "/events#" + a},
		{"extensions/ingresses#" + a, "inert-cohabiting:inert", "networking.k8s.io/ingresses#" + a},
		{"apps/jobs#" + a, "wrong-group:inert", "batch/jobs#" + a},
		{"/leases#" + a, "wrong-group:inert", "coordination.k8s.io/leases#" + a},
		{"apps/pods#" + a, "wrong-group:inert", "/pods#" + a},
		{"core/events#" + a, "wrong-group:inert", "/events#" + a},
		{"v1/events#" + a, "wrong-group:inert", "/events#" + a},
		{"coordination/leases#" + a, "wrong-group:inert", "coordination.k8s.io/leases#" + a},
		{"argoproj.io/workflows#" + a, "custom-resource:inert", ""},
		{"example.com/pods#" + a, "custom-resource:inert", ""},
		{"metrics.k8s.io/pods#" + a, "custom-resource:inert", ""},
		{"apiextensions.k8s.io/customresourcedefinitions#" + a, "not-overridable:inert", ""},
		{"apiregistration.k8s.io/apiservices#" + a, "not-overridable:inert", ""},
		{"authentication.k8s.io/tokenreviews#" + a, "not-stored:inert", ""},
		{"/componentstatuses#" + a, "not-stored:inert", ""},
		{"apps/*#" + a, "wildcard:risky", ""},

		{"/events#" + a + ",/events#" + b, "duplicate-override:risky", ""},
		{"/events#" + a + ",/events#" + a, "duplicate-override:risky", "/events#" + a},
		{"/events#" + a + ";" + a, "duplicate-server:risky", ""},
		{"/events#10.0.0.1:2379", "bad-url:risky", ""},
		{"/events#https://10.0.0.1", "bad-url:broken", ""},
		{"/events#htps://10.0.0.1:2379", "bad-url:broken", ""},
		{"/events#https://:2379", "bad-url:broken", ""},
		{"/events#https://10.0.0.1:23790000", "bad-url:broken", ""},
		{"/events#https://10.0.0.1:2379/v3", "bad-url:risky", ""},
		{"/events#https://10.0.0.1:2379/", "", ""},
		{"/events#" + a + "; " + b, "whitespace:broken", "/events#" + a + ";" + b},
		{"/events#" + a + ";http://10.0.0.2:2379", "scheme-mix:broken", ""},
		{"/events#https://etcd-events.kube-system.svc:2379", "in-cluster:risky", ""},
		{"/events#https://etcd-events.kube-system.svc.cluster.local:2379", "in-cluster:risky", ""},
		{"/events#https://etcd-events-0.etcd.kube-system.svc.corp.example:2379", "in-cluster:risky", ""},
		{"/events#https://etcd-events.kube-system:2379", "in-cluster:risky", ""},
		{"/events#https://svc.example.com:2379", "", ""},
		{"/events#https://etcd.example:2379", "", ""},
		{"/events#" + a + ";" + b + ",/pods#" + b + ";" + a, "", ""},
		{"/events#" + a + ";" + b + ",/pods#" + b + ";" + c, "overlapping-sets:risky", ""},
	} {
		t.Run(tt.value, func(t *testing.T) {
			got := LintValue(tt.value, LintOptions{})
			if rules(got) != tt.want {
				t.Errorf("got %q, want %q\n%+v", rules(got), tt.want, got.Findings)
			}
			corrected := ""
			if got.Corrected != nil {
				corrected = *got.Corrected
			}
			if tt.corrected != corrected && !(tt.corrected == "" && strings.Contains(tt.want, "risky")) {
				t.Errorf("got corrected %q, want %q", corrected, tt.corrected)
			}
			for _, f := range got.Findings {
				if f.Fix == "" || f.Message == "" {
					t.Errorf("finding without message or fix: %+v", f)
				}
			}
		})
	}
}

func TestLintValue_MainServers(t *testing.T) {
	for _, tt := range []struct{ value, main, want string }{
		{"/events#" + a, a + "," + b, "shared-with-main:inert"},
		{"/events#" + a + ";" + c, a + "," + b, "shared-with-main:broken"},
		{"/events#" + c, a + "," + b, ""},
		{"/events#https://127.0.0.1:2379", "https://localhost:2379", "shared-with-main:inert"},
		{"/events#https://[::1]:2379", "https://127.0.0.1:2379", "shared-with-main:inert"},
		{"/events#https://127.0.0.1:2383", "https://127.0.0.1:2379", ""},
		{"/events#HTTPS://10.0.0.1:2379/", a, "shared-with-main:inert"},
		{"/events#http://10.0.0.9:2379", a, "plaintext-shard:risky"},
	} {
		got := LintValue(tt.value, LintOptions{MainServers: strings.Split(tt.main, ",")})
		if rules(got) != tt.want {
			t.Errorf("%s beside %s: got %q, want %q", tt.value, tt.main, rules(got), tt.want)
		}
	}
}

func TestLintValue_HealthChecks(t *testing.T) {
	got := LintValue("/events#"+a+";"+b+",/pods#"+c+",coordination.k8s.io/leases#"+b+";"+a, LintOptions{})
	var checks []string
	for _, o := range got.Overrides {
		checks = append(checks, o.Check)
	}
	if want := []string{"etcd-override-0", "etcd-override-1", "etcd-override-0"}; !slices.Equal(checks, want) {
		t.Errorf("got %v, want %v", checks, want)
	}
}

func pod(command, probes string) string {
	return "apiVersion: v1\nkind: Pod\nmetadata: {name: kube-apiserver, namespace: kube-system}\nspec:\n  hostNetwork: true\n  containers:\n  - name: kube-apiserver\n    image: registry.k8s.io/kube-apiserver:v1.36.3\n" + command + probes
}

const (
	excluding = "    livenessProbe: {httpGet: {path: \"/livez?exclude=etcd-override-0\", port: 6443}}\n    startupProbe: {httpGet: {path: \"/livez?exclude=etcd-override-0\", port: 6443}}\n"
	plain     = "    livenessProbe: {httpGet: {path: /livez, port: 6443}}\n    startupProbe: {httpGet: {path: /livez, port: 6443}}\n    readinessProbe: {httpGet: {path: /readyz, port: 6443}}\n"
)

func TestLintManifest(t *testing.T) {
	tls := "    - --etcd-cafile=/ca\n    - --etcd-certfile=/crt\n    - --etcd-keyfile=/key\n"
	good := "    command:\n    - kube-apiserver\n    - --etcd-servers=https://127.0.0.1:2379\n" + tls
	for _, tt := range []struct{ name, manifest, want string }{
		{"no override", pod(good, plain), ""},
		{"excluded", pod(good+"    - --etcd-servers-overrides=/events#"+a+"\n", excluding), ""},
		{"etcd group excluded", pod(good+"    - --etcd-servers-overrides=/events#"+a+"\n", "    livenessProbe: {httpGet: {path: \"/livez?exclude=etcd\", port: 6443}}\n"), ""},
		{"one check asked", pod(good+"    - --etcd-servers-overrides=/events#"+a+"\n", "    livenessProbe: {httpGet: {path: \"/livez/ping\", port: 6443}}\n"), ""},
		{"no probes", pod(good+"    - --etcd-servers-overrides=/events#"+a+"\n", ""), ""},
		{"plain probes", pod(good+"    - --etcd-servers-overrides=/events#"+a+"\n", plain), "probe-exclusion:risky probe-exclusion:risky"},
		{"wrong index", pod(good+"    - --etcd-servers-overrides=/events#"+a+",/pods#"+b+"\n", excluding), "probe-exclusion:risky probe-exclusion:risky"},
		{"exec probe", pod(good+"    - --etcd-servers-overrides=/events#"+a+"\n", "    livenessProbe: {exec: {command: [curl, -fk, \"https://127.0.0.1:6443/livez\"]}}\n"), "probe-exclusion:risky"},
		{"flag and value apart", pod(good+"    - --etcd-servers-overrides\n    - /event#"+a+"\n", excluding), "unknown-resource:inert"},
		{"args", pod("    command: [kube-apiserver]\n    args: [\"--etcd-servers=https://127.0.0.1:2379\", \"--etcd-servers-overrides=/events#https://127.0.0.1:2379\"]\n", excluding), "no-client-certificate:broken shared-with-main:inert"},
		{"twice", pod(good+"    - --etcd-servers-overrides=/events#"+a+"\n    - --etcd-servers-overrides=/pods#"+a+"\n", excluding), ""},
		{"environment", pod(good+"    - --etcd-servers-overrides=/events#$(SHARD)\n    env: [{name: SHARD, value: \"https://x.svc:2379\"}]\n", excluding), "in-cluster:risky"},
		{"service address", pod(good+"    - --service-cluster-ip-range=10.96.0.0/12\n    - --etcd-servers-overrides=/events#https://10.96.3.4:2379\n", excluding), "in-cluster:risky"},
		{"shell", pod("    command: [/bin/sh, -c, \"exec kube-apiserver --etcd-servers-overrides=/events#"+a+";"+b+"\"]\n", ""), "shell:broken"},
		{"shell quoted", pod("    command: [/bin/sh, -c, \"exec kube-apiserver --etcd-servers-overrides='/events#"+a+";"+b+"'\"]\n", ""), ""},
		{"deployment", "kind: Deployment\nmetadata: {name: apiserver}\nspec: {template: {spec: {containers: [{name: x, command: [/hyperkube, kube-apiserver, \"--etcd-servers-overrides=/event#" + a + "\"]}]}}}", "unknown-resource:inert"},
		{"kubeadm v1beta4", "kind: ClusterConfiguration\napiServer:\n  extraArgs:\n  - {name: etcd-servers-overrides, value: \"/events#" + a + "\"}\n", "probe-exclusion:risky"},
		{"kubeadm v1beta3", "kind: ClusterConfiguration\napiServer:\n  extraArgs:\n    etcd-servers-overrides: /registry/events#" + a + "\n", "registry-path:refused probe-exclusion:risky"},
		{"kubeadm patched", "kind: ClusterConfiguration\napiServer:\n  extraArgs:\n    etcd-servers-overrides: /events#" + a + "\n---\nkind: InitConfiguration\npatches: {directory: /etc/p}\n", ""},
		{"kops", "kind: Cluster\nmetadata: {name: k}\nspec: {kubeAPIServer: {etcdServersOverrides: [\"/events#" + a + "," + b + "\"]}}", "comma-between-servers:refused"},
		{"two documents", "kind: ConfigMap\nmetadata: {name: x}\n---\n" + pod(good+"    - --etcd-servers-overrides=/event#"+a+"\n", excluding), "unknown-resource:inert"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := LintManifest("m.yaml", []byte(tt.manifest))
			if err != nil {
				t.Fatal(err)
			}
			if rules(got) != tt.want {
				t.Errorf("got %q, want %q\n%+v", rules(got), tt.want, got.Findings)
			}
		})
	}
}

func TestLintManifest_Refuses(t *testing.T) {
	for _, bad := range []string{"", "kind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: etcd}]}", "just text"} {
		if _, err := LintManifest("m", []byte(bad)); !errors.Is(err, ErrNoAPIServer) {
			t.Errorf("%q: got %v, want ErrNoAPIServer", bad, err)
		}
	}
	for _, bad := range []string{"kind: Pod\n\tspec: x", "{", "kind: Pod\nspec: 3"} {
		if _, err := LintManifest("m", []byte(bad)); err == nil || errors.Is(err, ErrNoAPIServer) {
			t.Errorf("%q: got %v, want a parse error", bad, err)
		}
	}
}

func TestParseResource(t *testing.T) {
	for in, want := range map[string]string{
		"events": "/events", "Event": "/events", "ev": "/events", "/events": "/events", "events.events.k8s.io": "/events",
		"events.k8s.io/events": "/events", "leases": "coordination.k8s.io/leases", "leases.coordination.k8s.io": "coordination.k8s.io/leases",
		"pods": "/pods", "jobs": "batch/jobs", "endpointslices": "discovery.k8s.io/endpointslices",
	} {
		if got, ok := ParseResource(in); !ok || got.String() != want {
			t.Errorf("%q: got %s %v, want %s", in, got, ok, want)
		}
	}
	for _, in := range []string{"", "foos", "workflows.argoproj.io", "customresourcedefinitions.apiextensions.k8s.io"} {
		if got, ok := ParseResource(in); ok {
			t.Errorf("%q: got %s, want none", in, got)
		}
	}
}

func FuzzLintValue(f *testing.F) {
	for _, s := range []string{"/events#" + a, "/events#a,b;c#d", "\"", "a/b/c#;", "//#:", "#", "/e#[::1", ",,#;#"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		res := LintValue(s, LintOptions{MainServers: []string{a}})
		if res.Corrected == nil {
			return
		}
		// A corrected value must not be refused.
		for _, x := range LintValue(*res.Corrected, LintOptions{MainServers: []string{a}}).Findings {
			if x.Effect == Refused && x.Rule != "csv" {
				t.Fatalf("%q was corrected to %q, which is refused: %+v", s, *res.Corrected, x)
			}
		}
	})
}

func FuzzLintManifest(f *testing.F) {
	f.Add([]byte(pod("    command: [kube-apiserver, \"--etcd-servers-overrides=/events#x\"]\n", plain)))
	f.Add([]byte("kind: ClusterConfiguration\napiServer: {extraArgs: {a: b}}"))
	f.Fuzz(func(t *testing.T, data []byte) { _, _ = LintManifest("m", data) })
}

func ExampleLintValue() {
	for _, f := range LintValue("/event#https://10.0.0.1:2379", LintOptions{}).Findings {
		fmt.Println(f.Effect, f.Fix)
	}
	// Output: inert write /events
}
