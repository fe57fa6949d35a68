package seed

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
)

func decoder(t *testing.T) runtime.Decoder {
	t.Helper()
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, batchv1.AddToScheme, appsv1.AddToScheme, coordinationv1.AddToScheme,
	} {
		if err := add(s); err != nil {
			t.Fatal(err)
		}
	}
	return protobuf.NewSerializer(s, s)
}

// Every value is what a scheme of the API decodes, and names the object of its key.
func TestGenerate_DecodesAsStored(t *testing.T) {
	d := decoder(t)
	o := Demo(time.Time{})
	o.Bookkeeping = false
	keys := map[string]bool{}
	owners := map[string]bool{}
	for obj, err := range Generate(o) {
		if err != nil {
			t.Fatal(err)
		}
		if keys[obj.Key] {
			t.Fatalf("key %q comes twice", obj.Key)
		}
		keys[obj.Key] = true
		var m metav1.Object
		if strings.Contains(obj.Group, ".") && obj.Group != "coordination.k8s.io" {
			var part metav1.PartialObjectMetadata
			if err := json.Unmarshal(obj.Value, &part); err != nil {
				t.Fatalf("%s: %v", obj.Key, err)
			}
			if part.Kind == "" || part.APIVersion == "" {
				t.Errorf("%s: no kind or version in its JSON", obj.Key)
			}
			m = &part
		} else {
			got, gvk, err := d.Decode(obj.Value, nil, nil)
			if err != nil {
				t.Fatalf("%s: %v", obj.Key, err)
			}
			if gvk.Group != obj.Group {
				t.Errorf("%s: got group %q, want %q", obj.Key, gvk.Group, obj.Group)
			}
			m = got.(metav1.Object)
		}
		if m.GetName() != obj.Name || m.GetNamespace() != obj.Namespace || m.GetUID() != obj.UID {
			t.Errorf("%s: got %s/%s %s, want %s/%s %s", obj.Key, m.GetNamespace(), m.GetName(), m.GetUID(), obj.Namespace, obj.Name, obj.UID)
		}
		if !strings.HasSuffix(obj.Key, "/"+obj.Name) || m.GetCreationTimestamp().After(DefaultNow) {
			t.Errorf("%s: created %s", obj.Key, m.GetCreationTimestamp())
		}
		owners[string(obj.UID)] = true
		for _, ref := range m.GetOwnerReferences() {
			if ref.Kind != "CronJob" && ref.Kind != "Flow" && !owners[string(ref.UID)] {
				t.Errorf("%s: its %s %s comes after it or not at all", obj.Key, ref.Kind, ref.Name)
			}
		}
	}
	if len(keys) < 8000 {
		t.Errorf("got %d keys, want thousands", len(keys))
	}
	for _, want := range []string{"/registry/minions/node-0000", "/registry/services/specs/team-a/app-0", "/registry/leases/kube-node-lease/node-0000"} {
		if !keys[want] {
			t.Errorf("no key %q", want)
		}
	}
}

// The same options give the same keyspace, another seed another one, also when one generator is used twice.
func TestGenerator_Deterministic(t *testing.T) {
	sum := func(g *Generator) (n int, text string) {
		var b strings.Builder
		for obj, err := range g.All() {
			if err != nil {
				t.Fatal(err)
			}
			n++
			b.WriteString(obj.Key)
			b.Write(obj.Value)
		}
		return n, b.String()
	}
	o := Stuck(time.Time{}, 200)
	g := New(o)
	n, first := sum(g)
	if n < 250 {
		t.Fatalf("got %d objects, want more", n)
	}
	if _, again := sum(g); again != first {
		t.Error("the second pass of one generator differs from the first")
	}
	if _, other := sum(New(o)); other != first {
		t.Error("two generators of the same options differ")
	}
	o.Seed = 2
	if _, other := sum(New(o)); other == first {
		t.Error("another seed gives the same keyspace")
	}
}

func TestGenerator_Jobs(t *testing.T) {
	d := decoder(t)
	states := map[string]int{}
	crons := map[string]string{}
	for obj, err := range Generate(Stuck(time.Time{}, 100)) {
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := d.Decode(obj.Value, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		switch o := got.(type) {
		case *batchv1.CronJob:
			crons[o.Name] = string(o.UID)
		case *batchv1.Job:
			if len(o.Labels) != 0 {
				t.Errorf("job %s has labels %v, want none", o.Name, o.Labels)
			}
			if len(o.ManagedFields) != 2 {
				t.Errorf("job %s: got %d managedFields entries, want 2", o.Name, len(o.ManagedFields))
			}
			for _, c := range o.Status.Conditions {
				states[string(c.Type)]++
			}
			if o.DeletionTimestamp != nil {
				states["deleting"]++
			}
			for _, r := range o.OwnerReferences {
				switch uid, ok := crons[r.Name]; {
				case !ok:
					states["owner gone"]++
				case uid == string(r.UID):
					states["owner lives"]++
				default:
					states["owner re-created"]++
				}
			}
		}
	}
	for what, want := range map[string]int{
		"Complete": 100 + 3 + 20 + 10 + 3 + 4 + 2 + 3 + 2 + 6, "Failed": 40, "Suspended": 5, "deleting": 2,
		"owner lives": 3, "owner re-created": 20, "owner gone": 70 + 40 + 6,
	} {
		if states[what] != want {
			t.Errorf("%s: got %d, want %d", what, states[what], want)
		}
	}
}

func BenchmarkGenerate(b *testing.B) {
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		for _, err := range Generate(Large(time.Time{}, 10_000)) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "objects/s")
}
