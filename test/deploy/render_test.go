package deploy

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/internal/kubetest"
	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
)

const chart = "deploy/helm/etcdkeeper"

// run runs a program in the repository's root.
func run(t *testing.T, env []string, program string, args ...string) (string, error) {
	t.Helper()
	return runIn(t, root, env, program, args...)
}

func runIn(t *testing.T, dir string, env []string, program string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	var errout strings.Builder
	cmd.Stderr = &errout
	out, err := cmd.Output()
	return string(out) + errout.String(), err
}

func mustRun(t *testing.T, env []string, program string, args ...string) string {
	t.Helper()
	out, err := run(t, env, program, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(program), strings.Join(args, " "), err, out)
	}
	return out
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// helm is the program and an environment in which it leaves nothing outside of the test's directory.
func helm(t *testing.T) (string, []string) {
	t.Helper()
	testproc.RequireReal(t)
	dir := t.TempDir()
	return testproc.Tool(t, "helm"), []string{"HELM_CACHE_HOME=" + dir, "HELM_CONFIG_HOME=" + dir, "HELM_DATA_HOME=" + dir}
}

// podMonitor and prometheusRule are what the tests decode the Prometheus operator's types into: the fields in use, so
// that one that is misspelt is found.
type podMonitor struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Selector            metav1.LabelSelector `json:"selector"`
		PodMetricsEndpoints []struct {
			Port          string         `json:"port"`
			Path          string         `json:"path"`
			Interval      string         `json:"interval"`
			ScrapeTimeout string         `json:"scrapeTimeout"`
			Scheme        string         `json:"scheme"`
			TLSConfig     map[string]any `json:"tlsConfig"`
			BasicAuth     map[string]any `json:"basicAuth"`
			Relabelings   []struct {
				Action      string `json:"action"`
				TargetLabel string `json:"targetLabel"`
				Replacement string `json:"replacement"`
			} `json:"relabelings"`
		} `json:"podMetricsEndpoints"`
	} `json:"spec"`
}

type prometheusRule struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              rules `json:"spec"`
}

// kinds are the types that manifests are decoded into.
var kinds = map[string]func() any{
	"v1/ConfigMap":                                    func() any { return &corev1.ConfigMap{} },
	"v1/Service":                                      func() any { return &corev1.Service{} },
	"v1/ServiceAccount":                               func() any { return &corev1.ServiceAccount{} },
	"v1/Pod":                                          func() any { return &corev1.Pod{} },
	"apps/v1/Deployment":                              func() any { return &appsv1.Deployment{} },
	"apps/v1/StatefulSet":                             func() any { return &appsv1.StatefulSet{} },
	"batch/v1/CronJob":                                func() any { return &batchv1.CronJob{} },
	"networking.k8s.io/v1/NetworkPolicy":              func() any { return &networkingv1.NetworkPolicy{} },
	"rbac.authorization.k8s.io/v1/Role":               func() any { return &rbacv1.Role{} },
	"rbac.authorization.k8s.io/v1/RoleBinding":        func() any { return &rbacv1.RoleBinding{} },
	"rbac.authorization.k8s.io/v1/ClusterRole":        func() any { return &rbacv1.ClusterRole{} },
	"rbac.authorization.k8s.io/v1/ClusterRoleBinding": func() any { return &rbacv1.ClusterRoleBinding{} },
	"monitoring.coreos.com/v1/PodMonitor":             func() any { return &podMonitor{} },
	"monitoring.coreos.com/v1/PrometheusRule":         func() any { return &prometheusRule{} },
}

// decode decodes every document strictly and returns the objects by kind.
func decode(t *testing.T, manifests string) map[string][]any {
	t.Helper()
	out := map[string][]any{}
	for doc := range strings.SplitSeq("\n"+manifests, "\n---\n") {
		var m metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(doc), &m); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		if m.Kind == "" {
			continue // comments only
		}
		of := kinds[m.APIVersion+"/"+m.Kind]
		if of == nil {
			t.Fatalf("no type for %s/%s", m.APIVersion, m.Kind)
		}
		o := of()
		if err := yaml.UnmarshalStrict([]byte(doc), o); err != nil {
			t.Errorf("%s: %v in\n%s", m.Kind, err, doc)
		}
		out[m.Kind] = append(out[m.Kind], o)
	}
	return out
}

// renderings are the manifests of every way of deploying, by name.
func renderings(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	program, env := helm(t)
	examples, err := filepath.Glob(root + chart + "/ci/*-values.yaml")
	if err != nil || len(examples) < 5 {
		t.Fatalf("got %d values examples, %v", len(examples), err)
	}
	for _, e := range examples {
		e = strings.TrimPrefix(e, root)
		out[filepath.Base(e)] = mustRun(t, env, program, "template", "keeper", chart, "-n", "etcd", "--kube-version", "1.36.3", "-f", e)
	}
	// helm writes the dependency into the chart's directory: a copy.
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(root+"deploy/helm")); err != nil {
		t.Fatal(err)
	}
	mustRun(t, env, program, "dependency", "build", dir+"/examples/etcd")
	out["helm example"] = mustRun(t, env, program, "template", "etcd", dir+"/examples/etcd", "-n", "etcd", "--kube-version", "1.36.3")
	out["kustomize example"] = mustRun(t, nil, testproc.Tool(t, "kustomize"), "build", "deploy/kustomize/examples/etcd")
	for _, dir := range []string{"patches", "patches-nonroot", "patches-drain"} {
		out["kubeadm "+dir] = staticPod(t, dir)
	}
	return out
}

// staticPod is the manifest of etcd that kubeadm itself writes, with the patches of that directory, "" for none.
func staticPod(t *testing.T, patches string) string {
	t.Helper()
	testproc.RequireReal(t)
	dir := t.TempDir()
	config := `apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint: {advertiseAddress: 192.0.2.10}
nodeRegistration: {name: control-plane-1, criSocket: unix:///run/containerd/containerd.sock}
%s---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: v1.36.3
`
	named := ""
	if patches != "" {
		absolute, err := filepath.Abs(root + "deploy/kubeadm/" + patches)
		if err != nil {
			t.Fatal(err)
		}
		named = fmt.Sprintf("patches: {directory: %q}\n", absolute)
	}
	config = fmt.Sprintf(config, named)
	write(t, filepath.Join(dir, "config.yaml"), config)
	args := []string{"init", "phase", "etcd", "local", "--dry-run", "--config", filepath.Join(dir, "config.yaml")}
	out, err := runIn(t, ".", []string{"KUBEADM_INIT_DRYRUN_DIR=" + dir}, kubetest.Binary(t, "kubeadm"), args...)
	if err != nil {
		t.Fatalf("kubeadm %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	if applied := strings.Contains(out, `Applied patch of type "application/strategic-merge-patch+json" to target "etcd"`); applied != (patches != "") {
		t.Errorf("kubeadm applied a patch: %v\n%s", applied, out)
	}
	return readFile(t, filepath.Join(dir, "etcd.yaml"))
}

// The way of README.md for nodes that exist gives what kubeadm itself gives, and both leave etcd's container as it is.
func TestKubeadm_PatchByKubectl(t *testing.T) {
	testproc.RequireReal(t)
	kubectl := kubetest.Binary(t, "kubectl")
	plain := filepath.Join(t.TempDir(), "etcd.yaml")
	write(t, plain, staticPod(t, ""))
	var before corev1.Pod
	if err := yaml.UnmarshalStrict([]byte(readFile(t, plain)), &before); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"patches", "patches-nonroot", "patches-drain"} {
		out := mustRun(t, nil, kubectl, "patch", "--local", "-f", plain, "--type", "strategic",
			"--patch-file", "deploy/kubeadm/"+dir+"/etcd+strategic.yaml", "-o", "yaml")
		var got, want corev1.Pod
		if err := yaml.UnmarshalStrict([]byte(out), &got); err != nil {
			t.Fatal(err)
		}
		if err := yaml.UnmarshalStrict([]byte(staticPod(t, dir)), &want); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want.Spec, got.Spec); d != "" {
			t.Errorf("%s (-kubeadm +kubectl):\n%s", dir, d)
		}
		if d := cmp.Diff(before.Spec.Containers, want.Spec.Containers); d != "" {
			t.Errorf("%s changes etcd's own container (-before +after):\n%s", dir, d)
		}
	}
}

// The unit holds to what systemd itself knows, where systemd is installed.
func TestSystemd_Unit(t *testing.T) {
	testproc.RequireReal(t)
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Log("systemd-analyze is not installed: the unit's settings were not looked up")
		return
	}
	unit := strings.Replace(string(read(t, "deploy/systemd/etcdkeeper.service")), "/usr/local/bin/etcdkeeper", "/bin/true", 1)
	path := filepath.Join(t.TempDir(), "etcdkeeper.service")
	write(t, path, unit)
	verify := func() {
		t.Helper()
		if out := mustRun(t, nil, analyze, "verify", path); strings.Contains(out, "etcdkeeper.service:") || strings.Contains(out, "drain.conf:") {
			t.Errorf("systemd-analyze verify says:\n%s", out)
		}
	}
	verify()
	// Exposure goes from 0 to 10, here in tenths: what is left is the network, which the keeper is for.
	out, err := run(t, nil, analyze, "security", "--offline=true", "--threshold=20", path)
	if err != nil && !strings.Contains(out, "nrecognized option") { // older than systemd 250
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
	if err := os.Mkdir(path+".d", 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(path+".d", "drain.conf"), string(read(t, "deploy/systemd/drain.conf")))
	verify()
}

func podSpecs(objects map[string][]any) map[string]corev1.PodSpec {
	out := map[string]corev1.PodSpec{}
	for _, o := range objects["Pod"] {
		out["Pod"] = o.(*corev1.Pod).Spec
	}
	for _, o := range objects["StatefulSet"] {
		out["StatefulSet"] = o.(*appsv1.StatefulSet).Spec.Template.Spec
	}
	for _, o := range objects["Deployment"] {
		out["Deployment"] = o.(*appsv1.Deployment).Spec.Template.Spec
	}
	for _, o := range objects["CronJob"] {
		out["CronJob"] = o.(*batchv1.CronJob).Spec.JobTemplate.Spec.Template.Spec
	}
	return out
}

// Every rendering decodes strictly, and its keeper is hardened and mounted completely.
func TestManifests(t *testing.T) {
	for name, manifests := range renderings(t) {
		t.Run(name, func(t *testing.T) {
			objects := decode(t, manifests)
			for kind, spec := range podSpecs(objects) {
				checkKeepers(t, kind, spec)
			}
			for _, o := range objects["PodMonitor"] {
				for _, e := range o.(*podMonitor).Spec.PodMetricsEndpoints {
					if len(e.Relabelings) != 1 || e.Relabelings[0].TargetLabel != "job" || strings.Contains(e.Relabelings[0].Replacement, "etcd") {
						t.Errorf("the PodMonitor does not name the job: %+v", e.Relabelings)
					}
				}
			}
			for _, kind := range []string{"Role", "ClusterRole"} {
				for _, o := range objects[kind] {
					checkRights(t, o)
					if name == "clean-get-values.yaml" && strings.Contains(fmt.Sprint(o), "delete") {
						t.Errorf("what only plans may delete: %+v", o)
					}
				}
				if (name == "clean-plan-values.yaml" || name == "plain-values.yaml" || name == "sidecar-values.yaml") && len(objects[kind]) > 0 {
					t.Errorf("a %s although nothing that needs one is switched on", kind)
				}
			}
		})
	}
}

func checkKeepers(t *testing.T, kind string, spec corev1.PodSpec) {
	t.Helper()
	volumes := map[string]bool{}
	for _, v := range spec.Volumes {
		volumes[v.Name] = true
	}
	if kind == "StatefulSet" {
		volumes["data"] = true // of the claim templates
	}
	keepers := 0
	for i, c := range append(append([]corev1.Container{}, spec.InitContainers...), spec.Containers...) {
		for _, m := range c.VolumeMounts {
			if !volumes[m.Name] {
				t.Errorf("%s: container %s mounts volume %s, which the pod does not have", kind, c.Name, m.Name)
			}
		}
		if !strings.Contains(c.Image, "etcdkeeper") {
			continue
		}
		keepers++
		sidecar := i < len(spec.InitContainers) && kind != "CronJob"
		if sidecar && (c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways) {
			t.Errorf("%s: the sidecar has no restartPolicy Always: etcd would never start", kind)
		}
		if c.StartupProbe != nil {
			t.Errorf("%s: a startup probe of the sidecar would keep etcd from starting", kind)
		}
		s := c.SecurityContext
		if s == nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem ||
			s.Capabilities == nil || len(s.Capabilities.Drop) != 1 || s.Capabilities.Drop[0] != "ALL" || s.SeccompProfile == nil || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
			t.Errorf("%s: container %s is not hardened: %+v", kind, c.Name, s)
		}
		if c.Resources.Limits.Memory().IsZero() {
			t.Errorf("%s: container %s has no memory limit", kind, c.Name)
		}
		for _, m := range c.VolumeMounts {
			if (m.Name == "data" || m.Name == "etcd-data") && !m.ReadOnly {
				t.Errorf("%s: etcd's volume can be written by the keeper", kind)
			}
		}
	}
	if keepers == 0 {
		t.Errorf("%s: no keeper in it", kind)
	}
	if kind != "Deployment" && kind != "CronJob" && (len(spec.Containers) != 1 || spec.Containers[0].Name != "etcd") {
		t.Errorf("%s: the member's own container is not what it was", kind)
	}
}

// checkRights refuses rights that nothing needs.
func checkRights(t *testing.T, o any) {
	t.Helper()
	var policies []rbacv1.PolicyRule
	switch r := o.(type) {
	case *rbacv1.Role:
		policies = r.Rules
	case *rbacv1.ClusterRole:
		policies = r.Rules
	}
	for _, p := range policies {
		for _, all := range [][]string{p.Verbs, p.Resources, p.APIGroups} {
			for _, s := range all {
				if s == "*" || s == "list" || s == "watch" || s == "deletecollection" || s == "secrets" {
					t.Errorf("a right to %q in %+v", s, p)
				}
			}
		}
	}
}

// The chart refuses what cannot work, and says why.
func TestChart_Refuses(t *testing.T) {
	program, env := helm(t)
	for _, tt := range []struct{ set, want string }{
		{"mode=daemonset", "mode"},
		{"podMonitor.jobLabel=etcdkeeper", "jobLabel"},
		{"listen.port=0", "port"},
		{"unknown=1", "unknown"},
		{"etcd.endpoints={}", "endpoints"},
		{"etcd.endpoints={https://etcd}", "endpoints"},
		{"etcd.tls.secretname=x", "secretname"},
		{"image.pullPolicy=Sometimes", "pullPolicy"},
		{"rbac.clean.resources[0].resources={*}", "resources"},
		{"mode=deployment", "etcd.tls: name the Secret"},
		{"podMonitor.enabled=true", "podLabels"},
		{"clean.enabled=true,clean.apply=true", "rbac.clean.enabled"},
		{"clean.enabled=true", "clean.endpoints"},
		{"listen.port=9380", "listen.probePort"},
		{"goMemLimit=100MB", "goMemLimit"},
		{"config.defragment.rule=true", "defragment"},
		{"image.digest=latest", "digest"},
		{"resources.limit.memory=1Gi", "limit"},
		{"networkPolicy.etcdPorts={0}", "etcdPorts"},
		{"podMonitor.interval=often", "interval"},
	} {
		out, err := run(t, env, program, "template", "keeper", chart, "--kube-version", "1.36.3", "--set", tt.set)
		if err == nil || !strings.Contains(out, tt.want) {
			t.Errorf("--set %s: got %v, want an error that names %s:\n%s", tt.set, err, tt.want, out)
		}
	}
	if out, err := run(t, env, program, "template", "keeper", chart, "--kube-version", "1.28.0"); err == nil || !strings.Contains(out, "1.29") {
		t.Errorf("Kubernetes 1.28, which has no native sidecars: got %v\n%s", err, out)
	}
}

func TestChart_Lints(t *testing.T) {
	program, env := helm(t)
	examples, err := filepath.Glob(root + chart + "/ci/*-values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range examples {
		mustRun(t, env, program, "lint", "--strict", "--kube-version", "1.36.3", chart, "-f", strings.TrimPrefix(e, root))
	}
}

// A real API server takes every rendering, in a server-side dry run.
func TestManifests_ServerSideDryRun(t *testing.T) {
	all := renderings(t)
	etcd := etcdtest.Start(t, etcdtest.Options{Versions: []string{etcdtest.V37}})
	server := kubetest.Start(t, kubetest.Options{EtcdEndpoints: etcd.Endpoints()})
	for _, ns := range []string{"etcd", "batch-prod"} {
		server.Kubectl(t, "create", "namespace", ns)
	}
	for name, manifests := range all {
		t.Run(name, func(t *testing.T) {
			var docs []string
			for doc := range strings.SplitSeq("\n"+manifests, "\n---\n") {
				if !strings.Contains(doc, "monitoring.coreos.com/") && strings.Contains(doc, "kind:") {
					docs = append(docs, doc)
				}
			}
			args := []string{"apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"}
			out := server.KubectlInput(t, strings.Join(docs, "\n---\n"), args...)
			if n := strings.Count(out, "serverside-applied (server dry run)"); n != len(docs) {
				t.Errorf("got %d objects applied, want %d:\n%s", n, len(docs), out)
			}
		})
	}
}
