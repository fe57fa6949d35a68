package split

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/internal/kubetest"
	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
	"github.com/etcdkeeper/etcdkeeper/splitter"
)

const (
	a = "https://10.0.0.1:2379"
	b = "https://10.0.0.2:2379"
)

// Whether kube-apiserver starts with a value is what the linter says, for each of them.
func TestLint_RefusedByTheRealServer(t *testing.T) {
	testproc.RequireReal(t)
	bin := kubetest.Binary(t, "kube-apiserver")
	for _, value := range []string{
		"/events#" + a, "/events#" + a + ";" + b, "/events#" + a + "," + b, "/events#" + a + ",coordination.k8s.io/leases#" + b,
		"/events#" + a + ";/pods#" + b, "/events#" + a + ",", ",/events#" + a, "/events", "/events=" + a, "/events#", "/events#;", "/events#" + a + ";", "/events#" + a + "#" + b,
		`"/events#` + a, `"/events#` + a + `"`, "events#" + a, "leases.coordination.k8s.io#" + a, "/registry/events#" + a, "/registry/events/#" + a, "registry/events#" + a,
		"coordination.k8s.io/v1/leases#" + a, "/v1/events#" + a, "/pods/status#" + a, "/event#" + a, "/Events#" + a, "/#" + a, " /events#" + a, "/events #" + a, "/pods#" + a + ", /events#" + b,
		"events.k8s.io/events#" + a, "extensions/ingresses#" + a, "apps/jobs#" + a, "core/events#" + a, "example.com/pods#" + a, "apps/*#" + a, "/*#" + a,
		"apiextensions.k8s.io/customresourcedefinitions#" + a, "/componentstatuses#" + a, "/events#" + a + ",/events#" + b, "/events#" + a + ";" + a,
		"/events#10.0.0.1:2379", "/events#https://10.0.0.1", "/events#htps://10.0.0.1:2379", "/events#" + a + "; " + b, "/events#" + a + ";http://10.0.0.2:2379", "",
	} {
		refused := false
		for _, f := range splitter.LintValue(value, splitter.LintOptions{}).Findings {
			refused = refused || f.Effect == splitter.Refused
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		// Nothing else is given, so that it ends with the list of what it refuses.
		out, _ := exec.CommandContext(ctx, bin, "--etcd-servers=http://127.0.0.1:1", "--etcd-servers-overrides="+value).CombinedOutput()
		cancel()
		// It complains of the flag with its name, and of the missing flags with theirs.
		if got := strings.Contains(string(out), "etcd-servers-overrides invalid") || strings.Contains(string(out), `"--etcd-servers-overrides" flag`); got != refused {
			t.Errorf("%q: refused by kube-apiserver %v, by the linter %v\n%s", value, got, refused, firstLine(out))
		}
	}
}

func firstLine(out []byte) string {
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}

// What the linter calls inert moves nothing, and what it calls a move does.
func TestLint_InertInTheRealServer(t *testing.T) {
	testproc.RequireReal(t)
	main := etcdtest.Start(t, etcdtest.Options{Versions: []string{etcdtest.V36}})
	shard := etcdtest.Start(t, etcdtest.Options{Versions: []string{etcdtest.V37}})
	s := "#" + shard.Endpoints()[0]
	inert := []string{"/event" + s, "/Events" + s, "events.k8s.io/events" + s, "events.k8s.io/*" + s, "registry/events" + s, "core/events" + s, " /events" + s, "/events " + s,
		"/configmap" + s, "apps/jobs" + s, "v1/configmaps" + s, "/leases" + s, "extensions/ingresses" + s, "example.com/widgets" + s,
		"apiextensions.k8s.io/customresourcedefinitions" + s, "apiregistration.k8s.io/apiservices" + s}
	for _, v := range inert {
		findings := splitter.LintValue(v, splitter.LintOptions{}).Findings
		if len(findings) == 0 || findings[0].Effect != splitter.Inert && findings[0].Effect != splitter.Risky {
			t.Errorf("%s: got %+v, want inert", v, findings)
		}
	}
	server := kubetest.Start(t, kubetest.Options{EtcdEndpoints: main.Endpoints(), EtcdOverrides: inert})
	client, err := kubernetes.NewForConfig(server.Config())
	if err != nil {
		t.Fatal(err)
	}
	create := func(suffix string) {
		t.Helper()
		server.KubectlInput(t, strings.ReplaceAll(objects, "NAME", "x"+suffix), "apply", "-f", "-")
		if suffix == "1" {
			within(t, "the custom resource", func() bool {
				_, err := server.TryKubectl(t, strings.ReplaceAll(widget, "NAME", "x"), "apply", "-f", "-")
				return err == nil
			})
		}
		_, err := client.CoreV1().Events("default").Create(t.Context(), &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e" + suffix},
			InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "p"}, Reason: "Test", Type: "Normal"}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	create("1")
	if keys := shardKeys(t, shard); len(keys) > 0 {
		t.Errorf("inert overrides moved %v", keys)
	}
	// Inert or not, the servers of every override are health checks.
	if body := server.Kubectl(t, "get", "--raw", "/livez?verbose"); !strings.Contains(body, "etcd-override-0") || strings.Contains(body, "etcd-override-1") {
		t.Errorf("one list of servers must be one health check:\n%s", body)
	}

	server.Stop(t)
	server.Options.EtcdOverrides = []string{"/events" + s, "apps/*" + s, "networking.k8s.io/ingresses" + s, "coordination.k8s.io/leases" + s, "/configmaps" + s + "," + "/apiServerIPInfo" + s}
	server.Start(t)
	create("2")
	keys := strings.Join(shardKeys(t, shard), " ")
	for _, want := range []string{"/registry/events/default/e2", "/registry/deployments/default/x2", "/registry/ingress/default/x2", "/registry/leases/", "/registry/configmaps/default/x2"} {
		if !strings.Contains(keys, want) {
			t.Errorf("%s is not in the shard: %s", want, keys)
		}
	}
	if strings.Contains(keys, "/registry/jobs/") {
		t.Errorf("jobs moved: %s", keys)
	}
	within(t, "the API server's own endpoint lease in the shard", func() bool {
		return strings.Contains(strings.Join(shardKeys(t, shard), " "), "/registry/masterleases/")
	})

	// The shard goes: /livez fails by it, and not with the exclusion.
	shard.Members[0].Kill()
	within(t, "/livez to fail", func() bool { _, err := server.TryKubectl(t, "", "get", "--raw", "/livez"); return err != nil })
	if out, err := server.TryKubectl(t, "", "get", "--raw", "/livez?exclude=etcd-override-0"); err != nil {
		t.Errorf("with the exclusion: %v %s", err, out)
	}
	if out, err := server.TryKubectl(t, "", "get", "--raw", "/livez?exclude=etcd"); err != nil {
		t.Errorf("with the group excluded: %v %s", err, out)
	}
	// Everything else is served on.
	server.Kubectl(t, "create", "secret", "generic", "still-served")

	// One that starts meanwhile gives up, whatever its probes ask.
	server.Kill()
	server.Launch(t)
	within(t, "an API server to give up without its shard", func() bool { return !server.Running() })
	if log := read(t, server.LogFile); !strings.Contains(log, "context deadline exceeded") {
		t.Errorf("it ended for another reason:\n%s", testproc.Tail(server.LogFile, 2000))
	}
}

func shardKeys(t *testing.T, shard *etcdtest.Cluster) []string {
	t.Helper()
	got, err := shard.Client(t).Get(t.Context(), "/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, kv := range got.Kvs {
		keys = append(keys, string(kv.Key))
	}
	return keys
}

const objects = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: NAME, namespace: default}
---
apiVersion: batch/v1
kind: Job
metadata: {name: NAME, namespace: default}
spec: {suspend: true, template: {spec: {restartPolicy: Never, containers: [{name: c, image: none}]}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME, namespace: default}
spec: {replicas: 0, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: none}]}}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: NAME, namespace: default}
spec: {defaultBackend: {service: {name: s, port: {number: 80}}}}
---
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: NAME, namespace: default}
`

const widget = "{apiVersion: example.com/v1, kind: Widget, metadata: {name: NAME, namespace: default}}"
