package bulkclean

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cbor "k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"

	"github.com/etcdkeeper/etcdkeeper/kube"
)

// one plans a keyspace of one object and tells its class, empty where it is selected.
func one(t *testing.T, m *memory, sel Selector, o PlanOptions) Class {
	t.Helper()
	m.putKubeSystem(t)
	p, _, err := planOf(t, m, sel, o)
	if err != nil {
		t.Fatal(err)
	}
	if len(names(t, p)) == 1 {
		return ""
	}
	if len(p.Kept) != 1 {
		t.Fatalf("got kept %v and objects %v, want one", p.Kept, names(t, p))
	}
	return p.Kept[0].Class
}

func TestNewPlan_Pods(t *testing.T) {
	terminated := func(age time.Duration) []corev1.ContainerStatus {
		return []corev1.ContainerStatus{{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{FinishedAt: ago(age)}}}}
	}
	for name, tc := range map[string]struct {
		change func(*corev1.Pod)
		want   Class
	}{
		"succeeded": {func(p *corev1.Pod) {}, ""},
		"failed":    {func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, ""},
		"running":   {func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning }, KeptRunning},
		"unknown":   {func(p *corev1.Pod) { p.Status.Phase = corev1.PodUnknown }, KeptRunning},
		"a container ended lately": {func(p *corev1.Pod) {
			p.Status.ContainerStatuses = append(terminated(90*time.Hour), terminated(time.Hour)...)
		}, KeptYoung},
		"an init container did": {func(p *corev1.Pod) { p.Status.InitContainerStatuses = terminated(time.Hour) }, KeptYoung},
		"a condition changed lately": {func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: "Ready", Status: "False", LastTransitionTime: ago(time.Hour)}}
		}, KeptYoung},
		"evicted at once": {func(p *corev1.Pod) {
			p.Status = corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted", StartTime: ptr(ago(72 * time.Hour))}
		}, ""},
		"mirror":                 {func(p *corev1.Pod) { p.Annotations = map[string]string{mirrorAnnotation: "x"} }, KeptSpecial},
		"job tracking finalizer": {func(p *corev1.Pod) { p.Finalizers = []string{"batch.kubernetes.io/job-tracking"} }, KeptFinalizers},
	} {
		for _, encoding := range []string{"protobuf", "json"} {
			t.Run(name+"/"+encoding, func(t *testing.T) {
				p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u", CreationTimestamp: ago(100 * time.Hour)}}
				p.Status = corev1.PodStatus{Phase: corev1.PodSucceeded, ContainerStatuses: terminated(48 * time.Hour)}
				tc.change(p)
				m := newMemory()
				value := stored(t, p, "v1", "Pod")
				if encoding == "json" {
					value = asJSON(t, p, "v1", "Pod")
				}
				m.put("/registry/pods/ns/p", value)
				if got := one(t, m, NewSelector("pods", "ns"), PlanOptions{}); got != tc.want {
					t.Errorf("got %q, want %q", got, tc.want)
				}
			})
		}
	}
}

// leases is a LeaseReader.
type leases map[int64]int64

func (l leases) LeaseSeconds(_ context.Context, id int64) (int64, error) { return l[id], nil }

func TestNewPlan_Events(t *testing.T) {
	for name, tc := range map[string]struct {
		seen  time.Duration
		lease int64
		known leases
		want  Class
	}{
		"no lease":                         {seen: 48 * time.Hour},
		"no lease, young":                  {seen: time.Hour, want: KeptYoung},
		"a lease of an hour, fresh":        {seen: time.Hour, lease: 7, known: leases{7: 3600}, want: KeptLeased},
		"a lease of an hour, two days":     {seen: 48 * time.Hour, lease: 7, known: leases{7: 3600}},
		"a lease of a week, two days":      {seen: 48 * time.Hour, lease: 7, known: leases{7: 7 * 86400}, want: KeptLeased},
		"a lease that is gone":             {seen: 48 * time.Hour, lease: 7, known: leases{}},
		"a lease that nothing is known of": {seen: 48 * time.Hour, lease: 7, want: KeptLeased},
	} {
		t.Run(name, func(t *testing.T) {
			e := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "e", UID: "u", CreationTimestamp: ago(1000 * time.Hour)}}
			e.FirstTimestamp, e.LastTimestamp = ago(1000*time.Hour), ago(tc.seen)
			m := newMemory()
			entry := m.put("/registry/events/ns/e", stored(t, e, "v1", "Event"))
			entry.Lease = tc.lease
			m.keys["/registry/events/ns/e"] = entry
			o := PlanOptions{}
			if tc.known != nil {
				o.Leases = tc.known
			}
			if got := one(t, m, NewSelector("events", "ns"), o); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// asked is an ObjectReader that counts.
type asked struct {
	value []byte
	calls int
}

func (a *asked) Object(context.Context, kube.Resource, string, string) ([]byte, error) {
	a.calls++
	if a.value == nil {
		return nil, context.Canceled
	}
	return a.value, nil
}

// TestNewPlan_EventsApart: an etcd of events has no namespaces, so the API server names the cluster. For Jobs it is not
// asked.
func TestNewPlan_EventsApart(t *testing.T) {
	e := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "e", UID: "u", CreationTimestamp: ago(1000 * time.Hour)}}
	n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system", UID: "cluster-uid"}}
	m := newMemory()
	m.put("/registry/events/ns/e", stored(t, e, "v1", "Event"))
	m.putJob(t, finishedJob("a"))
	for name, tc := range map[string]struct {
		kind  string
		api   *asked
		calls int
		want  string
	}{
		"events":                   {"events", &asked{value: stored(t, n, "v1", "Namespace")}, 1, "cluster-uid"},
		"events, nobody to answer": {"events", &asked{}, 1, ""},
		"jobs":                     {"jobs", &asked{value: stored(t, n, "v1", "Namespace")}, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p, _, err := planOf(t, m, NewSelector(tc.kind, "ns"), PlanOptions{ClusterID: "cafe", Objects: tc.api})
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if p.Head.KubeSystemUID != nil {
				got = *p.Head.KubeSystemUID
			}
			if got != tc.want || tc.api.calls != tc.calls {
				t.Errorf("got %q after %d calls, want %q after %d", got, tc.api.calls, tc.want, tc.calls)
			}
		})
	}
}

func TestNewPlan_CustomResources(t *testing.T) {
	stamp := func(age time.Duration) string { return now.Add(-age).Format(time.RFC3339) }
	meta := fmt.Sprintf(`"metadata":{"namespace":"ns","name":"w","uid":"u","creationTimestamp":%q%%s}`, stamp(100*time.Hour))
	workflow := func(extraMeta, spec, phase string, age time.Duration) string {
		return fmt.Sprintf(`{"apiVersion":"argoproj.io/v1alpha1","kind":"Workflow",`+meta+`,"spec":{%s},"status":{"phase":%q,"finishedAt":%q}}`,
			extraMeta, spec, phase, stamp(age))
	}
	spark := func(spec, state string, age time.Duration) string {
		return fmt.Sprintf(`{"apiVersion":"sparkoperator.k8s.io/v1beta2","kind":"SparkApplication",`+meta+`,"spec":{%s},"status":{"applicationState":{"state":%q},"terminationTime":%q}}`,
			"", spec, state, stamp(age))
	}
	const day2 = 48 * time.Hour
	for name, tc := range map[string]struct {
		kind, value string
		want        Class
	}{
		"workflow succeeded":          {"workflows.argoproj.io", workflow("", "", "Succeeded", day2), ""},
		"workflow error":              {"workflows.argoproj.io", workflow("", "", "Error", day2), ""},
		"workflow running":            {"workflows.argoproj.io", workflow("", "", "Running", day2), KeptRunning},
		"workflow suspended":          {"workflows.argoproj.io", workflow("", `"suspend":true`, "Running", day2), KeptSuspended},
		"workflow young":              {"workflows.argoproj.io", workflow("", "", "Failed", time.Hour), KeptYoung},
		"workflow not archived":       {"workflows.argoproj.io", workflow(`,"labels":{"workflows.argoproj.io/workflow-archiving-status":"Pending"}`, "", "Succeeded", day2), KeptUnsettled},
		"workflow archived":           {"workflows.argoproj.io", workflow(`,"labels":{"workflows.argoproj.io/workflow-archiving-status":"Archived"}`, "", "Succeeded", day2), ""},
		"workflow ttl":                {"workflows.argoproj.io", workflow("", `"ttlStrategy":{"secondsAfterCompletion":999999}`, "Succeeded", day2), KeptTTL},
		"workflow ttl of success":     {"workflows.argoproj.io", workflow("", `"ttlStrategy":{"secondsAfterCompletion":999999,"secondsAfterSuccess":5}`, "Succeeded", day2), ""},
		"workflow of a CronWorkflow":  {"workflows.argoproj.io", workflow(`,"ownerReferences":[{"apiVersion":"argoproj.io/v1alpha1","kind":"CronWorkflow","name":"c","uid":"x","controller":true}]`, "", "Succeeded", day2), ""},
		"workflow artifact finalizer": {"workflows.argoproj.io", workflow(`,"finalizers":["workflows.argoproj.io/artifact-gc"]`, "", "Succeeded", day2), KeptFinalizers},
		"spark completed":             {"sparkapplications.sparkoperator.k8s.io", spark("", "COMPLETED", day2), ""},
		"spark failed":                {"sparkapplications.sparkoperator.k8s.io", spark("", "FAILED", day2), ""},
		"spark failing":               {"sparkapplications.sparkoperator.k8s.io", spark("", "FAILING", day2), KeptRunning},
		"spark submission failed":     {"sparkapplications.sparkoperator.k8s.io", spark("", "SUBMISSION_FAILED", day2), KeptRunning},
		"spark always restarts":       {"sparkapplications.sparkoperator.k8s.io", spark(`"restartPolicy":{"type":"Always"}`, "COMPLETED", day2), KeptUnsettled},
		"spark ttl":                   {"sparkapplications.sparkoperator.k8s.io", spark(`"timeToLiveSeconds":999999`, "COMPLETED", day2), KeptTTL},
		"another kind at the key":     {"workflows.argoproj.io", `{"apiVersion":"argoproj.io/v1alpha1","kind":"WorkflowTemplate"}`, KeptUnreadable},
	} {
		for _, encoding := range []string{"json", "cbor"} {
			t.Run(name+"/"+encoding, func(t *testing.T) {
				k, err := KindByName(tc.kind)
				if err != nil {
					t.Fatal(err)
				}
				value := []byte(tc.value)
				if encoding == "cbor" {
					if value, err = cbor.Marshal(asMap(t, tc.value)); err != nil {
						t.Fatal(err)
					}
					value = append(slices.Clone(cborMagic), value...)
				}
				m := newMemory()
				m.put(k.prefix(DefaultRegistry, "ns")+"w", value)
				if got := one(t, m, NewSelector(tc.kind, "ns"), PlanOptions{}); got != tc.want {
					t.Errorf("got %q, want %q", got, tc.want)
				}
			})
		}
	}
}

// byName is an API server that decrypts.
type byName struct {
	values map[string][]byte
	mu     sync.Mutex
	calls  []string
}

func (b *byName) Object(_ context.Context, r kube.Resource, ns, name string) ([]byte, error) {
	key := r.Plural + "/" + ns + "/" + name
	b.mu.Lock()
	b.calls = append(b.calls, key)
	b.mu.Unlock()
	if v, ok := b.values[key]; ok {
		return v, nil
	}
	return nil, apierrors.NewNotFound(jobsGR, name)
}

func TestNewPlan_Encrypted(t *testing.T) {
	m := newMemory()
	m.putKubeSystem(t)
	secret := []byte("k8s:enc:secretbox:v1:key1:????")
	api := &byName{values: map[string][]byte{}}
	add := func(name string, rv int64, change ...func(j *jobT)) {
		j := finishedJob(name, change...)
		j.ResourceVersion = fmt.Sprint(rv)
		api.values["jobs/ns/"+name] = stored(t, j, "batch/v1", "Job")
		m.put(jobKey("ns", name), secret)
	}
	add("a", 900)
	add("b", 901, func(j *jobT) { j.Status.Conditions = nil })
	m.put(jobKey("ns", "c"), secret) // gone meanwhile
	p, _, err := planOf(t, m, NewSelector("jobs", "ns"), PlanOptions{Objects: api})
	if err != nil {
		t.Fatal(err)
	}
	if got := names(t, p); !slices.Equal(got, []string{"a"}) {
		t.Errorf("got %v, want a", got)
	}
	for o := range p.Objects() {
		if o.ModRevision != 900 || o.UID != "uid-a" {
			t.Errorf("got %+v, want the revision that the API server showed", o)
		}
	}
	if got := classes(p); got[KeptRunning] != 1 || got[KeptUnreadable] != 1 {
		t.Errorf("got %v", got)
	}
	// What is not encrypted is not asked for.
	plain := newMemory()
	plain.putKubeSystem(t)
	plain.putJob(t, finishedJob("a"))
	api.calls = nil
	if _, _, err := planOf(t, plain, NewSelector("jobs", "ns"), PlanOptions{Objects: api}); err != nil || len(api.calls) != 0 {
		t.Errorf("got %v and requests %v, want none", err, api.calls)
	}
}
