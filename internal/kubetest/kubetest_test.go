package kubetest

import (
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
)

const finishedJob = `
apiVersion: batch/v1
kind: Job
metadata: {name: once, namespace: default}
spec:
  suspend: true
  template:
    spec:
      restartPolicy: Never
      containers: [{name: c, image: none}]
`

const encryption = `
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources: [secrets]
    providers:
      - aescbc:
          keys: [{name: key1, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]
      - identity: {}
`

func TestStart(t *testing.T) {
	testproc.RequireReal(t)
	main := etcdtest.Start(t, etcdtest.Options{Versions: []string{etcdtest.V36}, TLS: true})
	s := Start(t, Options{EtcdEndpoints: main.Endpoints(), EtcdPKI: main.PKI, EncryptionConfig: encryption})

	client, err := kubernetes.NewForConfig(s.Config())
	if err != nil {
		t.Fatal(err)
	}
	wantVersion(t, client)
	s.Kubectl(t, "create", "secret", "generic", "hidden", "--from-literal=word=plain-word")
	got, err := main.Client(t).Get(t.Context(), "/registry/secrets/default/hidden")
	if err != nil || len(got.Kvs) != 1 {
		t.Fatalf("got %v, %v, want the secret in etcd", got, err)
	}
	if value := string(got.Kvs[0].Value); !strings.HasPrefix(value, "k8s:enc:aescbc:v1:key1:") {
		t.Errorf("got a value of %d bytes without the mark of encryption", len(value))
	}

	s.KubectlInput(t, finishedJob, "apply", "-f", "-")
	s.Kill()
	if s.Running() {
		t.Error("the killed server still runs")
	}
	s.Restart(t)
	if got := s.Kubectl(t, "get", "job", "once", "-o", "name"); got != "job.batch/once\n" {
		t.Errorf("got %q after a restart, want the job", got)
	}
	if _, err := s.TryKubectl(t, "", "get", "job", "never"); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("got %v, want that the job was not found", err)
	}
}

func TestServer_EtcdOverridesAndControllerManager(t *testing.T) {
	testproc.RequireReal(t)
	main := etcdtest.Start(t, etcdtest.Options{Versions: []string{etcdtest.V36}})
	events := etcdtest.Start(t, etcdtest.Options{Versions: []string{etcdtest.V37}})
	s := Start(t, Options{
		EtcdEndpoints: main.Endpoints(),
		EtcdOverrides: []string{"/events#" + events.Endpoints()[0]},
		Tokens:        []string{"nobody-token,nobody,nobody"},
		// RBAC shows that the admin's token counts and another does not.
		AuthorizationMode: "RBAC",
	})
	s.Kubectl(t, "create", "serviceaccount", "somebody")
	if _, err := s.TryKubectl(t, "", "--kubeconfig", s.WriteKubeconfig(t, s.URL, "nobody-token"), "get", "pods"); err == nil ||
		!strings.Contains(err.Error(), "forbidden") {
		t.Errorf("got %v for a user without rights, want that it is forbidden", err)
	}

	m := s.StartControllerManager(t, ControllerManagerOptions{QPS: 100, Burst: 100, Controllers: []string{"job-controller", "garbage-collector-controller"}})
	s.KubectlInput(t, strings.Replace(finishedJob, "suspend: true", "suspend: false", 1), "apply", "-f", "-")
	client, err := kubernetes.NewForConfig(s.Config())
	if err != nil {
		t.Fatal(err)
	}
	within(t, "the job's pod", func() bool {
		pods, err := client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
		return err == nil && len(pods.Items) == 1
	})
	within(t, "an event in the etcd of the events", func() bool {
		got, err := events.Client(t).Get(t.Context(), "/registry/events/default/once.", clientv3.WithPrefix())
		return err == nil && len(got.Kvs) > 0
	})
	m.Restart(t)
	s.Kubectl(t, "delete", "job", "once", "--cascade=background", "--wait=false")
	within(t, "the garbage collection of the job's pod", func() bool {
		pods, err := client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
		return err == nil && len(pods.Items) == 0
	})
}

func wantVersion(t *testing.T, client *kubernetes.Clientset) {
	t.Helper()
	info, err := client.Discovery().ServerVersion()
	if err != nil {
		t.Fatal(err)
	}
	if info.GitVersion != "v1.36.3" {
		t.Errorf("got version %s, want v1.36.3", info.GitVersion)
	}
}

func within(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("waited two minutes for %s", what)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
