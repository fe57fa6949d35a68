package vpa

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

func etcdPod(limit string) *corev1.Pod {
	r := corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("100Mi"), corev1.ResourceCPU: resource.MustParse("100m")}}
	if limit != "" {
		r.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(limit)}
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "etcd-0", UID: "u1"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "keeper"}, {Name: "etcd", Resources: r}}},
		Status:     corev1.PodStatus{QOSClass: corev1.PodQOSBurstable},
	}
}

func viewOf(members int, leader cluster.ID) cluster.View {
	var v cluster.View
	for i := range members {
		id := cluster.ID(i + 1)
		v.Members = append(v.Members, cluster.Member{ID: id, Reachable: true, LeaderID: leader, Leader: id == leader, Started: true})
	}
	return v
}

// applyInput is a member that should have 2 GiB, keeper beside a follower.
func applyInput(limit string) ApplyInput {
	nan := Number(math.NaN())
	return ApplyInput{
		Mode: ApplyResize, Container: "etcd", Pod: etcdPod(limit), View: viewOf(3, 1), Self: 2, InUse: gib / 2, Now: day0,
		Recommendation: Recommendation{
			Confidence: 1, CPU: CPURecommendation{Request: 0.25}, GoMemLimit: Amount{Bytes: nan},
			Memory: MemoryAdvice{Request: Amount{Bytes: gib}, Limit: Amount{Bytes: 2 * gib, Words: "limit 2 GiB = 1 GiB + 1 GiB"}, Lower: 1.8 * gib, Upper: 2.5 * gib},
		},
	}
}

func TestPlanApply(t *testing.T) {
	open := func(in *ApplyInput) { in.HasWindows, in.Window = true, true }
	for _, tt := range []struct {
		name, limit string
		set         func(*ApplyInput)
		want        Action
		reason      string
	}{
		{"off", "1Gi", func(in *ApplyInput) { in.Mode = ApplyOff }, ActionNone, "off"},
		{"within the bounds", "2Gi", nil, ActionNone, "between"},
		{"grow at any time", "1Gi", nil, ActionGrow, "below 1.8 GiB"},
		{"grow in a cluster of one", "1Gi", func(in *ApplyInput) { in.View, in.Self = viewOf(1, 1), 1 }, ActionGrow, "below"},
		{"shrink without windows", "4Gi", nil, ActionRefuse, "no window for it is configured"},
		{"shrink outside a window", "4Gi", func(in *ApplyInput) { in.HasWindows = true }, ActionRefuse, "no maintenance window is open"},
		{"shrink in a window", "4Gi", open, ActionShrink, "above 2.5 GiB"},
		{"shrink two members", "4Gi", func(in *ApplyInput) { open(in); in.View = viewOf(2, 1) }, ActionRefuse, "2 voting members"},
		{"shrink with little history", "4Gi", func(in *ApplyInput) { open(in); in.Recommendation.Confidence = 0.2 }, ActionRefuse, "history is too short"},
		{"shrink below what is in use", "4Gi", func(in *ApplyInput) { open(in); in.InUse = 2 * gib }, ActionRefuse, "in use now"},
		{"no limit yet counts as shrinking", "", nil, ActionRefuse, "no window"},
		{"propose", "1Gi", func(in *ApplyInput) { in.Mode = ApplyPropose }, ActionPropose, "below"},
		{"static pod", "1Gi", func(in *ApplyInput) { in.Pod.Annotations = map[string]string{mirrorAnnotation: "x"} }, ActionPropose, "static pod"},
		{"pod not known", "1Gi", func(in *ApplyInput) { in.Pod = nil }, ActionPropose, "not known"},
		{"other container", "1Gi", func(in *ApplyInput) { in.Container = "x" }, ActionRefuse, `no container "x"`},
		{"backed off", "1Gi", func(in *ApplyInput) { in.BackOffUntil = day0.Add(time.Hour) }, ActionRefuse, "next try"},
		{"best effort", "1Gi", func(in *ApplyInput) { in.Pod.Status.QOSClass = corev1.PodQOSBestEffort }, ActionRefuse, "BestEffort"},
		{"leader before followers", "1Gi", func(in *ApplyInput) { in.Self, in.Followers = 1, "member m2 is still to be resized" }, ActionRefuse, "the leader comes last"},
		{"leader after followers", "1Gi", func(in *ApplyInput) { in.Self = 1 }, ActionGrow, "below"},
		{"a resize that restarts one of two", "1Gi", func(in *ApplyInput) {
			in.View = viewOf(2, 1)
			in.Pod.Spec.Containers[1].ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: corev1.ResourceMemory, RestartPolicy: corev1.RestartContainer}}
		}, ActionRefuse, "restarts it"},
		{"nothing recommended", "1Gi", func(in *ApplyInput) { in.Recommendation.Memory.Limit.Bytes = Number(math.NaN()) }, ActionNone, "nothing is recommended"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := applyInput(tt.limit)
			if tt.set != nil {
				tt.set(&in)
			}
			got := PlanApply(in)
			if got.Action != tt.want || !strings.Contains(got.Reason, tt.reason) {
				t.Errorf("got %s (%s), want %s (%s)", got.Action, got.Reason, tt.want, tt.reason)
			}
		})
	}
}

func TestPlanApply_Resources(t *testing.T) {
	in := applyInput("1Gi")
	r := PlanApply(in).Resources
	if r.Limits.Memory().Value() != 2*gib || r.Requests.Memory().Value() != gib || r.Requests.Cpu().MilliValue() != 250 {
		t.Errorf("got %+v, want limit 2 GiB, request 1 GiB and 250m", r)
	}
	if _, ok := r.Limits[corev1.ResourceCPU]; ok {
		t.Errorf("got a CPU limit in %+v", r)
	}
	in.Pod.Spec.Containers[1].Resources.Limits[corev1.ResourceCPU] = resource.MustParse("200m")
	if r := PlanApply(in).Resources; r.Requests.Cpu().MilliValue() != 200 {
		t.Errorf("got CPU request %s, want no more than the limit of 200m", r.Requests.Cpu())
	}
	in.Pod.Status.QOSClass = corev1.PodQOSGuaranteed
	if r := PlanApply(in).Resources; r.Requests.Memory().Cmp(*r.Limits.Memory()) != 0 || r.Requests.Cpu().MilliValue() != 100 {
		t.Errorf("guaranteed: got %+v, want request = limit and the CPU as it was", r)
	}
	if in.Pod.Spec.Containers[1].Resources.Limits.Memory().Value() != gib {
		t.Error("the pod that was given has changed")
	}
}

func TestResized(t *testing.T) {
	want := corev1.ResourceRequirements{
		Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("2Gi")}, Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")},
	}
	status := func(r *corev1.ResourceRequirements, conditions ...corev1.PodCondition) *corev1.Pod {
		p := etcdPod("2Gi")
		p.Status.Conditions = conditions
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "etcd", Resources: r}}
		return p
	}
	condition := func(typ corev1.PodConditionType, reason string) corev1.PodCondition {
		return corev1.PodCondition{Type: typ, Status: corev1.ConditionTrue, Reason: reason, Message: "m"}
	}
	old := corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")}}
	for _, tt := range []struct {
		name string
		pod  *corev1.Pod
		done bool
		why  string
		err  error
	}{
		{"done", status(&want), true, "", nil},
		{"no resources in the status", status(nil), false, "no resources", nil},
		{"a stale limit", status(&old), false, "still has a memory limit of 1Gi", nil},
		{"in progress", status(&want, condition(corev1.PodResizeInProgress, "")), false, "in progress", nil},
		{"an error", status(nil, condition(corev1.PodResizeInProgress, corev1.PodReasonError)), false, "with an error", nil},
		{"deferred", status(&want, condition(corev1.PodResizePending, corev1.PodReasonDeferred)), false, "deferred", nil},
		{"infeasible", status(&old, condition(corev1.PodResizePending, corev1.PodReasonInfeasible)), false, "", errInfeasible},
	} {
		t.Run(tt.name, func(t *testing.T) {
			done, why, err := resized(tt.pod, "etcd", want)
			if done != tt.done || !strings.Contains(why, tt.why) || !errors.Is(err, tt.err) {
				t.Errorf("got %v, %q, %v, want %v, %q, %v", done, why, err, tt.done, tt.why, tt.err)
			}
		})
	}
}

func TestFollowersPending(t *testing.T) {
	v := viewOf(3, 1)
	fresh := func(id string, pending bool, age time.Duration) Profile {
		return Profile{Member: id, At: day0.Add(-age), Applies: true, Pending: pending}
	}
	for _, tt := range []struct {
		name     string
		profiles []Profile
		want     string
	}{
		{"nobody else", nil, ""},
		{"both done", []Profile{fresh("2", false, 0), fresh("3", false, 0)}, ""},
		{"one pending", []Profile{fresh("2", false, 0), fresh("3", true, 0)}, "member 3 is still to be resized"},
		{"one silent since", []Profile{fresh("2", false, 15*time.Minute)}, "has not said yet"},
		{"a dead keeper", []Profile{fresh("2", true, time.Hour)}, ""},
		{"a removed member", []Profile{fresh("9", true, 0)}, ""},
		{"a keeper that does not apply", []Profile{{Member: "2", At: day0, Pending: true}}, ""},
		{"the own", []Profile{fresh("1", true, 0)}, ""},
	} {
		got := followersPending(tt.profiles, v, 1, day0.Add(-time.Minute), day0)
		if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}
