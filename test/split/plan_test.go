package split

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/internal/kubetest"
	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
	"github.com/etcdkeeper/etcdkeeper/splitter"
)

// The plan of each installer, made from a cluster alone: what is an API object passes the API server's strict dry run,
// and the API server's own manifest passes it and the linter once the plan's patch is applied.
func TestPlan_RealServer(t *testing.T) {
	testproc.RequireReal(t)
	promtool := testproc.Installed(t, "promtool", "prometheus")
	run := keeper(t)
	main := etcdtest.Start(t, etcdtest.Options{Versions: []string{etcdtest.V36}})
	server := kubetest.Start(t, kubetest.Options{EtcdEndpoints: main.Endpoints()})
	apiServerEvidence(t, run, main, server)
	own := filepath.Join(t.TempDir(), "kube-apiserver.yaml")
	if err := os.WriteFile(own, []byte(apiServerPod), 0o600); err != nil {
		t.Fatal(err)
	}
	dryRun := func(what, file string) {
		t.Helper()
		if _, err := server.TryKubectl(t, "", "apply", "--dry-run=server", "--validate=strict", "-f", file); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	// A dry run of nonsense fails: the check checks.
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte(strings.Replace(apiServerPod, "livenessProbe", "livelinessProbe", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := server.TryKubectl(t, "", "apply", "--dry-run=server", "--validate=strict", "-f", bad); err == nil {
		t.Error("the strict dry run let an unknown field pass")
	}
	for installer, resource := range map[string]string{"static": "events", "kubeadm": "events", "kubespray": "leases", "kops": "leases"} {
		dir := filepath.Join(t.TempDir(), "plan")
		code, out := run("split", "plan", "--endpoints", main.Endpoints()[0], "--observe", "1s", "--resources", resource, "--installer", installer, "-o", dir, "-w", "json")
		var plan struct {
			Override string
			Files    []string
		}
		if err := json.Unmarshal([]byte(out), &plan); err != nil || code != 0 {
			t.Fatalf("%s: %d %s", installer, code, out)
		}
		var pods, patches int
		for _, f := range plan.Files {
			path := filepath.Join(dir, f)
			patched := ""
			switch {
			case strings.HasPrefix(f, "manifests/"):
				pods++
				dryRun(installer+" "+f, path)
			case f == "alerts.yaml":
				if out, err := exec.CommandContext(t.Context(), promtool, "check", "rules", path).CombinedOutput(); err != nil {
					t.Errorf("%s %s: %v\n%s", installer, f, err, out)
				}
			case strings.HasSuffix(f, ".patch.json"), strings.HasSuffix(f, "+json.json"):
				patched = server.Kubectl(t, "patch", "--local", "-f", own, "--type=json", "--patch-file", path, "-o", "yaml")
			case strings.HasPrefix(f, "group_vars/"):
				patched = server.Kubectl(t, "patch", "--local", "-f", own, "--type=strategic", "--patch", kubesprayPatch(t, path), "-o", "yaml")
			}
			if patched == "" {
				continue
			}
			patches++
			if !strings.Contains(patched, plan.Override) { // kubeadm and kubespray add the flag by other means
				patched = strings.Replace(patched, "- kube-apiserver\n", "- kube-apiserver\n    - --etcd-servers-overrides="+plan.Override+"\n", 1)
			}
			result := filepath.Join(t.TempDir(), "patched.yaml")
			if err := os.WriteFile(result, []byte(patched), 0o600); err != nil {
				t.Fatal(err)
			}
			dryRun(installer+" kube-apiserver with "+f, result)
			if code, out := run("split", "lint", result); code != 0 {
				t.Errorf("%s: lint of kube-apiserver with %s: %d\n%s", installer, f, code, out)
			}
		}
		if wantPods := installer != "kops"; wantPods != (pods > 0) || (patches > 0) != wantPods {
			t.Errorf("%s: %d pods and %d patches in %v", installer, pods, patches, plan.Files)
		}
		value := strings.TrimSpace(read(t, filepath.Join(dir, "etcd-servers-overrides.txt")))
		if code, out := run("split", "lint", value); value != plan.Override || code != 0 {
			t.Errorf("%s: lint %s: %d\n%s", installer, value, code, out)
		}
	}
}

// apiServerEvidence wants the events that are written meanwhile in the evidence from the API server's own metrics.
func apiServerEvidence(t *testing.T, run func(...string) (int, string), main *etcdtest.Cluster, server *kubetest.Server) {
	t.Helper()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(kubetest.AdminToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(server.Config())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			_, _ = client.CoreV1().Events("default").Create(ctx, &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("e-", i)},
				InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "p"}}, metav1.CreateOptions{})
		}
	})
	defer wg.Wait()
	defer cancel()
	eventually(t, "events in the API server's metrics", func() error {
		code, out := run("split", "recommend", "--endpoints", main.Endpoints()[0], "--observe", "2s", "-w", "json",
			"--apiserver-metrics", server.URL+"/metrics", "--apiserver-token-file", token, "--apiserver-cacert", server.CAFile)
		var p splitter.Proposal
		if err := json.Unmarshal([]byte(out), &p); err != nil || code != 0 {
			t.Fatalf("split recommend: %d %s", code, out)
		}
		for _, r := range p.Evidence.Resources {
			if w := r.WritesPerSecond; r.Resource == "events" && w != nil && w.Source == splitter.FromAPIServer && w.Value > 0 && r.CreatesPerSecond.Or(0) > 0 {
				return nil
			}
		}
		return fmt.Errorf("got %+v", p.Evidence.Resources)
	})
}

// kubesprayPatch is the patch that kubespray's variables give to kubeadm.
func kubesprayPatch(t *testing.T, path string) string {
	t.Helper()
	var vars struct {
		Patches []struct {
			Target string          `json:"target"`
			Type   string          `json:"type"`
			Patch  json.RawMessage `json:"patch"`
		} `json:"kubeadm_patches"`
	}
	if err := yaml.Unmarshal([]byte(read(t, path)), &vars); err != nil {
		t.Fatal(err)
	}
	if len(vars.Patches) != 1 || vars.Patches[0].Target != "kube-apiserver" || vars.Patches[0].Type != "strategic" {
		t.Fatalf("got patches %+v", vars.Patches)
	}
	return string(vars.Patches[0].Patch)
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// apiServerPod is a static pod as kubeadm writes it, as far as a patch touches it.
const apiServerPod = `
apiVersion: v1
kind: Pod
metadata:
  name: kube-apiserver
  namespace: kube-system
spec:
  hostNetwork: true
  priorityClassName: system-node-critical
  containers:
  - name: kube-apiserver
    image: registry.k8s.io/kube-apiserver:v1.36.3
    command:
    - kube-apiserver
    - --etcd-servers=https://127.0.0.1:2379
    - --etcd-cafile=/etc/kubernetes/pki/etcd/ca.crt
    - --etcd-certfile=/etc/kubernetes/pki/apiserver-etcd-client.crt
    - --etcd-keyfile=/etc/kubernetes/pki/apiserver-etcd-client.key
    livenessProbe:
      failureThreshold: 8
      httpGet: {host: 10.0.0.1, path: /livez, port: 6443, scheme: HTTPS}
    readinessProbe:
      httpGet: {host: 10.0.0.1, path: /readyz, port: 6443, scheme: HTTPS}
    startupProbe:
      failureThreshold: 24
      httpGet: {host: 10.0.0.1, path: /livez, port: 6443, scheme: HTTPS}
`
