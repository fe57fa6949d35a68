package bulkclean

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/etcdkeeper/etcdkeeper/keyspace"
)

// now is the time at which tests plan.
var now = time.Date(2026, time.June, 10, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) metav1.Time { return metav1.NewTime(now.Add(-d)) }

// memory is a keyspace in memory: a Scanner.
type memory struct {
	keys     map[string]keyspace.Entry
	revision int64
}

func newMemory() *memory { return &memory{keys: map[string]keyspace.Entry{}, revision: 100} }

func (m *memory) put(key string, value []byte) keyspace.Entry {
	m.revision++
	e := keyspace.Entry{Key: []byte(key), Value: value, CreateRevision: m.revision, ModRevision: m.revision, Version: 1}
	m.keys[key] = e
	return e
}

func (m *memory) Revision() int64 { return m.revision }

func (m *memory) Scan(_ context.Context, r keyspace.Range) iter.Seq2[keyspace.Entry, error] {
	return func(yield func(keyspace.Entry, error) bool) {
		var keys []string
		for k := range m.keys {
			if k >= string(r.Start) && (r.End == nil || k < string(r.End)) {
				keys = append(keys, k)
			}
		}
		slices.Sort(keys)
		var key, value []byte // reused, as a live scanner does
		for _, k := range keys {
			e := m.keys[k]
			key, value = append(key[:0], e.Key...), append(value[:0], e.Value...)
			e.Key, e.Value = key, value
			if !yield(e, nil) {
				return
			}
		}
	}
}

// stored is obj in storage encoding.
func stored(t testing.TB, obj interface{ Marshal() ([]byte, error) }, apiVersion, kind string) []byte {
	t.Helper()
	raw, err := obj.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	u := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: apiVersion, Kind: kind}, Raw: raw}
	b, err := u.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte("k8s\x00"), b...)
}

// finishedJob is a Job that ended two days ago, with whatever change makes of it.
func finishedJob(name string, change ...func(*batchv1.Job)) *batchv1.Job {
	zero := int32(0)
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name), CreationTimestamp: ago(49 * time.Hour)}}
	j.ManagedFields = []metav1.ManagedFieldsEntry{
		{Manager: "kube-controller-manager", Operation: "Update", Time: ptr(ago(48 * time.Hour)), Subresource: "status"},
		{Manager: "submitter", Operation: "Update", Time: ptr(ago(49 * time.Hour))},
	}
	j.Spec.Suspend = ptr(false)
	j.Status = batchv1.JobStatus{Succeeded: 1, Ready: &zero, Terminating: &zero, UncountedTerminatedPods: &batchv1.UncountedTerminatedPods{},
		Conditions: []batchv1.JobCondition{
			{Type: batchv1.JobSuccessCriteriaMet, Status: corev1.ConditionTrue, LastTransitionTime: ago(50 * time.Hour)},
			{Type: batchv1.JobComplete, Status: corev1.ConditionTrue, LastTransitionTime: ago(48 * time.Hour)},
		}}
	for _, f := range change {
		f(j)
	}
	return j
}

func ptr[T any](v T) *T { return &v }

func jobKey(ns, name string) string { return "/registry/jobs/" + ns + "/" + name }

// putJob stores a Job.
func (m *memory) putJob(t testing.TB, j *batchv1.Job) keyspace.Entry {
	return m.put(jobKey(j.Namespace, j.Name), stored(t, j, "batch/v1", "Job"))
}

func (m *memory) putCronJob(t testing.TB, ns, name, uid string) {
	c := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, UID: types.UID(uid)}}
	m.put("/registry/cronjobs/"+ns+"/"+name, stored(t, c, "batch/v1", "CronJob"))
}

// putKubeSystem stores the namespace that names the cluster.
func (m *memory) putKubeSystem(t testing.TB) {
	n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system", UID: "cluster-uid"}}
	m.put("/registry/namespaces/kube-system", stored(t, n, "v1", "Namespace"))
}

// planOf makes a plan of m.
func planOf(t testing.TB, m keyspace.Scanner, sel Selector, o PlanOptions) (*Plan, *Summary, error) {
	t.Helper()
	o.File = t.TempDir() + "/plan.jsonl"
	return NewPlan(context.Background(), m, sel, now, o)
}

// names are the names of the plan's objects.
func names(t testing.TB, p *Plan) []string {
	t.Helper()
	out := []string{}
	for o, err := range p.Objects() {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, o.Name)
	}
	return out
}

// classes are the kept classes of the plan with their counts.
func classes(p *Plan) map[Class]int64 {
	out := map[Class]int64{}
	for _, k := range p.Kept {
		out[k.Class] = k.Count
	}
	return out
}

func ownedByCron(name, uid string) func(*batchv1.Job) {
	return func(j *batchv1.Job) {
		j.OwnerReferences = append(j.OwnerReferences, metav1.OwnerReference{APIVersion: "batch/v1", Kind: "CronJob", Name: name, UID: types.UID(uid), Controller: ptr(true)})
	}
}

func asJSON(t testing.TB, v any, apiVersion, kind string) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Replace(b, []byte("{"), fmt.Appendf(nil, `{"apiVersion":%q,"kind":%q,`, apiVersion, kind), 1)
}

func contains(t testing.TB, what, got string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(got, w) {
			t.Errorf("%s: got %q, want it to contain %q", what, got, w)
		}
	}
}

// jobT is a Job.
type jobT = batchv1.Job

func asMap(t testing.TB, text string) (v map[string]any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return v
}
