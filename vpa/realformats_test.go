package vpa

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
)

// customResources gives the VerticalPodAutoscaler's own definitions what the
// formats write.
func customResources(t *testing.T, cp controlPlane) {
	root, err := testproc.RepositoryRoot()
	if err != nil {
		t.Fatal(err)
	}
	download := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", "k8s.io/autoscaler/vertical-pod-autoscaler")
	download.Dir = filepath.Join(root, "test/bench/vpa")
	out, err := download.Output()
	if err != nil {
		t.Fatalf("download the autoscaler's module: %v", err)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		t.Fatal(err)
	}
	cp.server.Kubectl(t, "apply", "--server-side", "-f", filepath.Join(module.Dir, "deploy/vpa-v1-crd-gen.yaml"))
	r := newRecommender(t)
	at := observeDays(r, 15, 400*mib)
	target := Target{Namespace: "default", Kind: "StatefulSet", Name: "etcd-main", Container: "etcd", InPlace: true}
	object, err := r.Recommend(at).FormatVPA(target)
	if err != nil {
		t.Fatal(err)
	}
	checkpoint, err := r.FormatCheckpoint(target, at)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"verticalpodautoscaler": object, "verticalpodautoscalercheckpoint": checkpoint} {
		within(t, name+" is served and takes what is written", func() bool {
			_, err := cp.server.TryKubectl(t, string(b), "apply", "-f", "-")
			if err != nil {
				t.Log(err)
			}
			return err == nil
		})
	}
	status, err := ParseCheckpoint([]byte(cp.server.Kubectl(t, "get", "verticalpodautoscalercheckpoint", "etcd-main-etcd", "-o", "json")))
	if err != nil || status.TotalSamplesCount != r.samples {
		t.Fatalf("got %d samples back, %v, want %d", status.TotalSamplesCount, err, r.samples)
	}
	if err := newRecommender(t).RestoreCheckpointStatus(status); err != nil {
		t.Error(err)
	}
}

const workloadYAML = `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: sized, namespace: default}
spec:
  replicas: 0
  selector: {matchLabels: {app: sized}}
  template:
    metadata: {labels: {app: sized}}
    spec:
      containers:
      - {name: etcd, image: etcd, env: [{name: A, value: b}]}
      - {name: other, image: other}
`

// kubectlFormats gives the formats for pods and workloads to kubectl, which
// refuses unknown fields.
func kubectlFormats(t *testing.T, cp controlPlane) {
	r := newRecommender(t)
	rec := r.Recommend(observeDays(r, 15, 400*mib))
	want := mebibytes(float64(rec.Memory.Limit.Bytes))
	patch := func(kind string) string {
		t.Helper()
		b, err := rec.FormatPatch(Target{Kind: kind, Container: "etcd"})
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "patch.yaml")
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	limitOf := func(out string, at func(b []byte) (corev1.PodSpec, error)) {
		t.Helper()
		spec, err := at([]byte(out))
		if err != nil || len(spec.Containers) == 0 {
			t.Fatalf("%v in %s", err, out)
		}
		if got := spec.Containers[0].Resources.Limits.Memory(); got.Cmp(want) != 0 {
			t.Errorf("got a memory limit of %s, want %s", got, &want)
		}
	}
	podSpec := func(b []byte) (corev1.PodSpec, error) {
		var p corev1.Pod
		err := json.Unmarshal(b, &p)
		return p.Spec, err
	}
	cp.makePod(t, "formats", "")
	limitOf(cp.server.Kubectl(t, "patch", "pod", "formats", "--subresource", "resize", "--dry-run=server", "--patch-file", patch("Pod"), "-o", "json"), podSpec)

	manifest, err := rec.FormatManifest(fmt.Appendf(nil, podYAML, "proposed", ""), "etcd")
	if err != nil {
		t.Fatal(err)
	}
	limitOf(cp.server.KubectlInput(t, string(manifest), "create", "--validate=strict", "--dry-run=server", "-f", "-", "-o", "json"), podSpec)

	cp.server.KubectlInput(t, workloadYAML, "create", "-f", "-")
	limitOf(cp.server.Kubectl(t, "patch", "statefulset", "sized", "--dry-run=server", "--patch-file", patch("StatefulSet"), "-o", "json"), func(b []byte) (corev1.PodSpec, error) {
		var w struct {
			Spec struct {
				Template struct{ Spec corev1.PodSpec }
			}
		}
		err := json.Unmarshal(b, &w)
		if spec := w.Spec.Template.Spec; err == nil && (len(spec.Containers) != 2 || len(spec.Containers[0].Env) != 2) {
			err = fmt.Errorf("got %d containers and env %v, want both kept", len(spec.Containers), spec.Containers[0].Env)
		}
		return w.Spec.Template.Spec, err
	})

	b, err := rec.FormatPodResources()
	if err != nil {
		t.Fatal(err)
	}
	var spec struct {
		Resources corev1.ResourceRequirements `json:"resources"`
	}
	if err := yaml.UnmarshalStrict(b, &spec); err != nil || spec.Resources.Limits.Memory().Cmp(want) != 0 {
		t.Errorf("podresources: got %+v, %v, want a limit of %s", spec, err, &want)
	}
}
