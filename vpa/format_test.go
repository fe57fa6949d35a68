package vpa

import (
	"math"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

func fullRecommendation(t *testing.T) Recommendation {
	t.Helper()
	r := newRecommender(t)
	return r.Recommend(observeDays(r, 15, 400*mib))
}

func TestRecommendation_FormatPatch(t *testing.T) {
	rec := fullRecommendation(t)
	b, err := rec.FormatPatch(Target{Kind: "Pod", Container: "etcd"})
	if err != nil {
		t.Fatal(err)
	}
	var pod corev1.Pod
	if err := yaml.UnmarshalStrict(b, &pod); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	c := pod.Spec.Containers[0]
	limit := c.Resources.Limits.Memory().Value()
	if c.Name != "etcd" || float64(limit) < float64(rec.Memory.Limit.Bytes) || float64(limit) > float64(rec.Memory.Limit.Bytes)+mib || len(c.Env) != 0 {
		t.Errorf("got %s, want container etcd with the limit rounded up and nothing but resources", b)
	}
	if _, ok := c.Resources.Limits[corev1.ResourceCPU]; ok {
		t.Errorf("got a CPU limit:\n%s", b)
	}
	if c.Resources.Requests.Cpu().MilliValue() != int64(math.Ceil(float64(rec.CPU.Request)*1000)) {
		t.Errorf("got CPU %s, want %v cores", c.Resources.Requests.Cpu(), rec.CPU.Request)
	}
	b, err = rec.FormatPatch(Target{Kind: "StatefulSet", Container: "etcd"})
	if err != nil || !strings.Contains(string(b), "GOMEMLIMIT") || !strings.Contains(string(b), "template:") {
		t.Errorf("of a workload: got %s, %v, want its template with GOMEMLIMIT", b, err)
	}
}

const staticPod = `apiVersion: v1
kind: Pod
metadata: {name: etcd, namespace: kube-system, annotations: {x: kept}}
spec:
  hostNetwork: true
  containers:
  - name: etcd
    image: registry.k8s.io/etcd:3.6.16-0
    command: [etcd, --data-dir=/var/lib/etcd]
    env: [{name: GOMEMLIMIT, value: 1MiB}, {name: A, value: b}]
    resources: {requests: {cpu: 100m, memory: 100Mi, ephemeral-storage: 1Gi}, limits: {cpu: "1"}}
  - name: keeper
    image: etcdkeeper
`

func TestRecommendation_FormatManifest(t *testing.T) {
	rec := fullRecommendation(t)
	b, err := rec.FormatManifest([]byte(staticPod), "etcd")
	if err != nil {
		t.Fatal(err)
	}
	var pod corev1.Pod
	if err := yaml.UnmarshalStrict(b, &pod); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	c := pod.Spec.Containers[0]
	if !pod.Spec.HostNetwork || pod.Annotations["x"] != "kept" || len(pod.Spec.Containers) != 2 || len(c.Command) != 2 {
		t.Errorf("got %s, want everything else as it was", b)
	}
	if _, ok := c.Resources.Limits[corev1.ResourceCPU]; ok || c.Resources.Requests.StorageEphemeral().Value() != gib {
		t.Errorf("got %v, want the CPU limit away and the ephemeral storage still there", c.Resources)
	}
	if len(c.Env) != 2 || c.Env[0].Name != "A" || c.Env[1].Name != "GOMEMLIMIT" || c.Env[1].Value == "1MiB" {
		t.Errorf("got %v, want GOMEMLIMIT once with the new value", c.Env)
	}
	for name, bad := range map[string]string{"no pod": "kind: Service\n", "no yaml": "\t:", "no container": strings.Replace(staticPod, "name: etcd\n    image", "name: other\n    image", 1)} {
		if _, err := rec.FormatManifest([]byte(bad), "etcd"); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}

func TestProposalPath_IsHiddenFromTheKubelet(t *testing.T) {
	if got, want := ProposalPath("/etc/kubernetes/manifests/etcd.yaml"), "/etc/kubernetes/manifests/.etcd.proposed.yaml"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestRecommendation_FormatVPA(t *testing.T) {
	rec := fullRecommendation(t)
	for inPlace, mode := range map[bool]string{false: "Off", true: "InPlace"} {
		b, err := rec.FormatVPA(Target{Namespace: "ns", Kind: "StatefulSet", Name: "etcd-main", Container: "etcd", InPlace: inPlace})
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Spec struct {
				UpdatePolicy   struct{ UpdateMode string }
				ResourcePolicy struct {
					ContainerPolicies []struct {
						ContainerName, ControlledValues string
						MinAllowed, MaxAllowed          corev1.ResourceList
					}
				}
			}
		}
		if err := yaml.Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		p := got.Spec.ResourcePolicy.ContainerPolicies[0]
		if got.Spec.UpdatePolicy.UpdateMode != mode || p.ControlledValues != "RequestsAndLimits" || p.MinAllowed.Memory().Cmp(*p.MaxAllowed.Memory()) >= 0 {
			t.Errorf("got %s, want mode %s and bounds in order", b, mode)
		}
	}
	if _, err := rec.FormatVPA(Target{Kind: "Pod"}); err == nil {
		t.Error("of a pod: got no error")
	}
}

func TestRecommendation_OverMembers(t *testing.T) {
	rec := fullRecommendation(t)
	other := ProfileOf(rec)
	other.Member, other.Limit, other.CPU = "m2", rec.Memory.Limit.Bytes*2, 4
	small := other
	small.Member, small.Limit, small.CPU = "m3", 1, 0.001
	stale := other
	stale.Member, stale.Limit, stale.At = "m4", rec.Memory.Limit.Bytes*9, rec.At.Add(-48*time.Hour)
	future := stale
	future.Member, future.At = "m5", rec.At.Add(time.Hour)
	got := rec.OverMembers([]Profile{stale, future, small, other, ProfileOf(rec)})
	if got.Memory.Limit.Bytes != other.Limit || got.Decisive != "m2" || !strings.Contains(got.Memory.Limit.Words, "member m2") || got.CPU.Request != 4 {
		t.Errorf("got limit %v of %q (%s), want that of m2", got.Memory.Limit.Bytes, got.Decisive, got.Memory.Limit.Words)
	}
	if alone := rec.OverMembers([]Profile{small}); alone.Decisive != "" || alone.Memory.Limit.Words != rec.Memory.Limit.Words {
		t.Errorf("the own is highest: got %q, want it unchanged", alone.Memory.Limit.Words)
	}
}

func TestParseProfile(t *testing.T) {
	for name, bad := range map[string]string{
		"torn": `{"version":1`, "newer": `{"version":2,"member":"a"}`, "no member": `{"version":1}`, "negative": `{"version":1,"member":"a","limitBytes":-1}`,
		"huge": `{"version":1,"member":"a","limitBytes":1e300}`,
	} {
		if _, err := ParseProfile([]byte(bad)); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	p, err := ParseProfile([]byte(`{"version":1,"member":"a","limitBytes":null}`))
	if err != nil || known(float64(p.Limit)) || known(float64(p.CPU)) {
		t.Errorf("got %+v, %v, want the numbers unknown", p, err)
	}
	if b := inJSON(t, ProfileOf(fullRecommendation(t))); len(b) > 8<<10 {
		t.Errorf("a profile has %d bytes, want 8 KiB at most", len(b))
	}
}
