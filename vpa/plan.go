package vpa

import (
	"fmt"
	"math"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

// Apply is how far a keeper goes with a recommendation.
type Apply string

// Modes of applying.
const (
	ApplyOff     Apply = "off"     // recommend only
	ApplyPropose Apply = "propose" // write a manifest beside the old one, send an Event
	ApplyResize  Apply = "resize"  // resize the member's own pod in place
)

// Action is what a plan does.
type Action string

// Actions of a plan.
const (
	ActionNone    Action = "none"
	ActionGrow    Action = "grow"
	ActionShrink  Action = "shrink"
	ActionPropose Action = "propose"
	ActionRefuse  Action = "refuse"
)

const (
	// minShrinkVoters: fewer members have none to spare if the smaller one is
	// killed.
	minShrinkVoters = 3
	// minShrinkConfidence is a week of history.
	minShrinkConfidence = 0.5
	// shrinkRoom keeps a smaller limit above what is in use now.
	shrinkRoom = 1.1
	// mirrorAnnotation marks the mirror pod of a static pod, whose resize the API
	// server forbids.
	mirrorAnnotation = "kubernetes.io/config.mirror"
)

// ApplyInput is everything that a decision to apply rests on.
type ApplyInput struct {
	Mode           Apply
	Recommendation Recommendation
	Pod            *corev1.Pod // nil where it is not known
	Container      string
	View           cluster.View
	Self           cluster.ID
	Window         bool    // a maintenance window is open, or none is configured for shrinking
	HasWindows     bool    // windows are configured
	InUse          float64 // memory now, NaN when not known
	Followers      string  // why the followers are not done yet, "" when they are
	BackOffUntil   time.Time
	Now            time.Time
}

// ApplyPlan says what is to be done, and why.
type ApplyPlan struct {
	Action    Action                      `json:"action"`
	Reason    string                      `json:"reason"`
	FromBytes Number                      `json:"fromBytes"`
	ToBytes   Number                      `json:"toBytes"`
	Resources corev1.ResourceRequirements `json:"-"`
}

// PlanApply decides what to do with a recommendation. It does no I/O; the gates
// of package cluster are read afterwards, under the lock.
func PlanApply(in ApplyInput) ApplyPlan {
	p := ApplyPlan{Action: ActionNone, FromBytes: Number(math.NaN()), ToBytes: in.Recommendation.Memory.Limit.Bytes}
	none := func(format string, args ...any) ApplyPlan {
		p.Reason = fmt.Sprintf(format, args...)
		return p
	}
	refuse := func(format string, args ...any) ApplyPlan {
		p.Action = ActionRefuse
		return none(format, args...)
	}
	m := in.Recommendation.Memory
	if in.Mode == ApplyOff || in.Mode == "" {
		return none("vpa.apply is off")
	}
	if !known(float64(m.Limit.Bytes)) || !known(float64(m.Request.Bytes)) {
		return none("nothing is recommended yet")
	}
	if in.Pod == nil {
		p.Action = ActionPropose
		return none("the member's pod is not known, so a manifest is proposed")
	}
	c := findContainer(in.Pod, in.Container)
	if c == nil {
		return refuse("pod %s/%s has no container %q", in.Pod.Namespace, in.Pod.Name, in.Container)
	}
	current := float64(c.Resources.Limits.Memory().Value())
	p.FromBytes = Number(current)
	switch {
	case current > 0 && current >= float64(m.Lower) && current <= float64(m.Upper):
		return none("the limit of %s is between %s and %s", size(current), size(float64(m.Lower)), size(float64(m.Upper)))
	case current > 0 && current < float64(m.Lower):
		p.Action = ActionGrow
		p.Reason = fmt.Sprintf("the limit of %s is below %s: %s", size(current), size(float64(m.Lower)), m.Limit.Words)
	default:
		p.Action = ActionShrink
		p.Reason = fmt.Sprintf("the limit of %s is above %s: %s", size(current), size(float64(m.Upper)), m.Limit.Words)
		if current == 0 {
			p.Reason = "there is no limit yet: " + m.Limit.Words
		}
	}
	want, resources, err := desired(in.Pod, c, in.Recommendation)
	if err != nil {
		return refuse("%v", err)
	}
	p.Resources, p.ToBytes = resources, Number(want)
	if in.Mode == ApplyPropose {
		p.Action = ActionPropose
		return p
	}
	if in.Pod.Annotations[mirrorAnnotation] != "" {
		p.Action = ActionPropose
		return none("a static pod cannot be resized through the API server, so a manifest is proposed: %s", p.Reason)
	}
	if in.Now.Before(in.BackOffUntil) {
		return refuse("the last resize did not work; the next try is at %s", in.BackOffUntil.UTC().Format(time.RFC3339))
	}
	if why := restarts(c); why != "" && len(in.View.Voters()) < minShrinkVoters {
		return refuse("%s, and there are fewer than %d voting members", why, minShrinkVoters)
	}
	if p.Action == ActionShrink {
		if why := mayNotShrink(in, want); why != "" {
			return refuse("the limit of %s may shrink to %s, but %s", size(current), size(want), why)
		}
	}
	if in.Followers != "" && leads(in.View, in.Self) {
		return refuse("the leader comes last: %s", in.Followers)
	}
	return p
}

func mayNotShrink(in ApplyInput, want float64) string {
	switch n := len(in.View.Voters()); {
	case n < minShrinkVoters:
		return fmt.Sprintf("there are %d voting members, and it takes %d", n, minShrinkVoters)
	case !in.HasWindows:
		return "no window for it is configured (vpa.windows)"
	case !in.Window:
		return "no maintenance window is open"
	case float64(in.Recommendation.Confidence) < minShrinkConfidence:
		return "the history is too short: " + in.Recommendation.ConfidenceWords
	case known(in.InUse) && want < shrinkRoom*in.InUse:
		return fmt.Sprintf("%s are in use now", size(in.InUse))
	}
	return ""
}

func leads(v cluster.View, self cluster.ID) bool {
	leader, ok := v.Leader()
	return !ok || leader.ID == self
}

func findContainer(pod *corev1.Pod, name string) *corev1.Container {
	for i := range pod.Spec.Containers {
		if pod.Spec.Containers[i].Name == name {
			return &pod.Spec.Containers[i]
		}
	}
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == name {
			return nil // etcd as a sidecar is not resized
		}
	}
	return nil
}

// restarts says why a memory resize restarts the container, "" when it does not.
func restarts(c *corev1.Container) string {
	for _, p := range c.ResizePolicy {
		if p.ResourceName == corev1.ResourceMemory && p.RestartPolicy == corev1.RestartContainer {
			return "the container's resize policy restarts it"
		}
	}
	return ""
}

// desired is the container's resources with the recommendation in them. A resize
// may neither change the pod's QoS class nor take a limit away.
func desired(pod *corev1.Pod, c *corev1.Container, r Recommendation) (float64, corev1.ResourceRequirements, error) {
	out := *c.Resources.DeepCopy()
	if out.Requests == nil {
		out.Requests = corev1.ResourceList{}
	}
	if out.Limits == nil {
		out.Limits = corev1.ResourceList{}
	}
	limit := mebibytes(float64(r.Memory.Limit.Bytes))
	request := mebibytes(min(float64(r.Memory.Request.Bytes), float64(r.Memory.Limit.Bytes)))
	switch pod.Status.QOSClass {
	case corev1.PodQOSBestEffort:
		return 0, out, fmt.Errorf("pod %s/%s is of QoS class BestEffort, which a resize cannot change: give its containers requests", pod.Namespace, pod.Name)
	case corev1.PodQOSGuaranteed:
		out.Requests[corev1.ResourceMemory], out.Limits[corev1.ResourceMemory] = limit, limit
		return float64(limit.Value()), out, nil
	}
	out.Requests[corev1.ResourceMemory], out.Limits[corev1.ResourceMemory] = request, limit
	if cpu := float64(r.CPU.Request); known(cpu) {
		q := *resource.NewMilliQuantity(int64(math.Ceil(cpu*1000)), resource.DecimalSI)
		if most, ok := out.Limits[corev1.ResourceCPU]; ok && q.Cmp(most) > 0 {
			q = most
		}
		out.Requests[corev1.ResourceCPU] = q
	}
	return float64(limit.Value()), out, nil
}

func mebibytes(v float64) resource.Quantity {
	return *resource.NewQuantity(int64(math.Ceil(v/mib))*mib, resource.BinarySI)
}
