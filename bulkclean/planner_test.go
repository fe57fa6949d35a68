package bulkclean

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func condition1(kind batchv1.JobConditionType, status corev1.ConditionStatus, age time.Duration) func(*batchv1.Job) {
	return func(j *batchv1.Job) {
		j.Status.Conditions = []batchv1.JobCondition{{Type: kind, Status: status, LastTransitionTime: ago(age)}}
	}
}

func TestNewPlan_JobRules(t *testing.T) {
	deleting := ago(time.Minute)
	for _, tc := range []struct {
		name   string
		change func(*batchv1.Job)
		sel    func(*Selector)
		want   Class // empty: selected
	}{
		{name: "complete"},
		{name: "failed", change: condition1(batchv1.JobFailed, "True", 48*time.Hour)},
		{name: "complete is false", change: condition1(batchv1.JobComplete, "False", 48*time.Hour), want: KeptRunning},
		{name: "success criteria met is on the way", change: condition1(batchv1.JobSuccessCriteriaMet, "True", 48*time.Hour), want: KeptRunning},
		{name: "failure target is on the way", change: condition1(batchv1.JobFailureTarget, "True", 48*time.Hour), want: KeptRunning},
		{name: "no condition", change: func(j *batchv1.Job) { j.Status.Conditions = nil }, want: KeptRunning},
		{name: "suspended", change: func(j *batchv1.Job) {
			j.Spec.Suspend = ptr(true)
			condition1(batchv1.JobSuspended, "True", 48*time.Hour)(j)
		}, want: KeptSuspended},
		{name: "finished, then suspended", change: func(j *batchv1.Job) { j.Spec.Suspend = ptr(true) }},
		{name: "failed and only complete asked for", change: condition1(batchv1.JobFailed, "True", 48*time.Hour),
			sel: func(s *Selector) { s.States = []State{Complete} }, want: KeptState},
		{name: "a second too young", change: condition1(batchv1.JobComplete, "True", 24*time.Hour-time.Second), want: KeptYoung},
		{name: "old enough to the second", change: condition1(batchv1.JobComplete, "True", 24*time.Hour)},
		{name: "created long ago, finished lately", change: func(j *batchv1.Job) {
			j.CreationTimestamp = ago(1000 * time.Hour)
			condition1(batchv1.JobComplete, "True", time.Hour)(j)
		}, want: KeptYoung},
		{name: "finished in the future", change: condition1(batchv1.JobComplete, "True", -time.Hour), sel: func(s *Selector) { s.OlderThan = 0 }, want: KeptYoung},
		{name: "no transition time", change: func(j *batchv1.Job) {
			j.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: "True"}}
		}, want: KeptAge},
		{name: "active", change: func(j *batchv1.Job) { j.Status.Active = 1 }, want: KeptUnsettled},
		{name: "terminating", change: func(j *batchv1.Job) { j.Status.Terminating = ptr(int32(2)) }, want: KeptUnsettled},
		{name: "uncounted succeeded", change: func(j *batchv1.Job) { j.Status.UncountedTerminatedPods.Succeeded = []types.UID{"a"} }, want: KeptUnsettled},
		{name: "uncounted failed", change: func(j *batchv1.Job) { j.Status.UncountedTerminatedPods.Failed = []types.UID{"a"} }, want: KeptUnsettled},
		{name: "no uncounted field", change: func(j *batchv1.Job) { j.Status.UncountedTerminatedPods, j.Status.Terminating = nil, nil }},
		{name: "deleting", change: func(j *batchv1.Job) { j.DeletionTimestamp = &deleting }, want: KeptDeleting},
		{name: "managed by another", change: func(j *batchv1.Job) { j.Spec.ManagedBy = ptr("kueue.x-k8s.io/multikueue") }, want: KeptManagedBy},
		{name: "opted out", change: func(j *batchv1.Job) { j.Annotations = map[string]string{KeepAnnotation: "true"} }, want: KeptOptOut},
		{name: "opted out without a value", change: func(j *batchv1.Job) { j.Annotations = map[string]string{KeepAnnotation: ""} }, want: KeptOptOut},
		{name: "opted in again", change: func(j *batchv1.Job) { j.Annotations = map[string]string{KeepAnnotation: "false"} }},
		{name: "finalizer", change: func(j *batchv1.Job) { j.Finalizers = []string{"example.com/hold"} }, want: KeptFinalizers},
		{name: "finalizer asked for", change: func(j *batchv1.Job) { j.Finalizers = []string{"example.com/hold"} }, sel: func(s *Selector) { s.Finalizers = true }},
		{name: "ttl not over", change: func(j *batchv1.Job) { j.Spec.TTLSecondsAfterFinished = ptr(int32(49 * 3600)) }, want: KeptTTL},
		{name: "ttl overdue", change: func(j *batchv1.Job) { j.Spec.TTLSecondsAfterFinished = ptr(int32(47 * 3600)) }},
		{name: "ttl 0 overdue", change: func(j *batchv1.Job) { j.Spec.TTLSecondsAfterFinished = ptr(int32(0)) }},
		{name: "live owner", change: ownedByCron("live", "cron-live"), want: KeptLiveOwner},
		{name: "owner gone", change: ownedByCron("gone", "cron-gone")},
		{name: "owner gone, not asked for", change: ownedByCron("gone", "cron-gone"), sel: func(s *Selector) { s.Owners = []OwnerState{OwnerNone} }, want: KeptOwner},
		{name: "owner none, not asked for", sel: func(s *Selector) { s.Owners = []OwnerState{OwnerGone} }, want: KeptOwner},
		{name: "contested", change: ownedByCron("live", "cron-before"), want: KeptContested},
		{name: "uid differs, not by name", change: func(j *batchv1.Job) {
			j.OwnerReferences = []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job", Name: "parent", UID: "parent-before", Controller: ptr(true)}}
		}},
		{name: "unknown kind", change: func(j *batchv1.Job) {
			j.OwnerReferences = []metav1.OwnerReference{{APIVersion: "flows.example.com/v1", Kind: "Flow", Name: "a", UID: "b", Controller: ptr(true)}}
		}, want: KeptUnknown},
		{name: "known name of another group", change: func(j *batchv1.Job) {
			j.OwnerReferences = []metav1.OwnerReference{{APIVersion: "example.com/v1", Kind: "CronJob", Name: "gone", UID: "b", Controller: ptr(true)}}
		}, want: KeptUnknown},
		{name: "two owners, one lives", change: func(j *batchv1.Job) { ownedByCron("gone", "cron-gone")(j); ownedByCron("live", "cron-live")(j) }, want: KeptLiveOwner},
		{name: "two owners, one unknown", change: func(j *batchv1.Job) {
			ownedByCron("gone", "cron-gone")(j)
			j.OwnerReferences = append(j.OwnerReferences, metav1.OwnerReference{APIVersion: "x.example.com/v1", Kind: "X", Name: "a", UID: "b"})
		}, want: KeptUnknown},
		{name: "stem asked for", sel: func(s *Selector) { s.NameStem = "import" }},
		{name: "another stem", sel: func(s *Selector) { s.NameStem = "impor" }, want: KeptName},
		{name: "regex", sel: func(s *Selector) { s.NameRegex = "^import-[0-9]+$" }},
		{name: "another regex", sel: func(s *Selector) { s.NameRegex = "^export-" }, want: KeptName},
	} {
		for _, encoding := range []string{"protobuf", "json"} {
			t.Run(tc.name+"/"+encoding, func(t *testing.T) {
				m := newMemory()
				m.putKubeSystem(t)
				m.putCronJob(t, "ns", "live", "cron-live")
				m.putJob(t, finishedJob("parent", func(j *batchv1.Job) { j.Namespace = "ns"; j.Status.Conditions = nil }))
				j := finishedJob("import-28391040")
				if tc.change != nil {
					tc.change(j)
				}
				if encoding == "json" {
					m.put(jobKey(j.Namespace, j.Name), asJSON(t, j, "batch/v1", "Job"))
				} else {
					m.putJob(t, j)
				}
				sel := NewSelector("jobs", "ns")
				if tc.sel != nil {
					tc.sel(&sel)
				}
				p, _, err := planOf(t, m, sel, PlanOptions{})
				if err != nil {
					t.Fatal(err)
				}
				got := names(t, p)
				if selected := slices.Contains(got, j.Name); selected != (tc.want == "") {
					t.Fatalf("selected: got %v, want %v; kept %v", selected, tc.want == "", p.Kept)
				}
				if tc.want != "" && classes(p)[tc.want] < 1 {
					t.Errorf("kept: got %v, want class %s", classes(p), tc.want)
				}
			})
		}
	}
}

func TestNewPlan_Namespaces(t *testing.T) {
	m := newMemory()
	m.putKubeSystem(t)
	for _, ns := range []string{"test", "test-1", "testing", "other"} {
		m.putJob(t, finishedJob("a", func(j *batchv1.Job) { j.Namespace = ns }))
	}
	for _, tc := range []struct {
		namespaces []string
		all        bool
		want       int
	}{
		{[]string{"test"}, false, 1}, {[]string{"test", "other"}, false, 2}, {[]string{"test", "test"}, false, 1}, {nil, true, 4}, {[]string{"none"}, false, 0},
	} {
		sel := NewSelector("jobs", tc.namespaces...)
		sel.AllNamespaces = tc.all
		p, _, err := planOf(t, m, sel, PlanOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := len(names(t, p)); got != tc.want {
			t.Errorf("namespaces %v, all %v: got %d objects, want %d", tc.namespaces, tc.all, got, tc.want)
		}
	}
}

// TestNewPlan_KeyAndValueDisagree: what a key names and what its value says must be the same object.
func TestNewPlan_KeyAndValueDisagree(t *testing.T) {
	m := newMemory()
	m.putKubeSystem(t)
	j := finishedJob("a")
	m.put(jobKey("ns", "b"), stored(t, j, "batch/v1", "Job"))
	m.put(jobKey("ns", "c"), stored(t, j, "batch/v1", "CronJob"))
	m.put(jobKey("ns", "d/e"), stored(t, j, "batch/v1", "Job"))
	m.put(jobKey("ns", "f"), []byte("nonsense"))
	m.put(jobKey("ns", "g"), nil)
	m.put(jobKey("ns", "h"), []byte("k8s:enc:aescbc:v1:key1:xxxx"))
	m.put(jobKey("ns", "i"), stored(t, j, "batch/v1", "Job")[:40])
	p, _, err := planOf(t, m, NewSelector("jobs", "ns"), PlanOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := names(t, p); len(got) != 0 {
		t.Errorf("selected %v", got)
	}
	if got := classes(p)[KeptUnreadable]; got != 7 {
		t.Errorf("unreadable: got %d, want 7", got)
	}
}

func TestNewPlan_KeepAndLimit(t *testing.T) {
	m := newMemory()
	m.putKubeSystem(t)
	add := func(ns, name string, age int, change ...func(*batchv1.Job)) {
		j := finishedJob(name, append(change, func(j *batchv1.Job) {
			j.Namespace = ns
			condition1(batchv1.JobComplete, "True", time.Duration(age)*time.Hour)(j)
		})...)
		m.putJob(t, j)
	}
	for i := range 5 {
		add("ns", fmt.Sprintf("a-%05d", i), 100+i)                               // newest: a-00000
		add("ns", fmt.Sprintf("b-%05d", i), 300-i)                               // newest: b-00004
		add("ns", fmt.Sprintf("c-%05d", i), 200+i, ownedByCron("gone", "uid-1")) // newest: c-00000
		add("other", fmt.Sprintf("a-%05d", i), 500+i)
	}
	sel := NewSelector("jobs")
	sel.AllNamespaces = true
	sel.Keep = 2
	p, s, err := planOf(t, m, sel, PlanOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"a-00002", "a-00003", "a-00004", "b-00000", "b-00001", "b-00002", "c-00002", "c-00003", "c-00004", "a-00002", "a-00003", "a-00004"}
	if diff := cmp.Diff(want, names(t, p)); diff != "" {
		t.Errorf("keep 2 (-want +got):\n%s", diff)
	}
	if classes(p)[KeptNewest] != 8 || s.Objects != 12 {
		t.Errorf("got %v kept and %d objects, want 8 newest and 12", classes(p), s.Objects)
	}
	for _, k := range p.Kept {
		if k.Bytes <= 0 {
			t.Errorf("kept %s: got %d bytes", k.Class, k.Bytes)
		}
	}
	sel.Limit = 4
	if p, _, err = planOf(t, m, sel, PlanOptions{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"b-00000", "a-00002", "a-00003", "a-00004"}, names(t, p)); diff != "" {
		t.Errorf("keep 2, limit 4 takes the oldest (-want +got):\n%s", diff)
	}
	if got := classes(p); got[KeptNewest] != 8 || got[KeptLimit] != 8 {
		t.Errorf("got %v, want 8 newest and 8 beyond the limit", got)
	}
}

func TestNewPlan_MaxShare(t *testing.T) {
	m := newMemory()
	m.putKubeSystem(t)
	for i := range 10 {
		m.putJob(t, finishedJob(fmt.Sprintf("a-%d", i), func(j *batchv1.Job) {
			if i >= 6 {
				j.Status.Conditions = nil
			}
		}))
	}
	sel := NewSelector("jobs", "ns")
	sel.MaxShare = 0.5
	if _, _, err := planOf(t, m, sel, PlanOptions{}); !errors.Is(err, ErrShare) {
		t.Errorf("6 of 10 with a share of 0.5: got %v, want ErrShare", err)
	}
	sel.Limit = 5
	if p, _, err := planOf(t, m, sel, PlanOptions{}); err != nil || p.End.Objects != 5 {
		t.Errorf("limited to 5 of 10: got %v, %v", p, err)
	}
}

func TestNewPlan_Summary(t *testing.T) {
	m := newMemory()
	m.putKubeSystem(t)
	for i := range 9 {
		j := finishedJob(fmt.Sprintf("import-%05d", i), func(j *batchv1.Job) {
			j.CreationTimestamp = ago(time.Duration(100-i) * time.Hour)
		})
		m.putJob(t, j)
		for k := range 2 {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprintf("%s-%d", j.Name, k), UID: types.UID(fmt.Sprintf("p%d%d", i, k)),
				OwnerReferences: []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job", Name: j.Name, UID: j.UID}}}}
			m.put("/registry/pods/ns/"+pod.Name, stored(t, pod, "v1", "Pod"))
		}
	}
	m.put("/registry/pods/ns/lonely", stored(t, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "lonely", UID: "x"}}, "v1", "Pod"))
	p, s, err := planOf(t, m, NewSelector("jobs", "ns"), PlanOptions{ClusterID: "cafe"})
	if err != nil {
		t.Fatal(err)
	}
	if s.Dependents == nil || *s.Dependents != 18 || p.End.Pods != 19 {
		t.Errorf("dependents: got %v of %d pods, want 18 of 19", s.Dependents, p.End.Pods)
	}
	if len(s.Stems) != 1 || s.Stems[0].Stem != "import" || s.Stems[0].Objects != 9 {
		t.Errorf("stems: got %+v", s.Stems)
	}
	if len(s.Cause) != 1 || s.Cause[0].Manager != "submitter" || s.Cause[0].PerHour == nil || *s.Cause[0].PerHour != 1 {
		t.Fatalf("cause: got %+v, want the submitter at one an hour", s.Cause)
	}
	contains(t, "remedy", s.Cause[0].Remedy, "ttlSecondsAfterFinished")
	if *s.KubeSystemUID != "cluster-uid" || *s.ClusterID != "cafe" {
		t.Errorf("cluster: got %v and %v", *s.KubeSystemUID, *s.ClusterID)
	}
}

// TestNewPlan_Lines reads the plan as another program would.
func TestNewPlan_Lines(t *testing.T) {
	m := newMemory()
	m.putKubeSystem(t)
	e := m.putJob(t, finishedJob("a", ownedByCron("gone", "u")))
	m.putJob(t, finishedJob("b", func(j *batchv1.Job) { j.Status.Conditions = nil }))
	p, _, err := planOf(t, m, NewSelector("jobs", "ns"), PlanOptions{ClusterID: "cafe"})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(p.File)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var lines []map[string]any
	for sc := bufio.NewScanner(f); sc.Scan(); {
		var v map[string]any
		if err := json.Unmarshal(sc.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		delete(v, "sum")
		lines = append(lines, v)
	}
	if len(lines) != 4 {
		t.Fatalf("got %d lines, want 4: %v", len(lines), lines)
	}
	head := lines[0]
	if head["type"] != "plan" || head["clusterId"] != "cafe" || head["kubeSystemUid"] != "cluster-uid" || head["made"] != "2026-06-10T12:00:00Z" ||
		head["revision"].(float64) != float64(m.revision) {
		t.Errorf("head: got %v", head)
	}
	want := map[string]any{"type": "object", "key": "/registry/jobs/ns/a", "namespace": "ns", "name": "a", "uid": "uid-a", "modRevision": float64(e.ModRevision),
		"bytes": float64(len(e.Key) + len(e.Value)), "finishedAt": "2026-06-08T12:00:00Z", "owner": "gone",
		"ownerRefs": []any{map[string]any{"apiVersion": "batch/v1", "kind": "CronJob", "name": "gone", "uid": "u", "controller": true}},
		"reason":    "complete 2 days ago, its owner CronJob gone is gone"}
	if diff := cmp.Diff(want, lines[1]); diff != "" {
		t.Errorf("object (-want +got):\n%s", diff)
	}
	if lines[2]["type"] != "kept" || lines[2]["class"] != "running" || lines[2]["count"] != 1.0 || !strings.Contains(lines[2]["reason"].(string), "not ended") {
		t.Errorf("kept: got %v", lines[2])
	}
}

// TestOpenPlan_Damaged cuts and edits a plan in every way.
func TestOpenPlan_Damaged(t *testing.T) {
	m := newMemory()
	m.putKubeSystem(t)
	for i := range 5 {
		m.putJob(t, finishedJob(fmt.Sprintf("a-%d", i)))
	}
	p, _, err := planOf(t, m, NewSelector("jobs", "ns"), PlanOptions{})
	if err != nil {
		t.Fatal(err)
	}
	data, _ := os.ReadFile(p.File)
	lines := strings.SplitAfter(strings.TrimSuffix(string(data), "\n"), "\n")
	for _, tc := range []struct {
		name string
		edit func() string
		line int
	}{
		{"cut at a line", func() string { return strings.Join(lines[:3], "") }, 4},
		{"cut in a line", func() string { return strings.Join(lines[:3], "") + lines[3][:20] }, 4},
		{"end is missing", func() string { return strings.Join(lines[:len(lines)-1], "") }, len(lines)},
		{"a line is removed", func() string { return strings.Join(slices.Delete(slices.Clone(lines), 2, 3), "") }, 3},
		{"a line is doubled", func() string { return strings.Join(slices.Insert(slices.Clone(lines), 2, lines[2]), "") }, 4},
		{"lines are swapped", func() string {
			l := slices.Clone(lines)
			l[2], l[3] = l[3], l[2]
			return strings.Join(l, "")
		}, 3},
		{"a name is edited", func() string { return strings.Replace(string(data), `"name":"a-2"`, `"name":"a-9"`, 1) }, 4},
		{"a revision is edited", func() string { return strings.Replace(string(data), `"modRevision":1`, `"modRevision":2`, 1) }, 2},
		{"the head is edited", func() string { return strings.Replace(string(data), "cluster-uid", "another-uid", 1) }, 1},
		{"the head is removed", func() string { return strings.Join(lines[1:], "") }, 1},
		{"a line without a sum", func() string { return lines[0] + `{"type":"object"}` + "\n" + strings.Join(lines[1:], "") }, 2},
		{"a line at the end", func() string { return string(data) + "\n" + lines[1] }, len(lines) + 1},
		{"empty", func() string { return "" }, 1},
		{"not a plan", func() string { return "hello\n" }, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			file := t.TempDir() + "/plan.jsonl"
			if err := os.WriteFile(file, []byte(tc.edit()), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := OpenPlan(file)
			var bad *PlanError
			if !errors.As(err, &bad) {
				t.Fatalf("got %v, want a *PlanError", err)
			}
			if bad.Line != tc.line {
				t.Errorf("got line %d (%v), want %d", bad.Line, err, tc.line)
			}
		})
	}
}

func TestSelector_Validate(t *testing.T) {
	good := NewSelector("jobs", "ns")
	if err := good.Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	for name, change := range map[string]func(*Selector){
		"no kind":             func(s *Selector) { s.Kind = "" },
		"unknown kind":        func(s *Selector) { s.Kind = "deployments" },
		"no namespace":        func(s *Selector) { s.Namespaces = nil },
		"both":                func(s *Selector) { s.AllNamespaces = true },
		"an empty namespace":  func(s *Selector) { s.Namespaces = []string{""} },
		"a path":              func(s *Selector) { s.Namespaces = []string{"a/b"} },
		"no state":            func(s *Selector) { s.States = nil },
		"unknown state":       func(s *Selector) { s.States = []State{"running"} },
		"no owner":            func(s *Selector) { s.Owners = nil },
		"live owner of jobs":  func(s *Selector) { s.Owners = []OwnerState{OwnerLive} },
		"contested":           func(s *Selector) { s.Owners = []OwnerState{OwnerContested} },
		"bad regex":           func(s *Selector) { s.NameRegex = "(" },
		"stem and regex":      func(s *Selector) { s.NameRegex, s.NameStem = "a", "b" },
		"negative age":        func(s *Selector) { s.OlderThan = -1 },
		"negative keep":       func(s *Selector) { s.Keep = -1 },
		"negative limit":      func(s *Selector) { s.Limit = -1 },
		"share 0":             func(s *Selector) { s.MaxShare = 0 },
		"share above 1":       func(s *Selector) { s.MaxShare = 1.1 },
		"prefix with a slash": func(s *Selector) { s.Registry = "/registry/" },
	} {
		s := NewSelector("jobs", "ns")
		change(&s)
		if s.Validate() == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	pods := NewSelector("pods", "ns")
	pods.Owners = []OwnerState{OwnerLive}
	if err := pods.Validate(); err != nil {
		t.Errorf("pods of live owners: %v", err)
	}
}

func TestStem(t *testing.T) {
	for name, want := range map[string]string{
		"nightly-report-28391040": "nightly-report",
		"import-20240102-xk2vz":   "import",
		"import-xk2vz":            "import",
		"import-users":            "import-users",
		"import-users-1":          "import-users",
		"12345":                   "12345",
		"a-1":                     "a",
		"build-7f9c6d-00012":      "build",
		"run-0b2c7c1e-8f3a-4e57-9a10-3c5d7f0a1b2c": "run",
		"data-v2":          "data-v2",
		"backup-daily":     "backup-daily",
		"submit-t2kz00001": "submit",
		"check-sha256":     "check-sha256",

		"app-406-wpmqw.18e6a83b05595a0d": "app", // an event of a pod
		"web.example":                    "web.example",
		"-1":                             "-1",
		"":                               "",
	} {
		if got := Stem(name); got != want {
			t.Errorf("Stem(%q): got %q, want %q", name, got, want)
		}
		if !hasStem(name, want) || !hasStem(name, name) || hasStem(name, want+"x") {
			t.Errorf("hasStem(%q, %q) does not agree with Stem", name, want)
		}
	}
	if !hasStem("import-2024-00001", "import-2024") || hasStem("import-users-00001", "import") || hasStem("imports-1", "import") {
		t.Error("hasStem takes a longer stem of numbers, and no other words")
	}
}

// TestNewPlan_CustomOwners: what became of an owner of any kind is told where its definition is in etcd.
func TestNewPlan_CustomOwners(t *testing.T) {
	const group = "backup.example.com"
	define := func(m *memory, kind, plural, scope string) {
		m.put("/registry/apiextensions.k8s.io/customresourcedefinitions/"+plural+"."+group, fmt.Appendf(nil,
			`{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1","spec":{"group":%q,"scope":%q,"names":{"kind":%q,"plural":%q}}}`,
			group, scope, kind, plural))
	}
	object := func(m *memory, kind, path, uid string) {
		m.put("/registry/"+group+"/"+path, fmt.Appendf(nil, `{"kind":%q,"apiVersion":"backup.example.com/v1","metadata":{"name":"x","uid":%q}}`, kind, uid))
	}
	for name, tc := range map[string]struct {
		kind string
		set  func(m *memory)
		want Class
	}{
		"no definition":         {"Backup", func(*memory) {}, KeptUnknown},
		"gone":                  {"Backup", func(m *memory) { define(m, "Backup", "backups", "Namespaced") }, ""},
		"gone, a plural in ies": {"Policy", func(m *memory) { define(m, "Policy", "policies", "Namespaced") }, ""},
		"lives": {"Backup", func(m *memory) {
			define(m, "Backup", "backups", "Namespaced")
			object(m, "Backup", "backups/ns/x", "u-1")
		}, KeptLiveOwner},
		"lives, not in a namespace": {"Backup", func(m *memory) { define(m, "Backup", "backups", "Cluster"); object(m, "Backup", "backups/x", "u-1") }, KeptLiveOwner},
		"lives in another namespace": {"Backup", func(m *memory) {
			define(m, "Backup", "backups", "Namespaced")
			object(m, "Backup", "backups/other/x", "u-1")
		}, ""},
		"made again": {"Backup", func(m *memory) {
			define(m, "Backup", "backups", "Namespaced")
			object(m, "Backup", "backups/ns/x", "u-2")
		}, KeptContested},
		"the definition is of another": {"Backup", func(m *memory) { define(m, "Backups", "backups", "Namespaced") }, KeptUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemory()
			m.putKubeSystem(t)
			tc.set(m)
			m.putJob(t, finishedJob("a", func(j *batchv1.Job) {
				j.OwnerReferences = []metav1.OwnerReference{{APIVersion: group + "/v1", Kind: tc.kind, Name: "x", UID: "u-1", Controller: ptr(true)}}
			}))
			if got := one(t, m, NewSelector("jobs", "ns"), PlanOptions{}); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}
